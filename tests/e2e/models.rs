//! `tiermesh model`, as people and scripts use it.

use crate::support::{EXE, text, tiny};
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Child;

/// A models directory of its own, and what the commands say about it.
pub(crate) struct Models {
    pub(crate) dir: tempfile::TempDir,
}

impl Models {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("models")
    }

    pub(crate) fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(EXE);
        command
            .arg("model")
            .env("TIERMESH_MODELS", self.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        ended(self.command().args(arguments)).await
    }

    /// Runs it, and hands out its stdout.
    pub(crate) async fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs it, and hands out what it complains about.
    pub(crate) async fn bad(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        text(&output.stderr)
    }

    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.good(arguments).await).unwrap()
    }

    /// The tiny model, imported.
    pub(crate) async fn with_tiny() -> Self {
        let models = Self::new();
        models
            .good(&["import", &tiny().display().to_string()])
            .await;
        models
    }
}

pub(crate) async fn ended(command: &mut tokio::process::Command) -> Output {
    let output = tokio::time::timeout(Duration::from_secs(120), command.output());
    output.await.expect("the command ends").unwrap()
}

/// Every name below a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries.map(|e| name(e).into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_model_is_imported_listed_inspected_verified_and_removed() {
    let models = Models::new();
    let said = models
        .good(&["import", &tiny().display().to_string()])
        .await;
    let path = models.path().join("tiny-llama");
    let words: Vec<&str> = said.trim_end().split("  ").collect();
    let [name, quantization, _, digest, place] = words[..] else {
        panic!("{said}");
    };
    assert_eq!((name, quantization), ("tiny-llama", "q8"));
    assert_eq!(Path::new(place), path);
    assert_eq!(
        names(&models.path()),
        ["tiny-llama"],
        "nothing else is left"
    );

    let listed = models.json(&["list", "--json"]).await;
    let inspected = models.json(&["inspect", "tiny-llama", "--json"]).await;
    for told in [&listed, &inspected] {
        assert_eq!(told["name"], "tiny-llama");
        assert_eq!(told["digest"], digest);
        assert_eq!(told["license"], "Apache-2.0");
        assert_eq!(told["context_tokens"], 2048);
        assert_eq!(told["path"], place);
    }
    let files = inspected["files"].as_array().unwrap();
    let bytes: u64 = files
        .iter()
        .map(|file| file["bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(listed["bytes"], bytes);
    for file in files {
        let there = path.join(file["path"].as_str().unwrap());
        assert_eq!(std::fs::metadata(there).unwrap().len(), file["bytes"]);
    }
    let table = models.good(&["list"]).await;
    assert!(
        table.contains("tiny-llama") && table.contains(&digest[..12]),
        "{table}"
    );

    assert!(
        models
            .good(&["verify", "tiny-llama"])
            .await
            .contains(digest)
    );

    let asked = models.bad(&["remove", "tiny-llama"]).await;
    assert!(asked.contains("--yes"), "{asked}");
    assert!(path.is_dir());
    models.good(&["remove", "tiny-llama", "--yes"]).await;
    assert!(names(&models.path()).is_empty());
    let gone = models.bad(&["inspect", "tiny-llama"]).await;
    assert!(gone.contains("model list"), "{gone}");
}

#[tokio::test]
async fn a_changed_byte_is_found_and_its_file_named() {
    let models = Models::with_tiny().await;
    let weights = models.path().join("tiny-llama/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    let said = models.bad(&["verify", "tiny-llama"]).await;
    assert!(
        said.contains("model.safetensors") && said.contains("sha256"),
        "{said}"
    );
    assert!(!said.contains("tokenizer.json"), "{said}");
    let said = models.bad(&["run", "tiny-llama", "--prompt", "x"]).await;
    assert!(said.contains("model.safetensors"), "{said}");

    std::fs::write(&weights, &bytes[..last]).unwrap();
    let said = models.bad(&["verify", "tiny-llama"]).await;
    assert!(said.contains(&format!("found {last}")), "{said}");
    std::fs::remove_file(models.path().join("tiny-llama/config.json")).unwrap();
    let said = models.bad(&["verify", "tiny-llama"]).await;
    assert!(
        said.contains("config.json") && said.contains("2 of 3"),
        "{said}"
    );
}

#[tokio::test]
async fn a_changed_manifest_is_no_manifest() {
    let models = Models::with_tiny().await;
    let manifest = models.path().join("tiny-llama/manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("Apache-2.0", "MIT")).unwrap();
    let said = models.bad(&["verify", "tiny-llama"]).await;
    assert!(said.contains("manifest.json is corrupt"), "{said}");
    let listed = models.json(&["list", "--json"]).await;
    assert!(
        listed["error"].as_str().unwrap().contains("corrupt"),
        "{listed}"
    );
}

/// A checkpoint that takes long to import and no room: a vocabulary of a
/// million, all zeros, in a sparse file.
fn long_checkpoint(source: &Path) {
    const WIDTH: u64 = 1024;
    const VOCABULARY: u64 = 1 << 20;
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": WIDTH,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 8,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
    });
    std::fs::write(source.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(tiny().join("tokenizer.json"), source.join("tokenizer.json")).unwrap();
    let layer = |part: &str| format!("model.layers.0.{part}.weight");
    let mut tensors = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![VOCABULARY, WIDTH],
        ),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
        (layer("input_layernorm"), vec![WIDTH]),
        (layer("post_attention_layernorm"), vec![WIDTH]),
        (layer("mlp.gate_proj"), vec![32, WIDTH]),
        (layer("mlp.up_proj"), vec![32, WIDTH]),
        (layer("mlp.down_proj"), vec![WIDTH, 32]),
    ];
    for part in ["q", "k", "v", "o"] {
        tensors.push((layer(&format!("self_attn.{part}_proj")), vec![WIDTH, WIDTH]));
    }
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let first = end;
        end += shape.iter().product::<u64>() * 2;
        let entry = serde_json::json!({
            "dtype": "F16", "shape": shape, "data_offsets": [first, end],
        });
        header.insert(name, entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = std::fs::File::create(source.join("model.safetensors")).unwrap();
    let length = header.len() as u64;
    file.write_all(&length.to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + length + end).unwrap();
}

#[tokio::test]
async fn an_interrupted_import_leaves_nothing() {
    let models = Models::new();
    let source = models.dir.path().join("checkpoint");
    std::fs::create_dir(&source).unwrap();
    long_checkpoint(&source);
    let mut command = models.command();
    let scratch = models.dir.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    command.arg("import").arg(&source).stderr(Stdio::piped());
    command.env("TMPDIR", &scratch);
    let child = command.spawn().unwrap();
    for _ in 0..1000 {
        if !names(&models.path()).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let begun = names(&models.path());
    assert!(begun[0].starts_with(".partial-"), "{begun:?}");
    interrupt(&child).await;
    let output = output_of(child).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nothing was written"));
    assert!(names(&models.path()).is_empty());
    assert!(names(&scratch).is_empty(), "{:?}", names(&scratch));
}

pub(crate) async fn output_of(child: Child) -> Output {
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output());
    output.await.expect("it ends soon").unwrap()
}

/// As Ctrl-C does.
pub(crate) async fn interrupt(child: &Child) {
    let pid = child.id().expect("it has not ended").to_string();
    let sent = tokio::process::Command::new("kill")
        .args(["-INT", &pid])
        .status();
    assert!(sent.await.unwrap().success());
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_half_written() {
    let models = Models::new();
    // A limit on a file's size stands for the disk's end: writing past it
    // fails with an error, once the signal for it is ignored.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" model import \"$1\" --quantize f32";
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", script, EXE])
        .arg(tiny())
        .env("TIERMESH_MODELS", models.path());
    let output = ended(&mut command).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("cannot be written") || said.contains("cannot write"),
        "{said}"
    );
    assert!(
        names(&models.path()).is_empty(),
        "{:?}",
        names(&models.path())
    );
}

#[tokio::test]
async fn import_refuses_what_is_there_and_force_replaces_models_alone() {
    let models = Models::with_tiny().await;
    let source = tiny().display().to_string();
    let said = models.bad(&["import", &source]).await;
    assert!(said.contains("--force"), "{said}");
    let named = ["import", &source, "--force", "--license", "MIT"];
    models.good(&named).await;
    let inspected = models.json(&["inspect", "tiny-llama", "--json"]).await;
    assert_eq!(inspected["license"], "MIT");

    let precious = models.dir.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("thesis.txt"), "x").unwrap();
    let place = precious.display().to_string();
    let said = models
        .bad(&["import", &source, "--force", "--out", &place])
        .await;
    assert!(said.contains("not a model"), "{said}");
    assert_eq!(names(&precious), ["thesis.txt"]);
    let said = models.bad(&["remove", &place, "--yes"]).await;
    assert!(said.contains("no model of ours"), "{said}");
    assert_eq!(names(&precious), ["thesis.txt"]);
}

