//! Where the node cases of the onnx package are.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The unpacked folder that `ONNXQ_NODE_CASES` names, or that of the archive below `ONNXQ_SHARED`, unpacked once a target;
/// none where neither is set.
pub fn folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("ONNXQ_NODE_CASES") {
        return Some(folder.into());
    }
    let archive = PathBuf::from(std::env::var_os("ONNXQ_SHARED")?).join("data/onnx-node-tests.tar.zst");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node-cases");
    if !folder.join("node").exists() {
        std::fs::create_dir_all(&folder).unwrap();
        let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&folder).status().unwrap();
        assert!(unpacked.success(), "tar cannot unpack {}", archive.display());
    }
    Some(folder.join("node"))
}
