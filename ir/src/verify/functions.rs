//! Checks of the model as a whole: V17 to V21.

use std::collections::{HashMap, HashSet};

use super::{Findings, Invariant};
use crate::op::canonical_domain;
use crate::{Function, GraphId, Location, Model};

pub(super) fn opsets(found: &mut Findings<'_>) {
    let model = found.model;
    let of_functions = model.functions.iter().map(|f| (format!("the function {:?}", f.name), &f.opsets));
    let lists: Vec<_> =
        std::iter::once(("the model".to_string(), &model.opsets)).chain(of_functions).collect();
    for (whose, opsets) in lists {
        let mut domains = HashSet::new();
        for (domain, version) in opsets {
            if !domains.insert(canonical_domain(domain)) {
                found.report(Invariant::OpsetOnce, format!("{whose} imports the domain {domain:?} twice"));
            } else if *version < 1 {
                let what = format!("{whose} imports version {version} of the domain {domain:?}");
                found.report(Invariant::OpsetOnce, what);
            }
        }
    }
}

type Key<'m> = (&'m str, &'m str, &'m str);

fn key(function: &Function) -> Key<'_> {
    (canonical_domain(&function.domain), &function.name, &function.overload)
}

pub(super) fn functions(found: &mut Findings<'_>) {
    let model = found.model;
    let mut by_key: HashMap<Key<'_>, usize> = HashMap::new();
    for (at, function) in model.functions.iter().enumerate() {
        let name = &function.name;
        if name.is_empty() {
            found.report(Invariant::FunctionName, "a function has no name");
        } else if by_key.insert(key(function), at).is_some() {
            let what = format!("two functions are called {:?}", key(function));
            found.report(Invariant::FunctionName, what);
        }
        let mut attrs = HashSet::new();
        let defaults = function.defaults.iter().map(|attr| &*attr.name);
        for attr in function.attrs.iter().map(String::as_str).chain(defaults) {
            if attr.is_empty() || !attrs.insert(attr) {
                let what =
                    format!("the function {name:?} has the attribute {attr:?} twice or without a name");
                found.report(Invariant::FunctionAttr, what);
            }
        }
        if !model.has_graph(function.graph) {
            continue;
        }
        let body = model.graph(function.graph);
        for value in body.values().filter(|&value| body.value(value).has_data()) {
            found.report_in(
                function.graph,
                Invariant::FunctionBody,
                Location::value(body, value),
                "a constant in a function body",
            );
        }
    }
    recursion(found, &by_key);
}

/// Each function is visited once; meeting one that is still open closes a circle.
fn recursion(found: &mut Findings<'_>, by_key: &HashMap<Key<'_>, usize>) {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let model = found.model;
    let calls: Vec<Vec<usize>> = model.functions.iter().map(|f| calls(model, f.graph, by_key)).collect();
    let mut state = vec![State::New; calls.len()];
    for start in 0..calls.len() {
        // The stack holds a function and how many of its calls are followed already.
        let mut stack = vec![(start, 0)];
        while let Some((at, next)) = stack.pop() {
            if next == 0 {
                if state[at] == State::Done {
                    continue;
                }
                state[at] = State::Open;
            }
            match calls[at].get(next) {
                None => state[at] = State::Done,
                Some(&callee) => {
                    stack.push((at, next + 1));
                    match state[callee] {
                        State::New => stack.push((callee, 0)),
                        State::Open => {
                            let what = format!(
                                "the functions {:?} and {:?} call each other in a circle",
                                model.functions[at].name, model.functions[callee].name
                            );
                            found.report(Invariant::Recursion, what);
                        }
                        State::Done => {}
                    }
                }
            }
        }
    }
}

/// The functions that a body calls, the graphs inside it included.
fn calls(model: &Model, body: GraphId, by_key: &HashMap<Key<'_>, usize>) -> Vec<usize> {
    let (mut called, mut seen, mut todo) = (Vec::new(), HashSet::new(), vec![body]);
    while let Some(id) = todo.pop() {
        if !model.has_graph(id) || !seen.insert(id) {
            continue;
        }
        let graph = model.graph(id);
        for op in graph.ops() {
            let op = graph.op(op);
            called.extend(by_key.get(&(op.kind.domain(), &*op.kind.name, &*op.kind.overload)));
            todo.extend(op.attrs.graphs());
        }
    }
    called.sort_unstable();
    called.dedup();
    called
}
