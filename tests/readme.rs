//! What the README shows of the program is what the program prints. A block of this form is compared with the command's
//! output; `BLESS=1 cargo test --test readme` writes it.
//!
//! ````text
//! <!-- output of: onnxq list targets -->
//! ```
//! ...
//! ```
//! ````
//!
//! Only commands whose output does not depend on the machine are shown so: float results differ in the last digits from one
//! processor to the next.

use std::path::Path;
use std::process::Command;

const MARK: &str = "<!-- output of: onnxq ";

#[test]
fn the_readme_shows_what_the_program_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("README.md");
    let text = std::fs::read_to_string(&path).expect("the README");
    let mut made = String::new();
    let mut rest = text.as_str();
    let mut blocks = 0;
    while let Some(at) = rest.find(MARK) {
        let (before, marked) = rest.split_at(at);
        let (line, after) = marked.split_once(" -->\n```\n").expect("a code block follows the mark");
        let (_, after) = after.split_once("```\n").expect("the code block ends");
        made += &format!("{before}{line} -->\n```\n{}```\n", printed(&line[MARK.len()..], root));
        rest = after;
        blocks += 1;
    }
    made += rest;
    assert!(blocks > 0, "the README shows no output");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, made).expect("the README can be written");
    } else {
        assert!(made == text, "the README is out of date: BLESS=1 cargo test --workspace --test readme");
    }
}

fn printed(line: &str, root: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_onnxq"))
        .args(line.split_whitespace())
        .current_dir(root)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "onnxq {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
