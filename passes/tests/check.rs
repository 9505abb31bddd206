//! Every case is a model that keeps a rule, and an edit of its text that breaks it.

use onnxq_passes::check::{CheckOptions, Cpu, Severity, check, rules};
use onnxq_passes::target::{TARGETS, target};

/// A convolution between an input and an output, int8 and symmetric.
const CONV: &str = r#"<ir_version: 9, opset_import: ["" : 19, "com.microsoft" : 1]>
main (float[1,16,4,4] x) => (float[1,16,4,4] y)
<float s = {0.5}, int8 z = {0}, float t = {0.25}, int8[16,16,1,1] w = {CODES}, float[16] ws = {SCALES},
 int8[16] wz = {ZEROS}, float[16] b = {SCALES}>
{
   xq = QuantizeLinear <axis = 0> (x, s, z)
   xd = DequantizeLinear <axis = 0> (xq, s, z)
   wd = DequantizeLinear <axis = 0> (w, ws, wz)
   y = Conv (xd, wd, b)
}"#;

/// The same as ONNX Runtime and QNN want it: complete.
const UNIT: &str = r#"<ir_version: 9, opset_import: ["" : 19, "com.microsoft" : 1]>
main (float[1,16,4,4] x) => (float[1,16,4,4] y)
<float s = {0.5}, uint8 z = {0}, float t = {0.25}, int8[16,16,1,1] w = {CODES}, float[16] ws = {SCALES},
 int8[16] wz = {ZEROS}, int32[16] b = {CODES16}, float[16] bs = {HALVES}, int32[16] bz = {ZEROS},
 uint16 z16 = {0}, int8 zs = {0}>
{
   xq = QuantizeLinear <axis = 0> (x, s, z)
   xd = DequantizeLinear <axis = 0> (xq, s, z)
   wd = DequantizeLinear <axis = 0> (w, ws, wz)
   bd = DequantizeLinear <axis = 0> (b, bs, bz)
   c = Conv (xd, wd, bd)
   cq = QuantizeLinear <axis = 0> (c, s, z)
   cd = DequantizeLinear <axis = 0> (cq, s, z)
   r = Transpose (cd)
   rq = QuantizeLinear <axis = 0> (r, s, z)
   y = DequantizeLinear <axis = 0> (rq, s, z)
}"#;

/// A matrix product with int8 data and weight.
const PRODUCT: &str = r#"<ir_version: 9, opset_import: ["" : 19]>
main (float[4,16] x) => (float[4,16] y)
<float s = {0.5}, uint8 z = {0}, int8[16,16] w = {CODES}, float[16] ws = {SCALES}, int8[16] wz = {ZEROS},
 int32[16] b = {CODES16}, float[16] bs = {HALVES}, int32[16] bz = {ZEROS}, float[16,16] wf = {CODES}>
{
   xq = QuantizeLinear <axis = 0> (x, s, z)
   xd = DequantizeLinear <axis = 0> (xq, s, z)
   wd = DequantizeLinear <axis = 1> (w, ws, wz)
   bd = DequantizeLinear <axis = 0> (b, bs, bz)
   g = Gemm (xd, wd, bd)
   gq = QuantizeLinear <axis = 0> (g, s, z)
   gd = DequantizeLinear <axis = 0> (gq, s, z)
   y = MatMul (gd, wd)
}"#;

/// A weight of 4 bits.
const INT4: &str = r#"<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>
main (float[2,64] x) => (float[2,16] y)
<int4[64,16] w = {FOURS}, float[1,16] ws = {SCALES}>
{
   wd = DequantizeLinear <axis = 0, block_size = 64> (w, ws)
   y = MatMul (x, wd)
}"#;

type Case = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)]);

