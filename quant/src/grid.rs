//! Grids, scales and zero points, and the one place where degenerate ranges are decided.
//!
//! A real value x is stored as the code q = clip(round_half_even(x / scale) + zero_point) and read back as
//! (q - zero_point)·scale. A [`Grid`] says which codes there are, [`Params`] where they lie on the real line.
//!
//! **Degenerate ranges.** [`Params::from_range`] gives a usable scale for *every* pair of numbers, and says what it
//! had to do ([`RangeNote`]):
//!
//! | range | [`Formula::Tight`] (ours) | [`Formula::OnnxRuntime`] |
//! |---|---|---|
//! | does not contain 0 | widened to 0, so that padding and Relu stay exact | same |
//! | all zero, or empty (lo > hi) | scale = `zero_scale`, zero point of a symmetric grid | scale 1, zero point 0 |
//! | a NaN end | that end counts as 0 | same |
//! | an infinite end | that end counts as ±f32::MAX | same |
//! | scale below the scale type's least normal number | raised to it | scale 1, zero point 0 |
//! | scale above the scale type's greatest number | lowered to it | same |
//! | narrower than `min_real_range` | upper end raised | same |

use serde::{Deserialize, Serialize};

use crate::code::CodeType;
use crate::error::Error;
use crate::round::ScaleType;

/// Which of a type's codes are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// Every code.
    #[default]
    Full,
    /// As many codes below the middle as above: -127..=127 for int8, 1..=255 for uint8. What TensorRT, OpenVINO and
    /// onnxruntime expect of symmetric weights.
    Narrow,
    /// One bit fewer, so that pairs of products cannot saturate on CPUs without VNNI: 0..=127 for uint8, -64..=64 for
    /// int8 (onnxruntime's `reduce_range`).
    Reduced,
}

/// A set of codes and where zero lies in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grid {
    /// Element type of the codes.
    pub code: CodeType,
    /// Whether the zero point is fixed in the middle of the codes (0 for signed types).
    pub symmetric: bool,
    /// Which codes are used.
    #[serde(default)]
    pub span: Span,
}

impl Grid {
    /// Zero point fixed in the middle; every code used.
    pub fn symmetric(code: CodeType) -> Self {
        Self { code, symmetric: true, span: Span::Full }
    }

    /// Zero point free.
    pub fn asymmetric(code: CodeType) -> Self {
        Self { code, symmetric: false, span: Span::Full }
    }

    /// The same grid with another span.
    pub fn with_span(self, span: Span) -> Self {
        Self { span, ..self }
    }

    /// Least and greatest code used. For float codes `(-1, 1)`: their range is [`CodeType::max_value`].
    pub fn codes(self) -> (i32, i32) {
        let Some((lo, hi)) = self.code.int_range() else { return (-1, 1) };
        match self.span {
            Span::Full => (lo, hi),
            Span::Narrow => (lo + 1, hi),
            Span::Reduced if self.code.is_signed() => (lo / 2, hi / 2 + 1),
            Span::Reduced => (lo, hi / 2),
        }
    }

    /// The zero point of a symmetric grid, which is also the one used where a range says nothing: 0 for signed and
    /// float codes, the upper of the two middle codes for unsigned ones (128 for uint8).
    pub fn middle(self) -> i32 {
        if self.code.is_signed() {
            return 0;
        }
        let (_, hi) = self.codes();
        hi / 2 + 1
    }

    /// Steps between the least and the greatest code (1 or more).
    pub fn steps(self) -> f64 {
        if self.code.is_float() {
            return 2.0 * f64::from(self.code.max_value());
        }
        let (lo, hi) = self.codes();
        f64::from(hi) - f64::from(lo)
    }
}

/// How a scale follows from a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Formula {
    /// The least scale with which both ends of the range lie within the codes; the zero point is computed from the
    /// scale as it will be stored.
    #[default]
    Tight,
    /// What onnxruntime.quantization 1.31 computes (`compute_scale_zp` and its tables), bit for bit. It differs where
    /// the codes are not symmetric around the zero point: int4 symmetric uses 2a/15, so +a is clipped.
    OnnxRuntime,
}

/// The choices that turn a range into [`Params`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// How the scale is computed.
    pub formula: Formula,
    /// The type the scale is stored in; the scale is rounded to it.
    pub scale_type: ScaleType,
    /// The range is widened to at least this width.
    pub min_real_range: Option<f32>,
    /// Scale of a range that is all zero or empty ([`Formula::Tight`] only). Callers with several channels take the
    /// other channels' largest scale ([`Params::for_channels`]), so that the bias of a dead channel keeps its
    /// resolution.
    pub zero_scale: f32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { formula: Formula::Tight, scale_type: ScaleType::F32, min_real_range: None, zero_scale: 1.0 }
    }
}

