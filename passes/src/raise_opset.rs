//! Rewrites a model for a newer operator set of ONNX.
//!
//! ```text
//! <opset_import: ["" : 11]>                   <opset_import: ["" : 13]>
//! y = Squeeze <axes = [0]> (x)           =>   y = Squeeze(x, {0})
//! z = Clip <min = 0.0, max = 6.0> (y)         z = Clip(y, 0.0, 6.0)
//! ```
//!
//! Every operator whose form or meaning changed between the model's version and `to` is converted, one line an operator
//! and version in the table below: attributes that became inputs (`Slice`, `TopK`, `Pad`, `Clip`, `Dropout`, `Squeeze`,
//! `Unsqueeze`, `Split`, `Reduce*`), `Upsample` to `Resize`, `Softmax` over all trailing axes to one over a flattened
//! input, defaults that changed, attributes that were dropped. Model-local functions keep their own operator sets.
//!
//! All or nothing: declines, with the operator, where one cannot be converted (`Scan` of version 8, an unknown rank that
//! the old `Softmax` depends on, broadcasting by attributes before version 7), or where the rules have not read `to`.
//!
//! Not part of any preset: a file keeps its operator set unless an output form needs a newer one. Stands behind
//! `normalize` and `infer_shapes`.

use ir::{AttrValue, GraphId, Location, Model, Op, OpId, OpKind, Tensor};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError, Patch, Ref, Scope};
use crate::{forms, numbers};

/// Options.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaiseOpset {
    /// The version to reach at least.
    to: i64,
}

impl Default for RaiseOpset {
    fn default() -> RaiseOpset {
        RaiseOpset { to: 13 }
    }
}

/// What an operator becomes, or why it cannot.
type Convert = fn(Scope, OpId) -> Result<Patch, String>;

/// The operator, the version that changed it, and its conversion. Sorted by version: an operator may change twice.
const CONVERSIONS: &[(&str, i64, Convert)] = &[
    ("BatchNormalization", 9, |s, op| drop_attrs(s, op, &["spatial"])),
    ("Scan", 9, |_, _| Err("Scan changed its form in version 9".to_string())),
    ("Upsample", 9, |s, op| float_inputs(s, op, &["scales"])),
    ("Slice", 10, |s, op| int_inputs(s, op, &["starts", "ends", "axes"])),
    ("TopK", 10, |s, op| k_input(s, op)),
    ("Clip", 11, clip_inputs),
    ("Pad", 11, pad_inputs),
    ("Resize", 11, resize),
    ("Upsample", 11, resize),
    ("Scatter", 11, |s, op| renamed(s, op, "ScatterElements")),
    ("Dropout", 12, dropout),
    ("Hardmax", 13, softmax),
    ("LogSoftmax", 13, softmax),
    ("ReduceSum", 13, |s, op| int_inputs(s, op, &["axes"])),
    ("Softmax", 13, softmax),
    ("Split", 13, |s, op| int_inputs(s, op, &["split"])),
    ("Squeeze", 13, |s, op| int_inputs(s, op, &["axes"])),
    ("Unsqueeze", 13, |s, op| int_inputs(s, op, &["axes"])),
    ("BatchNormalization", 14, batch_normalization),
    ("RoiAlign", 16, roi_align),
    ("ReduceL1", 18, |s, op| int_inputs(s, op, &["axes"])),
    ("ReduceL2", 18, |s, op| int_inputs(s, op, &["axes"])),
    ("ReduceLogSum", 18, |s, op| int_inputs(s, op, &["axes"])),
    ("ReduceLogSumExp", 18, |s, op| int_inputs(s, op, &["axes"])),
    ("ReduceMax", 18, |s, op| int_inputs(s, op, &["axes"])),
    ("ReduceMean", 18, |s, op| int_inputs(s, op, &["axes"])),
    ("ReduceMin", 18, |s, op| int_inputs(s, op, &["axes"])),
    ("ReduceProd", 18, |s, op| int_inputs(s, op, &["axes"])),
    ("ReduceSumSquare", 18, |s, op| int_inputs(s, op, &["axes"])),
    ("Split", 18, split_outputs),
    ("DFT", 20, |_, _| Err("DFT changed its form in version 20".to_string())),
    ("GridSample", 20, grid_sample),
    ("GroupNormalization", 21, |_, _| Err("GroupNormalization changed its form in version 21".to_string())),
];

