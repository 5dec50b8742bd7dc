"use strict";
// The page of a run, or of a network on a board: its rows in the table, its figures, and what one row says.
(() => {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const rowsOf = (table) => table.rows.map((values) => Object.fromEntries(table.fields.map((f, i) => [f, values[i]])));
  const datasets = Object.fromEntries(Object.entries(payload.datasets).map(([name, table]) => [name, rowsOf(table)]));
  const rows = datasets.rows;
  const byId = (id) => document.getElementById(id);
  const { make, show } = NqTable;
  const repeats = (row) => {
    if (row.failed) return `${row.n} of ${row.n + row.failed} seeds, ${row.failed} failed`;
    return row.deterministic ? "deterministic" : `${row.n} seed${row.n === 1 ? "" : "s"}`;
  };
  const digits = payload.columns.find((column) => column.field === "metric").digits;
  const bound = (v) => v.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  for (const row of rows) {
    row.repeats = repeats(row);
    row.interval = row.metric_low === null || row.metric_low === undefined ? "" : `${bound(row.metric_low)}\u2013${bound(row.metric_high)}`;
  }

  const dialog = byId("record");
  function details(i) {
    const row = rows[i];
    if (row.href) { location.href = row.href; return; }
    const [keys, parameters, file, linked] = payload.details[i];
    const list = make("dl");
    const add = (name, value) => list.append(make("dt", { textContent: name }), make("dd", {}, value));
    for (const column of table.columns) if (show(column, row) !== "") add(column.label, show(column, row));
    for (const [kind, values] of Object.entries(JSON.parse(parameters))) add(`${kind} parameters`, JSON.stringify(values));
    add(keys.length > 1 ? "keys" : "key", keys.join(" "));
    if (file) add("file", linked ? make("a", { href: file, textContent: file }) : file);
    byId("record-title").textContent = `${row.model} ${row.configuration}`;
    byId("record-body").replaceChildren(list);
    dialog.showModal();
  }
  if (dialog) byId("record-close").addEventListener("click", () => dialog.close());

  const selects = {};
  for (const select of document.querySelectorAll("select[data-filter]")) selects[select.dataset.filter] = select;
  const table = NqTable({
    table: byId("all"), columns: payload.columns, rows, open: details,
    controls: {
      search: byId("filter-text"), checks: { holds: byId("filter-holds"), pareto: byId("filter-pareto") }, selects,
      count: byId("count"), more: byId("more"), choose: byId("columns"),
    },
  });
  if (window.vegaEmbed) NqFigures({ figures: payload.figures, datasets, canvas: rows.length > 2000, open: details });
})();
