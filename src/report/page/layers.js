// Sensitivity as bars, and all layers as a table that is searched, filtered and sorted.
let findLayer = () => {};

function sensitivity() {
  const groups = R.layers.filter((layer) => layer.candidates.length);
  if (!groups.length) return;
  const names = PRECISIONS.filter((name) => groups.some((layer) => layer.candidates.some((candidate) => candidate.precision === name)));
  const section = open("sensitivity", "Which layers are hurt by quantization",
    "What happens to the model's outputs when one group of layers is quantized and everything else stays float. Long bars are harmful. The thin line is the interval in which the true value lies with 90 % confidence.");
  const limit = 30;
  // What most layers were to become comes first: half precision harms nobody.
  let [precision, all] = [names.find((name) => !["float", "fp16"].includes(name)) ?? names[0], false];
  const holder = el("div", { class: "scroll chart" });
  const draw = () => {
    const rows = groups.map((layer) => ({ layer, found: layer.candidates.find((candidate) => candidate.precision === precision) }))
      .filter((row) => row.found).sort((a, b) => a.found.global_db - b.found.global_db);
    const shown = all ? rows : rows.slice(0, limit);
    const [width, left, step] = [920, 300, 21];
    const height = shown.length * step + 34;
    const clamp = (value) => Math.max(-10, Math.min(100, value));
    const ends = rows.flatMap(({ found }) => [clamp(found.low_db), clamp(found.high_db)]);
    const [worst, best] = [Math.min(...ends), Math.max(...ends)];
    const floor = Math.min(best + 2, 100);
    const x = (value) => left + ((floor - clamp(value)) / (floor - worst || 1)) * (width - left - 78);
    const chart = drawing(width, height, `Damage by group at ${precision}, the worst first`);
    for (const at of ticks(worst, floor, 6)) {
      chart.append(svg("line", { class: "grid", x1: x(at), x2: x(at), y1: 0, y2: height - 24 }), svg("text", { x: x(at), y: height - 8, "text-anchor": "middle" }, `${at} dB`));
    }
    const marks = shown.map(({ layer, found }, at) => {
      const y = at * step + 3;
      const name = layer.node || layer.key;
      const text = `${name} (${layer.kind}), ${precision}\noutputs ${db(found.global_db)}, between ${db(found.low_db)} and ${db(found.high_db)}\nits own result ${db(found.local_db)}, cosine ${found.cosine.toFixed(5)}, KL ${short(found.kl)}${found.metric == null ? "" : `, accuracy ${percent(found.metric)}`}\n${plural(found.samples, "sample")}; now ${layer.precision}`;
      const mark = svg("g", { role: "img", "aria-label": text },
        svg("rect", { class: "mark", x: left, y, width: Math.max(1, x(found.global_db) - left), height: 14, rx: 2, fill: heat(found.global_db) }),
        svg("line", { x1: x(found.low_db), x2: x(found.high_db), y1: y + 7, y2: y + 7, stroke: "var(--ink)", "stroke-width": 1.5 }),
        svg("line", { x1: x(found.low_db), x2: x(found.low_db), y1: y + 3, y2: y + 11, stroke: "var(--ink)" }),
        svg("line", { x1: x(found.high_db), x2: x(found.high_db), y1: y + 3, y2: y + 11, stroke: "var(--ink)" }),
        svg("text", { x: left - 10, y: y + 11, "text-anchor": "end" }, name.length > 42 ? `…${name.slice(-41)}` : name),
        svg("text", { class: "strong", x: width - 4, y: y + 11, "text-anchor": "end" }, db(found.global_db)));
      mark.addEventListener("click", () => findLayer(layer.key));
      return explain(mark, () => text);
    });
    chart.append(...marks);
    roving(marks);
    holder.replaceChildren(chart);
    more.hidden = rows.length <= limit;
    more.textContent = all ? `Show the worst ${limit}` : `Show all ${rows.length}`;
  };
  const more = el("button", { type: "button", class: "more", onclick: () => { all = !all; draw(); } });
  const choice = el("select", { onchange: (event) => { precision = event.target.value; draw(); } }, names.map((name) => el("option", { value: name, selected: name === precision }, `${name}: ${MEANING[name] ?? name}`)));
  section.append(el("div", { class: "tools" }, el("label", {}, "when quantized to", choice)), holder, more,
    legend(STEPS.map(([, text], at) => [`var(--e${at})`, `error ${text} of the signal`])));
  draw();
}

