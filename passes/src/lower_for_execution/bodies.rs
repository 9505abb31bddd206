//! Graphs inside of operators, moved into the graph around them: calls of local functions, and loops whose number of
//! turns is known.
//!
//! ```text
//! y = local.F(x)                        =>   the body of F, its attributes filled in
//! y, ys = Loop({3}, , x) <body>         =>   the body three times, one after the other; ys by Unsqueeze and Concat
//! ```
//!
//! Declines functions of another operator set than the model's, and loops that may end early, whose number of turns is
//! computed, or that would grow beyond [`MOST_OPS`].

use ir::{AttrValue, DType, GraphId, Model, Op, OpId, OpKind, Place, Tensor, Type, ValueId};
use ops::eval::resolve_references;

use crate::driver::{Changes, Cx, Scope, inline_body, op_place};
use crate::numbers;

/// Operators that unrolling may make.
const MOST_OPS: usize = 200_000;

/// Inlines calls of local functions until none is left (functions may call others; they cannot call themselves).
pub(super) fn inline_functions(model: &mut Model, cx: &mut Cx, changes: &mut Changes) {
    // As deep as functions are many: a deeper chain of calls would be a circle.
    for _ in 0..=model.functions.len() {
        let mut found = false;
        for graph in caller_graphs(model) {
            for op in model.graph(graph).ops() {
                let kind = model.graph(graph).op(op).kind.clone();
                let Some(function) = model.function(kind.domain(), &kind.name, &kind.overload) else {
                    continue;
                };
                let body = function.graph;
                let at = op_place(model, graph, op);
                if let Some(why) = foreign(model, graph, body) {
                    cx.decline("function", why, at);
                    continue;
                }
                if !cx.spend("function", at.clone()) {
                    return;
                }
                match call(model, graph, op, body) {
                    Ok(()) => {
                        changes.count("function");
                        found = true;
                    }
                    Err(why) => cx.decline("function", why, at),
                }
            }
        }
        if !found {
            break;
        }
    }
    let called = |model: &Model, f: &ir::Function| {
        caller_graphs(model).into_iter().any(|graph| {
            let g = model.graph(graph);
            g.ops().into_iter().any(|op| {
                let kind = &g.op(op).kind;
                (kind.domain(), &*kind.name, &*kind.overload) == (&*f.domain, &*f.name, &*f.overload)
            })
        })
    };
    let kept: Vec<bool> = model.functions.iter().map(|function| called(model, function)).collect();
    let mut kept = kept.into_iter();
    model.functions.retain(|_| kept.next().unwrap_or(true));
    model.settle();
}

/// Graphs that belong to the model itself and not to a function.
fn caller_graphs(model: &Model) -> Vec<GraphId> {
    let mut ids = model.graph_ids();
    ids.retain(|&id| model.function_of(id).is_none());
    ids
}

/// Why a body means something else where it is called.
fn foreign(model: &Model, graph: GraphId, body: GraphId) -> Option<String> {
    let outer = model.opsets_of(graph);
    let used = |domain: &str| {
        let g = model.graph(body);
        g.ops().into_iter().any(|op| g.op(op).kind.domain() == domain)
    };
    let differs = |(domain, version): &&(String, i64)| {
        used(domain) && ir::version(outer, domain).is_some_and(|found| found != *version)
    };
    let (domain, version) = model.opsets_of(body).iter().find(differs)?;
    Some(format!("its body is of operator set {domain:?} {version}, the model of another"))
}

fn call(model: &mut Model, graph: GraphId, op: OpId, body: GraphId) -> Result<(), String> {
    let body = copy_graph(model, body);
    let function = &model.graph(graph).op(op).kind;
    let defaults = model
        .function(function.domain(), &function.name, &function.overload)
        .map(|function| function.defaults.clone())
        .unwrap_or_default();
    let mut attrs = model.graph(graph).op(op).attrs.clone();
    for attr in defaults.iter() {
        if attrs.get(&attr.name).is_none() {
            attrs.push(attr.clone());
        }
    }
    fill_in(model, body, &attrs);
    let mut inputs: Vec<Option<ValueId>> = model.graph(graph).op_inputs(op).to_vec();
    let formal = model.graph(body).inputs().to_vec();
    inputs.resize(formal.len().max(inputs.len()), None);
    if inputs.len() > formal.len() {
        return Err("it has more inputs than its function".into());
    }
    for (&inner, outer) in formal.iter().zip(&inputs) {
        if outer.is_none() {
            // What the caller leaves out is left out inside.
            let g = model.graph_mut(body);
            for used in g.uses(inner) {
                if let ir::Slot::In(slot) = used.slot {
                    g.set_input(used.op, slot as usize, None);
                }
            }
            g.remove_input(inner);
        }
    }
    inputs.retain(Option::is_some);
    inline_body(model, graph, op, body, &inputs, || Op::new("Identity"))
}

