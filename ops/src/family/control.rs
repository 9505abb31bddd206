//! Control flow: If, Loop, Scan. Their bodies are graphs of the model; values that a body captures come by themselves.
//!
//! If: what both branches agree on is known. Loop and Scan: a state keeps a type and shape only as far as the body gives
//! back what it was given, found by repeating the inference of the body. Scan of opset 8, with a leading batch axis, has
//! types and no evaluation here other than its own rule below.

use ir::{DType, Dim, GraphId, Rare, Tensor, TypeKind};

use super::concat::section;
use crate::error::Result;
use crate::eval::{EvalCx, Outputs};
use crate::infer::{InferCx, Inside, Known, shape};
use crate::kernel::movement;
use crate::rule::{OpRule, Table};
use crate::sym;
use crate::value::Value;

// ---- If --------------------------------------------------------------------------------------------------------

fn if_infer(cx: &mut InferCx) -> Result<()> {
    cx.need(0)?;
    let (yes, no) = (cx.attrs().need_graph("then_branch")?, cx.attrs().need_graph("else_branch")?);
    let condition = cx.ints(0).and_then(|condition| condition.first().copied());
    if let Some(condition) = condition {
        let (taken, other) = if condition != 0 { (yes, no) } else { (no, yes) };
        cx.infer_unreached(other);
        let known = cx.infer_graph(taken, Vec::new())?;
        known.into_iter().enumerate().for_each(|(at, known)| cx.set_known(at, known));
        return Ok(());
    }
    let (yes, no) = (cx.infer_graph(yes, Vec::new())?, cx.infer_graph(no, Vec::new())?);
    if yes.len() != no.len() {
        return Err(cx.invalid(format!("its branches have {} and {} outputs", yes.len(), no.len())));
    }
    for (at, (yes, no)) in yes.into_iter().zip(no).enumerate() {
        cx.set_known(at, join(&yes, &no));
    }
    Ok(())
}

/// What holds whichever of two is the value.
fn join(a: &Known, b: &Known) -> Known {
    let ty = a.ty.as_ref().zip(b.ty.as_ref()).and_then(|(a, b)| shape::join(a, b));
    let constant = a.constant.clone().filter(|_| a.constant == b.constant);
    let (left, right) = (&*a.inside, &*b.inside);
    let elements = left.elements.clone().filter(|_| constant.is_none() && left.elements == right.elements);
    let items = left.items.clone().filter(|_| left.items == right.items);
    Known { ty, constant, inside: Rare::new(Inside { elements, items }) }
}

fn if_eval(cx: &EvalCx) -> Result<Outputs> {
    let condition = cx.vec::<bool>(0)?.first().copied().ok_or_else(|| cx.wrong_input(0, "one bool"))?;
    cx.run(cx.attrs().need_graph(if condition { "then_branch" } else { "else_branch" })?, Vec::new())
}

// ---- Loop ------------------------------------------------------------------------------------------------------

/// Infers a body until what is known about its states does not change from one round to the next. `inputs` builds the
/// body's inputs from the states, `states` finds the states among its outputs. Each round only forgets, so a few rounds
/// reach the end; after the last one nothing but element types is kept.
fn settle(
    cx: &mut InferCx,
    body: GraphId,
    mut states: Vec<Known>,
    inputs: impl Fn(&[Known]) -> Vec<Known>,
    skip: usize,
) -> Result<(Vec<Known>, Vec<Known>)> {
    const ROUNDS: usize = 6;
    for round in 0.. {
        let outputs = cx.infer_graph(body, inputs(&states))?;
        let next: Vec<Known> = states
            .iter()
            .enumerate()
            .map(|(at, before)| match outputs.get(at + skip) {
                None => Known::default(),
                Some(after) => match (&before.ty, &after.ty) {
                    // The body gives what the state is declared to be, where the caller does not know.
                    (None, _) if round == 0 => {
                        Known { ty: after.ty.clone().map(forget_sizes), ..Known::default() }
                    }
                    (Some(_), None) => Known::default(),
                    _ => join(before, after),
                },
            })
            .collect();
        if next == states || round > ROUNDS {
            return Ok((states, outputs));
        }
        states = match round < ROUNDS {
            true => next,
            false => next
                .into_iter()
                .map(|known| Known { ty: known.ty.map(forget_shape), ..Known::default() })
                .collect(),
        };
    }
    Ok((states, Vec::new()))
}