impl Pass for RaiseOpset {
    fn name(&self) -> &'static str {
        "raise_opset"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        let here = Location::graph(model.main());
        let Some(from) = model.opset("").filter(|&from| from < self.to) else { return Ok(changes) };
        if from < 7 {
            cx.decline("raise", format!("version {from} broadcasts by attributes"), here);
            return Ok(changes);
        }
        if self.to > ops::rule::LATEST {
            let why = format!("version {} is newer than the rules: {}", self.to, ops::rule::LATEST);
            cx.decline("raise", why, here);
            return Ok(changes);
        }
        // Every step from one version to the next is planned before it is made, and an operator may take several.
        let mut trial = model.clone();
        for version in from + 1..=self.to {
            match plan(&trial, version) {
                Ok(patches) => {
                    let failed =
                        |why| PassError::Model { pass: self.name(), at: Box::new(here.clone()), why };
                    let mut quiet = Cx::new();
                    quiet.rewrite_all(&mut trial, "raise", here.clone(), patches).map_err(failed)?;
                    set_version(&mut trial, version);
                }
                Err((at, why)) => {
                    cx.decline("raise", format!("to version {version}: {why}"), at);
                    return Ok(changes);
                }
            }
        }
        if cx.spend("raise", here) {
            *model = trial;
            model.settle();
            changes.count("raise");
        }
        Ok(changes)
    }
}

fn set_version(model: &mut Model, version: i64) {
    model.raise_opset("", version);
    // The first IR version whose operator sets reach that far, as ONNX's own table of releases has it.
    const FIRST: &[(i64, i64)] = &[
        (8, 3),
        (9, 4),
        (10, 5),
        (11, 6),
        (12, 7),
        (15, 8),
        (19, 9),
        (21, 10),
        (23, 11),
        (24, 12),
        (25, 13),
    ];
    let needed = FIRST.iter().rev().find(|&&(opset, _)| opset <= version).map_or(3, |&(_, ir)| ir);
    model.ir_version = model.ir_version.max(needed);
}

type Planned = Result<Vec<(GraphId, Patch)>, (Location, String)>;

fn plan(model: &Model, version: i64) -> Planned {
    let bodies: Vec<GraphId> = model.functions.iter().map(|function| function.graph).collect();
    let mut patches = Vec::new();
    for graph in model.graph_ids() {
        if bodies.contains(&outermost(model, graph)) {
            continue;
        }
        let scope = Scope { model, id: graph };
        for op in scope.ops() {
            let kind = &scope.graph().op(op).kind;
            let found = CONVERSIONS.iter().find(|(name, since, _)| *since == version && kind.is(name));
            let Some((_, _, convert)) = found else { continue };
            let patch = convert(scope, op).map_err(|why| (scope.location(op), why))?;
            if !patch.is_empty() {
                patches.push((graph, patch));
            }
        }
    }
    Ok(patches)
}

fn outermost(model: &Model, graph: GraphId) -> GraphId {
    let mut root = graph;
    while let Some((outer, _)) = model.graph(root).parent() {
        root = outer;
    }
    root
}

// ---- conversions -----------------------------------------------------------------------------------------------

fn hint(scope: Scope, op: OpId, what: &str) -> String {
    let output = scope.output(op, 0).map(|value| scope.graph().value(value).name().to_string());
    format!("{}_{what}", output.unwrap_or_default())
}

fn inputs_of(scope: Scope, op: OpId) -> Vec<Option<Ref>> {
    scope.op_inputs(op).into_iter().map(|slot| slot.map(Ref::Old)).collect()
}

