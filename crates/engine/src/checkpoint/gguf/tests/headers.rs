use proptest::prelude::*;

use super::{Writer, bytes, refused};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::tests::{Strict, read_all};

/// A Llama of one layer that has only an embedding of two tokens.
fn shape() -> Writer {
    Writer::default()
        .string("general.architecture", "llama")
        .unsigned("llama.context_length", 64)
        .unsigned("llama.embedding_length", 8)
        .unsigned("llama.block_count", 1)
        .unsigned("llama.feed_forward_length", 8)
        .unsigned("llama.attention.head_count", 2)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .tensor("token_embd.weight", &[8, 2], 0, 0)
}

/// The same with its tokens.
fn model() -> Writer {
    shape()
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &["a", "b"])
        .integers("tokenizer.ggml.token_type", &[1, 1])
        .strings("tokenizer.ggml.merges", &[])
}

const DATA: usize = 1 << 10;

#[test]
fn the_smallest_model_opens() {
    let file = model().finish(DATA);
    let checkpoint = Checkpoint::from_gguf("small.gguf", Strict(file)).expect("it is valid");
    assert_eq!(checkpoint.name, "small");
    assert_eq!(checkpoint.tensors.names(), ["model.embed_tokens.weight"]);
    read_all(&*checkpoint.tensors, DATA);
}

#[test]
fn what_is_no_gguf_of_a_known_version_is_refused() {
    assert!(refused(Vec::new()).contains("the header goes on beyond byte 0"));
    assert!(refused(b"PK\x03\x04 and so on".to_vec()).contains("expected GGUF"));
    for version in [0u32, 1, 4, 3 << 24] {
        let mut file = model().finish(DATA);
        file[4..8].copy_from_slice(&version.to_le_bytes());
        assert!(refused(file).contains(&format!("GGUF of version {version}")));
    }
}

#[test]
fn a_truncated_header_is_refused_wherever_it_ends() {
    let whole = model().finish(0);
    for keep in 0..whole.len() - 32 {
        let error = refused(whole[..keep].to_vec());
        assert!(error.starts_with("model.gguf"), "{keep}: {error}");
    }
    let error = refused(whole);
    assert!(
        error.contains("tensor token_embd.weight: it has 64 bytes from 0 of the data"),
        "{error}"
    );
}

#[test]
fn counts_and_lengths_beyond_the_file_are_refused_at_once() {
    for (at, what) in [(8, "tensors"), (16, "keys")] {
        for count in [1u64 << 20, u64::MAX] {
            let mut file = model().finish(DATA);
            file[at..at + 8].copy_from_slice(&count.to_le_bytes());
            let error = refused(file);
            assert!(
                error.contains(&format!("said to have {count} of {what}")),
                "{error}"
            );
        }
    }
    let array = |count: u64, kind: u32| {
        let mut value = kind.to_le_bytes().to_vec();
        value.extend(count.to_le_bytes());
        refused(Writer::default().raw("list", 9, &value).finish(DATA))
    };
    for kind in [0, 2, 4, 5, 6, 7, 8, 10, 12] {
        for count in [1 << 40, u64::MAX, u64::MAX / 8 + 1] {
            let error = array(count, kind);
            assert!(
                error.contains(&format!("said to have {count} of list")),
                "{error}"
            );
        }
    }
    assert!(array(1, 9).contains("list = an array of arrays"));
    assert!(array(1, 13).contains("list = an array of type 13"));
    let text = Writer::default().raw("text", 8, &u64::MAX.to_le_bytes());
    assert!(refused(text.finish(DATA)).contains("text has 18446744073709551615 bytes"));
    let kind = Writer::default().raw("odd", 77, &[0; 8]);
    assert!(refused(kind.finish(DATA)).contains("odd = a value of type 77"));
}

#[test]
fn alignments_that_are_none_are_refused() {
    for alignment in [0, 3, 33, 1 << 21] {
        let error = refused(
            model()
                .unsigned("general.alignment", alignment)
                .finish(DATA),
        );
        assert!(
            error.contains(&format!(
                "general.alignment = {alignment}; expected a power of two"
            )),
            "{error}"
        );
    }
}

