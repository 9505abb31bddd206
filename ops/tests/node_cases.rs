//! The node cases of the onnx package: every rule against the outputs of the reference implementation.
//!
//! A case is a model of one operator (or of the function that defines it) with inputs and expected outputs. None may come
//! out wrong; a case that is not evaluated must stand in [`NOT_EVALUATED`], with the reason. Inference may contradict
//! neither an output nor any value in between, sizes that are expressions included.
//!
//! `ONNXQ_NODE_CASES` names the unpacked folder, or `ONNXQ_SHARED` the folder that holds
//! `data/onnx-node-tests.tar.zst`; without either the test says so and passes.

#[path = "cases/archive.rs"]
mod archive;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ir::{DType, Dim, GraphId, Model, Tensor, Type, TypeKind};
use onnxq_ops as ops;
use ops::infer::{Inferred, Issue, infer_model};
use ops::{Value, eval, sym};
use proto::TestValue;

/// Cases that are not evaluated, by the beginning of their names.
const NOT_EVALUATED: &[(&str, &str)] = &[
    ("test_bernoulli", "random"),
    ("test_training_dropout", "random: training with a ratio"),
    ("test_image_decoder", "no decoder of pictures in this crate"),
    ("test_ai_onnx_ml_tree_ensemble", "trees are not run here"),
    ("test_flexattention", "preview domain"),
    ("test_adagrad", "training"),
    ("test_adam", "training"),
    ("test_momentum", "training"),
    ("test_nesterov_momentum", "training"),
    (
        "test_resize_downsample_scales_cubic_align_corners",
        "the scale in use is not the one that the sizes give",
    ),
    (
        "test_resize_downsample_scales_linear_align_corners",
        "the scale in use is not the one that the sizes give",
    ),
];

/// Cases whose expected numbers were written by hand with four digits, not always rounded: absolute tolerance one of the last.
const FOUR_DIGITS: &[&str] = &[
    "test_averagepool_2d_ceil_last_window_starts_on_pad",
    "test_gridsample_bicubic",
    "test_roialign_aligned_false",
    "test_roialign_aligned_true",
];

#[test]
fn node_cases() {
    let Some(folder) = archive::folder() else {
        eprintln!("skipped: neither ONNXQ_NODE_CASES nor ONNXQ_SHARED is set");
        return;
    };
    let mut tally = Tally::default();
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names.iter().filter(|path| path.join("model.onnx").exists()) {
        tally.run(path);
    }
    tally.report();
}

#[derive(Default)]
struct Tally {
    right: usize,
    not_evaluated: BTreeMap<String, Vec<String>>,
    wrong: Vec<String>,
    typed: usize,
    untyped: usize,
}