impl Policy {
    /// Scales and zero points as onnxruntime.quantization computes them.
    pub fn ort_compatible() -> Self {
        Self { formula: Formula::OnnxRuntime, ..Self::default() }
    }
}

/// What had to be done to a range. The gravest applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeNote {
    /// Nothing.
    Fine,
    /// The range did not contain zero and was widened to it.
    ZeroAdded,
    /// Widened to the policy's minimum real range.
    Widened,
    /// The scale was lowered to the greatest finite number of its type.
    ScaleLowered,
    /// The scale was below the least normal number of its type.
    ScaleRaised,
    /// Only zeros.
    AllZero,
    /// No values at all (lo > hi).
    Empty,
    /// An end was infinite.
    Infinite,
    /// An end was NaN.
    NotANumber,
}

impl RangeNote {
    /// Whether a report should mention it.
    pub fn is_suspicious(self) -> bool {
        self > Self::Widened
    }
}

/// A scale, positive and finite by construction, and a zero point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawParams")]
pub struct Params {
    scale: f32,
    zero_point: i32,
}

#[derive(Deserialize)]
struct RawParams {
    scale: f32,
    zero_point: i32,
}

impl TryFrom<RawParams> for Params {
    type Error = Error;
    fn try_from(raw: RawParams) -> Result<Self, Error> {
        Params::new(raw.scale, raw.zero_point)
    }
}

impl Default for Params {
    fn default() -> Self {
        Self { scale: 1.0, zero_point: 0 }
    }
}

impl Params {
    /// Checks the scale. Whether the zero point fits a type is [`Params::check`]'s question.
    pub fn new(scale: f32, zero_point: i32) -> Result<Self, Error> {
        if scale.is_finite() && scale > 0.0 {
            Ok(Self { scale, zero_point })
        } else {
            Err(Error::Scale(scale))
        }
    }

    /// Distance between neighbouring codes on the real line; positive and finite.
    pub fn scale(self) -> f32 {
        self.scale
    }

    /// The code of real zero.
    pub fn zero_point(self) -> i32 {
        self.zero_point
    }

    /// Whether `code` can hold the zero point.
    pub fn check(self, code: CodeType) -> Result<(), Error> {
        let (lo, hi) = code.int_range().unwrap_or((0, 0));
        if (lo..=hi).contains(&self.zero_point) {
            Ok(())
        } else {
            Err(Error::ZeroPoint { zero_point: self.zero_point, code })
        }
    }

    /// Least and greatest real value that the grid's codes stand for.
    pub fn interval(self, grid: Grid) -> (f64, f64) {
        let s = f64::from(self.scale);
        if grid.code.is_float() {
            let m = f64::from(grid.code.max_value()) * s;
            return (-m, m);
        }
        let (lo, hi) = grid.codes();
        let zp = f64::from(self.zero_point);
        ((f64::from(lo) - zp) * s, (f64::from(hi) - zp) * s)
    }

    /// Scale and zero point that place `grid` over the real range `lo..=hi`, for any two numbers (see the table at
    /// the head of this file).
    pub fn from_range(lo: f32, hi: f32, grid: Grid, policy: &Policy) -> (Self, RangeNote) {
        let mut note = RangeNote::Fine;
        let mut end = |v: f32| {
            if v.is_nan() {
                note = note.max(RangeNote::NotANumber);
                0.0
            } else if v.is_infinite() {
                note = note.max(RangeNote::Infinite);
                f32::MAX.copysign(v)
            } else {
                v
            }
        };
        let (lo, hi) = (end(lo), end(hi));
        if lo > hi {
            return (Self::of_nothing(grid, policy), note.max(RangeNote::Empty));
        }
        if lo > 0.0 || hi < 0.0 {
            note = note.max(RangeNote::ZeroAdded);
        }
        let (lo, mut hi) = (lo.min(0.0), hi.max(0.0));
        let least = policy.min_real_range.filter(|r| r.is_finite() && *r > 0.0).unwrap_or(0.0);
        if hi < lo + least {
            hi = lo + least;
            note = note.max(RangeNote::Widened);
        }
        if lo == 0.0 && hi == 0.0 {
            return (Self::of_nothing(grid, policy), note.max(RangeNote::AllZero));
        }
        let (params, scale_note) = match policy.formula {
            Formula::Tight => tight(lo, hi, grid, policy.scale_type),
            Formula::OnnxRuntime => onnxruntime(lo, hi, grid, policy.scale_type),
        };
        (params, note.max(scale_note))
    }

