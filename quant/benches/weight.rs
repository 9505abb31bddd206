//! Speed of the data-free weight quantizers: `cargo bench -p onnxq-quant --bench weight`. One thread, so figures are per core:
//! weights per second, beside a copy of the same memory (the bound).

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use onnxq_quant::layout::nbits;
use onnxq_quant::weight::hqq::hqq;
use onnxq_quant::weight::kquant::{Kind, kquant};
use onnxq_quant::weight::nf4::{Scale, Table, nf4};
use onnxq_quant::weight::rtn::rtn;
use onnxq_quant::weight::rtn_search::{rtn_search, rtn_search_ref};
use onnxq_quant::weight::{Bits, Spec, Weight};

mod common;
use common::numbers;

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

fn one_thread(c: &mut Criterion) {
    common::one_thread();
    data_free(c);
}

criterion_group!(benches, one_thread);
criterion_main!(benches);
