//! No bytes make the reader panic, hang, or allocate out of proportion.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Counts what a thread holds and the most it ever held.
struct Counting;

thread_local! {
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counter any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: everything is passed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes held while `work` runs, beyond those held before.
fn peak(work: impl FnOnce()) -> usize {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    work();
    HELD.with(|held| usize::try_from(held.get().1 - before).unwrap_or(0))
}

/// Bytes that reading may hold for each byte of the file: 64 for the messages (see the scanner), as much again for lists
/// that double as they grow, and the rest for the graph.
const MULTIPLE: usize = 192;
/// Bytes that reading may hold in any case.
const FREE: usize = 16 << 20;

fn read(bytes: Vec<u8>) -> Result<ir::Model, String> {
    let size = bytes.len();
    let mut result = Err(String::new());
    let held = peak(|| {
        result =
            onnxq_proto::read_bytes(bytes.into(), None).map(|loaded| loaded.model).map_err(|e| e.to_string());
    });
    assert!(held <= MULTIPLE * size + FREE, "{held} bytes held for a file of {size}");
    if let Err(error) = &result {
        assert!(!error.is_empty());
    }
    result
}

/// Small models with every kind of field.
fn seeds() -> Vec<Bytes> {
    let mut inner = common::graph(vec![common::node("Add", &["x", "w"], &["y"])], &[], &["y"]);
    inner.initializer = vec![common::floats("w", &[2], &[1.0, 2.0])];
    let mut choice = common::node("If", &["c"], &["r"]);
    choice.attribute.push(common::graph_attribute("then_branch", inner));
    let mut outer = common::graph(
        vec![common::node("Relu", &["a"], &["x"]), choice, common::node("Clip", &["r", "", "x"], &["z"])],
        &["a", "c"],
        &["z"],
    );
    outer.value_info = vec![common::info("x", &[2]), common::info("r", &[2])];
    outer.initializer = vec![common::external("e", &[2], "w.bin", "0", "8")];
    let mut model = common::model(outer);
    let inline = {
        let mut model = model.clone();
        model.graph.as_mut().expect("a graph").initializer.clear();
        common::encode(&model)
    };
    model.producer_name = Some("seed".into());
    let mut seeds = vec![common::encode(&model), inline];
    for path in common::fixtures() {
        let bytes = std::fs::read(path).expect("a fixture");
        if bytes.len() < 64 << 10 {
            seeds.push(bytes.into());
        }
    }
    assert!(seeds.len() >= 4);
    seeds
}

/// One to four edits: bytes changed, inserted, removed, copied from elsewhere; then perhaps the end cut off.
fn mutate(seed: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..=4) {
        if bytes.is_empty() {
            break;
        }
        // Structure stands at the start of most files, weights behind it: prefer the start.
        let end = if random.random_bool(0.5) { bytes.len().min(600) } else { bytes.len() };
        let at = random.random_range(0..end);
        match random.random_range(0..6) {
            0 => bytes[at] = random.random(),
            1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes.insert(at, random.random()),
            3 => {
                bytes.remove(at);
            }
            4 => {
                let from = random.random_range(0..bytes.len());
                let length = random.random_range(0..32).min(bytes.len() - from);
                let piece = bytes[from..from + length].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes[at] = *[0x00, 0x7F, 0x80, 0xFF].get(random.random_range(0..4)).unwrap_or(&0),
        }
    }
    if random.random_bool(0.25) {
        bytes.truncate(random.random_range(0..=bytes.len()));
    }
    bytes
}

#[test]
fn mutants_are_read_or_refused() {
    let mut random = StdRng::seed_from_u64(20_261_121);
    let seeds = seeds();
    let (mut read_back, mut refused) = (0, 0);
    for at in 0..20_000 {
        let bytes = mutate(&seeds[at % seeds.len()], &mut random);
        let Ok(mut model) = read(bytes) else {
            refused += 1;
            continue;
        };
        read_back += 1;
        // What was read can be written, and that can be read again and comes out the same.
        model.dropped.clear();
        let written = onnxq_proto::to_bytes(&model).expect("what was read can be written");
        let again = read(written.clone()).expect("what was written can be read");
        assert!(onnxq_proto::to_bytes(&again).expect("and written again") == written);
    }
    // Both happen often enough for the test to mean something (names are long, so most edits break one).
    assert!(read_back > 500 && refused > 500, "{read_back} read, {refused} refused");
}

#[test]
fn every_truncation_is_read_or_refused() {
    for seed in seeds().iter().filter(|seed| seed.len() < 8 << 10) {
        for length in 0..seed.len() {
            let _ = read(seed[..length].to_vec());
        }
    }
}

/// `payload` as length-delimited field `number`.
fn field(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut bytes);
    prost::encoding::encode_varint(payload.len() as u64, &mut bytes);
    bytes.extend(payload);
    bytes
}

#[test]
fn deep_nesting_is_refused() {
    // Graph in attribute in node in graph ..., 20,000 levels.
    let mut graph = Vec::new();
    for _ in 0..20_000 {
        graph = field(1, &field(5, &field(6, &graph)));
        graph.truncate(60_000);
    }
    let mut nested = Vec::new();
    for _ in 0..200 {
        nested = field(1, &field(5, &field(6, &nested)));
    }
    for graph in [graph, nested] {
        let error = read(field(7, &graph)).expect_err("too deep");
        assert!(error.contains("nested deeper than 96 messages") || error.contains("a length of"), "{error}");
    }
    // Sequence of sequence of ...: types nest too.
    let mut ty = Vec::new();
    for _ in 0..500 {
        ty = field(4, &field(1, &ty));
    }
    let error = read(field(7, &field(11, &field(2, &ty)))).expect_err("too deep");
    assert!(error.contains("nested deeper than 96 messages"), "{error}");
}

