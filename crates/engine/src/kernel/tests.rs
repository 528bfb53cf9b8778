use proptest::prelude::*;

use super::*;

const ENCODINGS: [Encoding; 4] = [Encoding::Q8, Encoding::Q4, Encoding::F16, Encoding::F32];

fn paths() -> Vec<KernelPath> {
    let resolved = KernelChoice::ALL
        .into_iter()
        .filter_map(|c| c.resolve().ok());
    resolved.collect()
}

fn scalar() -> KernelPath {
    KernelChoice::Scalar.resolve().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    // Which NaN comes out is not part of the contract; that one does is.
    values
        .iter()
        .map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() })
        .collect()
}

/// A matrix and the rows that meet it: any shape, whole tiles or not.
#[derive(Clone, Debug)]
struct Problem {
    shape: Shape,
    weights: Vec<f32>,
    x: Vec<f32>,
}

prop_compose! {
    fn problem()(n in 1usize..50, k in 1usize..140, tokens in 1usize..19)(
        weights in prop::collection::vec(
            prop_oneof![
                12 => -3.0f32..3.0, 1 => Just(0.0), 1 => Just(-0.0), 1 => Just(60000.0f32),
                1 => Just(1e-7), 1 => Just(1e-40), 1 => -1e-5f32..1e-5],
            n * k),
        x in prop::collection::vec(
            prop_oneof![
                12 => -10.0f32..10.0, 1 => Just(0.0), 1 => Just(-0.0), 1 => any::<f32>(),
                1 => Just(f32::MAX), 1 => Just(1e-38), 1 => Just(1e-42), 1 => Just(-1e30)],
            tokens * k),
        shape in Just(Shape { n, k }),
    ) -> Problem {
        Problem { shape, weights, x }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_path_gives_the_same_bits(problem in problem()) {
        for encoding in ENCODINGS {
            let w = [pack(&problem.weights, problem.shape, encoding).unwrap()];
            let expected = bits(&linear(&problem.x, &w, scalar()));
            for path in paths() {
                prop_assert_eq!(&bits(&linear(&problem.x, &w, path)), &expected, "{:?} {:?}", path, encoding);
            }
        }
    }

    #[test]
    fn rounding_once_is_close_and_no_less_steady(problem in problem()) {
        let auto = KernelChoice::Auto.resolve().unwrap();
        prop_assert!(paths().iter().all(|path| !path.is_fused()));
        let Some(fused) = auto.fused() else { return Ok(()) };
        for encoding in ENCODINGS {
            let w = [pack(&problem.weights, problem.shape, encoding).unwrap()];
            let together = linear(&problem.x, &w, fused);
            let rows = problem.x.chunks_exact(problem.shape.k);
            let alone: Vec<f32> = rows.flat_map(|row| linear(row, &w, fused)).collect();
            prop_assert_eq!(bits(&together), bits(&alone));
        }
        let calm: Vec<f32> = problem.x.iter().map(|x| x.clamp(-10.0, 10.0)).collect();
        let calm: Vec<f32> = calm.iter().map(|x| if x.is_nan() { 0.0 } else { *x }).collect();
        let size = 10.0 * 60_000.0 * problem.shape.k as f32;
        for encoding in ENCODINGS {
            let w = [pack(&problem.weights, problem.shape, encoding).unwrap()];
            for (a, b) in linear(&calm, &w, auto).iter().zip(linear(&calm, &w, fused)) {
                prop_assert!((a - b).abs() <= size * 1e-6, "{a} {b}");
            }
        }
    }

    #[test]
    fn many_tokens_at_once_equal_one_at_a_time(problem in problem()) {
        for encoding in ENCODINGS {
            let w = [pack(&problem.weights, problem.shape, encoding).unwrap()];
            for path in paths() {
                let together = linear(&problem.x, &w, path);
                let rows = problem.x.chunks_exact(problem.shape.k);
                let alone: Vec<f32> = rows.flat_map(|row| linear(row, &w, path)).collect();
                prop_assert_eq!(bits(&together), bits(&alone));
            }
        }
    }

    #[test]
    fn rows_unpack_to_what_a_product_with_one_input_gives(problem in problem(), pick in any::<usize>()) {
        let Shape { n, k } = problem.shape;
        let row = pick % n;
        for encoding in ENCODINGS {
            let w = pack(&problem.weights, problem.shape, encoding).unwrap();
            let mut values = Vec::new();
            unpack_row(&w, row, &mut values);
            prop_assert_eq!(values.len(), k);
            let parts = [w];
            for (column, value) in values.iter().enumerate() {
                // A one-hot activation of 127 has scale 1: its column comes out exactly.
                let mut x = vec![0.0; k];
                x[column] = 127.0;
                let out = linear(&x, &parts, scalar());
                prop_assert_eq!(out[row], value * 127.0);
            }
        }
    }

    #[test]
    fn a_packed_weight_is_as_close_as_its_encoding_promises(
        weights in prop::collection::vec(-2.0f32..2.0, 96 * 5)
    ) {
        let shape = Shape { n: 5, k: 96 };
        for (encoding, levels) in [(Encoding::Q8, 127.0), (Encoding::Q4, 7.0), (Encoding::F16, 1024.0), (Encoding::F32, 1e30)] {
            let w = pack(&weights, shape, encoding).unwrap();
            for row in 0..shape.n {
                let mut values = Vec::new();
                unpack_row(&w, row, &mut values);
                let exact = &weights[row * shape.k..][..shape.k];
                for (block, exact) in values.chunks(BLOCK).zip(exact.chunks(BLOCK)) {
                    let largest = exact.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                    let off = block.iter().zip(exact).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
                    // q4 weighs a block's error as a whole, so one weight may be off by a step.
                    let steps = if encoding == Encoding::Q4 { 1.5 } else { 0.51 };
                    prop_assert!(off <= largest / levels * steps, "{encoding:?}: {off} of {largest}");
                }
            }
        }
    }

    #[test]
    fn four_bits_that_were_four_bits_before_come_back(
        levels in prop::collection::vec(-8i32..=7, 64), scale in 0.001f32..10.0
    ) {
        let scale = half::f16::from_f32(scale).to_f32();
        let mut weights: Vec<f32> = levels.iter().map(|l| *l as f32 * scale).collect();
        (weights[3], weights[40]) = (-8.0 * scale, 7.0 * scale);
        (weights[33], weights[45]) = (0.0, -7.0 * scale);
        for value in &mut weights[32..] {
            *value = value.max(-7.0 * scale);
        }
        let w = pack(&weights, Shape { n: 1, k: 64 }, Encoding::Q4).unwrap();
        let mut values = Vec::new();
        unpack_row(&w, 0, &mut values);
        prop_assert_eq!(values, weights);
    }
}

#[test]
fn parts_lie_side_by_side_whatever_the_threads() {
    let noise = |len: usize, seed: u32| -> Vec<f32> {
        let value = |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32;
        (0..len as u32)
            .map(|i| value(i) / 4_194_304.0 - 2.0)
            .collect()
    };
    // Large enough that each way of sharing the work is taken.
    let shapes = [(330, 7), (64, 8), (17, 9)];
    let k = 512;
    let pool = |threads| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap()
    };
    for encoding in ENCODINGS {
        let parts: Vec<PackedMatrix> = shapes
            .iter()
            .map(|(n, seed)| pack(&noise(n * k, *seed), Shape { n: *n, k }, encoding).unwrap())
            .collect();
        for tokens in [1, 5, 7, 47, 100] {
            let x = noise(tokens * k, 1);
            let path = KernelChoice::Auto.resolve().unwrap();
            let together = linear(&x, &parts, path);
            for threads in [2, 3] {
                let shared = pool(threads).install(|| linear(&x, &parts, path));
                assert_eq!(
                    bits(&shared),
                    bits(&together),
                    "{encoding:?} {tokens} {threads}"
                );
            }
            assert_eq!(bits(&linear_here(&x, &parts, path)), bits(&together));
            let mut column = 0;
            for part in &parts {
                let alone = linear(&x, std::slice::from_ref(part), path);
                let n = part.shape().n;
                for token in 0..tokens {
                    let row = &together[token * 411 + column..][..n];
                    assert_eq!(bits(row), bits(&alone[token * n..][..n]));
                }
                column += n;
            }
        }
    }
}

