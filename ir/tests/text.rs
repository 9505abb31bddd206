//! The text form: round trips, what is tolerated, what is refused and how.

use onnxq_ir::text::{self, Numbers, Style};
use onnxq_ir::{AttrValue, DType, Model, Role, StrayList, Tensor, Type, TypeKind};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const PLAIN: &str = include_str!("text/plain.onnxtxt");
const EXTENDED: &str = include_str!("text/extended.onnxtxt");

#[track_caller]
fn parse(text: &str) -> Model {
    text::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn same(left: &Model, right: &Model) {
    left.same(right).unwrap_or_else(|difference| panic!("{difference}"));
    right.same(left).unwrap_or_else(|difference| panic!("{difference}"));
}

/// A model around this body, with inputs `x` and `c`.
fn around(body: &str) -> String {
    format!("<ir_version: 10, opset_import: [\"\" : 21]> g (x, c) => () {{ {body} }}")
}

#[track_caller]
fn error(text: &str) -> String {
    match text::parse(text) {
        Ok(_) => panic!("no error in {text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn fixtures_round_trip() {
    for fixture in [PLAIN, EXTENDED] {
        let model = parse(fixture);
        let printed = text::print(&model);
        let again = parse(&printed);
        same(&model, &again);
        assert_eq!(text::print(&again), printed, "printing is stable");
        let values = text::print_with(&model, &Style { numbers: Numbers::Values, largest: None });
        same(&model, &parse(&values));
    }
}

/// A fixture is what its model prints, below a line of explanation; `BLESS=1` writes it anew.
#[test]
fn fixtures_are_written_as_they_are_printed() {
    for (name, fixture) in [("plain", PLAIN), ("extended", EXTENDED)] {
        let (head, body) = fixture.split_once('\n').unwrap();
        let printed = text::print(&parse(body));
        if std::env::var_os("BLESS").is_some() {
            let path = format!("{}/tests/text/{name}.onnxtxt", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(path, format!("{head}\n{printed}")).unwrap();
        } else {
            assert_eq!(printed, body);
        }
    }
}

#[test]
fn a_model_needs_no_header_and_no_types() {
    let model = parse("g (x) => (y) { y = Relu(x) }");
    assert_eq!((model.ir_version, model.opsets.len(), &*model.main().name), (0, 0, "g"));
    assert_eq!(model.main().value(model.main().find("x").unwrap()).ty, None);
}

#[test]
fn gaps_are_empty_names_or_bare_commas() {
    let cases = [
        ("Op(x, \"\", c)", vec![true, false, true]),
        ("Op(, x)", vec![false, true]),
        ("Op(x, , c,)", vec![true, false, true]),
        ("Op(,)", vec![false]),
        ("Op(\"\")", vec![false]),
        ("Op()", vec![]),
    ];
    for (op, expected) in cases {
        let model = parse(&around(&format!("y = {op}")));
        let main = model.main();
        let found: Vec<bool> = main.op_inputs(main.ops()[0]).iter().map(Option::is_some).collect();
        assert_eq!(found, expected, "{op}");
    }
}

#[test]
fn an_attribute_tells_its_type_by_its_value() {
    let cases = [
        ("1", "int"),
        ("1.0", "float"),
        ("1e3", "float"),
        ("-inf", "float"),
        ("NaN", "float"),
        ("\"a\"", "string"),
        ("x\"ff\"", "string"),
        ("[1, 2]", "ints"),
        ("[1, 2.5]", "floats"),
        ("[nan]", "floats"),
        ("[\"a\"]", "strings"),
        ("float[1] {1}", "tensor"),
        ("float = {1}", "tensor"),
        ("float[1] name = {1}", "tensor"),
        ("[float[1] {1}]", "tensors"),
        ("float[N]", "type_proto"),
        ("[seq(float), untyped]", "type_protos"),
        ("sparse_tensor(float)", "type_proto"),
        ("sparse_tensor(float[2]) {float[0] {}, int64[0] {}}", "sparse_tensor"),
        ("body () => () { }", "graph"),
        ("\"a body\" () => () { }", "graph"),
        ("[a () => () { }, \"b\" () => () { }]", "graphs"),
    ];
    for (value, kind) in cases {
        let plain = parse(&around(&format!("y = Op <a = {value}> (x)")));
        let typed = parse(&around(&format!("y = Op <a: {kind} = {value}> (x)")));
        plain.same(&typed).unwrap_or_else(|difference| panic!("{value}: {difference}"));
    }
}

#[test]
fn numbers_of_small_types_are_read_in_every_form() {
    let cases: &[(&str, &[u8])] = &[
        ("int4[3] w = {1,-2,7}", &[0xe1, 0x07]),
        ("int4[3] w = {225,7}", &[0xe1, 0x07]),
        ("int4[1] w = {-8}", &[0x08]),
        ("int4[1] w = {248}", &[0xf8]),
        ("uint4[2] w = {15,1}", &[0x1f]),
        ("int2[5] w = {-2,-1,0,1,1}", &[0b01_00_11_10, 1]),
        ("uint2[4] w = {3,2,1,0}", &[0b00_01_10_11]),
        ("float4e2m1[2] w = {0.5,-6.0}", &[0xf1]),
        ("float4e2m1[1] w = {-0.0}", &[0x08]),
        ("float6e2m3[2] w = {0.125,-7.5}", &[0xc1, 0x0f]),
        ("float8e4m3fn[2] w = {448.0,126}", &[126, 126]),
        ("float8e4m3fn[2] w = {nan,-nan}", &[0x7f, 0xff]),
        ("float8e5m2[2] w = {-inf,1.0}", &[0xfc, 0x3c]),
        ("float8e8m0[1] w = {2.0}", &[128]),
        ("float16[2] w = {1.0,0.1}", &[0x00, 0x3c, 0x66, 0x2e]),
        ("float16[1] w = {15360}", &[0x00, 0x3c]),
        ("bfloat16[2] w = {1.0,-inf}", &[0x80, 0x3f, 0x80, 0xff]),
        ("bool[2] w = {1,0}", &[1, 0]),
        ("uint8[2] w = {255,0}", &[255, 0]),
        ("int8[1] w = {-128}", &[128]),
        ("float[1] w = {1}", &[0, 0, 0x80, 0x3f]),
        ("complex64[1] w = {1,-1}", &[0, 0, 0x80, 0x3f, 0, 0, 0x80, 0xbf]),
    ];
    for (entry, expected) in cases {
        let model = parse(&format!("g () => () <{entry}> {{ }}"));
        let main = model.main();
        let tensor = main.constant(main.find("w").unwrap()).unwrap();
        assert_eq!(tensor.bytes().as_ref(), *expected, "{entry}");
        for numbers in [Numbers::Stored, Numbers::Values] {
            let printed = text::print_with(&model, &Style { numbers, largest: None });
            same(&model, &parse(&printed));
        }
    }
}

/// Every code of every type of 16 bits or fewer survives both ways of writing.
#[test]
fn every_element_of_the_small_types_round_trips() {
    for &dtype in DType::ALL.iter().filter(|dtype| (1..=16).contains(&dtype.bits())) {
        let bytes: Vec<u8> = match dtype.bits() {
            16 => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
            // 256 bytes are a whole number of 6-bit groups of three less one byte.
            6 => (0..=254).collect(),
            _ => (0..=255).collect(),
        };
        let count = bytes.len() * 8 / dtype.bits();
        let mut graph = onnxq_ir::Graph::new("g");
        graph.add_initializer("w", Tensor::new(dtype, vec![count], bytes).unwrap()).unwrap();
        let model = Model::new(14, 26, graph);
        for numbers in [Numbers::Stored, Numbers::Values] {
            let printed = text::print_with(&model, &Style { numbers, largest: None });
            same(&model, &parse(&printed));
        }
    }
}

#[test]
fn inner_graphs_capture_what_they_do_not_define() {
    let model = parse(&around(
        "y = If (c) <then = t () => (r) { r = If (c) <then = tt () => (q) { q = Add(x, x) } > }, else = e () => (x) { }>",
    ));
    let main = model.main();
    let op = main.ops()[0];
    let captures = main.captures(op);
    let inner: Vec<_> = captures.iter().map(|&(_, _, outer)| main.value(outer).name().to_string()).collect();
    assert_eq!(inner, ["c", "x", "x"]);
    let then = main.op(op).attrs.graph("then").unwrap();
    let deep = model.graph(then).op(model.graph(then).ops()[0]).attrs.graph("then").unwrap();
    let graph = model.graph(deep);
    let x = graph.find("x").unwrap();
    assert_eq!((graph.value(x).role(), graph.uses(x).len()), (Role::Captured, 2));
    let (outer, value) = model.outer(deep, x).unwrap();
    assert_eq!(outer, then);
    assert_eq!(model.outer(then, value).unwrap().0, model.main_id());
}

#[test]
fn inner_names_hide_outer_ones_and_later_definitions_count() {
    let model = parse(&around("y = If (c) <then = t () => (x) { x = Neg(late) }> late = Abs(x)"));
    let main = model.main();
    let then = main.op(main.ops()[0]).attrs.graph("then").unwrap();
    let graph = model.graph(then);
    assert_eq!(graph.value(graph.outputs()[0]).role(), Role::Computed);
    let late = graph.find("late").unwrap();
    assert_eq!(model.outer(then, late).map(|(_, value)| value), main.find("late"));
}

#[test]
fn names_that_nothing_defines_are_read_as_dangling_values() {
    let model = parse("g () => (nowhere) <float[2] stray> { y = Add(ghost, ghost) }");
    let main = model.main();
    for name in ["ghost", "nowhere"] {
        let value = main.find(name).unwrap();
        assert_eq!((main.value(value).role(), main.producer(value)), (Role::Computed, None));
    }
    assert_eq!((main.strays.len(), main.strays[0].list), (1, StrayList::Info));
    let again = parse(&text::print(&model));
    same(&model, &again);
    assert_eq!(again.main().strays, main.strays);
}

#[test]
fn types_of_constants_and_defaults_are_kept_apart_from_their_data() {
    let source = "g (float[N] a, float[1] b = {1}, c) => (w, float[2] v)
        <float[2] a = {1,2}, float[3] c = {1,2,3}, float[2] w = {1,2}, float[?] w, float[2] v = {3,4}> { }";
    // `w` is listed once without a type and once with one.
    let model = parse(source);
    let main = model.main();
    let look = |name: &str| {
        let value = main.value(main.find(name).unwrap());
        (value.role(), value.ty.as_ref().map(text::print_type), value.data.as_ref().map(Tensor::elements))
    };
    assert_eq!(look("a"), (Role::Input, Some("float[N]".into()), Some(2)));
    assert_eq!(look("b"), (Role::Input, Some("float[1]".into()), Some(1)));
    assert_eq!(look("c"), (Role::Input, None, Some(3)));
    assert_eq!(look("w"), (Role::Initializer, Some("float[?]".into()), Some(2)));
    assert_eq!(look("v"), (Role::Initializer, Some("float[2]".into()), Some(2)));
    same(&model, &parse(&text::print(&model)));
}

#[test]
fn large_tensors_print_as_a_digest_that_is_not_read() {
    let mut model = parse(
        "g () => () <float[4] w = {1,2,3,4}, float[3] v = {1,2,3}, string[4] s = {\"a\",\"bc\",\"\",\"d\"}> { }",
    );
    let style = Style { largest: Some(3), ..Style::full() };
    let printed = text::print_with(&model, &style);
    assert!(printed.contains("float[3] v = {1,2,3}"), "{printed}");
    assert!(printed.contains("float[4] w = {... 16 bytes, sha256 "), "{printed}");
    assert!(printed.contains("string[4] s = {... 4 bytes, sha256 "), "{printed}");
    assert!(error(&printed).contains("left out when this text was printed"));
    let main = model.main_mut();
    let w = main.find("w").unwrap();
    main.value_mut(w).data = Some(Tensor::from_slice(&[4], &[1f32, 2.0, 3.0, 5.0]).unwrap());
    assert_ne!(text::print_with(&model, &style), printed);
}

#[test]
fn single_graphs_operators_and_types_print_alone() {
    let model = parse(&around("[n] y = Op <a: int = 1> (x)"));
    let main = model.main();
    assert_eq!(
        text::print_op(&model, model.main_id(), main.ops()[0], &Style::brief()),
        "[n] y = Op <a: int = 1> (x)"
    );
    assert_eq!(
        text::print_graph(&model, model.main_id(), &Style::full()),
        "g (x, c) => () {\n   [n] y = Op <a: int = 1> (x)\n}"
    );
    assert_eq!(text::print_type(&Type::new(TypeKind::None)), "untyped");
}

#[test]
fn errors_say_where_and_what() {
    let cases = [
        ("", "line 1, column 1: expected a name, found the end"),
        ("g", "line 1, column 2: expected '(', found the end"),
        ("g (x y) => () {}", "line 1, column 6: expected ',' or ')', found `y`"),
        ("g (x) -> () {}", "line 1, column 7: expected '=>', found `-`"),
        ("g () => () {\n  y = Relu(x\n}", "line 3, column 1: expected ')', found `}`"),
        ("g () => () {\n  y Relu(x) }", "line 2, column 5: expected '=', found `Relu`"),
        ("g () => () { y = (x) }", "line 1, column 18: expected a name, found `(`"),
        (
            "<ir_version: 3.5> g () => () {}",
            "line 1, column 14: expected a whole number that fits int64, found `3.5`",
        ),
        (
            "<overload: \"x\"> g () => () {}",
            "line 1, column 2: expected one of ir_version, opset_import, producer_name, producer_version, domain, model_version, doc_string, metadata_props, found `overload`",
        ),
        ("g (float[N] x = {1}) => () {}", "line 1, column 4: a constant needs fixed sizes, found `float`"),
        ("g (float[] x = {1}) => () {}", "line 1, column 4: a constant needs fixed sizes, found `float`"),
        ("g (float[-1] x = {1}) => () {}", "line 1, column 4: a constant needs fixed sizes, found `float`"),
        ("g (seq(float) x = {1}) => () {}", "line 1, column 4: a constant needs a tensor type, found `seq`"),
        ("g (x = {1}) => () {}", "line 1, column 4: a constant needs a type before its name, found `x`"),
        ("g (float[2] x = {1}) => () {}", "line 1, column 18: float[2] needs 2 numbers, not 1, found `1`"),
        ("g (int8 x = {300}) => () {}", "line 1, column 14: this number is no int8, found `300`"),
        ("g (float x = {1e99}) => () {}", "line 1, column 15: this number is no float, found `1e99`"),
        (
            "g (float8e4m3fn x = {0.3}) => () {}",
            "line 1, column 22: this number is no float8e4m3fn, found `0.3`",
        ),
        ("g () => (float[1] y = {1}) {}", "line 1, column 19: an output cannot have a default, found `y`"),
        ("g (x, x) => () {}", "line 1, column 7: this name is defined twice, found `x`"),
        ("g () => () { y = A() y = B() }", "line 1, column 22: this name is defined twice, found `y`"),
        (
            "g (float a) => (int64 a) {}",
            "line 1, column 23: this value is declared twice with different types, found `a`",
        ),
        (
            "g () => () { y = A<a: number = 1>() }",
            "line 1, column 23: expected an attribute type (float, int, string, tensor, graph, floats, ints, strings, tensors, graphs, sparse_tensor, sparse_tensors, type_proto, type_protos), found `number`",
        ),
        (
            "g () => () { y = A<a = []>() }",
            "line 1, column 25: an empty list needs an attribute type, found `]`",
        ),
        ("g () => () { y = A<a: int = \"s\">() }", "line 1, column 29: expected a number, found `\"s\"`"),
        (
            "g () => () { y = A<a: ints = [1, 2.5]>() }",
            "line 1, column 34: expected a whole number that fits int64, found `2.5`",
        ),
        (
            "g () => () { y = A<s = \"open>() }",
            "line 1, column 24: this string does not end, found `\"open>() }`",
        ),
        (
            "g () => () <float[2] w = [\"location\": \"w.bin\"]> {}",
            "line 1, column 26: external data cannot be read here: read the ONNX file, found `[`",
        ),
        (
            "#@ wat: 1\ng () => () {}",
            "line 1, column 4: expected a note on doc, metadata, annotation, found `wat`",
        ),
        ("#@ doc: \"a\" \"b\"\ng () => () {}", "line 1, column 13: expected the end, found `\"b\"`"),
        (
            "g () => () { #@ type: float\n y = A() }",
            "line 1, column 17: expected a note on doc, metadata, opaque, found `type`",
        ),
        ("g () => () { #@ doc: \"d\"\n }", "line 2, column 2: expected '=', found `}`"),
    ];
    for (source, expected) in cases {
        assert_eq!(error(source), expected, "{source}");
    }
}

#[test]
fn nesting_is_limited() {
    let deep = |count: usize| format!("g ({}float{} x) => () {{}}", "seq(".repeat(count), ")".repeat(count));
    assert!(text::parse(&deep(98)).is_ok());
    assert!(error(&deep(100_000)).contains("nested more than 100 levels deep"));
    let open = "y = If(x) <g = g () => () {".repeat(100_000);
    assert!(error(&format!("g () => () {{ {open}")).contains("nested more than 100 levels deep"));
    let lists = format!("g () => () {{ y = A <a = {}", "[".repeat(100_000));
    assert!(text::parse(&lists).is_err());
}

#[test]
fn sizes_that_ask_for_too_much_are_refused_before_anything_is_allocated() {
    let huge = "g () => () <float[4000000000,4000000000,4000000000] w = {1}> {}";
    assert!(error(huge).contains("overflow"), "{}", error(huge));
    assert!(error("g () => () <float[4000000000] w = {1}> {}").contains("needs 4000000000 numbers"));
    assert!(error("g () => () <int4[4000000000] w = {1}> {}").contains("or 2000000000 packed bytes"));
    for empty in ["int4[0]", "float[0,3]", "string[0]"] {
        let element = if empty.starts_with('s') { "\"\"" } else { "1" };
        assert!(
            error(&format!("g () => () <{empty} w = {{{element}}}> {{}}")).contains("needs 0 "),
            "{empty}"
        );
    }
}

/// Mutants of the fixtures: every one is a model or an error, and a model prints and reads again.
#[test]
fn mutants_never_panic() {
    let mut rng = StdRng::seed_from_u64(7);
    let fixtures = [PLAIN.as_bytes(), EXTENDED.as_bytes()];
    let pieces: &[&str] = &[
        "(",
        ")",
        "{",
        "}",
        "<",
        ">",
        "[",
        "]",
        "=",
        "=>",
        ",",
        ":",
        "@",
        "?",
        "\"",
        "\\",
        "#@ ",
        "#",
        "\n",
        "-",
        ".",
        "...",
        "x\"",
        "nan(",
        "float",
        "seq(",
        "1e999",
        "99999999999999999999",
        "é",
        "\0",
        "doc:",
        "undefined",
    ];
    let mut models = 0;
    for round in 0..20_000 {
        let mut bytes = fixtures[round % 2].to_vec();
        // Small texts reach more of the parser: cut a random window out of most.
        if round % 4 != 0 {
            let from = rng.random_range(0..bytes.len());
            let to = rng.random_range(from..=bytes.len().min(from + 400));
            bytes = bytes[from..to].to_vec();
            bytes.splice(0..0, *b"g (x, c) => () { ");
        }
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..=bytes.len());
            let end = rng.random_range(at..=bytes.len().min(at + 12));
            match rng.random_range(0..5) {
                0 => _ = bytes.drain(at..end),
                1 => _ = bytes.splice(at..at, pieces[rng.random_range(0..pieces.len())].bytes()),
                2 => bytes.truncate(at),
                3 => _ = bytes.splice(at..at, bytes[at..end].to_vec()),
                _ => bytes[..at].iter_mut().rev().take(1).for_each(|byte| *byte = rng.random_range(32..127)),
            }
        }
        let source = String::from_utf8_lossy(&bytes);
        if let Ok(model) = text::parse(&source) {
            models += 1;
            let printed = text::print(&model);
            let again = text::parse(&printed).unwrap_or_else(|error| panic!("{error}\n{source}\n{printed}"));
            again.same(&model).unwrap_or_else(|difference| panic!("{difference}\n{source}\n{printed}"));
        }
    }
    // Enough survive for the round trip to mean something.
    assert!(models > 200, "{models}");
}

#[test]
fn references_keep_their_type_code() {
    let model = parse(&around("y = A <a: \"-3\" = @p, b = @\"odd name\", c: graph = @q> (x)"));
    let main = model.main();
    let kinds: Vec<_> = main.op(main.ops()[0]).attrs.iter().map(|attr| attr.value.clone()).collect();
    let reference = |name: &str, kind| AttrValue::Reference { name: name.into(), kind };
    assert_eq!(kinds, [reference("p", -3), reference("odd name", 0), reference("q", 5)]);
    same(&model, &parse(&text::print(&model)));
}