impl Tally {
    fn run(&mut self, path: &Path) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let model = match proto::read(&path.join("model.onnx"), &proto::ReadOptions::default()) {
            Ok(loaded) => loaded.model,
            Err(error) => return self.wrong.push(format!("{name}: {error}")),
        };
        let inferred = infer_model(&model, &ops::infer::Options::default());
        for issue in &inferred.issues {
            if !matches!(issue, Issue::Unsupported(..)) {
                self.wrong.push(format!("{name}: inference: {issue:?}"));
            }
        }
        for set in 0.. {
            let data = path.join(format!("test_data_set_{set}"));
            if !data.exists() {
                break;
            }
            self.run_set(&name, &model, &inferred, &data);
        }
    }

    fn run_set(&mut self, name: &str, model: &Model, inferred: &Inferred, data: &Path) {
        let main = model.main();
        let inputs =
            read_values(data, "input", main.inputs().iter().map(|&input| main.value(input).ty.as_ref()));
        let expected =
            read_values(data, "output", main.outputs().iter().map(|&output| main.value(output).ty.as_ref()));
        let mut sizes = Sizes::default();
        for (&input, value) in main.inputs().iter().zip(&inputs) {
            let ty = inferred.ty(model.main_id(), input);
            if let (Some(ty), Some(value)) = (ty, value)
                && let Err(why) = sizes.check(ty, value)
            {
                self.wrong.push(format!("{name}: input {}: {why}", main.value(input).name()));
            }
        }
        let mut wrong = Vec::new();
        let (mut typed, mut untyped) = (0, 0);
        let main_id = model.main_id();
        let mut sink = |graph: GraphId, value: ir::ValueId, found: &mut Value| {
            if graph != main_id {
                return;
            }
            let shaped = |ty: &&Type| !matches!(&ty.kind, TypeKind::Tensor(tensor) if tensor.shape.is_none());
            match inferred.ty(graph, value).filter(shaped) {
                None => untyped += 1,
                Some(ty) => {
                    typed += 1;
                    if let Err(why) = sizes.check(ty, found) {
                        wrong.push(format!("{name}: value {}: {why}", main.value(value).name()));
                    }
                }
            }
        };
        let result = eval::run(model, inputs, &eval::Options::default(), Some(&mut sink));
        self.wrong.append(&mut wrong);
        self.typed += typed;
        self.untyped += untyped;
        match result {
            Err(error) if error.is_unsupported() => {
                let why = error.to_string();
                self.not_evaluated.entry(why).or_default().push(name.to_string());
            }
            Err(error) => self.wrong.push(format!("{name}: {error}")),
            Ok(found) => {
                let slack = if FOUR_DIGITS.contains(&name) { 1e-4 } else { 0.0 };
                let differences: Vec<String> = found
                    .iter()
                    .zip(&expected)
                    .enumerate()
                    .filter_map(|(at, (found, expected))| {
                        Some((at, difference(found, expected.as_ref()?, slack)?))
                    })
                    .map(|(at, why)| format!("{name}: output {at}: {why}"))
                    .collect();
                if differences.is_empty() {
                    self.right += 1;
                }
                self.wrong.extend(differences);
            }
        }
    }

    fn report(self) {
        let skipped: usize = self.not_evaluated.values().map(Vec::len).sum();
        eprintln!(
            "{} right, {skipped} not evaluated, {} wrong; {} of {} values have a shape",
            self.right,
            self.wrong.len(),
            self.typed,
            self.typed + self.untyped
        );
        for (why, names) in &self.not_evaluated {
            eprintln!("{why}: {} {:?}", names.len(), &names[..names.len().min(3)]);
        }
        let listed = |name: &str| NOT_EVALUATED.iter().any(|(prefix, _)| name.starts_with(prefix));
        let mut wrong = self.wrong;
        let unlisted =
            self.not_evaluated.iter().flat_map(|(why, names)| names.iter().map(move |name| (name, why)));
        wrong.extend(
            unlisted
                .filter(|(name, _)| !listed(name))
                .map(|(name, why)| format!("{name}: not listed: {why}")),
        );
        let all: Vec<&String> = self.not_evaluated.values().flatten().collect();
        for (prefix, _) in NOT_EVALUATED {
            if !all.iter().any(|name| name.starts_with(prefix)) {
                wrong.push(format!("{prefix}: listed as not evaluated, but is"));
            }
        }
        assert!(wrong.is_empty(), "{} problems:\n{}", wrong.len(), wrong.join("\n"));
    }
}

fn read_values<'a>(
    data: &Path,
    kind: &str,
    types: impl Iterator<Item = Option<&'a Type>>,
) -> Vec<Option<Value>> {
    let read = |(at, ty): (usize, Option<&Type>)| {
        let path = data.join(format!("{kind}_{at}.pb"));
        // A case may leave the last inputs to their defaults.
        path.exists().then(|| value(proto::read_value(&path, ty).unwrap()))
    };
    types.enumerate().map(read).collect()
}

fn value(read: TestValue) -> Value {
    match read {
        TestValue::Tensor(tensor) => Value::Tensor(tensor),
        TestValue::Sequence { values, .. } => Value::Sequence(values.into_iter().map(value).collect()),
        TestValue::Optional(inner) => Value::Optional(inner.map(|inner| Box::new(value(*inner)))),
        TestValue::Sparse(_) | TestValue::Map { .. } => panic!("no case has such a value"),
    }
}

/// The sizes that names stand for in one run.
#[derive(Default)]
struct Sizes(BTreeMap<String, i64>);

