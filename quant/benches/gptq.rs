//! GPTQ of one layer beside the matrix products that it cannot do without (Gram matrix, factor, column corrections), run as plain
//! products of the same sizes: `cargo bench -p onnxq-quant --bench gptq -- [K TOKENS]`. One thread. The bar is a quotient of at
//! most 1.5 without the improvement sweeps, which no other implementation has; with them is printed as well.
//!
//! One run each, in seconds: a layer of 4096 x 4096 takes too long for statistics, and too long for chance to matter.

use std::hint::black_box;
use std::time::Instant;

use onnxq_quant::weight::gptq::{GptqOptions, gptq};
use onnxq_quant::weight::gram::Gram;
use onnxq_quant::weight::{Spec, Weight};

/// Numbers spread like weights: a sum of four uniform ones.
fn numbers(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| uniform() + uniform() + uniform() + uniform()).collect()
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

/// Seconds of the processor that the program has used: what other programs take meanwhile does not count. None where the system
/// does not tell.
fn used() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: f64 = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// Seconds that it takes.
fn seconds<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let (started, before) = (Instant::now(), used());
    let made = black_box(work());
    let wall = started.elapsed().as_secs_f64();
    (used().zip(before).map_or(wall, |(after, before)| after - before), made)
}

fn main() {
    let sizes: Vec<usize> = std::env::args().filter_map(|text| text.parse().ok()).collect();
    let (size, tokens) = match sizes[..] {
        [size, tokens] => (size, tokens),
        _ => (1024, 8192),
    };
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("the first use of the pool");
    let (w, inputs) = (numbers(size * size), numbers(tokens * size));
    let weight = Weight::from_rows(&w[..], size, size).expect("it is square");
    let spec = Spec::int4(32);
    // Once before, so that nobody pays for the first touch of the inputs.
    let (first, ()) = seconds(|| raw_products(&inputs, tokens, size, size));
    let (again, ()) = seconds(|| raw_products(&inputs, tokens, size, size));
    let raw = first.min(again);
    let (summed, gram) = seconds(|| {
        let mut gram = Gram::new(size);
        gram.add(&inputs).map(|()| gram)
    });
    let gram = gram.expect("the inputs are finite");
    println!("{size} x {size}, {tokens} tokens, one thread");
    println!("raw products          {raw:7.2} s   1.00");
    println!("gram                  {summed:7.2} s   {:.2}", summed / raw);
    for sweeps in [0, GptqOptions::default().sweeps] {
        let options = GptqOptions { sweeps, ..GptqOptions::default() };
        let (rounded, made) = seconds(|| gptq(&weight, &spec, &gram, &options));
        made.expect("the Gram matrix is positive");
        let all = summed + rounded;
        println!("gram + gptq, {sweeps} sweeps {all:8.2} s   {:.2}", all / raw);
    }
}
