//! Operators whose inputs or attributes were bent: an answer or an error, never a panic, and never more memory than the
//! budget. The bending is seeded; a failure names the case and the step that led to it.
//!
//! Also: inference that knows less (sizes replaced by names or nothing) must not say anything that a run contradicts.

#[allow(dead_code)]
mod cases;

use std::panic::{AssertUnwindSafe, catch_unwind};

use cases::Case;
use ir::{AttrValue, DType, Dim, Op, Shape, Tensor, Type};
use onnxq_ops::eval::Budget;
use onnxq_ops::{EvalCx, InferCx, Known, Value};

/// A small generator: xorshift.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

const INTS: &[i64] = &[i64::MIN, -(1 << 40), -3, -1, 0, 1, 2, 3, 5, 16, 1 << 20, 1 << 31, 1 << 40, i64::MAX];
const FLOATS: &[f32] = &[f32::NAN, f32::INFINITY, -1.0, 0.0, 1e-30, 0.3, 1e30];

/// A tensor of other sizes with the old bytes over and over.
fn resized(tensor: &Tensor, dims: &[usize]) -> Option<Tensor> {
    let elements = ir::checked_elements(dims).ok().filter(|&elements| elements <= 1 << 14)?;
    let size = tensor.dtype().storage_bytes(elements)?;
    let bytes: Vec<u8> = match tensor.bytes().is_empty() {
        true => vec![1; size],
        false => tensor.bytes().iter().copied().cycle().take(size).collect(),
    };
    Tensor::new(tensor.dtype(), dims, bytes).ok()
}

fn bend_tensor(tensor: &Tensor, dice: &mut Dice) -> Option<Tensor> {
    let mut dims = tensor.dims().to_vec();
    match dice.roll(7) {
        0 if !dims.is_empty() => {
            let at = dice.roll(dims.len());
            dims[at] = *dice.pick(&[0, 1, 2, 3, 7, 20]);
            resized(tensor, &dims)
        }
        1 => {
            dims.insert(dice.roll(dims.len() + 1), *dice.pick(&[0, 1, 2]));
            resized(tensor, &dims)
        }
        2 if !dims.is_empty() => {
            dims.remove(dice.roll(dims.len()));
            resized(tensor, &dims)
        }
        3 => {
            let dtype = *dice.pick(DType::ALL);
            let dims = if dice.roll(2) == 0 { dims } else { vec![tensor.elements()] };
            let size = dtype.storage_bytes(dims.iter().product())?;
            Tensor::new(dtype, dims, tensor.bytes().iter().copied().cycle().take(size).collect::<Vec<u8>>())
                .ok()
        }
        4 if tensor.dtype() == DType::I64 => {
            let numbers: Vec<i64> = (0..tensor.elements()).map(|_| *dice.pick(INTS)).collect();
            Tensor::from_slice(&dims, &numbers).ok()
        }
        5 if tensor.dtype() == DType::F32 => {
            let numbers: Vec<f32> = (0..tensor.elements()).map(|_| *dice.pick(FLOATS)).collect();
            Tensor::from_slice(&dims, &numbers).ok()
        }
        _ => resized(tensor, &[]),
    }
}

fn bend_op(op: &mut Op, dice: &mut Dice) {
    let names: Vec<String> = op.attrs.iter().map(|attr| attr.name.to_string()).collect();
    let Some(name) = names.get(dice.roll(names.len())) else { return };
    let bent = match op.attrs.get(name) {
        Some(AttrValue::Int(_)) => AttrValue::Int(*dice.pick(INTS)),
        Some(AttrValue::Float(_)) => AttrValue::Float(*dice.pick(FLOATS)),
        Some(AttrValue::Ints(ints)) => {
            let mut ints = ints.clone();
            match (dice.roll(3), ints.len()) {
                (0, 1..) => drop(ints.pop()),
                (1, _) | (_, 0) => ints.push(*dice.pick(INTS)),
                (_, len) => ints[dice.roll(len)] = *dice.pick(INTS),
            }
            AttrValue::Ints(ints)
        }
        _ => AttrValue::from("nonsense"),
    };
    match dice.roll(5) {
        0 => drop(op.attrs.remove(name)),
        _ => op.attrs.set(name, bent),
    }
}

fn known(tensor: &Tensor) -> Known {
    Known::of_constant(tensor.clone())
}

