//! Models for the tests, made from the generated messages; and `onnx-protobuf`, which shares no code with this crate, as
//! a second decoder. It knows no presence of fields (its schema is proto3), so byte comparisons stand beside it.
#![allow(dead_code)] // Each test takes what it needs.

#[rustfmt::skip]
#[allow(clippy::all)]
#[path = "../../src/generated.rs"]
pub mod pb;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

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
pub fn node(kind: &str, inputs: &[&str], outputs: &[&str]) -> pb::NodeProto {
    pb::NodeProto {
        op_type: Some(kind.into()),
        input: inputs.iter().map(|name| name.to_string()).collect(),
        output: outputs.iter().map(|name| name.to_string()).collect(),
        ..Default::default()
    }
}

/// A float value of these sizes.
pub fn info(name: &str, sizes: &[i64]) -> pb::ValueInfoProto {
    let mut shape = pb::TensorShapeProto::default();
    for &size in sizes {
        let value = Some(pb::tensor_shape_proto::dimension::Value::DimValue(size));
        shape.dim.push(pb::tensor_shape_proto::Dimension { value, denotation: None });
    }
    let tensor = pb::type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
    let ty = pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), denotation: None };
    pb::ValueInfoProto { name: Some(name.into()), r#type: Some(ty), ..Default::default() }
}

/// A float tensor in `raw_data`.
pub fn floats(name: &str, sizes: &[i64], elements: &[f32]) -> pb::TensorProto {
    pb::TensorProto {
        name: Some(name.into()),
        data_type: Some(1),
        dims: sizes.to_vec(),
        raw_data: Some(elements.iter().flat_map(|element| element.to_le_bytes()).collect::<Vec<u8>>().into()),
        ..Default::default()
    }
}

/// A float tensor in another file. An empty `offset` or `length` is left out.
pub fn external(name: &str, sizes: &[i64], file: &str, offset: &str, length: &str) -> pb::TensorProto {
    let entries = [("location", file), ("offset", offset), ("length", length)];
    let entries = entries.into_iter().filter(|(_, value)| !value.is_empty());
    let entry = |(key, value): (&str, &str)| pb::StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value.into()),
    };
    pb::TensorProto {
        name: Some(name.into()),
        data_type: Some(1),
        dims: sizes.to_vec(),
        external_data: entries.map(entry).collect(),
        data_location: Some(pb::tensor_proto::DataLocation::External as i32),
        ..Default::default()
    }
}

/// A graph attribute.
pub fn graph_attribute(name: &str, graph: pb::GraphProto) -> pb::AttributeProto {
    pb::AttributeProto {
        name: Some(name.into()),
        r#type: Some(pb::attribute_proto::AttributeType::Graph as i32),
        g: Some(Box::new(graph)),
        ..Default::default()
    }
}

/// A graph of nodes.
pub fn graph(nodes: Vec<pb::NodeProto>, inputs: &[&str], outputs: &[&str]) -> pb::GraphProto {
    pb::GraphProto {
        name: Some("g".into()),
        node: nodes,
        input: inputs.iter().map(|name| info(name, &[2])).collect(),
        output: outputs.iter().map(|name| info(name, &[2])).collect(),
        ..Default::default()
    }
}

/// A model around a graph.
pub fn model(graph: pb::GraphProto) -> pb::ModelProto {
    let import = pb::OperatorSetIdProto { version: Some(17), domain: None };
    pb::ModelProto {
        ir_version: Some(8),
        opset_import: vec![import],
        graph: Some(graph),
        ..Default::default()
    }
}

/// The encoded bytes.
pub fn encode(model: &pb::ModelProto) -> Bytes {
    model.encode_to_vec().into()
}

/// Decoded.
pub fn decode(bytes: &[u8]) -> pb::ModelProto {
    pb::ModelProto::decode(bytes).expect("it decodes")
}

/// Decoded by the other decoder.
pub fn decode_other(bytes: &[u8]) -> onnx_protobuf::ModelProto {
    protobuf::Message::parse_from_bytes(bytes).expect("the other decoder reads it")
}

/// Reads and writes in memory.
pub fn round_trip(bytes: &Bytes) -> Vec<u8> {
    let loaded = onnxq_proto::read_bytes(bytes.clone(), None).expect("it reads");
    onnxq_proto::to_bytes(&loaded.model).expect("it writes")
}

/// The model survives a round trip byte for byte, and with the other decoder's eyes too.
pub fn check_lossless(proto: &pb::ModelProto) {
    let bytes = encode(proto);
    let written = round_trip(&bytes);
    assert_eq!(decode(&written), *proto);
    assert!(written == bytes);
    assert!(decode_other(&written) == decode_other(&bytes));
}

/// The error of a model that must not be read.
pub fn error_of(proto: &pb::ModelProto) -> String {
    match onnxq_proto::read_bytes(encode(proto), None) {
        Ok(_) => panic!("a broken model was read"),
        Err(error) => error.to_string(),
    }
}
