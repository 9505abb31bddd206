//! Orders of passes. Every constraint on an order is a comment at its line.

use crate::driver::{Spec, Step};

fn once(name: &str) -> Step {
    Step::Once(Spec::new(name))
}

/// What `simplify` runs: the same function, fewer operators, on every runtime.
pub fn simplify() -> Vec<Step> {
    let repeated = [
        // Ranks and sizes for everything below; again in each round, since new operators have no types yet.
        "infer_shapes",
        // Before the arithmetic on sizes is looked at: a part of it may be plain constants.
        "fold_constants",
        "fold_shapes",
        // Behind folding, which finds out conditions. The branch joins the next round.
        "inline_if",
        // What fed the folded values counts as a reader until it is gone, and fusions ask for a single reader.
        "eliminate_dead",
        "eliminate_identity",
        "eliminate_arithmetic",
        "eliminate_zero_states",
        // Before the passes that merge transposes of constants away.
        "einsum_to_matmul",
        // Behind the eliminations: a no-op between two of a kind hides the pair.
        "merge_transposes",
        "merge_squeezes",
        "merge_reduces",
        // Behind merge_squeezes, which needs no shapes and keeps Squeeze and Unsqueeze.
        "merge_reshapes",
        "merge_casts",
        "merge_slices",
        "merge_concats",
        "merge_pads",
        "merge_clips",
        "merge_arithmetic",
        "fuse_pad",
        // Before fuse_bias and matmul_add_to_gemm: the normalization is right behind the linear operator. Before
        // eliminate_duplicates: of equal convolutions with a normalization of its own each, none could take it in.
        "fuse_batch_norm",
        // Before the other fusions: they rewrite one of two equal operators and hide that they were equal.
        "eliminate_duplicates",
        // Behind eliminate_duplicates, since their parts must have a single reader; before the fusions that take in a
        // factor or a summand which is a part of them.
        "recompose_softmax",
        "recompose_layer_norm",
        "recompose_gelu",
        "recompose_hard_swish",
        // Behind merge_reshapes, before matmul_add_to_gemm, which takes what it leaves.
        "flatten_products",
        "matmul_add_to_gemm",
        "fuse_transpose",
        // Behind matmul_add_to_gemm: a second addition goes into the bias of the Gemm.
        "fuse_bias",
        // Behind fuse_bias: a factor between two convolutions goes into the first, where it is one of the outputs.
        "fuse_input_scale",
    ];
    vec![
        // First: every other pass expects constants as initializers and names to report.
        // In models of any age, weights that are listed as inputs are meant as constants.
        Step::Once(Spec::new("normalize").with("fix_defaults", true)),
        Step::Repeat { rounds: 10, passes: repeated.map(Spec::new).to_vec() },
        // Last: what the others left behind.
        once("eliminate_dead"),
        once("eliminate_unused"),
        // The types of what the last round made.
        once("infer_shapes"),
    ]
}
