"""Whatever a stranger's package does, it is listed with its reason and harms no other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pluggy
import pytest
from fake_distribution import good, install

from nqbench.api import BadInput, Coder, NotRegistered
from nqbench.registry import Broken, Registered, Registry, discover

Discover = Callable[[dict[str, dict[str, str]]], Registry]


@pytest.fixture
def found_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Discover]:
    """Discovery with these distributions: name -> module -> source."""
    before = set(sys.modules)

    def run(distributions: dict[str, dict[str, str]]) -> Registry:
        for name, modules in distributions.items():
            install(tmp_path, name, modules)
        monkeypatch.syspath_prepend(tmp_path)
        return discover()

    yield run
    for module in set(sys.modules) - before:
        if Path(getattr(sys.modules[module], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[module]


def reasons(registry: Registry, distribution: str = "acme") -> list[str]:
    return [broken.reason for broken in registry.broken if broken.distribution == distribution]


def test_a_package_is_found_with_its_distribution_version_and_summary(found_with: Discover) -> None:
    registry = found_with({"acme": {"acme_good": good("rans4", about="An entropy coder.\\n\\n    And more of it.")}})
    entry = registry.registered("coder", "rans4")
    assert (entry.distribution, entry.version, entry.summary) == ("acme", "1.2", "An entropy coder.")
    assert registry.distribution_of(entry.cls) == ("acme", "1.2")
    assert reasons(registry) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module_anywhere", "cannot be imported: ModuleNotFoundError: No module named"),
        ("raise RuntimeError('two\\nlines')", "cannot be imported: RuntimeError: two lines"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("def broken(:", "cannot be imported: SyntaxError"),
        ("nqbench_api_version = 99", "was written for plugin API 99; this nqbench speaks 1"),
        ("def nqbench_plugins(): raise ValueError('no licence')", "cannot be registered: ValueError: no licence"),
        ("def nqbench_plugins(): return None", "cannot be registered: TypeError"),
        ("def nqbench_plugins(): raise SystemExit", "cannot be registered: SystemExit"),
        ("def nqbench_plugins(): return [dict]", "is not a subclass of nqbench.api.Plugin"),
        ("def nqbench_plugins(): return ['kmeans']", "is not a subclass of nqbench.api.Plugin"),
        (
            "from nqbench.api import *\nclass C(Coder): pass\ndef nqbench_plugins(): return [C]",
            'has no name: write class MyPlugin(Quantizer, name="mine")',
        ),
        (
            "from nqbench.api import *\nclass C(Coder, name='a,b'): pass\ndef nqbench_plugins(): return [C]",
            "has the name 'a,b': letters, digits, '.', '_' and '-' are allowed",
        ),
        (
            "from nqbench.api import *\nclass C(Plugin, name='x'): pass\ndef nqbench_plugins(): return [C]",
            "has the unknown kind ''",
        ),
        (
            "from nqbench.api import hookimpl\n@hookimpl\ndef nqbench_trial_ended(record, colour): pass",
            "cannot be registered: PluginValidationError",
        ),
    ],
)
def test_a_broken_package_is_listed_with_its_reason_and_harms_no_other(
    found_with: Discover, source: str, reason: str
) -> None:
    registry = found_with({"acme": {"acme_bad": source}, "zeta": {"zeta_good": good("rans4")}})
    (told,) = reasons(registry)
    assert told.startswith(reason)
    assert "\n" not in told
    assert registry.registered("coder", "rans4").distribution == "zeta"
    assert reasons(registry, "zeta") == []


def test_one_broken_class_leaves_the_others_of_its_package(found_with: Discover) -> None:
    source = good("rans4").replace("[Good]", "[Good, int]")
    registry = found_with({"acme": {"acme_mixed": source}})
    assert registry.names("coder").count("rans4") == 1
    assert [b.what for b in registry.broken if b.distribution == "acme"] == ["acme_mixed:int"]


def test_a_name_registered_twice_belongs_to_the_first_distribution_by_name(found_with: Discover) -> None:
    registry = found_with({"zeta": {"zeta_coder": good("rans4")}, "acme": {"acme_coder": good("rans4")}})
    assert registry.registered("coder", "rans4").distribution == "acme"
    assert reasons(registry, "zeta") == ["registers the coder 'rans4' again; acme 1.2 has it already"]


def test_no_stranger_takes_a_name_of_nqbenchs_own(found_with: Discover) -> None:
    registry = found_with({"nqbench": {"own_coder": good("rans4")}, "acme": {"acme_coder": good("rans4")}})
    assert registry.registered("coder", "rans4").distribution == "nqbench"
    assert reasons(registry) == ["registers the coder 'rans4' again; nqbench 1.2 has it already"]


def test_no_hook_of_a_package_that_cannot_be_registered_is_called(found_with: Discover) -> None:
    source = """
        from nqbench.api import hookimpl
        @hookimpl
        def nqbench_plugins():
            raise ValueError
        @hookimpl
        def nqbench_run_started(suite, output, trials):
            raise AssertionError("called")
    """
    registry = found_with({"acme": {"acme_bad": source}})
    registry.manager.hook.nqbench_run_started(suite="s", output="o", trials=1)
    assert len(reasons(registry)) == 1


def test_a_package_of_hooks_alone_registers_no_plugin_and_is_not_broken(found_with: Discover) -> None:
    source = """
        from nqbench.api import hookimpl
        seen = []
        @hookimpl
        def nqbench_run_started(suite, trials):
            seen.append((suite, trials))
    """
    registry = found_with({"acme": {"acme_hooks": source}})
    registry.manager.hook.nqbench_run_started(suite="s", output="o", trials=1)
    assert sys.modules["acme_hooks"].seen == [("s", 1)]
    assert reasons(registry) == []


def test_modules_that_do_not_belong_to_the_group_are_not_imported(tmp_path: Path, found_with: Discover) -> None:
    install(tmp_path, "other", {"other_module": "raise RuntimeError"})
    points = next(tmp_path.glob("other-*")) / "entry_points.txt"
    points.write_text(points.read_text().replace("[nqbench]", "[pytest11]"))
    assert reasons(found_with({}), "other") == []


def test_a_package_found_in_two_folders_counts_once(tmp_path: Path, found_with: Discover) -> None:
    second = tmp_path / "second"
    install(second, "acme", {"acme_good": good("rans4")})
    sys.path.append(str(second))
    try:
        registry = found_with({"acme": {"acme_good": good("rans4")}})
    finally:
        sys.path.remove(str(second))
    assert reasons(registry) == []


class Stepped(Coder, name="stepped"):
    """A coder with a parameter."""

    step: float = 0.5
    """Width."""


@pytest.fixture
def small() -> Registry:
    registry = Registry(pluggy.PluginManager("nqbench"))
    registry.found["coder", "stepped"] = Registered(Stepped, "acme", "1.2")
    return registry


def test_an_unknown_name_suggests_the_nearest(small: Registry) -> None:
    with pytest.raises(NotRegistered, match=r"^unknown coder 'steped'; did you mean 'stepped'\?$"):
        small.get("coder", "steped")


def test_an_unknown_name_mentions_packages_that_could_not_be_loaded(small: Registry) -> None:
    small.broken.append(Broken("zeta", "zeta", "1", "cannot be imported"))
    with pytest.raises(NotRegistered, match=r"1 installed package\(s\) could not be loaded in full: see nqbench list$"):
        small.get("coder", "rans4")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"stp": 1}, "coder 'stepped': unknown parameter 'stp'; did you mean 'step'?"),
        ({"step": "wide"}, "coder 'stepped': step: Input should be a valid number"),
        ({"step": float("nan")}, "coder 'stepped': step: Input should be a finite number"),
        ({"step": object()}, "coder 'stepped': parameters are numbers, strings and lists of them"),
        ("{", "coder 'stepped': Invalid JSON"),
    ],
)
def test_wrong_parameters_are_refused_in_a_line(small: Registry, parameters: object, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        small.make("coder", "stepped", parameters)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_required_parameter_that_is_not_given_is_told_with_where_to_read_of_it() -> None:
    with pytest.raises(BadInput, match=r"model 'module': network: is required; nqbench show module tells"):
        discover().make("model", "module", {})
