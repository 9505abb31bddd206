//! Made-up data: only for trying a model out, never silently.

use anyhow::{Result, bail};
use half::{bf16, f16};
use ir::{DType, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use runtime::Feed;

use super::{InputSpec, Source};

/// Standard normal numbers for floats, small non-negative numbers for integers; open sizes become 1.
pub(super) struct Random {
    inputs: Vec<(String, DType, Vec<usize>)>,
    count: usize,
    seed: u64,
}

impl Random {
    pub(super) fn new(specs: &[InputSpec], count: usize, seed: u64) -> Result<Random> {
        let mut inputs = Vec::new();
        for spec in specs {
            let Some(dims) = &spec.dims else {
                bail!("input {:?} declares no shape: give real data, or --input-shape", spec.name);
            };
            let dims = dims.iter().map(|dim| dim.known().unwrap_or(1)).collect();
            inputs.push((spec.name.clone(), spec.dtype.unwrap_or(DType::F32), dims));
        }
        Ok(Random { inputs, count, seed })
    }
}

impl Source for Random {
    fn len(&self) -> usize {
        self.count
    }

    fn sample(&self, at: usize) -> Result<Feed> {
        // Every sample has its own stream, so shards and resumed runs see the same numbers.
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(at as u64);
        let mut feed = Feed::new();
        for (name, dtype, dims) in &self.inputs {
            let count = ir::checked_elements(dims)?;
            let mut floats = |count: usize| -> Vec<f32> { (0..count).map(|_| normal(&mut rng)).collect() };
            let tensor = match dtype {
                DType::F32 => Tensor::from_slice(dims, &floats(count))?,
                DType::F64 => {
                    Tensor::from_slice(dims, &floats(count).into_iter().map(f64::from).collect::<Vec<_>>())?
                }
                DType::F16 => Tensor::from_slice(
                    dims,
                    &floats(count).into_iter().map(f16::from_f32).collect::<Vec<_>>(),
                )?,
                DType::BF16 => Tensor::from_slice(
                    dims,
                    &floats(count).into_iter().map(bf16::from_f32).collect::<Vec<_>>(),
                )?,
                DType::Bool => {
                    Tensor::from_slice(dims, &(0..count).map(|_| rng.random()).collect::<Vec<bool>>())?
                }
                DType::I64 => Tensor::from_slice(
                    dims,
                    &(0..count).map(|_| rng.random_range(0..2)).collect::<Vec<i64>>(),
                )?,
                DType::I32 => Tensor::from_slice(
                    dims,
                    &(0..count).map(|_| rng.random_range(0..2)).collect::<Vec<i32>>(),
                )?,
                DType::U8 => {
                    Tensor::from_slice(dims, &(0..count).map(|_| rng.random()).collect::<Vec<u8>>())?
                }
                DType::I8 => {
                    Tensor::from_slice(dims, &(0..count).map(|_| rng.random()).collect::<Vec<i8>>())?
                }
                other => bail!("input {name:?} is {other}: no random data for that type"),
            };
            feed.push((name.clone(), tensor));
        }
        Ok(feed)
    }

    fn is_random(&self) -> bool {
        true
    }
}

/// One standard normal number (Box and Muller 1958).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()) as f32
}
