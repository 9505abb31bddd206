//! Moves the operators of a body graph into the graph around it.

use std::collections::HashMap;
use std::sync::Arc;

use ir::{GraphId, Model, Op, OpId, Place, Role, ValueId};

/// Puts a copy of `body` in the place of `op` in `graph`: `inputs` are the outer values of the body's inputs, the
/// outputs of the body become the outputs of the operator, which is removed. The body must not be read again.
///
/// Values get names that no graph of the model has; an output of the body that the body does not compute itself (an
/// input, a constant, a captured value) is passed on by an operator made by `copy`.
pub fn inline_body(
    model: &mut Model,
    graph: GraphId,
    op: OpId,
    body: GraphId,
    inputs: &[Option<ValueId>],
    copy: impl Fn() -> Op,
) -> Result<(), String> {
    let error = |error: ir::GraphError| error.to_string();
    let schedule = model.graph(body).schedule().map_err(error)?;
    let taken = Arc::<str>::from(model.graph(graph).op(op).name.as_str());
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for (&inner, &outer) in model.graph(body).inputs().iter().zip(inputs) {
        map.insert(inner, outer.ok_or("an input of the body is not given")?);
    }
    for (of, inner, outer) in model.graph(graph).captures(op) {
        if of == body {
            map.insert(inner, outer);
        }
    }
    for value in model.graph(body).values().collect::<Vec<_>>() {
        if map.contains_key(&value) {
            continue;
        }
        let held = model.graph(body).value(value).clone();
        if held.sparse.is_some() || held.role() == Role::Captured {
            return Err(format!("{:?} cannot be moved", held.name()));
        }
        // The body goes away, so its own names are free.
        let name = fresh_beside(model, graph, Some(body), held.name());
        let g = model.graph_mut(graph);
        let new = match held.data {
            Some(data) => g.add_initializer(&name, data),
            None => g.add_computed(&name, held.ty.clone()),
        };
        map.insert(value, new.map_err(error)?);
    }
    for inner in schedule {
        move_op(model, graph, op, body, inner, &map, &taken).map_err(error)?;
    }
    let results = model.graph(body).outputs().to_vec();
    let outputs = model.graph(graph).op_outputs(op);
    for (at, (result, output)) in results.into_iter().zip(outputs).enumerate() {
        let (Some(output), Some(&new)) = (output, map.get(&result)) else { continue };
        let g = model.graph_mut(graph);
        g.set_op_output(op, at, None).map_err(error)?;
        // A computed result takes the place of the operator's output; anything else is passed on.
        if g.value(new).role() == Role::Computed
            && g.producer(new).is_some()
            && !g.is_output(new)
            && g.redirect(output, new)
        {
            g.remove_value(output);
        } else {
            let name = g.value(output).name().to_string();
            g.add_op(copy().named(&name), &[Some(new)], &[Some(output)], Place::Near(op)).map_err(error)?;
        }
    }
    model.graph_mut(graph).remove_op(op);
    Ok(())
}

/// A name that no graph of the model has.
pub fn fresh_name(model: &mut Model, graph: GraphId, hint: &str) -> Arc<str> {
    fresh_beside(model, graph, None, hint)
}

fn fresh_beside(model: &mut Model, graph: GraphId, ignored: Option<GraphId>, hint: &str) -> Arc<str> {
    let mut ids = model.graph_ids();
    // Graphs inside of the ignored one never shadowed its names, and only know them as captured.
    ids.retain(|&id| id != graph && !ignored.is_some_and(|ignored| is_inside(model, id, ignored)));
    let mut hint = hint.to_string();
    loop {
        let name = model.graph_mut(graph).fresh_name(&hint);
        if !ids.iter().any(|&id| model.graph(id).find(&name).is_some()) {
            return name;
        }
        // Taken in another graph: count on from a longer name.
        hint = format!("{name}_1");
    }
}

fn is_inside(model: &Model, graph: GraphId, outer: GraphId) -> bool {
    let mut id = graph;
    while id != outer {
        match model.graph(id).parent() {
            Some((parent, _)) => id = parent,
            None => return false,
        }
    }
    true
}

fn move_op(
    model: &mut Model,
    graph: GraphId,
    near: OpId,
    body: GraphId,
    inner: OpId,
    map: &HashMap<ValueId, ValueId>,
    prefix: &str,
) -> Result<(), ir::GraphError> {
    let g = model.graph(body);
    let mut op = g.op(inner).clone();
    if !prefix.is_empty() && !op.name.is_empty() {
        op.name = format!("{prefix}/{}", op.name);
    }
    let slots = |values: ir::Slots| -> Vec<Option<ValueId>> {
        values.into_iter().map(|slot| slot.and_then(|value| map.get(&value).copied())).collect()
    };
    let (inputs, outputs) = (slots(g.op_inputs(inner)), slots(g.op_outputs(inner)));
    let captures = g.captures(inner);
    let held: Vec<GraphId> = op.attrs.graphs().collect();
    let new = model.graph_mut(graph).add_op(op, &inputs, &outputs, Place::Near(near))?;
    for (of, value, outer) in captures {
        if let Some(&outer) = map.get(&outer) {
            model.graph_mut(graph).add_capture(new, of, value, outer);
        }
    }
    for held in held {
        model.set_parent(held, Some((graph, new)));
    }
    Ok(())
}
