//! Removes constants that nothing reads.
//!
//! ```text
//! <float[4] w = {...}, float[4] unused = {...}> y = Add(x, w)   =>   <float[4] w = {...}> y = Add(x, w)
//! ```
//!
//! Inputs of the graph are its interface and stay, read or not, also where they have a default. Stands last, behind the
//! passes that replace constants.

use ir::{Model, Role};
use serde::Deserialize;

use crate::driver::{Changes, Cx, Pass, PassError, Patch, value_place};

/// No options.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EliminateUnused {}

impl Pass for EliminateUnused {
    fn name(&self) -> &'static str {
        "eliminate_unused"
    }

    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError> {
        let mut changes = Changes::default();
        for graph in model.graph_ids() {
            let g = model.graph(graph);
            let unused = |v: &ir::ValueId| g.value(*v).role() == Role::Initializer && !g.is_used(*v);
            for value in g.values().filter(unused).collect::<Vec<_>>() {
                let mut patch = Patch::default();
                patch.drop_value(value);
                let at = value_place(model, graph, value);
                if cx.rewrite(model, graph, "unused", at, patch) {
                    changes.count("unused");
                }
            }
        }
        model.settle();
        Ok(changes)
    }
}
