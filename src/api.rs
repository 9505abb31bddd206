//! The library's one call: a file in, a quantized file out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::data::{self, DataOptions};
use crate::pipeline::quantize::{QuantizeOptions, Quantized};

/// Samples for calibration and validation.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// What `--data` takes: .npz, .npy, .jsonl, .txt, a picture, or a folder of such.
    pub path: PathBuf,
    /// How they are read: preprocessing of pictures, tokens of texts, how many.
    pub options: DataOptions,
}

impl Samples {
    /// The samples at a path, pictures prepared as for ImageNet.
    pub fn at(path: impl Into<PathBuf>) -> Samples {
        Samples { path: path.into(), options: DataOptions::default() }
    }
}

/// Quantizes the model in one file into another, as `onnxq quantize` does, and returns what was decided and measured. Prints
/// nothing.
///
/// Made for build steps: the output is written only when everything before went well, and the same input gives the same
/// bytes.
///
/// ```no_run
/// // build.rs: int8 beside the float model, and a build that fails where int8 is not good enough.
/// use onnxq::{QuantizeOptions, Samples, quantize};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     println!("cargo::rerun-if-changed=models/classifier.onnx");
///     println!("cargo::rerun-if-changed=models/calibration");
///     let options = QuantizeOptions::for_target("ort-cpu")?;
///     let samples = Samples::at("models/calibration");
///     let output = std::path::Path::new(&std::env::var("OUT_DIR")?).join("classifier.int8.onnx");
///     let made = quantize("models/classifier.onnx", &output, Some(&samples), &options)?;
///     for validation in &made.validation {
///         for output in &validation.outputs {
///             if output.sqnr_db < 20.0 {
///                 return Err(format!("{} in {}: {:.1} dB", output.name, validation.runtime, output.sqnr_db).into());
///             }
///         }
///     }
///     Ok(())
/// }
/// ```
///
/// # Errors
/// A file that is no model, data that do not fit it, an operator that cannot be quantized as asked: each with its name, the
/// cause and the next step. Static mode without samples.
pub fn quantize(
    model: impl AsRef<Path>,
    output: impl AsRef<Path>,
    samples: Option<&Samples>,
    options: &QuantizeOptions,
) -> Result<Quantized> {
    let (model, output) = (model.as_ref(), output.as_ref());
    if model == output {
        bail!("the output would overwrite the input {}", model.display());
    }
    proto::writable(output)?;
    let loaded =
        proto::read(model, &proto::ReadOptions::default()).with_context(|| model.display().to_string())?;
    let source = samples
        .map(|samples| data::open(&samples.path, &data::input_specs(&loaded.model), &samples.options))
        .transpose()?;
    let made =
        crate::pipeline::quantize::quantize(loaded.model, source.as_deref(), options, &mut |_, _, _| {})?;
    proto::write(&made.model, output, &proto::WriteOptions::default())?;
    Ok(made)
}
