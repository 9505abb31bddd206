//! The scale of each weight channel with the least expected error of the product's output.
//!
//! The largest weight need not set the scale. With inputs of second moments m_k, rounding errors e_k add Σ m_k·e_k² to the
//! output, so scales somewhat smaller (which clip the largest weight, a little) or larger (which happen to meet the weights
//! better) may do less harm. The fewer weights a channel has (a depthwise filter has nine), the more there is to gain.

use rayon::prelude::*;

use crate::error::{Error, check_len};
use crate::grid::{Grid, Params};
use crate::quantize::Layout;
use crate::round::round_small;

/// Factors that are tried: 0.60 to 1.20 in steps of one hundredth.
const TRIED: std::ops::RangeInclusive<i32> = 60..=120;

/// For each scale of the layout the factor with the least Σ importance·error²; 1 where none is better by more than
/// `worthwhile` (0.01: one per cent of the error). `importance` has one number an element, in the tensor's order.
///
/// # Errors
/// Sizes that do not fit together.
pub fn factors(
    weights: &[f32],
    importance: &[f32],
    layout: &Layout,
    params: &[Params],
    grid: Grid,
    worthwhile: f64,
) -> Result<Vec<f32>, Error> {
    check_len("weights of the layout", layout.len(), weights.len())?;
    check_len("importance beside the weights", weights.len(), importance.len())?;
    check_len("scales of the layout", layout.params_len(), params.len())?;
    let mut channels: Vec<Vec<(f32, f32)>> = vec![Vec::new(); params.len()];
    for (at, pair) in weights.iter().copied().zip(importance.iter().copied()).enumerate() {
        channels[layout.param_of(at)].push(pair);
    }
    Ok(channels
        .par_iter()
        .zip(params)
        .map(|(channel, &param)| best(channel, param, grid, worthwhile).unwrap_or(1.0))
        .collect())
}

fn best(channel: &[(f32, f32)], param: Params, grid: Grid, worthwhile: f64) -> Option<f32> {
    if grid.code.is_float() {
        return None;
    }
    let own = error(channel, param, grid);
    let mut found = (1.0, own * (1.0 - worthwhile));
    for hundredths in TRIED {
        let factor = hundredths as f32 / 100.0;
        let Ok(tried) = Params::new(param.scale() * factor, param.zero_point()) else { continue };
        let error = error(channel, tried, grid);
        if error < found.1 {
            found = (factor, error);
        }
    }
    (found.0 != 1.0).then_some(found.0)
}

fn error(channel: &[(f32, f32)], param: Params, grid: Grid) -> f64 {
    let (lo, hi) = grid.codes();
    let (scale, zero) = (param.scale(), param.zero_point());
    // The codes around a zero point of 0: all fit a float32.
    let (lo, hi) = ((lo - zero) as f32, (hi - zero) as f32);
    let each = |&(w, m): &(f32, f32)| {
        let e = round_small((w / scale).clamp(lo, hi)) * scale - w;
        f64::from(m * e * e)
    };
    channel.iter().map(each).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::CodeType;
    use crate::grid::{Policy, Span};
    use crate::quantize::ranges;

    fn run(weights: &[f32], importance: &[f32], rows: usize) -> Vec<f32> {
        let layout = Layout::per_axis(&[rows, weights.len() / rows], 0).unwrap();
        let grid = Grid::symmetric(CodeType::I8).with_span(Span::Narrow);
        let (params, _) = Params::for_channels(&ranges(weights, &layout).unwrap(), grid, &Policy::default());
        factors(weights, importance, &layout, &params, grid, 0.01).unwrap()
    }

    #[test]
    fn a_weight_that_meets_nothing_does_not_set_the_scale() {
        let mut weights: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) / 40.0).collect();
        weights[5] = 1.2;
        let mut importance = vec![1.0; 64];
        importance[5] = 0.0;
        let found = run(&weights, &importance, 1);
        assert!(found[0] < 0.75, "{found:?}");
        importance[5] = 1e6;
        let found = run(&weights, &importance, 1);
        assert!((found[0] - 1.0).abs() < 0.25, "{found:?}");
    }

    #[test]
    fn weights_on_the_grid_and_dead_ones_stay() {
        let exact: Vec<f32> = (-127..=127).map(|v| v as f32 * 0.5).collect();
        assert_eq!(run(&exact, &vec![1.0; exact.len()], 1), [1.0]);
        assert_eq!(run(&[0.0; 8], &[1.0; 8], 2), [1.0, 1.0]);
        let layout = Layout::per_tensor(3);
        let param = Params::new(1.0, 0).unwrap();
        let grid = Grid::symmetric(CodeType::I8);
        assert!(factors(&[1.0; 3], &[1.0; 2], &layout, &[param], grid, 0.01).is_err());
        assert!(factors(&[1.0; 3], &[1.0; 3], &layout, &[], grid, 0.01).is_err());
    }
}
