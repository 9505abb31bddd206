//! The verifier: what holds for every model between two passes.
//!
//! After [`verify`] succeeds, passes and export may fail but never panic. Each [`Invariant`] has a number that does not
//! change, a sentence, and a fixture in `tests/verify.rs`. What [`Graph`](crate::Graph) guarantees by construction
//! (unique and non-empty value names, one producer a value, one value a slot) has no number. What operators mean, for
//! example how many inputs one takes, is not known here.
//!
//! The work is near-linear in the size of the model; elements of dense tensors are not looked at.

mod functions;
mod graph;
mod scopes;

use std::collections::HashMap;
use std::fmt;

use thiserror::Error;

use crate::{GraphId, Location, Model};

macro_rules! invariants {
    ($($variant:ident = $code:literal, $rule:literal;)*) => {
        /// What the verifier checks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Invariant {
            $(#[doc = $rule] $variant,)*
        }

        impl Invariant {
            /// All of them in the order of their numbers.
            pub const ALL: &'static [Invariant] = &[$(Invariant::$variant,)*];

            /// The number, for example `V01`.
            pub fn code(self) -> &'static str {
                match self { $(Invariant::$variant => $code,)* }
            }

            /// The rule in one sentence.
            pub fn rule(self) -> &'static str {
                match self { $(Invariant::$variant => $rule,)* }
            }
        }
    };
}

invariants! {
    NoCycle = "V01", "No operator reads, directly or not, what it writes.";
    Defined = "V02", "Every value that is read or listed as an output is defined.";
    Holds = "V03", "A constant holds elements in one form; what is computed or captured holds none.";
    ConstantType = "V04", "The declared type of a constant or default agrees with its elements.";
    Sizes = "V05", "Fixed sizes in types are not negative.";
    Sparse = "V06", "The indices of a sparse constant are int64, one a value, and inside its sizes.";
    OpName = "V07", "Every operator says which it is.";
    AttrNames = "V08", "The attributes of an operator have distinct, non-empty names.";
    Import = "V09", "The domain of every operator has an operator set in its scope.";
    Reference = "V10", "Attribute references stand in function bodies and name an attribute of the function.";
    GraphHeld = "V11", "Every graph in an attribute exists, and nothing else holds it.";
    Parent = "V12", "Every inner graph knows the operator that holds it; no other graph has a parent.";
    Capture = "V13", "Captured values and the records of them in the surrounding graph correspond one to one.";
    CaptureName = "V14", "A captured value has the name of what it stands for.";
    Shadowing = "V15", "No inner operator writes a name that is visible from a surrounding graph.";
    Nesting = "V16", "No graph is inside itself.";
    FunctionName = "V17", "Functions differ in domain, name or overload, and have a name.";
    FunctionBody = "V18", "Function bodies have no constants and no defaults.";
    Recursion = "V19", "No function calls itself, directly or not.";
    FunctionAttr = "V20", "The attributes of a function have distinct, non-empty names.";
    OpsetOnce = "V21", "A domain is imported once, in a positive version.";
}

/// One violated invariant.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{} {at}{}{what}", invariant.code(), if at.graph.is_some() { ": " } else { "" })]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// Where.
    pub at: Location,
    /// What is found there.
    pub what: String,
}

/// All violations of a model, at least one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct Invalid(pub Vec<Violation>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        for (at, violation) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{violation}", if at == 0 { "" } else { "\n" })?;
        }
        match self.0.len().checked_sub(SHOWN) {
            Some(more @ 1..) => write!(f, "\nand {more} more"),
            _ => Ok(()),
        }
    }
}

/// Checks every [`Invariant`]; graphs in the order of the table, so the same model gives the same list. Graphs that
/// nothing holds are not looked at: they go when the pass settles.
pub fn verify(model: &Model) -> Result<(), Invalid> {
    let mut found = Findings { model, nested: false, positions: HashMap::new(), violations: Vec::new() };
    functions::opsets(&mut found);
    functions::functions(&mut found);
    let held = scopes::nesting(&mut found);
    for id in held {
        graph::values(&mut found, id);
        graph::ops(&mut found, id);
        scopes::captures(&mut found, id);
        if found.nested {
            graph::imports(&mut found, id);
            scopes::names(&mut found, id);
        }
    }
    if found.violations.is_empty() { Ok(()) } else { Err(Invalid(found.violations)) }
}

/// What was found so far.
struct Findings<'m> {
    model: &'m Model,
    /// Every way from an inner graph outwards ends at the main graph or a function.
    nested: bool,
    /// The operators' positions in the schedule of a graph, by their index; none if it has a cycle.
    positions: HashMap<GraphId, Option<Vec<usize>>>,
    violations: Vec<Violation>,
}

impl Findings<'_> {
    /// A violation at no place in a graph.
    fn report(&mut self, invariant: Invariant, what: impl Into<String>) {
        self.violations.push(Violation { invariant, at: Location::default(), what: what.into() });
    }

    /// A violation in a graph.
    fn report_in(&mut self, id: GraphId, invariant: Invariant, at: Location, what: impl Into<String>) {
        let at = if self.nested { at.within(self.model, id) } else { at };
        self.violations.push(Violation { invariant, at, what: what.into() });
    }
}
