//! Finds the ONNX Runtime library: the one that is named, the environment's, or an installed Python package's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// What Python is asked: the package's folder, without importing it.
const PYTHON: &str = "import importlib.util as u; s = u.find_spec('onnxruntime'); print(s.submodule_search_locations[0] if s else '')";

/// The library to load.
///
/// # Errors
/// Nothing found; the message says where it was looked for.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path.to_path_buf());
    }
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH") {
        return Ok(PathBuf::from(path));
    }
    for python in ["python3", "python"] {
        let Ok(output) = Command::new(python).args(["-c", PYTHON]).output() else { continue };
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_string();
        if let Some(library) = (!folder.is_empty()).then(|| in_package(Path::new(&folder))).flatten() {
            return Ok(library);
        }
    }
    bail!(
        "ONNX Runtime was not found: name the library with --ort-lib, set ORT_DYLIB_PATH, or install the Python package \
         onnxruntime (1.20 or later)"
    )
}

/// The library inside the Python package: `capi/libonnxruntime.so.1.31.1`, `.dylib` or `.dll`.
fn in_package(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder.join("capi")).ok()?.flatten().map(|entry| entry.path());
    let library = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        (name.starts_with("libonnxruntime.") || name == "onnxruntime.dll") && !name.contains("providers")
    };
    let mut found: Vec<PathBuf> = entries.filter(library).collect();
    found.sort();
    found.pop()
}
