//! Sensitivity of a CNN of 60 layers: replays with successive halving against the naive loop (a rebuilt model and full runs
//! for each group). Prints both times, their ratio and how well the rankings agree. Run on one thread.

#[path = "../tests/support/chain.rs"]
mod chain;

use std::time::Instant;

use chain::{Trouble, Waves, chain};
use onnxq::QuantizeOptions;
use onnxq::pipeline::engine::EngineOptions;
use onnxq::pipeline::sensitivity::damage::spearman;
use onnxq::pipeline::sensitivity::{MeasureOptions, measure_uniform};
use passes::quantize::Precision;

fn main() {
    let (model, source) = (chain(60, 16, 32, Trouble::None), Waves { count: 32, dims: [1, 16, 32, 32] });
    let engine = EngineOptions { threads: 1, ..EngineOptions::default() };
    let options = QuantizeOptions {
        engine: engine.clone(),
        ..QuantizeOptions::for_target("ort-cpu").expect("the target")
    };
    let timed = |how: MeasureOptions| {
        let how = MeasureOptions { engine: engine.clone(), precisions: vec![Precision::Int8], ..how };
        let start = Instant::now();
        let found = measure_uniform(model.clone(), &source, &options, &how).expect("a model that runs");
        let scores = found.table.scores().into_values().map(|score| score.global_db).collect::<Vec<f64>>();
        (start.elapsed().as_secs_f64(), scores, found.runs)
    };
    // Calibration is common to both: it is taken off.
    let (common, _, _) = timed(MeasureOptions { shard: Some((61, 1000)), ..MeasureOptions::default() });
    let (quick, a, runs) = timed(MeasureOptions::default());
    let naive = MeasureOptions { exhaustive: true, whole: true, ..MeasureOptions::default() };
    let (slow, b, every) = timed(naive);
    println!("61 layers, 32 samples, one thread");
    println!("replay with halving  {:.2} s, {runs} runs", quick - common);
    println!("naive loop           {:.2} s, {every} runs", slow - common);
    println!("ratio                {:.3}", (quick - common) / (slow - common));
    println!("Spearman             {:.3}", spearman(&a, &b));
}
