// The Pareto front, and the curve of isolated against accumulated error.
const AXES = [
  ["size", "file size", (point) => point.bytes, bytes],
  ["bitops", "bit operations", (point) => point.bitops, count],
  ["latency", "predicted time", (point) => point.latency_us, (value) => `${short(value)} µs`],
];

function pointText(point) {
  const mix = Object.entries(point.counts).filter(([, many]) => many).map(([name, many]) => `${many} ${name}`);
  return [
    point.chosen ? "Chosen plan" : "Possible plan",
    `${bytes(point.bytes)}, ${count(point.bitops)} bit operations${point.latency_us == null ? "" : `, ${short(point.latency_us)} µs`}`,
    `predicted ${db(point.predicted_db)}${point.measured_db == null ? "" : `, measured ${db(point.measured_db)}`}${point.metric == null ? "" : `, accuracy ${percent(point.metric)}`}`,
    `groups: ${mix.join(", ")}; ${plural(point.boundaries, "conversion")}`,
  ].join("\n");
}

function drawFront(holder, [id, name, of, print]) {
  const points = R.front.filter((point) => point.axis === id);
  const [width, height, left, bottom] = [920, 330, 64, 46];
  const shown = (point) => [point.predicted_db, point.measured_db].filter((value) => value != null);
  // Float itself has no error at all: it stands at the upper edge, or it would press everything else together.
  const useful = points.flatMap(shown).filter((value) => value > -40 && value < 90);
  const [least, most] = useful.length ? [Math.min(...useful) - 6, Math.max(...useful) + 6] : [0, 90];
  const clamp = (value) => Math.max(least, Math.min(most, value));
  const all = points.flatMap(shown).map(clamp);
  let [low, high] = [Math.min(...all), Math.max(...all)];
  [low, high] = [low - (high - low || 4) * 0.08, high + (high - low || 4) * 0.12];
  let [from, to] = [Math.min(...points.map(of)), Math.max(...points.map(of))];
  [from, to] = [from - (to - from || from || 1) * 0.05, to + (to - from || to || 1) * 0.05];
  const x = (value) => left + ((value - from) / (to - from)) * (width - left - 20);
  const y = (value) => height - bottom - ((clamp(value) - low) / (high - low)) * (height - bottom - 16);
  const chart = drawing(width, height, `Pareto front: ${name} against signal to noise, ${plural(points.length, "plan")}`);
  for (const at of ticks(low, high, 6)) {
    chart.append(svg("line", { class: "grid", x1: left, x2: width - 20, y1: y(at), y2: y(at) }),
      svg("text", { x: left - 8, y: y(at) + 4, "text-anchor": "end" }, String(at)));
  }
  // Sizes are told in powers of 1024: round steps are round there.
  const unit = print === bytes ? 2 ** (10 * Math.floor(Math.log2(Math.max(1, to / 8)) / 10)) : 1;
  for (const at of ticks(from / unit, to / unit, 7).map((value) => value * unit)) {
    chart.append(svg("line", { class: "axis", x1: x(at), x2: x(at), y1: height - bottom, y2: height - bottom + 5 }),
      svg("text", { x: x(at), y: height - bottom + 19, "text-anchor": "middle" }, print(at)));
  }
  chart.append(svg("line", { class: "axis", x1: left, x2: width - 20, y1: height - bottom, y2: height - bottom }),
    svg("text", { x: (left + width) / 2, y: height - 6, "text-anchor": "middle" }, `${name} →`),
    svg("text", { x: 14, y: height / 2 - 20, transform: `rotate(-90 14 ${height / 2 - 20})`, "text-anchor": "middle" }, "signal to noise, dB →"));
  const sorted = [...points].sort((a, b) => of(a) - of(b) || a.predicted_db - b.predicted_db);
  // The chosen plan of another cost's front may lie beside this one: the line passes by it.
  const onFront = (point, at) => sorted.slice(0, at).every((before) => before.predicted_db < point.predicted_db);
  chart.append(svg("polyline", {
    points: sorted.filter(onFront).map((point) => `${x(of(point))},${y(point.predicted_db)}`).join(" "),
    fill: "none", stroke: "var(--accent)", "stroke-width": 1.5, "stroke-opacity": 0.55,
  }));
  const marks = sorted.map((point) => {
    const [px, py] = [x(of(point)), y(point.predicted_db)];
    const mark = svg("g", { role: "img", "aria-label": pointText(point) });
    if (point.measured_db != null) {
      const my = y(point.measured_db);
      mark.append(svg("line", { x1: px, x2: px, y1: py, y2: my, stroke: "var(--soft)", "stroke-dasharray": "2 3" }),
        svg("rect", { x: px - 4, y: my - 4, width: 8, height: 8, fill: "var(--card)", stroke: "var(--ink)", "stroke-width": 1.5, transform: `rotate(45 ${px} ${my})` }));
    }
    mark.append(svg("circle", { class: "mark", cx: px, cy: py, r: point.chosen ? 8 : 5, fill: point.chosen ? "var(--poor)" : "var(--accent)", stroke: "var(--card)", "stroke-width": 1.5 }));
    if (point.chosen) {
      mark.append(svg("text", { class: "strong", x: px > width * 0.85 ? px - 12 : px + 13, y: py + 17, "text-anchor": px > width * 0.85 ? "end" : "start" }, "chosen"));
    }
    return explain(mark, () => pointText(point));
  });
  chart.append(...marks);
  roving(marks);
  holder.replaceChildren(chart);
}

