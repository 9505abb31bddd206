//! What a pass may leave behind and [`Model::settle`] puts right.

use onnxq_ir::{Graph, GraphId, Model, Op, OpId, Place, Role, Tensor, ValueId};

fn apply(graph: &mut Graph, kind: &str, inputs: &[ValueId], output: &str) -> (OpId, ValueId) {
    let output = graph.add_computed(output, None).unwrap();
    let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
    let op = graph.add_op(Op::new(kind), &inputs, &[Some(output)], Place::End).unwrap();
    (op, output)
}

/// main: x, y, A(x) -> a, If(x){ body } -> z; body: captures a and y, Mul(a, y) -> m, output m.
struct Nested {
    model: Model,
    body: GraphId,
    branch: OpId,
    outer: [ValueId; 2],
    inner: [ValueId; 2],
    product: ValueId,
}

fn nested() -> Nested {
    let mut main = Graph::new("main");
    let x = main.add_input("x", None).unwrap();
    let y = main.add_input("y", None).unwrap();
    let (_, a) = apply(&mut main, "A", &[x], "a");
    let mut model = Model::new(10, 21, main);
    let body = model.reserve_graph();
    let z = model.main_mut().add_computed("z", None).unwrap();
    let op = Op::new("If").with("then_branch", body);
    let branch = model.main_mut().add_op(op, &[Some(x)], &[Some(z)], Place::End).unwrap();
    model.main_mut().add_output(z);
    let mut graph = Graph::new("body");
    let inner = [graph.add_captured("a").unwrap(), graph.add_captured("y").unwrap()];
    let (_, product) = apply(&mut graph, "Mul", &inner, "m");
    graph.add_output(product);
    model.put_graph(body, graph, Some((model.main_id(), branch)));
    for (inner, outer) in inner.into_iter().zip([a, y]) {
        model.main_mut().add_capture(branch, body, inner, outer);
    }
    Nested { model, body, branch, outer: [a, y], inner, product }
}

fn name(graph: &Graph, value: ValueId) -> &str {
    graph.value(value).name()
}

#[test]
fn nothing_to_do_changes_nothing() {
    let Nested { mut model, body, branch, outer, inner, .. } = nested();
    let before =
        format!("{:?}", (model.main().ops(), model.main().captures(branch), model.graph(body).ops()));
    model.settle();
    model.settle();
    assert_eq!(
        before,
        format!("{:?}", (model.main().ops(), model.main().captures(branch), model.graph(body).ops()))
    );
    assert_eq!(model.outer(body, inner[1]), Some((model.main_id(), outer[1])));
    assert_eq!(model.outer(body, inner[0]), Some((model.main_id(), outer[0])));
}

#[test]
fn captures_follow_a_redirection_and_its_name() {
    let Nested { mut model, body, outer: [a, _], inner: [inner, _], .. } = nested();
    let main = model.main_mut();
    let x = main.find("x").unwrap();
    assert!(main.redirect(a, x));
    model.settle();
    assert_eq!(name(model.graph(body), inner), "x");
    assert_eq!(model.outer(body, inner), Some((model.main_id(), x)));
}

#[test]
fn two_captures_of_one_value_become_one() {
    let Nested { mut model, body, branch, outer: [a, y], inner, .. } = nested();
    model.graph_mut(body).add_output(inner[0]);
    assert!(model.main_mut().redirect(a, y));
    model.settle();
    let graph = model.graph(body);
    let op = graph.ops()[0];
    let inputs = graph.op_inputs(op);
    assert_eq!(inputs[0], inputs[1]);
    assert_eq!(name(graph, inputs[0].unwrap()), "y");
    assert_eq!(graph.outputs()[1], inputs[0].unwrap());
    assert_eq!(model.main().captures(branch).len(), 1);
    assert_eq!(graph.values().count(), 2);
}

