"use strict";
// One figure for every page: drawn when it comes into sight, and again when the scheme or the scale changes.
// NqFigures({figures, datasets, canvas, open}); elements: .plot with data-figure, .scale with the same.
const NqFigures = (() => {
  const NARROW = 640;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const printing = matchMedia("print");

  function theme() {
    const night = dark.matches && !printing.matches;
    const text = night ? "#e6e8eb" : "#1b1f24", line = night ? "#343b43" : "#d7dce1", soft = night ? "#9aa4af" : "#57606a";
    const words = { labelColor: text, titleColor: text };
    return {
      background: null, view: { stroke: line }, font: "system-ui, DejaVu Sans, sans-serif",
      axis: { ...words, gridColor: line, domainColor: line, tickColor: line }, legend: words, title: { color: text },
      style: { ink: { color: text }, soft: { color: soft } },
    };
  }

  const layers = (spec) => (spec.layer ? [spec, ...spec.layer] : [spec]);

  // the data of every layer: a name that is left out draws nothing, and no error says so
  const named = (spec) => layers(spec).map((layer) => layer.data && layer.data.name).filter((name) => name);

  function scaled(spec, axis, type) {
    for (const layer of layers(spec)) {
      const channel = layer.encoding && layer.encoding[axis];
      if (channel && channel.scale && channel.scale.type) channel.scale = { ...channel.scale, type, zero: false };
    }
  }

  function narrow(spec) {
    if (spec.layer) spec.layer = spec.layer.filter((layer) => !["names", "leaders"].includes(layer.name));
    for (const layer of layers(spec)) {
      const { y, color } = layer.encoding || {};
      if (color && color.legend) color.legend = { ...color.legend, columns: 1 };
      if (y && y.axis && y.axis.labelLimit) y.axis = { ...y.axis, labelLimit: 110 };
    }
  }

  function unlegended(spec) {  // the lines are named where they end
    if (!spec.layer || !spec.layer.some((layer) => layer.name === "names")) return;
    for (const layer of spec.layer) {
      for (const channel of ["color", "shape"]) {
        if (layer.encoding && layer.encoding[channel]) layer.encoding[channel] = { ...layer.encoding[channel], legend: null };
      }
    }
  }

  return function build({ figures, datasets, canvas, open }) {
    const views = new Map();
    const types = new Map();

    async function plot(element) {
      const figure = figures[element.dataset.figure];
      const spec = structuredClone(figure.spec);
      spec.datasets = { ...spec.datasets };
      // a figure brings those of its own lines along
      for (const name of named(spec)) if (name in datasets) spec.datasets[name] = datasets[name];
      for (const [name, part] of Object.entries(theme())) spec.config[name] = part !== null && typeof part === "object" ? { ...spec.config[name], ...part } : part;
      const type = types.get(element.dataset.figure);
      if (figure.scaled && type) scaled(spec, figure.scaled, type);
      if (element.clientWidth < NARROW) narrow(spec);
      else unlegended(spec);
      views.get(element)?.finalize();
      const result = await vegaEmbed(element, spec, { actions: { export: true, source: false, compiled: false, editor: false }, logLevel: 1, renderer: canvas ? "canvas" : "svg" });
      views.set(element, result);
      result.view.addEventListener("click", (_, item) => { if (item?.datum?.i !== undefined) open(item.datum.i); });
      element.dataset.ready = "yes";
    }

    for (const choice of document.querySelectorAll(".scale")) {
      for (const button of choice.querySelectorAll("button")) {
        button.addEventListener("click", () => {
          for (const other of choice.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
          types.set(choice.dataset.figure, button.value);
          plot(document.querySelector(`.plot[data-figure="${choice.dataset.figure}"]`));
        });
      }
    }
    const plots = [...document.querySelectorAll(".plot")];
    const watcher = new IntersectionObserver((seen) => {
      for (const { target, isIntersecting } of seen) if (isIntersecting) { watcher.unobserve(target); plot(target); }
    }, { rootMargin: "600px" });
    for (const element of plots) watcher.observe(element);
    const again = () => { for (const element of views.keys()) plot(element); };
    dark.addEventListener("change", again);
    let wide = innerWidth;
    addEventListener("resize", () => { if ((wide < NARROW) !== (innerWidth < NARROW)) { wide = innerWidth; again(); } });
    addEventListener("beforeprint", () => { for (const element of plots) if (!views.has(element)) plot(element); });
  };
})();
