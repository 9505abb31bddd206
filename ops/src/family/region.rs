//! Pools over regions and their inverse: RoiAlign, MaxRoiPool, MaxUnpool.
//!
//! - RoiAlign: `x [N, C, H, W]`, `rois [R, 4]` as x1 y1 x2 y2, `batch_indices [R]`; a grid of points in every bin is read
//!   linearly and averaged (or its greatest weighted corner taken). Before opset 16 coordinates are not shifted by half
//!   a pixel.
//! - MaxRoiPool: `rois [R, 5]` as batch x1 y1 x2 y2, rounded to pixels.
//! - MaxUnpool: `x`, flat `indices`, `output_shape?`; what MaxPool left out is zero.

use ir::{DType, Dim, Tensor};

use super::reals::{for_real, reals, unknown, value};
use crate::array;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::kernel::real::Real;
use crate::kernel::window::{WindowAttrs, advance};
use crate::rule::{OpRule, Table};
use crate::sym;

fn infer_regions(cx: &mut InferCx, height: Dim, width: Dim) -> Result<()> {
    let count = cx.need_rank(1, 2)?.map_or(Dim::Unknown, |dims| dims[0].clone());
    let channels = cx.need_rank(0, 4)?.map_or(Dim::Unknown, |dims| dims[1].clone());
    cx.set(0, cx.dtype(0), Some(vec![count, channels, height, width]));
    Ok(())
}

fn infer_align(cx: &mut InferCx) -> Result<()> {
    let (height, width) = (cx.attrs().int("output_height", 1)?, cx.attrs().int("output_width", 1)?);
    infer_regions(cx, Dim::Known(height), Dim::Known(width))
}

fn infer_max(cx: &mut InferCx) -> Result<()> {
    match *cx.attrs().need_ints("pooled_shape")? {
        [height, width] => infer_regions(cx, Dim::Known(height), Dim::Known(width)),
        _ => Err(cx.attrs().wrong("pooled_shape", "two sizes", "others")),
    }
}

/// Images, regions and the size of the output.
struct Regions {
    images: usize,
    channels: usize,
    height: usize,
    width: usize,
    rows: usize,
    columns: usize,
    scale: f64,
}

fn regions(cx: &EvalCx, rows: i64, columns: i64, fields: usize) -> Result<(Regions, Vec<f64>)> {
    let &[images, channels, height, width] = cx.tensor(0)?.dims() else {
        return Err(cx.wrong_input(0, "images with channels"));
    };
    let size = |size: i64| usize::try_from(size).ok().filter(|&size| size > 0);
    let (Some(rows), Some(columns)) = (size(rows), size(columns)) else {
        return Err(cx.invalid("the output has no size"));
    };
    if !matches!(cx.tensor(1)?.dims(), &[_, found] if found == fields) {
        return Err(cx.wrong_input(1, &format!("regions of {fields} numbers")));
    }
    let scale = f64::from(cx.attrs().float("spatial_scale", 1.0)?);
    Ok((Regions { images, channels, height, width, rows, columns, scale }, cx.f64s(1)?))
}

fn eval_align(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => align::<T>(cx))
}

/// Pixels and weights around a point; empty outside.
fn corners(y: f64, x: f64, height: usize, width: usize) -> Vec<(usize, f64)> {
    if !(y >= -1.0 && y <= height as f64 && x >= -1.0 && x <= width as f64) {
        return Vec::new();
    }
    let near = |at: f64, size: usize| {
        let at = at.max(0.0);
        match at as usize {
            low if low + 1 >= size => (size - 1, size - 1, 0.0),
            low => (low, low + 1, at - low as f64),
        }
    };
    let ((y0, y1, down), (x0, x1, across)) = (near(y, height), near(x, width));
    vec![
        (y0 * width + x0, (1.0 - down) * (1.0 - across)),
        (y0 * width + x1, (1.0 - down) * across),
        (y1 * width + x0, down * (1.0 - across)),
        (y1 * width + x1, down * across),
    ]
}

