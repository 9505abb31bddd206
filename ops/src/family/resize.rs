//! Resize and Upsample: every output element is a weighted mean of neighbours in the input, axis by axis.
//!
//! Upsample (7: attribute `scales`, 9: input) and Resize 10 `x, scales` map positions by `x / scale`. Resize 11 `x, roi,
//! scales, sizes` adds coordinate modes, cubic, crop regions; 18 `antialias`, `axes`, `keep_aspect_ratio_policy`; 19
//! `half_pixel_symmetric`. Sizes follow from scales as `floor(in * (roi_end - roi_start) * scale)`, computed in f32 as
//! every runtime does. Nearest moves elements of any type.
//!
//! Refused because the reference and ONNX Runtime disagree: means of integers (rounded or cut off), and aligned corners
//! where `in * scale` is no whole number (the reference aligns the corners of the fractional size), and a crop region on an
//! axis that keeps its size (ONNX Runtime does not crop it).

use ir::{DType, Dim, Tensor};

use super::reals::{for_real, reals, value};
use crate::attrs::Attributes;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::interpolate::{Coordinates, Filter, Line, Nearest, Taps, apply};
use crate::kernel::movement::take_blocks;
use crate::rule::{OpRule, Table};

/// What scales or sizes ask for, per axis of the input.
enum Goal {
    Scales(Vec<f32>),
    Sizes(Vec<i64>),
}

/// How `sizes` are taken.
#[derive(Clone, Copy, PartialEq)]
enum Aspect {
    Stretch,
    NotLarger,
    NotSmaller,
}

/// The attributes, and where the inputs stand.
struct Form {
    filter: Filter,
    coordinates: String,
    axes: Option<Vec<i64>>,
    aspect: Aspect,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f32,
}

fn form(attrs: Attributes<'_>, opset: i64, name: &str) -> Result<Form> {
    let modern = name == "Resize" && opset >= 11;
    let nearest = match attrs.str("nearest_mode", if modern { "round_prefer_floor" } else { "simple" })? {
        "round_prefer_floor" => Nearest::RoundPreferFloor,
        "round_prefer_ceil" => Nearest::RoundPreferCeil,
        "floor" => Nearest::Floor,
        "ceil" => Nearest::Ceil,
        "simple" => Nearest::Simple,
        other => return Err(attrs.wrong("nearest_mode", "a known one", other)),
    };
    let filter = match attrs.str("mode", "nearest")? {
        "nearest" => Filter::Nearest(nearest),
        // Upsample of opset 7 also said bilinear.
        "linear" | "bilinear" => Filter::Linear,
        "cubic" if modern => Filter::Cubic(f64::from(attrs.float("cubic_coeff_a", -0.75)?)),
        other => return Err(attrs.wrong("mode", "nearest, linear or cubic", other)),
    };
    let aspect = match attrs.str("keep_aspect_ratio_policy", "stretch")? {
        "stretch" => Aspect::Stretch,
        "not_larger" => Aspect::NotLarger,
        "not_smaller" => Aspect::NotSmaller,
        other => return Err(attrs.wrong("keep_aspect_ratio_policy", "a known one", other)),
    };
    let default = if modern { "half_pixel" } else { "asymmetric" };
    Ok(Form {
        filter,
        coordinates: attrs.str("coordinate_transformation_mode", default)?.to_string(),
        axes: attrs.opt_ints("axes")?.map(<[i64]>::to_vec),
        aspect,
        antialias: attrs.flag("antialias", false)?,
        exclude_outside: attrs.flag("exclude_outside", false)?,
        extrapolation: attrs.float("extrapolation_value", 0.0)?,
    })
}

impl Form {
    /// The axes that scales, sizes and region speak about; none if they are not axes of the input.
    fn axes(&self, rank: usize) -> Option<Vec<usize>> {
        match &self.axes {
            None => Some((0..rank).collect()),
            Some(axes) => axes.iter().map(|&axis| crate::infer::shape::axis(axis, rank)).collect(),
        }
    }

