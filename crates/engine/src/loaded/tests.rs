use std::path::PathBuf;

use super::*;
use crate::kernel::KernelChoice;

fn model(name: &str) -> Model {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let options = LoadOptions::new(KernelChoice::Auto.resolve().unwrap(), Quantization::Q8);
    Model::load(&fixtures.join(name), options).unwrap()
}

fn said(turns: &[(Role, &str)]) -> Content {
    let message = |(role, text): &(Role, &str)| Message {
        role: *role,
        text: (*text).to_owned(),
    };
    Content::Messages(turns.iter().map(message).collect())
}

#[test]
fn a_plain_prompt_is_what_the_tokenizer_makes_of_it() {
    let tied = model("tiny-llama-tied");
    let golden = include_str!("../../tests/fixtures/tiny-llama-tied/golden.json");
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    let ids: Vec<u32> = serde_json::from_value(golden["prompt_ids"].clone()).unwrap();
    let prompt = golden["prompt"].as_str().unwrap();
    assert_eq!(tied.prompt(&Content::Prompt(prompt.into())).unwrap(), ids);
    assert_eq!(tied.encode_trusted(prompt).unwrap(), ids);
    let end = tied.encode_trusted("<|end|>").unwrap();
    assert_eq!(end, [303]);
    let typed = tied.prompt(&Content::Prompt("<|end|>".into())).unwrap();
    assert!(!typed.contains(&303), "a user's text has no special tokens");
}

#[test]
fn a_conversation_goes_by_the_template_unless_the_manifest_says_how_to_ask() {
    let template =
        b"{% for m in messages %}<|user|>{{ m.role }}: {{ m.content }}<|end|>{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% endif %}";
    let template = || ChatTemplate::from_files(None, Some(template)).unwrap();
    let mut tied = model("tiny-llama-tied");
    assert!(!tied.has_chat_template());
    let question = said(&[(Role::System, "s"), (Role::User, "<|end|>q")]);
    let bare = tied.prompt(&question).unwrap();
    assert_eq!(bare, tied.tokenizer.encode_content("s\n<|end|>q").unwrap());
    tied.chat = template();
    let [before, content, after] = [
        "<|user|>system: s<|end|><|user|>user: ",
        "<|end|>q",
        "<|end|><|assistant|>",
    ];
    let text = |text| tied.tokenizer.encode_template(text).unwrap();
    let ids = tied.prompt(&question).unwrap();
    assert_eq!(ids.iter().filter(|id| **id == 303).count(), 2);
    assert!(ids.starts_with(&text("<|user|>system: s<|end|><|user|>")));
    assert!(ids.ends_with(&text(after)));
    let read: Vec<u8> = ids
        .iter()
        .flat_map(|id| tied.tokenizer.token_bytes(*id))
        .collect();
    assert_eq!(
        String::from_utf8(read).unwrap(),
        [before, content, after].concat()
    );
    // The shipped artifacts' own way to ask stays as it is.
    let mut affixed = model("tiny-llama");
    let as_before = affixed.prompt(&question).unwrap();
    affixed.chat = template();
    assert_eq!(affixed.prompt(&question).unwrap(), as_before);
}
