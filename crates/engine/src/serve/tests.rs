//! Serving many: what a stream says does not depend on who else is there.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use proptest::prelude::*;
use tiermesh_core::{Content, ModelId, Residency, Task, TaskResult, UserId};

use crate::artifact::{ImportOptions, Quantization, import};
use crate::engine::{Engine, EngineOptions, Job, ModelSource, PrefixSharing, SubmitError};
use crate::kernel::KernelChoice;
use crate::loaded::{KvCacheType, LoadOptions, Model};
use crate::model::PagePool;
use crate::sampler::{SamplingOptions, SamplingParams};
use crate::serve::sequence::{Plan, Sequence, Step};
use crate::stream::{Finished, Output, StreamError, TokenStream};

mod models;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn options(assume: Quantization) -> LoadOptions {
    let kernel = KernelChoice::Auto.resolve().unwrap();
    LoadOptions::new(kernel, assume)
}

fn tiny(options: LoadOptions) -> Model {
    Model::load(&fixture("tiny-llama"), options).unwrap()
}

fn tiny_q8() -> Model {
    tiny(options(Quantization::Q8))
}

fn engine(change: impl FnOnce(&mut EngineOptions)) -> Engine {
    let mut options = EngineOptions::default();
    change(&mut options);
    Engine::start(vec![tiny_q8()], options).unwrap()
}

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// One request of a test.
#[derive(Clone, Debug)]
struct Ask {
    prompt: String,
    seed: u64,
    temperature: f32,
    max_tokens: u32,
    user: &'static str,
}

impl Ask {
    fn new(prompt: &str, max_tokens: u32) -> Self {
        Self {
            prompt: prompt.to_owned(),
            seed: 3,
            temperature: 0.9,
            max_tokens,
            user: "ann",
        }
    }

    fn sampling(&self) -> SamplingParams {
        SamplingParams::new(SamplingOptions {
            temperature: self.temperature,
            ..SamplingOptions::default()
        })
        .unwrap()
    }

    fn job(&self, emitted: &[u32]) -> Job {
        Job {
            model: ModelId::new("tiny-llama").unwrap(),
            user: UserId::new(self.user).unwrap(),
            priority: 0,
            task: Task::Generate,
            content: Content::Prompt(self.prompt.clone()),
            emitted: emitted.to_vec(),
            sampling: self.sampling(),
            seed: self.seed,
            max_tokens: self.max_tokens,
            stop: Vec::new(),
            constraint: None,
            first_token: None,
            deadline: None,
        }
    }

    /// What it says by itself, computed without an engine.
    fn alone(&self, model: &Arc<Model>) -> Vec<u32> {
        let plan = Plan {
            prompt: model.prompt(&Content::Prompt(self.prompt.clone())).unwrap(),
            emitted: Vec::new(),
            sampling: self.sampling(),
            seed: self.seed,
            max_tokens: self.max_tokens,
            stop: Vec::new(),
            constraint: None,
        };
        let mut sequence = Sequence::new(Arc::clone(model), plan, PagePool::unlimited());
        let mut ids = Vec::new();
        loop {
            match sequence.step().unwrap() {
                Step::Read(_) => {}
                Step::Token(token) => ids.extend(token.id),
                Step::Finished(token, _) => {
                    ids.extend(token.and_then(|token| token.id));
                    return ids;
                }
            }
        }
    }
}

async fn read(mut stream: TokenStream) -> (Vec<u32>, Result<Finished, StreamError>) {
    let mut ids = Vec::new();
    loop {
        match stream.next().await.expect("a stream ends with an ending") {
            Ok(Output::Tokens { items, .. }) => ids.extend(items.iter().filter_map(|t| t.id)),
            Ok(Output::Result(_)) => panic!("text comes as tokens"),
            Ok(Output::Finished(finished)) => return (ids, Ok(finished)),
            Err(error) => return (ids, Err(error)),
        }
    }
}

fn page_bytes(model: &Model) -> usize {
    model.decoder.kv_layout().page_bytes()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.build().unwrap().block_on(future)
}