function layers() {
  if (!R.layers.length) return;
  const section = open("layers", "Every layer", "Search names, types and reasons; choose a column to sort.");
  const known = [
    ["#", (layer, at) => at, (layer, at) => String(at + 1), true],
    ["layer", (layer) => layer.node || layer.key, (layer) => el("span", { class: "mono" }, layer.node || layer.key)],
    ["type", (layer) => layer.kind, (layer) => layer.kind],
    ["precision", (layer) => layer.precision, (layer) => el("span", { class: "tag", style: `color:${colour(layer.precision)}` }, layer.precision)],
    ["kernel", (layer) => layer.kernel, (layer) => layer.kernel],
    ["multiplications", (layer) => layer.macs, (layer) => layer.macs ? count(layer.macs) : "", true],
    ["weights", (layer) => layer.bytes, (layer) => layer.bytes ? bytes(layer.bytes) : "", true],
    ["isolated", (layer) => layer.local_db ?? 1e9, (layer) => layer.local_db == null ? "" : db(layer.local_db), true],
    ["accumulated", (layer) => layer.accumulated_db ?? 1e9, (layer) => layer.accumulated_db == null ? "" : db(layer.accumulated_db), true],
    ["outputs", (layer) => damage(layer)?.global_db ?? 1e9, (layer) => damage(layer) ? db(damage(layer).global_db) : "", true],
    ["why", (layer) => layer.reason, (layer) => layer.reason],
  ];
  // A column in which nothing stands says nothing.
  const columns = known.filter(([, , cell], column) => column < 4 || R.layers.some((layer, at) => cell(layer, at) !== ""));
  const page = 50;
  let [sort, direction, shown] = [0, 1, page];
  const search = el("input", { type: "search", id: "search", placeholder: "name, type or reason", oninput: () => { shown = page; fill(); } });
  const pick = (name, values) => el("select", { "aria-label": name, onchange: () => { shown = page; fill(); } },
    el("option", { value: "" }, `any ${name}`), values.map((value) => el("option", { value }, value)));
  const distinct = (of) => [...new Set(R.layers.map(of))].sort();
  const [precision, kind] = [pick("precision", distinct((layer) => layer.precision)), pick("type", distinct((layer) => layer.kind))];
  const found = el("output", { id: "found", "aria-live": "polite" });
  const body = el("tbody");
  const more = el("button", { type: "button", class: "more", onclick: () => { shown += 10 * page; fill(); } }, "Show more");
  const heads = columns.map(([name, , , number], at) => el("th", { scope: "col", class: number ? "n" : null },
    el("button", { type: "button", onclick: () => { [sort, direction] = [at, sort === at ? -direction : 1]; fill(); } }, name)));
  const fill = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = R.layers.map((layer, at) => ({ layer, at })).filter(({ layer }) => {
      const text = `${layer.node} ${layer.key} ${layer.kind} ${layer.precision} ${layer.reason}`.toLowerCase();
      return words.every((word) => text.includes(word)) && (!precision.value || layer.precision === precision.value) && (!kind.value || layer.kind === kind.value);
    });
    const key = columns[sort][1];
    rows.sort((a, b) => {
      const [left, right] = [key(a.layer, a.at), key(b.layer, b.at)];
      return direction * (typeof left === "number" ? left - right : String(left).localeCompare(String(right))) || a.at - b.at;
    });
    body.replaceChildren(...rows.slice(0, shown).map(({ layer, at }) => el("tr", {}, columns.map(([, , cell, number], column) =>
      el("td", { class: number ? "n" : ["", "name", "word", "word", "word"][column] ?? null }, cell(layer, at))))));
    heads.forEach((head, at) => head.setAttribute("aria-sort", at === sort ? (direction > 0 ? "ascending" : "descending") : "none"));
    found.textContent = `${rows.length} of ${plural(R.layers.length, "layer")}`;
    more.hidden = rows.length <= shown;
  };
  findLayer = (key) => {
    [search.value, precision.value, kind.value] = [key, "", ""];
    fill();
    section.scrollIntoView();
    search.focus({ preventScroll: true });
  };
  section.append(
    el("div", { class: "tools", role: "search" }, el("label", { for: "search" }, "Search"), search, precision, kind, found),
    el("div", { class: "scroll" }, el("table", {}, el("caption", {}, "isolated: error of the layer's own result when only its group is quantized; accumulated: with everything before it quantized; outputs: error of the model's outputs when only its group is quantized"), el("thead", {}, el("tr", {}, heads)), body)), more);
  fill();
}