    fn crops(&self) -> bool {
        self.coordinates == "tf_crop_and_resize"
    }
}

/// Scale, size and region of every axis.
struct Plan {
    scales: Vec<f32>,
    sizes: Vec<usize>,
    regions: Vec<(f32, f32)>,
}

/// The plan for an input of sizes `dims`; an error says what does not fit.
fn plan(form: &Form, dims: &[usize], goal: &Goal, roi: Option<&[f32]>) -> std::result::Result<Plan, String> {
    let rank = dims.len();
    let axes = form.axes(rank).ok_or("axes are not in the input")?;
    let mut plan = Plan { scales: vec![1.0; rank], sizes: dims.to_vec(), regions: vec![(0.0, 1.0); rank] };
    if form.crops() {
        let roi = roi.filter(|roi| roi.len() == 2 * axes.len()).ok_or("a crop needs its region")?;
        axes.iter().enumerate().for_each(|(at, &axis)| plan.regions[axis] = (roi[at], roi[axes.len() + at]));
    }
    let count = match goal {
        Goal::Scales(scales) => scales.len(),
        Goal::Sizes(sizes) => sizes.len(),
    };
    if count != axes.len() {
        return Err(format!("{count} scales or sizes for {} axes", axes.len()));
    }
    match goal {
        Goal::Scales(scales) => {
            for (&axis, &scale) in axes.iter().zip(scales) {
                let (start, end) = plan.regions[axis];
                let size = (dims[axis] as f32 * (end - start) * scale).floor();
                if !(scale > 0.0 && scale.is_finite() && (0.0..2f32.powi(31)).contains(&size)) {
                    return Err(format!("scale {scale}"));
                }
                (plan.scales[axis], plan.sizes[axis]) = (scale, size as usize);
            }
        }
        Goal::Sizes(sizes) => {
            for (&axis, &size) in axes.iter().zip(sizes) {
                plan.sizes[axis] = u32::try_from(size).map_err(|_| format!("size {size}"))? as usize;
                plan.scales[axis] = plan.sizes[axis] as f32 / dims[axis] as f32;
            }
            let wanted = axes.iter().map(|&axis| plan.scales[axis]);
            let common = match form.aspect {
                Aspect::Stretch => return Ok(plan),
                Aspect::NotLarger => wanted.fold(f32::INFINITY, f32::min),
                Aspect::NotSmaller => wanted.fold(0.0, f32::max),
            };
            for &axis in &axes {
                plan.scales[axis] = common;
                plan.sizes[axis] = (common * dims[axis] as f32 + 0.5).floor() as usize;
            }
        }
    }
    Ok(plan)
}

/// Slots of region, scales and sizes.
fn slots(name: &str, opset: i64) -> (Option<usize>, usize, Option<usize>) {
    if name == "Resize" && opset >= 11 { (Some(1), 2, Some(3)) } else { (None, 1, None) }
}