    /// One pair for each channel's range. Channels that are all zero or empty take the largest scale of the others
    /// ([`Formula::Tight`]; onnxruntime gives them 1).
    pub fn for_channels(ranges: &[(f32, f32)], grid: Grid, policy: &Policy) -> (Vec<Self>, Vec<RangeNote>) {
        let (mut params, notes): (Vec<_>, Vec<_>) =
            ranges.iter().map(|&(lo, hi)| Self::from_range(lo, hi, grid, policy)).unzip();
        if policy.formula == Formula::Tight {
            let dead = |n: &RangeNote| matches!(n, RangeNote::AllZero | RangeNote::Empty);
            let alive =
                params.iter().zip(&notes).filter(|(_, n)| !dead(n)).map(|(p, _): (&Params, _)| p.scale);
            if let Some(scale) = alive.reduce(f32::max) {
                params.iter_mut().zip(&notes).filter(|(_, n)| dead(n)).for_each(|(p, _)| p.scale = scale);
            }
        }
        (params, notes)
    }

    fn of_nothing(grid: Grid, policy: &Policy) -> Self {
        match policy.formula {
            Formula::Tight => {
                let scale = policy.scale_type.round(f64::from(policy.zero_scale)).unwrap_or(1.0);
                let zero_point = if grid.symmetric || grid.code.is_signed() { grid.middle() } else { 0 };
                Self { scale, zero_point }
            }
            Formula::OnnxRuntime => Self::default(),
        }
    }
}

/// lo ≤ 0 ≤ hi, not both zero, finite.
fn tight(lo: f32, hi: f32, grid: Grid, scale_type: ScaleType) -> (Params, RangeNote) {
    let (lo, hi) = (f64::from(lo), f64::from(hi));
    let (qlo, qhi) = grid.codes();
    let (qlo, qhi) = (f64::from(qlo), f64::from(qhi));
    let middle = f64::from(grid.middle());
    let fixed = grid.symmetric || grid.code.is_float();
    let ideal = if grid.code.is_float() {
        hi.max(-lo) / f64::from(grid.code.max_value())
    } else if grid.symmetric {
        (hi / (qhi - middle)).max(-lo / (middle - qlo))
    } else {
        (hi - lo) / (qhi - qlo)
    };
    let scale = scale_type.round(ideal).unwrap_or(scale_type.min_scale());
    let note = if ideal < f64::from(scale_type.min_scale()) {
        RangeNote::ScaleRaised
    } else if ideal > f64::from(scale_type.max_scale()) {
        RangeNote::ScaleLowered
    } else {
        RangeNote::Fine
    };
    let zero_point = if fixed {
        grid.middle()
    } else {
        (qlo - lo / f64::from(scale)).round_ties_even().clamp(qlo, qhi) as i32
    };
    (Params { scale, zero_point }, note)
}

/// onnxruntime.quantization 1.31 `quant_utils.compute_scale_zp`, in float64; the zero point follows from the scale
/// before it is rounded to its type.
fn onnxruntime(lo: f32, hi: f32, grid: Grid, scale_type: ScaleType) -> (Params, RangeNote) {
    if grid.code.is_float() {
        return tight(lo, hi, grid, scale_type); // theirs needs the standard deviation, which a range does not have
    }
    let (lo, hi) = if grid.symmetric {
        let a = hi.max(-lo);
        (-a, a)
    } else {
        (lo, hi)
    };
    let (qlo, qhi) = ort_codes(grid);
    let scale = (f64::from(hi) - f64::from(lo)) / (qhi - qlo);
    if scale < f64::from(scale_type.min_scale()) {
        return (Params::default(), RangeNote::ScaleRaised);
    }
    let zero_point = if grid.symmetric {
        ((qlo + qhi) / 2.0).round_ties_even()
    } else {
        (qlo - f64::from(lo) / scale).round_ties_even()
    };
    let note =
        if scale > f64::from(scale_type.max_scale()) { RangeNote::ScaleLowered } else { RangeNote::Fine };
    let scale = scale_type.round(scale).unwrap_or(scale_type.min_scale());
    (Params { scale, zero_point: zero_point.clamp(qlo, qhi) as i32 }, note)
}

/// onnxruntime's code ranges: the reduced range wins over the symmetric one; 2- and 4-bit types have no symmetric
/// range and unsigned ones neither.
fn ort_codes(grid: Grid) -> (f64, f64) {
    let span = match (grid.span, grid.code) {
        (Span::Reduced, CodeType::I4) => return (-4.0, 3.0),
        (Span::Reduced, _) => Span::Reduced,
        (_, CodeType::I8 | CodeType::I16) if grid.symmetric => Span::Narrow,
        _ => Span::Full,
    };
    let (lo, hi) = grid.with_span(span).codes();
    (f64::from(lo), f64::from(hi))
}
