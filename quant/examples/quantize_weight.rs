//! A weight quantizer as a filter, for the scripts in `compare/`.
//!
//! Reads one JSON job a line from standard input, answers one JSON line. Matrices travel as raw little-endian f32 files. A
//! job names the method, the specification, the files and where to write:
//!
//! ```json
//! {"method": "gptq", "rows": 256, "cols": 256, "weight": "w.f32", "inputs": "x.f32", "out": "d.f32",
//!  "spec": {"bits": 4, "block": {"columns": 32}, "zero": "per_block"}, "options": {"sweeps": 0}}
//! ```
//!
//! Methods: rtn, rtn_search, hqq, hqq_rounded, nf4, fp4, q2k … q6k, awq (scales, then rtn_search), gptq, awq_gptq. `packing`
//! also writes the tensors of a layout: see [`Packing`].

use std::error::Error;
use std::io::{BufRead, Write};

use onnxq_quant::layout::{blocked, bnb4, gather, nbits};
use onnxq_quant::weight::awq::{Trial, apply, awq_scales};
use onnxq_quant::weight::cross::{Cross, retarget};
use onnxq_quant::weight::gptq::{GptqOptions, gptq};
use onnxq_quant::weight::gram::Gram;
use onnxq_quant::weight::hqq::{hqq, hqq_rounded};
use onnxq_quant::weight::kquant::{Kind, kquant};
use onnxq_quant::weight::nf4::{Codebook, Scale, Table, nf4};
use onnxq_quant::weight::rtn::rtn;
use onnxq_quant::weight::rtn_search::rtn_search;
use onnxq_quant::weight::{Affine, Provenance, Quantized, Spec, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    method: String,
    rows: usize,
    cols: usize,
    weight: String,
    spec: Spec,
    importance: Option<String>,
    /// What the layer reads, for calibrated methods: f32 `[T, K]`.
    inputs: Option<String>,
    /// What it would read if no layer before it were quantized, f32 `[T, K]`.
    float_inputs: Option<String>,
    /// What its output should have more than that (float minus quantized residual stream), f32 `[T, N]`.
    residual: Option<String>,
    #[serde(default)]
    options: Option<GptqOptions>,
    /// Dequantized weights, f32 `[N, K]`.
    out: Option<String>,
    /// Codes, one byte each, `[N, K]`.
    codes: Option<String>,
    /// Tensors of a layout, written to files that start with `prefix`.
    packing: Option<Packing>,
}

/// Which tensors to write: `nbits`, `blocked_kn`, `blocked_nk`, `gather_int4`, `gather_bytes` or `bnb4`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Packing {
    layout: String,
    prefix: String,
}