fn infer(cx: &mut InferCx) -> Result<()> {
    let name = &*cx.op().kind.name;
    let form = form(cx.attrs(), cx.opset(), name)?;
    let (roi_at, scales_at, sizes_at) = slots(name, cx.opset());
    let Some(dims) = cx.dims(0) else {
        cx.set(0, cx.dtype(0), None);
        return Ok(());
    };
    let axes =
        form.axes(dims.len()).ok_or_else(|| cx.attrs().wrong("axes", "axes of the input", "others"))?;
    let scales: Option<Vec<f32>> = match cx.attrs().opt_floats("scales")? {
        Some(scales) => Some(scales.to_vec()),
        None => cx.constant(scales_at).and_then(crate::array::to_f32s).filter(|scales| !scales.is_empty()),
    };
    let mut out: Vec<Dim> = dims.to_vec();
    axes.iter().for_each(|&axis| out[axis] = Dim::Unknown);
    if let Some(scales) = scales.filter(|scales| scales.len() == axes.len()) {
        let roi = roi_at.and_then(|at| cx.constant(at)).and_then(crate::array::to_f32s);
        for (at, (&axis, &scale)) in axes.iter().zip(&scales).enumerate() {
            let region = match (form.crops(), &roi) {
                (false, _) => Some((0.0, 1.0)),
                (true, Some(roi)) if roi.len() == 2 * axes.len() => Some((roi[at], roi[axes.len() + at])),
                (true, _) => None,
            };
            out[axis] =
                region.map_or(Dim::Unknown, |(start, end)| scaled(&dims[axis], (end - start) * scale));
        }
    } else if let Some(sizes) = sizes_at.and_then(|at| cx.contents(at)).filter(|s| s.len() == axes.len()) {
        let known = dims.iter().map(Dim::known).collect::<Option<Vec<usize>>>();
        let ints = sizes.iter().map(|dim| if let Dim::Known(size) = dim { Some(*size) } else { None });
        match (form.aspect, known, ints.collect::<Option<Vec<i64>>>()) {
            (Aspect::Stretch, ..) => {
                axes.iter().zip(sizes.iter()).for_each(|(&axis, size)| out[axis] = size.clone());
            }
            // The region plays no part in sizes.
            (_, Some(known), Some(ints)) => {
                let whole: Vec<f32> = [vec![0.0; axes.len()], vec![1.0; axes.len()]].concat();
                let plan =
                    plan(&form, &known, &Goal::Sizes(ints), Some(&whole)).map_err(|why| cx.invalid(why))?;
                axes.iter().for_each(|&axis| out[axis] = Dim::from(plan.sizes[axis]));
            }
            _ => {}
        }
    }
    cx.set(0, cx.dtype(0), Some(out));
    Ok(())
}

/// `floor(dim * scale)`.
fn scaled(dim: &Dim, scale: f32) -> Dim {
    match dim {
        Dim::Known(size) => Dim::Known((*size as f32 * scale).floor() as i64),
        // Exact for whole factors; others depend on rounding.
        dim if scale >= 1.0 && scale.fract() == 0.0 => crate::sym::mul(dim, &Dim::Known(scale as i64)),
        _ => Dim::Unknown,
    }
}

fn read_goal(cx: &EvalCx) -> Result<(Goal, Option<Vec<f32>>)> {
    let (roi_at, scales_at, sizes_at) = slots(&cx.op().kind.name, cx.opset());
    let roi = match roi_at.filter(|&at| cx.has(at)) {
        Some(at) => Some(cx.f32s(at)?),
        None => None,
    };
    if let Some(scales) = cx.attrs().opt_floats("scales")? {
        return Ok((Goal::Scales(scales.to_vec()), roi));
    }
    if cx.has(scales_at) {
        let scales = cx.f32s(scales_at)?;
        if !scales.is_empty() || cx.tensor(0)?.rank() == 0 {
            return Ok((Goal::Scales(scales), roi));
        }
    }
    match sizes_at.filter(|&at| cx.has(at)) {
        Some(at) => Ok((Goal::Sizes(cx.ints(at)?), roi)),
        None => Err(cx.wrong_input(scales_at, "scales or sizes")),
    }
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    let form = form(cx.attrs(), cx.opset(), &cx.op().kind.name)?;
    let (goal, roi) = read_goal(cx)?;
    let x = cx.tensor(0)?;
    let plan = plan(&form, x.dims(), &goal, roi.as_deref()).map_err(|why| cx.invalid(why))?;
    cx.reserve(x.dtype(), &plan.sizes)?;
    if x.elements() == 0 || plan.sizes.contains(&0) {
        return match plan.sizes.contains(&0) {
            true => cx.give(Tensor::new(x.dtype(), plan.sizes, bytes::Bytes::new())),
            false => Err(cx.invalid("nothing can be made larger")),
        };
    }
    let tables =
        (0..x.rank()).map(|axis| table(cx, &form, &plan, x.dims(), axis)).collect::<Result<Vec<_>>>()?;
    match form.filter {
        Filter::Nearest(_) if !form.crops() => gather(cx, x, &tables),
        _ => for_real!(cx, 0, T => {
            let mut data = reals::<T>(cx, 0)?;
            let mut dims = x.dims().to_vec();
            let outside = <T as crate::kernel::real::Real>::of(f64::from(form.extrapolation));
            for (axis, table) in tables.iter().enumerate() {
                let Some(table) = table else { continue };
                let (outer, inner) = (dims[..axis].iter().product(), dims[axis + 1..].iter().product());
                let input = std::mem::replace(&mut dims[axis], table.len());
                // An axis that grows before another one shrinks may be the largest moment.
                cx.reserve(DType::F64, &dims)?;
                data = apply(&data, (outer, input, inner), table, outside);
            }
            Ok(vec![value(cx, x.dtype(), &dims, &data)?])
        }),
    }
}