fn asks() -> impl Strategy<Value = Vec<(Ask, f64, u8)>> {
    let one = (
        0usize..4,
        0usize..120,
        any::<u64>(),
        any::<bool>(),
        1u32..24,
        0usize..3,
    );
    let ask = one.prop_map(|(family, length, seed, greedy, max_tokens, user)| Ask {
        // Some share their first characters, and so their first pages.
        prompt: format!(
            "{}{}",
            "shared beginning ".repeat(family * 3),
            "x y".repeat(length / 3)
        ),
        seed,
        temperature: if greedy { 0.0 } else { 1.1 },
        max_tokens,
        user: ["ann", "ben", "cat"][user],
    });
    prop::collection::vec((ask, 0.0f64..1.0, 0u8..6), 1..9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn what_a_stream_says_does_not_depend_on_batches_chunks_prefixes_or_cuts(
        asks in asks(), streams in 1usize..6, step_us in 1u64..20_000, pages in 14usize..60,
        sharing in 0usize..3, held in 0usize..3,
    ) {
        let kv_cache = KvCacheType::Q8;
        let held = [
            options(Quantization::F32),
            options(Quantization::Q8),
            LoadOptions { kv_cache, ..options(Quantization::Q8) },
        ][held];
        let model = Arc::new(tiny(held));
        let mut options = EngineOptions {
            streams: count(streams),
            step: Duration::from_micros(step_us),
            kv_bytes: pages * page_bytes(&model),
            ..EngineOptions::default()
        };
        options.prefix_sharing =
            [PrefixSharing::All, PrefixSharing::User, PrefixSharing::Off][sharing];
        let engine = Engine::start(vec![tiny(held)], options).unwrap();
        let expected: Vec<Vec<u32>> = asks.iter().map(|(ask, ..)| ask.alone(&model)).collect();
        block_on(async {
            let mut open = Vec::new();
            for ((ask, cut, kind), expected) in asks.iter().zip(&expected) {
                // A third go on after a cut, a sixth are dropped on the way.
                let cut = if *kind < 2 { (cut * expected.len() as f64) as usize } else { 0 };
                let job = ask.job(&expected[..cut]);
                // Bytes of the prompt bound its tokens.
                let most = ask.prompt.len() + 2 + ask.max_tokens as usize;
                match engine.submit(job) {
                    Ok(stream) if *kind == 5 => drop(stream),
                    Ok(stream) => open.push((stream, expected[cut..].to_vec())),
                    Err(SubmitError::TooLarge { .. }) => assert!(most > (pages - 1) * 16),
                    Err(error) => panic!("{error}"),
                }
            }
            for (stream, expected) in open {
                let (ids, ending) = read(stream).await;
                assert_eq!(ids, expected);
                assert!(ending.is_ok());
            }
        });
    }
}

#[tokio::test]
async fn streams_that_do_not_fit_together_are_put_off_and_never_fail() {
    let model = Arc::new(tiny_q8());
    let prompt = "a prompt of some length, so that it takes pages. ".repeat(4);
    let asks: Vec<Ask> = (0..5)
        .map(|seed| Ask {
            seed,
            ..Ask::new(&prompt, 120)
        })
        .collect();
    // Twenty pages hold one whole stream, and not two.
    let engine = engine(|o| {
        o.kv_bytes = 24 * page_bytes(&model);
        o.prefix_sharing = PrefixSharing::Off;
    });
    let open: Vec<_> = asks
        .iter()
        .map(|ask| engine.submit(ask.job(&[])).unwrap())
        .collect();
    for (stream, ask) in open.into_iter().zip(&asks) {
        let (ids, ending) = read(stream).await;
        assert_eq!(ids, ask.alone(&model));
        assert!(ending.is_ok());
    }
    assert_eq!(engine.load().kv_used_bytes, 0, "everything is given back");
    let large = Ask::new(&prompt.repeat(3), 400);
    assert!(matches!(
        engine.submit(large.job(&[])),
        Err(SubmitError::TooLarge { .. })
    ));
}

#[tokio::test]
async fn a_cancelled_streams_memory_is_free_within_a_step() {
    let engine = engine(|o| o.prefix_sharing = PrefixSharing::Off);
    let mut stream = engine
        .submit(Ask::new(&"long ".repeat(100), 900).job(&[]))
        .unwrap();
    stream.next().await.unwrap().unwrap();
    assert!(engine.load().kv_used_bytes > 0);
    let step = Duration::from_secs_f32(1.0 / engine.load().models[0].decode_tok_s);
    drop(stream);
    let dropped = Instant::now();
    while engine.load().kv_used_bytes > 0 {
        assert!(dropped.elapsed() < step * 50 + Duration::from_millis(500));
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_known_beginning_is_not_computed_again() {
    let engine = engine(|_| {});
    let ask = Ask::new(&"the same instructions for everybody. ".repeat(8), 8);
    let (first, _) = read(engine.submit(ask.job(&[])).unwrap()).await;
    let before = engine.load().prefix;
    assert_eq!(before.found_tokens, 0);
    let (second, _) = read(engine.submit(ask.job(&[])).unwrap()).await;
    assert_eq!(first, second);
    while engine.load().active > 0 {
        std::thread::yield_now();
    }
    let after = engine.load().prefix;
    let asked = after.asked_tokens - before.asked_tokens;
    assert!(after.found_tokens * 10 >= asked * 8, "{after:?}");
    let another = Ask { user: "ben", ..ask };
    let apart = self::engine(|o| o.prefix_sharing = PrefixSharing::User);
    for ask in [&another, &Ask::new(&another.prompt, 8)] {
        read(apart.submit(ask.job(&[])).unwrap()).await.1.unwrap();
    }
    assert_eq!(apart.load().prefix.found_tokens, 0, "users are kept apart");
}

#[tokio::test]
async fn a_long_prompt_is_read_between_the_tokens_of_others() {
    let engine = engine(|o| o.step = Duration::from_micros(1));
    let writer = engine.submit(Ask::new("short", 600).job(&[])).unwrap();
    while engine.load().active == 0 {
        std::thread::yield_now();
    }
    let reader = engine
        .submit(Ask::new(&"word ".repeat(300), 1).job(&[]))
        .unwrap();
    let mut writer = writer.boxed();
    let mut reader = reader.boxed();
    let mut written = 0;
    loop {
        tokio::select! {
            Some(Ok(Output::Tokens { items, .. })) = writer.next() => written += items.len(),
            Some(Ok(_)) = reader.next() => break,
        }
    }
    // Sixteen tokens a step at least, and a token for the writer in each.
    assert!(
        written >= 20,
        "{written} tokens beside a prompt of 300 and more"
    );
}

#[tokio::test]
async fn users_share_places_however_many_streams_they_have() {
    let engine = engine(|o| {
        o.streams = count(2);
        o.queue_capacity = 64;
    });
    let many: Vec<_> = (0..12)
        .map(|seed| {
            let ask = Ask {
                seed,
                ..Ask::new("many", 150)
            };
            engine.submit(ask.job(&[])).unwrap()
        })
        .collect();
    let one = Ask {
        user: "ben",
        ..Ask::new("one", 150)
    };
    let (ids, ending) = read(engine.submit(one.job(&[])).unwrap()).await;
    assert_eq!(ids.len(), 150);
    ending.unwrap();
    // It had every second place: the others are far from done.
    let load = engine.load();
    assert!(load.active + load.queued >= 9, "{load:?}");
    drop(many);
}

#[tokio::test]
async fn what_cannot_be_in_time_is_refused_with_the_time_it_would_take() {
    let engine = engine(|o| o.streams = count(1));
    let ahead: Vec<_> = (0..6)
        .map(|_| engine.submit(Ask::new("long", 1500).job(&[])).unwrap())
        .collect();
    let mut late = Ask::new("late", 5).job(&[]);
    late.deadline = Some(Instant::now() + Duration::from_millis(5));
    let refused = engine.submit(late).unwrap_err();
    assert!(matches!(refused, SubmitError::TooLate { .. }), "{refused}");
    drop(ahead);
}