#[test]
fn captures_merge_through_two_levels() {
    // The innermost graph reads a and y through the body, which reads them for nothing else.
    let Nested { mut model, body, outer: [a, y], inner, product, .. } = nested();
    let deep = model.reserve_graph();
    let graph = model.graph_mut(body);
    let mul = graph.ops()[0];
    graph.remove_op(mul);
    let op = Op::new("If").with("then_branch", deep);
    let holder = graph.add_op(op, &[], &[Some(product)], Place::End).unwrap();
    let mut innermost = Graph::new("deep");
    let deeper = [innermost.add_captured("a").unwrap(), innermost.add_captured("y").unwrap()];
    let (_, sum) = apply(&mut innermost, "Add", &deeper, "s");
    innermost.add_output(sum);
    model.put_graph(deep, innermost, Some((body, holder)));
    for (deeper, inner) in deeper.into_iter().zip(inner) {
        model.graph_mut(body).add_capture(holder, deep, deeper, inner);
    }
    model.settle();
    assert_eq!(model.graph(body).captures(holder).len(), 2);
    assert!(model.main_mut().redirect(a, y));
    model.settle();
    for id in [body, deep] {
        let graph = model.graph(id);
        let captured = graph.values().filter(|&value| graph.value(value).role() == Role::Captured);
        assert_eq!(captured.map(|value| name(graph, value)).collect::<Vec<_>>(), ["y"]);
    }
    // Once the innermost graph reads nothing any more, the captures end at every level.
    let graph = model.graph_mut(deep);
    let add = graph.ops()[0];
    graph.truncate_inputs(add, 0);
    model.settle();
    assert_eq!(model.graph(body).captures(holder), []);
    assert_eq!(model.main().use_count(y), 0);
}

#[test]
fn swapped_outer_names_swap_inside() {
    let Nested { mut model, body, outer: [a, y], inner, .. } = nested();
    let main = model.main_mut();
    main.rename(a, "t").unwrap();
    main.rename(y, "a").unwrap();
    main.rename(a, "y").unwrap();
    model.settle();
    assert_eq!(inner.map(|value| name(model.graph(body), value).to_string()), ["y", "a"]);
}

#[test]
fn a_captured_value_made_constant_lets_go_and_hides_nothing() {
    let Nested { mut model, body, branch, inner, .. } = nested();
    model.graph_mut(body).make_constant(inner[0], Tensor::scalar(1f32));
    model.settle();
    assert_eq!(model.main().captures(branch).len(), 1);
    let graph = model.graph(body);
    assert_eq!((graph.value(inner[0]).role(), name(graph, inner[0])), (Role::Initializer, "a_1"));
}

#[test]
fn inner_values_give_way_to_outer_names() {
    let Nested { mut model, body, product, .. } = nested();
    let main = model.main_mut();
    let x = main.find("x").unwrap();
    apply(main, "B", &[x], "m");
    apply(main, "B", &[x], "m_1");
    model.settle();
    assert_eq!(name(model.graph(body), product), "m_2");
    // Siblings of one scope may share names: neither sees the other.
    let found = model.main().find("m").unwrap();
    assert_eq!(name(model.main(), found), "m");
}

#[test]
fn fresh_names_avoid_those_of_other_graphs_once_settled() {
    let Nested { mut model, body, .. } = nested();
    assert_eq!(&*model.main_mut().fresh_name("m"), "m");
    model.settle();
    assert_eq!(&*model.main_mut().fresh_name("m"), "m_1");
    assert_eq!(&*model.graph_mut(body).fresh_name("z"), "z_1");
    // The same name taken in both within one pass: the inner one gives way.
    let outer = model.main_mut().new_value("new", None);
    let inner = model.graph_mut(body).new_value("new", None);
    model.settle();
    assert_eq!((name(model.main(), outer), name(model.graph(body), inner)), ("new", "new_1"));
}

#[test]
fn graphs_that_nothing_holds_are_dropped_with_their_captures() {
    let Nested { mut model, body, branch, outer: [a, _], .. } = nested();
    model.main_mut().op_mut(branch).attrs.remove("then_branch");
    model.settle();
    assert_eq!(model.graph_ids(), [model.main_id()]);
    assert_eq!(model.main().captures(branch), []);
    assert!(!model.main().is_used(a));
    assert_ne!(body, model.main_id());
}

#[test]
fn a_removed_operator_takes_its_graphs_along() {
    let Nested { mut model, branch, outer: [a, y], .. } = nested();
    model.main_mut().remove_op(branch);
    assert_eq!((model.main().use_count(a), model.main().use_count(y)), (0, 0));
    model.settle();
    assert_eq!(model.graph_ids().len(), 1);
}

#[test]
fn a_graph_that_moves_to_another_operator_knows_its_new_holder() {
    let Nested { mut model, body, branch, outer, inner, .. } = nested();
    let main = model.main_mut();
    let z = main.output(branch, 0);
    let op = main.remove_op(branch);
    let moved = main.add_op(op, &[], &[z], Place::End).unwrap();
    for (inner, outer) in inner.into_iter().zip(outer) {
        main.add_capture(moved, body, inner, outer);
    }
    model.settle();
    assert_eq!(model.graph(body).parent(), Some((model.main_id(), moved)));
    assert_eq!(model.main().captures(moved).len(), 2);
}
