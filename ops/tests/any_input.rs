//! Every rule against random operators: any number of inputs of any type and shape, any attributes.
//!
//! A rule may refuse, but it neither panics nor runs away; and where both inference and evaluation answer, they agree, also
//! when inference knows sizes and contents only by name.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ir::{AttrValue, DType, Dim, Op, OpKind, Tensor, TypeKind};
use onnxq_ops as ops;
use ops::eval::Budget;
use ops::{EvalCx, InferCx, Known, OpRule, Value, sym};

/// Operators tried for each rule. `ONNXQ_ROUNDS` asks for more.
const ROUNDS: usize = 400;
/// One operator on inputs of a few hundred elements and with a budget of a megabyte has no reason to take longer.
const SLOWEST: Duration = Duration::from_secs(5);

#[test]
fn rules_answer_or_refuse() {
    std::panic::set_hook(Box::new(|_| {}));
    let rounds = std::env::var("ONNXQ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    let only = std::env::var("ONNXQ_RULE").ok();
    let mut problems: BTreeMap<String, String> = BTreeMap::new();
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for rule in ops::rules().filter(|rule| only.as_ref().is_none_or(|only| rule.op().name == only)) {
        let name = format!("{} {:?}", rule.op(), rule.opsets());
        let mut random = Random::new(&name);
        if only.is_some() || rounds > ROUNDS {
            eprintln!("{name}");
        }
        for round in 0..rounds {
            let case = Case::new(&mut random, rule);
            let start = Instant::now();
            match catch_unwind(AssertUnwindSafe(|| case.run(rule, &mut random.clone()))) {
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned();
                    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                    problems
                        .entry(name.clone())
                        .or_insert(format!("round {round}: panic {text:?}: {case:?}"));
                }
                Ok(Err(why)) => {
                    problems.entry(name.clone()).or_insert(format!("round {round}: {why}: {case:?}"));
                }
                Ok(Ok(evaluated)) => *answers.entry(name.clone()).or_default() += usize::from(evaluated),
            }
            if start.elapsed() > SLOWEST {
                problems.entry(name.clone()).or_insert(format!("round {round}: slow: {case:?}"));
            }
        }
    }
    let _ = std::panic::take_hook();
    let evaluated = answers.values().filter(|count| **count > 0).count();
    eprintln!("{evaluated} of {} rules evaluated something", answers.len());
    let never: Vec<&String> =
        answers.iter().filter(|(_, count)| **count == 0).map(|(name, _)| name).collect();
    eprintln!("never: {never:?}");
    let lines: Vec<String> =
        problems.iter().map(|(name, why)| format!("{name}: {}", &why[..why.len().min(1500)])).collect();
    assert!(lines.is_empty(), "{} rules:\n{}", lines.len(), lines.join("\n\n"));
}

/// A small generator of its own, so that a failure is the same everywhere.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn new(seed: &str) -> Random {
        Random(
            seed.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            }) | 1,
        )
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn int(&mut self) -> i64 {
        match self.below(12) {
            0 => self.of(&[i64::MAX, i64::MIN, i64::MAX / 2, 1 << 31, -(1 << 31), 1 << 40]),
            1 | 2 => -(self.below(4) as i64),
            _ => self.below(4) as i64,
        }
    }

    fn float(&mut self) -> f32 {
        match self.below(12) {
            0 => self.of(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX, f32::MIN_POSITIVE]),
            1..6 => self.below(5) as f32 - 1.0,
            _ => (self.next() % 2000) as f32 / 500.0 - 2.0,
        }
    }
}

/// Shapes of one operator often go together.
#[derive(Clone)]
struct Style {
    dims: Vec<usize>,
    dtype: DType,
}

fn dims(random: &mut Random) -> Vec<usize> {
    if random.chance(25) {
        // Nothing, but with room for a rule that walks it anyway.
        let mut dims = vec![1 << 40, 0, 1 << 22];
        dims.rotate_left(random.below(3));
        dims.truncate(3 - random.below(2));
        return if dims.contains(&0) { dims } else { vec![0] };
    }
    (0..random.below(5)).map(|_| random.of(&[0, 1, 1, 2, 2, 3, 4, 4, 6])).collect()
}

