//! `onnxq.FakeQuant(x)`: rounds `x` to a quantization grid and back.
//!
//! `y = (clamp(round(x / scale) + zero_point, min, max) - zero_point) * scale`, rounding half to even, the same function
//! as QuantizeLinear followed by DequantizeLinear (ONNX operator specification). It exists so that any float runtime can
//! run a quantized model: `lower_for_execution` puts it where a Quantize/Dequantize pair stood. Its parameters are
//! attributes, so no runtime needs the narrow tensor types.
//!
//! Attributes: `code` (element type of the grid, ONNX's text name), `scales`, `zero_points` (empty means 0), `axis`
//! (used when there are several scales), `block_size` (0: one scale per index of the axis).

use ir::{Attrs, Class, DType};
use thiserror::Error;

/// The parameters of one `onnxq.FakeQuant`.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeQuant {
    /// Element type of the grid: an integer of at most 16 bits, or a float of at most 8.
    pub code: DType,
    /// The axis along which `scales` change; negative counts from the end.
    pub axis: i64,
    /// How many neighbours along the axis share a scale; 0 means per index (or per tensor, with one scale).
    pub block_size: i64,
    /// One scale; or one per index of the axis; or, blocked, one per block, row-major in the shape of the input with the
    /// axis divided by the block size.
    pub scales: Vec<f32>,
    /// As many as scales, or none for all zero.
    pub zero_points: Vec<f32>,
}

/// Why parameters do not describe a rounding.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum FakeQuantError {
    /// A scale that is not positive and finite.
    #[error("scale {0} is not positive and finite")]
    Scale(f32),
    /// Not as many zero points as scales.
    #[error("{zero_points} zero points for {scales} scales")]
    Count {
        /// Number of scales.
        scales: usize,
        /// Number of zero points.
        zero_points: usize,
    },
    /// A grid that is not an integer of at most 16 bits or a float of at most 8.
    #[error("{0} is not a quantized type")]
    Code(DType),
    /// The parameters do not fit the shape.
    #[error("{scales} scales do not fit sizes {dims:?} along axis {axis} in blocks of {block_size}")]
    Shape {
        /// Number of scales.
        scales: usize,
        /// Sizes of the input.
        dims: Vec<usize>,
        /// The axis.
        axis: i64,
        /// The block size.
        block_size: i64,
    },
}

impl FakeQuant {
    /// Reads the attributes of an operator; none if a required one is missing or of another kind.
    pub fn from_attrs(attrs: &Attrs) -> Option<FakeQuant> {
        Some(FakeQuant {
            code: DType::from_name(attrs.str("code")?)?,
            axis: attrs.int("axis").unwrap_or(1),
            block_size: attrs.int("block_size").unwrap_or(0),
            scales: attrs.floats("scales")?.to_vec(),
            zero_points: attrs.floats("zero_points").unwrap_or_default().to_vec(),
        })
    }

    /// Checks what does not depend on the input.
    pub fn check(&self) -> Result<(), FakeQuantError> {
        let narrow = match self.code.class() {
            Class::Signed | Class::Unsigned => self.code.bits() <= 16,
            Class::Float => self.code.bits() <= 8,
            _ => false,
        };
        if !narrow {
            return Err(FakeQuantError::Code(self.code));
        }
        if let Some(&scale) = self.scales.iter().find(|scale| !(scale.is_finite() && **scale > 0.0)) {
            return Err(FakeQuantError::Scale(scale));
        }
        let (scales, zero_points) = (self.scales.len(), self.zero_points.len());
        if scales == 0 || (zero_points != 0 && zero_points != scales) {
            return Err(FakeQuantError::Count { scales, zero_points });
        }
        Ok(())
    }

    /// Rounds `x`, row-major of sizes `dims`, in place. NaN becomes the smallest code of an integer grid and stays NaN on
    /// a float grid.
    pub fn apply(&self, dims: &[usize], x: &mut [f32]) -> Result<(), FakeQuantError> {
        self.check()?;
        if let [scale] = self.scales[..] {
            self.round_run(x, scale, self.zero_points.first().copied().unwrap_or(0.0));
            return Ok(());
        }
        let wrong = || FakeQuantError::Shape {
            scales: self.scales.len(),
            dims: dims.to_vec(),
            axis: self.axis,
            block_size: self.block_size,
        };
        let rank = dims.len() as i64;
        let axis = if self.axis < 0 { self.axis + rank } else { self.axis };
        let axis = usize::try_from(axis).ok().filter(|&axis| axis < dims.len()).ok_or_else(wrong)?;
        let inner: usize = dims[axis + 1..].iter().product();
        let outer: usize = dims[..axis].iter().product();
        let size = dims[axis];
        if x.len() != outer * size * inner {
            return Err(wrong());
        }
        let block = usize::try_from(self.block_size).map_err(|_| wrong())?;
        let blocks = if block == 0 { size } else { size.div_ceil(block) };
        let expected = if block == 0 { size } else { outer * blocks * inner };
        if self.scales.len() != expected {
            return Err(wrong());
        }
        for (row, run) in x.chunks_exact_mut(inner.max(1)).enumerate() {
            let (o, i) = (row / size, row % size);
            if block == 0 {
                self.round_run(run, self.scales[i], self.zero_points.get(i).copied().unwrap_or(0.0));
                continue;
            }
            let first = (o * blocks + i / block) * inner;
            for (k, element) in run.iter_mut().enumerate() {
                let zero_point = self.zero_points.get(first + k).copied().unwrap_or(0.0);
                self.round_run(std::slice::from_mut(element), self.scales[first + k], zero_point);
            }
        }
        Ok(())
    }