#[test]
fn halves_widen_exactly() {
    for pattern in 0..=u16::MAX {
        let exact = half::f16::from_bits(pattern).to_f32();
        let widened = widen(pattern);
        assert!(
            exact.to_bits() == widened.to_bits() || exact.is_nan() && widened.is_nan(),
            "{pattern:#06x}: {widened} for {exact}"
        );
    }
}

#[test]
fn a_weight_that_is_no_number_is_refused_by_row() {
    let shape = Shape { n: 20, k: 40 };
    for (bad, encodings) in [
        (f32::NAN, &ENCODINGS[..]),
        (f32::INFINITY, &ENCODINGS[..]),
        (1e9, &ENCODINGS[..3]),
        (70_000.0, &[Encoding::F16]),
    ] {
        let mut weights = vec![0.5; shape.n * shape.k];
        weights[18 * shape.k + 39] = bad;
        for encoding in encodings {
            let error = pack(&weights, shape, *encoding).unwrap_err();
            assert_eq!(
                error,
                PackError::NotFinite { row: 18 },
                "{encoding:?} {bad}"
            );
        }
    }
}

#[test]
fn a_broken_activation_reaches_every_output() {
    let shape = Shape { n: 16, k: 64 };
    let w = [pack(&vec![0.25; 16 * 64], shape, Encoding::Q8).unwrap()];
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![1.0; 64];
        x[40] = bad;
        for path in paths() {
            assert!(
                linear(&x, &w, path).iter().all(|v| v.is_nan()),
                "{path:?} {bad}"
            );
        }
    }
}

