//! The graph's edits, one at a time.

use onnxq_ir::{DType, Dim, Graph, GraphError, Op, OpId, Place, Role, Shape, Slot, Tensor, Type, ValueId};

fn float(size: usize) -> Option<Type> {
    Some(Type::tensor(DType::F32, Some(Shape::new([Dim::from(size)]))))
}

fn apply(graph: &mut Graph, kind: &str, inputs: &[ValueId], output: &str) -> (OpId, ValueId) {
    let output = graph.add_computed(output, None).unwrap();
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    let op = graph.add_op(Op::new(kind), &inputs, &[Some(output)], Place::End).unwrap();
    (op, output)
}

fn kinds(graph: &Graph, ops: &[OpId]) -> Vec<String> {
    ops.iter().map(|&op| graph.op(op).kind.to_string()).collect()
}

/// x -> A -> a -> B -> b, b is the output.
struct Line {
    graph: Graph,
    x: ValueId,
    a: ValueId,
    b: ValueId,
    first: OpId,
    second: OpId,
}

fn line() -> Line {
    let mut graph = Graph::new("line");
    let x = graph.add_input("x", float(2)).unwrap();
    let (first, a) = apply(&mut graph, "A", &[x], "a");
    let (second, b) = apply(&mut graph, "B", &[a], "b");
    graph.add_output(b);
    Line { graph, x, a, b, first, second }
}

#[test]
fn slots_keep_their_order_and_gaps() {
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", None).unwrap();
    let y = graph.add_input("y", None).unwrap();
    let (a, b) = (graph.add_computed("a", None).unwrap(), graph.add_computed("b", None).unwrap());
    let inputs = [Some(y), None, Some(x), Some(y)];
    let op = graph.add_op(Op::new("Op"), &inputs, &[Some(a), None, Some(b)], Place::End).unwrap();
    assert_eq!(&graph.op_inputs(op)[..], &inputs);
    assert_eq!(&graph.op_outputs(op)[..], &[Some(a), None, Some(b)]);
    assert_eq!((graph.input(op, 1), graph.input(op, 2), graph.input(op, 9)), (None, Some(x), None));
    assert_eq!((graph.output(op, 2), graph.output(op, 1)), (Some(b), None));
    assert_eq!(graph.producer(b), Some((op, 2)));
    let slots: Vec<Slot> = graph.uses(y).iter().map(|found| found.slot).collect();
    assert_eq!(slots, [Slot::In(0), Slot::In(3)]);
    assert_eq!((graph.use_count(y), graph.sole_use(y), graph.sole_use(x).map(|u| u.op)), (2, None, Some(op)));
}

#[test]
fn set_input_grows_replaces_and_leaves_gaps() {
    let Line { mut graph, x, a, second, .. } = line();
    graph.set_input(second, 3, Some(x));
    assert_eq!(&graph.op_inputs(second)[..], &[Some(a), None, None, Some(x)]);
    graph.set_input(second, 0, Some(x));
    graph.set_input(second, 3, None);
    assert_eq!(&graph.op_inputs(second)[..], &[Some(x), None, None, None]);
    graph.truncate_inputs(second, 1);
    assert_eq!(&graph.op_inputs(second)[..], &[Some(x)]);
    graph.truncate_inputs(second, 5);
    assert_eq!(graph.op(second).input_count(), 1);
    assert!(!graph.is_used(a));
}

#[test]
fn names_are_unique_and_not_empty() {
    let Line { mut graph, a, b, .. } = line();
    assert_eq!(graph.add_input("a", None), Err(GraphError::DuplicateName("a".into())));
    assert_eq!(graph.add_computed("", None), Err(GraphError::EmptyName));
    assert_eq!(graph.rename(a, "b"), Err(GraphError::DuplicateName("b".into())));
    assert_eq!(graph.rename(a, ""), Err(GraphError::EmptyName));
    assert_eq!(graph.rename(a, "a"), Ok(()));
    graph.rename(a, "c").unwrap();
    assert_eq!((graph.find("a"), graph.find("c"), graph.find("b")), (None, Some(a), Some(b)));
}

#[test]
fn a_value_has_one_producer() {
    let Line { mut graph, x, a, b, first, .. } = line();
    let defined = |name: &str| Err(GraphError::Defined(name.into(), "C".into()));
    for (output, name) in [(a, "a"), (x, "x")] {
        assert_eq!(graph.add_op(Op::new("C"), &[], &[Some(output)], Place::End), defined(name));
    }
    let fresh = graph.add_computed("fresh", None).unwrap();
    let twice = graph.add_op(Op::new("C"), &[Some(x)], &[Some(fresh), Some(fresh)], Place::End);
    assert_eq!(twice, Err(GraphError::Defined("fresh".into(), "C".into())));
    assert_eq!((graph.op_count(), graph.use_count(x)), (2, 1));
    assert!(graph.set_op_output(first, 1, Some(b)).is_err());
    assert_eq!(graph.set_op_output(first, 0, Some(a)), Ok(()));
    assert_eq!(graph.producer(a), Some((first, 0)));
}

