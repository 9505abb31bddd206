//! Speed of the weight quantizers: `cargo bench -p onnxq-quant --bench weight`. One thread, so figures are per core.
//!
//! - Data-free: weights per second, beside a copy of the same memory (the bound).
//! - GPTQ: one layer, beside the matrix products it cannot do without (Gram matrix, factor, column corrections), run as
//!   plain products of the same sizes; their quotient is printed at the end.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use onnxq_quant::layout::nbits;
use onnxq_quant::weight::gptq::{GptqOptions, gptq};
use onnxq_quant::weight::gram::Gram;
use onnxq_quant::weight::hqq::hqq;
use onnxq_quant::weight::kquant::{Kind, kquant};
use onnxq_quant::weight::nf4::{Scale, Table, nf4};
use onnxq_quant::weight::rtn::rtn;
use onnxq_quant::weight::rtn_search::{rtn_search, rtn_search_ref};
use onnxq_quant::weight::{Bits, Spec, Weight};

/// Numbers spread like weights: a sum of four uniform ones.
fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| uniform() + uniform() + uniform() + uniform()).collect()
}

fn data_free(c: &mut Criterion) {
    let (rows, cols) = (256, 4096);
    let w = numbers(rows * cols);
    let halves: Vec<half::f16> = w.iter().map(|&v| half::f16::from_f32(v)).collect();
    let weight = Weight::from_rows(&w[..], rows, cols).unwrap();
    let half_kn = Weight::from_kn(&halves[..], rows, cols).unwrap();
    let spec = Spec::int4(32);
    let importance = vec![1.0; cols];
    let mut group = c.benchmark_group("256 x 4096, block 32");
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Elements((rows * cols) as u64));
    let mut copy = vec![0.0f32; w.len()];
    group.bench_function("copy (the bound)", |b| b.iter(|| copy.copy_from_slice(black_box(&w))));
    group.bench_function("rtn", |b| b.iter(|| rtn(&weight, &spec).unwrap()));
    group.bench_function("rtn_search", |b| b.iter(|| rtn_search(&weight, &spec, None).unwrap()));
    group.bench_function("rtn_search, symmetric", |b| {
        b.iter(|| rtn_search(&weight, &spec.symmetric(), None).unwrap())
    });
    group.bench_function("rtn_search, 3 bits", |b| {
        b.iter(|| rtn_search(&weight, &spec.with_bits(Bits::Three), None).unwrap())
    });
    group.bench_function("rtn_search, importance", |b| {
        b.iter(|| rtn_search(&weight, &spec, Some(&importance)).unwrap())
    });
    group.bench_function("rtn_search, f16 [K, N]", |b| b.iter(|| rtn_search(&half_kn, &spec, None).unwrap()));
    group.bench_function("rtn_search_ref", |b| b.iter(|| rtn_search_ref(&weight, &spec, None).unwrap()));
    group.bench_function("kquant q4_k", |b| b.iter(|| kquant(&weight, Kind::Q4K, None).unwrap()));
    group.bench_function("hqq", |b| b.iter(|| hqq(&weight, &spec).unwrap()));
    group.bench_function("nf4", |b| b.iter(|| nf4(&weight, Table::Nf4, 64, Scale::Searched, false).unwrap()));
    let q = rtn(&weight, &spec).unwrap();
    group.bench_function("pack MatMulNBits", |b| b.iter(|| nbits::pack(&q).unwrap()));
    group.finish();
}

/// The products GPTQ needs: half of Xᵀ·X, a Cholesky factor (K³/3), and Σ over lazy blocks of E·M (N·K²).
fn raw_products(inputs: &[f32], tokens: usize, cols: usize, rows: usize) {
    const TILE: usize = 256;
    let mut out = vec![0.0f32; TILE.max(rows) * TILE];
    let product = |m: usize, k: usize, n: usize, a: &[f32], (ra, ca): (usize, usize), out: &mut [f32]| {
        assert!((m - 1) * ra + (k - 1) * ca < a.len() && k * n <= inputs.len() && m * n <= out.len());
        // SAFETY: the sizes were just checked.
        unsafe {
            matrixmultiply::sgemm(
                m,
                k,
                n,
                1.0,
                a.as_ptr(),
                ra as isize,
                ca as isize,
                inputs.as_ptr(),
                n as isize,
                1,
                0.0,
                out.as_mut_ptr(),
                n as isize,
                1,
            );
        }
    };
    for i in 0..cols.div_ceil(TILE) {
        for _ in 0..=i {
            product(TILE, tokens, TILE, inputs, (1, cols), &mut out);
        }
    }
    for b in (128..cols).step_by(128) {
        product(128, b, rows.min(TILE), inputs, (1, 128), &mut out);
        for _ in 1..rows.div_ceil(TILE) {
            product(128, b, TILE, inputs, (1, 128), &mut out);
        }
    }
    let doubles = vec![0.5f64; cols * TILE];
    let mut square = vec![0.0f64; TILE * TILE];
    for k in 0..cols.div_ceil(TILE) {
        let below = cols.div_ceil(TILE) - k;
        for _ in 0..below * (below + 1) / 2 {
            // SAFETY: all three matrices have TILE × TILE elements.
            unsafe {
                matrixmultiply::dgemm(
                    TILE,
                    TILE,
                    TILE,
                    1.0,
                    doubles.as_ptr(),
                    TILE as isize,
                    1,
                    doubles.as_ptr(),
                    TILE as isize,
                    1,
                    0.0,
                    square.as_mut_ptr(),
                    TILE as isize,
                    1,
                );
            }
        }
    }
    black_box((out, square));
}

/// The bar is the time of `gram + gptq` by that of `raw products`, both of one run: at most 1.5.
fn calibrated(c: &mut Criterion) {
    let (rows, cols, tokens) = (1024, 1024, 8192);
    let w = numbers(rows * cols);
    let inputs = numbers(tokens * cols);
    let weight = Weight::from_rows(&w[..], rows, cols).unwrap();
    let spec = Spec::int4(32);
    let plain = GptqOptions { sweeps: 0, ..GptqOptions::default() };
    let layer = |options: &GptqOptions| {
        let mut gram = Gram::new(cols);
        gram.add(&inputs).unwrap();
        gptq(&weight, &spec, &gram, options).unwrap()
    };
    let mut group = c.benchmark_group("1024 x 1024, 8192 tokens");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    group.bench_function("raw products", |b| b.iter(|| raw_products(&inputs, tokens, cols, rows)));
    group.bench_function("gram", |b| {
        b.iter(|| {
            let mut gram = Gram::new(cols);
            gram.add(&inputs).unwrap();
            gram
        })
    });
    group.bench_function("gram + gptq", |b| b.iter(|| layer(&plain)));
    group.bench_with_input(BenchmarkId::new("gram + gptq, sweeps", 2), &GptqOptions::default(), |b, o| {
        b.iter(|| layer(o))
    });
    group.finish();
}

/// One core: the bars are stated for one.
fn one_thread(c: &mut Criterion) {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("the first use of the pool");
    data_free(c);
    calibrated(c);
}

criterion_group!(benches, one_thread);
criterion_main!(benches);
