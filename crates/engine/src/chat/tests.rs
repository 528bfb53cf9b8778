use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Golden {
    name: String,
    template: String,
    bos_token: Option<String>,
    eos_token: Option<String>,
    now: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    rendered: Option<String>,
    expect_error: Option<String>,
    /// Messages, and whatever else the template sees.
    #[serde(flatten)]
    variables: BTreeMap<String, Value>,
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::from_files(None, Some(source.as_bytes()))
        .unwrap()
        .unwrap()
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_773_064_800).unwrap()
}

fn render(source: &str) -> Result<String, RenderError> {
    template(source).render([], now())
}

#[test]
fn conversations_are_what_transformers_renders() {
    let goldens: Vec<Golden> =
        serde_json::from_str(include_str!("../../tests/fixtures/chat_templates.json")).unwrap();
    assert!(goldens.len() >= 10);
    for golden in goldens {
        let format = time::format_description::parse_strftime_owned("%Y-%m-%dT%H:%M:%S").unwrap();
        let now = time::PrimitiveDateTime::parse(&golden.now, &format).unwrap();
        let config = serde_json::json!({
            "bos_token": golden.bos_token, "eos_token": golden.eos_token,
            "chat_template": golden.template,
        });
        let template = ChatTemplate::from_files(Some(config.to_string().as_bytes()), None);
        let template = template.unwrap().unwrap();
        for (index, case) in golden.cases.iter().enumerate() {
            let variables = case.variables.iter();
            let variables = variables.map(|(name, value)| (name.as_str(), value.clone()));
            let rendered = template.render(variables, now.assume_utc());
            match (&case.rendered, &case.expect_error) {
                (Some(expected), None) => {
                    assert_eq!(rendered.as_ref(), Ok(expected), "{} {index}", golden.name);
                }
                (None, Some(message)) => {
                    let raised = RenderError::Raised(message.clone());
                    assert_eq!(rendered, Err(raised), "{} {index}", golden.name);
                }
                _ => panic!("{} {index} says what it expects", golden.name),
            }
        }
    }
}

#[test]
fn what_is_written_is_what_python_writes() {
    for (source, expected) in [
        (
            "{{ true }} {{ none }} {{ 1.0 }} {{ 'a' ~ none ~ 2 ~ true }}",
            "True None 1.0 aNone2True",
        ),
        (
            "{{ nothing }}|{{ nothing|default('d') }}|{% for x in nothing %}x{% endfor %}",
            "|d|",
        ),
        (
            "{{ {'b': [1, 'ไทย<>&\\''], 'a': none}|tojson }}",
            "{\"b\": [1, \"ไทย<>&'\"], \"a\": null}",
        ),
        (
            "{{ {'b': 1, 'a': []}|tojson(indent=2) }}",
            "{\n  \"b\": 1,\n  \"a\": []\n}",
        ),
        (
            "{{ ['é', 1.5]|tojson(ensure_ascii=true, separators=(',', ':')) }}",
            "[\"\\u00e9\",1.5]",
        ),
        (
            "{{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}",
            "{\"a\": 2, \"b\": 1}",
        ),
        (
            "{{ ' a b '.strip() + 'x\ny'.split('\n')[-1] + 'ab'[::-1] }}",
            "a byba",
        ),
        (
            "{{ 'aXbXc'.replace('X', '-', 1) }}{{ ['a', 'b']|join(', ') }}{{ '/'.join(['c', 'd']) }}",
            "a-bXca, bc/d",
        ),
        (
            "{{ '%s-%d'|format('a', 3) }} {{ '{} {x}'.format(1, x=2) }} {{ '=' * 3 }} {{ 5 * 200 }}",
            "a-3 1 2 === 1000",
        ),
        (
            "{{ 'a\n\nb'|indent(2) }}|{{ 'a\nb'|indent(width=1, first=true) }}",
            "a\n\n  b| a\n b",
        ),
        ("{{ strftime_now('%d %b %Y') }}", "09 Mar 2026"),
        ("  {% if true %}\n  x\n  {%- endif %}\n", "  x"),
        (
            "{% for x in range(9) %}{% if x == 2 %}{% continue %}{% endif %}{% if x > 3 %}{% break %}{% endif %}{{ x }}{% endfor %}",
            "013",
        ),
    ] {
        assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn a_hostile_template_ends_with_an_error() {
    let big = "x".repeat(1000);
    for source in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}",
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}",
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set n.t %}{{ n.t }}{{ n.t }}{% endset %}{% endfor %}",
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set n.t = n.t.replace('x', n.t) %}{% endfor %}",
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set n.t = n.t|replace('x', n.t) %}{% endfor %}",
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set n.t = [n.t, n.t]|join %}{% endfor %}",
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set n.t = '{0}{0}'.format(n.t) %}{% endfor %}",
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set n.t = '%s%s'|format(n.t, n.t) %}{% endfor %}",
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set n.t = [n.t, n.t]|string %}{% endfor %}",
        "{% set n = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set n.t = [n.t, n.t]|tojson %}{% endfor %}",
        "{% set n = namespace(t=['x']) %}{% for i in range(60) %}{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.t }}",
        "{% set n = namespace(t=['x']) %}{% for i in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}{{ n.t }}",
        "{{ 'x' * 99999999 }}",
        "{{ ['x'] * 9999999 * 999 }}",
        "{{ range(99999)|join(range(99999)|join) }}",
        "{{ '%99999999s'|format('x') }}",
        "{{ '{:99999999}'.format('x') }}",
        &format!("{{% for i in range(99999) %}}{big}{{% endfor %}}"),
        &format!("{{% set x %}}{{% for i in range(99999) %}}{big}{{% endfor %}}{{% endset %}}"),
        "{{ raise_exception('x' * 9999999) }}",
    ] {
        let began = Instant::now();
        let rendered = render(source);
        let ended = matches!(
            rendered,
            Err(RenderError::Limit | RenderError::Failed { .. })
        );
        assert!(ended, "{source}: {:?}", rendered.map(|r| r.len()));
        assert!(began.elapsed() < Duration::from_secs(10), "{source}");
    }
}

