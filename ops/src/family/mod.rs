//! The operators, one file a family. Each file ends in its table; this is the list of the tables.

mod activation;
mod attention;
mod batch_normalization;
mod before_seven;
mod binary;
mod canvas;
mod cast;
mod concat;
mod control;
mod conv;
mod conv_transpose;
mod cumulative;
mod deform_conv;
mod dropout;
mod dynamic_quantize_lstm;
pub(crate) mod einsum;
mod embed_layer_normalization;
mod expand;
mod fake_quant;
mod flex_attention;
mod fourier;
mod fused;
mod gather;
mod gather_block_quantized;
mod generate;
mod grid_sample;
mod group_query_attention;
mod label;
mod layer_normalization;
mod linear_attention;
mod logic;
mod loss;
mod mask;
mod matmul;
mod matmul_nbits;
mod microsoft_attention;
mod microsoft_early;
mod non_max_suppression;
mod normalization;
mod pad;
mod pool;
mod qlinear_conv;
mod qlinear_elementwise;
mod qlinear_matmul;
mod qlinear_pool;
mod quantize_linear;
mod quantized;
mod reals;
mod recurrent;
mod reduce;
mod region;
mod reshape;
mod resize;
mod rotary_embedding;
mod round;
mod sampling;
mod scatter;
mod select;
mod sequence;
mod slice;
mod softmax;
mod strings;
mod training;
mod transpose;
mod tree_ensemble;
mod unary;
mod window_function;

use crate::rule::OpRule;

/// Every rule of every family.
#[rustfmt::skip]
pub const RULES: &[&[&dyn OpRule]] = &[
    activation::RULES,
    attention::RULES,
    batch_normalization::RULES,
    before_seven::RULES,
    binary::RULES,
    canvas::RULES,
    cast::RULES,
    concat::RULES,
    control::RULES,
    conv::RULES,
    conv_transpose::RULES,
    cumulative::RULES,
    deform_conv::RULES,
    dropout::RULES,
    dynamic_quantize_lstm::RULES,
    einsum::RULES,
    embed_layer_normalization::RULES,
    expand::RULES,
    fake_quant::RULES,
    flex_attention::RULES,
    fourier::RULES,
    fused::RULES,
    gather::RULES,
    gather_block_quantized::RULES,
    generate::RULES,
    grid_sample::RULES,
    group_query_attention::RULES,
    label::RULES,
    layer_normalization::RULES,
    linear_attention::RULES,
    logic::RULES,
    loss::RULES,
    mask::RULES,
    matmul::RULES,
    matmul_nbits::RULES,
    microsoft_attention::RULES,
    microsoft_early::RULES,
    non_max_suppression::RULES,
    normalization::RULES,
    pad::RULES,
    pool::RULES,
    qlinear_conv::RULES,
    qlinear_elementwise::RULES,
    qlinear_matmul::RULES,
    qlinear_pool::RULES,
    quantize_linear::RULES,
    recurrent::RULES,
    reduce::RULES,
    region::RULES,
    reshape::RULES,
    resize::RULES,
    rotary_embedding::RULES,
    round::RULES,
    sampling::RULES,
    scatter::RULES,
    select::RULES,
    sequence::RULES,
    slice::RULES,
    softmax::RULES,
    strings::RULES,
    training::RULES,
    transpose::RULES,
    tree_ensemble::RULES,
    unary::RULES,
    window_function::RULES,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::rule::rules;

    #[test]
    fn rules_of_one_operator_cover_disjoint_versions() {
        let mut seen = BTreeMap::new();
        for rule in rules() {
            let versions = seen.entry(rule.op()).or_insert_with(Vec::new);
            for version in rule.opsets() {
                assert!(!versions.contains(&version), "{} {version} has two rules", rule.op());
                versions.push(version);
            }
        }
    }
}
