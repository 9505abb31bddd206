//! Weights of few bits, killed at any moment: what one run of the program cannot show.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stories260K").join(name)
}

fn quantize(output: &Path, method: &str, length: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxq"));
    // The program with nothing of this machine's ONNX Runtime.
    command.env("PATH", "").env_remove("ORT_DYLIB_PATH").stdin(Stdio::null());
    command.arg("quantize").arg(fixture("model.onnx")).arg("-o").arg(output);
    command.args(["--mode", "weight-only", "--weight-method", method]);
    command.arg("--data").arg(fixture("calib.txt")).arg("--tokenizer").arg(fixture("tokenizer.json"));
    command.args(["--length", length, "--samples", "4", "--sweeps", "1"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Finished weights of an interrupted run.
fn finished(partial: &Path) -> usize {
    let journal = std::fs::read_to_string(partial.join("journal.jsonl")).unwrap_or_default();
    journal.lines().count().saturating_sub(1)
}

/// Killed at moments that nobody chose, and started again each time, it ends with the bytes of an undisturbed run.
#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let mut state = u64::from(seed) | 1;
    for method in ["gptq", "awq+gptq"] {
        let folder = tempfile::tempdir().unwrap();
        let (whole, killed) = (folder.path().join("whole.onnx"), folder.path().join("killed.onnx"));
        let partial = folder.path().join("killed.onnx.partial");
        let started = SystemTime::now();
        assert!(quantize(&whole, method, "32").status().unwrap().success());
        let one_run = started.elapsed().unwrap();
        let (mut kills, mut taken_up) = (0, 0);
        loop {
            taken_up += usize::from(finished(&partial) > 0);
            let mut child = quantize(&killed, method, "32").spawn().unwrap();
            if kills == 6 {
                assert!(child.wait().unwrap().success(), "{method}, seed {seed}");
                break;
            }
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let share = (state >> 40) as f64 / (1u64 << 24) as f64;
            std::thread::sleep(Duration::from_secs_f64(one_run.as_secs_f64() * share));
            let over = child.try_wait().unwrap().is_some_and(|status| status.success());
            let _ = child.kill();
            child.wait().unwrap();
            kills += 1;
            if over {
                break;
            }
        }
        let same = std::fs::read(&whole).unwrap() == std::fs::read(&killed).unwrap();
        assert!(same, "{method}, seed {seed}: the models differ");
        assert!(!partial.exists(), "{method}, seed {seed}: unfinished work is still there");
        eprintln!("{method}: {kills} kills, {taken_up} times unfinished work was taken up");
    }
}

/// Work of other samples, and work that was damaged, is refused by name; `--restart` is the way out.
#[test]
fn foreign_and_damaged_work_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.onnx");
    let partial = folder.path().join("out.onnx.partial");
    // Killed as soon as some weights are finished.
    let mut child = quantize(&output, "gptq", "32").spawn().unwrap();
    while finished(&partial) < 3 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = child.kill();
    child.wait().unwrap();
    if !partial.exists() {
        return; // It was faster than we were.
    }
    let refused = |length: &str| {
        let run = quantize(&output, "gptq", length).output().unwrap();
        assert_eq!(run.status.code(), Some(2));
        String::from_utf8_lossy(&run.stderr).into_owned()
    };
    let said = refused("48");
    assert!(said.contains("another run") && said.contains("--restart"), "{said}");
    let data = partial.join("weights.bin");
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let said = refused("32");
    assert!(said.contains("damaged") && said.contains("--restart"), "{said}");
    let again = quantize(&output, "gptq", "32").arg("--restart").status().unwrap();
    assert!(again.success() && output.exists() && !partial.exists());
}
