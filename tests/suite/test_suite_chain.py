"""Which stages trials share."""

from nqbench.pipeline.chain import first_needed, shares


def runs(suite, registry):
    """How often each stage runs."""
    work = [shares(trial, registry) for trial in suite.trials()]
    return {stage: len({one[stage] for one in work} - {None}) for stage in work[0]}


def test_coders_share_a_quantization_and_its_evaluation(suite_of, fake_registry):
    suite = suite_of(
        "models: net\nquantizers: {kmeans: {k: [4, 8]}}\ncoders: [huffman, lzw]\ngranularities: [global, layer]\n"
    )
    counted = {"load": 1, "prune": 0, "sense": 0, "quantize": 4, "file": 8, "evaluate": 4}
    assert runs(suite, fake_registry) == counted


def test_a_quantizer_that_reads_the_rate_quantizes_for_each_coder(suite_of, fake_registry):
    suite = suite_of("models: net\nquantizers: feedback\nsensitivities: moments\ncoders: [huffman, lzw]\n")
    counted = {"load": 1, "prune": 0, "sense": 1, "quantize": 2, "file": 2, "evaluate": 2}
    assert runs(suite, fake_registry) == counted


def test_seeds_share_what_does_not_depend_on_them(suite_of, fake_registry):
    suite = suite_of("models: net\npruners: magnitude\nquantizers: {kmeans: {init: random}}\nseeds: [0, 1, 2]\n")
    counted = {"load": 1, "prune": 1, "sense": 0, "quantize": 3, "file": 3, "evaluate": 3}
    assert runs(suite, fake_registry) == counted


def test_the_first_trial_of_a_kind_bears_the_work_that_others_share(suite_of, fake_registry):
    suite = suite_of("models: net\npruners: magnitude\nquantizers: kmeans\npositions: [zero, gaps]\ncodecs: peer\n")
    assert first_needed(suite.trials(), fake_registry) == [
        ["load", "prune", "quantize", "file", "evaluate"],
        ["file"],
        ["file", "evaluate"],
    ]
