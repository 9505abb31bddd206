//! Inputs made by rule, running the reference evaluator, and comparing.

use ir::{DType, Model, Tensor};
use ops::Value;
use ops::eval::{Options, run};

/// Inputs in the order of the main graph's.
pub type Feed = Vec<Option<Value>>;

/// A tensor by rule: the same for the same arguments on every machine.
pub fn made(
    dtype: DType,
    sizes: &[usize],
    seed: u64,
    range: Option<(f64, f64)>,
    wild: bool,
) -> Result<Tensor, String> {
    let count: usize = sizes.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    let mut next = || {
        // xorshift64*, good enough to avoid accidental structure.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    let mut floats = Vec::with_capacity(count);
    for at in 0..count {
        let unit = (next() >> 11) as f64 / (1u64 << 53) as f64;
        floats.push(match (range, at % 7, wild) {
            (Some((low, high)), ..) => low + unit * (high - low),
            (None, 2, _) => 0.0,
            (None, 4, _) => -0.0,
            (None, 3, true) => f64::NAN,
            (None, 5, true) => f64::INFINITY,
            (None, 6, true) => f64::NEG_INFINITY,
            _ => 8.0 * unit - 4.0,
        });
    }
    let cast = |value: &f64| value.round();
    let tensor = match dtype {
        DType::F32 => Tensor::from_slice(sizes, &floats.iter().map(|&v| v as f32).collect::<Vec<_>>()),
        DType::F64 => Tensor::from_slice(sizes, &floats),
        DType::F16 => {
            Tensor::from_slice(sizes, &floats.iter().map(|&v| half::f16::from_f64(v)).collect::<Vec<_>>())
        }
        DType::BF16 => {
            Tensor::from_slice(sizes, &floats.iter().map(|&v| half::bf16::from_f64(v)).collect::<Vec<_>>())
        }
        DType::I64 => Tensor::from_slice(sizes, &floats.iter().map(|v| cast(v) as i64).collect::<Vec<_>>()),
        DType::I32 => Tensor::from_slice(sizes, &floats.iter().map(|v| cast(v) as i32).collect::<Vec<_>>()),
        DType::I8 => Tensor::from_slice(sizes, &floats.iter().map(|v| cast(v) as i8).collect::<Vec<_>>()),
        DType::U8 => Tensor::from_slice(sizes, &floats.iter().map(|v| cast(v) as u8).collect::<Vec<_>>()),
        DType::Bool => Tensor::from_slice(sizes, &floats.iter().map(|&v| v > 0.0).collect::<Vec<_>>()),
        other => return Err(format!("no rule makes a tensor of {other}")),
    };
    tensor.map_err(|error| error.to_string())
}

/// The outputs of the main graph.
pub fn evaluate(model: &Model, feed: &Feed) -> Result<Vec<Value>, String> {
    let limits = Options { max_bytes: 1 << 28, max_steps: 100_000 };
    run(model, feed.clone(), &limits, None).map_err(|error| error.to_string())
}

/// Says where two results differ. Without a tolerance every bit counts, except those inside a not-a-number.
#[allow(dead_code)] // not every test that shares this file compares with a tolerance
pub fn agree(old: &Value, new: &Value, tolerance: Option<f64>) -> Result<(), String> {
    let (old, new) = match (old, new) {
        (Value::Tensor(old), Value::Tensor(new)) => (old, new),
        _ if old == new => return Ok(()),
        _ => return Err(format!("{} became {}", old.describe(), new.describe())),
    };
    if (old.dtype(), old.dims()) != (new.dtype(), new.dims()) {
        return Err(format!("{} {:?} became {} {:?}", old.dtype(), old.dims(), new.dtype(), new.dims()));
    }
    if old.data() == new.data() {
        return Ok(());
    }
    let numbers = |tensor: &Tensor| ops::array::to_f64s(tensor).ok_or("other elements");
    let pairs = numbers(old)?.into_iter().zip(numbers(new)?);
    for (at, (a, b)) in pairs.enumerate() {
        let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        let close = |limit: f64| a == b || (a - b).abs() <= limit * a.abs().max(1.0);
        if !same && !tolerance.is_some_and(close) {
            return Err(format!("element {at} of {:?}: {a} became {b}", old.dims()));
        }
    }
    Ok(())
}
