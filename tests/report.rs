//! The report in a real browser: no console errors, charts present, search works; for 500 layers below 3 MB, and 2,000
//! layers still work. Needs Chromium; without it the test says so and passes.

#[path = "support/json_schema.rs"]
mod json_schema;

use std::path::{Path, PathBuf};
use std::process::Command;

use onnxq::report::schema::{
    Budget, Candidate, Coverage, Kept, Layer, Level, Metric, Output, Point, Report, SCHEMA, Size, Stored,
    TypeSize, Value, Verdict,
};
use onnxq::report::{html, json};

/// A made-up model of this many layers, with everything that a report can hold.
fn report(count: usize) -> Report {
    let wave = |at: usize, by: usize| ((at * by) % 97) as f64 / 97.0;
    let kinds = ["Conv", "Relu", "Conv", "Add", "MaxPool", "Conv", "Sigmoid", "Mul"];
    let layers = (0..count).map(|at| {
        let kind = kinds[at % kinds.len()];
        let product = kind == "Conv";
        let precision = if !product { "float" } else { ["int8", "int8", "w8", "int8", "float"][at / 2 % 5] };
        let candidate = |name: &str, better: f64| {
            let global_db = 22.0 + better + 40.0 * wave(at, 31);
            Candidate {
                precision: name.into(),
                local_db: 35.0 + better + 10.0 * wave(at, 17),
                global_db,
                low_db: global_db - 1.0 - 2.0 * wave(at, 7),
                high_db: global_db + 1.0 + 2.0 * wave(at, 5),
                cosine: 0.9999,
                kl: 1e-4 * wave(at, 3),
                metric: Some(0.58 - 0.02 * wave(at, 11)),
                samples: 8 + at % 24,
            }
        };
        Layer {
            key: format!("features.{}.{}_output", at / 8, at % 8),
            node: format!("/features/{}/{kind}_{at}", at / 8),
            kind: kind.into(),
            group: at,
            precision: precision.into(),
            kernel: if precision == "int8" { "integer" } else { "float" }.into(),
            reason: if product { "product with a constant weight" } else { "an input is not quantized" }
                .into(),
            macs: if product { 1_000_000 + 37_000 * at as u64 } else { 0 },
            bytes: if product { 9_216 + 512 * at as u64 } else { 0 },
            inputs: match at {
                0 => vec![],
                _ if kind == "Add" && at > 3 => vec![at - 1, at - 3],
                _ => vec![at - 1],
            },
            local_db: product.then(|| 30.0 + 12.0 * wave(at, 17)),
            accumulated_db: Some(45.0 - 22.0 * at as f64 / count as f64 - 4.0 * wave(at, 13)),
            candidates: if product { vec![candidate("int8", 0.0), candidate("w8", 9.0)] } else { vec![] },
        }
    });
    let value = |at: usize| Value {
        name: format!("features.{}.{}_output", at / 8, at % 8),
        code: "uint8".into(),
        range: Some((-1.0, 4.0)),
        extent: Some((-1.5, 6.0 + at as f32 % 5.0)),
        source: "mse".into(),
        clipped: Some(0.0002),
        sqnr_db: Some(38.0 - 9.0 * wave(at, 23)),
        histogram: (0..48u64)
            .map(|bin| (60_000.0 * (-((bin as f64 - 14.0) / 7.0).powi(2)).exp()) as u64 + bin % 3)
            .collect(),
        reason: "for Conv".into(),
    };
    let stored = |at: usize| Stored {
        name: format!("layers.{at}.weight"),
        rows: 256,
        columns: 128 + at,
        method: "gptq".into(),
        bits: [2, 4, 4, 8][at / 2 % 4],
        block: 32,
        bits_per_weight: 4.5,
        before: 131_072,
        after: 18_432,
        error: Some(0.02 + 0.1 * wave(at, 19)),
        output_error: at.is_multiple_of(4).then(|| 0.01 + 0.05 * wave(at, 29)),
        reason: "--bits".into(),
    };
    let point = |at: usize| Point {
        axis: ["size", "bitops"][at % 2].into(),
        bytes: 1_300_000 + 170_000 * at as u64,
        bitops: 9_000_000_000 + 800_000_000 * at as u64,
        latency_us: Some(900.0 + 35.0 * at as f64),
        predicted_db: 14.0 + 30.0 * (1.0 - (-(at as f64) / 6.0).exp()),
        measured_db: (at % 4 == 1).then(|| 13.5 + 29.0 * (1.0 - (-(at as f64) / 6.0).exp())),
        metric: (at % 4 == 1).then_some(0.575),
        counts: [("float".to_string(), at), ("int8".to_string(), 20 - at)].into(),
        boundaries: at,
        chosen: at == 5,
    };
    Report {
        schema: SCHEMA,
        program: "onnxq 0.1.0".into(),
        model: "planted_resnet.onnx".into(),
        target: "ort-cpu".into(),
        verdict: Verdict {
            level: Level::Good,
            headline: "The quantized model behaves like the original: top-1 accuracy 58.2 % against 58.5 %."
                .into(),
            because: vec!["signal to noise of the worst output is 24.8 dB, an error of 5.8 %".into()],
        },
        size: Size { before: 4_900_000, after: Some(1_420_000) },
        integer_share: Some(0.968),
        outputs: ["tract 0.23.9", "ort 1.31 basic", "ort 1.31 all"]
            .map(|runtime| Output {
                runtime: runtime.into(),
                name: "logits".into(),
                samples: 20,
                sqnr_db: 24.8,
                cosine: 0.9985,
                max_abs: 0.81,
                kl: 0.0031,
                top1_agreement: Some(0.95),
            })
            .to_vec(),
        metric: Some(Metric { name: "top-1".into(), float: 0.585, quantized: 0.582, samples: 400 }),
        budgets: vec![Budget { asked: "--max-size 0.3x".into(), reached: "0.29 x".into(), met: true }],
        front: (0..20).map(point).collect(),
        layers: layers.collect(),
        values: (0..count).filter(|at| at % 2 == 0).map(value).collect(),
        weights: vec![
            TypeSize { dtype: "float32".into(), before: 4_850_000, after: 180_000 },
            TypeSize { dtype: "int8".into(), before: 0, after: 1_180_000 },
            TypeSize { dtype: "int32".into(), before: 0, after: 12_000 },
        ],
        stored: (0..count).filter(|at| at % 2 == 0).map(stored).collect(),
        kept: vec![Kept {
            kind: "Softmax".into(),
            reason: "an input is not quantized".into(),
            count: 3,
            names: vec!["softmax_1".into(), "softmax_2".into()],
        }],
        coverage: Some(Coverage {
            samples: 80,
            random: false,
            values: count,
            settled_after: Some(31),
            drift: vec![("features.3.1_output".into(), 0.21)],
            not_finite: vec![],
            never_seen: vec![],
        }),
        settings: vec![("method".into(), "auto".into()), ("seed".into(), "0".into())],
        hashes: vec![(
            "model".into(),
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".into(),
        )],
        command: "onnxq quantize planted_resnet.onnx -o out.onnx --auto --max-size 0.3x --data calib".into(),
        notes: vec!["3 of 60 groups stay in float by the budget".into()],
    }
}

