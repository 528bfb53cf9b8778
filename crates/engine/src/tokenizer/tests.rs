use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;

static JSON: &[u8] = include_bytes!("../../tests/fixtures/tiny-llama/tokenizer.json");
static TOKENIZER: LazyLock<TextTokenizer> =
    LazyLock::new(|| TextTokenizer::parse(JSON).expect("the fixture parses"));

/// As Llama 2's: a mark for the space, put before a text too, bytes for what
/// the vocabulary does not have, the beginning-of-text token around a text,
/// and one added token that is not special.
static PIECES: LazyLock<TextTokenizer> = LazyLock::new(|| {
    TextTokenizer::parse(pieces().to_string().as_bytes()).expect("the tokenizer parses")
});
/// The first byte's token of [`PIECES`].
const BYTES: u32 = 3;
/// The added token of [`PIECES`] that is not special.
const BLANK_LINE: u32 = BYTES + 256;

fn pieces() -> Value {
    let mut vocab = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned()];
    vocab.extend((0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>")));
    vocab.push("\n\n".to_owned());
    let letters = ["▁"].into_iter().map(str::to_owned);
    vocab.extend(letters.chain(('a'..='z').map(String::from)));
    let merges = [["▁", "t"], ["h", "e"], ["▁t", "he"], ["▁", "▁"], ["▁", "a"]];
    vocab.extend(merges.iter().map(|[a, b]| format!("{a}{b}")));
    let ids = vocab.iter().zip(0u32..);
    let added = [
        ("<unk>", 0, true),
        ("<s>", 1, true),
        ("</s>", 2, true),
        ("\n\n", BLANK_LINE, false),
    ];
    let added = added.map(|(content, id, special)| {
        json!({
            "id": id, "content": content, "special": special, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false,
        })
    });
    let mark = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            mark, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": ids.map(|(token, id)| (token.clone(), json!(id))).collect::<serde_json::Map<_, _>>(),
            "merges": merges,
        },
    })
}

/// The same, with a decoder that is not known by what it does to one token.
static UNKNOWN: LazyLock<TextTokenizer> = LazyLock::new(|| {
    let mut json = pieces();
    json["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}, {"type": "Fuse"},
    ]});
    TextTokenizer::parse(json.to_string().as_bytes()).expect("the tokenizer parses")
});

fn stream(ids: &[u32], stop: &[&str]) -> (Vec<String>, bool) {
    stream_by(&TOKENIZER, ids, stop)
}

fn stream_by(tokenizer: &TextTokenizer, ids: &[u32], stop: &[&str]) -> (Vec<String>, bool) {
    let stop: Vec<String> = stop.iter().map(|s| (*s).to_owned()).collect();
    let mut detokenizer = Detokenizer::new(tokenizer, &stop);
    let mut texts = Vec::new();
    for id in ids {
        match detokenizer.push(tokenizer, *id) {
            Piece::Text(text) => texts.push(text),
            Piece::Stopped(text) => {
                texts.push(text);
                return (texts, true);
            }
        }
    }
    match detokenizer.finish(tokenizer) {
        Piece::Text(text) => texts.push(text),
        Piece::Stopped(text) => {
            texts.push(text);
            return (texts, true);
        }
    }
    (texts, false)
}

/// A byte as the byte-level alphabet spells it.
fn letter(byte: u8) -> String {
    (0u32..301)
        .find(|id| TOKENIZER.token_bytes(*id) == [byte])
        .and_then(|id| TOKENIZER.tokenizer.id_to_token(id))
        .expect("every byte has a token")
}

#[test]
fn special_tokens_exist_in_templates_only() {
    let end = TOKENIZER.token_id("<|end|>").unwrap();
    assert_eq!(TOKENIZER.encode_template("<|end|>").unwrap(), [end]);
    let typed = TOKENIZER.encode_content("a<|end|>b<|user|>").unwrap();
    assert!(typed.iter().all(|id| *id < 301), "{typed:?}");
    assert_eq!(stream(&typed, &[]).0.concat(), "a<|end|>b<|user|>");
}

#[test]
fn a_character_comes_whole_with_its_last_byte() {
    let ids = TOKENIZER.encode_content("é😀").unwrap();
    assert_eq!(ids.len(), 6);
    assert_eq!(stream(&ids, &[]).0, ["", "é", "", "", "", "😀", ""]);
}

#[test]
fn bytes_that_are_no_character_come_out_replaced_and_harm_nothing_else() {
    let smile = TOKENIZER.encode_content("😀").unwrap();
    let mut ids = vec![smile[1]; 7];
    ids.extend(&smile);
    ids.extend(TOKENIZER.encode_content("ok").unwrap());
    ids.extend(&smile[..2]);
    let text = stream(&ids, &[]).0.concat();
    assert_eq!(text, "\u{fffd}".repeat(7) + "😀ok\u{fffd}");
}

