"""The site of a board: ``nqbench board build``. Static pages that need neither a server nor a network.

::

    index.html                     the networks, how to take part, the newest rows
    networks/<name>-<8 hex>.html   a network: the front of bytes against quality, and every row
    rows/<id>.html                 a row: its file and parts, how it is made again, who, when, and when it last held
    rows/<id>.json, board.json     the same for programs: a row in full, and all of them in short
    feed.json                      the newest rows (https://www.jsonfeed.org/version/1.1)
    files/, suites/, assets/       what the pages refer to
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nqbench import printable
from nqbench.api.errors import BadInput
from nqbench.api.toolkit.paths import reason, written_whole
from nqbench.board.again import command, defaults
from nqbench.board.board import Board, checks_text
from nqbench.board.bundle import file_name
from nqbench.board.checking import network_of
from nqbench.board.manifest import hidden
from nqbench.board.rows import BoardRow
from nqbench.report.data import ReportData
from nqbench.report.drawing import drawn
from nqbench.report.figures import Figure
from nqbench.report.html import COLUMNS, SCRIPTS, asset, digits_of, figure_payload, page_columns, templates
from nqbench.report.numbers import count, decimal, figure, places, signed
from nqbench.report.payload import datasets, script_json, table_of
from nqbench.report.tables import Table, method_table, quoted_with_measured
from nqbench.report.vega import javascript
from nqbench.results.goal import Goal
from nqbench.results.labels import short
from nqbench.results.leaderboard import Row
from nqbench.results.published import Published
from nqbench.results.record import PARTS, Record
from nqbench.suite.find import PUBLISHED, published_file
from nqbench.suite.published import published_in

_NEW = 12
_FED = 50
_UNCHECKED = ("entropy", "efficiency", "mse", "own_ratio", "repeats")
_FIGURES = ("-rate-accuracy", "-parts")
_MORE = (
    ("who", "who", "text", "who submitted it, as they say"),
    ("added", "added", "text", "when the board took it"),
    ("verified", "verified", "text", "when it was last decoded and evaluated"),
    ("code", "needs", "text", "code beside nqbench's own that decoding it takes"),
)


@dataclass(frozen=True)
class NetworkPage:
    """One network of the board: its rows, ranked."""

    board: Board
    slug: str
    rows: Sequence[BoardRow]
    published: Sequence[Published]

    @cached_property
    def by_id(self) -> dict[str, BoardRow]:
        return {row.id: row for row in self.rows}

    @cached_property
    def data(self) -> ReportData:
        return ReportData(
            suite=self.board.title,
            records=[shown(row) for row in self.rows],
            published=self.published,
            goal=Goal.in_points(self.board.drop, [row.record for row in self.rows]),
            separate=True,
        )

    @property
    def title(self) -> str:
        record = self.rows[0].record
        usual = defaults("model", record.model)
        given = {name: value for name, value in network_of(record).parameters.items() if usual.get(name, None) != value}
        told = ", ".join(f"{name}={short(value)}" for name, value in given.items())
        return f"{record.model} ({told})" if told else record.model

    @property
    def ranked(self) -> Sequence[Row]:
        return self.data.rows

    @property
    def best(self) -> Row:
        return self.ranked[0]


def build_site(board: Board, site: Path, url: str = "") -> int:
    """Write the site into a folder, replacing what an earlier one left there. Returns how many pages it has.

    url: where the site will be; feeds then have whole addresses. Raises BadInput where the folder holds something else.
    """
    site = Path(site)
    marker = site / "board.json"
    if site.exists() and any(site.iterdir()) and not marker.is_file():
        raise BadInput(f"{site}: is not empty, and no site of a board: choose another --site")
    rows = board.rows()
    pages = networks(board, rows)
    try:
        _write(marker, _json(_summary(board, pages)))  # first: it says whose folder this is
        _copy(board, rows, site)
        _write(site / "assets" / "vega.js", javascript())
        for name in SCRIPTS:
            _write(site / "assets" / name, asset(name))
        for page in pages:
            _write(site / "networks" / f"{page.slug}.html", _network(page))
            for row in page.rows:
                _write(site / "rows" / f"{row.id}.html", _row(page, row))
                _write(site / "rows" / f"{row.id}.json", row.to_text())
        _write(site / "index.html", _index(board, pages, rows))
        _write(site / "feed.json", _json(_feed(board, pages, url)))
    except OSError as error:
        raise BadInput(f"{site}: cannot be written ({reason(error)})") from None
    return 1 + len(pages) + len(rows)


def networks(board: Board, rows: Sequence[BoardRow]) -> list[NetworkPage]:
    """The board's networks, those of most rows first."""
    groups: dict[str, list[BoardRow]] = {}
    for row in rows:
        groups.setdefault(slug(row), []).append(row)
    quoted = _published(board)
    found = []
    for name, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        data = network_of(members[0].record).parameters.get("data")
        of_it = [row for row in quoted if row.model == members[0].record.model]
        fitting = [row for row in of_it if row.data in ("", data) or data is None]
        found.append(NetworkPage(board, name, members, fitting))
    return found