/// Puts the attributes of a call in the places that refer to them.
fn fill_in(model: &mut Model, graph: GraphId, attrs: &ir::Attrs) {
    for op in model.graph(graph).ops() {
        if let Some(resolved) = resolve_references(model.graph(graph).op(op), attrs) {
            *model.graph_mut(graph).op_mut(op) = resolved;
        }
        let held: Vec<GraphId> = model.graph(graph).op(op).attrs.graphs().collect();
        held.into_iter().for_each(|held| fill_in(model, held, attrs));
    }
}

/// A copy of a graph with the graphs inside it.
fn copy_graph(model: &mut Model, id: GraphId) -> GraphId {
    let copy = model.graph(id).clone();
    let new = model.add_graph(copy, None);
    for op in model.graph(new).ops() {
        let held: Vec<GraphId> = model.graph(new).op(op).attrs.graphs().collect();
        for old in held {
            let inner = copy_graph(model, old);
            model.set_parent(inner, Some((new, op)));
            let g = model.graph_mut(new);
            for (of, value, outer) in g.captures(op) {
                if of == old {
                    g.remove_capture(op, old, value);
                    g.add_capture(op, inner, value, outer);
                }
            }
            for attr in g.op_mut(op).attrs.iter_mut() {
                match &mut attr.value {
                    AttrValue::Graph(graph) if *graph == old => *graph = inner,
                    AttrValue::Graphs(graphs) => {
                        graphs.iter_mut().filter(|graph| **graph == old).for_each(|graph| *graph = inner)
                    }
                    _ => {}
                }
            }
        }
    }
    new
}

/// Unrolls loops; whether there were any.
pub(super) fn unroll_loops(model: &mut Model, cx: &mut Cx, changes: &mut Changes) -> bool {
    let mut any = false;
    let mut again = true;
    while again {
        again = false;
        for graph in model.graph_ids() {
            for op in model.graph(graph).ops() {
                if !model.graph(graph).is_live(op) || !model.graph(graph).op(op).kind.is("Loop") {
                    continue;
                }
                let at = op_place(model, graph, op);
                let turns = match turns(Scope { model, id: graph }, op) {
                    Ok(turns) => turns,
                    Err(why) => {
                        cx.decline("loop", why, at);
                        continue;
                    }
                };
                if !cx.spend("loop", at.clone()) {
                    return any;
                }
                match unroll(model, graph, op, turns) {
                    Ok(()) => {
                        changes.count("loop");
                        (any, again) = (true, true);
                    }
                    Err(why) => cx.decline("loop", why, at),
                }
            }
        }
        if again {
            model.settle();
        }
    }
    any
}

/// How often the loop turns, if it always turns as often.
fn turns(scope: Scope, op: OpId) -> Result<usize, String> {
    let g = scope.graph();
    let count =
        scope.constant_input(op, 0).and_then(numbers::int).ok_or("its number of turns is computed")?;
    let yes = |tensor: &Tensor| tensor.to_vec::<bool>().is_ok_and(|values| values.first() == Some(&true));
    if g.input(op, 1).is_some() && !scope.constant_input(op, 1).is_some_and(yes) {
        return Err("it may not start".into());
    }
    let body = Scope { model: scope.model, id: g.op(op).attrs.graph("body").ok_or("it has no body")? };
    let mut condition = *body.outputs().first().ok_or("its body gives no condition")?;
    let given = body.inputs().get(1).copied();
    while let Some(copy) = body.producer_is(condition, "Identity") {
        condition = body.input(copy, 0).ok_or("its condition is missing")?;
    }
    if Some(condition) != given && !body.constant(condition).is_some_and(yes) {
        return Err("it may end early".into());
    }
    let turns = usize::try_from(count).unwrap_or(0);
    let carried = g.op_inputs(op).len().saturating_sub(2);
    if body.inputs().len() != carried + 2 || body.outputs().len() < carried + 1 {
        return Err("its body has another form".into());
    }
    if turns == 0 && body.outputs().len() > carried + 1 {
        return Err("it gathers nothing".into());
    }
    match turns.checked_mul(body.op_count().max(1)) {
        Some(ops) if ops <= MOST_OPS => Ok(turns),
        _ => Err(format!("{turns} turns would make more than {MOST_OPS} operators")),
    }
}

