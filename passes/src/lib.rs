//! Model in, model out: one pass a file; the driver; the targets.
//!
//! A pass is a file of this crate and a line of [`table`]; an order of passes is a list in [`preset`]. The framework in
//! [`driver`] names no operator. Passes read no file, no clock and no environment, run nothing in a runtime and print
//! nothing: tables, clocks and evaluators are handed in, diagnostics are handed back.
//!
//! A rewrite looks, proposes a [`Patch`], and the driver applies it; that is the only place where a graph is edited.

pub mod assign_precision;
pub mod check;
pub mod correct_bias;
pub mod driver;
pub mod equalize_channels;
mod forms;
mod narrow;
mod numbers;
mod pattern;
pub mod preset;
pub mod table;
#[cfg(test)]
mod testing;
mod weights;

mod einsum_to_matmul;
mod eliminate_arithmetic;
mod eliminate_dead;
mod eliminate_duplicates;
mod eliminate_failing_branches;
mod eliminate_identity;
mod eliminate_unused;
mod eliminate_zero_states;
mod fix_shapes;
mod flatten_products;
mod fold_constants;
mod fold_shapes;
mod fuse_batch_norm;
mod fuse_bias;
mod fuse_input_scale;
mod fuse_pad;
mod fuse_transpose;
mod infer_shapes;
mod inline_if;
mod lower_for_execution;
mod matmul_add_to_gemm;
mod merge_arithmetic;
mod merge_casts;
mod merge_clips;
mod merge_concats;
mod merge_pads;
mod merge_reduces;
mod merge_reshapes;
mod merge_slices;
mod merge_squeezes;
mod merge_transposes;
mod normalize;
pub mod quantize;
mod raise_opset;
mod recompose_gelu;
mod recompose_hard_swish;
mod recompose_layer_norm;
mod recompose_softmax;
mod sink_constants;
pub mod stages;
pub mod target;
mod widen_floats;

use ir::Model;

pub use driver::{
    Changes, Cx, Declined, Evaluator, Fact, Failure, Options, Pass, PassError, PassRun, Patch, Ref, Report,
    Rewrite, Rule, Scope, Skip, Spec, Step, op_count,
};

/// Runs steps on the model; names are looked up in [`table`].
pub fn run(model: &mut Model, steps: &[Step], options: Options) -> Result<Report, Box<Failure>> {
    driver::run(model, steps, &table::make, options)
}

/// Simplifies the model: the preset [`preset::simplify`].
pub fn simplify(model: &mut Model, options: Options) -> Result<Report, Box<Failure>> {
    run(model, &preset::simplify(), options)
}