def slug(row: BoardRow) -> str:
    """A network's name in addresses: its model's, and 8 hex digits of its parameters."""
    return f"{row.record.model}-{hashlib.sha256(network_of(row.record).json.encode()).hexdigest()[:8]}"


def shown(row: BoardRow) -> Record:
    """What ranks, with the network's parameters in full, so that one network has one name."""
    return row.shown.model_copy(update={"model_params": network_of(row.record).parameters})


def _published(board: Board) -> list[Published]:
    own = board.folder / PUBLISHED
    file = own if own.is_file() else published_file(None)
    if file is None:
        return []
    found = []
    for row in published_in(file.resolve()):
        name, value = ("accuracy", row.accuracy) if row.accuracy is not None else ("error", row.error)
        if value is None:
            name, value = row.metric or "metric", row.value
        unit = row.unit if name == row.metric else "%"
        found.append(Published(row.network, row.method, row.paper, row.ratio, name, value, row.data or "", unit))
    return found


# -- pages -----------------------------------------------------------------------------------------------------------
def _render(template: str, **values: Any) -> str:
    from markupsafe import Markup

    return templates().get_template(template).render(style=Markup(asset("style.css")), **values)


def _index(board: Board, pages: Sequence[NetworkPage], rows: Sequence[BoardRow]) -> str:
    header = ("network", "rows", "float", "smallest that holds", "ratio", "metric", "by", "last verified")
    body = []
    for page in pages:
        best, metric = page.best, page.rows[0].found.metric_float
        last = max(row.checks[-1].time for row in page.rows)[:10]
        who = page.by_id[best.keys[0]].who or ""
        unit = best.metric_unit
        found = (count(best.file_bytes), decimal(best.ratio), figure(best.metric, unit), who)
        if not best.holds:
            found = ("none yet", "", "", "")
        body.append((page.title, str(len(page.rows)), figure(metric, unit), *found, last))
    table = Table(header, tuple(body), (False, True, True, True, True, True, False, False))
    by_id = {row.id: page for page in pages for row in page.rows}
    newest = sorted(rows, key=lambda row: (row.added, row.id), reverse=True)[:_NEW]
    return _render(
        "board_index.html",
        board=board,
        table=table,
        links=[f"networks/{page.slug}.html" for page in pages],
        newest=[(row, by_id[row.id].data.labels.configuration(shown(row)), by_id[row.id].title) for row in newest],
        rows=rows,
        count=count,
        figure=figure,
    )


def _network(page: NetworkPage) -> str:
    from markupsafe import Markup

    data = page.data
    named = datasets(data)
    for line, row in zip(named["rows"], data.rows, strict=True):
        own = page.by_id[row.keys[0]]
        line |= {
            "href": f"../rows/{own.id}.html", "who": own.who or "", "added": own.added[:10],
            "verified": own.checks[-1].time[:10], "code": "; ".join(own.code),
        }  # fmt: skip
    figures = [figure for figure in drawn(data, named) if figure.name.endswith(_FIGURES)]
    columns = [column for column in (*COLUMNS, *_MORE) if column[0] not in _UNCHECKED]
    payload = {
        "datasets": {name: table_of(rows) for name, rows in named.items()},
        "columns": page_columns(columns, named["rows"], digits_of(data)),
        "details": [],
        "figures": figure_payload(figures),
    }
    model = next(iter(data.by_model))
    return _render(
        "board_network.html",
        page=page,
        data=data,
        figures=_described(figures, model),
        methods=method_table(data.methods[model]),
        quoted=quoted_with_measured(data, model) if data.published_for(model) else None,
        payload=Markup(script_json(payload)),
        scripts=SCRIPTS,
        best=page.best,
        best_row=page.by_id[page.best.keys[0]],
        digits=digits_of(data),
        count=count,
        decimal=decimal,
        signed=signed,
    )


def _described(figures: Sequence[Figure], model: str) -> list[Figure]:
    """Figures without their network's name, which the page says."""
    titles = [figure.title.removeprefix(f"{model}: ") for figure in figures]
    named = zip(figures, titles, strict=True)
    return [Figure(**{**vars(figure), "title": title[:1].upper() + title[1:]}) for figure, title in named]


