"""What the cache between stages saves, and what makes its entries stale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from probe_distribution import Log, install, installed
from trials import choice, trial

from nqbench.api import BadInput
from nqbench.api.errors import Note
from nqbench.api.toolkit.sealed import seal_text
from nqbench.pipeline import syntax
from nqbench.pipeline.cache import Cache, limit_from_environment, parse_size
from nqbench.pipeline.context import Memory
from nqbench.pipeline.decoder import Decoder
from nqbench.pipeline.files import restore
from nqbench.pipeline.keys import KeyMaker
from nqbench.pipeline.workbench import Workbench
from nqbench.registry import registry

Bench = Callable[..., Workbench]


def test_three_coders_over_one_quantization_quantize_and_evaluate_once(bench: Bench, tmp_path: Path, log: Log) -> None:
    one = bench()
    coders = [("plain", {}), ("bytewise", {}), ("plain", {"delay": 0.001})]
    figures = [one.run(trial(coder=coder), tmp_path) for coder in coders]
    counts = log.counts()
    assert (counts["quantize"], counts["encode"]) == (1, 3)
    assert counts["evaluate"] == 2  # the float network and the quantized one
    assert [f["cached"] for f in figures[1:]] == [["evaluate_float", "load", "quantize", "evaluate"]] * 2
    assert figures[1]["seconds"]["quantize"] == 0.0


def test_an_evaluation_says_with_how_many_threads_it_was_made_and_keeps_it_in_the_cache(
    bench: Bench, tmp_path: Path
) -> None:
    """Its last digits are of those threads, whichever process takes it from the cache."""
    before = torch.get_num_threads()
    made = {}
    try:
        for threads, k, coder in ((2, 5, "plain"), (1, 5, "bytewise"), (1, 4, "plain"), (2, 3, "plain")):
            torch.set_num_threads(threads)
            one = trial(quantizer=("levels", {"k": k}), coder=(coder, {}))
            made[threads, k] = bench().run(one, tmp_path)["evaluated_in"]
    finally:
        torch.set_num_threads(before)
    said = {key: {name: n for name, n in found.items() if "threads" in name} for key, found in made.items()}
    both = {"threads": 2}
    # beside the float network's evaluation, which is of two
    assert said == {(2, 5): both, (1, 5): both, (1, 4): {"threads": 1, "float_threads": 2}, (2, 3): both}


def test_a_search_s_evaluation_says_with_how_many_threads_it_was_made(bench: Bench, tmp_path: Path) -> None:
    found = bench().run(trial(selected_on="validation", tested=False), tmp_path)
    assert found["evaluated_in"]["threads"] == torch.get_num_threads()
    assert "metric" not in found


def test_another_worker_finds_what_the_first_one_made(bench: Bench, tmp_path: Path, log: Log) -> None:
    first, second = bench(), bench()
    one = trial(pruner={}, positions="zero", sensitivity="squares", training=({},))
    made = first.run(one, tmp_path)
    log.counts()
    found = second.run(one, tmp_path)
    assert log.counts() == Counter()
    assert found["cached"] == ["evaluate_float", "file", "evaluate"]
    second.run(trial(pruner={}, positions="places", sensitivity="squares", training=({},)), tmp_path)
    assert log.counts().keys() == {"load", "encode"}
    assert found["decoded_sha256"] == made["decoded_sha256"]


def test_a_quantizer_that_reads_the_rate_runs_again_for_another_coder(bench: Bench, tmp_path: Path, log: Log) -> None:
    one = bench()
    for coder in ("plain", "bytewise"):
        one.run(trial(quantizer=("priced", {}), coder=(coder, {})), tmp_path)
    assert log.counts()["quantize"] == 2


def test_a_seed_counts_for_those_alone_who_use_it(bench: Bench, tmp_path: Path) -> None:
    keys = bench().maker.keys
    assert keys(trial(seed=1)) == keys(trial(seed=2))
    first, second = (keys(trial(quantizer=("drawn", {}), seed=seed)).stages for seed in (1, 2))
    assert first["load"] == second["load"]
    assert first["quantize"] != second["quantize"]
    assert first["file"] != second["file"]


def test_each_parameter_changes_the_keys_from_its_stage_on(bench: Bench) -> None:
    keys = bench().maker.keys
    full = {"pruner": {}, "positions": "zero", "sensitivity": "squares"}
    base = keys(trial(**full))
    stages = ["load", "prune", "sense", "quantize", "file", "evaluate"]

    def changed(**fields: object) -> list[str]:
        other = keys(trial(**{**full, **fields}))
        assert other.trial != base.trial
        return [stage for stage in stages if other.stages.get(stage) != base.stages[stage]]

    assert changed(model={"version": 2}) == stages
    assert changed(pruner={"share": 0.25}) == stages[1:]
    assert changed(sensitivity=None) == stages[2:]
    assert changed(quantizer=("levels", {"k": 6})) == stages[3:]
    assert changed(granularity="layer") == stages[3:]
    assert changed(training=({},)) == stages[3:]
    assert changed(coder=("bytewise", {})) == stages[4:]
    assert changed(unquantized="float16") == stages[4:]
    assert changed(loss_increase=True) == []


def test_the_float_networks_outputs_stay_in_the_cache_until_a_file_is_compared_with_them(
    bench: Bench, tmp_path: Path
) -> None:
    """Those of a language model take gigabytes. Where the cache is cleared meanwhile, they are computed again."""
    one, other = trial(), trial(quantizer=("levels", {"k": 6}))
    alone = bench().run(other, tmp_path)
    Cache(tmp_path / "cache").clear()
    first = bench()
    first.run(one, tmp_path)
    judged = first.memory.find("evaluate_float", first.maker.keys(one).stages["evaluate_float"], dict)
    assert judged.made is None
    assert judged.outputs is not None
    assert judged.outputs is not judged.outputs
    Cache(tmp_path / "cache").clear()
    with pytest.raises(OSError, match="No such file"):
        _ = judged.outputs
    assert first.run(other, tmp_path)["metrics"] == alone["metrics"]


def test_what_was_computed_from_a_result_is_forgotten_with_it() -> None:
    memory = Memory()
    for name, key in (("quantize", "k1"), ("values", "k1 "), ("deployed", "k1 float16"), ("spectra", "k0 ")):
        memory.find(name, key, object)
    memory.find("quantize", "k2", object)
    assert [memory.has(name, key) for name, key in (("values", "k1 "), ("deployed", "k1 float16"))] == [False, False]
    assert memory.has("spectra", "k0 ")


@pytest.mark.parametrize("stage", ["quantize", "file", "prune", "sense", "evaluate"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone", "meta"])
def test_a_damaged_entry_is_made_again(bench: Bench, tmp_path: Path, log: Log, stage: str, damage: str) -> None:
    one = trial(pruner={}, positions="zero", sensitivity="squares")
    wanted = bench().run(one, tmp_path)
    cache = Cache(tmp_path / "cache")
    for found, path, _, _ in list(cache.entries()):
        if found in (stage, "trial", "file", "quantize"):
            damaged = path.with_suffix(".data")
            if damage == "meta" or not damaged.exists():
                damaged = path
            data = bytearray(damaged.read_bytes())
            data[len(data) // 2] ^= 0x10
            damaged.write_bytes(data[: len(data) // 2] if damage == "truncated" else data)
            if damage == "gone":
                damaged.unlink()
    log.counts()
    again = bench().run(one, tmp_path)
    assert again["decoded_sha256"] == wanted["decoded_sha256"]
    assert again["metric"] == wanted["metric"]
    assert log.counts()["quantize"] == 1
    bench().run(one, tmp_path)
    assert log.counts() == Counter()


def test_without_a_cache_nothing_is_kept_on_disk_but_the_worker_still_shares(
    bench: Bench, tmp_path: Path, log: Log
) -> None:
    one = bench(cache=None)
    for coder in ("plain", "bytewise"):
        one.run(trial(coder=(coder, {})), tmp_path / "files")
    assert log.counts()["quantize"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_a_whole_trial_is_restored_into_another_folder_only_while_all_of_it_is_there(
    bench: Bench, tmp_path: Path
) -> None:
    one = bench()
    figures = one.run(trial(), tmp_path / "first")
    keys, cache = one.maker.keys(trial()), Cache(tmp_path / "cache")
    file = keys.stages["file"]
    restored = restore(cache, keys.trial, file, tmp_path / "second")
    assert restored is not None
    same = ("file_bytes", "parts", "metric", "mse", "entropy", "decoded_sha256", "correct")
    assert {name: restored[name] for name in same} == {name: figures[name] for name in same}
    (first,), (second,) = (list((tmp_path / name).iterdir()) for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    cache.clear("file")
    assert restore(cache, keys.trial, file, tmp_path / "third") is None


def test_a_full_disk_costs_the_entry_and_not_the_result(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    one = bench()
    monkeypatch.setattr("nqbench.pipeline.cache.checksum", full)
    with pytest.warns(Note, match=r"cannot be written \(No space left on device\).* NQBENCH_CACHE") as said:
        figures = one.run(trial(), tmp_path / "files")
    assert len(said) == 1  # not once for each stage
    assert figures["file_bytes"] == next((tmp_path / "files").iterdir()).stat().st_size
    assert not {"quantize", "file"} & Cache(tmp_path / "cache").info().keys()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".new-")]


def test_a_cache_that_cannot_be_written_keeps_nothing_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = Cache(tmp_path / "file" / "stages")
    with pytest.warns(Note, match="cannot be written"):
        found = cache.once("file", "aa1", load=lambda _: 1, make=lambda _: 2, meta=lambda _: {}, checkpoints=True)
    assert found == (2, False)


def test_no_cache_has_nothing_to_prune_and_nothing_to_clear() -> None:
    assert Cache(None).prune(0) == (0, 0)
    assert Cache(None).clear() == (0, 0)
    assert Cache(None).info() == {}


def test_no_lock_and_no_checkpoint_is_left_behind(bench: Bench, tmp_path: Path) -> None:
    bench().run(trial(pruner={}, positions="zero", sensitivity="squares", training=({},)), tmp_path)
    assert list((tmp_path / "cache" / "locks").iterdir()) == []
    assert list((tmp_path / "cache" / "work").iterdir()) == []


def test_an_entry_that_lies_under_another_key_is_none(tmp_path: Path) -> None:
    """Two whole entries that changed places, one of another stage, one of another form: none is given out."""
    cache = Cache(tmp_path)
    for stage, key in (("file", "aa1"), ("file", "aa2"), ("quantize", "aa1")):
        cache.put(stage, key, {"of": stage, "key": key}, lambda path: path.write_bytes(b"data"))
    places = [tmp_path / "file" / "a" / f"aa{n}.json" for n in (1, 2)]
    texts = [place.read_bytes() for place in places]
    for place, text in zip(places, reversed(texts), strict=True):
        place.write_bytes(text)
    assert [cache.peek("file", key) for key in ("aa1", "aa2")] == [None, None]
    assert [cache.get("file", key) for key in ("aa1", "aa2")] == [None, None]
    found = cache.get("quantize", "aa1")
    assert found is not None
    for told in ([], 7, {"version": 9}, {"result": {}, "data": None}):
        stored = json.dumps(told).encode()
        found.path.with_suffix(".json").write_bytes(b"%08x\n" % zlib.crc32(stored) + stored)
        assert cache.peek("quantize", "aa1") is None
        assert cache.get("quantize", "aa1") is None
        cache.put("quantize", "aa1", {"made": "again"}, lambda path: path.write_bytes(b"data"))


# -- the store itself ------------------------------------------------------------------------------------------------
def entry(cache: Cache, stage: str, key: str, size: int, used: float) -> Path:
    cache.put(stage, key, {"n": size}, lambda path: path.write_bytes(bytes(size)))
    (path,) = (path for _, path, _, _ in cache.entries() if path.stem == key)
    os.utime(path, (used, used))
    return path


def test_pruning_drops_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    old, new = entry(cache, "file", "aa1", 1000, 100.0), entry(cache, "quantize", "bb1", 1000, 300.0)
    middle = entry(cache, "file", "cc1", 1000, 200.0)
    assert cache.get("file", "aa1") is not None  # and so used last
    sizes = {path: size for _, path, size, _ in cache.entries()}
    assert all(size == sum(f.stat().st_size for f in p.parent.glob(f"{p.stem}.*")) for p, size in sizes.items())
    assert cache.prune(sizes[old] + sizes[new]) == (1, sizes[middle])
    assert [path.exists() for path in (old, middle, new)] == [True, False, True]
    assert not middle.with_suffix(".data").exists()
    assert cache.prune(0)[0] == 2
    assert cache.info() == {}


def test_an_entry_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def half(path: Path) -> None:
        path.write_bytes(b"half")
        raise ZeroDivisionError

    with suppress(ZeroDivisionError):
        cache.put("file", "aa1", {}, half)
    assert cache.get("file", "aa1") is None
    assert not list((tmp_path / "file" / "a").iterdir())


def test_an_entry_is_never_changed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for text in (b"first", b"second"):
        cache.put("file", "aa1", {"text": text.decode()}, lambda path, text=text: path.write_bytes(text))
    found = cache.get("file", "aa1")
    assert found is not None
    assert (found.meta, found.path.read_bytes()) == ({"text": "first"}, b"first")


def test_what_a_killed_writer_left_is_cleared_once_it_is_old(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    here, before = tmp_path / "file" / "a", tmp_path / "file" / "aa" / "aa1"  # before: a folder an entry, once
    cache.put("file", "aa1", {}, lambda path: path.write_bytes(b"whole"))
    before.mkdir(parents=True)
    for name in (".new-1-aa2", "aa3.data"):
        for age in ("old", "young"):
            (here / f"{age}{name}" if name[0] != "." else here / f"{name}{age}").write_bytes(b"half")
    for path in (*here.iterdir(), before):
        if "young" not in path.name:
            os.utime(path, (0, 0))
    assert len(list(cache.entries())) == 1
    cache.prune(1 << 30)
    assert {path.name for path in here.iterdir()} == {"aa1.json", "aa1.data", ".new-1-aa2young", "youngaa3.data"}
    assert not before.exists()


def test_checkpoints_are_listed_and_cleared_unless_a_training_is_at_them(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for key in ("aa", "bb"):
        (tmp_path / "work" / f"quantize-{key}").mkdir(parents=True)
        (tmp_path / "work" / f"quantize-{key}" / "state").write_bytes(bytes(10))
    assert cache.info() == {"work": (2, 20)}
    with cache.lock("quantize", "aa"):
        assert cache.clear() == (1, 10)
    assert cache.clear() == (1, 10)


def test_a_key_is_held_by_one_process_and_freed_by_its_death(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    code = f"""
        import sys, time
        from pathlib import Path
        from nqbench.pipeline.cache import Cache
        with Cache(Path({str(tmp_path)!r})).lock("quantize", "k"):
            print("held", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with cache.lock("quantize", "k") as free:
            assert not free
        other.kill()
        other.wait()
        with cache.lock("quantize", "k") as free:
            assert free
    assert not list((tmp_path / "locks").iterdir())


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("17", 17), ("1.5k", 1536), ("2M", 2 << 20), ("3g", 3 << 30)])
def test_sizes_are_read_with_their_suffix(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "much", "-1", "nan", "inf", "1e30G", "10 GB"])
def test_what_is_no_size_is_refused_by_the_variable_s_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(BadInput, match="is not a size"):
        parse_size(text)
    monkeypatch.setenv("NQBENCH_CACHE_LIMIT", text or "x")
    with pytest.raises(BadInput, match=r"^NQBENCH_CACHE_LIMIT: "):
        limit_from_environment()