fn unroll(model: &mut Model, graph: GraphId, op: OpId, turns: usize) -> Result<(), String> {
    let failed = |error: ir::GraphError| error.to_string();
    let g = model.graph(graph);
    let body = g.op(op).attrs.graph("body").ok_or("it has no body")?;
    let name = g.op(op).name.clone();
    let inputs = g.op_inputs(op).to_vec();
    let outputs = g.op_outputs(op).to_vec();
    let captures: Vec<_> = g.captures(op).into_iter().filter(|(of, ..)| *of == body).collect();
    let mut carried: Vec<Option<ValueId>> = inputs.get(2..).unwrap_or_default().to_vec();
    let results = model.graph(body).outputs().to_vec();
    let scans = results.len() - 1 - carried.len();
    let types: Vec<Option<Type>> =
        results.iter().map(|&value| model.graph(body).value(value).ty.clone()).collect();
    for at in 0..outputs.len() {
        model.graph_mut(graph).set_op_output(op, at, None).map_err(failed)?;
    }
    let condition = model.graph_mut(graph).new_constant(&format!("{name}_condition"), yes());
    let mut gathered: Vec<Vec<Option<ValueId>>> = vec![Vec::new(); scans];
    let mut calls = Vec::new();
    for turn in 0..turns {
        let copy = copy_graph(model, body);
        let g = model.graph_mut(graph);
        let number = g.new_constant(&format!("{name}_turn"), Tensor::scalar(turn as i64));
        let mut slots = vec![Some(number), Some(condition)];
        slots.append(&mut carried);
        let mut made = Vec::new();
        for (at, ty) in types.iter().enumerate().skip(1) {
            let last = outputs.get(at - 1).copied().flatten();
            // The last turn writes what the loop wrote; scans are gathered first.
            made.push(Some(match last.filter(|_| turn + 1 == turns && at - 1 < types.len() - 1 - scans) {
                Some(output) => output,
                None => g.new_value(&format!("{name}_{at}"), ty.clone()),
            }));
        }
        let writes: Vec<Option<ValueId>> = std::iter::once(None).chain(made.iter().copied()).collect();
        let kind = OpKind::new("onnxq", "Body");
        let call = Op::of(kind).named(&format!("{name}_{turn}")).with("body", AttrValue::Graph(copy));
        let call = g.add_op(call, &slots, &writes, Place::Near(op)).map_err(failed)?;
        for &(_, inner, outer) in &captures {
            g.add_capture(call, copy, inner, outer);
        }
        model.set_parent(copy, Some((graph, call)));
        for (scan, value) in gathered.iter_mut().zip(&made[made.len() - scans..]) {
            scan.push(*value);
        }
        carried = made[..made.len() - scans].to_vec();
        calls.push((call, copy));
    }
    gather(model, graph, op, &name, &outputs[outputs.len().min(results.len() - 1 - scans)..], &gathered)?;
    if turns == 0 {
        let g = model.graph_mut(graph);
        for (output, input) in outputs.iter().zip(&carried) {
            if let Some(output) = output {
                g.add_op(Op::new("Identity"), &[*input], &[Some(*output)], Place::Near(op))
                    .map_err(failed)?;
            }
        }
    }
    model.graph_mut(graph).remove_op(op);
    for (call, copy) in calls {
        let inputs = model.graph(graph).op_inputs(call).to_vec();
        inline_body(model, graph, call, copy, &inputs, || Op::new("Identity"))?;
    }
    Ok(())
}

fn yes() -> Tensor {
    Tensor::new(DType::Bool, &[][..], vec![1u8]).expect("one byte")
}

/// One value of every turn, stacked on a new first axis.
fn gather(
    model: &mut Model,
    graph: GraphId,
    near: OpId,
    name: &str,
    outputs: &[Option<ValueId>],
    gathered: &[Vec<Option<ValueId>>],
) -> Result<(), String> {
    let old = ir::version(model.opsets_of(graph), "").is_some_and(|version| version < 13);
    let g = model.graph_mut(graph);
    let failed = |error: ir::GraphError| error.to_string();
    for (output, turns) in outputs.iter().zip(gathered) {
        let Some(output) = output else { continue };
        let axes = (!old).then(|| g.new_constant(&format!("{name}_axes"), numbers::vector(&[0])));
        let mut rows = Vec::new();
        for &turn in turns {
            let row = g.new_value(&format!("{name}_row"), None);
            let op = Op::new("Unsqueeze");
            let (op, inputs) = match axes {
                Some(axes) => (op, vec![turn, Some(axes)]),
                None => (op.with("axes", vec![0i64]), vec![turn]),
            };
            g.add_op(op, &inputs, &[Some(row)], Place::Near(near)).map_err(failed)?;
            rows.push(Some(row));
        }
        let concat = Op::new("Concat").with("axis", 0i64);
        g.add_op(concat, &rows, &[Some(*output)], Place::Near(near)).map_err(failed)?;
    }
    Ok(())
}
