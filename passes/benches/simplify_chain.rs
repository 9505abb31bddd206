//! Simplification is near-linear: chains of small MatMul + Relu nodes, from 1,600 to 100,000 operators.
//!
//! Bars: 1,600 operators under 0.3 s, 100,000 under 10 s of one core.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ir::{DType, Graph, Model, Op, Place, Shape, Tensor, Type};
use onnxq_passes as passes;

/// A chain of `count` operators, alternating; every MatMul has a weight of its own, or all share one.
fn chain(count: usize, shared: bool) -> Model {
    const SIZE: usize = 4;
    let mut graph = Graph::new("chain");
    let ty = || Some(Type::tensor(DType::F32, Some(Shape::fixed(&[1, SIZE]))));
    let weight = |at: usize| {
        let elements: Vec<f32> = (0..SIZE * SIZE).map(|k| ((at + k) % 7) as f32 / 7.0).collect();
        Tensor::from_slice(&[SIZE, SIZE], &elements).expect("as many elements as the sizes say")
    };
    let mut value = graph.add_input("x", ty()).expect("a fresh name");
    let common = graph.new_constant("w", weight(0));
    for at in 0..count {
        let output = graph.new_value("v", None);
        let (op, inputs) = if at % 2 == 0 {
            let weight = if shared { common } else { graph.new_constant("w", weight(at)) };
            (Op::new("MatMul"), vec![Some(value), Some(weight)])
        } else {
            (Op::new("Relu"), vec![Some(value)])
        };
        graph.add_op(op, &inputs, &[Some(output)], Place::End).expect("a fresh output");
        value = output;
    }
    graph.value_mut(value).ty = ty();
    graph.add_output(value);
    Model::new(10, 21, graph)
}

fn simplify_chain(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("simplify_chain");
    group.sample_size(10);
    for count in [1_600usize, 6_400, 25_600, 100_000] {
        group.throughput(Throughput::Elements(count as u64));
        for shared in [false, true] {
            let name = if shared { "shared_weight" } else { "own_weights" };
            let model = chain(count, shared);
            group.bench_with_input(BenchmarkId::new(name, count), &model, |bencher, model| {
                bencher.iter_batched(
                    || model.clone(),
                    |mut model| {
                        passes::simplify(&mut model, passes::Options::default()).expect("it simplifies")
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, simplify_chain);
criterion_main!(benches);
