//! Inference through small models: what is known about each value, as text.
//!
//! Each case is a model and the types of some of its values. Sizes in capitals or words are names; expressions are in the
//! canonical form of `ops::sym`.

use onnxq_ops as ops;

use ops::infer::{Inferred, Options, infer_model, shape};

/// Infers the main graph of a model of one graph.
fn infer(header: &str, body: &str) -> (ir::Model, Inferred) {
    let text = format!("<ir_version: 10, opset_import: [\"\" : 18]>\ng {header} {{\n{body}\n}}");
    let model = ir::text::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let inferred = infer_model(&model, &Options::default());
    (model, inferred)
}

/// Checks the types of values of the main graph, and that nothing was wrong.
fn check(header: &str, body: &str, expected: &[(&str, &str)]) {
    let (model, inferred) = infer(header, body);
    assert!(inferred.issues.is_empty(), "{:?}", inferred.issues);
    for (name, ty) in expected {
        let value = model.main().find(name).unwrap_or_else(|| panic!("no value {name}"));
        let found = inferred.written_type(model.main_id(), value);
        let found = found.as_ref().map_or("nothing".to_string(), shape::show_type);
        assert_eq!(found, *ty, "{name} in\n{body}");
    }
}

#[test]
fn sizes_follow_names() {
    check(
        "(float[batch, seq, 64] x) => (float[] y)",
        "a = Transpose <perm = [2, 0, 1]> (x)
         b = Flatten <axis = 2> (x)
         c = Concat <axis = 1> (x, x)
         y = MatMul (c, c)",
        &[("a", "float [64, batch, seq]"), ("b", "float [batch*seq, 64]"), ("c", "float [batch, 2*seq, 64]")],
    );
}

#[test]
fn shapes_computed_from_shapes() {
    // What exporters write to split heads: x [batch, seq, 64] to [batch, 8, seq, 8].
    check(
        "(float[batch, seq, 64] x) => (float[] y)",
        "s = Shape (x)
         zero = Constant <value_int = 0> ()
         one = Constant <value_int = 1> ()
         b = Gather <axis = 0> (s, zero)
         q = Gather <axis = 0> (s, one)
         axes = Constant <value_ints = [0]> ()
         b1 = Unsqueeze (b, axes)
         q1 = Unsqueeze (q, axes)
         heads = Constant <value_ints = [8, -1]> ()
         target = Concat <axis = 0> (b1, q1, heads)
         r = Reshape (x, target)
         t = Transpose <perm = [0, 2, 1, 3]> (r)
         twice = Mul (q, q)
         more = Add (twice, one)
         more1 = Unsqueeze (more, axes)
         y = ConstantOfShape (more1)
         n = Range (zero, q, one)
         flat = Constant <value_ints = [-1, 32]> ()
         f = Reshape (x, flat)
         back = Shape <start = 1, end = -1> (t)
         e = Expand (one, back)",
        &[
            ("r", "float [batch, seq, 8, 8]"),
            ("t", "float [batch, 8, seq, 8]"),
            ("y", "float [seq^2 + 1]"),
            ("n", "int64 [seq]"),
            ("f", "float [2*batch*seq, 32]"),
            ("e", "int64 [8, seq]"),
        ],
    );
}

#[test]
fn slices_of_named_sizes() {
    check(
        "(float[n, 10] x) => (float[] y)",
        "zero = Constant <value_ints = [0]> ()
         one = Constant <value_ints = [1]> ()
         far = Constant <value_ints = [9223372036854775807]> ()
         last = Constant <value_ints = [-1]> ()
         five = Constant <value_ints = [5]> ()
         two = Constant <value_ints = [2]> ()
         whole = Slice (x, zero, far)
         tail = Slice (x, one, far)
         head = Slice (x, zero, five)
         but_last = Slice (x, zero, last)
         even = Slice (x, zero, far, zero, two)
         reversed = Slice (x, last, far, one, one)
         s = Shape (x)
         axes = Constant <value_ints = [0, 1]> ()
         origin = Constant <value_ints = [0, 0]> ()
         y = Slice (x, origin, s, axes)",
        &[
            ("y", "float [n, 10]"),
            ("whole", "float [n, 10]"),
            ("tail", "float [max(0, n - 1), 10]"),
            ("head", "float [min(5, n), 10]"),
            ("but_last", "float [max(0, n - 1), 10]"),
            ("even", "float [floordiv(n + 1, 2), 10]"),
            ("reversed", "float [n, 1]"),
        ],
    );
}