fn forget_sizes(ty: ir::Type) -> ir::Type {
    match ty.shape().map(ir::Shape::rank).zip(ty.dtype()) {
        Some((rank, dtype)) => InferCx::tensor_type(dtype, vec![Dim::Unknown; rank]),
        None => ty,
    }
}

fn forget_shape(ty: ir::Type) -> ir::Type {
    match (&ty.kind, ty.dtype()) {
        (TypeKind::Tensor(_), Some(dtype)) => ir::Type::tensor(dtype, None),
        _ => ty,
    }
}

/// Sizes that were named inside the body mean another size in each round.
fn leaves_body(dims: &[Dim], known_outside: &dyn Fn(&Dim) -> bool) -> Vec<Dim> {
    dims.iter().map(|dim| if known_outside(dim) { dim.clone() } else { Dim::Unknown }).collect()
}

/// A value that a body puts out in each round, stacked along a new first axis.
fn stacked(cx: &InferCx, known: Option<&Known>, count: Dim) -> Known {
    let Some(known) = known else { return Known::default() };
    // Symbols made inside the body begin with the names of its values; only numbers and sizes of inputs go out.
    let outside: Vec<&Dim> = (0..cx.input_count()).filter_map(|at| cx.dims(at)).flatten().collect();
    let stays = |dim: &Dim| !matches!(dim, Dim::Symbol(_)) || outside.contains(&dim);
    let dims = known.dims().map(|dims| {
        let mut all = vec![count];
        all.extend(leaves_body(dims, &stays));
        all
    });
    Known::tensor(known.dtype(), dims)
}

fn loop_infer(cx: &mut InferCx) -> Result<()> {
    let body = cx.attrs().need_graph("body")?;
    let states: Vec<Known> =
        (2..cx.input_count()).map(|at| cx.input(at).cloned().unwrap_or_default()).collect();
    let count = states.len();
    // Bodies take the two counters as scalars or as vectors of one element.
    let one = |at: usize| vec![Dim::Known(1); counter_rank(cx.declared_input(body, at))];
    let iteration = Known::tensor(Some(DType::I64), Some(one(0)));
    // The body runs only while the condition holds.
    let mut condition = Known::tensor(Some(DType::Bool), Some(one(1)));
    condition.inside.elements = Some(vec![Dim::Known(1)]);
    let inputs = |states: &[Known]| [&[iteration.clone(), condition.clone()], states].concat();
    let initial = states.clone();
    let (states, outputs) = settle(cx, body, states, inputs, 1)?;
    if outputs.len() < count + 1 {
        return Err(cx.invalid(format!("its body has {} outputs for {count} states", outputs.len())));
    }
    for (at, known) in states.into_iter().enumerate() {
        // A loop may run no round at all.
        let known = join(&known, initial.get(at).unwrap_or(&Known::default()));
        cx.set_known(at, known);
    }
    for (at, known) in outputs.iter().enumerate().skip(count + 1) {
        let rounds = trip_count(cx, &outputs[0]);
        cx.set_known(at - 1, stacked(cx, Some(known), rounds));
    }
    Ok(())
}

/// How a body takes a counter: rank 1 where it says so.
fn counter_rank(declared: Option<ir::Type>) -> usize {
    declared.and_then(|ty| ty.shape().map(ir::Shape::rank)).map_or(0, |rank| rank.min(1))
}

/// The number of rounds, where the condition never ends the loop early.
fn trip_count(cx: &InferCx, condition: &Known) -> Dim {
    let always = |ints: Option<Vec<i64>>| ints.is_some_and(|all| all.first().is_some_and(|v| *v != 0));
    let starts = !cx.has(1) || always(cx.ints(1));
    if !starts || !always(condition.ints()) {
        return Dim::Unknown;
    }
    match cx.contents(0).and_then(|count| count.first().cloned()) {
        Some(count) => sym::max(&count, &Dim::Known(0)),
        None => Dim::Unknown,
    }
}