/// The taps along one axis; none where nothing changes.
fn table(cx: &EvalCx, form: &Form, plan: &Plan, dims: &[usize], axis: usize) -> Result<Option<Vec<Taps>>> {
    let (start, end) = plan.regions[axis];
    let coordinates = match form.coordinates.as_str() {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNn,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::TfCropAndResize(start, end),
        other => return Err(cx.attrs().wrong("coordinate_transformation_mode", "a known one", other)),
    };
    let (input, output, scale) = (dims[axis], plan.sizes[axis], plan.scales[axis]);
    if input == output && scale == 1.0 && (start, end) == (0.0, 1.0) {
        return Ok(None);
    }
    if input == output && scale == 1.0 && form.crops() {
        return Err(cx.unsupported("a crop along an axis that keeps its size"));
    }
    // Sizes give scales that are off by rounding only.
    let whole = (scale * input as f32 - output as f32).abs() <= 1e-4 * output as f32;
    if matches!(coordinates, Coordinates::AlignCorners | Coordinates::TfCropAndResize(..)) && !whole {
        return Err(cx.unsupported("aligned corners of a fractional size"));
    }
    // The filter of a strong reduction has many taps: they count against the budget, too.
    let reach = if form.antialias { ((4.0 / scale) as usize).min(4 * input) + 4 } else { 4 };
    cx.reserve(DType::C128, &[output, reach])?;
    let (antialias, exclude_outside) = (form.antialias, form.exclude_outside);
    let line = Line { input, output, scale, coordinates, antialias, exclude_outside };
    Ok(Some(line.table(form.filter)))
}

/// Moves elements of any type.
fn gather(cx: &EvalCx, x: &Tensor, tables: &[Option<Vec<Taps>>]) -> Result<Outputs> {
    let mut y = x.clone();
    for (axis, table) in tables.iter().enumerate() {
        let Some(table) = table else { continue };
        let mut dims = y.dims().to_vec();
        let (outer, inner) =
            (dims[..axis].iter().product::<usize>(), dims[axis + 1..].iter().product::<usize>());
        let input = std::mem::replace(&mut dims[axis], table.len());
        cx.reserve(x.dtype(), &dims)?;
        let nearest = |taps: &Taps| taps.as_ref().and_then(|taps| taps.first()).map_or(0, |tap| tap.0);
        let starts =
            (0..outer).flat_map(|at| table.iter().map(move |taps| (at * input + nearest(taps)) * inner));
        y = take_blocks(&y, &dims, inner, starts).map_err(|error| cx.tensor_error(error))?;
    }
    Ok(vec![y.into()])
}

/// The table.
pub const RULES: &[&dyn OpRule] =
    &[&Table::new("Resize", 10, infer).eval(eval), &Table::new("Upsample", 7, infer).until(9).eval(eval)];
