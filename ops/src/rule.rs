//! The rule of an operator, and where to find it.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::OnceLock;

use ir::{OpKind, canonical_domain};
use thiserror::Error;

use crate::error::{OpError, Result};
use crate::eval::{EvalCx, Outputs};
use crate::family;
use crate::infer::InferCx;

/// The newest version of ONNX's own operator set whose specification was read.
pub const LATEST: i64 = 27;

/// Domain and name of an operator; ONNX's own domain is `""`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpName {
    /// Domain.
    pub domain: &'static str,
    /// Name.
    pub name: &'static str,
}

impl OpName {
    /// An operator of ONNX's own domain.
    pub const fn onnx(name: &'static str) -> OpName {
        OpName { domain: "", name }
    }

    /// An operator of another domain.
    pub const fn of(domain: &'static str, name: &'static str) -> OpName {
        OpName { domain, name }
    }
}

impl fmt::Display for OpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.domain {
            "" => f.write_str(self.name),
            domain => write!(f, "{domain}.{}", self.name),
        }
    }
}

/// What an operator means.
pub trait OpRule: Sync {
    /// Which operator.
    fn op(&self) -> OpName;

    /// The versions of the operator set whose specification this rule follows. An operator may have several rules with
    /// disjoint ranges.
    fn opsets(&self) -> RangeInclusive<i64>;

    /// Sets what is known about the outputs. An output that is not set stays unknown. An error means that the model is
    /// wrong (or that the form is not supported), never that too little is known.
    fn infer(&self, cx: &mut InferCx) -> Result<()>;

    /// The outputs for these inputs: at least as many as are wanted ([`EvalCx::wanted`]).
    fn eval(&self, cx: &EvalCx) -> Result<Outputs> {
        Err(cx.unsupported("it has no evaluation"))
    }

    /// Whether [`OpRule::eval`] exists and gives the same result each time.
    fn evaluates(&self) -> bool {
        false
    }
}

/// A rule made of two functions: a line in a family's table.
pub struct Table {
    op: OpName,
    opsets: (i64, i64),
    infer: fn(&mut InferCx) -> Result<()>,
    eval: Option<fn(&EvalCx) -> Result<Outputs>>,
}

impl Table {
    /// An operator of ONNX's own domain from `since` to [`LATEST`].
    pub const fn new(name: &'static str, since: i64, infer: fn(&mut InferCx) -> Result<()>) -> Table {
        Table { op: OpName::onnx(name), opsets: (since, LATEST), infer, eval: None }
    }

    /// The same in another domain, whose versions run from 1 to `last`.
    pub const fn domain(mut self, domain: &'static str, last: i64) -> Table {
        self.op.domain = domain;
        self.opsets.1 = last;
        self
    }

    /// The same up to version `last`.
    pub const fn until(mut self, last: i64) -> Table {
        self.opsets.1 = last;
        self
    }

    /// The same with an evaluation.
    pub const fn eval(mut self, eval: fn(&EvalCx) -> Result<Outputs>) -> Table {
        self.eval = Some(eval);
        self
    }
}

impl OpRule for Table {
    fn op(&self) -> OpName {
        self.op
    }

    fn opsets(&self) -> RangeInclusive<i64> {
        self.opsets.0..=self.opsets.1
    }

    fn infer(&self, cx: &mut InferCx) -> Result<()> {
        (self.infer)(cx)
    }

    fn eval(&self, cx: &EvalCx) -> Result<Outputs> {
        match self.eval {
            Some(eval) => eval(cx),
            None => Err(cx.unsupported("it has no evaluation")),
        }
    }

    fn evaluates(&self) -> bool {
        self.eval.is_some()
    }
}

/// Why there is no rule: the operator passes through and is listed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NoRule {
    /// No rule for the operator in any version.
    #[error("no rule for {0}")]
    Unknown(String),
    /// There are rules, but none for this version.
    #[error("no rule for {op} of opset {opset}: rules cover {}", ranges(.read))]
    Opset {
        /// The operator.
        op: String,
        /// The version asked for.
        opset: i64,
        /// First and last version of each rule.
        read: Vec<(i64, i64)>,
    },
    /// The model imports no operator set of the operator's domain.
    #[error("the model imports no operator set for {0}")]
    NotImported(String),
}

fn ranges(read: &[(i64, i64)]) -> String {
    read.iter().map(|(first, last)| format!("{first} to {last}")).collect::<Vec<_>>().join(", ")
}

type Index = BTreeMap<(&'static str, &'static str), Vec<&'static dyn OpRule>>;

fn index() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index = Index::new();
        for rule in family::RULES.iter().copied().flatten() {
            index.entry((rule.op().domain, rule.op().name)).or_default().push(*rule);
        }
        index
    })
}

/// The rule of an operator under a version of its domain's operator set (none if the model imports none).
pub fn rule(kind: &OpKind, opset: Option<i64>) -> std::result::Result<&'static dyn OpRule, NoRule> {
    let key = (canonical_domain(&kind.domain), &*kind.name);
    let rules = index().get(&key).ok_or_else(|| NoRule::Unknown(kind.to_string()))?;
    let opset = opset.ok_or_else(|| NoRule::NotImported(kind.to_string()))?;
    rules.iter().find(|rule| rule.opsets().contains(&opset)).copied().ok_or_else(|| NoRule::Opset {
        op: kind.to_string(),
        opset,
        read: rules.iter().map(|rule| (*rule.opsets().start(), *rule.opsets().end())).collect(),
    })
}

/// Every rule, sorted by domain and name.
pub fn rules() -> impl Iterator<Item = &'static dyn OpRule> {
    index().values().flatten().copied()
}

impl From<NoRule> for OpError {
    fn from(missing: NoRule) -> OpError {
        OpError::NoRule(missing)
    }
}
