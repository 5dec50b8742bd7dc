"""Published rows: quoted inline, or selected from a published.yaml."""

from pathlib import Path

import pytest

from nqbench.suite import PublishedRow, SuiteError

HEAD = "models: net\nquantizers: kmeans\npublished:\n"


def test_an_inline_row_is_taken_as_it_is(suite_of):
    suite = suite_of(HEAD + "  - {paper: A, network: net, method: m, accuracy: 99.5, ratio: 40}\n")
    assert suite.published == (PublishedRow("A", "net", "m", accuracy=99.5, ratio=40.0),)


def test_a_block_shares_its_paper_among_its_rows(suite_of):
    suite = suite_of(HEAD + "  paper: A\n  network: net\n  rows: [{method: m, error: 1}, {method: n, ratio: 2}]\n")
    assert suite.published == (PublishedRow("A", "net", "m", error=1.0), PublishedRow("A", "net", "n", ratio=2.0))


def test_a_selector_takes_the_shipped_rows_of_its_paper_and_network(suite_of):
    suite = suite_of(HEAD + '  - {paper: "arXiv:1612.01543, Table 1", network: lenet5}\n')
    ratios = {row.method: (row.accuracy, row.ratio) for row in suite.published}
    assert len(suite.published) == 7
    assert ratios["pruned + uniform + Huffman"] == (99.28, 51.25)
    assert {row.data for row in suite.published} == {"mnist"}


def test_a_published_yaml_beside_the_suite_comes_first(suite_of):
    Path("published.yaml").write_text("- {paper: mine, network: net, rows: [{method: m, ratio: 3}]}\n")
    assert suite_of(HEAD + "  network: net\n").published == (PublishedRow("mine", "net", "m", ratio=3.0),)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{network: lenet}", r"^s.yaml:4: published\[0\]\.network: published.yaml has no rows with the network "
                             r"'lenet'; did you mean 'lenet5'\?"),
        ("{netwrk: lenet5}", r"^s.yaml:4: published\[0\]\.netwrk: unknown key 'netwrk'; did you mean 'network'\?"),
        ("{paper: A, method: m}", r"^s.yaml:4: published\[0\]\.network: is required"),
        ("{paper: A, network: n, method: m, ratio: 0}", r"published\[0\]\.ratio: must be greater than 0, not 0"),
        ("{}", r"published\[0\]: must name a paper or a network to select"),
    ],
)  # fmt: skip
def test_a_wrong_published_entry_is_refused(suite_of, entry, message):
    with pytest.raises(SuiteError, match=message):
        suite_of(HEAD + f"  - {entry}\n")


def test_any_metric_is_quoted_by_its_name_and_unit(suite_of):
    head = "models: net\nquantizers: kmeans\npublished:\n"
    inline = "  - {paper: P, network: net, method: m, metric: perplexity, value: 29.6, ratio: 4}\n"
    table = "  - {paper: Q, network: net, metric: psnr, unit: dB, rows: [{method: n, value: 31}]}\n"
    first, second = suite_of(head + inline + table).published
    assert (first.metric, first.value, first.unit) == ("perplexity", 29.6, None)
    assert (second.metric, second.value, second.unit) == ("psnr", 31.0, "dB")
    with pytest.raises(SuiteError, match=r"published\[0\]: gives a 'value' without the 'metric' that it is of"):
        suite_of(head + "  - {paper: P, network: net, method: m, value: 29.6}\n")
