//! Ugly graphs: what ONNX files hold beside clean chains of nodes.

mod common;

use common::pb;
use common::{check_lossless, error_of, floats, graph, graph_attribute, info, model, node};
use ir::Role;

fn read(proto: &pb::ModelProto) -> ir::Model {
    onnxq_proto::read_bytes(common::encode(proto), None).expect("it reads").model
}

#[test]
fn listings_survive() {
    let mut inner = graph(
        vec![
            node("Relu", &["a"], &["x"]),
            node("Add", &["x", "w"], &["y"]),
            node("Max", &["y", "y"], &["z"]),
        ],
        &["a", "old"],
        &["z", "z", "a", "w"],
    );
    inner.initializer =
        vec![floats("unused", &[1], &[0.0]), floats("w", &[1], &[1.0]), floats("old", &[2], &[0.0; 2])];
    // Out of order, twice, for every role, and for no value at all.
    inner.value_info = ["y", "nobody", "w", "x", "a", "y", "z"].iter().map(|name| info(name, &[2])).collect();
    inner.value_info.push(info("z", &[7]));
    inner.value_info.push(pb::ValueInfoProto { name: Some("old".into()), ..Default::default() });
    inner.output[1] = info("z", &[5]);
    inner.doc_string = Some(String::new());
    check_lossless(&model(inner));
}

#[test]
fn a_pass_ends_what_only_the_file_listed() {
    let mut inner = graph(vec![node("Relu", &["a"], &["b"])], &["a"], &["b"]);
    inner.value_info = vec![info("nobody", &[2]), info("b", &[9])];
    let mut model = read(&model(inner));
    assert_eq!(model.main().strays.len(), 2);
    model.settle();
    let written = common::decode(&onnxq_proto::to_bytes(&model).expect("it writes"));
    assert_eq!(written.graph.expect("a graph").value_info, []);
}

#[test]
fn new_values_are_listed_after_the_files() {
    let mut inner = graph(vec![node("Relu", &["a"], &["b"])], &["a"], &["b"]);
    inner.initializer = vec![floats("w", &[1], &[1.0])];
    let mut model = read(&model(inner));
    let graph = model.main_mut();
    let b = graph.find("b").expect("b");
    let c = graph.new_value("c", Some(ir::Type::tensor(ir::DType::F32, None)));
    graph.add_op(ir::Op::new("Neg"), &[Some(b)], &[Some(c)], ir::Place::End).expect("an op");
    graph.new_constant("v", ir::Tensor::scalar(1f32));
    let written = common::decode(&onnxq_proto::to_bytes(&model).expect("it writes"));
    let written = written.graph.expect("a graph");
    let names: Vec<&str> = written.initializer.iter().map(|tensor| tensor.name()).collect();
    assert_eq!(names, ["w", "v"]);
    let names: Vec<&str> = written.value_info.iter().map(|info| info.name()).collect();
    assert_eq!(names, ["c"]);
}

#[test]
fn nodes_may_have_no_name_the_same_name_and_gaps() {
    let mut nodes = vec![
        node("Clip", &["a", "", "hi"], &["b"]),
        node("Dropout", &["b", "", ""], &["c", ""]),
        node("Sink", &["c"], &[]),
        node("Source", &[], &["d"]),
        node("Nothing", &[], &[]),
    ];
    for node in &mut nodes[..2] {
        node.name = Some("same".into());
    }
    nodes[2].domain = Some("ai.onnx".into());
    nodes[3].domain = Some("com.example".into());
    nodes[4].name = Some(String::new());
    let mut inner = graph(nodes, &["a"], &["c"]);
    inner.initializer = vec![floats("hi", &[], &[1.0])];
    let mut proto = model(inner);
    for (domain, version) in [("", 18), ("ai.onnx", 17), ("com.example", 1), ("com.example", 2)] {
        let import = pb::OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
        proto.opset_import.push(import);
    }
    check_lossless(&proto);
}

