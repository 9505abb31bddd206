//! A chain of convolutions with made-up weights, the same for every run: for tests and benchmarks of sensitivity.

use ir::{Attrs, DType, Graph, Model, Op, Place, Tensor, Type};
use runtime::Feed;

/// Repeatable numbers in -1..1.
pub struct Random(pub u64);

impl Random {
    /// The next one.
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as f32 / (1u64 << 31) as f32) * 2.0 - 1.0
    }
}

/// What is wrong with a layer.
#[derive(Clone, Copy, PartialEq)]
#[allow(dead_code)] // the benchmark reads this file too, and plants nothing
pub enum Trouble {
    /// Nothing.
    None,
    /// One channel of this layer's result is this many times larger, and the next layer divides by as much.
    Outlier(usize, f32),
    /// Channels of this layer's result grow from once to this many times their size, and the next layer divides.
    Ramp(usize, f32),
    /// The first channel that the head reads runs this far above the others, and the head's bias takes it off again.
    Saturated(f32),
}

fn tensor_type(dims: &[usize]) -> Option<Type> {
    Some(Type::tensor(DType::F32, Some(ir::Shape::fixed(dims))))
}

/// `layers` convolutions of 3 x 3 with bias and Relu on `channels` channels, then a mean and a product for ten classes.
pub fn chain(layers: usize, channels: usize, size: usize, trouble: Trouble) -> Model {
    let mut random = Random(5);
    let mut graph = Graph::new("chain");
    let mut value = graph.add_input("x", tensor_type(&[1, channels, size, size])).unwrap();
    for layer in 0..layers {
        let fan = (channels * 9) as f32;
        // Layers differ in how much they spread their weights, as trained ones do.
        let spread = 1.0 + (layer * 7 % 5) as f32;
        let mut weight: Vec<f32> = (0..channels * channels * 9)
            .map(|_| {
                let r = random.next();
                r.signum() * r.abs().powf(spread) * (1.0 + 0.5 * spread) * (3.0 / fan).sqrt()
            })
            .collect();
        let mut bias: Vec<f32> = (0..channels).map(|_| 0.1 * random.next()).collect();
        // How many times larger each channel of a layer's result is; nothing else changes, because the next divides.
        let factor = |layer: usize, channel: usize| match trouble {
            Trouble::Outlier(at, factor) if at == layer && channel == 0 => factor,
            Trouble::Ramp(at, factor) if at == layer => factor.powf(channel as f32 / (channels - 1) as f32),
            _ => 1.0,
        };
        for out in 0..channels {
            for from in 0..channels {
                let before = layer.checked_sub(1).map_or(1.0, |before| factor(before, from));
                let kernel = &mut weight[(out * channels + from) * 9..][..9];
                kernel.iter_mut().for_each(|w| *w *= factor(layer, out) / before);
            }
            bias[out] *= factor(layer, out);
        }
        if let Trouble::Saturated(offset) = trouble
            && layer == layers - 1
        {
            bias[0] += offset;
        }
        let w = Tensor::from_slice(&[channels, channels, 3, 3], &weight).unwrap();
        let w = graph.add_initializer(&format!("w{layer}"), w).unwrap();
        let b = graph
            .add_initializer(&format!("b{layer}"), Tensor::from_slice(&[channels], &bias).unwrap())
            .unwrap();
        let out = graph.add_computed(&format!("conv{layer}"), None).unwrap();
        let op = Op::new("Conv")
            .named(&format!("conv{layer}"))
            .with("pads", vec![1i64; 4])
            .with("kernel_shape", vec![3i64; 2]);
        graph.add_op(op, &[Some(value), Some(w), Some(b)], &[Some(out)], Place::End).unwrap();
        value = graph.add_computed(&format!("relu{layer}"), None).unwrap();
        let op = Op::new("Relu").named(&format!("relu{layer}"));
        graph.add_op(op, &[Some(out)], &[Some(value)], Place::End).unwrap();
    }
    let pooled = graph.add_computed("pooled", None).unwrap();
    graph
        .add_op(Op::new("GlobalAveragePool").named("pool"), &[Some(value)], &[Some(pooled)], Place::End)
        .unwrap();
    let flat = graph.add_computed("flat", None).unwrap();
    graph
        .add_op(
            Op::new("Flatten").named("flatten").with_attrs(Attrs::default()),
            &[Some(pooled)],
            &[Some(flat)],
            Place::End,
        )
        .unwrap();
    let weight: Vec<f32> = (0..channels * 10).map(|_| random.next()).collect();
    let w = graph.add_initializer("head_w", Tensor::from_slice(&[channels, 10], &weight).unwrap()).unwrap();
    let lifted = if let Trouble::Saturated(offset) = trouble { offset } else { 0.0 };
    let bias: Vec<f32> = weight[..10].iter().map(|w| -lifted * w).collect();
    let b = graph.add_initializer("head_b", Tensor::from_slice(&[10], &bias).unwrap()).unwrap();
    let y = graph.add_computed("y", tensor_type(&[1, 10])).unwrap();
    graph
        .add_op(Op::new("Gemm").named("head"), &[Some(flat), Some(w), Some(b)], &[Some(y)], Place::End)
        .unwrap();
    graph.add_output(y);
    Model::new(9, 17, graph)
}

/// Made-up pictures: smooth waves of different strength, so that samples differ.
pub struct Waves {
    /// How many.
    pub count: usize,
    /// Sizes of a sample.
    pub dims: [usize; 4],
}

impl onnxq::data::Source for Waves {
    fn len(&self) -> usize {
        self.count
    }

    fn sample(&self, at: usize) -> anyhow::Result<Feed> {
        let mut random = Random(1000 + at as u64);
        let strength = 0.5 + 1.5 * random.next().abs();
        let elements: usize = self.dims.iter().product();
        let pace = 0.05 + 0.2 * random.next().abs();
        let wave = |i: usize, noise: f32| strength * ((i as f32 * pace).sin() + 0.3 * noise);
        let values: Vec<f32> = (0..elements).map(|i| wave(i, random.next())).collect();
        Ok(vec![("x".into(), Tensor::from_slice(&self.dims, &values)?)])
    }
}