/// Infers and evaluates; the message of a panic.
fn survive(op: &Op, opset: i64, inputs: &[Option<Tensor>], outputs: usize) -> Result<(), String> {
    let Ok(rule) = onnxq_ops::rule(&op.kind, Some(opset)) else { return Ok(()) };
    let run = || {
        let known: Vec<Option<Known>> = inputs.iter().map(|tensor| tensor.as_ref().map(known)).collect();
        let known: Vec<Option<&Known>> = known.iter().map(Option::as_ref).collect();
        let _ = rule.infer(&mut InferCx::new(op, opset, &known, outputs));
        let values: Vec<Option<Value>> =
            inputs.iter().map(|tensor| tensor.clone().map(Value::Tensor)).collect();
        let _ = rule.eval(&EvalCx::new(op, opset, &values, outputs, &Budget::new(1 << 24, 1000)));
    };
    let panicked = catch_unwind(AssertUnwindSafe(run)).err();
    panicked.map_or(Ok(()), |panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        Err(text.unwrap_or_default())
    })
}

fn bend(case: &Case, seed: u64) -> Result<(), String> {
    let mut dice = Dice(seed | 1);
    let (mut op, mut opset, mut inputs) = (case.op.clone(), case.opset, case.inputs.clone());
    for _ in 0..1 + dice.roll(3) {
        match dice.roll(8) {
            0 => bend_op(&mut op, &mut dice),
            1 => bend_op(&mut op, &mut dice),
            2 if !inputs.is_empty() => {
                let at = dice.roll(inputs.len());
                inputs[at] = None;
            }
            3 => opset = *dice.pick(&[1, 7, 10, 11, 13, 18, 21, 23, opset]),
            4 if !inputs.is_empty() => inputs.truncate(dice.roll(inputs.len())),
            _ if !inputs.is_empty() => {
                let at = dice.roll(inputs.len());
                if let Some(tensor) = &inputs[at]
                    && let Some(bent) = bend_tensor(tensor, &mut dice)
                {
                    inputs[at] = Some(bent);
                }
            }
            _ => {}
        }
    }
    survive(&op, opset, &inputs, case.outputs.len())
        .map_err(|why| format!("{} (seed {seed}): {why}\n  {:?} {:?}", case.name, op.attrs, sizes(&inputs)))
}

fn sizes(inputs: &[Option<Tensor>]) -> Vec<String> {
    let show = |tensor: &Tensor| format!("{}{:?}", tensor.dtype(), tensor.dims());
    inputs.iter().map(|tensor| tensor.as_ref().map_or("-".to_string(), show)).collect()
}

#[test]
fn bent_operators_never_panic() {
    let mut failures = Vec::new();
    for case in cases::read(include_str!("data/contrib.jsonl")) {
        failures.extend((0..60).filter_map(|seed| bend(&case, seed * 7919 + 17).err()));
    }
    assert!(failures.is_empty(), "{} panics:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn knowing_less_never_contradicts() {
    let mut failures = Vec::new();
    for case in cases::read(include_str!("data/contrib.jsonl")) {
        for seed in 0..20u64 {
            let mut dice = Dice(seed * 104_729 + 5);
            let vague = |dice: &mut Dice, at: usize, tensor: &Tensor| {
                if dice.roll(4) == 0 {
                    return known(tensor);
                }
                let dims = tensor.dims().iter().enumerate().map(|(axis, &size)| match dice.roll(3) {
                    0 => Dim::symbol(&format!("d{at}_{axis}")),
                    1 => Dim::Unknown,
                    _ => Dim::from(size),
                });
                let shape = Shape::new(dims.collect::<Vec<_>>());
                Known::of_type(Type::tensor(tensor.dtype(), (dice.roll(5) > 0).then_some(shape)))
            };
            let inputs = case.inputs.iter().enumerate();
            let inputs: Vec<Option<Known>> = inputs
                .map(|(at, tensor)| tensor.as_ref().map(|tensor| vague(&mut dice, at, tensor)))
                .collect();
            if let Err(why) = case.check_known(&inputs) {
                failures.push(format!("{} (seed {seed}): {why}", case.name));
            }
        }
    }
    assert!(failures.is_empty(), "{} contradictions:\n{}", failures.len(), failures.join("\n"));
}
