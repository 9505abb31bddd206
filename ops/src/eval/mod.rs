//! Running operators by their rules: one operator, or a whole graph with its bodies and functions.

mod context;
mod run;

pub use context::{Budget, EvalCx, Outputs};
pub use run::{Options, Sink, eval_op, resolve_references, run};

/// Runs a body graph on behalf of a control flow operator.
pub(crate) trait Host {
    /// The outputs of `graph` for these inputs.
    fn run(&self, graph: ir::GraphId, inputs: Vec<crate::Value>) -> crate::Result<Vec<crate::Value>>;

    /// The type that `graph` declares for one of its inputs.
    fn declared_input(&self, graph: ir::GraphId, input: usize) -> Option<ir::Type>;

    /// Element type and shape that `graph` declares for one of its outputs.
    fn declared_output(&self, graph: ir::GraphId, output: usize) -> Option<(ir::DType, Vec<ir::Dim>)>;
}
