//! Weights that are stored small and computed in float: codes of 8 or 4 bits, or half precision. What mixed precision has
//! between integers and float; the layer's data stay as they are, so no conversion stands at its borders.
//!
//! ```text
//! w8, w4:  y = Conv(x, W)  =>  y = Conv(x, DequantizeLinear(codes, scales))
//! fp16:    y = Conv(x, W)  =>  y = Conv(x, Cast(W in float16))
//! ```
//!
//! Four bits have a scale for every block of 32 along the sum, where the sum is that long, else one a channel; each is the
//! one of a few shrunken ranges that leaves the least square error. A weight that overflows half precision is refused.

use ir::{Graph, OpId};
use ops::Role;
use quant::quantize::{dequantize_one, quantize_one};
use quant::{CodeType, Grid, Params, Span};

use super::plan::{Precision, WeightPlan};
use super::weights::{floats, weight_params};
use crate::target::{Candidate, Target};

/// Elements that share a scale of 4-bit codes.
const BLOCK: usize = 32;

/// Shares of the range that are tried: with 15 codes, clipping the greatest elements often pays.
const SHARES: [f32; 7] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7];

/// The greatest finite number of half precision.
const MOST_HALF: f32 = 65504.0;

/// The entries of the plan for the weights of one operator; none for half precision, which needs none.
///
/// # Errors
/// Why the weights cannot be stored so.
pub fn stored(
    graph: &Graph,
    op: OpId,
    precision: Precision,
    target: &dyn Target,
    per_tensor: bool,
) -> Result<Vec<WeightPlan>, &'static str> {
    let scheme = ops::scheme(graph, op).ok_or("it has no weights")?;
    let candidate = Candidate { graph, op, scheme: &scheme };
    let slots = candidate.weight_slots();
    if slots.is_empty() {
        return Err("it has no constant weight");
    }
    let mut weights = Vec::new();
    for slot in slots {
        let Role::Weight { channel, depth } = scheme.input(slot) else { continue };
        let value = graph.input(op, slot).ok_or("it has no constant weight")?;
        let tensor = graph.constant(value).ok_or("it has no constant weight")?;
        let numbers = floats(tensor).map_err(|_| "its weight is not floating point")?;
        if !numbers.iter().all(|number| number.is_finite()) {
            return Err("the weight holds NaN or infinity");
        }
        let value = graph.value(value).name().to_string();
        let axis = if per_tensor { None } else { target.weight_axis(candidate, slot, channel) };
        let entry = WeightPlan {
            value,
            slot,
            grid: target.weight_grid(),
            axis,
            block: None,
            scale_factors: Vec::new(),
        };
        match precision {
            Precision::Fp16 if numbers.iter().any(|number| number.abs() > MOST_HALF) => {
                return Err("the weight overflows half precision");
            }
            Precision::Fp16 => {}
            Precision::W4 => {
                let grid = Grid::symmetric(CodeType::I4).with_span(Span::Narrow);
                let long = depth.filter(|&axis| tensor.dims().get(axis).is_some_and(|&size| size >= BLOCK));
                let (axis, block) = match long {
                    Some(axis) => (Some(axis), Some(BLOCK)),
                    None => (channel, None),
                };
                let mut entry = WeightPlan { grid, axis, block, ..entry };
                entry.scale_factors =
                    factors(&numbers, tensor, &entry).map_err(|_| "its sizes do not divide into blocks")?;
                weights.push(entry);
            }
            _ => weights.push(entry),
        }
    }
    Ok(weights)
}

/// For each scale the share of the range that leaves the least square error.
fn factors(
    numbers: &[f32],
    tensor: &ir::Tensor,
    plan: &WeightPlan,
) -> Result<Vec<f32>, super::weights::WeightError> {
    let (layout, params) = weight_params(tensor, plan)?;
    let mut best = vec![(f64::INFINITY, 1.0f32); params.len()];
    for share in SHARES {
        let shrunk = params
            .iter()
            .map(|param| Params::new(param.scale() * share, param.zero_point()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut errors = vec![0f64; params.len()];
        for (at, &number) in numbers.iter().enumerate() {
            let scale = layout.param_of(at);
            let param = shrunk[scale];
            let found = dequantize_one(quantize_one(number, param, plan.grid.codes()), param);
            let error = f64::from(number) - f64::from(found);
            errors[scale] += error * error;
        }
        for (best, error) in best.iter_mut().zip(errors) {
            if error < best.0 {
                *best = (error, share);
            }
        }
    }
    Ok(best.into_iter().map(|(_, share)| share).collect())
}

#[cfg(test)]
mod tests {
    use ir::{DType, Op, Place, Shape, Tensor, Type};

    use super::*;
    use crate::target::target;

    fn product(dims: &[usize], numbers: &[f32]) -> (Graph, OpId) {
        let mut graph = Graph::new("g");
        let ty = Some(Type::tensor(DType::F32, Some(Shape::fixed(&[1, dims[0]]))));
        let x = graph.add_input("x", ty).unwrap();
        let w = graph.add_initializer("w", Tensor::from_slice(dims, numbers).unwrap()).unwrap();
        let y = graph.add_computed("y", None).unwrap();
        let op = graph.add_op(Op::new("MatMul"), &[Some(x), Some(w)], &[Some(y)], Place::End).unwrap();
        (graph, op)
    }

    #[test]
    fn four_bits_come_in_blocks_along_the_sum() {
        let ort = target("ort-cpu").unwrap();
        let numbers: Vec<f32> = (0..64 * 3).map(|at| ((at * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let (graph, op) = product(&[64, 3], &numbers);
        let found = stored(&graph, op, Precision::W4, ort, false).unwrap();
        assert_eq!((found[0].axis, found[0].block, found[0].scale_factors.len()), (Some(0), Some(32), 6));
        // Too short for a block: a scale a channel.
        let (graph, op) = product(&[8, 3], &numbers[..24]);
        let found = stored(&graph, op, Precision::W4, ort, false).unwrap();
        assert_eq!((found[0].axis, found[0].block, found[0].scale_factors.len()), (Some(1), None, 3));
    }

    /// One large element among many small ones: the range is cut where the sum of squares says so, and only there.
    #[test]
    fn ranges_shrink_where_that_pays() {
        let ort = target("ort-cpu").unwrap();
        let mut numbers: Vec<f32> = (0..64).map(|at| ((at % 16) as f32 - 7.5) / 7.5).collect();
        numbers[5] = 1.25;
        let (graph, op) = product(&[64, 1], &numbers);
        let found = stored(&graph, op, Precision::W4, ort, false).unwrap();
        assert!(found[0].scale_factors[0] < 1.0, "{:?}", found[0].scale_factors);
        // Codes times a power of two are met exactly at the full range.
        let exact: Vec<f32> = (0..64).map(|at| ((at % 15) as f32 - 7.0) / 8.0).collect();
        let (graph, op) = product(&[64, 1], &exact);
        let found = stored(&graph, op, Precision::W4, ort, false).unwrap();
        assert_eq!(found[0].scale_factors, [1.0, 1.0]);
    }

    #[test]
    fn what_half_precision_cannot_hold_is_refused() {
        let ort = target("ort-cpu").unwrap();
        let (graph, op) = product(&[2, 1], &[1.0, 7e4]);
        assert!(stored(&graph, op, Precision::Fp16, ort, false).is_err());
        let (graph, op) = product(&[2, 1], &[1.0, 6e4]);
        assert_eq!(stored(&graph, op, Precision::Fp16, ort, false), Ok(vec![]));
    }
}
