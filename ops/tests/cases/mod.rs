//! Cases in JSON lines: one operator with its attributes, inputs and expected outputs, tensors as `raw_data` in
//! base 64. Every case is evaluated, and inferred with and without the inputs' contents.

use ir::{AttrValue, DType, Op, OpKind, Shape, Tensor, Type};
use onnxq_ops::eval::Budget;
use onnxq_ops::{EvalCx, InferCx, Known, OpError, Value, array};
use serde_json::Value as Json;

/// A case.
pub struct Case {
    pub name: String,
    pub op: Op,
    pub opset: i64,
    pub inputs: Vec<Option<Tensor>>,
    pub outputs: Vec<Option<Tensor>>,
    rtol: f64,
    atol: f64,
}

/// Base 64 with its usual alphabet; padding is ignored.
fn bytes(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut out) = (0u32, 0, Vec::new());
    for digit in text.bytes().filter(|&digit| digit != b'=') {
        bits = bits << 6 | alphabet.iter().position(|&known| known == digit).unwrap() as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

fn tensor(json: &Json) -> Tensor {
    let dtype = DType::from_code(json["t"].as_i64().unwrap() as i32).unwrap();
    let dims: Vec<usize> =
        json["d"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
    if dtype == DType::String {
        let strings: Vec<bytes::Bytes> =
            json["s"].as_array().unwrap().iter().map(|s| bytes(s.as_str().unwrap()).into()).collect();
        return Tensor::strings(dims, strings).unwrap();
    }
    Tensor::new(dtype, dims, bytes(json["x"].as_str().unwrap())).unwrap()
}

fn tensors(json: &Json) -> Vec<Option<Tensor>> {
    json.as_array().unwrap().iter().map(|t| (!t.is_null()).then(|| tensor(t))).collect()
}

fn attr(json: &Json) -> AttrValue {
    let (kind, value) = json.as_object().unwrap().iter().next().unwrap();
    let list = || value.as_array().unwrap().iter();
    match kind.as_str() {
        "i" => AttrValue::Int(value.as_i64().unwrap()),
        "f" => AttrValue::Float(value.as_f64().unwrap() as f32),
        "s" => value.as_str().unwrap().into(),
        "is" => AttrValue::Ints(list().map(|v| v.as_i64().unwrap()).collect()),
        "fs" => AttrValue::Floats(list().map(|v| v.as_f64().unwrap() as f32).collect()),
        "ss" => AttrValue::Strings(list().map(|v| v.as_str().unwrap().to_string().into()).collect()),
        "x" => AttrValue::Tensor(tensor(value)),
        other => panic!("attribute kind {other}"),
    }
}

/// Reads a file of cases.
pub fn read(text: &str) -> Vec<Case> {
    let case = |line: &str| {
        let json: Json = serde_json::from_str(line).unwrap();
        let mut op = Op::of(OpKind::new(
            json["domain"].as_str().unwrap_or("com.microsoft"),
            json["op"].as_str().unwrap(),
        ));
        for (name, value) in json["attrs"].as_object().into_iter().flatten() {
            op.attrs.set(name, attr(value));
        }
        Case {
            name: json["name"].as_str().unwrap().to_string(),
            op,
            opset: json["opset"].as_i64().unwrap_or(1),
            inputs: tensors(&json["inputs"]),
            outputs: tensors(&json["outputs"]),
            rtol: json["rtol"].as_f64().unwrap_or(1e-5),
            atol: json["atol"].as_f64().unwrap_or(1e-6),
        }
    };
    text.lines().map(case).collect()
}

/// What a case came to.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Passed,
    /// No rule, or a form that the rule refuses.
    Unsupported(String),
    Wrong(String),
}

impl Case {
    /// Runs and infers the case.
    pub fn check(&self) -> Verdict {
        let rule = match onnxq_ops::rule(&self.op.kind, Some(self.opset)) {
            Ok(rule) => rule,
            Err(missing) => return Verdict::Unsupported(missing.to_string()),
        };
        for contents in [false, true] {
            if let Err(why) = self.check_inference(contents) {
                return Verdict::Wrong(format!("inference (contents {contents}): {why}"));
            }
        }
        let inputs: Vec<Option<Value>> = self.inputs.iter().map(|t| t.clone().map(Value::Tensor)).collect();
        let budget = Budget::new(1 << 30, 1000);
        let outputs =
            match rule.eval(&EvalCx::new(&self.op, self.opset, &inputs, self.outputs.len(), &budget)) {
                Ok(outputs) => outputs,
                Err(error) if error.is_unsupported() => return Verdict::Unsupported(error.to_string()),
                Err(error) => return Verdict::Wrong(error.to_string()),
            };
        for (at, expected) in self.outputs.iter().enumerate() {
            let Some(expected) = expected else { continue };
            let found = outputs.get(at).and_then(Value::as_tensor);
            let Some(found) = found else { return Verdict::Wrong(format!("output {at} is missing")) };
            if let Err(why) = self.compare(found, expected) {
                return Verdict::Wrong(format!("output {at}: {why}"));
            }
        }
        Verdict::Passed
    }

    fn check_inference(&self, contents: bool) -> Result<(), String> {
        let known = |t: &Tensor| match contents {
            true => Known::of_constant(t.clone()),
            false => Known::of_type(Type::tensor(t.dtype(), Some(Shape::fixed(t.dims())))),
        };
        self.check_known(&self.inputs.iter().map(|t| t.as_ref().map(known)).collect::<Vec<_>>())
    }

    /// What inference says with this knowledge of the inputs holds for the expected outputs.
    pub fn check_known(&self, inputs: &[Option<Known>]) -> Result<(), String> {
        let rule = onnxq_ops::rule(&self.op.kind, Some(self.opset)).map_err(|missing| missing.to_string())?;
        let inputs: Vec<Option<&Known>> = inputs.iter().map(Option::as_ref).collect();
        let mut cx = InferCx::new(&self.op, self.opset, &inputs, self.outputs.len());
        rule.infer(&mut cx).map_err(|error: OpError| error.to_string())?;
        for (at, (known, tensor)) in cx.into_outputs().iter().zip(&self.outputs).enumerate() {
            let Some(tensor) = tensor else { continue };
            if known.dtype().is_some_and(|dtype| dtype != tensor.dtype()) {
                return Err(format!("output {at} is {}, not {:?}", tensor.dtype(), known.dtype()));
            }
            let Some(dims) = known.dims() else { continue };
            let fits = |(dim, &size): (&ir::Dim, &usize)| dim.known().is_none_or(|known| known == size);
            if dims.len() != tensor.rank() || !dims.iter().zip(tensor.dims()).all(fits) {
                return Err(format!("output {at} is {:?}, not {dims:?}", tensor.dims()));
            }
        }
        Ok(())
    }

    fn compare(&self, found: &Tensor, expected: &Tensor) -> Result<(), String> {
        if found.dtype() != expected.dtype() || found.dims() != expected.dims() {
            let show = |t: &Tensor| format!("{} {:?}", t.dtype(), t.dims());
            return Err(format!("{}, expected {}", show(found), show(expected)));
        }
        if found.data() == expected.data() {
            return Ok(());
        }
        let (Some(a), Some(b)) = (array::to_f64s(found), array::to_f64s(expected)) else {
            return Err(format!("{:?}, expected {:?}", found.data(), expected.data()));
        };
        let exact = !expected.dtype().is_float() && self.atol < 0.5;
        let close = |a: f64, b: f64| {
            a == b
                || (a.is_nan() && b.is_nan())
                || (!exact && (a - b).abs() <= self.atol + self.rtol * b.abs())
        };
        match a.iter().zip(&b).position(|(&a, &b)| !close(a, b)) {
            Some(at) => Err(format!("element {at} is {}, expected {}", a[at], b[at])),
            None => Ok(()),
        }
    }
}