    fn round_run(&self, x: &mut [f32], scale: f32, zero_point: f32) {
        if self.code.is_float() {
            x.iter_mut().for_each(|v| *v = round_float(self.code, *v / scale) * scale);
            return;
        }
        let bits = self.code.bits() as i32;
        let (min, max) = match self.code.class() {
            Class::Signed => (-(2f32.powi(bits - 1)), 2f32.powi(bits - 1) - 1.0),
            _ => (0.0, 2f32.powi(bits) - 1.0),
        };
        let (lo, hi) = (min - zero_point, max - zero_point);
        // Adding and subtracting 1.5 * 2^23 rounds half to even for |v| < 2^22 and, unlike a call to `rint`, vectorizes
        // on every x86-64. The clamp comes first: its bounds are integers, so the order does not matter.
        const MAGIC: f32 = 12_582_912.0;
        for v in x {
            *v = ((*v / scale).max(lo).min(hi) + MAGIC - MAGIC) * scale;
        }
    }
}

/// The value of a small float type nearest to `v`, ties to even, saturating at the largest finite one (ONNX
/// `saturate = 1`). NaN stays NaN.
fn round_float(code: DType, v: f32) -> f32 {
    // Mantissa bits, exponent of the smallest normal number, largest finite value: ONNX technical document on float8.
    let (mantissa, min_exponent, max) = match code {
        DType::F8E4M3FN => (3, -6, 448.0),
        DType::F8E4M3FNUZ => (3, -7, 240.0),
        DType::F8E5M2 => (2, -14, 57344.0),
        DType::F8E5M2FNUZ => (2, -15, 57344.0),
        DType::F4E2M1 => (1, 0, 6.0),
        DType::F6E2M3 => (3, 0, 7.5),
        DType::F6E3M2 => (2, -2, 28.0),
        _ => return v,
    };
    if v.is_nan() {
        return v;
    }
    let exponent = ((v.abs().to_bits() >> 23) as i32 - 127).max(min_exponent);
    let step = 2f32.powi(exponent - mantissa);
    ((v / step).round_ties_even() * step).clamp(-max, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(code: DType, scales: &[f32], zero_points: &[f32], axis: i64, block_size: i64) -> FakeQuant {
        FakeQuant { code, axis, block_size, scales: scales.to_vec(), zero_points: zero_points.to_vec() }
    }

    #[test]
    fn ties_go_to_even_and_ends_saturate() {
        let mut x = [0.5, 1.5, 2.5, -0.5, 300.0, -3.0, f32::NAN, f32::INFINITY];
        spec(DType::U8, &[1.0], &[2.0], 0, 0).apply(&[8], &mut x).unwrap();
        assert_eq!(x, [0.0, 2.0, 2.0, 0.0, 253.0, -2.0, -2.0, 253.0]);
    }

    #[test]
    fn the_axis_chooses_the_scale() {
        let mut x = [1.2, 1.2, 1.2, 1.2, 1.2, 1.2];
        spec(DType::I8, &[1.0, 0.5, 0.25], &[], 1, 0).apply(&[2, 3], &mut x).unwrap();
        assert_eq!(x, [1.0, 1.0, 1.25, 1.0, 1.0, 1.25]);
    }

    #[test]
    fn blocks_share_a_scale_and_the_last_may_be_short() {
        let mut x = [1.2, 1.2, 1.2];
        spec(DType::I4, &[1.0, 0.5], &[0.0, 0.0], 0, 2).apply(&[3, 1], &mut x).unwrap();
        assert_eq!(x, [1.0, 1.0, 1.0]);
        let wrong = spec(DType::I4, &[1.0, 0.5, 0.1], &[], 0, 2).apply(&[3, 1], &mut x);
        assert!(matches!(wrong, Err(FakeQuantError::Shape { .. })));
    }

    #[test]
    fn small_floats_round_to_their_neighbours() {
        let near = |code, v| round_float(code, v);
        assert_eq!(near(DType::F8E4M3FN, 1000.0), 448.0);
        assert_eq!(near(DType::F8E4M3FN, 1.0625), 1.0); // halfway between 1 and 1.125: to even
        assert_eq!(near(DType::F8E4M3FN, 0.001), 0.001953125); // 2^-9, the smallest subnormal
        assert_eq!(near(DType::F4E2M1, 2.5), 2.0);
        assert_eq!(near(DType::F4E2M1, -5.0), -4.0);
        assert!(near(DType::F8E5M2, f32::NAN).is_nan());
    }

    #[test]
    fn bad_parameters_are_refused() {
        assert_eq!(spec(DType::U8, &[0.0], &[], 0, 0).check(), Err(FakeQuantError::Scale(0.0)));
        assert_eq!(spec(DType::F32, &[1.0], &[], 0, 0).check(), Err(FakeQuantError::Code(DType::F32)));
        assert!(spec(DType::U8, &[1.0, 2.0], &[1.0], 0, 0).check().is_err());
    }
}