#[test]
fn sizes_that_depend_on_data_have_names() {
    check(
        "(float[n, 3] x, float[?, 4] z) => (float[] y)",
        "where = NonZero (x)
         t = Transpose (where)
         g = GatherND (x, t)
         two = Concat <axis = 1> (t, t)
         y = Relu (z)",
        &[
            ("where", "int64 [2, where_count]"),
            ("t", "int64 [where_count, 2]"),
            ("g", "float [where_count]"),
            ("two", "int64 [where_count, 4]"),
            ("y", "float [z_d0, 4]"),
        ],
    );
}

#[test]
fn names_of_files_are_taken_as_they_are() {
    check(
        "(float[\"batch-size\", 3] x) => (float[] y)",
        "c = Concat <axis = 0> (x, x)
         y = Relu (x)",
        &[("c", "float [2*`batch-size`, 3]"), ("y", "float [batch-size, 3]")],
    );
}

#[test]
fn sequences_are_known_item_by_item() {
    check(
        "(float[2, 3] x, float[5, 3] z, int64 at, float[7] v) => (float[] y)",
        "one = Constant <value_int = 1> ()
         last = Constant <value_int = -1> ()
         e = SequenceEmpty ()
         s = SequenceInsert (e, x)
         t = SequenceInsert (s, z)
         first = SequenceInsert (t, v, one)
         a = SequenceAt (first, one)
         b = SequenceAt (first, last)
         c = SequenceAt (first, at)
         n = SequenceLength (first)
         axes = Constant <value_ints = [0]> ()
         n1 = Unsqueeze (n, axes)
         d = ConstantOfShape (n1)
         j = ConcatFromSequence <axis = 0> (t)
         erased = SequenceErase (first, one)
         k = ConcatFromSequence <axis = 0> (erased)
         three = Constant <value_int = 3> ()
         parts = SplitToSequence <axis = 0> (v, three)
         p = SequenceAt (parts, last)
         unsure = SequenceInsert (t, v, at)
         u = SequenceAt (unsure, one)
         y = Identity (a)",
        &[
            ("a", "float [7]"),
            ("b", "float [5, 3]"),
            ("c", "float of unknown rank"),
            ("d", "float [3]"),
            ("j", "float [7, 3]"),
            ("k", "float [7, 3]"),
            ("p", "float [1]"),
            ("u", "float of unknown rank"),
        ],
    );
}

#[test]
fn branches_agree_or_are_forgotten() {
    check(
        "(bool c, float[n, 3] x, float[m, 3] z) => (float[] y)",
        "y = If (c) <
             then_branch = g1 () => (float[] a) { a = Relu (x) },
             else_branch = g2 () => (float[] b) { b = Relu (z) }
         >
         same = If (c) <
             then_branch = g3 () => (float[] a) { a = Relu (x) },
             else_branch = g4 () => (float[] b) { b = Neg (x) }
         >",
        &[("y", "float [y_d0, 3]"), ("same", "float [n, 3]")],
    );
}

#[test]
fn loops_keep_what_every_round_keeps() {
    check(
        "(float[n, 3] x) => (float[] y)",
        "shape = Shape <end = 1> (x)
         trips = Squeeze (shape)
         yes = Constant <value = bool {1}> ()
         grown, kept, rows = Loop (trips, yes, x, x) <
             body = b (int64 i, bool go, float[k, 3] s, float[n, 3] t)
                 => (bool go_on, float[] s2, float[] t2, float[] row) {
                 go_on = Identity (go)
                 s2 = Concat <axis = 0> (s, t)
                 t2 = Relu (t)
                 row = ReduceSum <keepdims = 0> (t2)
             }
         >
         y = Relu (grown)",
        &[
            ("grown", "float [grown_d0, 3]"),
            ("kept", "float [n, 3]"),
            ("rows", "float [n]"),
            ("y", "float [grown_d0, 3]"),
        ],
    );
}