#[test]
fn fresh_names_are_the_hint_or_numbered() {
    let Line { mut graph, .. } = line();
    assert_eq!(&*graph.fresh_name("new"), "new");
    assert_eq!(&*graph.fresh_name("a"), "a_1");
    let one = graph.new_value("a", None);
    let two = graph.new_value("a", None);
    let names = [one, two].map(|id| graph.value(id).name().to_string());
    assert_eq!(names, ["a_2", "a_3"]);
    graph.add_input("value_1", None).unwrap();
    assert_eq!(graph.value(graph.find("value_1").unwrap()).role(), Role::Input);
    let unnamed = [graph.new_value("", None), graph.new_value("", None)];
    assert_eq!(unnamed.map(|id| graph.value(id).name().to_string()), ["value", "value_2"]);
}

#[test]
fn redirect_moves_readers() {
    let Line { mut graph, x, a, b, first, second } = line();
    assert!(graph.redirect(a, x));
    assert_eq!(graph.input(second, 0), Some(x));
    graph.remove_op(first);
    assert!(!graph.is_live_value(a));
    assert_eq!(graph.find("a"), None);
    assert!(graph.redirect(b, b));
}

#[test]
fn redirect_of_an_output_hands_over_name_type_and_notes() {
    let Line { mut graph, a, b, second, .. } = line();
    let value = graph.value_mut(b);
    (value.ty, value.notes.doc) = (float(7), "the result".into());
    graph.add_output(b);
    assert!(graph.redirect(b, a));
    assert_eq!(graph.outputs(), [a, a]);
    let value = graph.value(a);
    assert_eq!((&**value.name(), &value.ty, &*value.notes.doc), ("b", &float(7), "the result"));
    assert_eq!(graph.input(second, 0), Some(a));
    assert!(graph.is_output(a) && !graph.is_output(b));
    graph.remove_op(second);
    assert!(!graph.is_live_value(b));
    assert_eq!(graph.find("b"), Some(a));
}

#[test]
fn redirect_of_an_output_is_refused_where_the_name_cannot_move() {
    let Line { mut graph, x, a, b, .. } = line();
    let constant = graph.new_constant("c", Tensor::scalar(1f32));
    assert!(!graph.redirect(b, x));
    assert!(!graph.redirect(b, constant));
    graph.add_output(a);
    assert!(!graph.redirect(b, a));
    assert_eq!((graph.outputs(), graph.uses(a).len()), (&[b, a][..], 1));
    assert_eq!(&**graph.value(b).name(), "b");
}

#[test]
fn redirect_keeps_a_reader_of_the_old_value_that_makes_the_new_one() {
    // Putting B behind b for all *other* readers is the caller's business: redirect moves every reader.
    let Line { mut graph, a, b, first, second, .. } = line();
    let (_, c) = apply(&mut graph, "C", &[a], "c");
    assert!(graph.redirect(a, c));
    assert_eq!(graph.input(second, 0), Some(c));
    // C reads its own output now: a cycle, which the schedule reports instead of looping.
    assert_eq!(graph.schedule(), Err(GraphError::Cycle("C".into())));
    assert_eq!(graph.producer(b), Some((second, 0)));
    assert_eq!(graph.producer(a), Some((first, 0)));
}

#[test]
fn make_constant_cuts_the_producer_off() {
    let Line { mut graph, x, a, first, second, .. } = line();
    graph.make_constant(a, Tensor::scalar(2f32));
    assert_eq!((graph.producer(a), graph.output(first, 0)), (None, None));
    assert_eq!(graph.op(first).output_count(), 1);
    assert_eq!(graph.constant(a), Some(&Tensor::scalar(2f32)));
    assert_eq!(graph.input(second, 0), Some(a));
    graph.make_constant(x, Tensor::scalar(3f32));
    assert_eq!((graph.inputs(), graph.value(x).role()), (&[][..], Role::Initializer));
    graph.remove_op(first);
    assert!(graph.is_live_value(a));
    assert!(graph.remove_value(x));
}

#[test]
fn inputs_with_defaults_become_constants_on_request() {
    let mut graph = Graph::new("g");
    let ids: Vec<_> = (0..4).map(|k| graph.add_input(&format!("i{k}"), None).unwrap()).collect();
    for &id in &ids[1..3] {
        graph.value_mut(id).data = Some(Tensor::scalar(1i64));
    }
    assert_eq!(graph.constant(ids[1]), None);
    graph.fix_input(ids[0]);
    graph.fix_input(ids[1]);
    assert_eq!(graph.inputs(), [ids[0], ids[2], ids[3]]);
    assert!(graph.constant(ids[1]).is_some());
    assert_eq!((graph.fix_inputs(), graph.inputs()), (1, &[ids[0], ids[3]][..]));
    assert_eq!(graph.fix_inputs(), 0);
}