def test_whatever_of_a_trial_may_change_a_result_changes_its_key(decoder: Decoder) -> None:
    """Every field of a trial, each on its own: a result under another setting is never taken for this one's."""
    base = trial(pruner={}, positions="zero", sensitivity="squares", quantizer=("gptq", {"step": 0.1}))
    others: dict[str, object] = {
        "model": choice("model", "probe", version=2),
        "quantizer": choice("quantizer", "levels"),
        "coder": choice("coder", "bytewise"),
        "codec": choice("codec", "halves"),
        "pruner": None,
        "sensitivity": None,
        "granularity": "layer",
        "training": (choice("training", "shifted"),),
        "positions": None,
        "streams": "joint",
        "unquantized": "float16",
        "fold_batchnorm": True,
        "loss_increase": True,
        "nonfinite": "store",
        "selected_on": "validation",
        "tested": False,
        "judged_by": "divergence",
        "seed": 3,
    }
    assert set(others) == {field.name for field in fields(base)}
    maker = KeyMaker(registry(), "cpu", Cache(None))
    key = maker.keys(base).trial
    same = [name for name, value in others.items() if maker.keys(replace(base, **{name: value})).trial == key]
    assert same == ["seed"]  # none of these plugins draws
    drawn = replace(base, quantizer=choice("quantizer", "randomized-lattice", step=0.1))
    assert maker.keys(drawn).trial != maker.keys(replace(drawn, seed=3)).trial


