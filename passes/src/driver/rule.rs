//! Local rewrites, and the worklist that tries them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use ir::{GraphId, Location, Model, OpId};
use ops::OpName;

use super::cx::{Applied, Cx};
use super::pass::{Changes, PassError, op_place, schedule};
use super::patch::{Patch, neighbours};
use super::scope::Scope;

/// A local rewrite: looks, proposes, does not touch.
pub trait Rule {
    /// Name in reports.
    fn name(&self) -> &'static str;

    /// The operators at which the rewrite may start.
    fn roots(&self) -> &'static [OpName];

    /// Proposes a change around the operator, or says why not.
    fn propose(&self, scope: Scope<'_>, at: OpId) -> Result<Patch, Skip>;
}

/// Why a rule does not change anything at an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The pattern is not there: nothing to report.
    NoMatch,
    /// The pattern is there and the change would change nothing.
    NoEffect,
    /// The pattern is there and something stands in the way.
    Because {
        /// What stands in the way.
        why: String,
        /// Where.
        at: Box<Location>,
    },
}

/// Lets `?` leave a rule where an operand is missing.
pub trait OrNoMatch<T> {
    /// The value, or [`Skip::NoMatch`].
    fn or_no_match(self) -> Result<T, Skip>;
}

impl<T> OrNoMatch<T> for Option<T> {
    fn or_no_match(self) -> Result<T, Skip> {
        self.ok_or(Skip::NoMatch)
    }
}

/// [`Skip::NoMatch`] unless the condition holds.
pub fn matches(condition: bool) -> Result<(), Skip> {
    if condition { Ok(()) } else { Err(Skip::NoMatch) }
}

/// Tries the rules on every operator of every graph until none of them applies any more.
///
/// Operators are visited in schedule order; after a patch its surroundings are visited again. Each applied patch costs
/// the size of its surroundings, so the whole is near-linear as long as rules shrink the graph or reach a normal form;
/// a budget of patches per operator stops rules that undo each other.
pub fn apply_rules(
    pass: &'static str,
    rules: &[&dyn Rule],
    model: &mut Model,
    cx: &mut Cx,
) -> Result<Changes, PassError> {
    let mut by_root: HashMap<(&'static str, &'static str), Vec<usize>> = HashMap::new();
    for (at, rule) in rules.iter().enumerate() {
        rule.roots().iter().for_each(|root| by_root.entry((root.domain, root.name)).or_default().push(at));
    }
    let mut changes = Changes::default();
    for graph in model.graph_ids() {
        let schedule = schedule(pass, model, graph)?;
        Worklist::new(graph, schedule).run(rules, &by_root, model, cx, &mut changes);
    }
    model.settle();
    Ok(changes)
}

struct Worklist {
    graph: GraphId,
    queue: VecDeque<OpId>,
    queued: Vec<bool>,
    /// Patches left before the rules count as undoing each other.
    left: usize,
    declined: BTreeMap<(OpId, usize), (String, Location)>,
}

impl Worklist {
    fn new(graph: GraphId, schedule: Vec<OpId>) -> Worklist {
        let left = 1000 + 16 * schedule.len();
        let mut list =
            Worklist { graph, queue: VecDeque::new(), queued: Vec::new(), left, declined: BTreeMap::new() };
        schedule.into_iter().for_each(|op| list.push(op));
        list
    }

    fn push(&mut self, op: OpId) {
        if op.index() >= self.queued.len() {
            self.queued.resize(op.index() + 64, false);
        }
        if !std::mem::replace(&mut self.queued[op.index()], true) {
            self.queue.push_back(op);
        }
    }

    fn run(
        mut self,
        rules: &[&dyn Rule],
        by_root: &HashMap<(&'static str, &'static str), Vec<usize>>,
        model: &mut Model,
        cx: &mut Cx,
        changes: &mut Changes,
    ) {
        while let Some(op) = self.queue.pop_front() {
            self.queued[op.index()] = false;
            if !model.graph(self.graph).is_live(op) {
                continue;
            }
            let kind = model.graph(self.graph).op(op).kind.clone();
            let Some(candidates) = by_root.get(&kind.key()) else { continue };
            for &at in candidates {
                if self.left == 0 || !model.graph(self.graph).is_live(op) {
                    break;
                }
                self.attempt(rules[at], at, op, model, cx, changes);
            }
        }
        for ((op, at), (why, place)) in self.declined {
            if model.graph(self.graph).is_live(op) {
                cx.decline(rules[at].name(), why, place);
            }
        }
    }

    fn attempt(
        &mut self,
        rule: &dyn Rule,
        at: usize,
        op: OpId,
        model: &mut Model,
        cx: &mut Cx,
        changes: &mut Changes,
    ) {
        // A rule may have turned the operator into another kind in the meantime.
        let kind = &model.graph(self.graph).op(op).kind;
        if !rule.roots().iter().any(|root| (root.domain, root.name) == kind.key()) {
            return;
        }
        let patch = match rule.propose(Scope { model, id: self.graph }, op) {
            Ok(patch) if patch.is_empty() => return,
            Ok(patch) => patch,
            Err(Skip::Because { why, at: place }) => {
                if cx.explains() {
                    self.declined.insert((op, at), (why, *place));
                }
                return;
            }
            Err(_) => return,
        };
        let place = op_place(model, self.graph, op);
        match cx.apply(model, self.graph, rule.name(), place.clone(), patch) {
            Applied::Done(touched) => {
                self.left -= 1;
                self.declined.remove(&(op, at));
                changes.count(rule.name());
                neighbours(model.graph(self.graph), &touched).into_iter().for_each(|op| self.push(op));
            }
            Applied::Refused(why) => {
                self.declined.insert((op, at), (why, place));
            }
            Applied::OutOfFuel => self.left = 0,
        }
    }
}
