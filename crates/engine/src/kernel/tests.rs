use half::f16;
use proptest::prelude::*;

use super::*;

fn paths() -> Vec<KernelPath> {
    [
        KernelChoice::Portable,
        KernelChoice::Avx2,
        KernelChoice::Avx512Vnni,
    ]
    .into_iter()
    .filter_map(|choice| choice.resolve().ok())
    .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    // Which NaN comes out is not part of the contract; that one does is.
    values
        .iter()
        .map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() })
        .collect()
}

fn linear_of(x: &[f32], packed: &Packed, path: KernelPath) -> Vec<f32> {
    let w = PackedRef {
        bytes: &packed.bytes,
        scales: &packed.scales,
        shape: packed.shape,
    };
    linear(x, w, path)
}

prop_compose! {
    fn problem()(tiles in 1usize..4, blocks in 1usize..5, tokens in 1usize..10)(
        weights in prop::collection::vec(
            prop_oneof![6 => any::<i8>().prop_map(|v| v.max(-127)), 1 => Just(-127), 1 => Just(127), 1 => Just(0)],
            tiles * ROWS * blocks * BLOCK),
        scales in prop::collection::vec(
            prop_oneof![8 => 0u16..0x7c00, 1 => Just(0u16), 1 => Just(0x7bffu16), 1 => 0u16..0x0400],
            tiles * ROWS * blocks),
        x in prop::collection::vec(
            prop_oneof![
                6 => -10.0f32..10.0, 1 => Just(0.0), 1 => Just(-0.0), 1 => any::<f32>(),
                1 => Just(f32::MAX), 1 => Just(1e-38), 1 => Just(-1e30)],
            tokens * blocks * BLOCK),
        shape in Just(Shape { n: tiles * ROWS, k: blocks * BLOCK }),
    ) -> (Packed, Vec<f32>) {
        let scales: Vec<f16> = scales.into_iter().map(f16::from_bits).collect();
        (pack(&weights, &scales, shape).expect("valid by construction"), x)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_path_gives_the_same_bits((packed, x) in problem()) {
        let expected = bits(&linear_of(&x, &packed, KernelChoice::Portable.resolve().unwrap()));
        for path in paths() {
            prop_assert_eq!(&bits(&linear_of(&x, &packed, path)), &expected, "{:?}", path);
        }
    }

    #[test]
    fn many_tokens_at_once_equal_one_at_a_time((packed, x) in problem()) {
        for path in paths() {
            let together = linear_of(&x, &packed, path);
            let alone: Vec<f32> =
                x.chunks_exact(packed.shape.k).flat_map(|row| linear_of(row, &packed, path)).collect();
            prop_assert_eq!(bits(&together), bits(&alone));
        }
    }

    #[test]
    fn rows_unpack_to_what_was_packed((packed, _) in problem(), row in 0usize..16) {
        let w = PackedRef { bytes: &packed.bytes, scales: &packed.scales, shape: packed.shape };
        let mut values = Vec::new();
        unpack_row(w, row, &mut values);
        // A one-hot activation of 127 picks column after column exactly.
        let path = KernelChoice::Portable.resolve().unwrap();
        for (column, value) in values.iter().enumerate() {
            let mut x = vec![0.0; packed.shape.k];
            x[column] = 127.0;
            prop_assert_eq!(linear_of(&x, &packed, path)[row], value * 127.0);
        }
    }
}

fn pseudo_random(len: usize, seed: u32) -> Vec<f32> {
    (0..len as u32)
        .map(|i| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0)
        .collect()
}

#[test]
fn threads_do_not_change_bits() {
    let shape = Shape {
        n: 16 * 37,
        k: 32 * 9,
    };
    let (values, scales) = quantize_rows(&pseudo_random(shape.n * shape.k, 1), shape).unwrap();
    let packed = pack(&values, &scales, shape).unwrap();
    let x = pseudo_random(11 * shape.k, 7);
    let path = KernelChoice::Auto.resolve().unwrap();
    let alone = linear_of(&x, &packed, path);
    for threads in [1, 2, 3, 5] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        assert_eq!(
            bits(&pool.install(|| linear_of(&x, &packed, path))),
            bits(&alone)
        );
    }
}

#[test]
fn quantised_product_is_close_to_the_exact_one() {
    let shape = Shape { n: 64, k: 256 };
    let weights = pseudo_random(shape.n * shape.k, 3);
    let x = pseudo_random(shape.k, 5);
    let (values, scales) = quantize_rows(&weights, shape).unwrap();
    let packed = pack(&values, &scales, shape).unwrap();
    let got = linear_of(&x, &packed, KernelChoice::Auto.resolve().unwrap());
    for (row, got) in got.iter().enumerate() {
        let exact: f32 = weights[row * shape.k..][..shape.k]
            .iter()
            .zip(&x)
            .map(|(w, x)| w * x)
            .sum();
        assert!(
            (got - exact).abs() < 0.1,
            "row {row}: {got} against {exact}"
        );
    }
}

#[test]
fn a_value_that_is_not_finite_reaches_every_output() {
    let shape = Shape { n: 16, k: 64 };
    let (values, scales) = quantize_rows(&pseudo_random(16 * 64, 3), shape).unwrap();
    let packed = pack(&values, &scales, shape).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = vec![1.0; 64];
        x[40] = bad;
        for path in paths() {
            assert!(linear_of(&x, &packed, path).iter().all(|v| v.is_nan()));
        }
    }
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let shape = Shape { n: 24, k: 32 };
    assert_eq!(
        quantize_rows(&[0.0; 24 * 32], shape),
        Err(PackError::Shape { n: 24, k: 32 })
    );
    let shape = Shape { n: 16, k: 32 };
    assert_eq!(
        pack(&[0; 100], &[f16::ZERO; 16], shape).err(),
        Some(PackError::Length {
            expected: 512,
            found: 100
        })
    );
    let mut values = [0i8; 512];
    values[33] = -128;
    assert_eq!(
        pack(&values, &[f16::ZERO; 16], shape).err(),
        Some(PackError::OutOfRange { row: 1 })
    );
    let mut weights = [0.0; 512];
    weights[64] = f32::NAN;
    assert_eq!(
        quantize_rows(&weights, shape),
        Err(PackError::NotFinite { row: 2 })
    );
    assert_eq!(
        pack(&[0; 512], &[f16::NAN; 16], shape).err(),
        Some(PackError::NotFinite { row: 0 })
    );
}