# -- code ------------------------------------------------------------------------------------------------------------
def test_what_is_remembered_of_a_file_is_what_parsing_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NQBENCH_CACHE", str(tmp_path / "cache"))
    file = Path(syntax.__file__)
    fresh = syntax.parse(file.read_bytes())
    for _ in range(2):  # parsed, and read again
        syntax._code_in.cache_clear()
        assert syntax.code_in(file) == fresh
    (kept,) = (tmp_path / "cache" / "code").iterdir()
    flipped = bytearray(kept.read_bytes())
    flipped[12] ^= 1
    for damage in (b"", b"[1]", b"{}", b'["x", [[1]]]', bytes(flipped)):
        kept.write_bytes(damage)
        syntax._code_in.cache_clear()
        assert syntax.code_in(file) == fresh
    seal_text(kept, '["x", [[1]]]')
    syntax._code_in.cache_clear()
    assert syntax.code_in(file) == fresh
    seal_text(kept, '["0", []]')
    syntax._code_in.cache_clear()
    assert syntax.code_in(file).code == "0"  # so it is indeed not parsed again
    syntax._code_in.cache_clear()


def test_only_what_depends_on_edited_code_gets_new_keys(tmp_path: Path) -> None:
    """Each plugin in a module of its own; a process reads code once, so what it remembers is cleared."""
    folder = install(tmp_path / "site")
    source, package = folder / "nqbench_probe.py", folder / "probed"
    package.mkdir()
    files = {
        "__init__": "from probed import coder, quantizer\n",
        "helper": '"""Shared."""\nSHIFT = 0\n',
        "coder": "from nqbench_probe import Plain\n\n\nclass Own(Plain, name='own'):\n    pass\n",
        "quantizer": "from nqbench_probe import Levels\nfrom . import helper\n\n\nclass Owned(Levels, name='owned'):\n"
        "    x: int = helper.SHIFT\n",
        "hooks": "from nqbench.api import hookimpl\nfrom probed import coder, quantizer\n\n@hookimpl\n"
        "def nqbench_plugins():\n    return [quantizer.Owned, coder.Own]\n",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    points = "[nqbench]\nprobe = nqbench_probe\nhooks = probed.hooks\n"
    (folder / "nqbench_probe-1.0.dist-info" / "entry_points.txt").write_text(points)

    def keys() -> dict[str, str]:
        syntax._code_in.cache_clear()  # an edit of the same length within a clock's tick
        own = {"quantizer": ("owned", {}), "coder": ("own", {})}
        one = trial(pruner={}, positions="zero", sensitivity="squares", **own)
        found = KeyMaker(registry(), "cpu", Cache(None)).keys(one)
        return {**found.stages, "trial": found.trial}

    def edit(file: Path, before: str, after: str) -> list[str]:
        nonlocal last
        text = file.read_text()
        assert before in text
        file.write_text(text.replace(before, after))
        new = keys()
        changed = [stage for stage in new if new[stage] != last[stage]]
        last = new
        return changed

    with installed(folder):
        last = keys()
        assert edit(package / "coder.py", "    pass", "    pass  # a comment") == []
        assert edit(package / "quantizer.py", "class Owned", "# a comment\nclass Owned") == []
        assert edit(package / "helper.py", "Shared.", "A docstring.") == []
        assert edit(package / "coder.py", "    pass", "    DEPTH = 3") == ["file", "evaluate", "trial"]
        changed = ["quantize", "file", "evaluate", "trial"]
        assert edit(package / "helper.py", "SHIFT = 0", "SHIFT = 0 * 7") == changed
        assert edit(package / "__init__.py", "coder, quantizer", "coder") == []
        assert edit(source, "1 + task.", "2 + task.") == list(last)


def test_the_sensitivity_of_the_float_network_is_sensed_once_for_all_trainings(bench: Bench, tmp_path: Path) -> None:
    """`sequential` senses layer by layer, on the partly quantized network; its figures need that of the float network,
    which the plain quantizer has asked for already."""
    plain = trial(quantizer=("gptq", {"step": 0.1}), coder=("raw", {}), granularity="layer")
    one = replace(plain, sensitivity=choice("sensitivity", "second-moments"))
    assert "sense" not in bench().run(one, tmp_path)["cached"]
    assert "sense" in bench().run(replace(one, training=(choice("training", "sequential"),)), tmp_path)["cached"]
