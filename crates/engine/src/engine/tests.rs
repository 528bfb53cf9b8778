use std::num::NonZeroUsize;
use std::path::PathBuf;

use futures::StreamExt;

use tiermesh_core::{Content, FinishReason, Task, Token, UserId};

use super::*;
use crate::artifact::Quantization;
use crate::kernel::KernelChoice;
use crate::loaded::LoadOptions;
use crate::sampler::{SamplingOptions, SamplingParams};
use crate::serve::sequence::Plan;
use crate::stream::{Finished, Output, StreamError};

pub(crate) fn tiny_engine(queue_capacity: usize) -> Engine {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-llama");
    let kernel = KernelChoice::Auto.resolve().unwrap();
    let options = LoadOptions::new(kernel, Quantization::Q8);
    let model = Model::load(&directory, options).unwrap();
    Engine::start(
        vec![model],
        EngineOptions {
            queue_capacity,
            streams: NonZeroUsize::MIN,
            ..EngineOptions::default()
        },
    )
    .unwrap()
}

fn job(max_tokens: u32) -> Job {
    Job {
        model: ModelId::new("tiny-llama").unwrap(),
        content: Content::Prompt("once upon a time".into()),
        emitted: Vec::new(),
        sampling: SamplingParams::new(SamplingOptions {
            temperature: 0.8,
            ..SamplingOptions::default()
        })
        .unwrap(),
        seed: 7,
        max_tokens,
        stop: Vec::new(),
        user: UserId::new("ann").unwrap(),
        priority: 0,
        task: Task::Generate,
        constraint: None,
        first_token: None,
        deadline: None,
    }
}

/// As long as the context allows: some seconds unoptimised, never instant.
fn long_job() -> Job {
    job(2000)
}

/// Nothing that is less urgent goes before it.
fn urgent(job: Job) -> Job {
    Job { priority: 3, ..job }
}

async fn read(mut stream: TokenStream) -> (Vec<Token>, Result<Finished, StreamError>) {
    let mut tokens: Vec<Token> = Vec::new();
    let mut first = None;
    loop {
        match stream.next().await.expect("a stream ends with an ending") {
            Ok(Output::Tokens { first_seq, items }) => {
                let start = *first.get_or_insert(first_seq);
                assert_eq!(
                    first_seq,
                    start + tokens.len() as u64,
                    "numbers have no gap"
                );
                assert!(!items.is_empty());
                tokens.extend(items);
            }
            Ok(Output::Finished(finished)) => {
                assert!(stream.next().await.is_none());
                return (tokens, Ok(finished));
            }
            Ok(Output::Result(_)) => panic!("text comes as tokens"),
            Err(error) => return (tokens, Err(error)),
        }
    }
}

fn ids(tokens: &[Token]) -> Vec<u32> {
    tokens.iter().filter_map(|token| token.id).collect()
}

#[tokio::test]
async fn an_answer_streams_and_ends_with_its_usage() {
    let engine = tiny_engine(4);
    let (tokens, finished) = read(engine.submit(job(50)).unwrap()).await;
    let finished = finished.unwrap();
    assert_eq!((tokens.len(), finished.output_tokens), (50, 50));
    assert_eq!(finished.reason, FinishReason::Length);
    assert!(finished.prompt_tokens > 2);
    assert!(finished.first_token.unwrap() <= finished.total);
    let text: String = tokens.iter().map(|token| token.text.as_str()).collect();
    assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
    assert_eq!(engine.load().active, 0);
}

#[tokio::test]
async fn a_cut_answer_goes_on_with_the_same_tokens_and_numbers() {
    let engine = tiny_engine(4);
    let (whole, _) = read(engine.submit(job(80)).unwrap()).await;
    for cut in [1, 40, 79] {
        let mut rest = job(80);
        rest.emitted = ids(&whole[..cut]);
        let mut stream = engine.submit(rest).unwrap();
        let Output::Tokens { first_seq, items } = stream.next().await.unwrap().unwrap() else {
            panic!("tokens come first");
        };
        assert_eq!(first_seq, cut as u64);
        let mut rest = items;
        rest.extend(read_more(stream).await);
        assert_eq!(rest, whole[cut..]);
    }
}

