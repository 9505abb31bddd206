//! External data: several tensors a file, contained paths, clear errors; and writing them.

mod common;

use std::fs;
use std::path::Path;

use common::pb;
use common::{external, floats, graph, model, node};
use onnxq_proto::{External, Layout, ProtoError, WriteOptions};

/// A folder `m` with a file of twelve bytes `m/w.bin`, and beside the folder a file `secret.bin`.
fn folder() -> tempfile::TempDir {
    let outer = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(outer.path().join("m")).unwrap();
    let elements: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    fs::write(outer.path().join("m/w.bin"), elements).unwrap();
    fs::write(outer.path().join("secret.bin"), [0; 64]).unwrap();
    outer
}

fn with_tensors(tensors: Vec<pb::TensorProto>) -> pb::ModelProto {
    let mut graph = graph(vec![node("Identity", &["a"], &["b"])], &["a"], &["b"]);
    graph.initializer = tensors;
    model(graph)
}

fn read(outer: &Path, tensors: Vec<pb::TensorProto>) -> Result<ir::Model, ProtoError> {
    let path = outer.join("m/model.onnx");
    fs::write(&path, common::encode(&with_tensors(tensors))).unwrap();
    onnxq_proto::read(&path, &Default::default()).map(|loaded| loaded.model)
}

fn elements(model: &ir::Model, name: &str) -> Vec<f32> {
    let graph = model.main();
    graph.constant(graph.find(name).expect(name)).expect(name).to_vec().expect("floats")
}

#[test]
fn several_tensors_share_a_file() {
    let outer = folder();
    let tensors = vec![
        external("all", &[3], "w.bin", "", ""),
        external("second", &[1], "w.bin", "4", "4"),
        external("tail", &[2], "./w.bin", " 4", "8"),
        external("none", &[0], "w.bin", "12", "0"),
    ];
    let model = read(outer.path(), tensors).expect("it reads");
    assert_eq!(elements(&model, "all"), [1.0, 2.0, 3.0]);
    assert_eq!(elements(&model, "second"), [2.0]);
    assert_eq!(elements(&model, "tail"), [2.0, 3.0]);
    assert_eq!(elements(&model, "none"), [0.0; 0]);
}

