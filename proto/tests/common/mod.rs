//! Models for the tests, made and decoded by `onnx-protobuf`, which shares no code with this crate.
#![allow(dead_code)] // Each test takes what it needs.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use onnx_protobuf as op;
use protobuf::{Message, MessageField};

/// The folder of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The development models, if they are there: `$ONNXQ_SHARED` or `../shared` beside the repository.
pub fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("ONNXQ_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    let found = folder.is_dir();
    if !found {
        eprintln!("no {}: models there are not tested (set ONNXQ_SHARED)", folder.display());
    }
    found.then_some(folder)
}

/// Every file of this extension below a folder, sorted.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_path_buf()];
    while let Some(folder) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The models of the repository's fixtures and of this crate's tests.
pub fn fixtures() -> Vec<PathBuf> {
    let mut models = files(&root().join("fixtures"), "onnx");
    models.extend(files(&root().join("proto/tests/data"), "onnx"));
    assert!(models.len() >= 5, "the fixtures are missing");
    models
}

/// A node.
pub fn node(kind: &str, inputs: &[&str], outputs: &[&str]) -> op::NodeProto {
    op::NodeProto {
        op_type: Some(kind.into()),
        input: inputs.iter().map(|name| name.to_string()).collect(),
        output: outputs.iter().map(|name| name.to_string()).collect(),
        ..Default::default()
    }
}

/// A float value of these sizes.
pub fn info(name: &str, sizes: &[i64]) -> op::ValueInfoProto {
    let mut shape = op::TensorShapeProto::new();
    for &size in sizes {
        let mut dim = op::tensor_shape_proto::Dimension::new();
        dim.set_dim_value(size);
        shape.dim.push(dim);
    }
    let mut tensor = op::type_proto::Tensor::new();
    tensor.set_elem_type(1);
    tensor.shape = MessageField::some(shape);
    let mut ty = op::TypeProto::new();
    ty.set_tensor_type(tensor);
    op::ValueInfoProto { name: Some(name.into()), type_: MessageField::some(ty), ..Default::default() }
}

/// A float tensor in `raw_data`.
pub fn floats(name: &str, sizes: &[i64], elements: &[f32]) -> op::TensorProto {
    op::TensorProto {
        name: Some(name.into()),
        data_type: Some(1),
        dims: sizes.to_vec(),
        raw_data: Some(elements.iter().flat_map(|element| element.to_le_bytes()).collect()),
        ..Default::default()
    }
}

/// A float tensor in another file. An empty `offset` or `length` is left out.
pub fn external(name: &str, sizes: &[i64], file: &str, offset: &str, length: &str) -> op::TensorProto {
    let entries = [("location", file), ("offset", offset), ("length", length)];
    let entries = entries.into_iter().filter(|(_, value)| !value.is_empty());
    let entry = |(key, value): (&str, &str)| op::StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
        ..Default::default()
    };
    op::TensorProto {
        name: Some(name.into()),
        data_type: Some(1),
        dims: sizes.to_vec(),
        external_data: entries.map(entry).collect(),
        data_location: Some(op::tensor_proto::DataLocation::EXTERNAL.into()),
        ..Default::default()
    }
}

/// A graph attribute.
pub fn graph_attribute(name: &str, graph: op::GraphProto) -> op::AttributeProto {
    op::AttributeProto {
        name: Some(name.into()),
        type_: Some(op::attribute_proto::AttributeType::GRAPH.into()),
        g: MessageField::some(graph),
        ..Default::default()
    }
}

/// A graph of nodes.
pub fn graph(nodes: Vec<op::NodeProto>, inputs: &[&str], outputs: &[&str]) -> op::GraphProto {
    op::GraphProto {
        name: Some("g".into()),
        node: nodes,
        input: inputs.iter().map(|name| info(name, &[2])).collect(),
        output: outputs.iter().map(|name| info(name, &[2])).collect(),
        ..Default::default()
    }
}

/// A model around a graph.
pub fn model(graph: op::GraphProto) -> op::ModelProto {
    let import = op::OperatorSetIdProto { version: Some(17), ..Default::default() };
    op::ModelProto {
        ir_version: Some(8),
        opset_import: vec![import],
        graph: MessageField::some(graph),
        ..Default::default()
    }
}

/// The encoded bytes.
pub fn encode(model: &op::ModelProto) -> Bytes {
    model.write_to_bytes().expect("a message encodes").into()
}

/// Decoded by the other decoder.
pub fn decode(bytes: &[u8]) -> op::ModelProto {
    op::ModelProto::parse_from_bytes(bytes).expect("the other decoder reads it")
}

/// Reads and writes in memory.
pub fn round_trip(bytes: &Bytes) -> Vec<u8> {
    let loaded = onnxq_proto::read_bytes(bytes.clone(), None).expect("it reads");
    onnxq_proto::to_bytes(&loaded.model).expect("it writes")
}

/// The model survives a round trip, seen with the other decoder's eyes.
pub fn check_lossless(proto: &op::ModelProto) {
    let written = round_trip(&encode(proto));
    assert_eq!(decode(&written), *proto);
}

/// The error of a model that must not be read.
pub fn error_of(proto: &op::ModelProto) -> String {
    match onnxq_proto::read_bytes(encode(proto), None) {
        Ok(_) => panic!("a broken model was read"),
        Err(error) => error.to_string(),
    }
}
