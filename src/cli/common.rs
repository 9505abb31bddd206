//! Arguments that several commands share.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ir::Model;
use proto::ReadOptions;

use crate::data::{
    self, DEFAULT_PREPROCESS, DataOptions, Layout, Preprocess, Selection, Source, TextOptions,
};
use crate::pipeline::engine::{Engine, EngineOptions};
use crate::pipeline::measure::Figures;

/// Where samples come from.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Data")]
pub struct DataArgs {
    /// Samples: .npz, .npy, .jsonl, .txt, a picture, or a folder of .npz, .npy, pictures (or of folders of them) or
    /// test_data_set_*
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Use made-up data: this many random samples. Says nothing about real accuracy
    #[arg(long, value_name = "N", conflicts_with = "data")]
    pub random: Option<usize>,
    /// At most this many samples, evenly spaced over the data
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
    /// Draw the samples at random instead
    #[arg(long)]
    pub shuffle: bool,
    /// Seed of every random choice
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Join this many samples along their first axis
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub batch: usize,
    /// Pictures: imagenet (if nothing is said), unit, yolo, raw (0 to 255), or a TOML file
    #[arg(long, value_name = "NAME|FILE")]
    pub preprocess: Option<String>,
    /// Pictures: size of the tensor, if the model leaves it open
    #[arg(long, value_name = "WIDTHxHEIGHT")]
    pub image_size: Option<String>,
    /// Pictures: length of the shortest side before the centre is cut out
    #[arg(long, value_name = "PIXELS")]
    pub resize: Option<usize>,
    /// Pictures: order of the axes, if the model does not tell
    #[arg(long, value_enum)]
    pub layout: Option<Layout>,
    /// Pictures: blue first
    #[arg(long)]
    pub bgr: bool,
    /// Pictures: subtracted per channel, after scaling
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub mean: Option<Vec<f32>>,
    /// Pictures: divided by per channel, after the mean
    #[arg(long, value_name = "A,B,C", value_delimiter = ',')]
    pub std: Option<Vec<f32>>,
    /// Text: tokenizer.json
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// Text: tokens a window
    #[arg(long, value_name = "TOKENS")]
    pub length: Option<usize>,
    /// Text: tokens from one window's start to the next
    #[arg(long, value_name = "TOKENS")]
    pub stride: Option<usize>,
}

fn three(values: &[f32], flag: &str) -> Result<[f32; 3]> {
    <[f32; 3]>::try_from(values).with_context(|| format!("{flag} takes three numbers"))
}

impl DataArgs {
    /// The options behind the arguments.
    pub fn options(&self) -> Result<DataOptions> {
        let mut preprocess = Preprocess::load(self.preprocess.as_deref().unwrap_or(DEFAULT_PREPROCESS))?;
        if let Some(size) = &self.image_size {
            let (width, height) =
                size.split_once('x').context("--image-size takes WIDTHxHEIGHT, for example 224x224")?;
            preprocess.size = Some([width.parse()?, height.parse()?]);
        }
        preprocess.resize = self.resize.or(preprocess.resize);
        preprocess.layout = self.layout.or(preprocess.layout);
        preprocess.bgr |= self.bgr;
        if let Some(mean) = &self.mean {
            preprocess.mean = three(mean, "--mean")?;
        }
        if let Some(std) = &self.std {
            preprocess.std = three(std, "--std")?;
        }
        let (shuffle, seed, batch) = (self.shuffle, self.seed, self.batch);
        Ok(DataOptions {
            preprocess,
            text: TextOptions { tokenizer: self.tokenizer.clone(), length: self.length, stride: self.stride },
            selection: Selection { samples: self.samples, shuffle, seed, batch },
        })
    }

    /// Opens the samples for a model.
    pub fn open(&self, model: &Model) -> Result<Box<dyn Source>> {
        let (specs, options) = (data::input_specs(model), self.options()?);
        match (&self.data, self.random) {
            (Some(path), _) => {
                let source = data::open(path, &specs, &options)?;
                let said = self.preprocess.is_some() || self.mean.is_some() || self.std.is_some();
                if source.are_pictures() && !said {
                    eprintln!(
                        "note: pictures are prepared as for {DEFAULT_PREPROCESS}; if the model was trained otherwise, say how with \
                         --preprocess"
                    );
                }
                Ok(source)
            }
            (None, Some(count)) => {
                eprintln!("warning: random data: nothing measured here says how the model does on real data");
                data::random(&specs, count, &options)
            }
            (None, None) => bail!("no data: give --data PATH (or --random N to try things out)"),
        }
    }
}

