//! Calibration caches for TensorRT's implicit quantization.
//!
//! ```text
//! TRT-8601-EntropyCalibration2
//! data: 3c9b6a1e
//! ```
//!
//! The first line names the version and calibrator that a cache counts as made by. Each other line is a tensor's name and
//! the bits of a float32 in hexadecimal: the size of one step of its symmetric 8-bit grid, the greatest absolute value
//! divided by 127. The greatest absolute value is that of both ends: a range of [-10, 2] has 10.

use std::fmt::Write;

use quant::range::{Method, choose};
use quant::{CodeType, Grid, Policy};

use super::table::CalibrationTable;

/// The first line, unless another is asked for. TensorRT 8 reads caches with other version numbers too.
pub const HEADER: &str = "TRT-8601-EntropyCalibration2";

/// Steps from zero to the end of the grid.
const STEPS: f32 = 127.0;

/// The cache as text: a line for every value of which a number other than zero was seen, in the order of names. Returns
/// how many values were left out besides.
pub fn tensorrt_cache(table: &CalibrationTable, method: Method, header: &str) -> (String, usize) {
    let mut text = format!("{header}\n");
    let mut left_out = 0;
    let grid = Grid::symmetric(CodeType::I8);
    for (name, sketch) in &table.values {
        let choice = choose(method, sketch, grid, &Policy::default());
        let most = choice.lo.abs().max(choice.hi.abs());
        let step = most / STEPS;
        if sketch.finite() == 0 || !(step.is_finite() && step > 0.0) {
            left_out += 1;
            continue;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {:08x}", step.to_bits());
    }
    (text, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quant::range::Sketch;

    #[test]
    fn both_ends_count() {
        let mut table = CalibrationTable::new("m".into(), "r".into(), false, 1);
        table.values.insert("a".into(), Sketch::of(&[-12.7, 2.0]));
        table.values.insert("b".into(), Sketch::of(&[0.5, 1.27]));
        table.values.insert("never".into(), Sketch::new());
        table.values.insert("zero".into(), Sketch::of(&[0.0; 4]));
        let (text, left_out) = tensorrt_cache(&table, Method::MinMax, HEADER);
        let step = |most: f32| format!("{:08x}", (most / 127.0).to_bits());
        assert_eq!(text, format!("{HEADER}\na: {}\nb: {}\n", step(12.7), step(1.27)));
        assert_eq!(left_out, 2);
    }
}
