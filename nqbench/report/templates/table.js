"use strict";
// One table for every page: columns that can be hidden, of which the first stay in sight; sorting, searching, filters.
// NqTable({table, columns, rows, controls: {search, checks: {field: input}, selects: {field: select}, count, more,
// choose}, open}) -> {update}. A column: {field, label, format, digits, numeric, title, fixed,
// hidden, long, deviation}.
const NqTable = (() => {
  const STEP = 100;
  const whole = (digits) => ({ minimumFractionDigits: digits, maximumFractionDigits: digits });
  const formats = {  // the same digits as the other formats
    count: (v) => v.toLocaleString("en-US", { maximumFractionDigits: Number.isInteger(v) ? 0 : 1 }),
    two: (v, digits = 2) => v.toLocaleString("en-US", whole(digits)),
    three: (v) => v.toLocaleString("en-US", whole(3)),
    signed: (v, digits = 2) => (v > 0 ? "+" : "") + v.toLocaleString("en-US", whole(digits)).replace("-", "\u2212"),
    significant: (v) => (v !== 0 && Math.abs(v) < 1e-4 ? v.toExponential(2).replace(/\.?0*e/, "e").replace(/e([+-])(\d)$/, "e$10$2") : Number(v.toPrecision(3)).toString()),
    text: (v) => String(v),
    flag: (v) => (v ? "yes" : "no"),
  };
  const none = (value) => value === null || value === undefined || value === "";
  const show = (column, row) => {
    const value = row[column.field];
    if (none(value)) return "";
    const text = formats[column.format](value, column.digits);
    const deviation = column.deviation ? row[column.deviation] : null;
    return deviation ? `${text} \u00b1 ${formats[column.format](deviation, column.digits)}` : text;
  };
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };

  function build({ table, columns: all, rows, controls, open }) {
    const columns = all.filter((c) => rows.some((row) => show(c, row) !== ""));
    const state = { sort: null, up: true, shown: STEP, found: rows, filters: {} };
    const visible = () => columns.filter((column) => !column.hidden);

    function head() {
      const line = make("tr");
      for (const column of visible()) {
        const button = make("button", { type: "button", textContent: column.label, title: column.title || "" });
        const cell = make("th", { className: styleOf(column), scope: "col" }, button);
        cell.dataset.field = column.field;
        if (column.field === state.sort) cell.setAttribute("aria-sort", state.up ? "ascending" : "descending");
        button.addEventListener("click", () => sortBy(column));
        line.append(cell);
      }
      table.tHead.replaceChildren(line);
    }

    function styleOf(column) {
      return [column.numeric ? "n" : "", column.long ? "t" : "", column.fixed ? `fixed ${column.fixed}` : ""].filter(Boolean).join(" ");
    }

    function sortBy(column) {
      state.up = state.sort === column.field ? !state.up : true;
      state.sort = column.field;
      for (const cell of table.tHead.rows[0].children) {
        if (cell.dataset.field === state.sort) cell.setAttribute("aria-sort", state.up ? "ascending" : "descending");
        else cell.removeAttribute("aria-sort");
      }
      update();
    }

    function compare(a, b) {
      const x = a[state.sort], y = b[state.sort];
      if (none(x) || none(y)) return none(x) - none(y);  // what has no value comes last, either way round
      const text = typeof x === "string" || typeof y === "string";
      const order = text ? String(x).localeCompare(String(y), "en", { numeric: true }) : x - y;
      return state.up ? order : -order;
    }

    function matches(row, words) {
      for (const [field, value] of Object.entries(state.filters)) if (value && row[field] !== value) return false;
      for (const [field, box] of Object.entries(controls.checks)) if (box.checked && !row[field]) return false;
      const text = `${row.model} ${row.configuration} ${row.who || ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    }

    function update() {
      const words = controls.search.value.toLowerCase().split(/\s+/).filter((word) => word);
      state.found = rows.filter((row) => matches(row, words));
      if (state.sort) state.found.sort(compare);
      draw();
    }

    function draw() {
      const body = make("tbody");
      for (const row of state.found.slice(0, state.shown)) body.append(line(row));
      table.tBodies[0].replaceWith(body);
      const rest = state.found.length - Math.min(state.shown, state.found.length);
      controls.count.textContent = `${state.found.length.toLocaleString("en-US")} of ${rows.length.toLocaleString("en-US")} rows`;
      controls.more.hidden = rest === 0;
      controls.more.textContent = `Show ${Math.min(rest, 5 * STEP).toLocaleString("en-US")} more`;
    }

    function line(row) {
      const tr = make("tr", { className: row.pareto ? "front" : "" });
      tr.dataset.i = row.i;
      for (const column of visible()) {
        const text = show(column, row);
        const cell = make(column.fixed === "name" ? "th" : "td", { className: styleOf(column) });
        if (column.fixed === "name") cell.scope = "row";
        if (column.fixed === "name") cell.append(opener(row, text));
        else if (column.field === "rank") cell.textContent = text + (row.pareto ? "*" : "");
        else {
          cell.textContent = text;
          if (column.format === "flag") cell.classList.add(row[column.field] ? "good" : "bad");
        }
        tr.append(cell);
      }
      return tr;
    }

    function opener(row, text) {
      if (row.href) return make("a", { href: row.href, textContent: text });
      const button = make("button", { type: "button", className: "open", textContent: text });
      button.addEventListener("click", () => open(row.i));
      return button;
    }

    const again = () => { state.shown = STEP; update(); };
    for (const [field, select] of Object.entries(controls.selects)) {
      const values = [...new Set(rows.map((row) => row[field]).filter((v) => v))];
      if (values.length < 2) { select.parentElement.hidden = true; continue; }
      for (const value of values) select.append(make("option", { value, textContent: value }));
      select.addEventListener("change", () => { state.filters[field] = select.value; again(); });
    }
    for (const [field, box] of Object.entries(controls.checks)) {
      box.parentElement.hidden = !rows.some((row) => row[field]) && !rows.some((row) => row[field] === false);
      box.addEventListener("change", again);
    }
    controls.search.addEventListener("input", again);
    controls.more.addEventListener("click", () => { state.shown += 5 * STEP; draw(); });
    for (const column of columns) {
      if (column.fixed) continue;
      const box = make("input", { type: "checkbox", checked: !column.hidden });
      box.dataset.field = column.field;
      box.addEventListener("change", () => { column.hidden = !box.checked; head(); draw(); });
      controls.choose.append(make("label", { className: "check" }, box, ` ${column.label}`));
    }
    head();
    update();
    return { columns, show, update };
  }
  return Object.assign(build, { make, show });
})();