#[test]
fn what_is_wrong_is_listed_with_its_place() {
    let (_, inferred) = infer(
        "(float[2, 3] x) => (float[7, 7] y)",
        "t = MatMul (x, x)
         y = Transpose (x)
         z = Frobnicate (x)",
    );
    let all: Vec<String> = inferred.issues.iter().map(|issue| format!("{issue:?}")).collect();
    let found = |parts: &[&str]| all.iter().any(|issue| parts.iter().all(|part| issue.contains(part)));
    assert!(found(&["Wrong", "MatMul", "input 1", "3 rows", "float [2, 3]"]), "{all:?}");
    assert!(found(&["Contradiction", "Transpose", "float [7, 7]", "float [3, 2]"]), "{all:?}");
    assert!(found(&["Unsupported", "Frobnicate"]), "{all:?}");
}

#[test]
fn functions_are_looked_into_at_each_call() {
    let text = "<ir_version: 10, opset_import: [\"\" : 18, \"own\" : 1]>
        g (float[n, 3] x, float[m] z) => (float[] y) {
            y = own.twice <axis = 1> (x)
            u = own.twice <axis = 0> (z)
            c = own.places (x)
            d = own.places (z)
        }
        <domain: \"own\", opset_import: [\"\" : 18]>
        twice <axis> (a) => (b) { b = Concat <axis: int = @axis> (a, a) }
        <domain: \"own\", opset_import: [\"\" : 18]>
        places (a) => (b) { b = NonZero (a) }";
    let model = ir::text::parse(text).unwrap();
    let inferred = infer_model(&model, &Options::default());
    let ty = |name: &str| {
        let value = model.main().find(name).unwrap();
        shape::show_type(inferred.ty(model.main_id(), value).unwrap())
    };
    assert_eq!(ty("y"), "float [n, 6]");
    assert_eq!(ty("u"), "float [2*m]");
    // Two calls find two numbers of places, each under a name of its own.
    assert_eq!(ty("c"), "int64 [2, b_count]");
    assert_eq!(ty("d"), "int64 [1, b_2_count]");
}

#[test]
fn large_graphs_take_linear_time() {
    let chain = |length: usize| {
        let mut graph = ir::Graph::new("g");
        let ty = ir::text::parse_type("float[batch, seq, 64]").unwrap();
        let mut value = graph.add_input("x", Some(ty)).unwrap();
        for at in 0..length {
            let next = graph.add_computed(&format!("v{at}"), None).unwrap();
            let op = ir::Op::new(if at % 2 == 0 { "Relu" } else { "Add" });
            let inputs = if at % 2 == 0 { vec![Some(value)] } else { vec![Some(value), Some(value)] };
            graph.add_op(op, &inputs, &[Some(next)], ir::Place::End).unwrap();
            value = next;
        }
        graph.add_output(value);
        ir::Model::new(10, 18, graph)
    };
    let seconds = |length: usize| {
        let model = chain(length);
        let start = std::time::Instant::now();
        let inferred = infer_model(&model, &Options::default());
        assert!(inferred.issues.is_empty());
        start.elapsed().as_secs_f64()
    };
    let (small, large) = (seconds(10_000), seconds(100_000));
    // Ten times the operators; generous, because other work may share the machine.
    assert!(large < 40.0 * small.max(0.005), "{small} s for 10,000 operators, {large} s for 100,000");
}

#[test]
fn promised_sizes_are_solved_for() {
    // The number of elements that are not zero is open until the file says what becomes of it.
    check(
        "(float[n] x) => (float[10] y)",
        "at = NonZero (x)
         t = Transpose <perm = [1, 0]> (at)
         picked = GatherND (x, t)
         y = Concat <axis = 0> (picked, picked)",
        &[("at", "int64 [1, 5]"), ("picked", "float [5]"), ("y", "float [10]")],
    );
    // The caller chooses the sizes of inputs, named or not; what no size gives is no equation.
    check(
        "(float[n] x, float[?] z) => (float[10] y, float[10] w, float[7] v)",
        "y = Concat <axis = 0> (x, x)
         w = Concat <axis = 0> (z, z)
         at = NonZero (x)
         t = Transpose <perm = [1, 0]> (at)
         picked = GatherND (x, t)
         v = Concat <axis = 0> (picked, picked)",
        &[("x", "float [n]"), ("z", "float [z_d0]"), ("picked", "float [at_count]"), ("y", "float [10]")],
    );
}