impl Sizes {
    fn check(&mut self, ty: &Type, value: &Value) -> Result<(), String> {
        match (&ty.kind, value) {
            (TypeKind::Tensor(expected), Value::Tensor(found)) => {
                let shape = expected.shape.as_ref();
                let fits = expected.dtype.is_none_or(|dtype| dtype == found.dtype())
                    && shape.is_none_or(|shape| shape.rank() == found.rank());
                let sizes = shape.into_iter().flat_map(|shape| shape.dims.iter().zip(found.dims()));
                let fits = fits && sizes.fold(true, |fits, (dim, &size)| self.fits(dim, size) && fits);
                let shown = || {
                    format!(
                        "inferred {}, found {} {:?}",
                        ops::infer::shape::show_type(ty),
                        found.dtype(),
                        found.dims()
                    )
                };
                if fits { Ok(()) } else { Err(shown()) }
            }
            (TypeKind::Sequence(inner), Value::Sequence(items)) => {
                // Names inside a sequence differ from item to item.
                items.iter().try_for_each(|item| Sizes::default().check(inner, item))
            }
            (TypeKind::Optional(inner), Value::Optional(Some(item))) => self.check(inner, item),
            (TypeKind::Optional(_), Value::Optional(None)) | (TypeKind::None, _) => Ok(()),
            (_, found) => {
                Err(format!("inferred {}, found {}", ops::infer::shape::show_type(ty), found.describe()))
            }
        }
    }

    fn fits(&mut self, dim: &Dim, size: usize) -> bool {
        let size = size as i64;
        let mut dim = dim.clone();
        for (name, by) in &self.0 {
            dim = sym::substitute(&dim, name, &Dim::Known(*by));
        }
        match &dim {
            Dim::Known(known) => *known == size,
            Dim::Unknown => true,
            Dim::Symbol(name) if sym::plain(&dim) == sym::plain(&sym::symbol(name)) => {
                self.0.insert(name.to_string(), size);
                true
            }
            // An expression over a name that has no size yet.
            Dim::Symbol(_) => true,
        }
    }
}

/// How a value differs from the expected one; none if it does not.
fn difference(found: &Value, expected: &Value, slack: f64) -> Option<String> {
    match (found, expected) {
        (Value::Tensor(found), Value::Tensor(expected)) => tensor_difference(found, expected, slack),
        (Value::Sequence(found), Value::Sequence(expected)) => match found.len() == expected.len() {
            true => found.iter().zip(expected).find_map(|(a, b)| difference(a, b, slack)),
            false => Some(format!("{} items, expected {}", found.len(), expected.len())),
        },
        (Value::Optional(Some(found)), Value::Optional(Some(expected))) => difference(found, expected, slack),
        (Value::Optional(None), Value::Optional(None)) => None,
        _ => Some(format!("{}, expected {}", found.describe(), expected.describe())),
    }
}

/// Relative tolerance. The expected numbers were themselves computed in the type by numpy, in another order of sums: a few
/// units in the last place of f32, one of the narrow types. Integers, strings and small floats are compared exactly.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-7,
        DType::F32 => 1e-5,
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 0.0,
    }
}

fn tensor_difference(found: &Tensor, expected: &Tensor, slack: f64) -> Option<String> {
    if found.dtype() != expected.dtype() || found.dims() != expected.dims() {
        let show = |tensor: &Tensor| format!("{} {:?}", tensor.dtype(), tensor.dims());
        return Some(format!("{}, expected {}", show(found), show(expected)));
    }
    if found.data() == expected.data() {
        return None;
    }
    let numbers = ops::array::to_f64s(found).zip(ops::array::to_f64s(expected));
    let Some((a, b)) = numbers else {
        return Some(format!("{:?}, expected {:?}", found.data(), expected.data()));
    };
    let relative = tolerance(found.dtype());
    // Sums that cancel are judged by the size of the whole tensor.
    let scale = b.iter().copied().filter(|v| v.is_finite()).fold(0.0f64, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(&b).enumerate().find(|(_, (a, b))| {
        let same = a == b || (a.is_nan() && b.is_nan());
        let near = (*a - *b).abs() <= slack + relative * (b.abs() + 0.1 * scale);
        !same && !near
    });
    worst.map(|(at, (a, b))| format!("element {at} of {}: {a}, expected {b}", found.elements()))
}
