use proptest::prelude::*;

use super::*;
use crate::model::cache::{KvCache, KvLayout, KvType};

fn noise(len: usize, seed: u32) -> Vec<f32> {
    let value = |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32;
    (0..len as u32)
        .map(|i| value(i) / 4_194_304.0 - 2.0)
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

const HEADS: usize = 6;
const KV_HEADS: usize = 2;

fn spec(head_dim: usize, window: Option<usize>) -> AttendSpec<'static> {
    AttendSpec {
        layer: 0,
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        softcap: None,
        window,
        causal: true,
        norms: None,
        rotation: None,
    }
}

fn cache(head_dim: usize, kind: KvType) -> KvCache {
    KvCache::new(KvLayout {
        layers: 1,
        kv_heads: KV_HEADS,
        head_dim,
        kind,
    })
}

/// Attends for the rows of `qkv` in calls of these sizes.
fn in_chunks(qkv: &[f32], sizes: &[usize], spec: AttendSpec<'_>, kind: KvType) -> Vec<f32> {
    let width = (HEADS + 2 * KV_HEADS) * spec.head_dim;
    let mut cache = cache(spec.head_dim, kind);
    let (mut out, mut rest) = (Vec::new(), qkv);
    for size in sizes.iter().cycle() {
        let tokens = (*size).min(rest.len() / width);
        if tokens == 0 {
            break;
        }
        let (mine, others) = rest.split_at(tokens * width);
        rest = others;
        cache.reserve(tokens);
        let mut segment = [Segment {
            tokens,
            cache: &mut cache,
        }];
        out.extend(attend(mine.to_vec(), &mut segment, spec));
        cache.commit(tokens);
    }
    out
}

