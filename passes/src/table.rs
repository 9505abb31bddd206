//! Every pass, one line each: the file's name and the type in it.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::driver::{Pass, PassError, Spec};

/// A pass of the table.
pub struct Entry {
    /// Name: the file's.
    pub name: &'static str,
    source: &'static str,
    make: fn(Value) -> Result<Box<dyn Pass>, serde_json::Error>,
}

macro_rules! passes {
    ($($module:ident :: $pass:ident,)*) => {
        /// Every pass, sorted by name.
        pub const PASSES: &[Entry] = &[$(Entry {
            name: stringify!($module),
            source: include_str!(concat!(stringify!($module), ".rs")),
            make: make_pass::<crate::$module::$pass>,
        },)*];
    };
}

passes! {
    einsum_to_matmul::EinsumToMatmul,
    eliminate_arithmetic::EliminateArithmetic,
    eliminate_dead::EliminateDead,
    eliminate_duplicates::EliminateDuplicates,
    eliminate_failing_branches::EliminateFailingBranches,
    eliminate_identity::EliminateIdentity,
    eliminate_unused::EliminateUnused,
    eliminate_zero_states::EliminateZeroStates,
    fix_shapes::FixShapes,
    flatten_products::FlattenProducts,
    fold_constants::FoldConstants,
    fold_shapes::FoldShapes,
    fuse_batch_norm::FuseBatchNorm,
    fuse_bias::FuseBias,
    fuse_input_scale::FuseInputScale,
    fuse_pad::FusePad,
    fuse_transpose::FuseTranspose,
    infer_shapes::InferShapes,
    inline_if::InlineIf,
    lower_for_execution::LowerForExecution,
    matmul_add_to_gemm::MatmulAddToGemm,
    merge_arithmetic::MergeArithmetic,
    merge_casts::MergeCasts,
    merge_clips::MergeClips,
    merge_concats::MergeConcats,
    merge_pads::MergePads,
    merge_reduces::MergeReduces,
    merge_reshapes::MergeReshapes,
    merge_slices::MergeSlices,
    merge_squeezes::MergeSqueezes,
    merge_transposes::MergeTransposes,
    normalize::Normalize,
    raise_opset::RaiseOpset,
    recompose_gelu::RecomposeGelu,
    recompose_hard_swish::RecomposeHardSwish,
    recompose_layer_norm::RecomposeLayerNorm,
    recompose_softmax::RecomposeSoftmax,
    sink_constants::SinkConstants,
    widen_floats::WidenFloats,
}

fn make_pass<P: Pass + DeserializeOwned + 'static>(
    options: Value,
) -> Result<Box<dyn Pass>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<P>(options)?))
}

impl Entry {
    /// The head of the pass's file: what it does, before and after, when it declines, why it stands where it stands.
    pub fn manual(&self) -> String {
        let head = self.source.lines().take_while(|line| line.starts_with("//!"));
        let text = head.map(|line| line.trim_start_matches("//!").strip_prefix(' ').unwrap_or_default());
        text.collect::<Vec<_>>().join("\n")
    }

    /// The first sentence of the manual.
    pub fn summary(&self) -> String {
        let manual = self.manual();
        let first = manual.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        first.split_inclusive(". ").next().unwrap_or_default().trim().to_string()
    }
}

/// The entry of a name.
pub fn find(name: &str) -> Option<&'static Entry> {
    PASSES.iter().find(|entry| entry.name == name)
}

/// The manual of a pass, for `explain`.
pub fn explain(name: &str) -> Option<String> {
    find(name).map(Entry::manual)
}

/// A pass of a name with options.
pub fn make(spec: &Spec) -> Result<Box<dyn Pass>, PassError> {
    let unknown = || PassError::Unknown { name: spec.name.clone(), nearest: nearest(&spec.name) };
    let entry = find(&spec.name).ok_or_else(unknown)?;
    (entry.make)(Value::Object(spec.options.clone()))
        .map_err(|error| PassError::Options { pass: spec.name.clone(), why: error.to_string() })
}

/// The pass whose name differs least, if it differs little.
pub fn nearest(name: &str) -> Option<&'static str> {
    // The preset is called like a pass where passes are listed.
    let names = PASSES.iter().map(|entry| entry.name).chain(["simplify"]);
    let scored = names.map(|known| (distance(name, known), known));
    scored.min().filter(|&(distance, found)| distance <= found.len() / 3).map(|(_, found)| found)
}

/// Edit distance of two short names.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sorted_named_after_their_pass_and_documented() {
        assert!(PASSES.is_sorted_by_key(|entry| entry.name));
        for entry in PASSES {
            let pass = make(&Spec::new(entry.name)).expect("default options");
            assert_eq!(pass.name(), entry.name);
            assert!(entry.manual().len() > 100, "{} has no manual", entry.name);
            assert!(entry.summary().len() < 150, "{}: {}", entry.name, entry.summary());
        }
    }

    #[test]
    fn wrong_names_and_options_are_explained() {
        let error = make(&Spec::new("eliminate_deed")).unwrap_err();
        assert_eq!(error.to_string(), r#"there is no pass "eliminate_deed"; did you mean "eliminate_dead"?"#);
        let error = make(&Spec::new("normalize").with("colour", "red")).unwrap_err();
        assert!(error.to_string().starts_with("options of normalize: unknown field `colour`"), "{error}");
        assert!(matches!(make(&Spec::new("zzz")), Err(PassError::Unknown { nearest: None, .. })));
    }
}
