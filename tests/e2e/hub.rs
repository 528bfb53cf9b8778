//! `tiermesh model import hf:…` against a hub on this machine.

mod kept;
mod standin;
mod tls;

use crate::models::{Models, ended, interrupt, names, output_of};
use crate::support::{text, tiny};
use serde_json::Value;
use standin::{COMMIT, FakeHub, REPO, Reply, etag, honest, ranged};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

const WEIGHTS: &str = "model.safetensors";
const TOKEN: &str = "hf_s3cretT0ken";

/// The tiny model as a repository, with files that nobody needs.
fn files() -> BTreeMap<String, Vec<u8>> {
    let read = |file: &str| std::fs::read(tiny().join(file)).unwrap();
    let needed = ["config.json", "tokenizer.json", WEIGHTS];
    let mut files: BTreeMap<_, _> = needed.map(|file| (file.to_owned(), read(file))).into();
    files.insert("README.md".to_owned(), b"a card".to_vec());
    files.insert("pytorch_model.bin".to_owned(), b"a pickle".to_vec());
    files
}

/// A models directory and a cache that ask `hub`.
struct Client {
    models: Models,
    endpoint: String,
}

impl Client {
    fn of(hub: &FakeHub) -> Self {
        Self {
            models: Models::new(),
            endpoint: hub.endpoint(),
        }
    }

    fn cache(&self) -> PathBuf {
        self.models.dir.path().join("cache")
    }

    fn blobs(&self) -> PathBuf {
        self.cache().join("models--tests--tiny/blobs")
    }

    fn command(&self) -> tokio::process::Command {
        let mut command = self.models.command();
        command
            .env("HF_ENDPOINT", &self.endpoint)
            .env("HF_HUB_CACHE", self.cache())
            .env("HF_TOKEN", TOKEN)
            .env_remove("HF_HUB_OFFLINE");
        command
    }

    async fn import(&self, more: &[&str]) -> Output {
        let wanted = format!("hf:{REPO}");
        let mut command = self.command();
        ended(command.args(["import", &wanted]).args(more)).await
    }

    async fn good(&self, more: &[&str]) {
        let output = self.import(more).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    /// Imports, and hands out what it complains about; no secret is in it.
    async fn bad(&self, more: &[&str]) -> String {
        let output = self.import(more).await;
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        assert!(names(&self.models.path()).is_empty(), "nothing was written");
        let said = text(&output.stderr);
        assert!(!said.contains("s3cret"), "{said}");
        said
    }

    async fn offline(&self, more: &[&str]) -> Output {
        let wanted = format!("hf:{REPO}");
        let mut command = self.command();
        command.env("HF_HUB_OFFLINE", "1");
        ended(command.args(["import", &wanted]).args(more)).await
    }
}

#[tokio::test]
async fn a_repository_is_downloaded_once_and_the_token_stays_with_the_hub() {
    let hub = FakeHub::start(files(), honest(), honest());
    let client = Client::of(&hub);
    client.good(&[]).await;
    let inspected = client.models.run(&["inspect", "tiny", "--json"]).await;
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(inspected["license"], "apache-2.0");
    assert_eq!(inspected["source"], format!("hf:{REPO}@{COMMIT}"));

    let token = Some(format!("Bearer {TOKEN}"));
    assert!(hub.asked().iter().all(|seen| seen.authorization == token));
    assert!(
        hub.fetched()
            .iter()
            .all(|seen| seen.authorization.is_none())
    );
    assert_eq!(hub.fetched().len(), 1, "{:?}", hub.fetched());
    assert!(
        !hub.asked()
            .iter()
            .any(|seen| seen.path.contains("pytorch_model"))
    );

    client.good(&["--name", "again"]).await;
    assert_eq!(hub.fetched().len(), 1, "the second import took the cache's");
    assert_eq!(names(&client.models.path()), ["again", "tiny"]);
}

#[tokio::test]
async fn a_cut_connection_is_resumed_where_it_broke_off() {
    let weights = files()[WEIGHTS].clone();
    let mut first = true;
    let cut = move |seen: &standin::Seen| {
        let mut reply = ranged(seen, &weights);
        reply.cut = std::mem::take(&mut first).then_some(100_000);
        Some(reply)
    };
    let hub = FakeHub::start(files(), honest(), Box::new(cut));
    Client::of(&hub).good(&[]).await;
    let ranges: Vec<_> = hub.fetched().into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned())]);
}

