// Summary, how to repeat, theme, navigation; then everything is drawn.
const meanBits = () => {
  const elements = (row) => row.rows * row.columns;
  return R.stored.reduce((sum, row) => sum + row.bits_per_weight * elements(row), 0) / Math.max(1, R.stored.reduce((sum, row) => sum + elements(row), 0));
};

function summary() {
  const section = document.getElementById("summary");
  const v = R.verdict;
  document.getElementById("where").textContent = R.model;
  section.append(el("h1", { id: "summary-h" }, R.model), el("p", { class: "lead" }, `Quantized for ${R.target || "no particular runtime"} by ${R.program}.`));
  section.append(el("div", { class: `verdict ${v.level}`, role: "note", "aria-label": "Verdict" }, el("b", {}, v.level),
    el("div", {}, el("p", {}, v.headline), v.because.length ? el("ul", {}, v.because.map((line) => el("li", {}, line))) : null)));
  const worst = R.outputs.reduce((least, output) => !least || output.sqnr_db < least.sqnr_db ? output : least, null);
  const agreement = R.outputs.map((output) => output.top1_agreement).filter((value) => value != null);
  const quantized = R.layers.filter((layer) => layer.precision !== "float").length;
  const chosen = R.front.find((point) => point.chosen);
  const tiles = [
    ["file size", bytes(R.size.after ?? R.size.before), R.size.after ? `${bytes(R.size.before)} before, ${(R.size.before / R.size.after).toFixed(2)} × smaller` : "not written"],
    worst ? ["signal to noise", db(worst.sqnr_db), `error is ${percent(10 ** (-worst.sqnr_db / 20), 2)} of the signal`] : null,
    R.metric ? [`${R.metric.name} accuracy`, percent(R.metric.quantized), `float ${percent(R.metric.float)}, ${plural(R.metric.samples, "sample")}`] : null,
    agreement.length ? ["same first choice", percent(Math.min(...agreement)), "as the float model"] : null,
    R.integer_share == null ? null : ["multiplications on integers", percent(R.integer_share), "predicted for the target"],
    chosen ? ["conversions", String(chosen.boundaries), "where precisions of neighbours differ"] : null,
    R.stored.length ? ["bits a weight", meanBits().toFixed(2), `with scales, of ${plural(R.stored.length, "weight")}`] : null,
    R.layers.length && !R.stored.length ? ["layers quantized", `${quantized} of ${R.layers.length}`, null] : null,
  ].filter(Boolean);
  section.append(el("dl", { class: "tiles" }, tiles.map(([name, value, small]) => el("div", {}, el("dt", {}, name), el("dd", {}, value, small ? el("small", {}, small) : null)))));
  if (R.budgets.length) section.append(el("h3", {}, "What was asked for"), plainTable("Budgets", [
    ["asked", (row) => el("code", {}, row.asked)], ["reached", (row) => row.reached], ["", (row) => row.met ? "✓ holds" : el("span", { class: "warn" }, "✗ missed")],
  ], R.budgets));
  if (R.outputs.length) section.append(el("h3", {}, "Outputs, float against quantized"), plainTable("On samples that calibration did not see, where there were enough", [
    ["runtime", (row) => row.runtime], ["output", (row) => row.name], ["signal to noise", (row) => db(row.sqnr_db), true], ["cosine", (row) => row.cosine?.toFixed(5) ?? "–", true],
    ["largest difference", (row) => short(row.max_abs), true], ["KL divergence", (row) => short(row.kl), true], ["same first choice", (row) => percent(row.top1_agreement), true], ["samples", (row) => row.samples, true],
  ], R.outputs));
  if (R.notes.length) section.append(el("h3", {}, "Notes"), el("ul", {}, R.notes.map((note) => el("li", { class: /RANDOM|NOTHING/.test(note) ? "warn" : /not verified/.test(note) ? "care" : null }, note))));
}

function repeat() {
  const section = open("repeat", "How to repeat this");
  if (R.command) section.append(el("pre", {}, el("code", {}, R.command)));
  if (R.settings.length) section.append(plainTable("Settings", [["setting", ([name]) => name], ["value", ([, value]) => value]], R.settings));
  if (R.hashes.length) section.append(el("h3", {}, "Fingerprints (SHA-256)"), plainTable("What exactly was used", [["of", ([name]) => name], ["digits", ([, digits]) => el("code", {}, digits)]], R.hashes));
  section.append(el("p", { class: "note" }, "Signal to noise (SQNR) compares the strength of the float result with the strength of the difference: 20 dB is an error of 10 % of the signal, 40 dB of 1 %. KL divergence compares the probabilities that a softmax makes of the outputs. All numbers of this page are embedded in it as JSON, in the element with the id “data”."));
}

function theme() {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const apply = () => {
    const on = chosen ?? dark.matches;
    document.documentElement.dataset.theme = on ? "dark" : "light";
    button.setAttribute("aria-pressed", String(on));
  };
  button.addEventListener("click", () => { chosen = !(chosen ?? dark.matches); apply(); });
  dark.addEventListener("change", apply);
  apply();
}

theme();
[summary, front, sensitivity, errorCurve, stored, graph, values, weights, layers, kept, coverage, repeat].forEach((part) => part());
document.getElementById("nav").append(...[...document.querySelectorAll("main section")].filter((section) => !section.hidden).map((section) => {
  const names = { summary: "Summary", front: "Pareto front", sensitivity: "Sensitivity", error: "Error", graph: "Model", layers: "Layers", values: "Ranges", stored: "Few bits", weights: "Weights", kept: "Not quantized", coverage: "Data", repeat: "Repeat" };
  return el("li", {}, el("a", { href: `#${section.id}` }, names[section.id]));
}));
document.documentElement.dataset.ready = "true";
