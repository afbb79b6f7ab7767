//! How near the CPU's kernels come to the limits of the machine, measured in the same run: `cargo bench --bench kernels`.
//!
//! MLXRT_THREADS (2) and MLXRT_PATHS (the best; `all`, or names with commas) say what is measured.

use std::hint::black_box;
use std::time::Instant;

use mlxrt_kernels::dtype::{Dtype, Mode, Scheme};
use mlxrt_kernels::{self as kernels, Floats, FloatsMut, Kernels, Layout, Packed, Path};

/// Larger than every cache.
const BYTES: usize = 256 << 20;
const INPUTS: usize = 2048;

fn main() {
    let threads = std::env::var("MLXRT_THREADS").map_or(2, |n| n.parse().expect("a number"));
    let paths: Vec<Path> = match std::env::var("MLXRT_PATHS").as_deref() {
        Ok("all") => Path::available().collect(),
        Ok(names) => names
            .split(',')
            .map(|name| Path::parse(name).expect("a path's name"))
            .collect(),
        Err(_) => vec![Path::best()],
    };
    println!(
        "{}, {threads} threads",
        kernels::features().names().join(", ")
    );
    let limit = read_bandwidth(threads);
    println!("reading: {limit:.1} GB/s");
    for path in paths {
        let kernels = Kernels::with_path(path, threads);
        println!("\n{}", path.name());
        dispatch(&kernels);
        for (name, mode, bits, group_size) in [
            ("4-bit/64", Mode::Affine, 4, 64),
            ("2-bit/64", Mode::Affine, 2, 64),
            ("3-bit/64", Mode::Affine, 3, 64),
            ("5-bit/64", Mode::Affine, 5, 64),
            ("6-bit/64", Mode::Affine, 6, 64),
            ("8-bit/64", Mode::Affine, 8, 64),
            ("4-bit/32", Mode::Affine, 4, 32),
            ("mxfp4", Mode::Mxfp4, 4, 32),
            ("mxfp8", Mode::Mxfp8, 8, 32),
            ("nvfp4", Mode::Nvfp4, 4, 16),
        ] {
            let scheme = Scheme {
                mode,
                bits,
                group_size,
            };
            quantized(&kernels, name, scheme, limit);
        }
        mixture(&kernels, limit);
    }
}

/// The best of some runs, in seconds.
fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::INFINITY, f64::min)
}

/// GB/s at which the threads read memory that no cache holds.
fn read_bandwidth(threads: usize) -> f64 {
    let memory = vec![1_u64; BYTES / 8];
    let pool = kernels::Pool::new(threads);
    let parts: Vec<&[u64]> = memory.chunks(1 << 17).collect();
    let seconds = best(8, || {
        pool.parallel(parts.len(), |part| {
            black_box(xor(parts[part]));
        });
    });
    BYTES as f64 / seconds * 1e-9
}

fn xor(part: &[u64]) -> u64 {
    let mut sums = [0; 32];
    for chunk in part.chunks_exact(32) {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum ^= x;
        }
    }
    sums.iter().fold(0, |all, x| all ^ x)
}

fn dispatch(kernels: &Kernels) {
    let rounds = 20_000;
    let seconds = best(5, || {
        for _ in 0..rounds {
            kernels.pool().parallel(kernels.pool().threads(), |chunk| {
                black_box(chunk);
            });
        }
    });
    println!("dispatch: {:.2} us", seconds / f64::from(rounds) * 1e6);
}

fn quantized(kernels: &Kernels, name: &str, scheme: Scheme, limit: f64) {
    let scales = match scheme.mode {
        Mode::Affine => Dtype::BF16,
        _ => Dtype::U8,
    };
    let one = Layout::new(scheme, scales, 16, INPUTS).expect("legal");
    let outputs = BYTES / one.nbytes() * 16;
    let layout = Layout::new(scheme, scales, outputs, INPUTS).expect("legal");
    // Any bytes do: no time here depends on values, as long as they are finite.
    let bytes: Vec<u8> = (0..layout.nbytes()).map(|i| (i * 37 % 61) as u8).collect();
    let weights = Packed::new(layout, &bytes).expect("its size");
    let x = vec![0x3f_u8; 512 * INPUTS * 2];
    let mut y = vec![0_u8; 512 * outputs * 2];
    let mut time = |rows: usize, weights: Packed, runs: usize| {
        let outputs = weights.layout().rows();
        let x = Floats::new(&x[..rows * INPUTS * 2], Dtype::BF16, rows, INPUTS).expect("its size");
        let y = &mut y[..rows * outputs * 2];
        let mut y = FloatsMut::new(y, Dtype::BF16, rows, outputs).expect("its size");
        best(runs, || kernels.quantized_matmul(&x, &weights, &mut y))
    };
    let row = time(1, weights, 5);
    let speed = layout.nbytes() as f64 / row * 1e-9;
    print!(
        "{name:9} 1 row {speed:5.1} GB/s ({:3.0} %)",
        100.0 * speed / limit
    );
    for rows in [2, 4, 8] {
        print!(", {rows} rows x{:.2}", time(rows, weights, 3) / row);
    }
    let small = Layout::new(scheme, scales, 3072, INPUTS).expect("legal");
    let in_cache = Packed::new(small, &bytes[..small.nbytes()]).expect("its size");
    let speed = small.nbytes() as f64 / time(1, in_cache, 200) * 1e-9;
    print!("; in cache {speed:.1} GB/s;");
    for rows in [32, 128, 512] {
        let flops = 2.0 * (rows * INPUTS * 3072) as f64;
        let speed = flops / time(rows, in_cache, 3) * 1e-9;
        print!(" {rows} rows {speed:.0}");
    }
    println!(" GFLOP/s");
}

