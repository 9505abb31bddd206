//! Reading and writing without a pass between changes nothing; an independent decoder sees the same content.

mod common;

use std::path::Path;

use ir::{Graph, Role};
use onnx_protobuf as op;

/// The bytes are equal; and what the IR holds is what the other decoder reads.
fn check(path: &Path) {
    let bytes: bytes::Bytes = std::fs::read(path).expect("the model is there").into();
    let loaded = match onnxq_proto::read_bytes(bytes.clone(), path.parent()) {
        Ok(loaded) => loaded,
        // The 90 MB of weights of one development model are made by a script that was not run.
        Err(error) if error.to_string().contains("No such file") => return,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    assert_eq!(loaded.notes, Vec::<String>::new(), "{}", path.display());
    let proto = common::decode_other(&bytes);
    check_graph(loaded.model.main(), &proto.graph);
    assert_eq!(loaded.model.functions.len(), proto.functions.len());
    if proto.graph.initializer.iter().any(|tensor| !tensor.external_data.is_empty()) {
        return;
    }
    let written = onnxq_proto::to_bytes(&loaded.model).expect("it writes");
    assert!(written == bytes, "{}: written differently", path.display());
    // Compared by its own encoding, because a NaN is not equal to itself.
    let encoded = |proto: op::ModelProto| protobuf::Message::write_to_bytes(&proto).expect("it encodes");
    assert!(
        encoded(common::decode_other(&written)) == encoded(proto),
        "{}: read differently",
        path.display()
    );
}

fn check_graph(graph: &Graph, proto: &op::GraphProto) {
    let ops = graph.ops();
    assert_eq!(ops.len(), proto.node.len());
    for (&id, node) in ops.iter().zip(&proto.node) {
        let op = graph.op(id);
        assert_eq!(
            (op.name.as_str(), &*op.kind.name, &*op.kind.domain),
            (node.name.as_str(), node.op_type.as_str(), node.domain.as_str())
        );
        let name = |slot: Option<ir::ValueId>| slot.map_or("", |v| graph.value(v).name());
        assert!(graph.op_inputs(id).into_iter().map(name).eq(node.input.iter()));
        assert!(graph.op_outputs(id).into_iter().map(name).eq(node.output.iter()));
        assert_eq!(op.attrs.len(), node.attribute.len());
    }
    for tensor in &proto.initializer {
        let value = graph.value(graph.find(&tensor.name).expect("an initializer is a value"));
        assert!(matches!(value.role(), Role::Initializer | Role::Input));
        let data = value.data.as_ref().expect("it has data");
        assert_eq!(data.dtype().code(), tensor.data_type);
        assert!(data.dims().iter().map(|&size| size as i64).eq(tensor.dims.iter().copied()));
        if !tensor.raw_data.is_empty() {
            assert!(data.bytes() == tensor.raw_data.as_slice());
        } else if !tensor.float_data.is_empty() {
            assert!(data.bytes().iter().copied().eq(tensor.float_data.iter().flat_map(|x| x.to_le_bytes())));
        }
    }
}

#[test]
fn fixtures_come_back_byte_for_byte() {
    common::fixtures().iter().for_each(|path| check(path));
}

#[test]
fn shared_models_come_back_byte_for_byte() {
    let Some(shared) = common::shared() else { return };
    let models = common::files(&shared.join("models"), "onnx");
    assert!(models.len() > 10);
    models.iter().for_each(|path| check(path));
}

/// The node cases of the onnx package, from where `$ONNXQ_NODE_CASES` says, or unpacked by `tar`.
#[test]
fn node_cases_come_back_byte_for_byte() {
    let unpacked;
    let folder = match (std::env::var_os("ONNXQ_NODE_CASES"), common::shared()) {
        (Some(folder), _) => folder.into(),
        (None, Some(shared)) => {
            unpacked = tempfile::tempdir().expect("a temporary folder");
            let archive = shared.join("data/onnx-node-tests.tar.zst");
            let tar = std::process::Command::new("tar")
                .args(["--zstd", "-xf"])
                .arg(archive)
                .arg("-C")
                .arg(unpacked.path())
                .status();
            if !tar.is_ok_and(|status| status.success()) {
                eprintln!("no tar with zstd: the node cases are not tested (set ONNXQ_NODE_CASES)");
                return;
            }
            unpacked.path().to_path_buf()
        }
        (None, None) => return,
    };
    let models = common::files(&folder, "onnx");
    assert!(models.len() > 1000, "{} node cases", models.len());
    models.iter().for_each(|path| check(path));
}