def _row(page: NetworkPage, row: BoardRow) -> str:
    ranked = next(one for one in page.ranked if one.keys[0] == row.id)
    parts = [(name, row.found.parts.get(name, 0)) for name in PARTS if row.found.parts.get(name)]
    suite = page.board.suite(row)
    return _render(
        "board_row.html",
        page=page,
        row=row,
        ranked=ranked,
        name=page.data.labels.configuration(shown(row)),
        sizes=parts,
        command=command(row.record, f"{(row.suite or '')[:12]}.yaml"),
        suite=suite if not any(hidden(line) for line in suite.expandtabs().splitlines()) else printable.plain(suite),
        file=f"../{file_name(row.file)}",
        parameters=_parameters(row),
        verified=checks_text(row.checks),
        digits=places([row.found.metric, row.found.metric_float], row.metric_unit),
        count=count,
        decimal=decimal,
        signed=signed,
    )


def _parameters(row: BoardRow) -> list[tuple[str, str]]:
    found = []
    for kind in ("model", "pruner", "sensitivity", "quantizer", "training", "positions", "coder", "codec"):
        name, given = getattr(row.record, kind), getattr(row.record, f"{kind}_params")
        if name and name != "none":
            found.append((kind, f"{name} {json.dumps(given)}" if given else str(name)))
    for field in ("granularity", "streams", "unquantized", "fold_batchnorm", "seed"):
        value = getattr(row.record, field)
        if value not in (None, False, "auto"):
            found.append((field, str(value)))
    return found


# -- for programs ----------------------------------------------------------------------------------------------------
def _short(page: NetworkPage, row: BoardRow, ranked: Row) -> dict[str, Any]:
    found = row.found
    return {
        "id": row.id,
        "network": page.slug,
        "model": row.record.model,
        "model_params": row.record.model_params,
        "configuration": ranked.configuration,
        "rank": ranked.rank,
        "pareto": ranked.pareto,
        "holds": ranked.holds,
        "file_bytes": found.file_bytes,
        "parts": found.parts,
        "ratio": found.ratio,
        "file_ratio": found.file_ratio,
        "metric_name": row.metric_name,
        "metric": found.metric,
        "metric_low": ranked.metric_low,
        "metric_high": ranked.metric_high,
        "metric_float": found.metric_float,
        "metric_delta": found.metric - found.metric_float,
        "same_network": found.same_network,
        "who": row.who,
        "licence": row.licence,
        "added": row.added,
        "verified": row.checks[-1].time,
        "code": list(row.code),
        "page": f"rows/{row.id}.html",
        "record": f"rows/{row.id}.json",
        "file": file_name(row.file),
    }


def _summary(board: Board, pages: Sequence[NetworkPage]) -> dict[str, Any]:
    rows = [_short(page, page.by_id[one.keys[0]], one) for page in pages for one in page.ranked]
    quoted = [vars(row) | {"quoted": True} for page in pages for row in page.published]
    return {"nqbench_board": 1, "title": board.title, "drop": board.drop, "rows": rows, "published": quoted}


def _feed(board: Board, pages: Sequence[NetworkPage], url: str) -> dict[str, Any]:
    """A JSON Feed of the newest rows."""
    base = f"{url.rstrip('/')}/" if url else ""
    all_rows = [(row, page) for page in pages for row in page.rows]
    newest = sorted(all_rows, key=lambda pair: (pair[0].added, pair[0].id), reverse=True)
    items = []
    for row, page in newest[:_FED]:
        figures = f"{count(row.found.file_bytes)} bytes, {figure(row.found.metric, row.metric_unit)}"
        items.append(
            {
                "id": row.id,
                "url": f"{base}rows/{row.id}.html",
                "title": f"{page.title}: {page.data.labels.configuration(shown(row))}",
                "content_text": figures,
                "date_published": row.added,
                **({"authors": [{"name": row.who}]} if row.who else {}),
            }
        )
    head = {"version": "https://jsonfeed.org/version/1.1", "title": board.title}
    where = {"home_page_url": base, "feed_url": f"{base}feed.json"} if base else {}
    return {**head, **where, "items": items}


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=True) + "\n"


# -- files -----------------------------------------------------------------------------------------------------------
def _copy(board: Board, rows: Sequence[BoardRow], site: Path) -> None:
    """The rows' files and suites; what an earlier site had of rows that are gone goes."""
    for folder in ("networks", "rows", "suites"):
        shutil.rmtree(site / folder, ignore_errors=True)
    wanted = {file_name(row.file) for row in rows}
    for path in (site / "files").glob("*.nqz"):
        if f"files/{path.name}" not in wanted:
            path.unlink()
    for row in rows:
        source, target = board.file(row), site / file_name(row.file)
        if not target.is_file():
            with written_whole(target) as temporary:
                shutil.copyfile(source, temporary)
        if row.suite:
            _write(site / "suites" / f"{row.suite[:12]}.yaml", board.suite(row))


def _write(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
