//! Folds a `Pad` with zeros into the convolution or pool behind it.
//!
//! ```text
//! t = Pad(x, {0, 0, 1, 1, 0, 0, 1, 1})
//! y = Conv(t, w)    =>   y = Conv <pads = [1, 1, 1, 1]> (x, w)
//! ```
//!
//! `Conv` and `ConvInteger` without a zero point pad with zeros themselves; `AveragePool` does where it counts the
//! padding (`count_include_pad = 1`, `ceil_mode = 0`) or has had none so far; `MaxPool` pads with minus infinity, so a `Pad` with that value.
//!
//! Declines: other modes and values; pads on batch or channels, or negative; `auto_pad`, which asks for the padded size;
//! a padded value that something else reads.

use ir::{AttrValue, Model, OpId};
use ops::OpName;
use serde::Deserialize;

use crate::driver::{
    Changes, Cx, OrNoMatch, Pass, PassError, Patch, Ref, Rule, Scope, Skip, apply_rules, matches,
};
use crate::{forms, numbers};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FusePad {}

impl Pass for FusePad {
    fn name(&self) -> &'static str {
        "fuse_pad"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        apply_rules(self.name(), &[&IntoWindow], model, cx)
    }
}

struct IntoWindow;

impl Rule for IntoWindow {
    fn name(&self) -> &'static str {
        "into_window"
    }

    fn roots(&self) -> &'static [OpName] {
        const ROOTS: &[OpName] = &[
            OpName::onnx("Conv"),
            OpName::onnx("ConvInteger"),
            OpName::onnx("AveragePool"),
            OpName::onnx("MaxPool"),
        ];
        ROOTS
    }

    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip> {
        let padded = scope.input(at, 0).or_no_match()?;
        let pad = scope.producer_is(padded, "Pad").or_no_match()?;
        let x = scope.input(pad, 0).or_no_match()?;
        let form = forms::Pad::of(scope, pad)?;
        if scope.sole_use(padded).is_none() {
            return Err(scope.because(at, "something else reads the padded value"));
        }
        if form.mode != "constant" {
            return Err(scope.because(pad, format!("its mode is {}", form.mode)));
        }
        filled_alike(scope, at, &form)?;
        let node = scope.graph().op(at);
        // Exact pads cannot be added to pads that follow from the size.
        let auto = node.attrs.str("auto_pad").unwrap_or("NOTSET");
        if !matches!(auto, "NOTSET" | "VALID" | "") {
            return Err(scope.because(at, format!("auto_pad is {auto}")));
        }
        let inner =
            |amounts: &[i64]| amounts.iter().take(2).all(|&a| a == 0) && amounts.iter().all(|&a| a >= 0);
        if form.before.len() < 3 || !inner(&form.before) || !inner(&form.behind) {
            return Err(scope.because(pad, "it pads batch or channels, or cuts"));
        }
        let spatial = form.before.len() - 2;
        let own = match node.attrs.ints("pads") {
            Some(pads) if auto != "VALID" => pads.to_vec(),
            _ => vec![0; 2 * spatial],
        };
        if own.len() != 2 * spatial {
            return Err(scope.because(at, "its pads have another rank"));
        }
        let added = form.before.iter().skip(2).chain(form.behind.iter().skip(2));
        let pads: Option<Vec<i64>> = own.iter().zip(added).map(|(a, b)| a.checked_add(*b)).collect();
        let pads = pads.ok_or_else(|| scope.because(at, "the pads overflow"))?;
        self::matches(pads.len() == own.len())?;
        if !node.kind.is("Conv") && !node.kind.is("ConvInteger") {
            window_holds(scope, at, &pads)?;
        }
        let mut patch = Patch::default();
        if node.kind.is("AveragePool") {
            patch.attr(at, "count_include_pad", AttrValue::Int(1));
        }
        patch.drop_attr(at, "auto_pad");
        patch.attr(at, "pads", AttrValue::Ints(pads));
        let mut inputs: Vec<Option<Ref>> =
            scope.op_inputs(at).into_iter().map(|slot| slot.map(Ref::Old)).collect();
        inputs[0] = Some(x.into());
        patch.inputs(at, &inputs);
        Ok(patch)
    }
}

/// The pad fills in what the operator pads with itself.
fn filled_alike(scope: Scope, at: OpId, form: &forms::Pad) -> Result<(), Skip> {
    let node = scope.graph().op(at);
    let value = form.value.as_ref().map_or(Some(0.0), numbers::splat);
    match &*node.kind.name {
        "ConvInteger" if scope.input(at, 2).is_some() => Err(scope.because(at, "it has a zero point")),
        "AveragePool" => {
            // Without padding of its own it divides by the whole window, which then counts what is filled in.
            let own = node.attrs.ints("pads").is_some_and(|pads| pads.iter().any(|&pad| pad != 0));
            let counts =
                node.attrs.int("count_include_pad").unwrap_or(0) != 0 || (!own && scope.opset() >= 7);
            let ceils = node.attrs.int("ceil_mode").unwrap_or(0) != 0;
            match counts && !ceils && value == Some(0.0) {
                true => Ok(()),
                false => Err(scope.because(at, "it does not count the padding as zeros")),
            }
        }
        "MaxPool" => match value == Some(f64::NEG_INFINITY) && scope.input(at, 0).is_some() {
            true if node.attrs.int("ceil_mode").unwrap_or(0) == 0 && node.output_count() == 1 => Ok(()),
            true => Err(scope.because(at, "it rounds sizes up or gives indices")),
            false => Err(scope.because(at, "it pads with minus infinity")),
        },
        _ if value == Some(0.0) => Ok(()),
        _ => Err(scope.because(at, "the pad fills in something else than zero")),
    }
}

/// Pools take no padding as large as their window.
fn window_holds(scope: Scope, at: OpId, pads: &[i64]) -> Result<(), Skip> {
    let kernel = scope.graph().op(at).attrs.ints("kernel_shape").or_no_match()?;
    let holds = pads.iter().zip(kernel.iter().cycle()).all(|(pad, size)| pad < size);
    if holds { Ok(()) } else { Err(scope.because(at, "the padding would be as large as the window")) }
}