function front() {
  if (!R.front.length) return;
  const section = open("front", "Size and speed against accuracy",
    "Each point is the best plan found at its cost: no other mix of precisions is both cheaper and closer to float. Further up is more accurate, further left is cheaper. The chosen plan keeps every limit at once, so it may lie below the line of one cost.");
  const axes = AXES.filter(([id]) => R.front.some((point) => point.axis === id));
  const holder = el("div", { class: "scroll chart" });
  const buttons = axes.map((axis, at) => el("button", {
    type: "button", "aria-pressed": at === 0,
    onclick: (event) => {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === event.currentTarget)));
      drawFront(holder, axis);
    },
  }, axis[1]));
  buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === 0)));
  if (axes.length > 1) section.append(el("div", { class: "tools", role: "group", "aria-label": "Cost to show" }, buttons));
  section.append(holder, legend([["var(--accent)", "predicted: noise of the groups added up"], ["var(--poor)", "the chosen plan"], ["var(--ink)", "◇ measured on held-back samples"]]));
  if (axes.length) drawFront(holder, axes[0]);
  section.append(el("details", {}, el("summary", {}, `The ${plural(R.front.length, "plan")} as a table`),
    plainTable("Plans of the Pareto front, cheapest first", [
      ["size", (point) => bytes(point.bytes), true], ["bit operations", (point) => count(point.bitops), true],
      ["time", (point) => point.latency_us == null ? "–" : `${short(point.latency_us)} µs`, true],
      ["predicted", (point) => db(point.predicted_db), true], ["measured", (point) => db(point.measured_db), true],
      ["accuracy", (point) => percent(point.metric), true], ["conversions", (point) => point.boundaries, true],
      ["groups", (point) => Object.entries(point.counts).filter(([, many]) => many).map(([name, many]) => `${many} ${name}`).join(", ")],
      ["", (point) => point.chosen ? "chosen" : ""],
    ], R.front)));
}

function errorCurve() {
  const rows = R.layers.map((layer, at) => ({ layer, at })).filter(({ layer }) => layer.local_db != null || layer.accumulated_db != null);
  if (rows.length < 2) return;
  const section = open("error", "Where error comes from and how it grows",
    "From the first layer to the last. Isolated: the error that a layer makes when only it is quantized. Accumulated: the error in its result when everything before it is quantized too. Where the accumulated curve falls sharply, error enters or is amplified.");
  const [width, height, left, bottom] = [920, 280, 52, 34];
  const clamp = (value) => Math.max(-10, Math.min(90, value));
  const all = rows.flatMap(({ layer }) => [layer.local_db, layer.accumulated_db]).filter((value) => value != null).map(clamp);
  const [low, high] = [Math.min(0, ...all), Math.max(...all) + 3];
  const x = (at) => left + (at / Math.max(1, R.layers.length - 1)) * (width - left - 16);
  const y = (value) => height - bottom - ((clamp(value) - low) / (high - low)) * (height - bottom - 12);
  const chart = drawing(width, height, `Isolated and accumulated error of ${plural(rows.length, "layer")}`);
  for (const at of ticks(low, high, 6)) {
    chart.append(svg("line", { class: "grid", x1: left, x2: width - 16, y1: y(at), y2: y(at) }), svg("text", { x: left - 8, y: y(at) + 4, "text-anchor": "end" }, `${at} dB`));
  }
  const line = (key, stroke, dash) => {
    const found = rows.filter(({ layer }) => layer[key] != null);
    return svg("polyline", { points: found.map(({ layer, at }) => `${x(at)},${y(layer[key])}`).join(" "), fill: "none", stroke, "stroke-width": 2, "stroke-dasharray": dash });
  };
  chart.append(line("local_db", "var(--p-w8)", "5 3"), line("accumulated_db", "var(--poor)"));
  const marks = rows.map(({ layer, at }) => {
    const value = layer.accumulated_db ?? layer.local_db;
    const text = `${layer.node || layer.key} (${layer.kind})\nisolated ${db(layer.local_db)}, accumulated ${db(layer.accumulated_db)}`;
    const mark = svg("circle", { class: "mark", role: "img", "aria-label": text, cx: x(at), cy: y(value), r: rows.length > 300 ? 2 : 3.5, fill: layer.accumulated_db == null ? "var(--p-w8)" : "var(--poor)" });
    return explain(mark, () => text);
  });
  chart.append(...marks, svg("text", { x: left, y: height - 8 }, "input"), svg("text", { x: width - 16, y: height - 8, "text-anchor": "end" }, "output"));
  roving(marks);
  section.append(el("div", { class: "scroll chart" }, chart), legend([["var(--p-w8)", "isolated (dashed)"], ["var(--poor)", "accumulated"]]));
}
