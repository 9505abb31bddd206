//! What a pass is, what it needs and gives, and how it reports.

use std::collections::BTreeMap;
use std::fmt;

use ir::{GraphId, Location, Model, OpId, ValueId};
use thiserror::Error;

use super::cx::Cx;

/// A transformation of a whole model. `&self` holds options only.
pub trait Pass: fmt::Debug {
    /// The file's name: what users type and what is printed.
    fn name(&self) -> &'static str;

    /// What must hold before the pass runs; the driver checks it each time.
    fn needs(&self) -> &'static [&'static Fact] {
        &[]
    }

    /// What holds after the pass; checked when every pass is verified.
    fn gives(&self) -> &'static [&'static Fact] {
        &[]
    }

    /// Changes the model. Rewrites go through [`Cx::rewrite`], which numbers them.
    fn run(&self, model: &mut Model, cx: &mut Cx) -> Result<Changes, PassError>;
}

/// Something that can be checked of a model. Being a check and not a flag, it cannot go stale.
#[derive(Debug)]
pub struct Fact {
    /// Name for messages.
    pub name: &'static str,
    /// Says why it does not hold.
    pub check: fn(&Model) -> Result<(), String>,
}

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Applied rewrites by rule.
    pub by_rule: BTreeMap<&'static str, u64>,
    /// Notes that changed without a rewrite: types written, names given.
    pub notes: u64,
}

impl Changes {
    /// Nothing changed.
    pub fn is_empty(&self) -> bool {
        self.notes == 0 && self.by_rule.is_empty()
    }

    /// Number of applied rewrites.
    pub fn rewrites(&self) -> u64 {
        self.by_rule.values().sum()
    }

    /// Counts one rewrite.
    pub fn count(&mut self, rule: &'static str) {
        *self.by_rule.entry(rule).or_default() += 1;
    }
}

/// The operators of a graph such that each stands behind what it reads.
pub fn schedule(pass: &'static str, model: &Model, graph: GraphId) -> Result<Vec<OpId>, PassError> {
    let graph = model.graph(graph);
    graph.schedule().map_err(|error| PassError::Model {
        pass,
        at: Box::new(Location::graph(graph)),
        why: error.to_string(),
    })
}

/// The place of an operator; inside a body with the way there.
pub fn op_place(model: &Model, graph: GraphId, op: OpId) -> Location {
    inside(model, graph, Location::op(model.graph(graph), op))
}

/// The place of a value; inside a body with the way there.
pub fn value_place(model: &Model, graph: GraphId, value: ValueId) -> Location {
    inside(model, graph, Location::value(model.graph(graph), value))
}

fn inside(model: &Model, graph: GraphId, place: Location) -> Location {
    if graph == model.main_id() { place } else { place.within(model, graph) }
}

/// Why a pass could not run or left a broken model.
#[derive(Debug, Error)]
pub enum PassError {
    /// No pass of this name.
    #[error("there is no pass {name:?}{}", nearest.map_or_else(String::new, |n| format!("; did you mean {n:?}?")))]
    Unknown {
        /// The name asked for.
        name: String,
        /// The most similar name.
        nearest: Option<&'static str>,
    },
    /// Options that the pass does not have, or of the wrong type.
    #[error("options of {pass}: {why}")]
    Options {
        /// The pass.
        pass: String,
        /// What is wrong.
        why: String,
    },
    /// The text of a pass list cannot be read.
    #[error("pass list {text:?}: {why}")]
    Syntax {
        /// The text.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// A fact that the pass needs does not hold.
    #[error("{pass} needs {fact}, which does not hold: {why}")]
    Needs {
        /// The pass.
        pass: &'static str,
        /// The fact.
        fact: &'static str,
        /// Why it does not hold.
        why: String,
    },
    /// A fact that the pass promises does not hold afterwards: a bug in the pass.
    #[error("{pass} promises {fact}, which does not hold afterwards: {why}")]
    Gives {
        /// The pass.
        pass: &'static str,
        /// The fact.
        fact: &'static str,
        /// Why it does not hold.
        why: String,
    },
    /// The model is not valid.
    #[error("the model is not valid {when}: {why}")]
    Invalid {
        /// Before or after which pass.
        when: String,
        /// The verifier's findings.
        why: String,
    },
    /// The model has a cycle or another defect that only the pass found.
    #[error("{pass}: {at}: {why}")]
    Model {
        /// The pass.
        pass: &'static str,
        /// Where.
        at: Box<Location>,
        /// What is wrong.
        why: String,
    },
}