fn tensor(random: &mut Random, dtype: DType, dims: &[usize]) -> Tensor {
    let elements = ir::checked_elements(dims).unwrap();
    if dtype == DType::String {
        let words = [&b""[..], b"a", b"3", b"1.5", b"a b", b"\xff", b"nan"];
        let strings: Vec<Bytes> = (0..elements).map(|_| Bytes::from_static(random.of(&words))).collect();
        return Tensor::strings(dims, strings).unwrap();
    }
    let made = if dtype.is_compute_float() {
        let numbers: Vec<f32> = (0..elements).map(|_| random.float()).collect();
        ops::array::from_f32s(dtype, dims, &numbers)
    } else if dtype.is_int() || dtype == DType::Bool {
        let numbers: Vec<i64> = (0..elements).map(|_| random.int()).collect();
        ops::array::from_i64s(dtype, dims, &numbers)
    } else {
        let bytes: Vec<u8> =
            (0..dtype.storage_bytes(elements).unwrap()).map(|_| random.next() as u8).collect();
        Tensor::new(dtype, dims, bytes)
    };
    made.unwrap()
}

fn attributes(random: &mut Random, op: &mut Op) {
    const INTS: &[&str] = &[
        "axis",
        "keepdims",
        "to",
        "k",
        "group",
        "exclusive",
        "reverse",
        "batch_dims",
        "allowzero",
        "upper",
        "num_outputs",
        "noop_with_empty_axes",
        "select_last_index",
        "largest",
        "sorted",
        "fmod",
        "blocksize",
        "saturate",
        "start",
        "end",
        "transA",
        "transB",
        "ceil_mode",
        "count_include_pad",
        "storage_order",
        "num_groups",
        "hidden_size",
        "layout",
        "batch_axis",
        "time_axis",
        "new_axis",
        "dtype",
        "output_datatype",
        "block_size",
        "num_heads",
        "kv_num_heads",
        "q_num_heads",
        "is_causal",
        "axis_w",
        "detect_negative",
        "maxsplit",
        "K",
        "N",
        "bits",
        "p",
        "align_corners",
        "onesided",
        "inverse",
        "periodic",
        "size",
        "stash_type",
        "sample_size",
        "value_int",
        "max_skip_count",
        "min_gram_length",
        "max_gram_length",
        "rotary_embedding_dim",
        "interleaved",
        "center_point_box",
        "output_height",
        "sampling_ratio",
        "cubic_coeff",
        "antialias",
        "spatial",
        "training_mode",
        "channels_last",
        "quantize_axis",
        "gather_axis",
        "quant_type",
        "precision",
        "linear_before_reset",
        "is_case_sensitive",
        "kernel_size",
    ];
    const LISTS: &[&str] = &[
        "axes",
        "perm",
        "pads",
        "shape",
        "split",
        "starts",
        "ends",
        "kernel_shape",
        "strides",
        "dilations",
        "output_shape",
        "output_padding",
        "value_ints",
        "ngram_counts",
        "ngram_indexes",
        "pool_int64s",
        "keys_int64s",
        "values_int64s",
        "scales",
    ];
    const FLOATS: &[&str] = &[
        "alpha",
        "beta",
        "epsilon",
        "ratio",
        "value_float",
        "scale",
        "min",
        "max",
        "spatial_scale",
        "softcap",
    ];
    const TEXTS: &[(&str, &[&str])] = &[
        (
            "mode",
            &[
                "constant", "edge", "reflect", "wrap", "DCR", "CRD", "linear", "cubic", "nearest", "TF",
                "IDF", "fan", "avg", "max", "bilinear", "bicubic", "circular",
            ],
        ),
        ("reduction", &["none", "add", "mul", "min", "max", "sum", "mean"]),
        ("direction", &["LEFT", "RIGHT", "forward", "reverse", "bidirectional"]),
        ("equation", &["ij,jk->ik", "ij->i", "ii->i", "...ij,...jk->...ik", "i,i", "a...->...", "ij", "->"]),
        ("auto_pad", &["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
        (
            "coordinate_transformation_mode",
            &["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"],
        ),
        ("pattern", &["a*", "[", "(a|b)+"]),
        ("delimiter", &["", " ", "a"]),
        ("round_mode", &["up", "down", "nearest"]),
        ("case_change_action", &["NONE", "UPPER", "LOWER"]),
        ("approximate", &["none", "tanh"]),
        ("nearest_mode", &["floor", "ceil", "round_prefer_floor"]),
    ];
    let often = random.of(&[2, 3, 6]);
    for name in INTS.iter().filter(|_| random.chance(often)).collect::<Vec<_>>() {
        let value = match *name {
            "to" | "dtype" => random.below(28) as i64,
            "blocksize" | "block_size" | "group" | "num_heads" | "num_groups" if !random.chance(8) => {
                1 + random.below(3) as i64
            }
            _ => random.int(),
        };
        op.attrs.set(name, AttrValue::Int(value));
    }
    for name in LISTS.iter().filter(|_| random.chance(often)).collect::<Vec<_>>() {
        let mut values: Vec<i64> = (0..random.below(5)).map(|_| random.int()).collect();
        if *name == "perm" && !random.chance(4) {
            values = (0..random.below(5) as i64).rev().collect();
        }
        op.attrs.set(name, AttrValue::Ints(values));
    }
    for name in FLOATS.iter().filter(|_| random.chance(often)).collect::<Vec<_>>() {
        op.attrs.set(name, AttrValue::Float(random.float()));
    }
    for (name, texts) in TEXTS {
        if random.chance(2) {
            op.attrs.set(name, random.of(texts).into());
        }
    }
    if random.chance(3) {
        let dtype = random.of(DType::ALL);
        let value = tensor(random, dtype, &[1]);
        op.attrs.set("value", AttrValue::Tensor(value));
    }
    if random.chance(30) {
        // The wrong kind.
        let name = random.of(INTS);
        op.attrs.set(name, AttrValue::Floats(vec![1.0]));
    }
}

struct Case {
    op: Op,
    opset: i64,
    inputs: Vec<Option<Value>>,
    outputs: usize,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} opset {} to {} outputs, attributes", self.op, self.opset, self.outputs)?;
        self.op.attrs.iter().try_for_each(|attr| write!(f, " {}={:?}", attr.name, attr.value))?;
        for (at, input) in self.inputs.iter().enumerate() {
            let Some(value) = input else { continue };
            write!(f, "\n  {at}: {}", value.describe())?;
            if let Some(numbers) =
                value.as_tensor().and_then(ops::array::to_f64s).filter(|all| all.len() <= 24)
            {
                write!(f, " {numbers:?}")?;
            }
        }
        Ok(())
    }
}