#[test]
fn pages_give_the_same_bits_on_every_path() {
    let noise = |len: u32, seed: u32| -> Vec<f32> {
        let value = |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32;
        (0..len).map(|i| value(i) / 4_194_304.0 - 2.0).collect()
    };
    fn check<E: page::Cell>(cells: &[E], dims: usize, q: &[f32], w: &[f32]) {
        let keys = &cells[..dims * page::PAGE];
        let queries: [&[f32]; 4] = std::array::from_fn(|r| &q[r * dims..][..dims]);
        let expected = page::plain_scores(queries, keys);
        assert_eq!(page::scores(queries, keys), expected, "{dims}");
        #[cfg(target_arch = "x86_64")]
        assert_eq!(
            x86::page_scores_256(queries, keys).unwrap_or(expected),
            expected
        );
        for positions in [1, 7, 16] {
            let weights: [&[f32]; 4] = std::array::from_fn(|r| &w[r * 16..][..positions]);
            let run = |f: &dyn Fn([&mut [f32]; 4])| {
                let mut out = vec![0.5; 4 * dims];
                let mut rows = out.chunks_exact_mut(dims);
                f(std::array::from_fn(|_| rows.next().unwrap()));
                out
            };
            let expected = run(&|outs| page::plain_weigh(weights, cells, outs, 0));
            assert_eq!(
                run(&|outs| page::weigh(weights, cells, outs)),
                expected,
                "{dims}"
            );
            #[cfg(target_arch = "x86_64")]
            if paths().len() > 3 {
                let narrow = run(&|outs| x86::page_weigh_256(weights, cells, outs));
                assert_eq!(narrow, expected, "{dims}");
            }
        }
    }
    for dims in [2, 16, 24, 64, 80, 128, 150] {
        let (q, w) = (noise(4 * dims as u32, 1), noise(64, 2));
        let cells = noise(16 * dims as u32, 3);
        check(&cells, dims, &q, &w);
        let halves: Vec<u16> = cells
            .iter()
            .map(|v| half::f16::from_f32(*v).to_bits())
            .collect();
        check(&halves, dims, &q, &w);
        let bytes: Vec<i8> = cells.iter().map(|v| (v * 60.0) as i8).collect();
        check(&bytes, dims, &q, &w);
    }
}

#[cfg(not(feature = "wgpu"))]
#[test]
fn a_graphics_path_is_refused_with_what_to_build() {
    let choice: KernelChoice = "wgpu".parse().unwrap();
    let error = choice.resolve().unwrap_err().to_string();
    assert!(error.contains("--features wgpu"), "{error}");
    let error = "cuda".parse::<KernelChoice>().unwrap_err().to_string();
    assert!(error.ends_with("scalar or wgpu"), "{error}");
}
