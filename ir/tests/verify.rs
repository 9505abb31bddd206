//! One broken model for each invariant of the verifier, and sound ones that look suspicious.

use std::collections::BTreeSet;

use onnxq_ir::{
    AttrValue, Builder, Graph, GraphId, Invariant, Model, Op, Place, SparseTensor, Tensor, text, verify,
};

fn parse(text: &str) -> Model {
    text::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn with_header(text: &str) -> Model {
    parse(&format!("<ir_version: 10, opset_import: [\"\" : 21, \"local\" : 1]>\n{text}"))
}

/// Broken texts: what is violated, the text, what the message says.
const TEXTS: &[(Invariant, &str, &str)] = &[
    (
        Invariant::NoCycle,
        "g (x) => (y) { y = Add(x, z) z = Neg(y) }",
        "V01 in graph \"g\": a cycle through Add",
    ),
    (
        Invariant::Defined,
        "g (x) => (y) { [sum] y = Add(x, ghost) }",
        "V02 in graph \"g\", value \"ghost\": nothing defines it, and it is read at in graph \"g\", at \"sum\" (Add)",
    ),
    (
        Invariant::Defined,
        "g (x) => (nowhere) { }",
        "V02 in graph \"g\", value \"nowhere\": nothing defines it, and it is an output of the graph",
    ),
    (
        Invariant::Defined,
        "g (x) => (y) { y = If(x) <then = t () => (r) { r = Neg(ghost) }> }",
        "V02 in graph \"g\" > If -> \"y\" > \"t\", value \"ghost\": nothing defines it",
    ),
    (
        Invariant::ConstantType,
        "g () => () <float[2] w = {1,2}, int64[2] w> { }",
        "V04 in graph \"g\", value \"w\": it holds float and is declared int64[2]",
    ),
    (
        Invariant::ConstantType,
        "g (float[3] w) => () <float[2] w = {1,2}> { }",
        "it holds float[2] and is declared float[3]",
    ),
    (
        Invariant::ConstantType,
        "g () => () <float[2] w = {1,2}, seq(float) w> { }",
        "it holds a tensor and is declared as something else",
    ),
    (
        Invariant::Sizes,
        "g (float[N,-1] x) => () { }",
        "V05 in graph \"g\", value \"x\": its type has the size -1",
    ),
    (Invariant::Sizes, "g (seq(map(string, float[-2])) x) => () { }", "its type has the size -2"),
    (
        Invariant::Sparse,
        "g () => () <sparse_tensor(float[3]) w = {float[1] {1}, int64[1] {3}}> { }",
        "V06 in graph \"g\", value \"w\": an index is outside of [3]",
    ),
    (
        Invariant::Sparse,
        "g () => () <sparse_tensor(float[3,4]) w = {float[1] {1}, int64[1,2] {0,4}}> { }",
        "an index is outside of [3, 4]",
    ),
    (
        Invariant::Sparse,
        "g () => () <sparse_tensor(float[3]) w = {float[1] {1}, int64[2] {1,2}}> { }",
        "1 values and indices of sizes [2]",
    ),
    (
        Invariant::Sparse,
        "g () => () <sparse_tensor(float[3]) w = {float[1] {1}, int32[1] {1}}> { }",
        "its indices are int32",
    ),
    (
        Invariant::Sparse,
        "g () => () <sparse_tensor(float[4294967295,4294967295,4294967295]) w = {float[1] {1}, int64[1] {0}}> { }",
        "overflow",
    ),
    (Invariant::OpName, "g (x) => () { y = \"\"(x) }", "V07 in graph \"g\", at "),
    (
        Invariant::AttrNames,
        "g (x) => () { [n] y = Relu<a = 1, b = 2, a = 3>(x) }",
        "V08 in graph \"g\", attribute \"a\" of \"n\" (Relu): it is there twice",
    ),
    (Invariant::AttrNames, "g (x) => () { y = Relu<\"\" = 1>(x) }", "it has no name"),
    (
        Invariant::Import,
        "g (x) => () { [n] y = other.Relu(x) }",
        "V09 in graph \"g\", at \"n\" (other.Relu): no operator set of the domain \"other\" is imported",
    ),
    (
        Invariant::Import,
        "g (x) => (y) { y = local.f(x) }
         <domain: \"local\", opset_import: []> f (x) => (y) { y = Relu(x) }",
        "V09 in graph \"f\"",
    ),
    (
        Invariant::Reference,
        "g (x) => () { y = Relu<a: int = @b>(x) }",
        "V10 in graph \"g\", attribute \"a\" of Relu -> \"y\": @b outside of a function",
    ),
    (
        Invariant::Reference,
        "g (x) => () { }
         <domain: \"local\", opset_import: [\"\" : 21]>
         f <a> (x) => (y) { y = If(x) <then = t () => (r) { r = Op <v: int = @b> () }> }",
        "the function has no attribute \"b\"",
    ),
    (
        Invariant::Shadowing,
        "g (x) => (y) { y = If(x) <then = t () => (x) { x = Const() }> }",
        "V15 in graph \"g\" > If -> \"y\" > \"t\", value \"x\", produced by Const -> \"x\": it hides in graph \"g\", value \"x\"",
    ),
    (
        Invariant::Shadowing,
        "g (x) => (y) { early = Neg(x) y = If(x) <then = t () => (r) { r = If(x) <then = u () => (early) { early = C() }> }> }",
        "> \"u\", value \"early\"",
    ),
    (
        Invariant::FunctionName,
        "g () => () { }
         <domain: \"local\", opset_import: [\"\" : 21]> f (x) => (x) { }
         <domain: \"local\", opset_import: [\"\" : 21]> f (y) => (y) { }",
        "V17 two functions are called (\"local\", \"f\", \"\")",
    ),
    (
        Invariant::FunctionName,
        "g () => () { } <domain: \"local\", opset_import: []> \"\" (x) => (x) { }",
        "V17 a function has no name",
    ),
    (
        Invariant::FunctionBody,
        "g () => () { } <domain: \"local\", opset_import: []> f (float x = {1}) => (x) { }",
        "V18 in graph \"f\", value \"x\": a constant in a function body",
    ),
    (
        Invariant::Recursion,
        "g () => () { }
         <domain: \"local\", opset_import: [\"local\" : 1, \"\" : 21]>
         f (x) => (y) { y = If(x) <then = t () => (r) { r = local.h(x) }> }
         <domain: \"local\", opset_import: [\"local\" : 1]> h (x) => (y) { y = local.f(x) }",
        "V19 the functions \"h\" and \"f\" call each other in a circle",
    ),
    (
        Invariant::FunctionAttr,
        "g () => () { } <domain: \"local\", opset_import: []> f <a, b, a: int = 1> (x) => (x) { }",
        "V20 the function \"f\" has the attribute \"a\" twice or without a name",
    ),
];

/// Sound, although they look like some of the above.
const SOUND: &[&str] = &[
    "g (x) => (y) { y = If(x) <then = t () => (r) { r = Neg(x) }, else = e () => (r) { r = Abs(x) }> }",
    // ONNX lets an inner graph's input and constant take an outer name, and an inner operator a name defined later.
    "g (x) => (y) { y = If(x) <then = t (x) => (late) <float w = {1}> { late = Neg(x) }> late = Abs(x) w = Neg(x) }",
    // The operator's own output is not visible inside it.
    "g (x) => (y) { y = If(x) <then = t () => (y) { y = Neg(x) }> }",
    "g (float[N,0] x, float[2] d = {1,2}) => (x, x) <float[2] w = {1,2}, float[M] w, sparse_tensor(float[2,2]) s = {float[2] {1,2}, int64[2,2] {0,1,1,0}}> { }",
    "g (x) => (y) { y = local.f <a = 1> (x) }
     <domain: \"local\", opset_import: [\"ai.onnx\" : 21]> f <a, b: int = 1> (x) => (y) { y = Relu <c: int = @a, d: int = @b> (x) }
     <domain: \"local\", overload: \"2\", opset_import: []> f (x) => (x) { }",
    // What nothing reads needs no definition.
    "g () => () { }",
];

#[test]
fn broken_texts_are_found_and_named() {
    for (invariant, source, says) in TEXTS {
        let model = with_header(source);
        let invalid = verify(&model).expect_err(source);
        let message = invalid.to_string();
        let found: BTreeSet<_> = invalid.0.iter().map(|violation| violation.invariant).collect();
        assert_eq!(found, BTreeSet::from([*invariant]), "{source}\n{message}");
        assert!(message.contains(says), "{source}\n{message}");
        assert_eq!(verify(&model), Err(invalid), "the same list again");
    }
}

#[test]
fn sound_models_pass() {
    for source in SOUND {
        let model = with_header(source);
        verify(&model).unwrap_or_else(|invalid| panic!("{source}\n{invalid}"));
        let mut settled = model.clone();
        settled.settle();
        verify(&settled).unwrap_or_else(|invalid| panic!("settled: {source}\n{invalid}"));
    }
    assert_eq!(verify(&parse(include_str!("text/plain.onnxtxt"))), Ok(()));
}

/// main: x -> If { then } -> y, the body reads x.
fn nested() -> (Model, GraphId) {
    let mut b = Builder::new(21);
    let x = b.input("x", "bool");
    let then = b.body("then", |b| {
        let inner = b.capture(x);
        let y = b.op("Not", &[inner]);
        b.output(y);
    });
    let y = b.add(Op::new("If").with("then_branch", then), &[Some(x)], 1)[0];
    b.output_as("y", y);
    let model = b.build();
    assert_eq!(verify(&model), Ok(()));
    (model, then)
}

/// Broken models that no text can say.
fn built() -> Vec<(Invariant, Model, &'static str)> {
    let mut cases = Vec::new();
    let mut case = |invariant, says, breaks: fn(&mut Model, GraphId)| {
        let (mut model, then) = nested();
        breaks(&mut model, then);
        cases.push((invariant, model, says));
    };
    case(Invariant::Holds, "a constant without elements", |model, _| {
        let main = model.main_mut();
        let w = main.add_initializer("w", Tensor::scalar(1f32)).unwrap();
        main.value_mut(w).data = None;
    });
    case(Invariant::Holds, "dense and sparse elements at once", |model, _| {
        let main = model.main_mut();
        let w = main.add_initializer("w", Tensor::from_slice(&[1], &[1f32]).unwrap()).unwrap();
        let [values, indices] = [Tensor::from_slice(&[1], &[1f32]), Tensor::from_slice(&[1], &[0i64])];
        let sparse = SparseTensor {
            dims: [1].into_iter().collect(),
            values: values.unwrap(),
            indices: indices.unwrap(),
        };
        main.value_mut(w).sparse = Some(Box::new(sparse));
    });
    case(Invariant::Holds, "a computed value with elements of its own", |model, _| {
        let y = model.main().find("y").unwrap();
        model.main_mut().value_mut(y).data = Some(Tensor::scalar(1f32));
    });
    case(Invariant::Holds, "a captured value with elements of its own", |model, then| {
        let x = model.graph(then).find("x").unwrap();
        model.graph_mut(then).value_mut(x).data = Some(Tensor::scalar(true));
    });
    case(Invariant::GraphHeld, "it holds the graph \"then\", which is held elsewhere too", |model, then| {
        let main = model.main_mut();
        let z = main.new_value("z", None);
        main.add_op(Op::new("If").with("then_branch", then), &[], &[Some(z)], Place::End).unwrap();
    });
    case(Invariant::GraphHeld, "the function \"f\" shares its body", |model, then| {
        let function =
            onnxq_ir::Function { name: "f".into(), domain: "d".into(), graph: then, ..Default::default() };
        model.functions = vec![function.clone(), onnxq_ir::Function { overload: "2".into(), ..function }];
    });
    case(Invariant::GraphHeld, "it holds a graph that the model has not", |model, then| {
        let branch = model.main().ops()[0];
        let held = model.main_mut().op_mut(branch).attrs.remove("then_branch");
        model.settle();
        assert!(!model.has_graph(then));
        model.main_mut().op_mut(branch).attrs.set("then_branch", held.unwrap());
    });
    case(Invariant::Parent, "its parent says otherwise", |model, then| model.set_parent(then, None));
    case(Invariant::Capture, "it stands for nothing in the surrounding graph", |model, then| {
        let x = model.graph(then).find("x").unwrap();
        let branch = model.main().ops()[0];
        model.main_mut().remove_capture(branch, then, x);
    });
    case(Invariant::Capture, "it is captured by a graph or for a value that is not there", |model, then| {
        let x = model.graph(then).find("x").unwrap();
        model.graph_mut(then).make_constant(x, Tensor::scalar(true));
    });
    case(Invariant::Capture, "the captured value stands for another one too", |model, then| {
        let x = model.graph(then).find("x").unwrap();
        let main = model.main_mut();
        let branch = main.ops()[0];
        let other = main.add_input("other", None).unwrap();
        main.add_capture(branch, then, x, other);
        model.graph_mut(then).rename(x, "other").unwrap();
    });
    case(Invariant::CaptureName, "it stands for \"renamed\"", |model, _| {
        let x = model.main().find("x").unwrap();
        model.main_mut().rename(x, "renamed").unwrap();
    });
    case(Invariant::Nesting, "it is inside itself", |model, _| {
        // Two graphs that hold each other, which nothing else holds.
        let [one, two] = [model.reserve_graph(), model.reserve_graph()];
        for (id, inner) in [(one, two), (two, one)] {
            let op = Op::new("If").with("then_branch", AttrValue::Graph(inner));
            model.graph_mut(id).add_op(op, &[], &[], Place::End).unwrap();
        }
        for (id, outer) in [(one, two), (two, one)] {
            let op = model.graph(outer).ops()[0];
            model.set_parent(id, Some((outer, op)));
        }
    });
    case(Invariant::OpsetOnce, "the model imports the domain \"ai.onnx\" twice", |model, _| {
        model.opsets.push(("ai.onnx".into(), 20));
    });
    case(Invariant::OpsetOnce, "the model imports version 0 of the domain \"d\"", |model, _| {
        model.opsets.push(("d".into(), 0));
    });
    cases
}

#[test]
fn broken_models_are_found_and_named() {
    for (invariant, model, says) in built() {
        let invalid = verify(&model).expect_err(says);
        assert!(invalid.0.iter().any(|found| found.invariant == invariant), "{says}\n{invalid}");
        assert!(invalid.to_string().contains(says), "{says}\n{invalid}");
    }
}

#[test]
fn every_invariant_has_a_fixture_and_a_number_of_its_own() {
    let texts = TEXTS.iter().map(|(invariant, ..)| *invariant);
    let covered: BTreeSet<_> = texts.chain(built().into_iter().map(|(invariant, ..)| invariant)).collect();
    assert_eq!(covered, Invariant::ALL.iter().copied().collect());
    for (at, invariant) in Invariant::ALL.iter().enumerate() {
        assert_eq!(invariant.code(), format!("V{:02}", at + 1));
        assert!(invariant.rule().ends_with('.'));
    }
}

#[test]
fn graphs_that_nothing_holds_are_left_to_settle() {
    let (mut model, _) = nested();
    let branch = model.main().ops()[0];
    model.main_mut().remove_op(branch);
    let y = model.main_mut().find("y").unwrap();
    model.main_mut().make_constant(y, Tensor::scalar(true));
    assert_eq!(verify(&model), Ok(()));
    model.settle();
    assert_eq!(verify(&model), Ok(()));
}

#[test]
fn settling_repairs_names_and_captures() {
    for source in [
        "g (x) => (y) { y = If(x) <then = t () => (x) { x = Const() }> }",
        "g (x) => (y) { y = If(x) <then = t () => (r) { x_1 = Const() r = If(x) <then = u () => (x) { x = C() }> }> }",
    ] {
        let mut model = with_header(source);
        assert!(verify(&model).is_err());
        model.settle();
        verify(&model).unwrap_or_else(|invalid| panic!("{source}\n{invalid}"));
    }
}

#[test]
fn a_large_model_is_checked_in_near_linear_time() {
    let mut b = Builder::new(21);
    let one = b.constant("one", Tensor::scalar(1f32));
    let mut last = b.input("x", "float[N]");
    for _ in 0..100_000 {
        last = b.op("Add", &[last, one]);
    }
    b.output_as("y", last);
    let model = b.build();
    assert_eq!(verify(&model), Ok(()));
    let again = text::parse(&text::print(&model)).unwrap();
    model.same(&again).unwrap_or_else(|difference| panic!("{difference}"));
}

#[test]
fn many_violations_print_as_a_list_with_an_end() {
    let ops: String = (0..50).map(|k| format!("y{k} = Op(ghost{k}) ")).collect();
    let invalid = verify(&with_header(&format!("g () => () {{ {ops} }}"))).unwrap_err();
    let message = invalid.to_string();
    assert_eq!((invalid.0.len(), message.lines().count()), (50, 21));
    assert!(message.ends_with("and 30 more"));
    let graph = Graph::new("empty");
    assert_eq!(verify(&Model::new(10, 21, graph)), Ok(()));
}