#[test]
fn file_order_need_not_be_topological() {
    let nodes = vec![node("Neg", &["x"], &["y"]), node("Relu", &["a"], &["x"]), node("Abs", &["y"], &["z"])];
    let proto = model(graph(nodes, &["a"], &["z"]));
    let written = common::decode(&common::round_trip(&common::encode(&proto)));
    let written = written.graph.expect("a graph");
    let kinds: Vec<&str> = written.node.iter().map(|node| node.op_type()).collect();
    assert_eq!(kinds, ["Relu", "Neg", "Abs"]);
}

/// `If` in `If`: the innermost graph reads a value of the outermost, its neighbour has a value of the same name.
fn nested() -> pb::GraphProto {
    let innermost = graph(vec![node("Add", &["x", "local"], &["r"])], &[], &["r"]);
    let mut deep_if = node("If", &["c"], &["s"]);
    deep_if.attribute.push(graph_attribute("then_branch", innermost));
    // This branch returns an outer value as it is.
    deep_if.attribute.push(graph_attribute("else_branch", graph(vec![], &[], &["x"])));
    let mut middle = graph(vec![node("Relu", &["x"], &["local"]), deep_if], &[], &["s"]);
    middle.value_info = vec![info("x", &[2]), info("local", &[2])];
    let mut outer_if = node("If", &["c"], &["out"]);
    outer_if.attribute.push(graph_attribute("then_branch", middle));
    let mut shadow = graph(vec![node("Neg", &["x"], &["late"])], &[], &["late"]);
    shadow.initializer = vec![floats("x", &[2], &[0.0; 2])];
    outer_if.attribute.push(graph_attribute("else_branch", shadow));
    graph(
        vec![node("Abs", &["a"], &["x"]), outer_if, node("Exp", &["out"], &["late"])],
        &["a", "c"],
        &["late"],
    )
}

#[test]
fn captures_are_explicit_at_every_level() {
    let proto = model(nested());
    check_lossless(&proto);
    let model = read(&proto);
    let ids = model.graph_ids();
    assert_eq!(ids.len(), 5);
    let captured = |id| {
        let graph = model.graph(id);
        let inner = graph.values().filter(|&v| graph.value(v).role() == Role::Captured);
        inner.map(|v| graph.value(v).name().to_string()).collect::<Vec<_>>()
    };
    let all: Vec<Vec<String>> = ids.iter().map(|&id| captured(id)).collect();
    assert_eq!(all, [vec![], vec!["x", "c"], vec!["x", "local"], vec!["x"], vec![]] as [Vec<&str>; 5]);
    for &id in &ids[1..] {
        let graph = model.graph(id);
        for value in graph.values().filter(|&v| graph.value(v).role() == Role::Captured) {
            let (outer, source) = model.outer(id, value).expect("a capture has a source");
            assert_eq!(model.graph(outer).value(source).name(), graph.value(value).name());
        }
    }
}

