//! Gives open dimensions of the model's inputs a size.
//!
//! ```text
//! (float[batch, 3, H, W] x)   =>   (float[1, 3, 224, 224] x)
//! ```
//!
//! - `dims`: sizes by the name of the dimension; the name is replaced wherever a value of the main graph declares it.
//! - `inputs`: whole shapes by the name of the input. A named dimension that gets a size here gets it everywhere; -1
//!   leaves a dimension as it is. A size that was another number changes: whatever the model declares about the shapes of
//!   computed values was true for the old one and is forgotten.
//!
//! Declines (with an error, since the user asked): names that the model does not have, shapes of another rank.
//!
//! Stands before `infer_shapes`, which carries the sizes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use ir::{Dim, Location, Model, Role, Shape, TypeKind, ValueId};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError};

/// Options.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FixShapes {
    /// Sizes by name of the dimension.
    dims: BTreeMap<String, i64>,
    /// Shapes by name of the input.
    inputs: BTreeMap<String, Vec<i64>>,
}

impl Pass for FixShapes {
    fn name(&self) -> &'static str {
        "fix_shapes"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let main = model.main_id();
        let mut changes = Changes::default();
        let failed = |why: String| PassError::Model {
            pass: "fix_shapes",
            at: Box::new(Location::graph(model.main())),
            why,
        };
        let mut sizes: BTreeMap<Arc<str>, i64> =
            self.dims.iter().map(|(name, &size)| (Arc::from(name.as_str()), size)).collect();
        let mut open: Vec<(ValueId, Shape)> = Vec::new();
        let mut overwrites = false;
        for (name, wanted) in &self.inputs {
            let value = model.main().find(name).filter(|&v| model.main().value(v).role() == Role::Input);
            let value = value.ok_or_else(|| {
                let graph = model.main();
                let names: Vec<&str> = graph.inputs().iter().map(|&v| &**graph.value(v).name()).collect();
                failed(format!("there is no input {name:?}; there are {}", names.join(", ")))
            })?;
            let shape = fixed(model, value, wanted, &mut sizes).map_err(failed)?;
            let old = model.main().value(value).shape();
            let changed = |(old, new): (&Dim, &Dim)| matches!(old, Dim::Known(_)) && old != new;
            overwrites |= old.is_some_and(|old| old.dims.iter().zip(&shape.dims).any(changed));
            open.push((value, shape));
        }
        let known: Vec<Arc<str>> = model.main().inputs().iter().flat_map(|&v| symbols(model, v)).collect();
        if let Some(name) = self.dims.keys().find(|name| !known.iter().any(|known| **known == ***name)) {
            let mut names: Vec<&str> = known.iter().map(|name| &**name).collect();
            names.dedup();
            let there = match names.as_slice() {
                [] => "none has a name: give the shape of an input instead".to_string(),
                names => format!("there are {}", names.join(", ")),
            };
            return Err(failed(format!("no input has a dimension {name:?}; {there}")));
        }
        if let Some((name, size)) = sizes.iter().find(|(_, size)| **size < 0) {
            return Err(failed(format!("{name:?} cannot be {size}")));
        }
        if !cx.spend("fix", Location::graph(model.main())) {
            return Ok(changes);
        }
        if overwrites {
            forget_computed(model);
        }
        let graph = model.graph_mut(main);
        for (value, shape) in open {
            if let Some(TypeKind::Tensor(tensor)) = graph.value_mut(value).ty.as_mut().map(|ty| &mut ty.kind)
            {
                tensor.shape = Some(shape);
            }
        }
        for value in graph.values().collect::<Vec<_>>() {
            set_shape(&mut graph.value_mut(value).ty, |shape| {
                for dim in &mut shape.dims {
                    if let Dim::Symbol(name) = dim
                        && let Some(&size) = sizes.get(name)
                    {
                        *dim = Dim::Known(size);
                    }
                }
            });
        }
        changes.count("fix");
        Ok(changes)
    }
}

fn forget_computed(model: &mut Model) {
    for id in model.graph_ids() {
        let graph = model.graph_mut(id);
        for value in graph.values().collect::<Vec<_>>() {
            let held = graph.value_mut(value);
            if held.role() == Role::Computed
                && let Some(TypeKind::Tensor(tensor)) = held.ty.as_mut().map(|ty| &mut ty.kind)
            {
                tensor.shape = None;
            }
        }
    }
}

fn set_shape(ty: &mut Option<ir::Type>, change: impl FnOnce(&mut Shape)) {
    if let Some(TypeKind::Tensor(tensor)) = ty.as_mut().map(|ty| &mut ty.kind)
        && let Some(shape) = &mut tensor.shape
    {
        change(shape);
    }
}

fn symbols(model: &Model, value: ValueId) -> Vec<Arc<str>> {
    let shape = model.main().value(value).shape();
    let symbol = |dim: &Dim| if let Dim::Symbol(name) = dim { Some(name.clone()) } else { None };
    shape.iter().flat_map(|shape| shape.dims.iter().filter_map(symbol)).collect()
}

/// The input's shape with the wanted sizes; notes which sizes names get.
fn fixed(
    model: &Model,
    value: ValueId,
    wanted: &[i64],
    sizes: &mut BTreeMap<Arc<str>, i64>,
) -> Result<Shape, String> {
    let name = model.main().value(value).name();
    let mut shape = match model.main().value(value).shape() {
        Some(shape) => shape,
        None => Shape::new(wanted.iter().map(|_| Dim::Unknown)),
    };
    if shape.rank() != wanted.len() {
        return Err(format!("{name:?} has {} dimensions, not {}", shape.rank(), wanted.len()));
    }
    for (dim, &size) in shape.dims.iter_mut().zip(wanted) {
        match (&*dim, size) {
            (_, -1) => {}
            (_, size) if size < 0 => return Err(format!("a dimension of {name:?} cannot be {size}")),
            (Dim::Symbol(symbol), size) => {
                if sizes.insert(symbol.clone(), size).is_some_and(|other| other != size) {
                    return Err(format!("{symbol:?} gets two sizes"));
                }
                *dim = Dim::Known(size);
            }
            (_, size) => *dim = Dim::Known(size),
        }
    }
    Ok(shape)
}
