"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const payload = read("payload");
  const rowsOf = (table) => table.rows.map((values) => Object.fromEntries(table.fields.map((f, i) => [f, values[i]])));
  const datasets = Object.fromEntries(Object.entries(payload.datasets).map(([name, table]) => [name, rowsOf(table)]));
  const rows = datasets.rows;
  const byId = (id) => document.getElementById(id);
  const STEP = 100;

  // -- numbers: the same digits as the other formats -----------------------------------------------------------
  const formats = {
    count: (v) => v.toLocaleString("en-US", { maximumFractionDigits: Number.isInteger(v) ? 0 : 1 }),
    two: (v) => v.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 }),
    three: (v) => v.toLocaleString("en-US", { minimumFractionDigits: 3, maximumFractionDigits: 3 }),
    signed: (v) => (v > 0 ? "+" : "") + v.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 }).replace("-", "\u2212"),
    significant: (v) => (v !== 0 && Math.abs(v) < 1e-4 ? v.toExponential(2).replace(/\.?0*e/, "e").replace(/e([+-])(\d)$/, "e$10$2") : Number(v.toPrecision(3)).toString()),
    text: (v) => String(v),
    flag: (v) => (v ? "yes" : "no"),
  };
  const show = (column, row) => {
    const value = row[column.field];
    if (value === null || value === undefined || value === "") return "";
    const text = formats[column.format](value);
    const deviation = column.deviation ? row[column.deviation] : null;
    return deviation ? `${text} \u00b1 ${formats[column.format](deviation)}` : text;
  };
  const repeats = (row) => (row.deterministic ? "deterministic" : `${row.n} seed${row.n === 1 ? "" : "s"}`);
  for (const row of rows) row.repeats = repeats(row);

  // -- the table of all configurations -------------------------------------------------------------------------
  const columns = payload.columns.filter((c) => rows.some((row) => show(c, row) !== ""));
  const state = { sort: null, up: true, shown: STEP, found: rows };
  const table = byId("all");
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };

  const head = make("tr");
  for (const column of columns) {
    const button = make("button", { type: "button", textContent: column.label, title: column.title || "" });
    const cell = make("th", { className: column.numeric ? "n" : column.field === "configuration" ? "name" : "", scope: "col" }, button);
    cell.dataset.field = column.field;
    button.addEventListener("click", () => sortBy(column));
    head.append(cell);
  }
  table.tHead.append(head);

  function sortBy(column) {
    state.up = state.sort === column.field ? !state.up : true;
    state.sort = column.field;
    for (const cell of head.children) {
      if (cell.dataset.field === state.sort) cell.setAttribute("aria-sort", state.up ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
    }
    update();
  }

  const filters = {};
  for (const field of ["model", "quantizer_name", "granularity", "coder_name", "training_name"]) {
    const select = byId(`filter-${field}`);
    const values = [...new Set(rows.map((row) => row[field]).filter((v) => v))];
    if (values.length < 2) { select.parentElement.hidden = true; continue; }
    for (const value of values) select.append(make("option", { value, textContent: value }));
    select.addEventListener("change", () => { filters[field] = select.value; state.shown = STEP; update(); });
  }
  const search = byId("filter-text");
  search.addEventListener("input", () => { state.shown = STEP; update(); });
  for (const id of ["filter-holds", "filter-pareto"]) byId(id).addEventListener("change", () => { state.shown = STEP; update(); });
  if (!rows.some((row) => row.holds !== null)) byId("filter-holds").parentElement.hidden = true;

  function matches(row, words) {
    for (const [field, value] of Object.entries(filters)) if (value && row[field] !== value) return false;
    if (byId("filter-holds").checked && !row.holds) return false;
    if (byId("filter-pareto").checked && !row.pareto) return false;
    const text = `${row.model} ${row.configuration}`.toLowerCase();
    return words.every((word) => text.includes(word));
  }

  function compare(a, b) {
    const x = a[state.sort], y = b[state.sort];
    const noX = x === null || x === undefined || x === "", noY = y === null || y === undefined || y === "";
    if (noX || noY) return noX - noY;  // what has no value comes last, either way round
    const order = typeof x === "string" || typeof y === "string" ? String(x).localeCompare(String(y), "en", { numeric: true }) : x - y;
    return state.up ? order : -order;
  }

  function update() {
    const words = search.value.toLowerCase().split(/\s+/).filter((word) => word);
    state.found = rows.filter((row) => matches(row, words));
    if (state.sort) state.found.sort(compare);
    draw();
  }

  function draw() {
    const body = make("tbody");
    for (const row of state.found.slice(0, state.shown)) body.append(line(row));
    table.tBodies[0].replaceWith(body);
    const rest = state.found.length - Math.min(state.shown, state.found.length);
    byId("count").textContent = `${state.found.length.toLocaleString("en-US")} of ${rows.length.toLocaleString("en-US")} rows`;
    byId("more").hidden = rest === 0;
    byId("more").textContent = `Show ${Math.min(rest, 5 * STEP).toLocaleString("en-US")} more`;
  }

  function line(row) {
    const tr = make("tr", { className: row.pareto ? "front" : "" });
    tr.dataset.i = row.i;
    for (const column of columns) {
      const td = make("td", { className: column.numeric ? "n" : column.field === "configuration" ? "name" : "" });
      const text = show(column, row);
      if (column.field === "configuration") {
        const open = make("button", { type: "button", className: "open", textContent: text });
        open.addEventListener("click", () => details(row.i));
        td.append(open);
      } else if (column.field === "rank") td.textContent = text + (row.pareto ? "*" : "");
      else {
        td.textContent = text;
        if (column.format === "flag") td.classList.add(row[column.field] ? "good" : "bad");
      }
      tr.append(td);
    }
    return tr;
  }
  byId("more").addEventListener("click", () => { state.shown += 5 * STEP; draw(); });

  // -- one record ------------------------------------------------------------------------------------------------
  const dialog = byId("record");
  function details(i) {
    const row = rows[i];
    const [keys, parameters, file] = payload.details[i];
    const list = make("dl");
    const add = (name, value) => list.append(make("dt", { textContent: name }), make("dd", {}, value));
    for (const column of columns) if (show(column, row) !== "") add(column.label, show(column, row));
    for (const [kind, values] of Object.entries(JSON.parse(parameters))) add(`${kind} parameters`, JSON.stringify(values));
    add(keys.length > 1 ? "keys" : "key", keys.join(" "));
    if (file) add("file", make("a", { href: file, textContent: file }));
    byId("record-title").textContent = `${row.model} ${row.configuration}`;
    byId("record-body").replaceChildren(list);
    dialog.showModal();
  }
  byId("record-close").addEventListener("click", () => dialog.close());

  // -- figures: drawn when they come into sight, again when the scheme changes ---------------------------------
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const printing = matchMedia("print");
  const views = new Map();
  function theme() {
    const night = dark.matches && !printing.matches;
    const text = night ? "#e6e8eb" : "#1b1f24", line = night ? "#343b43" : "#d7dce1";
    const words = { labelColor: text, titleColor: text };
    return {
      background: null, view: { stroke: line }, font: "system-ui, DejaVu Sans, sans-serif",
      axis: { ...words, gridColor: line, domainColor: line, tickColor: line }, legend: words, title: { color: text },
    };
  }
  async function plot(element) {
    const figure = payload.figures[element.dataset.figure];
    const spec = structuredClone(figure.spec);
    spec.datasets = { ...spec.datasets, [figure.data]: datasets[figure.data], published: datasets.published };
    for (const [name, part] of Object.entries(theme())) spec.config[name] = part !== null && typeof part === "object" ? { ...spec.config[name], ...part } : part;
    if (element.clientWidth < 480) {
      for (const layer of [spec, ...(spec.layer || [])]) {
        const { y, color } = layer.encoding || {};
        if (color && color.legend) color.legend = { ...color.legend, columns: 1 };
        if (y && y.axis && y.axis.labelLimit) y.axis = { ...y.axis, labelLimit: 110 };
      }
    }
    views.get(element)?.finalize();
    const result = await vegaEmbed(element, spec, { actions: { export: true, source: false, compiled: false, editor: false }, logLevel: 1, renderer: rows.length > 2000 ? "canvas" : "svg" });
    views.set(element, result);
    result.view.addEventListener("click", (_, item) => { if (item?.datum?.i !== undefined) details(item.datum.i); });
    element.dataset.ready = "yes";
  }
  const plots = [...document.querySelectorAll(".plot")];
  const watcher = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) if (isIntersecting) { watcher.unobserve(target); plot(target); }
  }, { rootMargin: "600px" });
  for (const element of plots) watcher.observe(element);
  const again = () => { for (const element of views.keys()) plot(element); };
  dark.addEventListener("change", again);
  addEventListener("beforeprint", () => { for (const element of plots) if (!views.has(element)) plot(element); });

  update();
})();