#[test]
fn values_in_use_are_not_removed() {
    let Line { mut graph, x, a, b, second, .. } = line();
    assert!(!graph.remove_value(x) && !graph.remove_input(x));
    assert!(!graph.remove_value(a) && !graph.remove_value(b));
    graph.remove_output(0);
    assert!(!graph.remove_value(b), "it is still written");
    graph.remove_op(second);
    assert!(!graph.is_live_value(b));
    let spare = graph.add_input("spare", None).unwrap();
    assert!(!graph.remove_value(spare), "inputs go by remove_input only");
    assert!(graph.remove_input(spare));
    assert!(!graph.remove_input(a));
    assert_eq!((graph.inputs(), graph.find("spare")), (&[x][..], None));
}

#[test]
fn remove_op_keeps_outputs_that_are_read_or_listed() {
    let Line { mut graph, a, b, first, second, .. } = line();
    graph.remove_op(first);
    assert!(graph.is_live_value(a) && graph.producer(a).is_none());
    let op = graph.remove_op(second);
    assert_eq!(op.kind.to_string(), "B");
    assert!(graph.is_live_value(b), "a graph output is never dropped");
    assert!(!graph.is_live(second));
}

#[test]
fn ids_are_not_reused_before_the_sweep() {
    let Line { mut graph, a, b, first, second, .. } = line();
    graph.remove_output(0);
    graph.remove_op(second);
    graph.remove_op(first);
    assert!(!graph.remove_value(a), "it went with its producer");
    let bound = graph.bound();
    let new = graph.add_computed("new", None).unwrap();
    assert!(new.index() >= bound && !graph.is_live_value(b));
    graph.sweep();
    let reused = graph.add_computed("reused", None).unwrap();
    assert!(reused.index() < bound);
    assert!(graph.schedule().unwrap().is_empty());
}

#[test]
fn the_schedule_is_topological_stable_and_near_the_files_order() {
    let mut graph = Graph::new("g");
    let x = graph.add_input("x", None).unwrap();
    // The file lists C before A and B, which it reads.
    let (a, b) = (graph.add_computed("a", None).unwrap(), graph.add_computed("b", None).unwrap());
    let (_, c) = apply(&mut graph, "C", &[b, a], "c");
    let of_a = graph.add_op(Op::new("A"), &[Some(x)], &[Some(a)], Place::End).unwrap();
    graph.add_op(Op::new("B"), &[Some(a)], &[Some(b)], Place::End).unwrap();
    apply(&mut graph, "D", &[x], "d");
    graph.add_output(c);
    let files = graph.ops();
    assert_eq!(kinds(&graph, &files), ["C", "A", "B", "D"]);
    let order = graph.schedule().unwrap();
    assert_eq!(kinds(&graph, &order), ["A", "B", "C", "D"]);
    // What is placed beside A comes right after it, in the order of creation, and does not move the others.
    for name in ["E", "F"] {
        let value = graph.new_value(name, None);
        graph.add_op(Op::new(name), &[Some(x)], &[Some(value)], Place::Near(of_a)).unwrap();
    }
    let order = graph.schedule().unwrap();
    assert_eq!(kinds(&graph, &order), ["A", "E", "F", "B", "C", "D"]);
    assert_eq!(graph.clone().schedule(), Ok(order));
}

#[test]
fn a_cycle_names_an_operator_on_it() {
    let Line { mut graph, b, first, second, .. } = line();
    let (_, c) = apply(&mut graph, "Behind", &[b], "c");
    graph.add_output(c);
    graph.op_mut(second).name = "node".into();
    graph.set_input(first, 1, Some(b));
    let Err(GraphError::Cycle(at)) = graph.schedule() else { panic!("a cycle") };
    assert!(["A", "\"node\" (B)"].contains(&&*at), "{at}");
    assert_eq!(graph.ops().len(), 3);
}

#[test]
fn edits_at_a_hub_are_seen_at_once_and_survive_the_sweep() {
    // More readers than the graph is willing to walk to cut one edge: edges are marked dead first.
    let mut graph = Graph::new("hub");
    let hub = graph.add_initializer("hub", Tensor::scalar(1f32)).unwrap();
    let other = graph.add_initializer("other", Tensor::scalar(2f32)).unwrap();
    let ops: Vec<_> = (0..200).map(|k| apply(&mut graph, "Op", &[hub, hub], &format!("v{k}"))).collect();
    for (k, &(op, value)) in ops.iter().enumerate() {
        match k % 4 {
            0 => _ = graph.remove_op(op),
            1 => graph.set_input(op, 1, Some(other)),
            2 => graph.truncate_inputs(op, 1),
            _ => graph.add_output(value),
        }
    }
    let look = |graph: &Graph| {
        let inputs: Vec<_> = graph.ops().iter().map(|&op| graph.op_inputs(op).to_vec()).collect();
        (graph.use_count(hub), graph.uses(hub).len(), graph.use_count(other), graph.edges().count(), inputs)
    };
    let before = look(&graph);
    assert_eq!((before.0, before.1, before.2), (200, 200, 50));
    graph.sweep();
    assert_eq!(look(&graph), before);
    graph.replace_uses(hub, other);
    assert_eq!((graph.use_count(hub), graph.use_count(other)), (0, 250));
    assert!(graph.remove_value(hub));
    graph.sweep();
    assert_eq!(graph.use_count(other), 250);
    assert_eq!(graph.schedule().unwrap().len(), 150);
}
