// The graph: one cell a layer, columns by distance from the input, wrapped into bands; coloured by precision or by error.
function layout() {
  const depth = [];
  R.layers.forEach((layer, at) => { depth[at] = layer.inputs.reduce((most, from) => Math.max(most, (depth[from] ?? -1) + 1), 0); });
  const lanes = new Map();
  const cells = R.layers.map((layer, at) => {
    const lane = lanes.get(depth[at]) ?? 0;
    lanes.set(depth[at], lane + 1);
    return { at, column: depth[at], lane };
  });
  const columns = Math.max(0, ...depth) + 1;
  const size = columns > 400 ? 12 : columns > 120 ? 16 : 22;
  const wrap = Math.max(8, Math.floor(1100 / (size + 6)));
  // Every band is as high as its fullest column.
  const heights = [];
  for (const cell of cells) {
    const band = Math.floor(cell.column / wrap);
    heights[band] = Math.max(heights[band] ?? 1, Math.min(cell.lane + 1, 40));
  }
  const tops = heights.reduce((found, height, band) => { found.push(band === 0 ? 6 : found[band - 1] + heights[band - 1] * (size + 5) + 16); return found; }, []);
  for (const cell of cells) {
    cell.band = Math.floor(cell.column / wrap);
    cell.x = 6 + (cell.column % wrap) * (size + 6);
    cell.y = (tops[cell.band] ?? 6) + (cell.lane % 40) * (size + 5);
  }
  const last = heights.length - 1;
  return { cells, size, width: 12 + Math.min(columns, wrap) * (size + 6), height: (tops[last] ?? 0) + (heights[last] ?? 1) * (size + 5) + 8 };
}

// What a layer's group does to the outputs, at the precision that it has (or at its cheapest candidate).
const firstOfGroup = new Map();
R.layers.forEach((layer) => { if (layer.candidates.length && !firstOfGroup.has(layer.group)) firstOfGroup.set(layer.group, layer); });
const damage = (layer, precision = layer.precision) => {
  const candidates = firstOfGroup.get(layer.group)?.candidates ?? [];
  return candidates.find((candidate) => candidate.precision === precision) ?? candidates.find((candidate) => candidate.precision === "int8") ?? candidates[0];
};
const layerText = (layer) => {
  const found = layer.precision === "float" && !firstOfGroup.has(layer.group) ? null : damage(layer);
  return [
    `${layer.node || layer.key} (${layer.kind})`,
    `${layer.precision}: ${layer.reason}`,
    layer.macs ? `${count(layer.macs)} multiplications, ${bytes(layer.bytes)} of weights` : null,
    found ? `quantized alone (${found.precision}): outputs ${db(found.global_db)}` : null,
    layer.accumulated_db == null ? null : `accumulated error here ${db(layer.accumulated_db)}`,
  ].filter(Boolean).join("\n");
};

function graph() {
  if (!R.layers.length) return;
  const section = open("graph", "The model", "One square a layer, from the input (left) to the output; long models continue in the next band. Point at a square, or use the arrow keys, to see what it is and what it is connected to.");
  const { cells, size, width, height } = layout();
  const chart = drawing(width, height, `Graph of ${plural(R.layers.length, "layer")}`);
  const edges = svg("g", { "aria-hidden": "true" });
  const readers = R.layers.map(() => []);
  const lines = new Map();
  R.layers.forEach((layer, to) => layer.inputs.forEach((from) => {
    readers[from]?.push(to);
    const [a, b] = [cells[from], cells[to]];
    if (!a || a.band !== b.band) return;
    const bend = b.column - a.column > 1 ? `Q ${(a.x + size + b.x) / 2} ${Math.max(a.y, b.y) + size * 1.15}` : "L";
    const path = svg("path", { class: "edge", d: `M ${a.x + size} ${a.y + size / 2} ${bend} ${b.x} ${b.y + size / 2}` });
    lines.set(`${from} ${to}`, path);
    edges.append(path);
  }));
  const squares = cells.map((cell) => {
    const layer = R.layers[cell.at];
    const square = svg("rect", { class: "cell mark", role: "img", "aria-label": layerText(layer), x: cell.x, y: cell.y, width: size, height: size, rx: 3 });
    const near = () => [...layer.inputs.map((from) => [from, `${from} ${cell.at}`]), ...readers[cell.at].map((to) => [to, `${cell.at} ${to}`])];
    const mark = (on) => {
      chart.classList.toggle("dim", on);
      square.classList.toggle("on", on);
      for (const [other, line] of near()) { squares[other]?.classList.toggle("on", on); lines.get(line)?.classList.toggle("on", on); }
    };
    square.addEventListener("click", () => findLayer(layer.key));
    square.addEventListener("keydown", (event) => { if (event.key === "Enter") findLayer(layer.key); });
    return explain(square, () => layerText(layer), { enter: () => mark(true), leave: () => mark(false) });
  });
  chart.append(edges, ...squares);
  roving(squares);
  const keys = el("div");
  const used = PRECISIONS.filter((name) => R.layers.some((layer) => layer.precision === name));
  const ways = [
    ["precision", (layer) => colour(layer.precision), () => legend(used.map((name) => [colour(name), `${name}: ${MEANING[name]}`]))],
  ];
  const steps = () => legend([...STEPS.map(([, text], at) => [`var(--e${at})`, `error ${text} of the signal`]), ["var(--line)", "not measured"]]);
  if (firstOfGroup.size) ways.push(["damage to the outputs", (layer) => heat(damage(layer)?.global_db), steps]);
  if (R.layers.some((layer) => layer.accumulated_db != null)) ways.push(["accumulated error", (layer) => heat(layer.accumulated_db), steps]);
  const paint = ([, fill, key]) => {
    squares.forEach((square, at) => square.setAttribute("fill", fill(R.layers[at])));
    keys.replaceChildren(key());
  };
  const buttons = ways.map((way, at) => el("button", {
    type: "button", "aria-pressed": String(at === 0),
    onclick: (event) => {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button === event.currentTarget)));
      paint(way);
    },
  }, way[0]));
  section.append(el("div", { class: "tools", role: "group", "aria-label": "Colour by" }, "colour by", buttons), el("div", { class: "graphbox chart" }, chart), keys);
  paint(ways[0]);
}