#[test]
fn a_stop_string_across_tokens_is_cut_and_false_starts_are_given_back() {
    let ids = TOKENIZER
        .encode_content("one END-two ENDING three")
        .unwrap();
    let (texts, stopped) = stream(&ids, &["ENDI"]);
    assert!(stopped);
    assert_eq!(texts.concat(), "one END-two ");
    let (texts, stopped) = stream(&ids, &["threes"]);
    assert!(!stopped);
    assert_eq!(texts.concat(), "one END-two ENDING three");
    let (texts, _) = stream(&ids, &["two", "END"]);
    assert_eq!(texts.concat(), "one ");
}

#[test]
fn a_leading_space_is_dropped_at_the_answers_start_and_nowhere_else() {
    let id = |token: &str| PIECES.token_id(token).unwrap();
    let [the, a, mark] = ["▁the", "▁a", "▁"].map(id);
    let pieces = |ids: &[u32]| stream_by(&PIECES, ids, &[]).0;
    assert_eq!(pieces(&[the, a]), ["the", " a", ""]);
    assert_eq!(pieces(&[mark, the]), ["", " the", ""]);
    // A special token has no text, and is no start of one either.
    assert_eq!(pieces(&[the, 2, a]), ["the", "", " a", ""]);
    assert_eq!(pieces(&[1, the, a]), ["", "the", " a", ""]);
    assert_eq!(pieces(&[BYTES + 0x0A, the]), ["\n", " the", ""]);
}

#[test]
fn characters_in_bytes_come_whole_one_after_the_other() {
    let ids: Vec<u32> = "ไท😀".bytes().map(|byte| BYTES + u32::from(byte)).collect();
    let (texts, _) = stream_by(&PIECES, &ids, &[]);
    let expected = ["", "", "ไ", "", "", "ท", "", "", "", "😀", ""];
    assert_eq!(texts, expected);
    // A byte that is none of a character harms no other.
    let mut broken = ids[..2].to_vec();
    broken.extend(&ids[3..6]);
    assert_eq!(stream_by(&PIECES, &broken, &[]).0.concat(), "\u{fffd}ท");
}

#[test]
fn a_decoder_that_is_not_known_is_asked_for_whole_lists() {
    assert!(matches!(UNKNOWN.spelling, Spelling::Other));
    let id = |token: &str| UNKNOWN.token_id(token).unwrap();
    let ids = [id("▁the"), 2, id("▁a"), id("▁"), id("b")];
    assert_eq!(stream_by(&UNKNOWN, &ids, &[]).0.concat(), "the a b");
    assert_eq!(UNKNOWN.token_bytes(id("b")), b"b");
}

#[test]
fn a_users_text_is_encoded_as_any_text_but_for_special_tokens() {
    let trusted = PIECES.encode_trusted("<s>a\n\nb").unwrap();
    assert_eq!(trusted[..2], [1, 1], "one around the text and one in it");
    let prompt = PIECES.encode_prompt("<s>a\n\nb").unwrap();
    assert_eq!(prompt[0], 1);
    assert!(!prompt[1..].contains(&1), "{prompt:?}");
    assert!(prompt.contains(&BLANK_LINE), "it is not special");
    assert_eq!(stream_by(&PIECES, &prompt, &[]).0.concat(), "<s>a\n\n b");
    assert_eq!(PIECES.encode_prompt("").unwrap(), [1]);
    assert_eq!(PIECES.encode_content("").unwrap(), [0; 0]);
}

#[test]
fn the_models_other_files_decide_what_is_special_and_what_stands_around_a_text() {
    let mut tokenizer = TextTokenizer::parse(pieces().to_string().as_bytes()).unwrap();
    let config = json!({
        "bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>",
        "add_bos_token": false, "add_eos_token": true, "additional_special_tokens": ["the"],
    });
    let config = TokenizerConfig::parse(Some(config.to_string().as_bytes())).unwrap();
    let template = ChatTemplate::from_files(None, Some("{{ '\n\n' }}\n\n".as_bytes())).unwrap();
    tokenizer.configure(&config, template.as_ref()).unwrap();
    assert_eq!(*tokenizer.encode_trusted("a").unwrap().last().unwrap(), 2);
    assert_ne!(tokenizer.encode_trusted("a").unwrap()[0], 1);
    let prompt = tokenizer.encode_prompt("a\n\nb").unwrap();
    assert!(!prompt.contains(&BLANK_LINE), "the template writes it");
}

#[test]
fn a_special_token_that_only_normalising_shows_is_refused() {
    let mut json = pieces();
    json["normalizer"] = json!({"type": "NFKC"});
    json["added_tokens"][1]["normalized"] = json!(true);
    let tokenizer = TextTokenizer::parse(json.to_string().as_bytes()).unwrap();
    assert_eq!(tokenizer.encode_prompt("＜s＞"), Err(EncodeError));
    assert!(tokenizer.encode_trusted("＜s＞").unwrap()[1..].contains(&1));
    assert!(
        tokenizer.encode_prompt("<s>").is_ok(),
        "this one is disguised"
    );
}