#[test]
fn bad_references_are_refused_with_a_reason() {
    let outer = folder();
    fs::create_dir(outer.path().join("m/sub")).unwrap();
    let absolute = outer.path().join("m/w.bin");
    let absolute = absolute.to_str().unwrap();
    let cases = [
        (external("w", &[3], "missing.bin", "", ""), "No such file"),
        (external("w", &[3], "", "0", "12"), "no location is given"),
        (external("w", &[3], "../secret.bin", "", ""), "must be relative"),
        (external("w", &[3], "sub/../../secret.bin", "", ""), "must be relative"),
        (external("w", &[3], "sub/../w.bin", "", ""), "must be relative"),
        (external("w", &[3], absolute, "", ""), "must be relative"),
        (external("w", &[3], "w.bin\0.txt", "", ""), "must be relative"),
        (external("w", &[3], "sub", "", ""), "not a regular file"),
        (external("w", &[3], "w.bin", "4", "12"), "12 bytes at offset 4 are not inside the file of 12 bytes"),
        (external("w", &[4], "w.bin", "", ""), "16 bytes at offset 0 are not inside"),
        (external("w", &[3], "w.bin", "18446744073709551615", "12"), "are not inside"),
        (external("w", &[3], "w.bin", "-4", "12"), "offset is \"-4\""),
        (external("w", &[3], "w.bin", "four", "12"), "offset is \"four\""),
        (external("w", &[3], "w.bin", "0", "99999999999999999999"), "length is"),
        (external("w", &[2], "w.bin", "0", "12"), "length 12 is given, type and sizes need 8"),
        (external("w", &[1 << 62], "w.bin", "", ""), "overflow"),
        (pb::TensorProto { data_type: Some(8), ..external("w", &[1], "w.bin", "", "") }, "string elements"),
        (
            pb::TensorProto { raw_data: Some(vec![0; 12].into()), ..external("w", &[3], "w.bin", "", "") },
            "raw_data",
        ),
    ];
    for (tensor, expected) in cases {
        let error = read(outer.path(), vec![tensor]).expect_err(expected).to_string();
        assert!(error.contains(expected) && error.contains("tensor \"w\""), "{error}\nexpected: {expected}");
    }
    let in_memory = common::encode(&with_tensors(vec![external("w", &[3], "w.bin", "", "")]));
    let error = onnxq_proto::read_bytes(in_memory, None).expect_err("no folder").to_string();
    assert!(error.contains("the model's folder is not known"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_must_stay_in_the_folder() {
    use std::os::unix::fs::symlink;
    let outer = folder();
    let inside = |name: &str| outer.path().join("m").join(name);
    symlink("w.bin", inside("inner.bin")).unwrap();
    symlink("../secret.bin", inside("leak.bin")).unwrap();
    symlink("..", inside("up")).unwrap();
    symlink("loop.bin", inside("loop.bin")).unwrap();
    assert!(read(outer.path(), vec![external("w", &[3], "inner.bin", "", "")]).is_ok());
    for (file, expected) in [
        ("leak.bin", "outside the model's folder"),
        ("up/secret.bin", "outside the model's folder"),
        ("loop.bin", ""),
    ] {
        let error = read(outer.path(), vec![external("w", &[3], file, "", "")]).expect_err(file).to_string();
        assert!(error.contains(expected) && error.contains(file), "{error}");
    }
}

/// A Hugging Face cache: the files of a snapshot are links into a folder of blobs.
#[cfg(unix)]
#[test]
fn a_linked_model_may_use_files_beside_its_real_file() {
    use std::os::unix::fs::symlink;
    let outer = folder();
    let blobs = outer.path().join("m");
    read(outer.path(), vec![external("w", &[3], "model.bin", "", "")]).expect_err("no such file yet");
    let snapshot = outer.path().join("snapshot");
    fs::create_dir(&snapshot).unwrap();
    symlink(blobs.join("model.onnx"), snapshot.join("model.onnx")).unwrap();
    symlink(blobs.join("w.bin"), snapshot.join("model.bin")).unwrap();
    let loaded = onnxq_proto::read(&snapshot.join("model.onnx"), &Default::default()).expect("it reads");
    assert_eq!(elements(&loaded.model, "w"), [1.0, 2.0, 3.0]);
}

#[test]
fn external_tensors_stay_external_and_shared() {
    let outer = folder();
    let tensors = vec![
        external("a1", &[2], "w.bin", "0", "8"),
        floats("inline", &[1], &[9.0]),
        external("a2", &[2], "w.bin", "0", "8"),
        external("c", &[1], "w.bin", "8", "4"),
    ];
    let model = read(outer.path(), tensors).expect("it reads");
    let out = outer.path().join("out.onnx");
    onnxq_proto::write(&model, &out, &WriteOptions::default()).expect("it writes");
    let data = fs::read(outer.path().join("out.onnx.data")).expect("the data");
    // Two slices, each at the start of a page.
    assert_eq!(data.len(), 4096 + 4);
    let proto = common::decode(&fs::read(&out).unwrap());
    let entries = |at: usize| {
        let tensor: &pb::TensorProto = &proto.graph.as_ref().expect("a graph").initializer[at];
        tensor.external_data.iter().map(|entry| entry.value.clone().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(entries(0), ["out.onnx.data", "0", "8"]);
    assert_eq!(entries(1), [""; 0]);
    assert_eq!(entries(2), entries(0));
    assert_eq!(entries(3), ["out.onnx.data", "4096", "4"]);
    let again = onnxq_proto::read(&out, &Default::default()).expect("it reads again").model;
    for name in ["a1", "a2", "c", "inline"] {
        assert_eq!(elements(&again, name), elements(&model, name));
    }
}

#[test]
fn layouts_move_tensors_in_and_out() {
    let outer = folder();
    let big: Vec<f32> = (0..1000).map(|x| x as f32).collect();
    let tensors = vec![external("w", &[3], "w.bin", "", ""), floats("big", &[1000], &big)];
    let model = read(outer.path(), tensors).expect("it reads");
    let out = outer.path().join("out.onnx");

    let settings = External { threshold: 100, align: 64, file_name: Some("weights".into()) };
    let options = WriteOptions { layout: Layout::External(settings.clone()), ..Default::default() };
    onnxq_proto::write(&model, &out, &options).expect("it writes");
    assert_eq!(fs::read(outer.path().join("weights")).unwrap().len(), 4000);
    let split = onnxq_proto::read(&out, &Default::default()).expect("it reads again").model;
    assert_eq!((elements(&split, "w"), elements(&split, "big")), (vec![1.0, 2.0, 3.0], big.clone()));

    let whole = outer.path().join("whole.onnx");
    let options = WriteOptions { layout: Layout::Inline, ..Default::default() };
    onnxq_proto::write(&split, &whole, &options).expect("it writes");
    assert!(!outer.path().join("whole.onnx.data").exists());
    assert!(fs::read(&whole).unwrap() == onnxq_proto::to_bytes(&model).unwrap());

    let parts = onnxq_proto::to_bytes_external(&model, "memory", &settings).expect("it encodes");
    assert_eq!((parts.data.len(), parts.data[0].0, parts.data[0].1.len()), (1, 0, 4000));
    assert!(parts.model.len() < 1000);

    for name in ["", "a/b", "..", "out.onnx", "a\0b"] {
        let external = External { file_name: Some(name.into()), ..settings.clone() };
        let options = WriteOptions { layout: Layout::External(external), ..Default::default() };
        let error = onnxq_proto::write(&model, &out, &options).expect_err(name);
        assert!(matches!(error, ProtoError::DataFileName(_)), "{error}");
    }
}

#[test]
fn a_model_can_be_written_over_itself() {
    let outer = folder();
    let model = read(outer.path(), vec![external("w", &[3], "w.bin", "", "")]).expect("it reads");
    let path = outer.path().join("m/model.onnx");
    onnxq_proto::write(&model, &path, &WriteOptions::default()).expect("it writes");
    // Now model and data are both mapped from the very files that are written.
    let model = onnxq_proto::read(&path, &Default::default()).expect("it reads").model;
    onnxq_proto::write(&model, &path, &WriteOptions::default()).expect("it writes");
    assert_eq!(elements(&model, "w"), [1.0, 2.0, 3.0]);
    let again = onnxq_proto::read(&path, &Default::default()).expect("it reads again").model;
    assert_eq!(elements(&again, "w"), [1.0, 2.0, 3.0]);
    let left: Vec<_> =
        fs::read_dir(outer.path().join("m")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "temporary files remain: {left:?}");
}

#[test]
fn tensors_inside_attributes_and_inner_graphs_go_out_too() {
    let outer = folder();
    let mut constant = node("Constant", &[], &["c"]);
    constant.attribute.push(pb::AttributeProto {
        name: Some("value".into()),
        r#type: Some(pb::attribute_proto::AttributeType::Tensor as i32),
        t: Some(Box::new(external("", &[3], "w.bin", "", ""))),
        ..Default::default()
    });
    let mut branch = graph(vec![node("Add", &["c", "inner"], &["d"])], &[], &["d"]);
    branch.initializer.push(external("inner", &[1], "w.bin", "8", "4"));
    let mut choice = node("If", &["a"], &["b"]);
    choice.attribute.push(common::graph_attribute("then_branch", branch));
    let path = outer.path().join("m/model.onnx");
    fs::write(&path, common::encode(&model(graph(vec![constant, choice], &["a"], &["b"])))).unwrap();
    let loaded = onnxq_proto::read(&path, &Default::default()).expect("it reads");
    let out = outer.path().join("out.onnx");
    onnxq_proto::write(&loaded.model, &out, &WriteOptions::default()).expect("it writes");
    assert_eq!(fs::read(outer.path().join("out.onnx.data")).unwrap().len(), 4096 + 4);
    let again = onnxq_proto::read(&out, &Default::default()).expect("it reads again").model;
    let graph = again.main();
    let constant = graph.op(graph.ops()[0]).attrs.tensor("value").expect("a tensor");
    assert_eq!(constant.to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0]);
}

/// Files over 16 MiB stay open while they are mapped, and slices of them are copied from file to file.
#[test]
fn large_files_come_through_unchanged() {
    let outer = folder();
    let elements = (20 << 20) / 4;
    let bytes: Vec<u8> =
        (0..elements as u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(outer.path().join("m/large.bin"), &bytes).unwrap();
    let half = (bytes.len() / 2).to_string();
    let tensors = vec![
        // At an odd address, to the end, and small: each takes another way.
        external("odd", &[elements / 2 - 1], "large.bin", "3", ""),
        external("end", &[elements / 2], "large.bin", &half, &half),
        external("small", &[3], "large.bin", "8", ""),
    ];
    let model = read(outer.path(), tensors).expect("it reads");
    let slice = |from: usize, length: usize| &bytes[from..from + length];
    let expected = [
        ("odd", slice(3, bytes.len() / 2 - 4)),
        ("end", slice(bytes.len() / 2, bytes.len() / 2)),
        ("small", slice(8, 12)),
    ];
    let path = outer.path().join("m/model.onnx");
    let mut model = model;
    // Beside itself, over itself, into the model file, over that, and out again.
    for layout in [
        Layout::AsRead,
        Layout::AsRead,
        Layout::Inline,
        Layout::AsRead,
        Layout::External(External::default()),
    ] {
        onnxq_proto::write(&model, &path, &WriteOptions { layout, ..Default::default() }).expect("it writes");
        let again = onnxq_proto::read(&path, &Default::default()).expect("it reads again").model;
        for model in [&model, &again] {
            let graph = model.main();
            for (name, bytes) in expected {
                assert!(
                    graph.constant(graph.find(name).expect(name)).expect(name).bytes() == bytes,
                    "{name}"
                );
            }
        }
        model = again;
    }
}