/// Appends lists of integers that were attributes as inputs, in this order, leaving gaps where one is absent.
fn int_inputs(scope: Scope, op: OpId, names: &[&'static str]) -> Result<Patch, String> {
    let attrs = &scope.graph().op(op).attrs;
    let mut patch = Patch::default();
    let mut inputs = inputs_of(scope, op);
    for &name in names {
        inputs.push(
            attrs.ints(name).map(|values| patch.constant(&hint(scope, op, name), numbers::vector(values))),
        );
        patch.drop_attr(op, name);
    }
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    patch.inputs(op, &inputs);
    Ok(patch)
}

fn float_inputs(scope: Scope, op: OpId, names: &[&'static str]) -> Result<Patch, String> {
    let attrs = &scope.graph().op(op).attrs;
    let mut patch = Patch::default();
    let mut inputs = inputs_of(scope, op);
    for &name in names {
        let values = attrs.floats(name).ok_or_else(|| format!("it has no {name}"))?;
        let tensor = Tensor::from_slice(&[values.len()], values).map_err(|error| error.to_string())?;
        inputs.push(Some(patch.constant(&hint(scope, op, name), tensor)));
        patch.drop_attr(op, name);
    }
    patch.inputs(op, &inputs);
    Ok(patch)
}

fn drop_attrs(_: Scope, op: OpId, names: &[&'static str]) -> Result<Patch, String> {
    let mut patch = Patch::default();
    names.iter().for_each(|name| patch.drop_attr(op, name));
    Ok(patch)
}

fn renamed(_: Scope, op: OpId, name: &str) -> Result<Patch, String> {
    let mut patch = Patch::default();
    patch.kind(op, OpKind::new("", name));
    Ok(patch)
}

fn k_input(scope: Scope, op: OpId) -> Result<Patch, String> {
    let k = scope.graph().op(op).attrs.int("k").ok_or("it has no k")?;
    let mut patch = Patch::default();
    let k = patch.constant(&hint(scope, op, "k"), numbers::vector(&[k]));
    patch.drop_attr(op, "k");
    patch.inputs(op, &[inputs_of(scope, op), vec![Some(k)]].concat());
    Ok(patch)
}

fn clip_inputs(scope: Scope, op: OpId) -> Result<Patch, String> {
    let attrs = &scope.graph().op(op).attrs;
    let x = scope.input(op, 0).ok_or("it has no input")?;
    let mut patch = Patch::default();
    let mut inputs = vec![Some(x.into())];
    for name in ["min", "max"] {
        let bound = match attrs.float(name) {
            None => None,
            Some(value) => {
                let dtype = scope.dtype(x).ok_or("its element type is not known")?;
                let tensor = numbers::from_floats(dtype, &[], &[f64::from(value)]);
                let tensor = tensor.ok_or_else(|| format!("no bound of type {dtype}"))?;
                Some(patch.constant(&hint(scope, op, name), tensor))
            }
        };
        inputs.push(bound);
    }
    while inputs.last() == Some(&None) {
        inputs.pop();
    }
    patch.drop_attr(op, "min");
    patch.drop_attr(op, "max");
    patch.inputs(op, &inputs);
    Ok(patch)
}

fn pad_inputs(scope: Scope, op: OpId) -> Result<Patch, String> {
    let node = scope.graph().op(op);
    let x = scope.input(op, 0).ok_or("it has no input")?;
    let pads = node.attrs.ints("pads").ok_or("it has no pads")?;
    let mut patch = Patch::default();
    let mut inputs =
        vec![Some(x.into()), Some(patch.constant(&hint(scope, op, "pads"), numbers::vector(pads)))];
    if let Some(value) = node.attrs.float("value").filter(|&value| value != 0.0) {
        let dtype = scope.dtype(x).ok_or("its element type is not known")?;
        let tensor =
            numbers::from_floats(dtype, &[], &[f64::from(value)]).ok_or("its type holds no value")?;
        inputs.push(Some(patch.constant(&hint(scope, op, "value"), tensor)));
    }
    patch.drop_attr(op, "pads");
    patch.drop_attr(op, "value");
    patch.inputs(op, &inputs);
    Ok(patch)
}

/// `Resize` of version 10 and `Upsample`: coordinates divided by the scale, the nearest one below.
fn resize(scope: Scope, op: OpId) -> Result<Patch, String> {
    let (x, scales) = (scope.input(op, 0).ok_or("no input")?, scope.input(op, 1).ok_or("it has no scales")?);
    let mut patch = Patch::default();
    patch.kind(op, OpKind::new("", "Resize"));
    patch.attr(op, "coordinate_transformation_mode", "asymmetric");
    let mode = scope.graph().op(op).attrs.str("mode").unwrap_or("nearest");
    match mode {
        "nearest" => patch.attr(op, "nearest_mode", "floor"),
        "linear" | "bilinear" => patch.attr(op, "mode", "linear"),
        other => return Err(format!("mode {other}")),
    }
    // The region is read in one mode only, but stays a required input until version 13.
    let roi = Tensor::from_slice::<f32>(&[0], &[]).map_err(|error| error.to_string())?;
    let roi = patch.constant(&hint(scope, op, "roi"), roi);
    patch.inputs(op, &[Some(x.into()), Some(roi), Some(scales.into())]);
    Ok(patch)
}

/// Until version 12 `Dropout` did nothing outside of training, and a mask was all true.
fn dropout(scope: Scope, op: OpId) -> Result<Patch, String> {
    let mut patch = Patch::default();
    let ratio = scope.graph().op(op).attrs.float("ratio").unwrap_or(0.5);
    let ratio = patch.constant(&hint(scope, op, "ratio"), Tensor::scalar(ratio));
    patch.drop_attr(op, "ratio");
    patch.inputs(op, &[scope.input(op, 0).map(Ref::Old), Some(ratio)]);
    Ok(patch)
}

/// Until version 13 these treated all axes from `axis` on as one.
fn softmax(scope: Scope, op: OpId) -> Result<Patch, String> {
    let node = scope.graph().op(op);
    let x = scope.input(op, 0).ok_or("it has no input")?;
    let shape = scope.shape(x).ok_or("the rank is not known")?;
    let axis =
        forms::axis(node.attrs.int("axis").unwrap_or(1), shape.rank()).ok_or("its axis is not valid")?;
    let mut patch = Patch::default();
    if shape.dims[axis + 1..].iter().all(|dim| dim.known() == Some(1)) {
        patch.attr(op, "axis", axis as i64);
        return Ok(patch);
    }
    let y = scope.output(op, 0).ok_or("it has no output")?;
    let flat = Op::new("Flatten").with("axis", AttrValue::Int(axis as i64));
    let flat = patch.insert(op, flat, &[Some(x.into())], &hint(scope, op, "flat"), None);
    let soft = Op::new(&node.kind.name).named(&node.name).with("axis", AttrValue::Int(-1));
    let soft = patch.insert(op, soft, &[Some(flat)], &hint(scope, op, "rows"), None);
    let sizes = patch.insert(op, Op::new("Shape"), &[Some(x.into())], &hint(scope, op, "sizes"), None);
    patch.produce(
        op,
        Op::new("Reshape").named(&hint(scope, op, "unflat")),
        &[Some(soft), Some(sizes)],
        &[Some(y)],
    );
    Ok(patch)
}

/// Version 14 has one output outside of training.
fn batch_normalization(scope: Scope, op: OpId) -> Result<Patch, String> {
    if scope.op_outputs(op).iter().skip(1).flatten().any(|&value| scope.is_used(value)) {
        return Err("its statistics are read".to_string());
    }
    if scope.graph().op(op).output_count() == 1 {
        return Ok(Patch::default());
    }
    let mut patch = Patch::instead_of(&[op]);
    let node = Op::new("BatchNormalization").with_attrs(scope.graph().op(op).attrs.clone());
    patch.produce(op, node, &inputs_of(scope, op), &[scope.output(op, 0)]);
    Ok(patch)
}

/// Version 16 shifts regions by half a pixel unless told otherwise.
fn roi_align(_: Scope, op: OpId) -> Result<Patch, String> {
    let mut patch = Patch::default();
    patch.attr(op, "coordinate_transformation_mode", "output_half_pixel");
    Ok(patch)
}

/// Version 18 asks for the number of outputs where no sizes are given.
fn split_outputs(scope: Scope, op: OpId) -> Result<Patch, String> {
    let mut patch = Patch::default();
    if scope.input(op, 1).is_none() {
        patch.attr(op, "num_outputs", scope.graph().op(op).output_count() as i64);
    }
    Ok(patch)
}

fn grid_sample(scope: Scope, op: OpId) -> Result<Patch, String> {
    let mut patch = Patch::default();
    match scope.graph().op(op).attrs.str("mode") {
        None | Some("bilinear") => patch.attr(op, "mode", "linear"),
        Some("bicubic") => patch.attr(op, "mode", "cubic"),
        _ => {}
    }
    Ok(patch)
}