async fn read_more(mut stream: TokenStream) -> Vec<Token> {
    let mut tokens = Vec::new();
    while let Some(Ok(Output::Tokens { items, .. })) = stream.next().await {
        tokens.extend(items);
    }
    tokens
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_return() {
    let engine = tiny_engine(2);
    let streams: Vec<TokenStream> = (0..3)
        .map(|_| engine.submit(long_job()).expect("one runs, two wait"))
        .collect();
    while engine.load().active == 0 {
        std::thread::yield_now();
    }
    let before = Instant::now();
    let refused = engine.submit(long_job()).unwrap_err();
    assert!(before.elapsed() < Duration::from_millis(50));
    let SubmitError::Full {
        capacity,
        retry_after,
    } = refused
    else {
        panic!("{refused}")
    };
    assert_eq!(capacity, 2);
    // The rest of one long answer at the measured speed.
    let speed = f64::from(engine.load().models[0].decode_tok_s);
    let one = 2000.0 / speed;
    let expected = one * 0.2..one * 2.0;
    assert!(
        expected.contains(&retry_after.as_secs_f64()),
        "{retry_after:?} not in {expected:?}"
    );
    let load = engine.load();
    assert_eq!((load.queued, load.active), (2, 1));
    assert!(load.models[0].first_token_ms > 100.0 * one as f32);
    drop(streams);
    assert_eq!(
        engine.load().queued,
        0,
        "dropping a waiting stream frees its place at once"
    );
    let (tokens, _) = read(engine.submit(job(3)).unwrap()).await;
    assert_eq!(tokens.len(), 3);
}

#[tokio::test]
async fn a_dropped_stream_stops_at_its_next_step() {
    let engine = tiny_engine(4);
    let mut stream = engine.submit(long_job()).unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!(engine.load().active, 1);
    let mailbox = Arc::downgrade(&stream.mailbox);
    let step = Duration::from_secs_f32(1.0 / engine.load().models[0].decode_tok_s);
    let dropped = Instant::now();
    drop(stream);
    while engine.load().active > 0 || mailbox.strong_count() > 0 {
        assert!(
            dropped.elapsed() < step * 50 + Duration::from_millis(200),
            "it goes on"
        );
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_slow_reader_gets_batches_and_every_token() {
    let engine = tiny_engine(4);
    let mut slow = engine.submit(job(200)).unwrap();
    // The worker does not wait for it: the next answer is complete before the
    // slow reader begins.
    let (other, _) = read(engine.submit(job(5)).unwrap()).await;
    assert_eq!(other.len(), 5);
    let Output::Tokens {
        first_seq: 0,
        items,
    } = slow.next().await.unwrap().unwrap()
    else {
        panic!("tokens come first");
    };
    assert_eq!(items.len(), 200);
}

#[tokio::test]
async fn a_deadline_ends_a_running_and_a_waiting_stream() {
    let engine = tiny_engine(4);
    let due = |job: Job| Job {
        deadline: Some(Instant::now() + Duration::from_millis(100)),
        ..job
    };
    let running = engine.submit(due(long_job())).unwrap();
    let (tokens, ending) = read(running).await;
    assert_eq!(ending, Err(StreamError::Deadline));
    assert!(!tokens.is_empty(), "it gets the tokens so far");
    // What waits was promised a place by a forecast of short answers.
    let mut streams: Vec<_> = Vec::new();
    for _ in 0..64 {
        streams.push(engine.submit(job(1)).unwrap());
        read(streams.pop().unwrap()).await.1.unwrap();
    }
    let ahead = engine.submit(urgent(long_job())).unwrap();
    while engine.load().active == 0 {
        std::thread::yield_now();
    }
    let waiting = engine.submit(due(job(1))).unwrap();
    assert_eq!(read(waiting).await, (vec![], Err(StreamError::Deadline)));
    drop(ahead);
}

#[tokio::test]
async fn a_stream_that_waited_too_long_makes_room_for_another() {
    let engine = tiny_engine(1);
    for _ in 0..64 {
        read(engine.submit(job(1)).unwrap()).await.1.unwrap();
    }
    let _running = engine.submit(urgent(long_job())).unwrap();
    while engine.load().active == 0 {
        std::thread::yield_now();
    }
    let deadline = Instant::now() + Duration::from_millis(100);
    let late = engine.submit(Job {
        deadline: Some(deadline),
        ..job(1)
    });
    let late = late.unwrap();
    std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
    let _next = engine.submit(long_job()).expect("the late one is gone");
    assert_eq!(read(late).await, (vec![], Err(StreamError::Deadline)));
}

#[tokio::test]
async fn a_panic_fails_its_stream_and_not_the_thread() {
    let engine = tiny_engine(4);
    let mailbox = Mailbox::starting_at(0);
    let plan = Plan {
        // No submission gets such a token past its checks.
        prompt: vec![u32::MAX],
        emitted: Vec::new(),
        sampling: SamplingParams::GREEDY,
        seed: 0,
        max_tokens: 5,
        stop: Vec::new(),
        constraint: None,
    };
    let now = Instant::now();
    engine.queue.reserve().unwrap().enqueue(Entry {
        model: 0,
        work: Work::Plan(Box::new(plan)),
        standing: Standing {
            user: UserId::new("ann").unwrap(),
            class: 0,
            risen: 0,
            deadline: None,
            ticket: 0,
        },
        submitted: now,
        since: now,
        deadline: None,
        mailbox: Arc::clone(&mailbox),
        watch: Watch::new(now, 1),
        predicted: None,
    });
    let stream = TokenStream {
        mailbox,
        withdraw: None,
    };
    assert_eq!(read(stream).await, (vec![], Err(StreamError::Panicked)));
    assert_eq!(read(engine.submit(job(5)).unwrap()).await.0.len(), 5);
}

#[tokio::test]
async fn draining_finishes_what_runs_and_takes_nothing_new() {
    let engine = tiny_engine(4);
    let (running, waiting) = (
        engine.submit(job(100)).unwrap(),
        engine.submit(job(20)).unwrap(),
    );
    engine.drain(Duration::from_secs(60));
    assert_eq!(engine.submit(job(1)).unwrap_err(), SubmitError::Stopping);
    assert_eq!(read(running).await.0.len(), 100);
    assert_eq!(read(waiting).await.0.len(), 20);
}

#[tokio::test]
async fn dropping_the_engine_breaks_off_its_streams() {
    let engine = tiny_engine(4);
    let (running, waiting) = (
        engine.submit(long_job()).unwrap(),
        engine.submit(job(20)).unwrap(),
    );
    drop(engine);
    assert_eq!(read(running).await.1, Err(StreamError::Stopped));
    assert_eq!(read(waiting).await.1, Err(StreamError::Stopped));
}

#[test]
fn what_cannot_be_answered_is_refused_before_it_is_queued() {
    let engine = tiny_engine(4);
    let refused = |change: fn(&mut Job)| {
        let mut job = job(5);
        change(&mut job);
        engine.submit(job).unwrap_err()
    };
    let unknown = refused(|job| job.model = ModelId::new("other").unwrap());
    assert!(matches!(unknown, SubmitError::UnknownModel(_)));
    let long = refused(|job| job.content = Content::Prompt("~".repeat(3000)));
    assert!(
        matches!(long, SubmitError::PromptTooLong { context: 2048, .. }),
        "{long}"
    );
    let token = refused(|job| job.emitted = vec![304]);
    assert_eq!(
        token,
        SubmitError::UnknownToken {
            id: 304,
            vocab: 304
        }
    );
    let bias = refused(|job| {
        let options = SamplingOptions {
            logit_bias: vec![(303, 1.0), (304, 1.0)],
            ..SamplingOptions::default()
        };
        job.sampling = SamplingParams::new(options).unwrap();
    });
    assert_eq!(
        bias,
        SubmitError::UnknownBias {
            id: 304,
            vocab: 304
        }
    );
    assert_eq!(engine.load().queued, 0, "a refused job holds no place");
}