#[tokio::test]
async fn the_next_run_goes_on_where_the_last_one_failed() {
    let weights = files()[WEIGHTS].clone();
    let mut answers = 0;
    let failing = move |seen: &standin::Seen| {
        answers += 1;
        match answers {
            1 => Some(Reply {
                cut: Some(200_000),
                ..ranged(seen, &weights)
            }),
            2 => Some(Reply::status(410)),
            _ => None,
        }
    };
    let hub = FakeHub::start(files(), honest(), Box::new(failing));
    let client = Client::of(&hub);
    assert!(client.bad(&[]).await.contains("410"));
    let left = client
        .blobs()
        .join(format!("{}.incomplete", etag(WEIGHTS, &files()[WEIGHTS])));
    assert_eq!(std::fs::metadata(&left).unwrap().len(), 200_000);
    client.good(&[]).await;
    assert!(!left.exists());
    let last = hub.fetched().pop().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=200000-"));
}

#[tokio::test]
async fn an_interrupted_download_keeps_what_came_and_writes_no_model() {
    let weights = files()[WEIGHTS].clone();
    let mut first = true;
    let silent = move |seen: &standin::Seen| {
        std::mem::take(&mut first).then(|| Reply {
            cut: Some(300_000),
            is_held: true,
            ..ranged(seen, &weights)
        })
    };
    let hub = FakeHub::start(files(), honest(), Box::new(silent));
    let client = Client::of(&hub);
    let wanted = format!("hf:{REPO}");
    let mut command = client.command();
    command.args(["import", &wanted]).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let blob = etag(WEIGHTS, &files()[WEIGHTS]);
    let left = client.blobs().join(format!("{blob}.incomplete"));
    let size = || std::fs::metadata(&left).map_or(0, |found| found.len());
    for _ in 0..1000 {
        if size() == 300_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    interrupt(&child).await;
    let output = output_of(child).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("goes on where it stopped"));
    assert!(names(&client.models.path()).is_empty());
    assert_eq!(size(), 300_000);
    client.good(&[]).await;
    let last = hub.fetched().pop().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=300000-"));
}

#[tokio::test]
async fn a_wrong_checksum_is_refused_and_the_file_removed() {
    let mut wrong = files()[WEIGHTS].clone();
    wrong[1000] ^= 1;
    let lying = move |seen: &standin::Seen| Some(ranged(seen, &wrong));
    let hub = FakeHub::start(files(), honest(), Box::new(lying));
    let client = Client::of(&hub);
    let said = client.bad(&[]).await;
    assert!(said.contains(WEIGHTS) && said.contains("sha256"), "{said}");
    let blob = etag(WEIGHTS, &files()[WEIGHTS]);
    let left = names(&client.blobs());
    assert!(!left.iter().any(|name| name.starts_with(&blob)), "{left:?}");
    assert_eq!(hub.fetched().len(), 1);
}

#[tokio::test]
async fn what_an_earlier_run_left_wrong_is_fetched_anew() {
    let hub = FakeHub::start(files(), honest(), honest());
    let client = Client::of(&hub);
    std::fs::create_dir_all(client.blobs()).unwrap();
    let blob = etag(WEIGHTS, &files()[WEIGHTS]);
    let left = client.blobs().join(format!("{blob}.incomplete"));
    std::fs::write(left, b"not the beginning").unwrap();
    // A small file of the cache that is not what its name says.
    let config = client
        .blobs()
        .join(etag("config.json", &files()["config.json"]));
    std::fs::write(&config, b"{}").unwrap();
    client.good(&[]).await;
    let ranges: Vec<_> = hub.fetched().into_iter().map(|seen| seen.range).collect();
    assert_eq!(ranges, [Some("bytes=17-".to_owned()), None]);
    assert_eq!(std::fs::read(&config).unwrap(), files()["config.json"]);
}

#[tokio::test]
async fn a_host_that_ignores_ranges_is_read_from_the_start() {
    let weights = files()[WEIGHTS].clone();
    let mut first = true;
    let plain = move |seen: &standin::Seen| {
        let mut reply = ranged(
            &standin::Seen {
                range: None,
                ..seen.clone()
            },
            &weights,
        );
        reply.cut = std::mem::take(&mut first).then_some(100_000);
        Some(reply)
    };
    let hub = FakeHub::start(files(), honest(), Box::new(plain));
    Client::of(&hub).good(&[]).await;
    assert_eq!(hub.fetched().len(), 2);
}

#[tokio::test]
async fn more_bytes_than_promised_are_refused() {
    let mut long = files()[WEIGHTS].clone();
    long.extend([0; 1000]);
    let lying = move |seen: &standin::Seen| Some(ranged(seen, &long));
    let hub = FakeHub::start(files(), honest(), Box::new(lying));
    let client = Client::of(&hub);
    let said = client.bad(&[]).await;
    assert!(said.contains("more than the 503136 bytes"), "{said}");
    let left = names(&client.blobs());
    assert!(
        !left.iter().any(|name| name.ends_with(".incomplete")),
        "{left:?}"
    );
}

