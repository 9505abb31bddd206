//! Throughput of observing activations, beside a copy of the same memory: `cargo bench -p onnxq-quant --bench sketch`.
//! One mebi-element (4 MiB) is a large CNN activation; 64 Ki elements (256 KiB) a usual one.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use onnxq_quant::range::{METHODS, Sketch, choose};
use onnxq_quant::{CodeType, Grid, Layout, Params, Policy, quantize};

mod common;
use common::numbers;

fn sketch(c: &mut Criterion) {
    for n in [1 << 16, 1 << 20] {
        let signed = numbers(n);
        let relu: Vec<f32> = signed.iter().map(|v| v.max(0.0)).collect();
        let mut group = c.benchmark_group(format!("{} Ki", n >> 10));
        group.throughput(Throughput::Bytes(4 * n as u64));
        let mut copy = vec![0.0f32; n];
        group.bench_function("copy (the bound)", |b| b.iter(|| copy.copy_from_slice(black_box(&signed))));
        for (name, x) in [("signed", &signed), ("relu", &relu)] {
            group.bench_with_input(BenchmarkId::new("observe", name), x, |b, x| {
                let mut s = Sketch::new();
                b.iter(|| s.observe(0, black_box(x)));
            });
            group.bench_with_input(BenchmarkId::new("observe_ref", name), x, |b, x| {
                let mut s = Sketch::new();
                b.iter(|| s.observe_ref(0, black_box(x)));
            });
        }
        for (name, dims, axis) in [("channels first", [64, n / 64], 0), ("channels last", [n / 64, 64], 1)] {
            let layout = Layout::per_axis(&dims, axis).unwrap();
            group.bench_with_input(BenchmarkId::new("observe_channels", name), &relu, |b, x| {
                let mut s = Sketch::new();
                b.iter(|| s.observe_channels(0, black_box(x), &layout).unwrap());
            });
        }
        let (layout, p) = (Layout::per_tensor(n), [Params::new(0.01, 3).unwrap()]);
        let mut codes = vec![0i8; n];
        group.bench_function("quantize", |b| {
            b.iter(|| quantize::quantize(black_box(&signed), &layout, &p, (-128, 127), &mut codes).unwrap())
        });
        group.bench_function("fake_quantize", |b| {
            b.iter(|| {
                quantize::fake_quantize(black_box(&signed), &layout, &p, (-128, 127), &mut copy).unwrap()
            })
        });
        group.finish();
    }
}

/// Time of each range method on one sketch with all bins of both sides in use.
fn methods(c: &mut Criterion) {
    let s = Sketch::of(&numbers(1 << 20));
    let mut group = c.benchmark_group("choose");
    for (method, _) in METHODS {
        let m = method.parse().unwrap();
        group.bench_function(*method, |b| {
            b.iter(|| choose(m, black_box(&s), Grid::asymmetric(CodeType::U8), &Policy::default()))
        });
    }
    group.finish();
}

criterion_group!(benches, sketch, methods);
criterion_main!(benches);
