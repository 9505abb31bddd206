//! Normalizations: statistics need float, but data in and out may be quantized where a target has such kernels.

use super::{Role, Rule, Scheme, SchemeCx, Work};

pub(super) const RULES: &[Rule] = &[
    ("", "LayerNormalization", scaled),
    ("", "InstanceNormalization", scaled),
    ("", "GroupNormalization", scaled),
    ("", "RMSNormalization", scaled),
    ("", "BatchNormalization", scaled),
    ("", "LRN", scaled),
];

fn scaled(_: SchemeCx<'_>) -> Option<Scheme> {
    Some(Scheme::new(Work::Arithmetic, vec![Role::Data], vec![Role::Data]))
}
