//! A weight quantizer as a filter, for the scripts in `compare/`.
//!
//! Reads one JSON job a line from standard input, answers one JSON line. Matrices travel as raw little-endian files:
//! weights f32 `[N, K]`, Gram matrices f64 `[K, K]`. A job names the method, the specification and where to write:
//!
//! ```json
//! {"method": "gptq", "rows": 256, "cols": 256, "weight": "w.f32", "gram": "g.f64", "out": "d.f32",
//!  "spec": {"bits": 4, "block": {"columns": 32}, "zero": "per_block"}, "options": {"sweeps": 0}}
//! ```

use std::error::Error;
use std::io::{BufRead, Write};

use onnxq_quant::weight::gptq::{GptqOptions, gptq};
use onnxq_quant::weight::gram::Gram;
use onnxq_quant::weight::rtn::rtn;
use onnxq_quant::weight::rtn_search::rtn_search;
use onnxq_quant::weight::{Quantized, Spec, Weight};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    method: String,
    rows: usize,
    cols: usize,
    weight: String,
    spec: Spec,
    gram: Option<String>,
    importance: Option<String>,
    #[serde(default)]
    options: serde_json::Value,
    /// Dequantized weights, f32 `[N, K]`.
    out: Option<String>,
    /// Codes, one byte each, `[N, K]`.
    codes: Option<String>,
}

fn read<T: bytemuck::Pod>(path: &str) -> Result<Vec<T>, Box<dyn Error>> {
    Ok(std::fs::read(path)?.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
}

fn run(job: &Job) -> Result<serde_json::Value, Box<dyn Error>> {
    let data = read::<f32>(&job.weight)?;
    let weight = Weight::from_rows(&data[..], job.rows, job.cols)?;
    let importance = job.importance.as_deref().map(read::<f32>).transpose()?;
    let gram = match &job.gram {
        Some(path) => Some(Gram::from_matrix(&read::<f64>(path)?, job.cols, 1)?),
        None => None,
    };
    let needs_gram = || gram.as_ref().ok_or("this method needs a gram");
    let options = || match job.options.is_null() {
        true => json!({}),
        false => job.options.clone(),
    };
    let start = std::time::Instant::now();
    let q: Quantized = match job.method.as_str() {
        "rtn" => rtn(&weight, &job.spec)?,
        "rtn_search" => rtn_search(&weight, &job.spec, importance.as_deref())?,
        "gptq" => {
            let options: GptqOptions = serde_json::from_value(options())?;
            gptq(&weight, &job.spec, needs_gram()?, &options)?
        }
        other => return Err(format!("no method {other:?}").into()),
    };
    let seconds = start.elapsed().as_secs_f64();
    if let Some(path) = &job.out {
        std::fs::write(path, bytemuck::cast_slice(&q.dequantize()))?;
    }
    if let Some(path) = &job.codes {
        std::fs::write(path, &q.codes)?;
    }
    Ok(json!({ "bits_per_weight": q.bits_per_weight(), "provenance": q.provenance, "seconds": seconds }))
}

fn main() -> Result<(), Box<dyn Error>> {
    for line in std::io::stdin().lock().lines() {
        let answer = match serde_json::from_str::<Job>(&line?) {
            Ok(job) => run(&job).unwrap_or_else(|e| json!({ "error": e.to_string() })),
            Err(e) => json!({ "error": e.to_string() }),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