fn loop_eval(cx: &EvalCx) -> Result<Outputs> {
    let body = cx.attrs().need_graph("body")?;
    let trips = match cx.opt_ints(0)? {
        Some(trips) => trips.first().copied().ok_or_else(|| cx.wrong_input(0, "one count"))?,
        None => i64::MAX,
    };
    let mut go = match cx.has(1) {
        true => cx.vec::<bool>(1)?.first().copied().ok_or_else(|| cx.wrong_input(1, "one bool"))?,
        false => true,
    };
    let mut states: Vec<Value> =
        (2..cx.input_count()).map(|at| cx.value(at).cloned()).collect::<Result<_>>()?;
    let count = states.len();
    let mut scans: Vec<Vec<Tensor>> = vec![Vec::new(); cx.wanted().saturating_sub(count)];
    let mut held = 0usize;
    let ranks = [0, 1].map(|at| counter_rank(cx.declared_input(body, at)));
    let mut round = 0i64;
    while go && round < trips {
        let counters = [Tensor::scalar(round), Tensor::scalar(go)].into_iter().zip(&ranks);
        let counters =
            counters.map(|(counter, &rank)| counter.reshaped(vec![1; rank].as_slice()).map(Value::Tensor));
        let mut inputs = counters
            .collect::<std::result::Result<Vec<Value>, _>>()
            .map_err(|error| cx.tensor_error(error))?;
        inputs.append(&mut states);
        let mut outputs = cx.run(body, inputs)?.into_iter();
        go = match outputs.next() {
            Some(Value::Tensor(condition)) => {
                condition.to_vec::<bool>().ok().and_then(|all| all.first().copied())
            }
            _ => None,
        }
        .ok_or_else(|| cx.invalid("its body gives no condition"))?;
        states = outputs.by_ref().take(count).collect();
        if states.len() != count {
            return Err(cx.invalid("its body gives too few states"));
        }
        for (scan, value) in scans.iter_mut().zip(outputs) {
            held = held.saturating_add(value.bytes());
            match value {
                Value::Tensor(tensor) => scan.push(tensor),
                _ => return Err(cx.invalid("its body stacks something other than tensors")),
            }
        }
        cx.hold(held)?;
        round += 1;
    }
    for (at, scan) in scans.iter().enumerate() {
        states.push(Value::Tensor(stack(cx, body, at + count + 1, scan)?));
    }
    Ok(states)
}

/// Tensors of one shape along a new first axis. Of none, the type is the one that the body declares.
fn stack(cx: &EvalCx, body: GraphId, output: usize, parts: &[Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        let (dtype, dims) =
            cx.declared_output(body, output).ok_or_else(|| cx.unsupported("an untyped stack of nothing"))?;
        let mut sizes = vec![0usize];
        sizes.extend(dims.iter().map(|dim| dim.known().unwrap_or(0)));
        return Tensor::new(dtype, sizes.as_slice(), Vec::new()).map_err(|error| cx.tensor_error(error));
    };
    if let Some(other) =
        parts.iter().find(|part| part.dims() != first.dims() || part.dtype() != first.dtype())
    {
        return Err(cx.invalid(format!("it stacks {:?} on {:?}", other.dims(), first.dims())));
    }
    let dims = [&[parts.len()], first.dims()].concat();
    cx.reserve(first.dtype(), &dims)?;
    let size = first.elements();
    let all: Vec<&Tensor> = parts.iter().collect();
    let picks = (0..parts.len()).flat_map(|part| (0..size).map(move |at| (part, at)));
    movement::pick(&all, &dims, picks).map_err(|error| cx.tensor_error(error))
}

// ---- Scan ------------------------------------------------------------------------------------------------------

/// How many states, scanned inputs and scanned outputs; along which axes and in which direction.
struct ScanPlan {
    body: GraphId,
    /// Index of the first state among the inputs: opset 8 has the sequence lengths before it.
    first: usize,
    states: usize,
    scanned: usize,
    input_axes: Vec<i64>,
    output_axes: Vec<i64>,
    input_backwards: Vec<bool>,
    output_backwards: Vec<bool>,
}

fn scan_plan(
    attrs: crate::attrs::Attributes<'_>,
    opset: i64,
    inputs: usize,
    outputs: usize,
    invalid: &dyn Fn(&str) -> crate::OpError,
) -> Result<ScanPlan> {
    let first = usize::from(opset < 9);
    let scanned = usize::try_from(attrs.need_int("num_scan_inputs")?)
        .map_err(|_| invalid("negative num_scan_inputs"))?;
    let states = inputs.checked_sub(first).and_then(|rest| rest.checked_sub(scanned));
    let states = states.filter(|_| scanned > 0).ok_or_else(|| invalid("too few inputs"))?;
    let stacks = outputs.saturating_sub(states);
    let axes = |name: &str, count: usize| -> Result<Vec<i64>> {
        let given = attrs.opt_ints(name)?.map_or_else(|| vec![0; count], <[_]>::to_vec);
        if given.len() >= count { Ok(given) } else { Err(invalid(&format!("{name} is too short"))) }
    };
    let backwards = |name: &str, count: usize| -> Result<Vec<bool>> {
        Ok(axes(name, count)?.into_iter().map(|direction| direction != 0).collect())
    };
    let (input_directions, output_directions) = match opset < 9 {
        true => ("directions", "scan_output_directions"),
        false => ("scan_input_directions", "scan_output_directions"),
    };
    Ok(ScanPlan {
        body: attrs.need_graph("body")?,
        first,
        states,
        scanned,
        input_axes: axes("scan_input_axes", scanned)?,
        output_axes: axes("scan_output_axes", stacks)?,
        input_backwards: backwards(input_directions, scanned)?,
        output_backwards: backwards(output_directions, stacks)?,
    })
}

