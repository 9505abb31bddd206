//! What can be known about values without running the model: types, sizes (also as expressions over named sizes), and
//! the contents of small integer tensors, which become shapes further down.

mod context;
mod known;
mod model;
pub mod shape;
mod sizes;

pub use context::InferCx;
pub use known::{CONTENTS_LIMIT, Inside, Known};
pub use model::{Inferred, Issue, Options, Place, infer_model};

/// Runs inference of a body graph on behalf of a control flow operator.
pub(crate) trait Bodies {
    /// What is known about the outputs of `graph` when its inputs are `inputs` (missing ones are unknown).
    fn infer(&mut self, graph: ir::GraphId, inputs: Vec<Known>) -> crate::Result<Vec<Known>>;

    /// The same of a graph that no run reaches: what is wrong in it is nobody's concern.
    fn infer_unreached(&mut self, graph: ir::GraphId, inputs: Vec<Known>) -> crate::Result<Vec<Known>>;

    /// The type that `graph` declares for one of its inputs.
    fn declared_input(&self, graph: ir::GraphId, input: usize) -> Option<ir::Type>;
}
