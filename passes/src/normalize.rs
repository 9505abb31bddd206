//! Brings a model into the form that the other passes expect: constants as initializers, every operator named.
//!
//! ```text
//! c = Constant <value_ints = [1, 2]> ()        <int64[2] c = {1, 2}>
//! y = Reshape(x, c)                       =>   [Reshape_1] y = Reshape(x, c)
//! ```
//!
//! - A `Constant` becomes an initializer of its scope under the name of its output. A sparse one is left, and so are
//!   those in the bodies of local functions, where a file has no place for initializers.
//! - Before IR version 4 every initializer also had to be an input. Such inputs are constants in every model that was
//!   meant to run; they become plain initializers, and the IR version becomes 4. From version 4 on an initializer that
//!   is also an input is a default that the caller may override; it stays one unless `fix_defaults` is set.
//! - Weights that the file spells as lists of floats become raw bytes: equal in size and content, and neither this program
//!   nor a runtime needs a copy of them to read or write a file.
//! - Operators without a name get one made of their kind and a number; names that occur twice get a number as well, so
//!   that recipes and reports can name every operator.
//!
//! Stands first: no other pass looks into `Constant`.

use std::collections::{HashMap, HashSet};

use ir::{AttrValue, DType, Encoding, GraphId, Model, OpId, Role, Tensor};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Fact, Pass, PassError, Patch, op_place, value_place};

/// Every constant is an initializer.
pub const CONSTANTS_LIFTED: &Fact = &Fact { name: "constants_lifted", check: constants_lifted };

/// Every operator has a name of its own.
pub const OPERATORS_NAMED: &Fact = &Fact { name: "operators_named", check: operators_named };

/// Options.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Normalize {
    /// Inputs with a default become constants also from IR version 4 on.
    fix_defaults: bool,
}

impl Pass for Normalize {
    fn name(&self) -> &'static str {
        "normalize"
    }

    fn gives(&self) -> &'static [&'static Fact] {
        &[CONSTANTS_LIFTED, OPERATORS_NAMED]
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        lift_constants(model, cx, &mut changes);
        self.fix_inputs(model, cx, &mut changes);
        if !cx.out_of_fuel() {
            spell_raw(model, &mut changes);
        }
        name_operators(model, &mut changes);
        model.settle();
        Ok(changes)
    }
}

impl Normalize {
    fn fix_inputs(&self, model: &mut Model, cx: &mut Cx, changes: &mut Changes) {
        let old = model.ir_version < 4;
        let main = model.main_id();
        let with_default: Vec<_> =
            model.main().inputs().iter().copied().filter(|&v| model.main().value(v).data.is_some()).collect();
        for value in with_default {
            let at = value_place(model, main, value);
            if !old && !self.fix_defaults {
                let why = "the caller may override the default; fix_defaults makes it a constant";
                cx.decline("fix_input", why, at);
            } else if cx.spend("fix_input", at) {
                model.main_mut().fix_input(value);
                if !model.main().is_output(value) {
                    model.main_mut().value_mut(value).ty = None;
                }
                changes.count("fix_input");
            }
        }
        if old && !cx.out_of_fuel() {
            model.ir_version = 4;
            changes.notes += 1;
        }
    }
}

/// Makes initializers of the `Constant` operators.
pub fn lift_constants(model: &mut Model, cx: &mut Cx, changes: &mut Changes) {
    for graph in model.graph_ids() {
        if model.is_function_body(graph) {
            continue;
        }
        for op in model.graph(graph).ops() {
            if model.graph(graph).op(op).kind.is("Constant") {
                lift(model, graph, op, cx, changes);
            }
        }
    }
}

fn lift(model: &mut Model, graph: GraphId, op: OpId, cx: &mut Cx, changes: &mut Changes) {
    let at = op_place(model, graph, op);
    let g = model.graph(graph);
    let Some(output) = g.output(op, 0) else { return };
    match constant_of(g.op(op)) {
        Ok(data) => {
            let mut patch = Patch::default();
            patch.fold(output, data);
            if cx.rewrite(model, graph, "lift_constant", at, patch) {
                changes.count("lift_constant");
            }
        }
        Err(why) => cx.decline("lift_constant", why, at),
    }
}

