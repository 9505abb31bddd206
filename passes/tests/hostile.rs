//! Models out of broken files: what can be read can be verified and simplified, or is refused with a reason; nothing
//! panics, and nothing takes long or much memory for what a small file asks.
//!
//! Seeds are the models of the fixtures, so that every pass sees its own patterns broken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use onnxq_passes as passes;
use passes::{Options, op_count};

/// Broken files tried.
const MUTANTS: usize = 20_000;
/// A file of a few hundred bytes has no reason to take longer, on a busy machine and unoptimized.
const SLOWEST: Duration = Duration::from_secs(10);

/// A small generator of its own, so that a failure is the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as usize % end.max(1)
    }
}

/// One to four bytes become others, mostly those that mean something in a protobuf of small numbers.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + random.below(4) {
        // Most bytes are letters of names, which say little; small ones are numbers.
        let mut at = random.below(bytes.len());
        for _ in 0..8 {
            if bytes.get(at).is_some_and(|&byte| byte < 0x20) {
                break;
            }
            at = random.below(bytes.len());
        }
        let Some(byte) = bytes.get_mut(at) else { continue };
        *byte = match random.below(4) {
            0 => random.below(256) as u8,
            1 => *byte ^ (1 << random.below(8)),
            2 => random.below(8) as u8,
            _ => [0x00, 0x01, 0x7F, 0x80, 0xFF][random.below(5)],
        };
    }
    bytes
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut entries: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "onnxtxt") {
            found.push(path);
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"), &mut found);
    let seeds = found.iter().filter_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        let model = ir::text::parse(text.split("\n====").next()?).ok()?;
        Some(proto::to_bytes(&model).ok()?.to_vec())
    });
    let seeds: Vec<Vec<u8>> = seeds.collect();
    assert!(seeds.len() > 100, "{} seeds", seeds.len());
    seeds
}

#[test]
fn broken_models_are_simplified_or_refused() {
    let seeds = seeds();
    let mut random = Random(20_261_121);
    let (mut simplified, mut refused, mut problems) = (0, 0, Vec::new());
    std::panic::set_hook(Box::new(|_| {}));
    for at in 0..MUTANTS {
        let bytes = mutate(&seeds[at % seeds.len()], &mut random);
        let Ok(loaded) = proto::read_bytes(bytes.clone().into(), None) else { continue };
        let mut model = loaded.model;
        if ir::verify(&model).is_err() {
            refused += 1;
            continue;
        }
        let start = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let report =
                passes::simplify(&mut model, Options::default()).map_err(|failure| failure.to_string())?;
            assert_eq!(report.ops_after, op_count(&model));
            ir::verify(&model).map_err(|problems| format!("not valid any more: {problems}"))
        }));
        match ran {
            Ok(Ok(())) => simplified += 1,
            Ok(Err(why)) if why.starts_with("not valid") => problems.push(format!("mutant {at}: {why}")),
            Ok(Err(_)) => refused += 1,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                problems.push(format!("mutant {at} of seed {}: {text:?}", at % seeds.len()));
            }
        }
        if start.elapsed() > SLOWEST {
            problems.push(format!("mutant {at}: {:?}", start.elapsed()));
        }
    }
    let _ = std::panic::take_hook();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    // Most are no models any more; enough are for the test to mean something.
    assert!(simplified > 1000, "{simplified} simplified, {refused} refused");
}
