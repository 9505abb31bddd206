//! Outputs appear whole or not at all.

mod common;

use std::fs;

use bytes::Bytes;
use common::{graph, model, node};
use onnxq_proto::{ProtoError, WriteOptions, read_bytes, write};

fn small() -> (Bytes, ir::Model) {
    let bytes = common::encode(&model(graph(vec![node("Relu", &["a"], &["b"])], &["a"], &["b"])));
    (bytes.clone(), read_bytes(bytes, None).expect("it reads").model)
}

#[test]
fn an_existing_file_is_replaced_and_nothing_else_remains() {
    let (bytes, model) = small();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::write(&path, "old").unwrap();
    write(&model, &path, &WriteOptions::default()).expect("it writes");
    assert!(fs::read(&path).unwrap() == bytes);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn failures_leave_what_was_there() {
    let (_, mut model) = small();
    model.dropped.push("field 99 of ModelProto".into());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::write(&path, "old").unwrap();
    let error = write(&model, &path, &WriteOptions::default()).expect_err("it would lose something");
    assert!(matches!(&error, ProtoError::WouldDrop(what) if what.len() == 1), "{error}");
    assert!(fs::read(&path).unwrap() == b"old");
    write(&model, &path, &WriteOptions { force: true, ..Default::default() }).expect("forced");

    for path in [folder.path().to_path_buf(), folder.path().join("none/m.onnx"), "/".into()] {
        let error = write(&small().1, &path, &WriteOptions::default()).expect_err("no such place");
        assert!(matches!(error, ProtoError::Io { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn links_permissions_and_devices_are_respected() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let (bytes, model) = small();
    let folder = tempfile::tempdir().unwrap();
    let (real, link) = (folder.path().join("real.onnx"), folder.path().join("link.onnx"));
    fs::write(&real, "old").unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&real, &link).unwrap();
    write(&model, &link, &WriteOptions::default()).expect("it writes");
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(fs::read(&real).unwrap() == bytes);
    assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    write(&model, "/dev/null".as_ref(), &WriteOptions::default()).expect("it writes");
}

#[test]
fn what_is_not_a_model_file_is_an_error_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_path_buf(), folder.path().join("none.onnx")] {
        let error = onnxq_proto::read(&path, &Default::default()).expect_err("nothing to read").to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    let empty = folder.path().join("empty.onnx");
    fs::write(&empty, "").unwrap();
    let error = onnxq_proto::read(&empty, &Default::default()).expect_err("an empty file").to_string();
    assert!(error.contains("the file holds no graph"), "{error}");
}