fn align<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let attrs = cx.attrs();
    let (form, boxes) = regions(cx, attrs.int("output_height", 1)?, attrs.int("output_width", 1)?, 4)?;
    let Regions { images, channels, height, width, rows, columns, scale } = form;
    let batches = cx.ints(2)?;
    let count = boxes.len() / 4;
    if batches.len() != count || batches.iter().any(|&b| usize::try_from(b).map_or(true, |b| b >= images)) {
        return Err(cx.wrong_input(2, &format!("{count} images below {images}")));
    }
    let default = if cx.opset() < 16 { "output_half_pixel" } else { "half_pixel" };
    let half_pixel = match attrs.str("coordinate_transformation_mode", default)? {
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return Err(attrs.wrong("coordinate_transformation_mode", "a known one", other)),
    };
    let maximum = match attrs.str("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(attrs.wrong("mode", "avg or max", other)),
    };
    let sampling = attrs.int("sampling_ratio", 0)?.clamp(0, 1 << 16) as usize;
    let data = reals::<T>(cx, 0)?;
    let dims = [count, channels, rows, columns];
    let dtype = cx.tensor(0)?.dtype();
    let mut y = vec![T::zero(); cx.reserve(dtype, &dims)?];
    let shift = if half_pixel { 0.5 } else { 0.0 };
    for (region, corner) in boxes.chunks_exact(4).enumerate() {
        let [x1, y1, x2, y2] = [0, 1, 2, 3].map(|at| corner[at] * scale - shift);
        // Without the shift, regions without area count as one pixel.
        let extent = |low: f64, high: f64| if half_pixel { high - low } else { (high - low).max(1.0) };
        let (bin_h, bin_w) = (extent(y1, y2) / rows as f64, extent(x1, x2) / columns as f64);
        let grid = |bin: f64| if sampling > 0 { sampling } else { bin.ceil().max(0.0) as usize };
        let (grid_h, grid_w) = (grid(bin_h), grid(bin_w));
        cx.reserve(DType::C128, &[grid_h, grid_w, 4])?;
        let image = batches[region] as usize * channels;
        for row in 0..rows {
            for column in 0..columns {
                let points = (0..grid_h * grid_w).map(|at| {
                    let (i, j) = ((at / grid_w) as f64, (at % grid_w) as f64);
                    let y = y1 + row as f64 * bin_h + (i + 0.5) * bin_h / grid_h as f64;
                    let x = x1 + column as f64 * bin_w + (j + 0.5) * bin_w / grid_w as f64;
                    corners(y, x, height, width)
                });
                let points: Vec<_> = points.collect();
                for channel in 0..channels {
                    let plane = &data[(image + channel) * height * width..][..height * width];
                    let weighted = points.iter().map(|near| near.iter().map(|&(at, w)| w * plane[at].wide()));
                    let pooled = match maximum {
                        false => weighted.flatten().sum::<f64>() / points.len().max(1) as f64,
                        // A point outside counts as zero.
                        true => weighted
                            .map(|near| near.reduce(f64::max).unwrap_or(0.0))
                            .reduce(f64::max)
                            .unwrap_or(0.0),
                    };
                    y[((region * channels + channel) * rows + row) * columns + column] = T::of(pooled);
                }
            }
        }
    }
    Ok(vec![value(cx, dtype, &dims, &y)?])
}

fn eval_max(cx: &EvalCx) -> Result<Outputs> {
    for_real!(cx, 0, T => max_pool::<T>(cx))
}

fn max_pool<T: Real>(cx: &EvalCx) -> Result<Outputs> {
    let &[rows, columns] = cx.attrs().need_ints("pooled_shape")? else {
        return Err(cx.attrs().wrong("pooled_shape", "two sizes", "others"));
    };
    let (form, boxes) = regions(cx, rows, columns, 5)?;
    let Regions { images, channels, height, width, rows, columns, scale } = form;
    let dims = [boxes.len() / 5, channels, rows, columns];
    let dtype = cx.tensor(0)?.dtype();
    let data = reals::<T>(cx, 0)?;
    let mut y = Vec::with_capacity(cx.reserve(dtype, &dims)?);
    for region in boxes.chunks_exact(5) {
        let image = region[0];
        if !(image >= 0.0 && image < images as f64) {
            return Err(cx.wrong_input(1, &format!("images below {images}")));
        }
        let [x1, y1, x2, y2] = [1, 2, 3, 4].map(|at| (region[at] * scale).round());
        let bin = |low: f64, high: f64, parts: usize| (high - low + 1.0).max(1.0) / parts as f64;
        let span = |low: f64, bin: f64, at: usize, size: usize| {
            let clip = |edge: f64| edge.clamp(0.0, size as f64) as usize;
            clip((at as f64 * bin).floor() + low)..clip(((at + 1) as f64 * bin).ceil() + low)
        };
        let (bin_h, bin_w) = (bin(y1, y2, rows), bin(x1, x2, columns));
        for channel in 0..channels {
            let plane = &data[(image as usize * channels + channel) * height * width..][..height * width];
            for row in 0..rows {
                for column in 0..columns {
                    let (down, across) = (span(y1, bin_h, row, height), span(x1, bin_w, column, width));
                    let pixels = down.flat_map(|i| across.clone().map(move |j| plane[i * width + j]));
                    y.push(pixels.reduce(|a, b| if b > a { b } else { a }).unwrap_or(T::zero()));
                }
            }
        }
    }
    Ok(vec![value(cx, dtype, &dims, &y)?])
}

