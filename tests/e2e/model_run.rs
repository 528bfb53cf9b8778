//! `tiermesh model run` and `embed`: one model, no mesh.

use crate::models::{Models, interrupt, output_of};
use crate::support::{text, tiny};
use serde_json::Value;
use std::process::Stdio;
use tokio::io::AsyncReadExt as _;

fn golden() -> Value {
    let json = std::fs::read(tiny().join("golden.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[tokio::test]
async fn run_prints_one_object_with_the_tokens_transformers_gives() {
    let models = Models::new();
    // The checkpoint alone: its side file would put text around the prompt.
    let source = models.dir.path().join("plain");
    std::fs::create_dir(&source).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(tiny().join(file), source.join(file)).unwrap();
    }
    let source = source.display().to_string();
    models.good(&["import", &source, "--quantize", "f32"]).await;
    let golden = golden();
    let expected = golden["greedy_ids"].as_array().unwrap();
    let limit = expected.len().to_string();
    let prompt = golden["prompt"].as_str().unwrap();
    let mut arguments = vec!["run", "plain", "--json", "--max-tokens", &limit];
    arguments.extend(["--prompt", prompt]);
    let answer = models.json(&arguments).await;
    assert_eq!(answer["token_ids"], golden["greedy_ids"]);
    assert_eq!(answer["text"], golden["greedy_text"]);
    assert_eq!(answer["finish_reason"], "length");
    let read = golden["prompt_ids"].as_array().unwrap().len();
    assert_eq!(answer["prompt_tokens"], read);
    for figure in ["prefill_tok_s", "decode_tok_s", "load_ms", "first_token_ms"] {
        assert!(answer[figure].as_f64().unwrap() > 0.0, "{answer}");
    }
    assert!(answer["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(
        answer["numerics_id"]
            .as_str()
            .unwrap()
            .contains(answer["digest"].as_str().unwrap())
    );
    let again = models.json(&arguments).await;
    assert_eq!(again["token_ids"], answer["token_ids"]);
    assert_eq!(again["text"], answer["text"]);
}

#[tokio::test]
async fn run_streams_text_to_stdout_and_the_summary_to_stderr() {
    let models = Models::with_tiny().await;
    let asked = [
        "run",
        "tiny-llama",
        "--chat",
        "--max-tokens",
        "8",
        "--prompt",
    ];
    let whole = models
        .json(&[&asked[..], &["hello", "--json"]].concat())
        .await;
    let output = models.run(&[&asked[..], &["hello"]].concat()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        format!("{}\n", whole["text"].as_str().unwrap())
    );
    assert!(
        text(&output.stderr).contains("8 tokens"),
        "{}",
        text(&output.stderr)
    );

    let mut command = models.command();
    command.args([&asked[..], &["-", "--json"]].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"hello\n")
        .await
        .unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let piped: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        piped["token_ids"], whole["token_ids"],
        "the last line break is not read"
    );
}

#[tokio::test]
async fn an_interrupted_run_ends_its_line_and_says_so() {
    let models = Models::with_tiny().await;
    let mut command = models.command();
    command.args([
        "run",
        "tiny-llama",
        "--max-tokens",
        "2000",
        "--threads",
        "1",
    ]);
    command.args([
        "--kernel",
        "portable",
        "--temperature",
        "1",
        "--prompt",
        "go on",
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The first word comes after some milliseconds, the last after hundreds.
    let mut stdout = child.stdout.take().unwrap();
    let mut shown = vec![0];
    stdout.read_exact(&mut shown).await.unwrap();
    interrupt(&child).await;
    stdout.read_to_end(&mut shown).await.unwrap();
    let output = output_of(child).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("tokens") && said.ends_with("error: cancelled\n"),
        "{said}"
    );
    assert!(shown.ends_with(b"\n"));
}

#[tokio::test]
async fn a_generating_model_does_not_embed() {
    let models = Models::with_tiny().await;
    let said = models.bad(&["embed", "tiny-llama", "a text"]).await;
    assert!(
        said.contains("LlamaForCausalLM") && said.contains("embed"),
        "{said}"
    );
}
