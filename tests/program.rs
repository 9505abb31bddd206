//! The program as its users see it: every `[[case]]` of `tests/program/*.toml` is a test that runs the built binary in an
//! empty folder. See `tests/program/README.md` for the form.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;

/// One file of cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

/// One run, or several in one folder.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// Runs before the one that is judged; each must end with 0.
    #[serde(default)]
    before: Vec<String>,
    /// Files to make first: name and text.
    #[serde(default)]
    files: Vec<(String, String)>,
    /// The command line, split at spaces. `{fixtures}` is the folder of fixtures.
    run: String,
    /// The exit code.
    code: i32,
    /// What stdout must hold, in this order.
    #[serde(default)]
    stdout: Vec<String>,
    /// What stderr must hold, in this order.
    #[serde(default)]
    stderr: Vec<String>,
    /// Files that must be there afterwards, and no others beside those that were there before.
    #[serde(default)]
    leaves: Vec<String>,
    /// Pairs of files that must be equal byte by byte.
    #[serde(default)]
    equal: Vec<(String, String)>,
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("tests/program");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the folder of cases")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    let mut trials = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a readable file of cases");
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let file: File = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for case in file.case {
            let fixtures = root.join("fixtures");
            let name = format!("{stem}: {}", case.name);
            trials.push(Trial::test(name, move || check(&case, &fixtures).map_err(Failed::from)));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn check(case: &Case, fixtures: &Path) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    for (name, text) in &case.files {
        std::fs::write(folder.path().join(name), text).map_err(|error| format!("{name}: {error}"))?;
    }
    for line in &case.before {
        let output = run(line, folder.path(), fixtures)?;
        if output.status.code() != Some(0) {
            return Err(format!("`onnxq {line}` failed:\n{}", shown(&output)));
        }
    }
    let mut expected = listing(folder.path())?;
    let output = run(&case.run, folder.path(), fixtures)?;
    let told = shown(&output);
    if output.status.code() != Some(case.code) {
        return Err(format!("exit code {:?}, wanted {}:\n{told}", output.status.code(), case.code));
    }
    for (stream, text, wanted) in
        [("stdout", &output.stdout, &case.stdout), ("stderr", &output.stderr, &case.stderr)]
    {
        let text = String::from_utf8_lossy(text);
        let mut rest = text.as_ref();
        for piece in wanted {
            let at = rest.find(piece).ok_or_else(|| format!("{stream} lacks {piece:?}:\n{told}"))?;
            rest = &rest[at + piece.len()..];
        }
    }
    expected.extend(case.leaves.iter().cloned());
    expected.sort();
    expected.dedup();
    let found = listing(folder.path())?;
    if found != expected {
        return Err(format!("left {found:?}, wanted {expected:?}:\n{told}"));
    }
    for (a, b) in &case.equal {
        let read = |name: &String| {
            std::fs::read(folder.path().join(name)).map_err(|error| format!("{name}: {error}"))
        };
        if read(a)? != read(b)? {
            return Err(format!("{a} and {b} differ"));
        }
    }
    Ok(())
}

/// Runs the program with nothing of this machine's ONNX Runtime: results must not depend on what is installed.
fn run(line: &str, folder: &Path, fixtures: &Path) -> Result<Output, String> {
    let line = line.replace("{fixtures}", &fixtures.display().to_string());
    Command::new(env!("CARGO_BIN_EXE_onnxq"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .env("PATH", "")
        .env_remove("ORT_DYLIB_PATH")
        .env_remove("VIRTUAL_ENV")
        .output()
        .map_err(|error| error.to_string())
}

fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("--- stdout\n{}--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

fn listing(folder: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    Ok(names)
}