#[test]
fn what_is_nested_as_deep_as_the_fuel_allows_is_let_go_of() {
    for nested in [
        "[n.t]",
        "{'a': n.t}",
        "namespace(a=n.t)",
        "n.t|map('upper')",
        "n.t|select",
        "n.t|reverse",
        "n.t[0:]",
        "[1] + n.t",
    ] {
        let source = "{% set n = namespace(t=[]) %}{% for a in range(999) %}{% for b in range(999) %}{% set n.t = NESTED %}{% endfor %}{% endfor %}";
        // The test's own thread is as small as a server's are.
        let rendered = render(&source.replace("NESTED", nested));
        assert!(rendered.is_err(), "{nested}: {rendered:?}");
    }
}

#[test]
fn the_longest_conversation_takes_a_quarter_of_the_fuel() {
    let goldens = include_str!("../../tests/fixtures/chat_templates.json");
    let goldens: Vec<Golden> = serde_json::from_str(goldens).unwrap();
    let longest = tiermesh_core::request::MAX_MESSAGES;
    for golden in goldens {
        let mut template = template(&golden.template);
        let tokens = [
            ("bos_token", golden.bos_token),
            ("eos_token", golden.eos_token),
        ];
        let tokens = tokens
            .into_iter()
            .filter_map(|(name, token)| Some((name.to_owned(), token?)));
        template.tokens = tokens.collect();
        template.environment.set_fuel(Some(limits::FUEL / 4));
        let turn = |n| match n % 2 {
            0 => (Role::User, "q".to_owned()),
            _ => (Role::Assistant, "a".to_owned()),
        };
        let turns: Vec<(Role, String)> = (0..longest - 1).map(turn).collect();
        let rendered = template.messages(&turns, true, now());
        assert!(rendered.is_ok(), "{}: {rendered:?}", golden.name);
    }
}

