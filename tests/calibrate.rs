//! Calibration that is killed, and data that must be refused: what one run of the program cannot show.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The program with nothing of this machine's ONNX Runtime.
fn onnxq() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxq"));
    command.env("PATH", "").env_remove("ORT_DYLIB_PATH").stdin(Stdio::null());
    command
}

fn calibrate(output: &Path, extra: &[&str]) -> Command {
    let mut command = onnxq();
    command
        .arg("calibrate")
        .arg(fixture("mobilenet_v1_0.25_224/model.onnx"))
        .args(["--random", "40"])
        .args(extra);
    command.arg("-o").arg(output).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Killed at moments that nobody chose, and started again each time, it ends with the table of an undisturbed run.
#[test]
fn a_killed_run_goes_on_to_the_same_table() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, killed) = (folder.path().join("whole.json"), folder.path().join("killed.json"));
    let partial = folder.path().join("killed.json.partial");
    let started = SystemTime::now();
    assert!(calibrate(&whole, &[]).status().unwrap().success());
    let one_run = started.elapsed().unwrap();

    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let mut state = u64::from(seed) | 1;
    let (mut kills, mut resumed) = (0, 0);
    loop {
        resumed += u32::from(partial.exists());
        let mut child = calibrate(&killed, &["--save-every", "0"]).spawn().unwrap();
        if kills == 8 {
            // Enough: let it end.
            assert!(child.wait().unwrap().success(), "seed {seed}");
            break;
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = (state >> 40) as f64 / (1u64 << 24) as f64;
        std::thread::sleep(Duration::from_secs_f64(one_run.as_secs_f64() * share));
        let over = child.try_wait().unwrap().is_some();
        let _ = child.kill();
        child.wait().unwrap();
        kills += 1;
        if over && killed.exists() {
            break;
        }
        if killed.exists() {
            // Killed between its last step and its end: the table is whole, and the next run makes it again.
            let left = std::fs::read(&killed).unwrap();
            assert!(std::fs::read(&whole).unwrap() == left, "seed {seed}: a killed run left another table");
            std::fs::remove_file(&killed).unwrap();
        }
    }
    assert!(
        std::fs::read(&whole).unwrap() == std::fs::read(&killed).unwrap(),
        "seed {seed}: the tables differ"
    );
    assert!(!partial.exists(), "seed {seed}: the unfinished table is still there");
    eprintln!("{kills} kills, {resumed} times an unfinished table was taken up");
}

/// An array as NumPy stores it.
fn npy(dims: &str, values: &[f32]) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}");
    header.push_str(&" ".repeat(64 - (10 + header.len() + 1) % 64));
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// What the program says of bad data; nothing may be left but the data.
fn refused(data: &Path, folder: &Path) -> String {
    let before = listing(folder);
    let mut command = onnxq();
    command.arg("calibrate").arg(fixture("mnist_cntk/model.onnx")).arg("--data").arg(data);
    let output = command.arg("-o").arg(folder.join("table.json")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(listing(folder), before);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

#[test]
fn bad_data_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let said = refused(&data, folder.path());
    assert!(said.contains("data") && said.contains("test_data_set"), "{said}");

    let good = vec![0.5f32; 784];
    let mut bad = good.clone();
    bad[100] = f32::NAN;
    std::fs::write(data.join("0.npy"), npy("1, 1, 28, 28", &good)).unwrap();
    std::fs::write(data.join("1.npy"), npy("1, 1, 28, 28", &bad)).unwrap();
    let said = refused(&data, folder.path());
    assert!(
        said.contains("1.npy") && said.contains("\"Input3\" holds 1 NaN of 784 elements, the first at 100"),
        "{said}"
    );

    std::fs::write(data.join("1.npy"), npy("1, 1, 28, 27", &good[..756])).unwrap();
    let said = refused(&data, folder.path());
    assert!(
        said.contains("1.npy") && said.contains("expected float [1, 1, 28, 28], found float [1, 1, 28, 27]"),
        "{said}"
    );

    let whole = npy("1, 1, 28, 28", &good);
    std::fs::write(data.join("1.npy"), &whole[..whole.len() - 5]).unwrap();
    let said = refused(&data, folder.path());
    assert!(said.contains("1.npy"), "{said}");
}