#[tokio::test]
async fn remove_takes_the_models_files_and_leaves_others() {
    let models = Models::with_tiny().await;
    let path = models.path().join("tiny-llama");
    std::fs::write(path.join("notes.txt"), "mine").unwrap();
    models.good(&["remove", "tiny-llama", "--yes"]).await;
    assert_eq!(names(&path), ["notes.txt"]);
}

#[tokio::test]
async fn names_and_paths_that_mean_nothing_are_said_with_what_to_do() {
    let models = Models::new();
    let said = models.bad(&["import", "/no/such/checkpoint"]).await;
    assert!(said.contains("/no/such/checkpoint"), "{said}");
    let said = models.bad(&["run", "nobody", "--prompt", "x"]).await;
    assert!(
        said.contains("nobody") && said.contains("model list"),
        "{said}"
    );
    for usage in [
        vec!["import", "hf:a/b/c"],
        vec!["import", "x", "--quantize", "q3"],
        vec!["run", "x", "--prompt", "x", "--top-p", "2"],
        vec!["run", "x", "--prompt", "x", "--system", "x"],
    ] {
        let output = models.run(&usage).await;
        assert_eq!(output.status.code(), Some(2), "{usage:?}");
        assert!(!output.stderr.is_empty());
    }
    let empty = models.run(&["list"]).await;
    assert!(empty.status.success() && empty.stdout.is_empty());
    assert!(text(&empty.stderr).contains("model import"));
}
