//! Operators that compute new numbers element by element or over windows.

use super::{Role, Rule, Scheme, SchemeCx, Work};

pub(super) const RULES: &[Rule] = &[
    ("", "Add", all),
    ("", "Sub", all),
    ("", "Mul", all),
    ("", "Div", all),
    ("", "Pow", all),
    ("", "PRelu", all),
    ("", "Relu", unary),
    ("", "LeakyRelu", unary),
    ("", "Elu", unary),
    ("", "HardSwish", unary),
    ("", "Gelu", unary),
    ("", "Swish", unary),
    ("", "Mish", unary),
    ("", "Softplus", unary),
    ("", "Erf", |_| bounded(-1.0, 1.0)),
    ("", "Tanh", |_| bounded(-1.0, 1.0)),
    ("", "Sigmoid", |_| bounded(0.0, 1.0)),
    ("", "HardSigmoid", |_| bounded(0.0, 1.0)),
    ("", "Softmax", |_| bounded(0.0, 1.0)),
    ("", "Clip", first_only),
    ("", "AveragePool", unary),
    ("", "GlobalAveragePool", unary),
    ("", "LpPool", unary),
    ("", "ReduceMean", first_only),
    ("", "ReduceSum", first_only),
    ("com.microsoft", "Gelu", unary),
    ("com.microsoft", "QuickGelu", unary),
];

fn all(cx: SchemeCx<'_>) -> Option<Scheme> {
    Some(Scheme::new(Work::Arithmetic, vec![Role::Data; cx.input_count()], vec![Role::Data]))
}

fn unary(_: SchemeCx<'_>) -> Option<Scheme> {
    Some(Scheme::new(Work::Arithmetic, vec![Role::Data], vec![Role::Data]))
}

/// Further inputs are bounds or axes.
fn first_only(cx: SchemeCx<'_>) -> Option<Scheme> {
    unary(cx)
}

fn bounded(low: f32, high: f32) -> Option<Scheme> {
    Some(Scheme::new(Work::Arithmetic, vec![Role::Data], vec![Role::Fixed(low, high)]))
}
