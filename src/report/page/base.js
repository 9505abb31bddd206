"use strict";
// What every part of the page uses: the data, elements, numbers as text, the tip, tables.
const R = JSON.parse(document.getElementById("data").textContent);

const el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
};

const svg = (tag, attributes = {}, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) node.setAttribute(name, value);
  node.append(...children.flat().filter((child) => child != null));
  return node;
};

// A drawing that a screen reader announces by its title.
const drawing = (width, height, title, ...children) =>
  svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": title }, ...children);

const db = (value) => value == null ? "–" : value >= 200 ? "exact" : value <= -200 ? "broken" : `${value.toFixed(1)} dB`;
const percent = (value, digits = 1) => value == null ? "–" : `${(value * 100).toFixed(digits)} %`;
const short = (value) => {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
};
const count = (value) => {
  for (const [unit, name] of [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (value >= unit) return `${(value / unit).toPrecision(3)}${name}`;
  }
  return String(value);
};
const bytes = (value) => {
  if (value == null) return "–";
  for (const [unit, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (value >= unit) return `${Number((value / unit).toPrecision(value < 1000 * unit ? 3 : 4))} ${name}`;
  }
  return `${value} B`;
};
const plural = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

const PRECISIONS = ["float", "fp16", "int8", "dynamic", "w8", "w6", "w5", "a16w8", "w4", "w3", "w2", "fp8"];
const COLOURED = { fp16: "fp16", float: "float", int8: "int8", dynamic: "int8", w8: "w8", w6: "w8", w5: "w8", a16w8: "a16w8", w4: "w4", w3: "other", w2: "fp8", fp8: "fp8" };
const colour = (precision) => `var(--p-${COLOURED[precision] ?? "other"})`;
const MEANING = {
  float: "as in the original", fp16: "weights as 16-bit floats", int8: "8-bit activations and weights", dynamic: "8-bit weights, activations rounded while it runs",
  a16w8: "16-bit activations, 8-bit weights", fp8: "8-bit float", w8: "8-bit weights only", w6: "6-bit weights only", w5: "5-bit weights only",
  w4: "4-bit weights only", w3: "3-bit weights only", w2: "2-bit weights only",
};
// Five steps from harmless to harmful; the limits are errors of 1, 3, 10 and 30 % of the signal.
const STEPS = [[40, "under 1 %"], [30, "1 to 3 %"], [20, "3 to 10 %"], [10, "10 to 30 %"], [-Infinity, "over 30 %"]];
const heat = (value) => value == null ? "var(--line)" : `var(--e${STEPS.findIndex(([limit]) => value >= limit)})`;

const tip = document.getElementById("tip");
const showTip = (text, at) => {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(at.x + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${at.y + 18 + box.height > innerHeight ? Math.max(8, at.y - box.height - 12) : at.y + 18}px`;
};
const hideTip = () => { tip.hidden = true; };
// Pointer and keyboard alike: hovering or focusing tells, Escape hides.
const explain = (node, text, also = {}) => {
  const middle = () => {
    const box = node.getBoundingClientRect();
    return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
  };
  node.addEventListener("pointermove", (event) => showTip(text(), { x: event.clientX, y: event.clientY }));
  node.addEventListener("pointerenter", () => also.enter?.());
  node.addEventListener("pointerleave", () => { hideTip(); also.leave?.(); });
  node.addEventListener("focus", () => { also.enter?.(); showTip(text(), middle()); });
  node.addEventListener("blur", () => { hideTip(); also.leave?.(); });
  return node;
};
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });

// Arrow keys walk through the marks of a chart; only one of them is in the tab order.
const roving = (marks) => {
  marks.forEach((mark, at) => {
    mark.setAttribute("tabindex", at === 0 ? "0" : "-1");
    mark.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const to = event.key === "Home" ? 0 : event.key === "End" ? marks.length - 1 : step && at + step;
      if (to == null || !marks[to]) return;
      event.preventDefault();
      mark.setAttribute("tabindex", "-1");
      marks[to].setAttribute("tabindex", "0");
      marks[to].focus();
    });
  });
};

const open = (id, heading, lead) => {
  const section = document.getElementById(id);
  section.hidden = false;
  section.append(el("h2", { id: `${id}-h` }, heading));
  if (lead) section.append(el("p", { class: "lead" }, lead));
  return section;
};

// A plain table: columns are [heading, cell of a row, is a number].
const plainTable = (caption, columns, rows) =>
  el("div", { class: "scroll" }, el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, columns.map(([name, , number]) => el("th", { scope: "col", class: number ? "n" : null }, name)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, columns.map(([, cell, number], at) => {
      const content = cell(row);
      return at === 0 ? el("th", { scope: "row", class: number ? "n" : null }, content) : el("td", { class: number ? "n" : null }, content);
    }))))));

const ticks = (low, high, wanted) => {
  const raw = (high - low) / Math.max(1, wanted) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw) ?? raw;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
};

const legend = (entries) =>
  el("ul", { class: "key" }, entries.map(([fill, text]) => el("li", {}, el("i", { style: `background:${fill}` }), text)));