impl Case {
    fn new(random: &mut Random, rule: &dyn OpRule) -> Case {
        let name = rule.op();
        let mut op = Op::of(OpKind::new(name.domain, name.name));
        attributes(random, &mut op);
        let (first, last) = (*rule.opsets().start(), *rule.opsets().end());
        let opset = first + random.below((last - first + 1) as usize) as i64;
        let numbers =
            [DType::F32, DType::F32, DType::I64, DType::F16, DType::F64, DType::BF16, DType::I32, DType::U8];
        let dtype = if random.chance(4) { random.of(DType::ALL) } else { random.of(&numbers) };
        let style = Style { dims: dims(random), dtype };
        let inputs = (0..random.below(6)).map(|_| Case::input(random, &style)).collect();
        Case { op, opset, inputs, outputs: 1 + random.below(3) }
    }

    fn input(random: &mut Random, style: &Style) -> Option<Value> {
        let dtype = match random.below(8) {
            0..5 => style.dtype,
            5 | 6 => random.of(&[DType::I64, DType::I64, DType::Bool, DType::U8]),
            _ => random.of(DType::ALL),
        };
        let dims = match random.below(8) {
            0..3 => style.dims.clone(),
            3 => style.dims.iter().rev().copied().collect(),
            4 => vec![random.below(5)],
            5 => vec![],
            _ => dims(random),
        };
        match random.below(20) {
            0 => None,
            1 => {
                let items = (0..random.below(3)).map(|_| Value::Tensor(tensor(random, dtype, &dims)));
                Some(Value::Sequence(items.collect()))
            }
            2 => Some(Value::Optional(
                random.chance(2).then(|| Box::new(Value::Tensor(tensor(random, dtype, &dims)))),
            )),
            _ => Some(Value::Tensor(tensor(random, dtype, &dims))),
        }
    }

    /// Whether the operator was evaluated; an error where inference and evaluation contradict each other.
    fn run(&self, rule: &dyn OpRule, random: &mut Random) -> Result<bool, String> {
        let budget = Budget::new(1 << 20, 1);
        let evaluated = rule.eval(&EvalCx::new(&self.op, self.opset, &self.inputs, self.outputs, &budget));
        let exact: Vec<Option<Known>> = self.inputs.iter().map(|input| input.as_ref().map(known)).collect();
        let mut names = BTreeMap::new();
        let vague: Vec<Option<Known>> =
            exact.iter().map(|known| known.clone().map(|known| blur(random, known, &mut names))).collect();
        for inputs in [exact, vague] {
            let slots: Vec<Option<&Known>> = inputs.iter().map(Option::as_ref).collect();
            let mut cx = InferCx::new(&self.op, self.opset, &slots, self.outputs);
            let inferred = rule.infer(&mut cx);
            let (Ok(()), Ok(values)) = (&inferred, &evaluated) else {
                if let (Err(error), Ok(_)) = (&inferred, &evaluated)
                    && !error.is_unsupported()
                {
                    return Err(format!("evaluates, but inference says {error}"));
                }
                continue;
            };
            for (at, (known, value)) in cx.into_outputs().iter().zip(values).enumerate() {
                agrees(known, value, &names).map_err(|why| format!("output {at}: {why}"))?;
            }
        }
        Ok(evaluated.is_ok())
    }
}

