// Weights: by size and type, and each weight of few bits with what that cost.
function stored() {
  if (!R.stored.length) return;
  const section = open("stored", "Weights of few bits",
    "Every weight that is stored in few bits. Its error is a share of its own size; where the method looked at data, the error of what the layer computes tells more. Long bars lose most.");
  const loss = (row) => row.output_error ?? row.error;
  const rows = [...R.stored].sort((a, b) => (loss(b) ?? -1) - (loss(a) ?? -1));
  const told = rows.filter((row) => loss(row) != null);
  const text = (row) => `${row.name}\n${row.rows} × ${row.columns}, ${row.bits} bits by ${row.method}, ${row.block ? `blocks of ${row.block}` : "a scale a row"}\n${row.bits_per_weight.toFixed(3)} bits a weight with scales, ${bytes(row.before)} → ${bytes(row.after)}\nerror of the weight ${percent(row.error, 2)}, of the layer's output ${percent(row.output_error, 2)}`;
  const limit = 30;
  let all = false;
  const holder = el("div", { class: "scroll chart" });
  const draw = () => {
    const shown = all ? told : told.slice(0, limit);
    const [width, left, step] = [920, 300, 21];
    const height = shown.length * step + 34;
    const most = Math.max(1e-9, ...told.map(loss)) * 1.02;
    const x = (value) => left + (value / most) * (width - left - 190);
    const chart = drawing(width, height, `Error of ${plural(told.length, "weight")}, the greatest first`);
    for (const at of ticks(0, most, 5)) {
      chart.append(svg("line", { class: "grid", x1: x(at), x2: x(at), y1: 0, y2: height - 24 }), svg("text", { x: x(at), y: height - 8, "text-anchor": "middle" }, percent(at)));
    }
    const marks = shown.map((row, at) => {
      const y = at * step + 3;
      const mark = svg("g", { role: "img", "aria-label": text(row) },
        svg("rect", { class: "mark", x: left, y, width: Math.max(1, x(loss(row)) - left), height: 14, rx: 2, fill: colour(`w${row.bits}`) }),
        svg("text", { x: left - 10, y: y + 11, "text-anchor": "end" }, row.name.length > 42 ? `…${row.name.slice(-41)}` : row.name),
        svg("text", { class: "strong", x: width - 4, y: y + 11, "text-anchor": "end" }, `${percent(loss(row), 2)} at ${row.bits_per_weight.toFixed(2)} bits`));
      return explain(mark, () => text(row));
    });
    chart.append(...marks);
    roving(marks);
    holder.replaceChildren(chart);
    more.hidden = told.length <= limit;
    more.textContent = all ? `Show the worst ${limit}` : `Show all ${told.length}`;
  };
  const more = el("button", { type: "button", class: "more", onclick: () => { all = !all; draw(); } });
  const widths = [...new Set(rows.map((row) => row.bits))].sort((a, b) => a - b);
  if (told.length) {
    section.append(holder, more, legend(widths.map((bits) => [colour(`w${bits}`), `${bits}-bit codes`])));
    draw();
  }
  const size = (key) => rows.reduce((sum, row) => sum + row[key], 0);
  section.append(el("details", told.length ? {} : { open: true }, el("summary", {}, `The ${plural(rows.length, "weight")} as a table`),
    plainTable(`${bytes(size("before"))} before, ${bytes(size("after"))} after, the greatest error first`, [
      ["weight", (row) => el("span", { class: "mono" }, row.name)], ["rows × columns", (row) => `${row.rows} × ${row.columns}`, true],
      ["method", (row) => row.method], ["bits", (row) => row.bits, true], ["share a scale", (row) => row.block || "a row", true],
      ["bits with scales", (row) => row.bits_per_weight.toFixed(3), true], ["before", (row) => bytes(row.before), true], ["after", (row) => bytes(row.after), true],
      ["error", (row) => percent(row.error, 2), true], ["error of the layer", (row) => percent(row.output_error, 2), true], ["why", (row) => row.reason],
    ], rows)));
}

function weights() {
  if (!R.weights.length) return;
  const section = open("weights", "Weights by size and type", "Bytes of constants in the file before and after.");
  const written = R.weights.some((row) => row.after > 0);
  const total = (key) => R.weights.reduce((sum, row) => sum + row[key], 0);
  const most = Math.max(1, total("before"), total("after"));
  const [width, left] = [920, 70];
  const chart = drawing(width, written ? 78 : 42, `Constants: ${bytes(total("before"))} before, ${bytes(total("after"))} after`);
  const tone = (dtype) => ({ float: "float", float32: "float", double: "float", float64: "float", float16: "fp16", bfloat16: "fp16", int8: "int8", uint8: "int8", int4: "w4", uint4: "w4", int32: "w8" }[dtype] ?? "other");
  (written ? ["before", "after"] : ["before"]).forEach((key, row) => {
    let at = left;
    chart.append(svg("text", { x: 0, y: row * 36 + 20 }, key));
    for (const type of R.weights) {
      const wide = (type[key] / most) * (width - left - 90);
      if (wide < 0.2) continue;
      chart.append(svg("rect", { x: at, y: row * 36 + 4, width: wide, height: 24, fill: `var(--p-${tone(type.dtype)})`, stroke: "var(--card)" }, svg("title", {}, `${type.dtype}: ${bytes(type[key])}`)));
      at += wide;
    }
    chart.append(svg("text", { class: "strong", x: at + 8, y: row * 36 + 20 }, bytes(total(key))));
  });
  section.append(el("div", { class: "scroll chart" }, chart), plainTable("Constants by element type", [
    ["type", (row) => el("span", {}, el("i", { class: "dot", style: `display:inline-block;width:.7rem;height:.7rem;border-radius:3px;margin-right:.4rem;background:var(--p-${tone(row.dtype)})` }), row.dtype)],
    ["before", (row) => bytes(row.before), true], ["after", (row) => bytes(row.after), true],
  ], R.weights));
  const heavy = R.layers.filter((layer) => layer.bytes).sort((a, b) => b.bytes - a.bytes).slice(0, 8);
  if (heavy.length) section.append(el("h3", {}, "The largest"), plainTable("Layers with the most bytes of constants", [
    ["layer", (layer) => layer.node || layer.key], ["type", (layer) => layer.kind], ["precision", (layer) => layer.precision], ["bytes before", (layer) => bytes(layer.bytes), true],
    ["share", (layer) => percent(layer.bytes / Math.max(1, total("before"))), true],
  ], heavy));
}