fn scan_infer(cx: &mut InferCx) -> Result<()> {
    let (inputs, outputs) = (cx.input_count(), cx.output_count());
    let plan = scan_plan(cx.attrs(), cx.opset(), inputs, outputs, &|why| cx.invalid(why))?;
    // Opset 8 runs the body once for each entry of a batch: axis 0 of everything.
    let batch = usize::from(cx.opset() < 9);
    let inner = |known: Option<&Known>, axis: i64| -> Result<(Known, Dim)> {
        let Some((known, dims)) = known.and_then(|known| Some((known, known.dims()?))) else {
            return Ok((Known::tensor(known.and_then(Known::dtype), None), Dim::Unknown));
        };
        let axis = cx.axis(axis, dims.len().saturating_sub(batch))? + batch;
        let mut rest = dims.to_vec();
        let length = rest.remove(axis);
        Ok((Known::tensor(known.dtype(), rest.get(batch..).map(<[_]>::to_vec)), length))
    };
    let mut elements = Vec::new();
    let mut length = Dim::Unknown;
    for at in 0..plan.scanned {
        let (element, size) = inner(cx.input(plan.first + plan.states + at), plan.input_axes[at])?;
        length = shape::merge_dim(&length, &size)
            .ok_or_else(|| cx.invalid("the scanned inputs differ in length"))?;
        elements.push(element);
    }
    let unbatched = |known: Known| match (batch, known.dims().map(<[_]>::to_vec)) {
        (0, _) => known,
        (_, dims) => Known::tensor(known.dtype(), dims.and_then(|dims| dims.get(1..).map(<[_]>::to_vec))),
    };
    let states: Vec<Known> = (0..plan.states)
        .map(|at| unbatched(cx.input(plan.first + at).cloned().unwrap_or_default()))
        .collect();
    let batch_size =
        (plan.first..inputs).find_map(|at| cx.dims(at)?.first().cloned()).unwrap_or(Dim::Unknown);
    let (states, outputs) = settle(cx, plan.body, states, |states| [states, &elements].concat(), 0)?;
    let batched = |known: Known| match (batch, known.dims().map(<[_]>::to_vec)) {
        (0, _) => known,
        (_, dims) => Known::tensor(
            known.dtype(),
            dims.map(|dims| [std::slice::from_ref(&batch_size), dims.as_slice()].concat()),
        ),
    };
    let count = states.len();
    for (at, known) in states.into_iter().enumerate() {
        cx.set_known(at, batched(known));
    }
    for at in count..cx.output_count() {
        let known = stacked(cx, outputs.get(at), length.clone());
        let mut dims = known.dims().map(<[_]>::to_vec);
        if let Some(dims) = &mut dims
            && !dims.is_empty()
        {
            let axis = cx.axis(plan.output_axes[at - count], dims.len())?;
            let first = dims.remove(0);
            dims.insert(axis, first);
        }
        cx.set_known(at, batched(Known::tensor(known.dtype(), dims)));
    }
    Ok(())
}