fn known(value: &Value) -> Known {
    match value {
        Value::Tensor(tensor) => Known::of_constant(tensor.clone()),
        Value::Sequence(items) => {
            let inner =
                items.first().and_then(|item| known(item).ty).unwrap_or(ir::Type::new(TypeKind::None));
            Known::of_type(ir::Type::new(TypeKind::Sequence(Box::new(inner))))
        }
        Value::Optional(inner) => {
            let inner = inner.as_ref().and_then(|inner| known(inner).ty);
            let inner = inner.unwrap_or(ir::Type::new(TypeKind::None));
            Known::of_type(ir::Type::new(TypeKind::Optional(Box::new(inner))))
        }
    }
}

/// The same knowledge with some sizes and elements replaced by names (recorded with what they stand for) or forgotten.
fn blur(random: &mut Random, known: Known, names: &mut BTreeMap<String, i64>) -> Known {
    let Some(dims) = known.dims().map(<[Dim]>::to_vec) else { return known };
    let mut vague = |random: &mut Random, dim: &Dim| match dim {
        Dim::Known(size) if *size >= 0 && random.chance(2) => {
            // One name for all sizes of one value now and then, as a batch size would be.
            let name = format!("n{size}_{}", random.below(2));
            names.insert(name.clone(), *size);
            Dim::symbol(&name)
        }
        dim if random.chance(8) => {
            let _ = dim;
            Dim::Unknown
        }
        dim => dim.clone(),
    };
    let contents =
        known.contents().filter(|_| known.constant.is_some()).map(|contents| contents.into_owned());
    let dtype = known.dtype().filter(|_| !random.chance(12));
    if random.chance(3) {
        let contents = contents.map(|all| all.iter().map(|dim| vague(random, dim)).collect());
        let mut known = Known::tensor(dtype, Some(dims));
        known.inside.elements = contents;
        return known;
    }
    match random.below(10) {
        0 => Known::tensor(dtype, None),
        1 => known,
        _ => Known::tensor(dtype, Some(dims.iter().map(|dim| vague(random, dim)).collect())),
    }
}

fn bound(dim: &Dim, names: &BTreeMap<String, i64>) -> Dim {
    names.iter().fold(dim.clone(), |dim, (name, size)| sym::substitute(&dim, name, &Dim::Known(*size)))
}

fn agrees(known: &Known, value: &Value, names: &BTreeMap<String, i64>) -> Result<(), String> {
    let Some(ty) = &known.ty else { return Ok(()) };
    let says = |what: &str| {
        format!("inferred {}, {what}, found {}", ops::infer::shape::show_type(ty), value.describe())
    };
    let tensor = match (&ty.kind, value) {
        (TypeKind::Tensor(_), Value::Tensor(tensor)) => tensor,
        (TypeKind::Sequence(inner), Value::Sequence(items)) => {
            let known = Known::of_type((**inner).clone());
            return items.iter().try_for_each(|item| agrees(&known, item, names));
        }
        (TypeKind::Optional(_), Value::Optional(_)) | (TypeKind::None, _) => return Ok(()),
        _ => return Err(says("another kind")),
    };
    if known.dtype().is_some_and(|dtype| dtype != tensor.dtype()) {
        return Err(says("another type"));
    }
    if let Some(dims) = known.dims() {
        let fits = |(dim, &size): (&Dim, &usize)| match bound(dim, names) {
            Dim::Known(known) => known == size as i64,
            _ => true,
        };
        if dims.len() != tensor.rank() || !dims.iter().zip(tensor.dims()).all(fits) {
            return Err(says("other sizes"));
        }
    }
    let contents = known.contents();
    let numbers = ops::array::to_f64s(tensor);
    if let (Some(contents), Some(numbers)) = (contents, numbers) {
        let fits = |(dim, number): (&Dim, &f64)| match bound(dim, names) {
            Dim::Known(known) => known as f64 == *number,
            _ => true,
        };
        if contents.len() != numbers.len() || !contents.iter().zip(&numbers).all(fits) {
            return Err(says(&format!("contents {contents:?} for {numbers:?}")));
        }
    }
    Ok(())
}
