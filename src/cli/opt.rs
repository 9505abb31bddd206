//! `onnxq opt`: reads a model, runs the named passes in order, writes it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, anyhow};
use passes::{Options, Spec, Step};
use proto::WriteOptions;

use super::common::{is_text, read_model, warn};

/// Run passes over a model (for developers)
#[derive(clap::Args)]
pub struct Args {
    /// The model to read; .onnxtxt is ONNX's text syntax
    model: PathBuf,
    /// Where to write the result; .onnxtxt writes text
    #[arg(short, long)]
    output: PathBuf,
    /// Passes to run in order: `normalize,fold_constants(max_growth=1000),...`; `simplify` stands for all of that preset
    #[arg(long, default_value = "", value_name = "LIST")]
    passes: String,
    /// Stop after this many rewrites
    #[arg(long, value_name = "N")]
    fuel: Option<u64>,
    /// Verify the model after each pass
    #[arg(long)]
    verify_each: bool,
    /// Print what each pass changed
    #[arg(long)]
    print_changed: bool,
    /// Write although the input holds what this program does not know and would lose
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let mut model = read_model(&args.model)?;
    let mut steps = Vec::new();
    for spec in Spec::list(&args.passes)? {
        match spec.name.as_str() {
            "simplify" => steps.extend(passes::preset::simplify()),
            _ => steps.push(Step::Once(spec)),
        }
    }
    if !steps.is_empty() {
        let start = Instant::now();
        let clock = || start.elapsed();
        let options = Options {
            clock: Some(&clock),
            fuel: args.fuel,
            verify_each: args.verify_each,
            print_changed: args.print_changed,
            count_only: true,
            relieve: Some(&proto::release_pages),
            ..Options::default()
        };
        let report = passes::run(&mut model, &steps, options).map_err(|failure| {
            let again = failure.reproducer(&args.model.display().to_string());
            let again = again.map_or_else(String::new, |again| format!("\nhint: {again}"));
            // What the pass was given, for whoever looks into the failure.
            let dump = args.output.with_extension("failed.onnxtxt");
            let kept = failure.before.as_ref().filter(|text| std::fs::write(&dump, text).is_ok());
            let kept =
                kept.map_or_else(String::new, |_| format!("\nthe model before it: {}", dump.display()));
            anyhow!("{failure}{kept}{again}")
        })?;
        warn(&report);
        for pass in &report.runs {
            eprintln!("{}: {} rewrites, {:.3} s", pass.pass, pass.rewrites, pass.seconds.unwrap_or_default());
            pass.diff.iter().for_each(|diff| eprintln!("{diff}"));
        }
    }
    if is_text(&args.output) {
        let text = ir::text::print(&model);
        return Ok(proto::write_file(&args.output, text.as_bytes())?);
    }
    let options = WriteOptions { force: args.force, ..WriteOptions::default() };
    proto::write(&model, &args.output, &options)?;
    Ok(())
}