fn scan_eval(cx: &EvalCx) -> Result<Outputs> {
    let plan = scan_plan(cx.attrs(), cx.opset(), cx.input_count(), cx.wanted(), &|why| cx.invalid(why))?;
    let inputs: Vec<Tensor> =
        (plan.first..cx.input_count()).map(|at| cx.tensor(at).cloned()).collect::<Result<_>>()?;
    if cx.opset() >= 9 {
        let (outputs, _) = scan_once(cx, &plan, &inputs)?;
        return Ok(outputs.into_iter().map(Value::Tensor).collect());
    }
    if cx.has(0) {
        return Err(cx.unsupported("sequence lengths"));
    }
    // Opset 8: the same for each entry of the batch, stacked again.
    let batch = inputs.first().and_then(|input| input.dims().first().copied()).unwrap_or(0);
    let mut results: Vec<Vec<Tensor>> = vec![Vec::new(); cx.wanted()];
    for entry in 0..batch {
        let mut parts = Vec::new();
        for input in &inputs {
            if input.dims().first() != Some(&batch) {
                return Err(cx.invalid("its inputs differ in batch size"));
            }
            let part = section(cx, input, 0, entry, 1)?;
            parts.push(part.reshaped(&part.dims()[1..]).map_err(|error| cx.tensor_error(error))?);
        }
        let (outputs, _) = scan_once(cx, &plan, &parts)?;
        results.iter_mut().zip(outputs).for_each(|(all, output)| all.push(output));
    }
    let stacked =
        results.iter().enumerate().map(|(at, parts)| stack(cx, plan.body, at, parts).map(Value::Tensor));
    stacked.collect()
}

/// Runs the body along the scanned inputs. Gives states and stacked outputs, and the number of rounds.
fn scan_once(cx: &EvalCx, plan: &ScanPlan, inputs: &[Tensor]) -> Result<(Vec<Tensor>, usize)> {
    let (states, scanned) = inputs.split_at(plan.states.min(inputs.len()));
    let mut states: Vec<Tensor> = states.to_vec();
    let mut axes = Vec::new();
    for (tensor, &axis) in scanned.iter().zip(&plan.input_axes) {
        axes.push(cx.axis(axis, tensor.rank())?);
    }
    let length = scanned.first().map_or(0, |tensor| tensor.dims()[axes[0]]);
    if scanned.iter().zip(&axes).any(|(tensor, &axis)| tensor.dims()[axis] != length) {
        return Err(cx.invalid("the scanned inputs differ in length"));
    }
    let mut stacks: Vec<Vec<Tensor>> = vec![Vec::new(); cx.wanted().saturating_sub(plan.states)];
    let mut held = 0usize;
    for round in 0..length {
        let mut body: Vec<Value> = states.iter().cloned().map(Value::Tensor).collect();
        for (at, (tensor, &axis)) in scanned.iter().zip(&axes).enumerate() {
            let position = if plan.input_backwards[at] { length - 1 - round } else { round };
            let part = section(cx, tensor, axis, position, 1)?;
            let mut dims = part.dims().to_vec();
            dims.remove(axis);
            body.push(Value::Tensor(part.reshaped(dims.as_slice()).map_err(|error| cx.tensor_error(error))?));
        }
        let outputs = cx.run(plan.body, body)?;
        let tensors = outputs.into_iter().map(|value| match value {
            Value::Tensor(tensor) => Ok(tensor),
            _ => Err(cx.invalid("its body gives something other than tensors")),
        });
        let mut tensors = tensors.collect::<Result<Vec<Tensor>>>()?.into_iter();
        states = tensors.by_ref().take(plan.states).collect();
        for (stack, tensor) in stacks.iter_mut().zip(tensors) {
            held = held.saturating_add(tensor.bytes().len());
            stack.push(tensor);
        }
        cx.hold(held)?;
    }
    for (at, mut parts) in stacks.into_iter().enumerate() {
        if plan.output_backwards[at] {
            parts.reverse();
        }
        let stacked = stack(cx, plan.body, plan.states + at, &parts)?;
        states.push(first_axis_to(cx, stacked, plan.output_axes[at])?);
    }
    Ok((states, length))
}

fn first_axis_to(cx: &EvalCx, tensor: Tensor, axis: i64) -> Result<Tensor> {
    let axis = cx.axis(axis, tensor.rank())?;
    let mut order: Vec<usize> = (1..tensor.rank()).collect();
    order.insert(axis, 0);
    let strides = crate::array::strides(tensor.dims());
    let dims: Vec<usize> = order.iter().map(|&at| tensor.dims()[at]).collect();
    let strides: Vec<isize> = order.iter().map(|&at| strides[at] as isize).collect();
    movement::take_strided(&tensor, &dims, 0, &strides).map_err(|error| cx.tensor_error(error))
}

/// The table.
pub const RULES: &[&dyn OpRule] = &[
    &Table::new("If", 1, if_infer).eval(if_eval),
    &Table::new("Loop", 1, loop_infer).eval(loop_eval),
    &Table::new("Scan", 8, scan_infer).eval(scan_eval),
];