fn read<T: bytemuck::Pod>(path: &str) -> Result<Vec<T>> {
    Ok(std::fs::read(path)?.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
}

fn write<T: bytemuck::NoUninit>(path: &str, values: &[T]) -> Result<()> {
    Ok(std::fs::write(path, bytemuck::cast_slice(values))?)
}

/// What a method made.
enum Made {
    Grid(Quantized),
    Affine(Affine),
    Table(Codebook),
    /// Column scales and the weight that was scaled.
    Scaled(Vec<f32>, Quantized),
}

impl Made {
    fn dequantize(&self) -> Vec<f32> {
        match self {
            Self::Grid(q) => q.dequantize(),
            Self::Affine(q) => q.dequantize(),
            Self::Table(q) => q.dequantize(),
            Self::Scaled(scales, q) => {
                let mut out = q.dequantize();
                out.chunks_mut(q.cols).for_each(|r| r.iter_mut().zip(scales).for_each(|(w, s)| *w /= s));
                out
            }
        }
    }

    fn facts(&self) -> (&[u8], f64, &Provenance) {
        match self {
            Self::Grid(q) | Self::Scaled(_, q) => (&q.codes, q.bits_per_weight(), &q.provenance),
            Self::Affine(q) => (&q.codes, q.bits_per_weight, &q.provenance),
            Self::Table(q) => (&q.codes, q.bits_per_weight(), &q.provenance),
        }
    }
}

fn quantize(job: &Job, weight: &Weight<'_>, gram: Option<&Gram>) -> Result<Made> {
    let importance = job.importance.as_deref().map(read::<f32>).transpose()?;
    let importance = importance.as_deref();
    let gram = || gram.ok_or("this method needs inputs");
    let options = job.options.unwrap_or_default();
    let block = job.spec.block.columns(job.cols)?;
    Ok(match job.method.as_str() {
        "rtn" => Made::Grid(rtn(weight, &job.spec)?),
        "rtn_search" => Made::Grid(rtn_search(weight, &job.spec, importance)?),
        "hqq" => Made::Affine(hqq(weight, &job.spec)?),
        "hqq_rounded" => Made::Grid(hqq_rounded(weight, &job.spec)?),
        "nf4" => Made::Table(nf4(weight, Table::Nf4, block, Scale::Searched, false)?),
        "fp4" => Made::Table(nf4(weight, Table::Fp4, block, Scale::Searched, false)?),
        "q2k" => Made::Affine(kquant(weight, Kind::Q2K, importance)?),
        "q3k" => Made::Affine(kquant(weight, Kind::Q3K, importance)?),
        "q4k" => Made::Affine(kquant(weight, Kind::Q4K, importance)?),
        "q5k" => Made::Affine(kquant(weight, Kind::Q5K, importance)?),
        "q6k" => Made::Affine(kquant(weight, Kind::Q6K, importance)?),
        "gptq" => Made::Grid(gptq(weight, &job.spec, gram()?, &options)?),
        method @ ("awq" | "awq_gptq") => {
            let found = awq_scales(&[*weight], &job.spec, gram()?, None, Trial::RtnSearch)?;
            let scaled = apply(weight, &found.scales)?;
            let view = Weight::from_rows(&scaled[..], job.rows, job.cols)?;
            let gram = gram()?.scaled(&found.scales)?;
            let q = match method {
                "awq" => rtn_search(&view, &job.spec, Some(&gram.importance()))?,
                _ => gptq(&view, &job.spec, &gram, &options)?,
            };
            Made::Scaled(found.scales, q)
        }
        other => return Err(format!("no method {other:?}").into()),
    })
}

/// Writes the tensors of a layout and describes them.
fn pack(made: &Made, packing: &Packing) -> Result<Value> {
    let path = |name: &str| format!("{}{name}", packing.prefix);
    let grid = match made {
        Made::Grid(q) => Ok(q),
        _ => Err("this layout needs integer zero points"),
    };
    let (codes, scales, zeros, facts) = match packing.layout.as_str() {
        "nbits" => {
            let m = nbits::pack(grid?)?;
            let facts = json!({ "bits": m.bits, "block": m.block, "shape": m.codes_shape() });
            (m.codes, m.scales, m.zero_points, facts)
        }
        order @ ("blocked_kn" | "blocked_nk") => {
            let order = if order == "blocked_kn" { blocked::Order::Kn } else { blocked::Order::Nk };
            let m = blocked::pack(grid?, order)?;
            let facts = json!({
                "code": m.code, "axis": m.axis(), "block": m.block, "shape": m.shape(), "scales": m.scales_shape()
            });
            (m.codes, m.scales, m.zero_points, facts)
        }
        form @ ("gather_int4" | "gather_bytes") => {
            let form = if form == "gather_int4" { gather::Form::Int4 } else { gather::Form::Bytes };
            let m = gather::pack(grid?, form)?;
            let facts = json!({
                "code": m.code, "bits": m.bits, "block": m.block, "shape": m.shape(), "zeros": m.zero_points_shape()
            });
            (m.codes, m.scales, m.zero_points, facts)
        }
        "bnb4" => {
            let Made::Table(q) = made else { return Err("bnb4 needs a table of values".into()) };
            let m = bnb4::pack(q)?;
            let facts = json!({ "block": m.block, "quant_type": m.quant_type() });
            (m.codes, m.absmax, None, facts)
        }
        other => return Err(format!("no layout {other:?}").into()),
    };
    write(&path("codes"), &codes)?;
    write(&path("scales"), &scales)?;
    if let Some(zeros) = &zeros {
        write(&path("zeros"), zeros)?;
    }
    Ok(json!({ "has_zeros": zeros.is_some(), "facts": facts }))
}

fn run(job: &Job) -> Result<Value> {
    let mut data = read::<f32>(&job.weight)?;
    let inputs = job.inputs.as_deref().map(read::<f32>).transpose()?;
    let float_inputs = job.float_inputs.as_deref().map(read::<f32>).transpose()?;
    let residual = job.residual.as_deref().map(read::<f32>).transpose()?;
    let start = std::time::Instant::now();
    let mut gram = None;
    if let Some(inputs) = &inputs {
        let mut sum = Gram::new(job.cols);
        sum.add(inputs)?;
        gram = Some(sum);
    }
    let gram_seconds = start.elapsed().as_secs_f64();
    if let (Some(gram), Some(inputs)) = (&gram, &inputs) {
        let mut input = Cross::new(job.cols, job.cols)?;
        if let Some(float) = &float_inputs {
            let drift: Vec<f32> = float.iter().zip(inputs).map(|(a, b)| a - b).collect();
            input.add(&drift, inputs)?;
        }
        let mut wish = Cross::new(job.rows, job.cols)?;
        if let Some(residual) = &residual {
            wish.add(residual, inputs)?;
        }
        if float_inputs.is_some() || residual.is_some() {
            let weight = Weight::from_rows(&data[..], job.rows, job.cols)?;
            let damping = job.options.unwrap_or_default().damping;
            data = retarget(&weight, gram, Some(&input), Some(&wish), damping)?.weight;
        }
    }
    let weight = Weight::from_rows(&data[..], job.rows, job.cols)?;
    let made = quantize(job, &weight, gram.as_ref())?;
    let seconds = start.elapsed().as_secs_f64();
    if let Some(path) = &job.out {
        write(path, &made.dequantize())?;
    }
    let (codes, bits_per_weight, provenance) = made.facts();
    if let Some(path) = &job.codes {
        write(path, codes)?;
    }
    let layout = job.packing.as_ref().map(|p| pack(&made, p)).transpose()?;
    Ok(json!({
        "bits_per_weight": bits_per_weight, "provenance": provenance, "seconds": seconds,
        "gram_seconds": gram_seconds, "layout": layout
    }))
}

fn main() -> Result<()> {
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