/// Appended to the page: uses it as a reader would and writes down what happened.
const PROBE: &str = r##"<script>
window.addEventListener("error", (event) => { (window.errors ??= []).push(String(event.message)); });
const told = { errors: [] };
try {
  const charts = [...document.querySelectorAll("main svg")];
  told.sections = [...document.querySelectorAll("main section")].filter((s) => !s.hidden).map((s) => s.id);
  told.charts = charts.length;
  told.unnamed = charts.filter((c) => !c.getAttribute("aria-label")).length;
  told.empty = charts.filter((c) => !c.children.length).length;
  told.bad = document.querySelector("main").innerHTML.replaceAll("NaN or infinity", "").match(/NaN|undefined|\[object/g)?.length ?? 0;
  const search = document.getElementById("search");
  if (search) {
    told.all = document.getElementById("found").textContent;
    search.value = "Conv_10";
    search.dispatchEvent(new Event("input"));
    told.found = document.getElementById("found").textContent;
    told.rows = document.querySelectorAll("#layers tbody tr").length;
    search.value = "";
    search.dispatchEvent(new Event("input"));
    const head = [...document.querySelectorAll("#layers th")][5];
    head.querySelector("button").click();
    head.querySelector("button").click();
    told.sorted = head.getAttribute("aria-sort");
    told.first = document.querySelector("#layers tbody tr td:nth-child(2)").textContent;
  }
  const mark = document.querySelector("#front svg [tabindex='0']");
  if (mark) { mark.focus(); told.tip = document.getElementById("tip").textContent; mark.blur(); }
  document.getElementById("theme").click();
  told.theme = document.documentElement.dataset.theme;
  told.unlabelled = [...document.querySelectorAll("button, input, select")].filter((n) => !n.textContent.trim() && !n.getAttribute("aria-label") && !n.labels?.length).length;
} catch (error) { told.errors.push(String(error.stack)); }
const out = document.createElement("pre");
out.id = "told";
out.textContent = JSON.stringify(told);
document.body.append(out);
</script>"##;

fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|file| file.is_file())
}

fn browse(browser: &Path, folder: &Path, arguments: &[&str], page: &Path) -> (String, String) {
    let output = Command::new(browser)
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ])
        .args(["--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000", "--window-size=1280,1600"])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser starts");
    (String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
}