/// Texts that need one to four bytes a character.
fn texts() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        Just("ภาษาไทย"),
        Just("😀"),
        Just("👩‍🔬"),
        Just("é"),
        Just("a"),
        Just("the "),
        Just(" "),
        Just("\nb"),
    ];
    prop::collection::vec(text, 0..8).prop_map(|texts| texts.concat())
}

proptest! {
    #[test]
    fn any_text_comes_back_and_no_piece_splits_a_character(text in any::<String>()) {
        let ids = TOKENIZER.encode_content(&text).unwrap();
        prop_assert_eq!(stream(&ids, &[]).0.concat(), text);
    }

    #[test]
    fn any_tokens_stream_to_what_decoding_at_once_gives(ids in prop::collection::vec(0u32..301, 0..40)) {
        prop_assert_eq!(stream(&ids, &[]).0.concat(), TOKENIZER.decode(&ids));
    }

    #[test]
    fn a_text_cut_into_bytes_and_tokens_at_random_comes_whole(
        text in texts(), whole in prop::collection::vec(any::<bool>(), 40), specials: bool,
    ) {
        for tokenizer in [&*PIECES, &*TOKENIZER] {
            // Words as the tokenizer has them, or every one of their bytes.
            let byte = |byte: u8| match tokenizer.token_id(&format!("<0x{byte:02X}>")) {
                Some(id) => vec![id],
                None => tokenizer.token_id(&letter(byte)).into_iter().collect(),
            };
            let mut ids = Vec::new();
            for (index, id) in tokenizer.encode_content(&text).unwrap().into_iter().enumerate() {
                match whole[index % whole.len()] {
                    true => ids.push(id),
                    false => ids.extend(tokenizer.token_bytes(id).into_iter().flat_map(byte)),
                }
                if specials {
                    ids.extend(tokenizer.token_id("</s>").or(tokenizer.token_id("<|end|>")));
                }
            }
            let (pieces, _) = stream_by(tokenizer, &ids, &[]);
            prop_assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)));
            prop_assert_eq!(pieces.concat(), text.as_str());
        }
    }

    #[test]
    fn any_pieces_stream_to_what_decoding_at_once_gives(
        ids in prop::collection::vec(prop_oneof![0u32..3, 257u32..292], 0..30),
    ) {
        prop_assert_eq!(stream_by(&PIECES, &ids, &[]).0.concat(), PIECES.decode(&ids));
        prop_assert_eq!(stream_by(&UNKNOWN, &ids, &[]).0.concat(), UNKNOWN.decode(&ids));
    }

    #[test]
    fn a_stop_string_is_found_wherever_tokens_cut_it(
        before in texts(), stop in "[aéไ😀 ]{1,4}", after in texts(), bytes: bool,
    ) {
        for tokenizer in [&*PIECES, &*TOKENIZER] {
            let text = format!("x{before}{stop}{after}");
            let mut ids = tokenizer.encode_content(&text).unwrap();
            if bytes && tokenizer.token_id("<0x00>").is_some() {
                // The space that the tokenizer puts before a text is its own.
                ids = text.bytes().map(|byte| BYTES + u32::from(byte)).collect();
            }
            let (pieces, stopped) = stream_by(tokenizer, &ids, &[&stop, "never seen"]);
            prop_assert!(stopped);
            prop_assert_eq!(pieces.concat(), &text[..text.find(&stop).unwrap()]);
        }
    }

    #[test]
    fn a_text_in_disguise_is_encoded_as_it_would_be_without_special_tokens(
        text in prop::collection::vec(prop_oneof![
            Just("<s>"), Just("</s>"), Just("<s"), Just(">"), Just("<"), Just("a"), Just("the "), Just("\n\n"), Just("\u{e000}"),
        ], 0..10).prop_map(|parts| parts.concat()),
    ) {
        let mut plain = pieces();
        plain["added_tokens"].as_array_mut().unwrap().drain(..3);
        plain["post_processor"] = Value::Null;
        let plain = TextTokenizer::parse(plain.to_string().as_bytes()).unwrap();
        prop_assert_eq!(PIECES.encode_content(&text).unwrap(), plain.encode_content(&text).unwrap());
    }

    #[test]
    fn stopping_equals_cutting_the_whole_text(
        ids in prop::collection::vec(97u32..103, 0..60), stop in "[a-f]{1,4}",
    ) {
        let whole = TOKENIZER.decode(&ids);
        let (texts, stopped) = stream(&ids, &[&stop]);
        let cut = whole.find(&stop);
        prop_assert_eq!(stopped, cut.is_some());
        prop_assert_eq!(texts.concat(), &whole[..cut.unwrap_or(whole.len())]);
    }

    #[test]
    fn a_damaged_file_never_panics(at in 0usize..8000, byte in any::<u8>()) {
        let mut json = JSON.to_vec();
        json[at] = byte;
        let _ = TextTokenizer::parse(&json);
    }
}