#[test]
fn bad_files_are_refused_with_their_names() {
    let refused = |config: Option<&str>, jinja: Option<&[u8]>| {
        ChatTemplate::from_files(config.map(str::as_bytes), jinja)
            .unwrap_err()
            .to_string()
    };
    let line = refused(None, Some(b"a\n{% if %}"));
    assert!(
        line.contains("chat_template.jinja") && line.contains("line 2"),
        "{line}"
    );
    let long = refused(None, Some(" ".repeat(MAX_TEMPLATE_BYTES + 1).as_bytes()));
    assert!(long.contains("262144"), "{long}");
    assert!(refused(None, Some(b"\xff")).contains("UTF-8"));
    let config = refused(Some(r#"{"chat_template": "{{"}"#), None);
    assert!(config.contains("tokenizer_config.json"), "{config}");
    assert!(
        ChatTemplate::from_files(Some(b"{}"), None)
            .unwrap()
            .is_none()
    );
    assert!(ChatTemplate::from_files(None, None).unwrap().is_none());
    // A file of its own wins.
    let both = ChatTemplate::from_files(Some(br#"{"chat_template": "a"}"#), Some(b"b"));
    assert_eq!(both.unwrap().unwrap().render([], now()).as_deref(), Ok("b"));
}

#[test]
fn a_failure_says_where_and_nothing_of_the_content() {
    let template = template("\n{{ messages[0].content + none }}");
    let messages = said(&[(Role::User, "secret")]);
    let error = template.encode(&TOKENIZER, &messages, now()).unwrap_err();
    let PromptError::Render(RenderError::Failed { line, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!(*line, 2);
    assert!(!error.to_string().contains("secret"), "{error}");
}

static TOKENIZER: LazyLock<TextTokenizer> = LazyLock::new(|| {
    let json = include_bytes!("../../tests/fixtures/tiny-llama/tokenizer.json");
    TextTokenizer::parse(json).unwrap()
});

/// Tokens of [`TOKENIZER`] from here on are special.
const SPECIAL: u32 = 301;
const TURNS: &str = "{% for m in messages %}<|user|>{{ m.content|trim }}<|end|>{% endfor %}\
                     {% if add_generation_prompt %}<|assistant|>{% endif %}";
const KEEPING: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}";

fn said(turns: &[(Role, &str)]) -> Vec<Message> {
    let message = |(role, text): &(Role, &str)| Message {
        role: *role,
        text: (*text).to_owned(),
    };
    turns.iter().map(message).collect()
}

fn specials(ids: &[u32]) -> Vec<u32> {
    ids.iter().copied().filter(|id| *id >= SPECIAL).collect()
}

#[test]
fn an_answer_goes_on_from_a_last_message_of_the_assistant() {
    for (source, text, expected) in [
        (TURNS, "It is", "<|user|>q<|end|><|user|>It is"),
        (TURNS, " It is ", "<|user|>q<|end|><|user|>It is"),
        (TURNS, "", "<|user|>q<|end|><|user|>"),
        (KEEPING, " It is ", "<|user|>q<|end|><|assistant|> It is "),
        (KEEPING, "", "<|user|>q<|end|><|assistant|>"),
    ] {
        let messages = said(&[(Role::User, "q"), (Role::Assistant, text)]);
        let ids = template(source).encode(&TOKENIZER, &messages, now());
        assert_eq!(
            ids,
            Ok(TOKENIZER.encode_template(expected).unwrap()),
            "{text:?}"
        );
    }
    let hiding = template("{{ messages[0].content }}");
    let messages = said(&[(Role::User, "q"), (Role::Assistant, "a")]);
    let hidden = hiding.encode(&TOKENIZER, &messages, now());
    assert_eq!(hidden, Err(PromptError::Render(RenderError::NotShown)));
}

#[test]
fn tokens_that_the_template_writes_are_its_own_and_those_it_looks_for_are_not() {
    let template = template("{{ '<a>' + m }}<b>{% if '<c>' in m %}{{ m.split('<c>') }}{% endif %}");
    assert!(template.writes("<a>") && template.writes("<b>"));
    assert!(!template.writes("<c>") && !template.writes("<d>"));
}

fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<|end|>"),
        Just("<|user|>"),
        Just("<|"),
        Just("end|>"),
        Just("|>"),
        Just("<"),
        Just(">"),
        Just(" "),
        Just("\n"),
        Just("a"),
        Just("ไทย"),
        Just("😀"),
        Just("\u{e000}"),
        Just("\u{f0000}"),
        Just("<|us"),
        Just("er|>"),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_special_token_comes_from_a_users_text(
        texts in prop::collection::vec(pieces(), 1..5), side_by_side: bool,
    ) {
        let source = if side_by_side { "{% for m in messages %}{{ m.content|trim }}{% endfor %}" } else { TURNS };
        let template = template(source);
        let turns: Vec<(Role, &str)> = texts.iter().map(|text| (Role::User, text.as_str())).collect();
        let ids = template.encode(&TOKENIZER, &said(&turns), now()).unwrap();
        let plain: Vec<(Role, &str)> = turns.iter().map(|_| (Role::User, "x")).collect();
        let expected = template.encode(&TOKENIZER, &said(&plain), now()).unwrap();
        prop_assert_eq!(specials(&ids), specials(&expected));
        // And the model reads what was written, to the letter.
        let turns = texts.iter().map(|text| (Role::User, text.clone())).collect::<Vec<_>>();
        let rendered = template.messages(&turns, true, now()).unwrap();
        let read: Vec<u8> = ids.iter().flat_map(|id| TOKENIZER.token_bytes(*id)).collect();
        prop_assert_eq!(String::from_utf8(read).unwrap(), rendered);
    }

    #[test]
    fn a_text_without_special_tokens_is_encoded_as_the_whole_rendering_is(
        texts in prop::collection::vec("[a-zé ไท|<\n]{0,12}", 1..4),
    ) {
        let template = template(TURNS);
        let turns: Vec<(Role, &str)> = texts.iter().map(|text| (Role::User, text.as_str())).collect();
        let ids = template.encode(&TOKENIZER, &said(&turns), now()).unwrap();
        let turns = texts.iter().map(|text| (Role::User, text.clone())).collect::<Vec<_>>();
        let rendered = template.messages(&turns, true, now()).unwrap();
        prop_assert_eq!(ids, TOKENIZER.encode_template(&rendered).unwrap());
    }

    #[test]
    fn no_source_panics(source in "[{}%#'a-c+~*|()\\[\\]. \n-]{0,60}") {
        let _ = ChatTemplate::from_files(None, Some(source.as_bytes()))
            .map(|template| template.map(|template| template.render([], now())));
    }
}