/// The definition, in f64.
fn by_definition(qkv: &[f32], spec: AttendSpec<'_>) -> Vec<f64> {
    let d = spec.head_dim;
    let width = (HEADS + 2 * KV_HEADS) * d;
    let tokens = qkv.len() / width;
    let at = |token: usize, head: usize| {
        let values = &qkv[token * width + head * d..][..d];
        values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()
    };
    let mut out = Vec::new();
    for token in 0..tokens {
        let end = if spec.causal { token + 1 } else { tokens };
        let first = spec.window.map_or(0, |w| end.saturating_sub(w));
        for head in 0..HEADS {
            let kv = head / (HEADS / KV_HEADS);
            let q = at(token, head);
            let score = |p| {
                let k = at(p, HEADS + kv);
                let dot: f64 = q.iter().zip(&k).map(|(q, k)| q * k).sum();
                let score = dot * f64::from(spec.scale);
                spec.softcap
                    .map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh())
            };
            let weights: Vec<f64> = (first..end).map(|p| score(p).exp()).collect();
            let total: f64 = weights.iter().sum();
            for i in 0..d {
                let value = |p| at(p, HEADS + KV_HEADS + kv)[i];
                let weighted = (first..end).zip(&weights).map(|(p, w)| w * value(p));
                out.push(weighted.sum::<f64>() / total);
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn attention_is_what_its_definition_says(
        tokens in 1usize..40, pairs in 1usize..40, window in prop::option::of(1usize..50),
        softcap in prop::option::of(1.0f32..20.0), causal: bool, seed: u32,
    ) {
        let spec = AttendSpec { softcap, causal, ..spec(2 * pairs, window.filter(|_| causal)) };
        let qkv = noise(tokens * (HEADS + 2 * KV_HEADS) * spec.head_dim, seed);
        let got = in_chunks(&qkv, &[tokens], spec, KvType::F32);
        for (got, exact) in got.iter().zip(by_definition(&qkv, spec)) {
            prop_assert!((f64::from(*got) - exact).abs() < 2e-5, "{got} for {exact}");
        }
    }

    #[test]
    fn chunks_and_threads_do_not_change_bits(
        tokens in 1usize..70, sizes in prop::collection::vec(1usize..40, 1..4),
        window in prop::option::of(1usize..50), seed: u32,
        kind in prop_oneof![Just(KvType::F16), Just(KvType::F32), Just(KvType::Q8)],
    ) {
        let spec = spec(66, window);
        let qkv = noise(tokens * (HEADS + 2 * KV_HEADS) * spec.head_dim, seed);
        let alone = bits(&in_chunks(&qkv, &[1], spec, kind));
        prop_assert_eq!(&bits(&in_chunks(&qkv, &sizes, spec, kind)), &alone);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let shared = pool.install(|| in_chunks(&qkv, &sizes, spec, kind));
        prop_assert_eq!(&bits(&shared), &alone);
    }
}

#[test]
fn eight_bits_a_key_and_value_cost_under_a_hundredth() {
    for (tokens, window) in [(1, None), (16, None), (90, None), (90, Some(21))] {
        let spec = spec(64, window);
        let mut qkv = noise(tokens * (HEADS + 2 * KV_HEADS) * 64, 5);
        // Positions of very different size: each has a scale of its own.
        for (index, row) in qkv.chunks_mut((HEADS + 2 * KV_HEADS) * 64).enumerate() {
            let values = &mut row[(HEADS + KV_HEADS) * 64..];
            values
                .iter_mut()
                .for_each(|v| *v *= 10f32.powi(index as i32 % 5 - 2));
        }
        let exact = in_chunks(&qkv, &[tokens], spec, KvType::F32);
        let got = in_chunks(&qkv, &[tokens], spec, KvType::Q8);
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>();
        let error = square(&mut got.iter().zip(&exact).map(|(a, b)| a - b));
        let share = (error / square(&mut exact.iter().copied())).sqrt();
        assert!(
            share < 0.01 && (share > 0.0),
            "{tokens} {window:?}: {share}"
        );
    }
}

#[test]
fn what_is_no_number_reaches_who_sees_it_and_nobody_else() {
    let (spec, width) = (spec(16, None), (HEADS + 2 * KV_HEADS) * 16);
    let mut qkv = noise(20 * width, 3);
    // A value of the first head group, at position 11.
    qkv[11 * width + (HEADS + KV_HEADS) * 16] = f32::NAN;
    let out = in_chunks(&qkv, &[20], spec, KvType::Q8);
    for (token, row) in out.chunks_exact(HEADS * 16).enumerate() {
        let (sees, apart) = row.split_at(HEADS / KV_HEADS * 16);
        assert_eq!(sees.iter().all(|v| v.is_nan()), token >= 11, "{token}");
        assert!(apart.iter().all(|v| v.is_finite()), "{token}");
    }
}

#[test]
fn whole_texts_attend_as_a_cache_would_let_them() {
    let spec = AttendSpec {
        kv_heads: HEADS,
        causal: false,
        ..spec(24, None)
    };
    let (width, lengths) = (3 * HEADS * 24, [5usize, 1, 40, 18]);
    let qkv = noise(64 * width, 7);
    let (mut rest, mut expected, mut texts) = (&*qkv, Vec::new(), Vec::new());
    for tokens in lengths {
        let first = texts
            .last()
            .map_or(0, |text: &std::ops::Range<usize>| text.end);
        texts.push(first..first + tokens);
        let (mine, others) = rest.split_at(tokens * width);
        rest = others;
        let mut cache = KvCache::new(KvLayout {
            layers: 1,
            kv_heads: HEADS,
            head_dim: 24,
            kind: KvType::F32,
        });
        cache.reserve(tokens);
        let mut segment = [Segment {
            tokens,
            cache: &mut cache,
        }];
        expected.extend(attend(mine.to_vec(), &mut segment, spec));
    }
    let heads = Heads {
        count: HEADS,
        dim: 24,
        scale: spec.scale,
    };
    for rows in [64, 20, 7] {
        let blocks: Vec<Vec<f32>> = qkv.chunks(rows * width).map(<[f32]>::to_vec).collect();
        let blocks = Blocks {
            blocks: &blocks,
            rows,
        };
        let parts = (0..64).step_by(rows).map(|first| {
            let part = first..(first + rows).min(64);
            attend_whole(blocks, &texts, part, heads)
        });
        let got = parts.collect::<Vec<_>>().concat();
        assert_eq!(bits(&got), bits(&expected), "{rows} rows a block");
    }
}

#[test]
fn streams_in_one_call_do_not_touch_each_other() {
    let spec = spec(16, None);
    let width = (HEADS + 2 * KV_HEADS) * 16;
    let (a, b) = (noise(5 * width, 1), noise(3 * width, 2));
    let alone = [&a, &b].map(|qkv| in_chunks(qkv, &[99], spec, KvType::F16));
    let (mut first, mut second) = (cache(16, KvType::F16), cache(16, KvType::F16));
    first.reserve(5);
    second.reserve(3);
    let mut segments = [
        Segment {
            tokens: 5,
            cache: &mut first,
        },
        Segment {
            tokens: 3,
            cache: &mut second,
        },
    ];
    let together = attend([a, b].concat(), &mut segments, spec);
    assert_eq!(bits(&together), bits(&alone.concat()));
}

#[test]
fn wide_registers_do_not_change_bits() {
    let (x, weight, bias) = (noise(5 * 77, 1), noise(77, 2), noise(77, 3));
    let mut narrow = vec![0.0; x.len()];
    RmsNorm {
        weight: &weight,
        eps: 1e-6,
    }
    .run(&x, &mut narrow);
    assert_eq!(bits(&rms_norm(&x, &weight, 1e-6)), bits(&narrow));
    LayerNorm {
        weight: &weight,
        bias: &bias,
        eps: 1e-6,
    }
    .run(&x, &mut narrow);
    assert_eq!(bits(&layer_norm(&x, &weight, &bias, 1e-6)), bits(&narrow));
    for activation in [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Tanh,
    ] {
        activation.apply(&x, &mut narrow);
        assert_eq!(bits(&activate(&x, 77, activation)), bits(&narrow));
    }
}

#[test]
fn norms_are_what_their_definitions_say() {
    let (x, weight, bias) = (noise(33, 1), noise(33, 2), noise(33, 3));
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / 33.0;
    let square = |shift: f64| {
        x.iter()
            .map(|x| (f64::from(*x) - shift).powi(2))
            .sum::<f64>()
            / 33.0
    };
    let (rms, deviation) = ((square(0.0) + 1e-5).sqrt(), (square(mean) + 1e-5).sqrt());
    let by_rms = rms_norm(&x, &weight, 1e-5);
    let by_layer = layer_norm(&x, &weight, &bias, 1e-5);
    for i in 0..33 {
        let [x, weight, bias] = [x[i], weight[i], bias[i]].map(f64::from);
        assert!((f64::from(by_rms[i]) - x / rms * weight).abs() < 1e-5);
        assert!((f64::from(by_layer[i]) - ((x - mean) / deviation * weight + bias)).abs() < 1e-5);
    }
}
