//! What must be absent: petgraph outside of `src/graph/`.

use std::path::{Path, PathBuf};

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn check(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            if path != sources().join("graph") {
                check(&path);
            }
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("sources are text");
        let named =
            text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("petgraph"));
        assert!(!named, "{} names petgraph", path.display());
    }
}

#[test]
fn petgraph_stays_in_its_folder() {
    check(&sources());
}