/// Target, rule, the model that keeps it, the edits that break it.
const CASES: &[Case] = &[
    ("tensorrt", "TRT01", CONV, &[("int8 z = {0}", "int8 z = {3}")]),
    ("tensorrt", "TRT02", CONV, &[("int8 z = {0}", "uint8 z = {0}")]),
    ("tensorrt", "TRT03", CONV, &[("float s = {0.5}", "float s = {0.0}")]),
    ("tensorrt", "TRT04", CONV, &[("int8[16] wz = {ZEROS}", "int8[1] wz = {0}")]),
    ("tensorrt", "TRT05", CONV, &[("(xq, s, z)", "(xq, ws, wz)")]),
    ("tensorrt", "TRT06", CONV, &[("<axis = 0> (w, ws", "<axis = 1> (w, ws")]),
    ("tensorrt", "TRT06", CONV, &[("<axis = 0> (w, ws", "(w, ws")]),
    ("tensorrt", "TRT07", CONV, &[("int8 z = {0}", "int16 z = {0}")]),
    ("tensorrt", "TRT08", CONV, &[("float s = {0.5}", "float16 s = {0.5}")]),
    ("tensorrt", "TRT09", CONV, &[("Conv (xd, wd, b)", "ConvInteger (xq, w)")]),
    ("tensorrt", "TRT10", INT4, &[("block_size = 64", "block_size = 32")]),
    ("tensorrt", "TRT11", INT4, &[("y = MatMul (x, wd)", "v = Transpose (wd)\n y = MatMul (x, v)")]),
    ("tensorrt", "TRT12", CONV, &[(": 19,", ": 11,")]),
    (
        "tensorrt",
        "TRT13",
        CONV,
        &[(
            "y = Conv (xd, wd, b)",
            "c = Conv (xd, wd, b)\n cq = QuantizeLinear (c, s, z)\n cd = DequantizeLinear (cq, s, z)\n y = Relu (cd)",
        )],
    ),
    ("tensorrt", "TRT14", CONV, &[("Conv (xd,", "Conv (x,")]),
    (
        "tensorrt",
        "TRT15",
        CONV,
        &[(
            "y = Conv (xd, wd, b)",
            "c = Conv (xd, wd, b)\n cq = QuantizeLinear (c, s, z)\n cd = DequantizeLinear (cq, s, z)\n y = Add (cd, xd)",
        )],
    ),
    (
        "tensorrt",
        "TRT16",
        CONV,
        &[(
            "y = Conv (xd, wd, b)",
            "xe = DequantizeLinear <axis = 0> (xq, t, z)\n y = Concat <axis = 1> (xd, xe)",
        )],
    ),
    (
        "tensorrt",
        "TRT17",
        CONV,
        &[("y = Conv (xd, wd, b)", "bd = DequantizeLinear <axis = 0> (wz, ws, wz)\n y = Conv (xd, wd, bd)")],
    ),
    ("tensorrt", "TRT18", PRODUCT, &[("float[4,16] x", "float[1,16] x")]),
    ("tensorrt", "TRT19", CONV, &[("int8 z = {0}, float t", "float8e4m3fn z = {0.0}, float t")]),
    ("tensorrt", "TRT20", CONV, &[("y = Conv (", "y = ConvTranspose (")]),
    (
        "tensorrt",
        "TRT21",
        CONV,
        &[
            ("xq = QuantizeLinear <axis = 0> (x, s, z)\n", ""),
            ("xd = DequantizeLinear <axis = 0> (xq, s, z)\n", ""),
            ("wd = DequantizeLinear <axis = 0> (w, ws, wz)\n", ""),
            ("Conv (xd, wd, b)", "Conv (x, x)"),
        ],
    ),
    ("tensorrt", "TRT22", CONV, &[("int8[16,16,1,1] w", "int8[64,4,1,1] w")]),
    ("tensorrt", "TRT23", CONV, &[("(x, s, z)", "(x, s)")]),
    ("openvino", "OV01", CONV, &[(": 19,", ": 12,")]),
    ("openvino", "OV02", CONV, &[("float[16] ws = {SCALES}", "float[2] ws = {1.0,2.0}")]),
    ("openvino", "OV03", INT4, &[("block_size = 64", "block_size = 48")]),
    ("openvino", "OV04", CONV, &[("int8 z = {0}", "float8e4m3fn z = {0.0}")]),
    ("openvino", "OV05", CONV, &[("(xq, s, z)", "(xq, ws, wz)")]),
    ("openvino", "OV06", CONV, &[("Conv (xd,", "Conv (x,")]),
    ("openvino", "OV07", CONV, &[("{CODES}", "{LOWEST}")]),
    ("openvino", "OV08", CONV, &[("y = Conv (xd, wd, b)", "y = com.microsoft.QGemm (x, s, z, w, ws, wz)")]),
    (
        "openvino",
        "OV08",
        PRODUCT,
        &[(
            "y = MatMul (gd, wd)",
            "yq = QLinearMatMul (gq, s, z, w, ws, wz, s, z)\n y = DequantizeLinear (yq, s, z)",
        )],
    ),
    (
        "openvino",
        "OV08",
        UNIT,
        &[(
            "r = Transpose (cd)",
            "g = com.microsoft.QLinearGlobalAveragePool (cq, s, z, s, z)\n r = Transpose (cd)",
        )],
    ),
    ("openvino", "OV09", CONV, &[(": 19,", ": 12,")]),
    ("qnn", "QNN01", UNIT, &[("float[1,16,4,4] x", "float[n,16,4,4] x")]),
    ("qnn", "QNN02", UNIT, &[("(cd)", "(c)")]),
    ("qnn", "QNN03", UNIT, &[("(r, s, z)", "(r, t, z)")]),
    (
        "qnn",
        "QNN04",
        UNIT,
        &[("Transpose (cd)", "Sigmoid (cd)"), ("(r, s, z)", "(r, s, z16)"), ("(rq, s, z)", "(rq, s, z16)")],
    ),
    ("qnn", "QNN05", UNIT, &[("<axis = 0> (w, ws", "<axis = 1> (w, ws")]),
    ("qnn", "QNN06", PRODUCT, &[("int8[16,16] w", "int16[16,16] w"), ("int8[16] wz", "int16[16] wz")]),
    ("qnn", "QNN07", UNIT, &[("(x, s, z)", "(x, s, z16)")]),
    ("qnn", "QNN08", UNIT, &[("float s = {0.5}", "float s = {0.0000000001}")]),
    ("qnn", "QNN09", UNIT, &[("(r, s, z)", "(r, s, z16)")]),
    (
        "qnn",
        "QNN10",
        UNIT,
        &[
            ("int8[16,16,1,1] w = {CODES}", "uint4[16,16,1,1] w = {POSITIVE}"),
            ("int8[16] wz", "uint4[16] wz"),
        ],
    ),
    ("qnn", "QNN11", UNIT, &[("y = Deq", "h = Cast <to = 10> (r)\n k = Relu (h)\n y = Deq")]),
    ("ort-cpu", "ORT01", UNIT, &[("(cd)", "(c)")]),
    ("ort-cpu", "ORT02", UNIT, &[("(c, s, z)", "(c, s, zs)")]),
    ("ort-cpu", "ORT03", UNIT, &[("float[16] bs = {HALVES}", "float[16] bs = {SCALES}")]),
    ("ort-cpu", "ORT04", UNIT, &[("(x, s, z)", "(x, s, z16)"), ("(xq, s, z)", "(xq, s, z16)")]),
    ("ort-cpu", "ORT05", UNIT, &[("(r, s, z)", "(r, t, z)")]),
    ("ort-cpu", "ORT06", INT4, &[("y = MatMul (x, wd)", "v = Transpose (wd)\n y = MatMul (x, v)")]),
    ("ort-cpu", "ORT07", UNIT, &[("{CODES}", "{GREATEST}")]),
    ("ort-cpu", "ORT08", UNIT, &[(": 19,", ": 12,")]),
    ("ort-cpu", "ORT09", PRODUCT, &[("<axis = 1> (w, ws", "<axis = 0> (w, ws")]),
    ("ort-cpu", "ORT10", PRODUCT, &[("float[16] bs = {HALVES}", "float[16] bs = {SCALES}")]),
    ("ort-cpu", "ORT11", PRODUCT, &[("Gemm (xd, wd, bd)", "Gemm (xd, wf, bd)")]),
    ("ort-cpu", "ORT12", UNIT, &[("Transpose (cd)", "Tanh (cd)")]),
    (
        "ort-cpu",
        "ORT13",
        UNIT,
        &[("c = Conv (xd, wd, bd)", "a = Conv (xd, wd, bd)\n c = Relu (a)"), ("(c, s, z)", "(c, s, zs)")],
    ),
    ("ort-cpu", "ORT14", UNIT, &[("float s = {0.5}", "float s = {-0.5}")]),
    ("ort-cpu", "ORT15", UNIT, &[("ir_version: 9", "ir_version: 14")]),
    (
        "tract",
        "TR01",
        PRODUCT,
        &[("int8[16,16] w = {CODES}", "int4[16,16] w = {FEW}"), ("int8[16] wz", "int4[16] wz")],
    ),
    ("tract", "TR02", CONV, &[("float s = {0.5}", "float16 s = {0.5}")]),
    ("tract", "TR03", CONV, &[]),
    ("tract", "TR04", CONV, &[("float s = {0.5}", "float s = {0.3}")]),
    (
        "tract",
        "TR05",
        INT4,
        &[(
            "y = MatMul (x, wd)",
            "y = com.microsoft.MatMulNBits <K = 64, N = 16, bits = 8, block_size = 32> (x, w, ws)",
        )],
    ),
    ("tract", "TR06", UNIT, &[("Transpose (cd)", "Softmax (cd)")]),
];

