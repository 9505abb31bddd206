//! The operators, one file a family. Each file ends in its table; this is the list of the tables.

mod activation;
mod batch_normalization;
mod conv;
mod conv_transpose;
mod layer_normalization;
mod normalization;
mod pool;
mod reals;
mod recurrent;
mod unary;

use crate::rule::OpRule;

/// Every rule of every family.
pub const RULES: &[&[&dyn OpRule]] = &[
    activation::RULES,
    batch_normalization::RULES,
    conv::RULES,
    conv_transpose::RULES,
    layer_normalization::RULES,
    normalization::RULES,
    pool::RULES,
    recurrent::RULES,
    unary::RULES,
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