fn told(browser: &Path, report: &Report) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    std::fs::write(&page, html(report).unwrap().replace("</body>", &format!("{PROBE}</body>"))).unwrap();
    let (dom, log) = browse(browser, folder.path(), &["--dump-dom"], &page);
    let console: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(console.is_empty(), "{console:?}");
    let found = dom.split_once("<pre id=\"told\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (text, _) = found.unwrap_or_else(|| panic!("the page did not finish: {log}"));
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_page_works_in_a_browser() {
    let Some(browser) = chromium() else {
        eprintln!("skipped: no Chromium on the path");
        return;
    };
    for count in [60, 2000] {
        let found = told(&browser, &report(count));
        assert_eq!(found["errors"], serde_json::json!([]), "{found}");
        let sections = [
            "summary",
            "front",
            "sensitivity",
            "error",
            "stored",
            "graph",
            "values",
            "weights",
            "layers",
            "kept",
            "coverage",
            "repeat",
        ];
        assert_eq!(found["sections"], serde_json::json!(sections));
        assert!(found["charts"].as_u64() >= Some(10), "{found}");
        for nothing in ["unnamed", "empty", "bad", "unlabelled"] {
            assert_eq!(found[nothing], 0, "{nothing}: {found}");
        }
        assert_eq!(found["all"], format!("{count} of {count} layers"));
        // Conv_10 itself and Conv_100 to Conv_109 that are convolutions: every eighth plus 0, 2 and 5.
        let hits =
            (0..count).filter(|at| at.to_string().starts_with("10") && [0, 2, 5].contains(&(at % 8))).count();
        assert_eq!(found["found"], format!("{hits} of {count} layers"));
        assert_eq!(found["rows"].as_u64(), Some(hits.min(50) as u64));
        assert_eq!(found["sorted"], "descending");
        assert!(found["tip"].as_str().is_some_and(|tip| tip.contains("plan")), "{found}");
    }
    // A report of nothing but settings is a page too.
    let found = told(&browser, &Report { model: "empty.onnx".into(), ..Report::default() });
    assert_eq!(found["errors"], serde_json::json!([]), "{found}");
    assert_eq!(found["sections"], serde_json::json!(["summary", "repeat"]));
}

#[test]
fn five_hundred_layers_stay_below_three_megabytes() {
    let report = report(500);
    let page = html(&report).unwrap();
    assert!(page.len() < 3_000_000, "{}", page.len());
    assert!(json(&report).unwrap().len() < 3_000_000);
}

/// The schema that the documentation points to is that of the declarations, and what the program writes follows it.
#[test]
fn reports_follow_the_schema() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(root.join("src/report/schema.rs")).unwrap();
    let schema = json_schema::of_source(&source, "Report");
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    let path = root.join("src/report/schema.json");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).is_ok_and(|known| known == text),
        "BLESS=1 renews {}",
        path.display()
    );
    let follows = |report: &str| {
        let document: serde_json::Value = serde_json::from_str(report).unwrap();
        let wrong = json_schema::violations(&schema, &document);
        assert!(wrong.is_empty(), "{wrong:#?}");
        document
    };
    let mut document = follows(&json(&report(20)).unwrap());
    document["verdict"]["level"] = "splendid".into();
    document["size"]["more"] = 1.into();
    assert_eq!(json_schema::violations(&schema, &document).len(), 2, "the check finds what is wrong");

    let folder = tempfile::tempdir().unwrap();
    let model = root.join("fixtures/mnist_cntk/model.onnx");
    let run = |more: &[&str]| {
        let written = folder.path().join("report.json");
        let done = Command::new(env!("CARGO_BIN_EXE_onnxq"))
            .current_dir(folder.path())
            .args(["quantize", model.to_str().unwrap(), "-o", "out.onnx", "--random", "8"])
            .args(["--report-json", "report.json"])
            .args(more)
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        follows(&std::fs::read_to_string(written).unwrap())
    };
    let auto = run(&["--auto"]);
    assert!(auto["front"].as_array().is_some_and(|front| !front.is_empty()));
    let few = run(&["--mode", "weight-only", "--bits", "8"]);
    assert!(few["stored"].as_array().is_some_and(|stored| !stored.is_empty()));
}

/// Writes pictures of the page where `REPORT_SHOTS` says, for people to look at.
#[test]
fn pictures_on_request() {
    let (Some(folder), Some(browser)) = (std::env::var_os("REPORT_SHOTS").map(PathBuf::from), chromium())
    else {
        return;
    };
    for (name, arguments) in [("light", ""), ("dark", "--force-dark-mode")] {
        let page = folder.join(format!("{name}.html"));
        std::fs::write(&page, html(&report(60)).unwrap()).unwrap();
        let shot = format!("--screenshot={}", folder.join(format!("{name}.png")).display());
        let arguments: Vec<&str> = [shot.as_str(), "--window-size=1280,5200", arguments]
            .into_iter()
            .filter(|a| !a.is_empty())
            .collect();
        browse(&browser, &folder, &arguments, &page);
    }
}