/// The tensor that a `Constant` holds.
fn constant_of(op: &ir::Op) -> Result<Tensor, String> {
    let mut attrs = op.attrs.iter();
    let (Some(attr), None) = (attrs.next(), attrs.next()) else {
        return Err("it has not exactly one attribute".to_string());
    };
    let length = |n: usize| [n];
    let tensor = match (&*attr.name, &attr.value) {
        ("value", AttrValue::Tensor(tensor)) => Ok(tensor.clone()),
        ("value_int", AttrValue::Int(value)) => Ok(Tensor::scalar(*value)),
        ("value_float", AttrValue::Float(value)) => Ok(Tensor::scalar(*value)),
        ("value_ints", AttrValue::Ints(values)) => Tensor::from_slice(&length(values.len()), values),
        ("value_floats", AttrValue::Floats(values)) => Tensor::from_slice(&length(values.len()), values),
        ("value_string", AttrValue::String(value)) => Tensor::strings(ir::Dims::new(), vec![value.clone()]),
        ("value_strings", AttrValue::Strings(values)) => {
            Tensor::strings(ir::Dims::from_slice(&length(values.len())), values.clone())
        }
        (name, AttrValue::Sparse(_)) => return Err(format!("{name} is a sparse tensor")),
        (name, AttrValue::Reference { .. }) => {
            return Err(format!("{name} refers to the function's attribute"));
        }
        (name, _) => return Err(format!("attribute {name} is not one of the operator's")),
    };
    let mut tensor = tensor.map_err(|error| error.to_string())?;
    // The file's notes belonged to an attribute; an initializer's name is its value's.
    tensor.notes = None;
    Ok(tensor)
}

fn spell_raw(model: &mut Model, changes: &mut Changes) {
    for graph in model.graph_ids() {
        for value in model.graph(graph).values().collect::<Vec<_>>() {
            if model.graph(graph).constant(value).is_some_and(is_list_of_floats)
                && let Some(tensor) = &mut model.graph_mut(graph).value_mut(value).data
            {
                tensor.encoding = Encoding::Raw;
                changes.notes += 1;
            }
        }
    }
}

fn is_list_of_floats(tensor: &Tensor) -> bool {
    tensor.encoding == Encoding::Typed && matches!(tensor.dtype(), DType::F32 | DType::F64)
}

fn name_operators(model: &mut Model, changes: &mut Changes) {
    let ids = model.graph_ids();
    let mut taken: HashSet<String> = HashSet::new();
    let mut rename: Vec<(GraphId, OpId)> = Vec::new();
    for &graph in &ids {
        let g = model.graph(graph);
        for op in g.ops() {
            let name = &g.op(op).name;
            if name.is_empty() || !taken.insert(name.clone()) {
                rename.push((graph, op));
            }
        }
    }
    let mut next: HashMap<String, u64> = HashMap::new();
    for (graph, op) in rename {
        let op = model.graph_mut(graph).op_mut(op);
        let stem = if op.name.is_empty() { op.kind.name.to_string() } else { op.name.clone() };
        let number = next.entry(stem.clone()).or_insert(0);
        op.name = loop {
            *number += 1;
            let name = format!("{stem}_{number}");
            if taken.insert(name.clone()) {
                break name;
            }
        };
        changes.notes += 1;
    }
}

fn constants_lifted(model: &Model) -> Result<(), String> {
    for graph in model.graph_ids() {
        let g = model.graph(graph);
        for op in g.ops().into_iter().filter(|_| !model.is_function_body(graph)) {
            if g.op(op).kind.is("Constant") && constant_of(g.op(op)).is_ok() {
                return Err(format!("{} is a Constant", op_place(model, graph, op)));
            }
        }
        if model.ir_version < 4
            && g.values().any(|v| g.value(v).role() == Role::Input && g.value(v).data.is_some())
        {
            return Err("an initializer is an input before IR version 4".to_string());
        }
    }
    Ok(())
}

fn operators_named(model: &Model) -> Result<(), String> {
    let mut taken = HashSet::new();
    for graph in model.graph_ids() {
        let g = model.graph(graph);
        for op in g.ops() {
            let name = &g.op(op).name;
            if name.is_empty() || !taken.insert(name.as_str()) {
                return Err(format!("{} has no name of its own", op_place(model, graph, op)));
            }
        }
    }
    Ok(())
}
