// Activation histograms with the chosen range, what stayed in float, coverage.
function histogram(value) {
  const [width, height] = [250, 64];
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height + 14}`, width: "100%", role: "img", "aria-label": `Histogram of ${value.name}: seen ${short(value.extent?.[0])} to ${short(value.extent?.[1])}, covered ${short(value.range?.[0])} to ${short(value.range?.[1])}` });
  const bins = value.histogram;
  const [seenLow, seenHigh] = value.extent ?? [0, 1];
  const low = Math.min(seenLow, value.range?.[0] ?? seenLow), high = Math.max(seenHigh, value.range?.[1] ?? seenHigh);
  const x = (at) => ((at - low) / (high - low || 1)) * width;
  // Logarithmic height: the rare large numbers are what a range decides about.
  const most = Math.log1p(Math.max(1, ...bins));
  if (value.range) chart.append(svg("rect", { x: x(value.range[0]), y: 0, width: Math.max(1, x(value.range[1]) - x(value.range[0])), height, fill: "var(--accent)", "fill-opacity": 0.1 }));
  bins.forEach((many, at) => {
    if (!many) return;
    const [from, to] = [seenLow + ((seenHigh - seenLow) * at) / bins.length, seenLow + ((seenHigh - seenLow) * (at + 1)) / bins.length];
    const middle = (from + to) / 2;
    const inside = !value.range || (middle >= value.range[0] && middle <= value.range[1]);
    const tall = Math.max(1, (Math.log1p(many) / most) * (height - 4));
    chart.append(svg("rect", { x: x(from), y: height - tall, width: Math.max(0.8, x(to) - x(from) - 0.4), height: tall, fill: inside ? "var(--p-int8)" : "var(--poor)" }));
  });
  for (const end of value.range ?? []) chart.append(svg("line", { x1: x(end), x2: x(end), y1: 0, y2: height, stroke: "var(--accent)", "stroke-width": 1.5 }));
  chart.append(svg("line", { class: "axis", x1: 0, x2: width, y1: height, y2: height }), svg("text", { x: 0, y: height + 12 }, short(low)), svg("text", { x: width, y: height + 12, "text-anchor": "end" }, short(high)));
  return chart;
}

function values() {
  if (!R.values.length) return;
  const section = open("values", "Ranges of activations",
    "The numbers that calibration saw, on a logarithmic scale of how often, and the range that the codes cover (shaded). Numbers beyond it (red) are clipped to its ends. The ones with the most rounding error come first.");
  const order = [...R.values].sort((a, b) => (a.sqnr_db ?? 1e9) - (b.sqnr_db ?? 1e9));
  let shown = 12;
  const cards = el("div", { class: "cards" });
  const search = el("input", { type: "search", "aria-label": "Search values", placeholder: "name", oninput: () => { shown = 12; fill(); } });
  const found = el("output", { "aria-live": "polite" });
  const more = el("button", { type: "button", class: "more", onclick: () => { shown += 60; fill(); } }, "Show more");
  const fill = () => {
    const rows = order.filter((value) => value.name.toLowerCase().includes(search.value.toLowerCase()));
    cards.replaceChildren(...rows.slice(0, shown).map((value) => el("figure", { class: "card" }, histogram(value), el("figcaption", {}, el("strong", { class: "mono" }, value.name),
      `${value.code}, range ${short(value.range?.[0])} to ${short(value.range?.[1])} (${value.source || "not set"}); clipped ${percent(value.clipped, 3)}; rounding ${db(value.sqnr_db)}`))));
    found.textContent = `${rows.length} of ${plural(R.values.length, "value")}`;
    more.hidden = rows.length <= shown;
  };
  section.append(el("div", { class: "tools", role: "search" }, search, found), cards, more);
  fill();
}

function kept() {
  if (!R.kept.length) return;
  const section = open("kept", "What was not quantized, and why");
  section.append(plainTable("Operators in float by type and reason", [
    ["type", (row) => row.kind], ["how many", (row) => row.count, true], ["why", (row) => row.reason],
    ["which", (row) => `${row.names.join(", ")}${row.count > row.names.length ? ", …" : ""}`],
  ], R.kept));
}

function coverage() {
  const c = R.coverage;
  if (!c) return;
  const section = open("coverage", "Were the calibration data enough?");
  const settled = c.settled_after == null ? null : c.settled_after * 2 > c.samples ? "late: more samples may widen the ranges" : "early: more samples would change little";
  if (c.random) section.append(el("p", { class: "warn" }, "The data were made up. Ranges and figures say nothing about real inputs."));
  section.append(el("dl", { class: "tiles" }, [
    ["samples", c.samples, null], ["values seen", c.values, c.never_seen.length ? `${c.never_seen.length} never` : "all of them"],
    ["ranges settled after", c.settled_after == null ? "–" : plural(c.settled_after, "sample"), settled],
    ["NaN or infinity", c.not_finite.length ? plural(c.not_finite.length, "value") : "none", null],
  ].map(([name, value, small]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value), small ? el("small", {}, small) : null)))));
  const drift = c.drift.filter(([, share]) => share > 0);
  if (drift.length) section.append(el("h3", {}, "Ranges that depend most on which samples were used"), plainTable("Difference of the ranges of two halves of the data, as a share of the whole range", [["value", ([name]) => name], ["difference", ([, share]) => percent(share), true]], drift));
  if (c.not_finite.length) section.append(plainTable("Values that held NaN or infinity", [["value", ([name]) => name], ["elements", ([, many]) => many, true]], c.not_finite));
}
