//! Where samples come from: one file a format, one trait over all.
//!
//! A [`Source`] is indexable and reads a sample when it is asked for, so memory does not grow with the number of samples,
//! and a run can be cut into shards or resumed at any sample.

mod check;
mod images;
mod jsonl;
mod labels;
mod npy;
mod npz;
mod pb;
mod preprocess;
mod random;
mod select;
mod text;

use std::path::Path;

use anyhow::{Result, bail};
use ir::{DType, Dim, Model};
use runtime::Feed;

pub use labels::Labels;
pub use npz::npz_arrays;
pub use preprocess::{DEFAULT as DEFAULT_PREPROCESS, Layout, Preprocess};
pub use select::{Selection, part, telling};
pub use text::{TextOptions, is_token_input};

/// Samples by number.
pub trait Source: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// There are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads sample `at`: tensors by input name.
    fn sample(&self, at: usize) -> Result<Feed>;

    /// A name for sample `at` in messages and label files: a file name or a number.
    fn label(&self, at: usize) -> String {
        at.to_string()
    }

    /// What sample `at` is made of: places in the data as they lie on the disk, and their names. Several in a batch.
    fn members(&self, at: usize) -> Vec<(usize, String)> {
        vec![(at, self.label(at))]
    }

    /// The values were made up, not measured: every report says so.
    fn is_random(&self) -> bool {
        false
    }

    /// Samples are made of pictures, as [`DataOptions::preprocess`] says.
    fn are_pictures(&self) -> bool {
        false
    }
}

/// What a model asks for under one input name.
#[derive(Clone, Debug)]
pub struct InputSpec {
    /// The input's name.
    pub name: String,
    /// Element type, if declared.
    pub dtype: Option<DType>,
    /// Dimensions, if declared.
    pub dims: Option<Vec<Dim>>,
}

/// The inputs that a model must be fed: those without a default.
pub fn input_specs(model: &Model) -> Vec<InputSpec> {
    let main = model.main();
    let open = main.inputs().iter().map(|&id| main.value(id)).filter(|value| value.data.is_none());
    open.map(|value| InputSpec {
        name: value.name().to_string(),
        dtype: value.dtype(),
        dims: value.shape().map(|shape| shape.dims.to_vec()),
    })
    .collect()
}

/// How to read the data.
#[derive(Clone, Debug, Default)]
pub struct DataOptions {
    /// For folders of images.
    pub preprocess: Preprocess,
    /// For text files.
    pub text: TextOptions,
    /// Which samples, in what batches.
    pub selection: Selection,
}

/// Opens the data at a path for a model; the kind follows from what is there.
///
/// # Errors
/// Nothing at the path, an empty folder, or a kind that is not known, each with what was expected.
pub fn open(path: &Path, specs: &[InputSpec], options: &DataOptions) -> Result<Box<dyn Source>> {
    if !path.exists() {
        bail!("there is no data at {}", path.display());
    }
    let source =
        if path.is_dir() { open_folder(path, specs, options)? } else { open_file(path, specs, options)? };
    if source.is_empty() {
        bail!("{} holds no samples", path.display());
    }
    let batch = options.selection.batch.max(1);
    let source = Box::new(check::Checked::new(source, specs.to_vec(), path, batch));
    select::select(source, &options.selection, check::batch_is_fixed(specs, batch))
}

/// Random samples, on explicit request only.
pub fn random(specs: &[InputSpec], count: usize, options: &DataOptions) -> Result<Box<dyn Source>> {
    let source = random::Random::new(specs, count, options.selection.seed)?;
    select::select(Box::new(source), &options.selection, false)
}

fn extension(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}

fn open_file(path: &Path, specs: &[InputSpec], options: &DataOptions) -> Result<Box<dyn Source>> {
    Ok(match extension(path).as_str() {
        "npz" => Box::new(npz::Stacked::open(path)?),
        "npy" => Box::new(npy::Stacked::open(path, specs)?),
        "jsonl" | "ndjson" => Box::new(jsonl::Lines::open(path, specs)?),
        "txt" | "text" | "md" => Box::new(text::Text::open(path, specs, &options.text)?),
        other if images::EXTENSIONS.contains(&other) => {
            let files = vec![(path.to_path_buf(), images::file_name(path))];
            Box::new(images::Images::new(files, specs, &options.preprocess)?)
        }
        other => bail!(
            "{}: cannot read .{other} as data; known are .npz, .npy, .jsonl, .txt (with --tokenizer), images, and folders \
             of .npz, .npy, images or test_data_set_*",
            path.display()
        ),
    })
}

fn open_folder(path: &Path, specs: &[InputSpec], options: &DataOptions) -> Result<Box<dyn Source>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        entries.push(entry?.path());
    }
    entries.sort_by(|a, b| natural_order(a, b));
    let with = |wanted: &[&str]| -> Vec<_> {
        entries.iter().filter(|p| p.is_file() && wanted.contains(&extension(p).as_str())).cloned().collect()
    };
    let sets: Vec<_> = entries.iter().filter(|p| p.is_dir() && pb::is_data_set(p)).cloned().collect();
    if !sets.is_empty() {
        return Ok(Box::new(pb::DataSets::new(sets, specs)));
    }
    if pb::is_data_set(path) {
        return Ok(Box::new(pb::DataSets::new(vec![path.to_path_buf()], specs)));
    }
    let npz = with(&["npz"]);
    if !npz.is_empty() {
        return Ok(Box::new(npz::Files::new(npz)));
    }
    let npy = with(&["npy"]);
    if !npy.is_empty() {
        return Ok(Box::new(npy::Files::new(npy, specs)?));
    }
    let images = images::find(path)?;
    if !images.is_empty() {
        return Ok(Box::new(images::Images::new(images, specs, &options.preprocess)?));
    }
    bail!("{} holds no .npz, .npy, image or test_data_set_* entries", path.display())
}

/// `set_2` before `set_10`: digits compare as numbers.
fn natural_order(a: &Path, b: &Path) -> std::cmp::Ordering {
    let key = |path: &Path| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut parts: Vec<(u64, String)> = Vec::new();
        let (mut digits, mut letters) = (String::new(), String::new());
        for c in name.chars() {
            if c.is_ascii_digit() {
                digits.push(c);
                continue;
            }
            if !digits.is_empty() {
                parts.push((digits.parse().unwrap_or(u64::MAX), std::mem::take(&mut letters)));
                digits.clear();
            }
            letters.push(c);
        }
        parts.push((digits.parse().unwrap_or(0), letters));
        (parts.into_iter().map(|(number, text)| (text, number)).collect::<Vec<_>>(), name)
    };
    key(a).cmp(&key(b))
}

/// The only input of a model, for formats that name none.
fn only_input<'a>(specs: &'a [InputSpec], what: &str) -> Result<&'a InputSpec> {
    match specs {
        [spec] => Ok(spec),
        _ => {
            let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            bail!(
                "{what} feeds one input, but the model has {}: use .npz files with these keys: {}",
                specs.len(),
                names.join(", ")
            )
        }
    }
}
