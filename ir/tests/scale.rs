//! A hundred thousand operators. Nothing here measures time: an operation that is not near-linear makes the test run
//! for minutes instead of a second, and nobody misses that.

use onnxq_ir::{Graph, Model, Op, Place, Tensor, ValueId};

const COUNT: usize = 100_000;

/// A chain of binary operators that all read one constant as well.
fn chain() -> (Graph, ValueId) {
    let mut graph = Graph::new("chain");
    let one = graph.add_initializer("one", Tensor::scalar(1f32)).unwrap();
    let mut last = graph.add_input("x", None).unwrap();
    for _ in 0..COUNT {
        let next = graph.new_value("v", None);
        graph.add_op(Op::new("Add"), &[Some(last), Some(one)], &[Some(next)], Place::End).unwrap();
        last = next;
    }
    graph.add_output(last);
    (graph, one)
}

#[test]
fn schedule_and_uses() {
    let (graph, one) = chain();
    assert_eq!(graph.schedule().unwrap().len(), COUNT);
    assert_eq!(graph.uses(one).len(), COUNT);
}

#[test]
fn every_second_operator_is_bypassed_from_the_front() {
    let (graph, one) = chain();
    let mut model = Model::new(10, 21, graph);
    let graph = model.main_mut();
    for (k, op) in graph.ops().into_iter().enumerate() {
        if k % 2 == 0 {
            let (input, output) = (graph.input(op, 0).unwrap(), graph.output(op, 0).unwrap());
            assert!(graph.redirect(output, input));
            graph.remove_op(op);
        }
    }
    assert_eq!(graph.use_count(one), COUNT / 2);
    model.settle();
    assert_eq!(model.main().schedule().unwrap().len(), COUNT / 2);
    assert_eq!(model.main().uses(one).len(), COUNT / 2);
}

#[test]
fn every_operator_but_the_last_is_bypassed_from_the_back() {
    let (mut graph, one) = chain();
    for op in graph.ops().into_iter().rev().skip(1) {
        let (input, output) = (graph.input(op, 0).unwrap(), graph.output(op, 0).unwrap());
        assert!(graph.redirect(output, input));
        graph.remove_op(op);
    }
    assert_eq!((graph.op_count(), graph.use_count(one)), (1, 1));
    graph.sweep();
    assert_eq!(graph.values().count(), 3);
}

#[test]
fn every_reader_of_a_shared_constant_gets_its_own_and_back() {
    let (mut graph, one) = chain();
    for op in graph.ops() {
        let own = graph.new_constant("one", Tensor::scalar(1f32));
        graph.set_input(op, 1, Some(own));
    }
    assert_eq!(graph.use_count(one), 0);
    for op in graph.ops() {
        let own = graph.input(op, 1).unwrap();
        graph.replace_uses(own, one);
        assert!(graph.remove_value(own));
    }
    graph.sweep();
    assert_eq!(graph.use_count(one), COUNT);
}

#[test]
fn an_inner_graph_captures_every_constant() {
    let count = 20_000;
    let mut main = Graph::new("main");
    let outer: Vec<_> = (0..count).map(|k| main.new_constant("w", Tensor::scalar(k as f32))).collect();
    let mut model = Model::new(10, 21, main);
    let inner = model.reserve_graph();
    let op = Op::new("Loop").with("body", inner);
    let op = model.main_mut().add_op(op, &[], &[], Place::End).unwrap();
    let mut body = Graph::new("body");
    for (k, &outer) in outer.iter().enumerate() {
        let value = body.add_captured(&format!("w{k}")).unwrap();
        // Half of them are never read.
        if k % 2 == 0 {
            let result = body.new_value("y", None);
            body.add_op(Op::new("Neg"), &[Some(value)], &[Some(result)], Place::End).unwrap();
        }
        model.main_mut().add_capture(op, inner, value, outer);
    }
    model.put_graph(inner, body, Some((model.main_id(), op)));
    // Every pair of constants becomes one.
    for pair in outer.chunks(4) {
        model.main_mut().replace_uses(pair[2], pair[0]);
    }
    model.settle();
    assert_eq!(model.main().captures(op).len(), count / 4);
    let body = model.graph(inner);
    for op in body.ops() {
        let value = body.input(op, 0).unwrap();
        let (_, outer) = model.outer(inner, value).unwrap();
        assert_eq!(model.main().value(outer).name(), body.value(value).name());
    }
}