#[test]
fn tensors_that_lie_about_themselves_are_named() {
    let with = |dimensions: &[u64], kind, offset| {
        refused(
            model()
                .tensor("output.weight", dimensions, kind, offset)
                .finish(DATA),
        )
    };
    let cases: [(&[u64], u32, u64, &str); 10] = [
        (&[8, 2, 1, 1, 1], 0, 64, "it has 5 dimensions"),
        (
            &[8, 2],
            0,
            65,
            "its bytes begin at 65; expected a multiple of 32",
        ),
        (
            &[8, 2],
            0,
            32,
            "its bytes begin at 32 of the data; expected at least 64",
        ),
        (&[8, 2], 0, 1 << 20, "64 bytes from 1048576 of the data"),
        (&[8, 2], 0, u64::MAX - 31, "a range inside"),
        (&[u64::MAX, u64::MAX], 0, 64, "product fits 64 bits"),
        (&[1 << 62, 1], 0, 64, "product fits 64 bits"),
        (
            &[8, 2],
            8,
            64,
            "a row has 8 values; expected a multiple of 32, as Q8_0",
        ),
        (&[8, 2], 16, 64, "has type IQ2_XXS; supported: F32, F16"),
        (&[8, 2], 4000, 64, "has type number 4000; supported"),
    ];
    for (dimensions, kind, offset, expected) in cases {
        let error = with(dimensions, kind, offset);
        assert!(error.contains("tensor output.weight"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
    let twice = model().tensor("token_embd.weight", &[8, 2], 0, 64);
    assert!(refused(twice.finish(DATA)).contains("two tensors are called token_embd.weight"));
}

#[test]
fn tensors_without_a_place_in_the_model_are_named() {
    for name in [
        "blk.0.attn_q_norm.weight",
        "blk.0.attn_q.scale",
        "blk.00.attn_q.weight",
        "blk.x.attn_q.weight",
        "blk.0.ffn_gate_exps.weight",
        "token_embd",
        "",
    ] {
        let error = refused(model().tensor(name, &[8, 8], 0, 64).finish(DATA));
        assert!(
            error.contains(&format!("tensor {name}: it has no place")),
            "{error}"
        );
    }
    let error = refused(
        model()
            .tensor("blk.1.attn_q.weight", &[8, 8], 0, 64)
            .finish(DATA),
    );
    assert!(error.contains("expected layers below 1"), "{error}");
    let error = refused(
        model()
            .tensor("blk.0.attn_q.weight", &[8, 6], 0, 64)
            .finish(DATA),
    );
    assert!(
        error.contains("it has 6 rows; expected 2 heads of an even size"),
        "{error}"
    );
}

#[test]
fn keys_that_are_absent_or_wrong_are_named() {
    let with = |writer: Writer| refused(writer.finish(DATA));
    assert!(with(Writer::default()).contains("general.architecture = absent; expected llama,"));
    let other = Writer::default().string("general.architecture", "mamba");
    assert!(with(other).contains(r#"general.architecture = "mamba"; expected llama,"#));
    let bare = Writer::default().string("general.architecture", "qwen2");
    assert!(with(bare).contains("qwen2.embedding_length = absent"));
    let twice = model().unsigned("llama.block_count", 1);
    assert!(with(twice).contains("llama.block_count = it is there twice"));
    let experts = model().unsigned("llama.expert_count", 8);
    assert!(with(experts).contains("mixtures of experts are not supported"));
    let split = model().unsigned("split.count", 3);
    assert!(with(split).contains("gguf-split --merge"));
    let rope = model().string("llama.rope.scaling.type", "dynamic");
    assert!(with(rope).contains(r#"llama.rope.scaling.type = "dynamic""#));
    let rope = model().string("llama.rope.scaling.type", "linear");
    assert!(with(rope).contains("llama.rope.scaling.factor = absent"));
    let special = model().unsigned("tokenizer.ggml.bos_token_id", 2);
    assert!(with(special).contains("bos_token_id = 2; expected a token below 2"));
    let value = model().unsigned("llama.attention.value_length", 5);
    assert!(with(value).contains("value_length = 5; expected 4, the size of a key"));
    let begins = model().raw("tokenizer.ggml.add_bos_token", 7, &[1]);
    assert!(with(begins).contains("tokenizer.ggml.bos_token_id = absent"));
}

#[test]
fn vocabularies_that_do_not_fit_are_refused() {
    let with = |tokens: &[&str], kinds: &[i32], merges: &[&str], pre: &str| {
        let file = shape()
            .string("tokenizer.ggml.model", "gpt2")
            .string("tokenizer.ggml.pre", pre)
            .strings("tokenizer.ggml.tokens", tokens)
            .integers("tokenizer.ggml.token_type", kinds)
            .strings("tokenizer.ggml.merges", merges);
        refused(file.finish(DATA))
    };
    let error = with(&["a", "b", "c"], &[1, 1, 1], &[], "gpt-2");
    assert!(
        error.contains("tensor token_embd.weight: it has 2 rows; expected at least 3"),
        "{error}"
    );
    assert!(with(&[], &[], &[], "gpt-2").contains("tokens = 0 tokens; expected from 1"));
    assert!(with(&["a", "a"], &[1, 1], &[], "gpt-2").contains(r#"tokens 0 and 1 are both "a""#));
    assert!(with(&["a", "b"], &[1], &[], "gpt-2").contains("token_type = 1 integers"));
    assert!(with(&["a", "b"], &[1, 9], &[], "gpt-2").contains("a token of type 9"));
    let error = with(&["a", "b"], &[1, 1], &["a b"], "gpt-2");
    assert!(
        error.contains(r#"merge 0 is "a b"; expected two tokens"#),
        "{error}"
    );
    let error = with(&["a", "aa"], &[1, 1], &["aa"], "gpt-2");
    assert!(error.contains(r#"merge 0 is "aa""#), "{error}");
    let error = with(&["a", "b"], &[1, 1], &[], "falcon");
    assert!(
        error.contains(r#"tokenizer.ggml.pre = "falcon"; expected llama-bpe"#),
        "{error}"
    );
    let long = "x".repeat(5000);
    assert!(with(&["a", &long], &[1, 1], &[], "gpt-2").contains("token 1 has 5000 bytes"));
}

/// Bytes at a place, written over what is there or before it.
fn damage() -> impl Strategy<Value = (usize, Vec<u8>, bool)> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..9),
        // Numbers at the borders of what lengths and counts may be.
        prop::sample::select(vec![0u64, 1, 2, 31, 1 << 20, 1 << 31, 1 << 63, u64::MAX])
            .prop_map(|number| number.to_le_bytes().to_vec()),
    ];
    (any::<usize>(), bytes, any::<bool>())
}

fn apply(file: &mut Vec<u8>, (at, new, insert): &(usize, Vec<u8>, bool)) {
    // Most of the data is of no interest.
    let at = at % (file.len() - DATA + 64);
    let end = if *insert { at } else { at + new.len() };
    file.splice(at..end.min(file.len()), new.iter().copied());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn damaged_files_are_read_within_their_bounds_or_refused(
        damages in prop::collection::vec(damage(), 1..3),
        keep in any::<prop::sample::Index>(),
        cut in prop::bool::weighted(0.1),
    ) {
        let mut file = model().finish(DATA);
        for damage in &damages {
            apply(&mut file, damage);
        }
        if cut {
            file.truncate(keep.index(file.len()));
        }
        let size = file.len();
        if let Ok(checkpoint) = Checkpoint::from_gguf("model.gguf", Strict(file)) {
            read_all(&*checkpoint.tensors, size * 8);
        }
    }

    #[test]
    fn a_damaged_model_of_every_part_is_read_within_its_bounds_or_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        number in any::<u64>(),
        wide in any::<bool>(),
    ) {
        let mut file = bytes("llama3.gguf");
        let at = at.index(file.len() / 4);
        match wide {
            true => file[at..at + 8].copy_from_slice(&number.to_le_bytes()),
            false => file[at] = byte,
        }
        let size = file.len();
        if let Ok(checkpoint) = Checkpoint::from_gguf("model.gguf", Strict(file)) {
            read_all(&*checkpoint.tensors, size * 8);
        }
    }
}