/// Which runtime runs the model.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Runtime")]
pub struct EngineArgs {
    /// What runs the model
    #[arg(long, value_enum, default_value_t)]
    pub runtime: Engine,
    /// The ONNX Runtime library, if it is not found by itself
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    /// Samples run at the same time; 0 means one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
}

impl EngineArgs {
    /// The options behind the arguments.
    pub fn options(&self) -> EngineOptions {
        EngineOptions { engine: self.runtime, ort_library: self.ort_lib.clone(), threads: self.threads }
    }
}

/// Bars that decide the exit code.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Bars")]
pub struct Bars {
    /// Exit with 1 if an output's SQNR is below this many dB
    #[arg(long, value_name = "DB", allow_negative_numbers = true)]
    pub min_sqnr: Option<f64>,
    /// Exit with 1 if the share of equal first choices is below this, 0 to 1
    #[arg(long, value_name = "SHARE")]
    pub min_top1_agreement: Option<f64>,
}

impl Bars {
    /// Some bar was stated.
    pub fn any(&self) -> bool {
        self.min_sqnr.is_some() || self.min_top1_agreement.is_some()
    }

    /// Every output meets every bar; says which does not.
    pub fn met(&self, runtime: &str, outputs: &[Figures]) -> bool {
        let mut met = true;
        for figures in outputs {
            let mut miss = |what: &str, found: f64, bar: f64| {
                eprintln!(
                    "bar missed: {what} of {:?} in {runtime} is {found:.3}, wanted {bar}",
                    figures.name
                );
                met = false;
            };
            if let Some(bar) =
                self.min_sqnr.filter(|&bar| figures.differing.is_none() && figures.sqnr_db < bar)
            {
                miss("SQNR", figures.sqnr_db, bar);
            }
            if let (Some(bar), Some(found)) = (self.min_top1_agreement, figures.top1_agreement)
                && found < bar
            {
                miss("top-1 agreement", found, bar);
            }
        }
        met
    }
}

/// The target of this name.
pub fn target(name: &str) -> Result<&'static dyn passes::target::Target> {
    let names = || passes::target::TARGETS.iter().map(|target| target.name()).collect::<Vec<_>>().join(", ");
    passes::target::target(name)
        .with_context(|| format!("no target is called {name:?}; there are: {}", names()))
}

/// The extension of models in ONNX's own text syntax.
const TEXT: &str = "onnxtxt";

/// The file holds (or shall hold) a model as text.
pub fn is_text(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|extension| extension == TEXT)
}

/// Reads a model and says what there is to say about its file.
pub fn read_model(path: &std::path::Path) -> Result<Model> {
    if is_text(path) {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        return ir::text::parse(&text).with_context(|| path.display().to_string());
    }
    let loaded = proto::read(path, &ReadOptions::default()).with_context(|| path.display().to_string())?;
    loaded.notes.iter().for_each(|note| eprintln!("warning: {note}"));
    Ok(loaded.model)
}

/// Bytes of the file at `path` and of the constants of its model that are in files of their own.
pub fn bytes_on_disk(path: &std::path::Path, model: &Model) -> u64 {
    std::fs::metadata(path).map_or(0, |data| data.len()) + external_bytes(model)
}

/// Bytes of the constants that are in files of their own.
pub fn external_bytes(model: &Model) -> u64 {
    let of = |graph: &ir::Graph| -> u64 {
        let constants = graph.values().filter_map(|value| graph.constant(value));
        let external = constants.filter(|tensor| tensor.encoding == ir::Encoding::External);
        external.map(|tensor| tensor.bytes().len() as u64).sum()
    };
    model.graph_ids().into_iter().map(|id| of(model.graph(id))).sum()
}

/// Says what the passes found wrong with the model itself.
pub fn warn(report: &passes::Report) {
    for warning in &report.warnings {
        let what = match warning.rule {
            "contradiction" => "the model contradicts itself",
            _ => "the model cannot run here",
        };
        eprintln!("warning: {what}: {}: {}", warning.at, warning.why);
    }
}

/// A progress bar with rate and time left; invisible where stderr is no terminal.
pub fn progress(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len}, {per_sec}, {eta} left");
    let bar = ProgressBar::new(0).with_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