#[test]
fn functions_keep_their_bodies_and_attributes() {
    let mut body = node("Selu", &["x"], &["y"]);
    body.attribute.push(pb::AttributeProto {
        name: Some("alpha".into()),
        r#type: Some(pb::attribute_proto::AttributeType::Float as i32),
        ref_attr_name: Some("alpha".into()),
        ..Default::default()
    });
    let function = pb::FunctionProto {
        name: Some("F".into()),
        domain: Some("local".into()),
        input: vec!["x".into()],
        output: vec!["y".into(), "x".into()],
        attribute: vec!["alpha".into(), "beta".into()],
        node: vec![body],
        opset_import: vec![pb::OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        doc_string: Some("what it does".into()),
        ..Default::default()
    };
    let mut call = node("F", &["a"], &["b", "c"]);
    call.domain = Some("local".into());
    let mut proto = model(graph(vec![call], &["a"], &["b"]));
    proto.functions = vec![function.clone()];
    check_lossless(&proto);
    proto.functions.push(function);
    assert!(error_of(&proto).contains("two functions"));
}

#[test]
fn notes_at_every_level_survive() {
    let pair =
        |key: &str| vec![pb::StringStringEntryProto { key: Some(key.into()), value: Some("v".into()) }];
    let mut inner = graph(vec![node("Relu", &["a"], &["b"])], &["a"], &["b"]);
    inner.node[0].doc_string = Some("node".into());
    inner.initializer = vec![floats("w", &[1], &[1.0])];
    inner.initializer[0].doc_string = Some("tensor".into());
    inner.input[0].doc_string = Some("input".into());
    inner.output[0].doc_string = Some(String::new());
    inner.quantization_annotation.push(pb::TensorAnnotation {
        tensor_name: Some("b".into()),
        quant_parameter_tensor_names: pair("SCALE_TENSOR"),
    });
    let mut proto = model(inner);
    proto.metadata_props = pair("author");
    proto.producer_name = Some(String::new());
    proto.model_version = Some(0);
    proto.training_info.push(pb::TrainingInfoProto {
        algorithm: Some(graph(vec![node("Relu", &["p"], &["q"])], &[], &[])),
        initialization_binding: pair("p"),
        ..Default::default()
    });
    check_lossless(&proto);
}

#[test]
fn graphs_that_make_no_sense_are_refused_with_a_reason() {
    let cases: Vec<(pb::GraphProto, &str)> = vec![
        (
            graph(vec![node("Neg", &["y"], &["x"]), node("Abs", &["x"], &["y"])], &[], &["x"]),
            "graph \"g\": the graph has a cycle through",
        ),
        (graph(vec![node("Neg", &["x"], &["x"])], &[], &["x"]), "cycle"),
        (
            graph(vec![node("Neg", &["a"], &["x"]), node("Abs", &["a"], &["x"])], &["a"], &["x"]),
            "node (Abs) that writes \"x\": the value name \"x\" is used twice",
        ),
        (graph(vec![node("Neg", &["a"], &["a"])], &["a"], &["a"]), "used twice"),
        (graph(vec![], &["a", "a"], &[]), "used twice"),
        (graph(vec![], &[""], &[]), "a value has no name"),
        (
            graph(vec![node("Neg", &["ghost"], &["x"])], &[], &["x"]),
            "input 0 reads \"ghost\", which nothing defines",
        ),
        (graph(vec![], &["a"], &["b"]), "nothing defines the output \"b\""),
        (graph(vec![], &["a"], &[""]), "nothing defines the output \"\""),
        (graph(vec![node("", &["a"], &["b"])], &["a"], &["b"]), "the node has no op_type"),
    ];
    for (graph, expected) in cases {
        let error = error_of(&model(graph));
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
    let mut twice = graph(vec![], &["a"], &["a"]);
    twice.initializer = vec![floats("w", &[1], &[1.0]), floats("w", &[1], &[1.0])];
    assert!(error_of(&model(twice)).contains("used twice"));
    let mut own = node("If", &["a"], &["b"]);
    own.attribute.push(graph_attribute("then_branch", graph(vec![node("Neg", &["b"], &["x"])], &[], &["x"])));
    assert!(error_of(&model(graph(vec![own], &["a"], &["b"]))).contains("cycle"));
    let mut nothing = model(graph(vec![], &[], &[]));
    nothing.graph = None;
    assert!(error_of(&nothing).contains("the file holds no graph"));
}

#[test]
fn attributes_without_type_or_value_survive() {
    let mut relu = node("Relu", &["a"], &["b"]);
    let attribute = |name: &str| pb::AttributeProto { name: Some(name.into()), ..Default::default() };
    relu.attribute = vec![
        pb::AttributeProto { i: Some(3), ..attribute("old_style") },
        pb::AttributeProto { ints: vec![1, 2], ..attribute("old_list") },
        pb::AttributeProto {
            r#type: Some(pb::attribute_proto::AttributeType::Int as i32),
            ..attribute("zero")
        },
        pb::AttributeProto {
            r#type: Some(pb::attribute_proto::AttributeType::Int as i32),
            i: Some(0),
            doc_string: Some(String::new()),
            ..attribute("zero_written")
        },
        pb::AttributeProto {
            r#type: Some(pb::attribute_proto::AttributeType::Ints as i32),
            ..attribute("empty")
        },
    ];
    let proto = model(graph(vec![relu], &["a"], &["b"]));
    check_lossless(&proto);
    let model = read(&proto);
    let graph = model.main();
    let attrs = &graph.op(graph.ops()[0]).attrs;
    assert_eq!((attrs.int("old_style"), attrs.int("zero")), (Some(3), Some(0)));
    assert_eq!((attrs.ints("old_list"), attrs.ints("empty")), (Some(&[1, 2][..]), Some(&[][..])));
}

#[test]
fn many_nodes_take_time_in_proportion() {
    let chain = |count: usize| {
        let nodes =
            (0..count).map(|at| node("Relu", &[&format!("v{at}")], &[&format!("v{}", at + 1)])).collect();
        common::encode(&model(graph(nodes, &["v0"], &[&format!("v{count}")])))
    };
    let time = |bytes: bytes::Bytes| {
        let start = std::time::Instant::now();
        assert!(common::round_trip(&bytes) == bytes);
        start.elapsed().as_secs_f64()
    };
    let (small, large) = (chain(10_000), chain(100_000));
    // Ten times the nodes in less than forty times the time (quadratic would be a hundred times); the best of three,
    // because other tests run beside this one.
    let best = |bytes: &bytes::Bytes| (0..3).map(|_| time(bytes.clone())).fold(f64::INFINITY, f64::min);
    let (small, large) = (best(&small), best(&large));
    assert!(large < 40.0 * small.max(1e-3), "10,000 nodes: {small} s, 100,000 nodes: {large} s");
}

/// A message may be written in pieces, which are merged, and the entries of its lists may stand between other fields.
#[test]
fn pieces_of_messages_are_merged() {
    use prost::Message;
    let branch = |kind: &str| graph(vec![node(kind, &["a"], &["y"])], &[], &["y"]);
    let mut choice = node("If", &["c"], &["b"]);
    choice.attribute =
        vec![graph_attribute("then_branch", branch("Relu")), graph_attribute("else_branch", branch("Neg"))];
    let whole = model(graph(vec![choice, node("Abs", &["b"], &["d"])], &["a", "c"], &["d"]));

    // A field of a message with a length.
    let field = |number: u32, message: &[u8]| {
        let mut bytes = Vec::new();
        prost::encoding::bytes::encode(number, &message.to_vec(), &mut bytes);
        bytes
    };
    let pieces = |graph: &pb::GraphProto| {
        let lists = pb::GraphProto { node: graph.node.clone(), ..Default::default() };
        let rest = pb::GraphProto { node: vec![], ..graph.clone() };
        [rest.encode_to_vec(), lists.encode_to_vec()]
    };
    let outer = whole.graph.clone().expect("it has a graph");
    let mut nodes = Vec::new();
    for node in &outer.node {
        let mut bytes = pb::NodeProto { attribute: vec![], ..node.clone() }.encode_to_vec();
        for attribute in &node.attribute {
            let inner = attribute.g.as_deref().expect("a branch");
            let mut pieces_of_it: Vec<u8> = pieces(inner).iter().flat_map(|piece| field(6, piece)).collect();
            pieces_of_it.extend(pb::AttributeProto { g: None, ..attribute.clone() }.encode_to_vec());
            bytes.splice(0..0, field(5, &pieces_of_it));
        }
        nodes.push(field(1, &bytes));
    }
    // Attributes were put in front one after the other.
    let mut model_bytes = field(7, &nodes.concat());
    model_bytes.extend(pb::ModelProto { graph: None, ..whole.clone() }.encode_to_vec());
    model_bytes.extend(field(7, &pb::GraphProto { node: vec![], ..outer }.encode_to_vec()));

    let merged = onnxq_proto::read_bytes(model_bytes.into(), None).expect("it reads").model;
    let mut expected = whole;
    expected.graph.as_mut().expect("it has a graph").node[0].attribute.reverse();
    assert!(onnxq_proto::to_bytes(&merged).expect("it writes") == expected.encode_to_vec());
}