/// A hub whose listing is answered so, always.
fn listing(reply: Reply) -> FakeHub {
    let instead = move |seen: &standin::Seen| seen.path.starts_with("/api/").then(|| reply.clone());
    FakeHub::start(files(), Box::new(instead), honest())
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let gated = |seen: &standin::Seen| {
        let is_file = seen.path.contains("/resolve/");
        is_file.then(|| Reply::status(403).with("x-error-code", "GatedRepo"))
    };
    let hub = FakeHub::start(files(), Box::new(gated), honest());
    let said = Client::of(&hub).bad(&[]).await;
    let page = format!("{}/{REPO}", hub.endpoint());
    assert!(
        said.contains("accept its licence") && said.contains(&page),
        "{said}"
    );

    let hub = listing(Reply::status(401).with("x-error-code", "RepoNotFound"));
    let said = Client::of(&hub).bad(&[]).await;
    assert!(
        said.contains("HF_TOKEN") && said.contains("check the name"),
        "{said}"
    );
    assert_eq!(hub.asked().len(), 1, "asking again would change nothing");

    let hub = listing(Reply::status(404));
    let said = Client::of(&hub).bad(&[]).await;
    assert!(
        said.contains("tests/tiny at main") && said.contains("404"),
        "{said}"
    );

    let hub = listing(Reply::status(200));
    let said = Client::of(&hub).bad(&[]).await;
    assert!(said.contains("HF_ENDPOINT"), "{said}");
}

#[tokio::test]
async fn a_busy_hub_is_asked_again_after_the_time_it_says() {
    let mut refusals = 2;
    let busy = move |_: &standin::Seen| {
        (refusals > 0).then(|| {
            refusals -= 1;
            Reply::status(429).with("retry-after", "1")
        })
    };
    let hub = FakeHub::start(files(), Box::new(busy), honest());
    let begun = std::time::Instant::now();
    Client::of(&hub).good(&[]).await;
    assert!(begun.elapsed() >= Duration::from_secs(2));

    let hub = listing(Reply::status(429).with("retry-after", "3600"));
    let said = Client::of(&hub).bad(&[]).await;
    assert!(said.contains("3600 s"), "{said}");
    assert_eq!(hub.asked().len(), 1, "nobody waits an hour");
}

#[tokio::test]
async fn a_broken_hub_is_given_up_after_some_tries() {
    let hub = listing(Reply::status(500));
    let said = Client::of(&hub).bad(&[]).await;
    assert!(said.contains("500"), "{said}");
    assert_eq!(hub.asked().len(), 5);
}

#[tokio::test]
async fn an_index_that_leaves_the_repository_is_refused() {
    let mut files = files();
    files.remove(WEIGHTS);
    let index = br#"{"weight_map": {"x": "../../escape.safetensors"}}"#;
    files.insert("model.safetensors.index.json".to_owned(), index.to_vec());
    let hub = FakeHub::start(files, honest(), honest());
    let said = Client::of(&hub).bad(&[]).await;
    assert!(said.contains("../../escape.safetensors"), "{said}");
}

#[tokio::test]
async fn offline_uses_what_is_cached_and_says_what_is_not() {
    let hub = FakeHub::start(files(), honest(), honest());
    let client = Client::of(&hub);
    let output = client.offline(&[]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.contains("HF_HUB_OFFLINE") && said.contains("tests/tiny@main"),
        "{said}"
    );
    assert!(hub.asked().is_empty(), "offline asks nobody");

    client.good(&[]).await;
    drop(hub);
    let output = client.offline(&["--name", "cached"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));

    let weights = client.blobs().join(etag(WEIGHTS, &files()[WEIGHTS]));
    let mut damaged = std::fs::read(&weights).unwrap();
    damaged[5000] ^= 1;
    std::fs::write(&weights, damaged).unwrap();
    let output = client.offline(&["--name", "damaged"]).await;
    let said = text(&output.stderr);
    assert!(said.contains("damaged") && said.contains(WEIGHTS), "{said}");

    std::fs::remove_file(&weights).unwrap();
    let output = client.offline(&["--name", "missing"]).await;
    let said = text(&output.stderr);
    assert!(said.contains("any weights of tests/tiny@main"), "{said}");
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_said_with_what_to_check() {
    let hub = FakeHub::start(files(), honest(), honest());
    let client = Client::of(&hub);
    drop(hub);
    let said = client.bad(&[]).await;
    assert!(
        said.contains("127.0.0.1") && said.contains("HF_ENDPOINT"),
        "{said}"
    );
}