/// The size that the window attributes alone give: the inverse of MaxPool's.
fn grown(window: &WindowAttrs, axis: usize, size: usize) -> Option<usize> {
    let (before, after) = window.pads[axis];
    let full = size.checked_sub(1)?.checked_mul(window.strides[axis])?.checked_add(window.kernel[axis])?;
    full.checked_sub(before + after)
}

fn read_window(attrs: crate::attrs::Attributes<'_>) -> Result<WindowAttrs> {
    let kernel = attrs.need_ints("kernel_shape")?;
    let sizes: Option<Vec<usize>> = kernel.iter().map(|&size| usize::try_from(size).ok()).collect();
    WindowAttrs::read(attrs, &sizes.ok_or_else(|| attrs.wrong("kernel_shape", "positive sizes", "others"))?)
}

fn infer_unpool(cx: &mut InferCx) -> Result<()> {
    let window = read_window(cx.attrs())?;
    let dims = match (cx.has(2), cx.contents(2), cx.dims(0)) {
        (true, Some(sizes), _) => Some(sizes.to_vec()),
        (true, None, Some(dims)) => Some(unknown(dims.len()).collect()),
        (false, _, Some(dims)) if dims.len() == window.kernel.len() + 2 => {
            let spread = |(axis, dim): (usize, &Dim)| {
                let (before, after) = window.pads[axis];
                let full = sym::mul(&sym::sub(dim, &Dim::Known(1)), &Dim::from(window.strides[axis]));
                let full = sym::add(&full, &Dim::from(window.kernel[axis]));
                sym::sub(&full, &Dim::from(before + after))
            };
            Some(dims[..2].iter().cloned().chain(dims[2..].iter().enumerate().map(spread)).collect())
        }
        _ => None,
    };
    cx.set(0, cx.dtype(0), dims);
    Ok(())
}

fn eval_unpool(cx: &EvalCx) -> Result<Outputs> {
    let window = read_window(cx.attrs())?;
    let x = cx.tensor(0)?;
    let &[batch, channels, ref sizes @ ..] = x.dims() else {
        return Err(cx.wrong_input(0, "images with channels"));
    };
    if sizes.len() != window.kernel.len() || cx.tensor(1)?.dims() != x.dims() || x.dtype().bits() % 8 != 0 {
        return Err(cx.wrong_input(1, "an index for every element"));
    }
    // Indices count in the image that the attributes give, also where another size is asked for.
    let own: Option<Vec<usize>> =
        sizes.iter().enumerate().map(|(axis, &size)| grown(&window, axis, size)).collect();
    let own = own.ok_or_else(|| cx.invalid("the pads leave nothing"))?;
    let own: Vec<usize> = [batch, channels].into_iter().chain(own).collect();
    let elements = cx.reserve(x.dtype(), &own)?;
    let size = x.dtype().bits() / 8;
    let mut bytes = vec![0u8; elements * size];
    for (index, element) in cx.ints(1)?.into_iter().zip(x.bytes().chunks_exact(size.max(1))) {
        let to = usize::try_from(index)
            .ok()
            .and_then(|index| bytes.get_mut(index.checked_mul(size)?..)?.get_mut(..size));
        to.ok_or_else(|| cx.wrong_input(1, &format!("indices below {elements}")))?.copy_from_slice(element);
    }
    let Some(wanted) = cx.opt_ints(2)? else { return cx.give(Tensor::new(x.dtype(), own, bytes)) };
    let wanted: Option<Vec<usize>> = wanted.iter().map(|&size| usize::try_from(size).ok()).collect();
    let fits =
        |wanted: &Vec<usize>| wanted.len() == own.len() && wanted.iter().zip(&own).all(|(w, o)| w >= o);
    let wanted =
        wanted.filter(fits).ok_or_else(|| cx.wrong_input(2, &format!("sizes of at least {own:?}")))?;
    let mut large = vec![0u8; cx.reserve(x.dtype(), &wanted)? * size];
    let steps = array::strides(&wanted);
    let mut at = vec![0; own.len()];
    for element in bytes.chunks_exact(size.max(1)) {
        let to = at.iter().zip(&steps).map(|(at, step)| at * step).sum::<usize>();
        large[to * size..][..size].copy_from_slice(element);
        advance(&mut at, &own);
    }
    cx.give(Tensor::new(x.dtype(), wanted, large))
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("RoiAlign", 10, infer_align).eval(eval_align),
    &Table::new("MaxRoiPool", 1, infer_max).eval(eval_max),
    &Table::new("MaxUnpool", 9, infer_unpool).eval(eval_unpool),
];
