//! `onnxq eval perplexity`: how well a language model predicts a text, alone or beside its reference.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use ir::Model;
use serde_json::json;

use super::common::{EngineArgs, progress, read_model};
use crate::data::{self, DataOptions, TextOptions};
use crate::pipeline::engine::{EngineOptions, form_for, prepare};
use crate::pipeline::perplexity::{Language, PerplexityOptions, perplexity};
use crate::pipeline::prepare::lowered;

/// Measure a model on its task
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Perplexity(Box<PerplexityArgs>),
}

/// Perplexity of a language model on a text; with --reference also how far its predictions are from another model's
#[derive(clap::Args)]
struct PerplexityArgs {
    /// The model
    model: PathBuf,
    /// Plain text, or token numbers with one window a line
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// tokenizer.json, for plain text
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Tokens a window; the model's own, or 128
    #[arg(long, value_name = "TOKENS")]
    window: Option<usize>,
    /// Tokens from one window's start to the next; the window if absent
    #[arg(long, value_name = "TOKENS", requires = "window")]
    stride: Option<usize>,
    /// Go through each window this many tokens at a time, with the model's key-value cache
    #[arg(long, value_name = "TOKENS")]
    step: Option<usize>,
    /// The model to compare with
    #[arg(long, visible_alias = "against", value_name = "MODEL")]
    reference: Option<PathBuf>,
    /// Exit with 1 if the perplexity is above this
    #[arg(long, value_name = "PPL")]
    max_perplexity: Option<f64>,
    /// Exit with 1 if the mean KL divergence from the reference is above this
    #[arg(long, value_name = "NATS", requires = "reference")]
    max_kl: Option<f64>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command; false if a stated bar was missed.
pub fn run(args: &Args) -> Result<bool> {
    match &args.what {
        What::Perplexity(args) => run_perplexity(args),
    }
}

/// Loads a model in the form that its runtime takes.
fn load(model: &Model, options: &EngineOptions) -> Result<(Language, String)> {
    let (executor, note) = options.choose(&lowered(model)?)?;
    note.iter().for_each(|note| eprintln!("note: {note}"));
    let form = form_for(executor.as_ref(), model)?;
    let session = prepare(executor.as_ref(), &form, vec![])?;
    Ok((Language::new(model, session)?, format!("{} {}", executor.name(), executor.version())))
}

fn run_perplexity(args: &PerplexityArgs) -> Result<bool> {
    let model = read_model(&args.model)?;
    let reference = args.reference.as_deref().map(read_model).transpose()?;
    let length = args.window;
    let stride = args.stride.or(length);
    if let (Some(stride), Some(length)) = (stride, length)
        && (stride == 0 || stride > length)
    {
        bail!("--stride is 1 to the window ({length}), found {stride}");
    }
    if args.window.is_some() && args.tokenizer.is_none() {
        bail!("--window and --stride cut plain text: give --tokenizer tokenizer.json");
    }
    let text = TextOptions { tokenizer: args.tokenizer.clone(), length, stride };
    let options = DataOptions { text, ..DataOptions::default() };
    let source = data::open(&args.text, &data::input_specs(&model), &options)?;
    let engine = args.engine.options();
    let (language, runtime) = load(&model, &engine)?;
    let beside = reference.as_ref().map(|model| load(model, &engine)).transpose()?;
    let bar = progress("scoring");
    bar.set_length(source.len() as u64);
    let overlap = length.zip(stride).map_or(0, |(length, stride)| length - stride);
    let how = PerplexityOptions { overlap, step: args.step, threads: engine.threads() };
    let found = perplexity(
        &language,
        beside.as_ref().map(|(language, _)| language),
        source.as_ref(),
        &how,
        &mut |_| {
            bar.inc(1);
        },
    )
    .with_context(|| args.model.display().to_string())?;
    bar.finish_and_clear();
    if args.json {
        let report = json!({
            "version": 1, "model": args.model, "text": args.text, "runtime": runtime, "windows": source.len(),
            "window": length, "stride": stride, "step": args.step, "figures": found,
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!(
            "perplexity     {:.4} ({} predictions in {} windows)",
            found.perplexity,
            found.predictions,
            source.len()
        );
        if let Some(against) = &found.reference {
            let ratio = found.perplexity - against.perplexity;
            println!(
                "reference      {:.4} ({ratio:+.4} ± {:.4})",
                against.perplexity, against.difference_error
            );
            println!(
                "KL divergence  mean {:.5}, 99 % {:.5}, most {:.5} nats",
                against.mean_kl, against.kl_99, against.max_kl
            );
            println!("same top-1     {:.2} % of {} positions", 100.0 * against.same_top1, against.positions);
        }
        println!("runtime        {runtime}");
    }
    let mut met = true;
    let mut bar = |what: &str, found: f64, most: Option<f64>| {
        if let Some(most) = most.filter(|&most| found.is_nan() || found > most) {
            eprintln!("bar missed: {what} is {found:.5}, wanted at most {most}");
            met = false;
        }
    };
    bar("perplexity", found.perplexity, args.max_perplexity);
    bar("mean KL divergence", found.reference.as_ref().map_or(0.0, |a| a.mean_kl), args.max_kl);
    Ok(met)
}