/// The deepest nesting that is allowed: 31 graphs in one another, in a thread with a usual stack.
#[test]
fn nesting_up_to_the_limit_is_read_and_written() {
    let mut inner = common::graph(vec![common::node("Neg", &["a"], &["r0"])], &[], &["r0"]);
    for level in 1..31 {
        let mut choice = common::node("If", &["a"], &[&format!("r{level}")]);
        choice.attribute.push(common::graph_attribute("then_branch", inner));
        inner = common::graph(vec![choice], &[], &[&format!("r{level}")]);
    }
    inner.input.push(common::info("a", &[2]));
    inner.output.clear();
    let bytes = common::encode(&common::model(inner));
    let model = read(bytes.to_vec()).expect("it reads");
    assert_eq!(model.graph_ids().len(), 31);
    assert!(onnxq_proto::to_bytes(&model).expect("it writes") == bytes);
}

#[test]
fn lies_and_nonsense_on_the_wire_are_refused() {
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            vec![0x3A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F],
            "in ModelProto.graph: a length of 4294967295 bytes, where 0 are left",
        ),
        (vec![0x3A, 0xFF], "in ModelProto.graph: a broken length"),
        (vec![0x08], "in ModelProto.ir_version: a broken number"),
        (vec![0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01], "a broken number"),
        (vec![0x80], "a broken field key"),
        (vec![0x00, 0x00], "field number 0 is impossible"),
        (vec![0x3B], "wire type 3"),
        (vec![0x3F], "wire type 7"),
        (vec![0x0D, 1, 2], "the message ends inside a number"),
        (b"not a model at all, but a text file\n".to_vec(), "not a readable ONNX file"),
        (field(7, &field(2, b"\xFF\xFE")), "UTF-8"),
    ];
    for (bytes, expected) in cases {
        let error = read(bytes).expect_err(expected);
        assert!(error.contains(expected), "{error}\nexpected: {expected}");
    }
}

#[test]
fn files_that_decode_to_far_more_than_they_are_get_refused() {
    // Two bytes each: empty nodes, initializers, inputs, attributes.
    let many = |number: u32| [number as u8 * 8 + 2, 0].repeat(4 << 20);
    for graph in [many(1), many(5), many(11), field(1, &many(5))] {
        let Err(error) = read(field(7, &graph)) else { panic!("too much was read") };
        assert!(error.contains("bytes of memory: refused"), "{error}");
    }
    // A caller may set the limit.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("m.onnx");
    std::fs::write(&path, &seeds()[1]).expect("it writes");
    for (memory, reads) in [(1000, false), (100_000, true)] {
        let options = onnxq_proto::ReadOptions { memory: Some(memory) };
        assert_eq!(onnxq_proto::read(&path, &options).is_ok(), reads);
    }
}

#[test]
fn fields_newer_than_the_schema_are_noted() {
    let model = common::encode(&common::model(common::graph(
        vec![common::node("Relu", &["a"], &["b"])],
        &["a"],
        &["b"],
    )));
    let mut newer = model.to_vec();
    newer.extend(field(99, b"new"));
    newer.extend(field(7, &field(1, &[field(4, b"Relu"), field(33, b"new")].concat())));
    let loaded = onnxq_proto::read_bytes(newer.into(), None).expect("it reads");
    assert_eq!(loaded.model.dropped, ["field 99 of ModelProto (1 times)", "field 33 of NodeProto (1 times)"]);
    assert_eq!(loaded.notes.len(), 2);
    let mut newer = model.to_vec();
    newer.extend([0x08, 15]);
    let loaded = onnxq_proto::read_bytes(newer.into(), None).expect("it reads");
    assert_eq!(loaded.model.dropped, ["IR version 15 is newer than 14"]);
}

/// A model in memory takes less than a kilobyte an operator, and writing it next to nothing: a file of nothing but structure
/// is the worst there is.
#[test]
fn structure_takes_little_memory() {
    const NODES: usize = 5000;
    let name = |at: usize| format!("/layers/{at}/relu");
    let nodes = (0..NODES).map(|at| common::node("Relu", &[&name(at)], &[&name(at + 1)])).collect();
    let graph = common::graph(nodes, &[&name(0)], &[&name(NODES)]);
    let bytes = common::encode(&common::model(graph));
    let mut model = None;
    let reading = peak(|| model = onnxq_proto::read_bytes(bytes.clone(), None).ok());
    let model = model.expect("it reads").model;
    assert!(reading <= 1000 * NODES, "{} bytes an operator to read", reading / NODES);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("m.onnx");
    let writing = peak(|| {
        onnxq_proto::write(&model, &path, &Default::default()).expect("it writes");
    });
    // 64 KiB are gathered before each write; the rest is the order of the operators.
    assert!(writing <= (128 << 10) + 100 * NODES, "{} bytes an operator to write", writing / NODES);
    assert!(std::fs::read(&path).expect("it is there") == bytes);
}