/// The mixture of a model of 64 experts, 8 for each row, in 4 bits: one row reads what it chose, many rows share.
fn mixture(kernels: &Kernels, limit: f64) {
    const EXPERTS: usize = 64;
    const TOP_K: usize = 8;
    const SIZE: usize = 1024;
    let scheme = Scheme {
        mode: Mode::Affine,
        bits: 4,
        group_size: 64,
    };
    let up = Layout::new(scheme, Dtype::BF16, SIZE, INPUTS).expect("legal");
    let down = Layout::new(scheme, Dtype::BF16, INPUTS, SIZE).expect("legal");
    let nbytes = EXPERTS * up.nbytes();
    let bytes: Vec<u8> = (0..3 * nbytes).map(|i| (i * 37 % 61) as u8).collect();
    let expert = |layout: Layout, index: usize| kernels::ExpertLinear {
        weight: kernels::Matrix::Experts(kernels::ExpertMatrix::Packed {
            layout,
            stride: layout.nbytes(),
            data: &bytes[index * nbytes..(index + 1) * nbytes],
        }),
        bias: None,
    };
    // Rows of a router that choose differently.
    let random: Vec<u8> = (0..EXPERTS * INPUTS * 2)
        .map(|i| match i % 2 {
            0 => 0,
            _ => 0x3c | ((i * 2_654_435_761) >> 13 & 0x80) as u8,
        })
        .collect();
    let router = Floats::new(&random, Dtype::BF16, EXPERTS, INPUTS).expect("its size");
    let block = kernels::Block {
        halves: vec![kernels::Half {
            norm: None,
            part: kernels::Part::Moe(kernels::Moe {
                router: kernels::Linear {
                    weight: kernels::Matrix::Dense(router),
                    bias: None,
                    low: Vec::new(),
                },
                routing: kernels::Routing {
                    top_k: TOP_K,
                    score: kernels::Score::Softmax,
                    selection_bias: None,
                    groups: None,
                    normalise: true,
                    scaling: 1.0,
                },
                experts: kernels::Experts {
                    gate_up: kernels::GateUp::Apart {
                        gate_proj: expert(up, 0),
                        up_proj: expert(up, 1),
                    },
                    down_proj: expert(down, 2),
                    activation: kernels::Activation::Silu,
                },
                shared: None,
            }),
            post_norm: None,
            multiplier: 1.0,
            out_norm: None,
        }],
    };
    let mut seed = 1_u64;
    let x: Vec<u8> = (0..512 * INPUTS * 2)
        .map(|i| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match i % 2 {
                0 => 0,
                _ => 0x3c | (seed >> 56) as u8 & 0x80,
            }
        })
        .collect();
    let mut y = vec![0_u8; 512 * INPUTS * 2];
    let mut row = 0;
    let mut time = |rows: usize, runs: usize| {
        best(runs, || {
            // Another row each time, so that other experts are read.
            row = (row + rows) % (512 - rows + 1);
            let x = &x[row * INPUTS * 2..(row + rows) * INPUTS * 2];
            let x = Floats::new(x, Dtype::BF16, rows, INPUTS).expect("its size");
            let y = &mut y[..rows * INPUTS * 2];
            let mut y = FloatsMut::new(y, Dtype::BF16, rows, INPUTS).expect("its size");
            kernels.block(&block, &x, None, &mut y);
        })
    };
    let read = (3 * TOP_K * up.nbytes() + random.len()) as f64;
    let row = time(1, 200);
    let speed = read / row * 1e-9;
    print!(
        "mixture   1 row {speed:5.1} GB/s ({:3.0} %), {:.0} us;",
        100.0 * speed / limit,
        row * 1e6
    );
    for rows in [2, 4, 32, 128, 512] {
        let seconds = time(rows, 5);
        let flops = 6.0 * (rows * TOP_K * INPUTS * SIZE) as f64;
        print!(
            " {rows} rows x{:.2} {:.0}",
            seconds / row,
            flops / seconds * 1e-9
        );
    }
    println!(" GFLOP/s");
}
