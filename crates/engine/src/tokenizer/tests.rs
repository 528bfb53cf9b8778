use proptest::prelude::*;
use std::sync::LazyLock;

use super::*;

static JSON: &[u8] = include_bytes!("../../tests/fixtures/tiny-llama/tokenizer.json");
static TOKENIZER: LazyLock<TextTokenizer> =
    LazyLock::new(|| TextTokenizer::parse(JSON).expect("the fixture parses"));

fn stream(ids: &[u32], stop: &[&str]) -> (Vec<String>, bool) {
    let stop: Vec<String> = stop.iter().map(|s| (*s).to_owned()).collect();
    let mut detokenizer = Detokenizer::new(&stop);
    let mut texts = Vec::new();
    for id in ids {
        match detokenizer.push(&TOKENIZER, *id) {
            Piece::Text(text) => texts.push(text),
            Piece::Stopped(text) => {
                texts.push(text);
                return (texts, true);
            }
        }
    }
    match detokenizer.finish(&TOKENIZER) {
        Piece::Text(text) => texts.push(text),
        Piece::Stopped(text) => {
            texts.push(text);
            return (texts, true);
        }
    }
    (texts, false)
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
