//! GPTQ of one layer beside the matrix products that it cannot do without: `cargo bench -p onnxq-quant --bench gptq`.
//! One thread. `compare/gptq.py` forms the quotient (gram + gptq) / raw products; its bar is 1.5.
//!
//! A layer of 4096 x 4096 takes some seconds a run, so a group takes minutes: `-- 1024` runs the small one alone.

use std::cell::OnceCell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use onnxq_quant::weight::gptq::{GptqOptions, gptq};
use onnxq_quant::weight::gram::Gram;
use onnxq_quant::weight::{Spec, Weight};

mod common;
use common::numbers;

/// Columns and rows of a tile of the Gram matrix.
const TILE: usize = 256;
/// Columns whose corrections are one product.
const LAZY: usize = 128;

/// out = a·b, a `[m, k]` of strides (`row`, `col`), b `[k, n]` row-major.
fn product(
    (m, k, n): (usize, usize, usize),
    a: &[f32],
    (row, col): (usize, usize),
    b: &[f32],
    out: &mut [f32],
) {
    assert!((m - 1) * row + (k - 1) * col < a.len() && k * n <= b.len() && m * n <= out.len());
    let (a, b, c) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
    let (row, col, n_row) = (row as isize, col as isize, n as isize);
    // SAFETY: the sizes were just checked.
    unsafe { matrixmultiply::sgemm(m, k, n, 1.0, a, row, col, b, n_row, 1, 0.0, c, n_row, 1) }
}

/// The same in f64 for one pair of tiles.
fn product_of_doubles(a: &[f64], out: &mut [f64]) {
    assert!(a.len() >= TILE * TILE && out.len() >= TILE * TILE);
    let (a, c, row) = (a.as_ptr(), out.as_mut_ptr(), TILE as isize);
    // SAFETY: all three matrices have TILE × TILE elements.
    unsafe { matrixmultiply::dgemm(TILE, TILE, TILE, 1.0, a, row, 1, a, row, 1, 0.0, c, row, 1) }
}

/// The products GPTQ needs: half of Xᵀ·X, a Cholesky factor (K³/3), and Σ over lazy blocks of E·M (N·K²).
fn raw_products(inputs: &[f32], tokens: usize, size: usize) {
    let mut out = vec![0.0f32; TILE * TILE];
    let tiles = size.div_ceil(TILE);
    for i in 0..tiles {
        for _ in 0..=i {
            product((TILE, tokens, TILE), inputs, (1, size), inputs, &mut out);
        }
    }
    for upto in (LAZY..size).step_by(LAZY) {
        for _ in 0..tiles {
            product((LAZY, upto, TILE), inputs, (1, LAZY), inputs, &mut out);
        }
    }
    let (doubles, mut square) = (vec![0.5f64; TILE * TILE], vec![0.0f64; TILE * TILE]);
    for below in 1..=tiles {
        for _ in 0..below * (below + 1) / 2 {
            product_of_doubles(&doubles, &mut square);
        }
    }
    black_box((out, square));
}

fn layer(c: &mut Criterion, size: usize, tokens: usize) {
    let (w, inputs) = (numbers(size * size), numbers(tokens * size));
    let weight = Weight::from_rows(&w[..], size, size).expect("it is square");
    let spec = Spec::int4(32);
    let gram = || {
        let mut gram = Gram::new(size);
        gram.add(&inputs).expect("the inputs are finite");
        gram
    };
    let known = OnceCell::new();
    let mut group = c.benchmark_group(format!("{size} x {size}, {tokens} tokens"));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(1));
    group.bench_function("raw products", |b| b.iter(|| raw_products(&inputs, tokens, size)));
    group.bench_function("gram", |b| b.iter(gram));
    let sweeps = |sweeps| GptqOptions { sweeps: Some(sweeps), ..GptqOptions::default() };
    let all =
        [("gptq", GptqOptions::default()), ("gptq, no sweeps", sweeps(0)), ("gptq, 2 sweeps", sweeps(2))];
    for (name, options) in all {
        group.bench_function(name, |b| {
            let gram = known.get_or_init(gram);
            b.iter(|| gptq(&weight, &spec, gram, &options).expect("the Gram matrix is positive"))
        });
    }
    group.finish();
}

fn layers(c: &mut Criterion) {
    common::one_thread();
    layer(c, 1024, 8192);
    layer(c, 4096, 16384);
}

criterion_group!(benches, layers);
criterion_main!(benches);