fn model(text: &str) -> ir::Model {
    let codes = |count: usize, value: &dyn Fn(usize) -> i64| {
        (0..count).map(|at| value(at).to_string()).collect::<Vec<_>>().join(",")
    };
    let text = text
        .replace("{CODES}", &format!("{{{}}}", codes(256, &|at| (at * 37 % 100) as i64 - 50)))
        .replace("{CODES16}", &format!("{{{}}}", codes(16, &|at| at as i64)))
        .replace("{LOWEST}", &format!("{{{}}}", codes(256, &|_| -128)))
        .replace("{GREATEST}", &format!("{{{}}}", codes(256, &|_| 127)))
        .replace("{POSITIVE}", &format!("{{{}}}", codes(256, &|at| at as i64 % 16)))
        .replace("{FEW}", &format!("{{{}}}", codes(256, &|at| at as i64 % 8)))
        .replace("{FOURS}", &format!("{{{}}}", codes(1024, &|at| at as i64 % 8)))
        .replace("{ZEROS}", &format!("{{{}}}", codes(16, &|_| 0)))
        .replace("{SCALES}", &format!("{{{}}}", ["1.0"; 16].join(",")))
        .replace("{HALVES}", &format!("{{{}}}", ["0.5"; 16].join(",")));
    ir::text::parse(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
}

fn found(name: &str, rule: &str, text: &str) -> bool {
    let options = CheckOptions { cpu: Some(Cpu::Avx2), ..CheckOptions::default() };
    let findings = check(&model(text), target(name).unwrap(), &options);
    findings.iter().any(|finding| finding.rule == rule)
}

#[test]
fn every_case_keeps_its_rule_until_it_is_edited() {
    let mut wrong = Vec::new();
    for (name, rule, text, edits) in CASES {
        let mut broken = text.to_string();
        for (from, to) in *edits {
            assert!(broken.contains(from), "{rule}: no {from:?} in the model");
            broken = broken.replace(from, to);
        }
        if !edits.is_empty() && found(name, rule, text) {
            wrong.push(format!("{rule}: found where nothing is wrong"));
        }
        if !found(name, rule, &broken) {
            wrong.push(format!("{rule}: not found"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_has_a_case() {
    for target in TARGETS {
        for rule in rules(*target) {
            assert!(
                CASES.iter().any(|(name, id, _, _)| *name == target.name() && *id == rule.id),
                "{}",
                rule.id
            );
        }
    }
}

#[test]
fn a_version_decides_what_the_file_does_not_tell() {
    let severity = |version: &str| {
        let options = CheckOptions { runtime_version: Some(version.parse().unwrap()), cpu: None };
        let findings = check(&model(CONV), target("tract").unwrap(), &options);
        findings.iter().find(|finding| finding.rule == "TR03").map(|finding| finding.severity)
    };
    assert_eq!(severity("0.23.8"), Some(Severity::Wrong));
    assert_eq!(severity("0.23.9"), None);
}
