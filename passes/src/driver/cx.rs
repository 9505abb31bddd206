//! What a pass runs in: the counter of rewrites, the record of what was done and declined, and what the program hands in.

use ir::{GraphId, Location, Model, Op, Tensor};

use super::patch::{self, Patch, Touched};

/// Computes operators that the project itself cannot: handed in by the program, so that passes know no runtime.
pub trait Evaluator {
    /// The outputs of the operator for these inputs (none where omitted), under these operator sets.
    fn eval(
        &self,
        opsets: &[(String, i64)],
        op: &Op,
        inputs: &[Option<&Tensor>],
        outputs: usize,
    ) -> Result<Vec<Tensor>, String>;
}

/// One applied rewrite. Its number is its place in the list, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The pass.
    pub pass: &'static str,
    /// The rule of the pass.
    pub rule: &'static str,
    /// Where, before the rewrite.
    pub at: Location,
}

/// One rewrite that was looked at and not done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Declined {
    /// The pass.
    pub pass: &'static str,
    /// The rule of the pass.
    pub rule: &'static str,
    /// Where.
    pub at: Location,
    /// Why.
    pub why: String,
}

/// How many warnings are kept.
const MOST_WARNINGS: usize = 100;

/// Bytes of new weights after which the caller may give back what was read.
const RELIEF: usize = 4 << 20;

pub(super) enum Applied {
    Done(Touched),
    Refused(String),
    OutOfFuel,
}

/// The context of a pass.
#[derive(Default)]
pub struct Cx<'a> {
    pass: &'static str,
    fuel: Option<u64>,
    explain: bool,
    evaluator: Option<&'a dyn Evaluator>,
    relieve: Option<&'a dyn Fn()>,
    /// Bytes of constants that patches brought since `relieve` was called.
    rewritten: usize,
    /// Rewrites applied so far.
    applied: u64,
    /// They are not kept one by one.
    count_only: bool,
    rewrites: Vec<Rewrite>,
    declined: Vec<Declined>,
    warnings: Vec<Declined>,
}

impl<'a> Cx<'a> {
    /// A context without limits.
    pub fn new() -> Cx<'a> {
        Cx::default()
    }

    /// Stop after this many rewrites.
    pub fn with_fuel(mut self, fuel: Option<u64>) -> Cx<'a> {
        self.fuel = fuel;
        self
    }

    /// Count rewrites instead of keeping each of them.
    pub fn with_count_only(mut self, count_only: bool) -> Cx<'a> {
        self.count_only = count_only;
        self
    }

    /// Keep the reasons of rewrites that were declined.
    pub fn with_explain(mut self, explain: bool) -> Cx<'a> {
        self.explain = explain;
        self
    }

    /// Compute operators that the project itself cannot with this.
    pub fn with_evaluator(mut self, evaluator: Option<&'a dyn Evaluator>) -> Cx<'a> {
        self.evaluator = evaluator;
        self
    }

    /// Call this whenever rewrites have brought some more megabytes of weights.
    pub fn with_relief(mut self, relieve: Option<&'a dyn Fn()>) -> Cx<'a> {
        self.relieve = relieve;
        self
    }

    /// Counts bytes of new weights; what they were made of has been read and need not stay in memory.
    fn relieve(&mut self, bytes: usize) {
        self.rewritten = self.rewritten.saturating_add(bytes);
        if let Some(relieve) = self.relieve.filter(|_| self.rewritten >= RELIEF) {
            self.rewritten = 0;
            relieve();
        }
    }

    pub(super) fn begin(&mut self, pass: &'static str) {
        self.pass = pass;
        // Only the last attempt of a pass counts: an earlier reason may be gone.
        self.declined.retain(|declined| declined.pass != pass);
    }

    /// The program's evaluator, if it handed one in.
    pub fn evaluator(&self) -> Option<&'a dyn Evaluator> {
        self.evaluator
    }

    /// Reasons are wanted.
    pub fn explains(&self) -> bool {
        self.explain
    }

    /// No further rewrite may be applied.
    pub fn out_of_fuel(&self) -> bool {
        self.fuel.is_some_and(|fuel| self.applied >= fuel)
    }

    /// Notes a rewrite that was looked at and not done.
    pub fn decline(&mut self, rule: &'static str, why: impl Into<String>, at: Location) {
        if self.explain {
            self.declined.push(Declined { pass: self.pass, rule, at, why: why.into() });
        }
    }

    /// Notes that the model itself is not right: always kept, once for a place.
    pub fn warn(&mut self, rule: &'static str, why: impl Into<String>, at: Location) {
        let why = why.into();
        let value = |at: &Location| {
            (at.graph.clone(), at.value.clone().map_or_else(|| at.op.clone(), |value| Some((*value).into())))
        };
        let known = |old: &Declined| old.rule == rule && value(&old.at) == value(&at);
        // A model that is wrong everywhere need not say so everywhere.
        if self.warnings.len() < MOST_WARNINGS && !self.warnings.iter().any(known) {
            self.warnings.push(Declined { pass: self.pass, rule, at, why });
        }
    }

    /// Carries out a patch, if there is fuel, and numbers it. This is the only way in which passes edit a graph.
    pub(super) fn apply(
        &mut self,
        model: &mut Model,
        graph: GraphId,
        rule: &'static str,
        at: Location,
        patch: Patch,
    ) -> Applied {
        if self.out_of_fuel() {
            return Applied::OutOfFuel;
        }
        let bytes = patch.constant_bytes();
        match patch::apply(model, graph, patch) {
            Ok(touched) => {
                self.relieve(bytes);
                self.record(rule, at);
                Applied::Done(touched)
            }
            Err(why) => Applied::Refused(why),
        }
    }

    /// Carries out a patch of a pass that walks the graph itself. Returns whether it was applied.
    pub fn rewrite(
        &mut self,
        model: &mut Model,
        graph: GraphId,
        rule: &'static str,
        at: Location,
        patch: Patch,
    ) -> bool {
        match self.apply(model, graph, rule, at.clone(), patch) {
            Applied::Done(_) => true,
            Applied::Refused(why) => {
                self.decline(rule, why, at);
                false
            }
            Applied::OutOfFuel => false,
        }
    }

    /// Carries out several patches that only make sense together, as one numbered rewrite. A patch that is refused after
    /// the first has been carried out is an error: the caller must have looked.
    pub fn rewrite_all(
        &mut self,
        model: &mut Model,
        rule: &'static str,
        at: Location,
        patches: Vec<(GraphId, Patch)>,
    ) -> Result<bool, String> {
        if !self.spend(rule, at) {
            return Ok(false);
        }
        patches.into_iter().try_for_each(|(graph, patch)| patch::apply(model, graph, patch).map(drop))?;
        Ok(true)
    }

    /// Numbers a change that is not a patch (a whole graph moved, an opset raised) and says whether it may be made.
    pub fn spend(&mut self, rule: &'static str, at: Location) -> bool {
        let may = !self.out_of_fuel();
        if may {
            self.record(rule, at);
        }
        may
    }

    fn record(&mut self, rule: &'static str, at: Location) {
        self.applied += 1;
        if !self.count_only {
            self.rewrites.push(Rewrite { pass: self.pass, rule, at });
        }
    }

    /// What was applied, in order; what was declined and why; what is wrong with the model.
    pub(super) fn into_records(self) -> (Vec<Rewrite>, Vec<Declined>, Vec<Declined>) {
        (self.rewrites, self.declined, self.warnings)
    }
}
