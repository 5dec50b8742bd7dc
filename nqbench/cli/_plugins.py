"""What the commands about plugins share: finding one from what a user typed."""

from __future__ import annotations

from nqbench.api import BadInput, NotRegistered
from nqbench.registry import KINDS, Registered, Registry, did_you_mean
from nqbench.suite.vocabulary import Vocabulary


def kind_named(text: str) -> str:
    """A kind from its name, or its plural. Raises BadInput with the nearest."""
    # 'quantizers' and 'sensitivities', as one says them; 'positions' is its own plural
    for guess in (text, text.removesuffix("s"), text.removesuffix("ies") + "y"):
        if guess in KINDS:
            return guess
    raise BadInput(f"there is no kind of plugin called '{text}'{did_you_mean(text, list(KINDS))}")


def find(registry: Registry, words: tuple[str, ...], command: str) -> Registered:
    """The plugin that ``NAME`` or ``KIND NAME`` says. command: what the user typed, for the advice in an error.

    Raises NotRegistered, with the nearest name, or BadInput where several kinds have the name.
    """
    if len(words) > 2:
        raise BadInput(f"one plugin at a time: {command} [KIND] NAME")
    kind, name = (kind_named(words[0]), words[1]) if len(words) == 2 else (None, words[0])
    hits = [entry for entry in registry.all(kind) if entry.cls.name == name]
    if not hits:
        hits = [entry for entry in registry.all(kind) if name in entry.cls.formerly]
        for entry in hits[:1]:
            vocabulary = Vocabulary(registry, command)
            vocabulary.name(entry.cls.kind, name)
            vocabulary.tell()
    if kind is not None:
        return hits[0] if hits else registry.registered(kind, name)
    if len(hits) > 1:
        kinds = [entry.cls.kind for entry in hits]
        raise BadInput(
            f"'{name}' is the name of a {', a '.join(kinds[:-1])} and a {kinds[-1]}: "
            f"say which, as in {command} {kinds[0]} {name}"
        )
    if not hits:
        names = sorted({entry.cls.name for entry in registry.all()})
        near = did_you_mean(name, names) if len(names) < 12 or "mean" in did_you_mean(name, names) else ""
        raise NotRegistered(f"there is no plugin called '{name}'{near or '; see nqbench list'}")
    return hits[0]
