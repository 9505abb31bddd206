use onnxq_quant::range::*;
use onnxq_quant::*;
use std::time::Instant;
fn main() {
    let mut state = 1u64;
    let mut u = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let x: Vec<f32> = (0..1 << 18).map(|_| u() + u() + u() + u()).collect();
    let relu: Vec<f32> = x.iter().map(|v| v.max(0.0)).collect();
    let mut s = Sketch::of(&x);
    let t = |n: usize, f: &mut dyn FnMut()| {
        let mut b = f64::MAX;
        for _ in 0..n {
            let i = Instant::now();
            f();
            b = b.min(i.elapsed().as_secs_f64());
        }
        b * 1e6
    };
    for m in ["minmax", "percentile", "percentile-best", "entropy", "mse", "auto"] {
        let mm = m.parse().unwrap();
        let b = t(20, &mut || {
            std::hint::black_box(choose(mm, &s, Grid::asymmetric(CodeType::U8), &Policy::default()));
        });
        println!("{m} {b:.1} us");
    }
    println!(
        "density {:.1}",
        t(50, &mut || {
            std::hint::black_box(Density::of(&s));
        })
    );
    let d = Density::of(&s);
    let p = Params::new(0.01, 100).unwrap();
    println!(
        "noise {:.1} pieces {}",
        t(50, &mut || {
            std::hint::black_box(d.noise(p, Grid::asymmetric(CodeType::U8), 1.0));
        }),
        d.pieces().0.len()
    );
    println!("observe {:.1} us  relu {:.1}", t(50, &mut || s.observe(0, &x)), {
        let mut r = Sketch::new();
        t(50, &mut || r.observe(0, &relu))
    });
}
