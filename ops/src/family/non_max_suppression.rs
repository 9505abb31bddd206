//! NonMaxSuppression (10): per image and class, the best boxes that overlap no better one by more than a threshold.
//!
//! `boxes [B, S, 4]`, `scores [B, C, S]`, and scalars `max_output_boxes_per_class?` (0 if omitted: nothing),
//! `iou_threshold?`, `score_threshold?`; gives `[selected, 3]` as image, class, box. Equal scores keep the order of boxes.
//! Arithmetic is f32, as in ONNX Runtime: a comparison with a threshold has no tolerance.

use ir::{DType, Dim};

use super::reals::opt_number;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::InferCx;
use crate::rule::{OpRule, Table};

fn infer(cx: &mut InferCx) -> Result<()> {
    cx.need_rank(0, 3)?;
    cx.need_rank(1, 3)?;
    cx.set(0, Some(DType::I64), Some(vec![cx.fresh("selected"), Dim::Known(3)]));
    Ok(())
}

/// Low and high corner of a box.
type Corners = [f32; 4];

fn corners(raw: &[f32], centered: bool) -> Corners {
    let &[a, b, c, d] = raw else { return [0.0; 4] };
    match centered {
        true => [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0],
        false => [a.min(c), b.min(d), a.max(c), b.max(d)],
    }
}

/// Intersection over union.
fn overlap(a: &Corners, b: &Corners) -> f32 {
    let side = |axis: usize| (a[axis + 2].min(b[axis + 2]) - a[axis].max(b[axis])).max(0.0);
    let area = |c: &Corners| (c[2] - c[0]) * (c[3] - c[1]);
    let shared = side(0) * side(1);
    let union = area(a) + area(b) - shared;
    if shared <= 0.0 || area(a) <= 0.0 || area(b) <= 0.0 || union <= 0.0 { 0.0 } else { shared / union }
}

fn eval(cx: &EvalCx) -> Result<Outputs> {
    let (&[batch, count, 4], &[images, classes, scored]) = (cx.tensor(0)?.dims(), cx.tensor(1)?.dims())
    else {
        return Err(cx.wrong_input(0, "[images, boxes, 4]"));
    };
    if images != batch || scored != count {
        return Err(cx.wrong_input(1, &format!("[{batch}, classes, {count}]")));
    }
    let limit = cx.opt_ints(2)?.and_then(|limit| limit.first().copied()).unwrap_or(0).max(0) as usize;
    let threshold = opt_number(cx, 3)?.unwrap_or(0.0) as f32;
    let least = opt_number(cx, 4)?.map(|least| least as f32);
    let centered = cx.attrs().flag("center_point_box", false)?;
    let (boxes, scores) = (cx.f32s(0)?, cx.f32s(1)?);
    let boxes: Vec<Corners> = boxes.chunks_exact(4).map(|raw| corners(raw, centered)).collect();
    let mut selected: Vec<i64> = Vec::new();
    for (row, scores) in scores.chunks_exact(count.max(1)).enumerate() {
        let (image, class) = (row / classes, row % classes);
        let boxes = &boxes[image * count..][..count];
        let mut order: Vec<usize> =
            (0..count).filter(|&at| least.is_none_or(|least| scores[at] > least)).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut kept: Vec<usize> = Vec::new();
        for at in order {
            if kept.len() >= limit {
                break;
            }
            if kept.iter().all(|&better| overlap(&boxes[at], &boxes[better]) <= threshold) {
                kept.push(at);
                selected.extend([image as i64, class as i64, at as i64]);
            }
        }
    }
    cx.make(&[selected.len() / 3, 3], &selected)
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[&Table::new("NonMaxSuppression", 10, infer).eval(eval)];
