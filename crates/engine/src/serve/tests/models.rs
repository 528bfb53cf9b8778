//! Many models, and encoders, behind one queue.

use super::*;

/// One checkpoint under these names, in a directory that is gone when dropped.
fn artifacts<const N: usize>(names: [&str; N]) -> (tempfile::TempDir, [ModelSource; N]) {
    let directory = tempfile::tempdir().unwrap();
    let sources = names.map(|name| {
        let path = directory.path().join(name);
        let wanted = ImportOptions {
            name: Some(name.to_owned()),
            ..ImportOptions::new(Quantization::Q8)
        };
        import(&fixture("tiny-llama"), &path, &wanted, &mut |_| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        ModelSource::new(path, options(Quantization::Q8))
    });
    (directory, sources)
}

/// Bytes that a model holds once it is loaded.
fn bytes(source: &ModelSource) -> u64 {
    let engine = Engine::open(vec![source.clone()], EngineOptions::default()).unwrap();
    engine.load().model_bytes
}

fn within(model_bytes: u64) -> EngineOptions {
    EngineOptions {
        model_bytes,
        ..EngineOptions::default()
    }
}

fn job(model: &str, tokens: u32) -> Job {
    Job {
        model: ModelId::new(model).unwrap(),
        ..Ask::new("hello", tokens).job(&[])
    }
}

#[tokio::test]
async fn models_beyond_the_budget_are_loaded_when_asked_for_and_others_go() {
    let (_directory, sources) = artifacts(["a", "b", "c"]);
    let bytes = bytes(&sources[0]);
    let engine = Engine::open(sources.to_vec(), within(2 * bytes)).unwrap();
    let residency = |engine: &Engine| -> Vec<Residency> {
        engine
            .load()
            .models
            .iter()
            .map(|state| state.residency)
            .collect()
    };
    assert_eq!(
        residency(&engine),
        [Residency::Hot, Residency::Hot, Residency::Warm]
    );
    let expected = Ask::new("hello", 12).alone(&Arc::new(tiny_q8()));
    for name in ["c", "a", "b", "c"] {
        let (ids, ending) = read(engine.submit(job(name, 12)).unwrap()).await;
        ending.unwrap();
        assert_eq!(ids, expected, "{name}");
        assert!(engine.load().model_bytes <= 2 * bytes);
    }
    assert!(engine.load().models[2].load_ms > 0);
    // `a` went for `b` or `c`, and comes without a request once there is room.
    let gone = residency(&engine)
        .iter()
        .position(|r| *r == Residency::Warm);
    let gone = ModelId::new(["a", "b", "c"][gone.unwrap()]).unwrap();
    assert!(!engine.preload(&gone), "a hint makes nobody else go");
    assert!(engine.preload(&ModelId::new("c").unwrap()), "it is there");
    assert!(!engine.preload(&ModelId::new("d").unwrap()));
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_hint_loads_a_model_that_fits_and_its_state_tells_how_long_that_takes() {
    let (_directory, sources) = artifacts(["a", "b"]);
    let options = within(2 * bytes(&sources[0]));
    let (_shelf, cold) = Shelf::of(&sources[1], Some(true));
    let engine = Engine::open(vec![sources[0].clone(), cold], options).unwrap();
    let state = || engine.load().models[1];
    assert_eq!(state().residency, Residency::Cold);
    let (cold, hot) = (
        state().first_token_ms,
        engine.load().models[0].first_token_ms,
    );
    assert!(cold > hot && cold.is_finite(), "{cold} {hot}");
    assert!(state().decode_tok_s > 0.0 && state().prefill_tok_s > 0.0);
    assert!(engine.preload(&ModelId::new("b").unwrap()));
    until("it is loaded", || state().residency == Residency::Hot);
    assert!(state().load_ms < 30_000 && state().first_token_ms < cold);
}

/// Where a model's weights are kept, and whether they can be had.
#[derive(Debug)]
struct Shelf {
    weights: Vec<u8>,
    to: PathBuf,
    /// None while nobody can say yet.
    open: std::sync::Mutex<Option<bool>>,
    asked: std::sync::atomic::AtomicUsize,
}

impl Shelf {
    /// Takes the weights away from a model's directory: it is had from here.
    fn of(source: &ModelSource, open: Option<bool>) -> (Arc<Self>, ModelSource) {
        let to = source.path.join("model.safetensors");
        let weights = std::fs::read(&to).unwrap();
        std::fs::remove_file(&to).unwrap();
        let shelf = Arc::new(Self {
            weights,
            to,
            open: std::sync::Mutex::new(open),
            asked: 0.into(),
        });
        let cold = ModelSource {
            remote: Some(shelf.clone()),
            ..source.clone()
        };
        (shelf, cold)
    }
}

impl crate::serve::models::Remote for Shelf {
    fn fetch(&self) -> Result<(), String> {
        self.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let open = loop {
            match *self.open.lock().unwrap() {
                Some(open) => break open,
                None => std::thread::yield_now(),
            }
        };
        match open {
            true => std::fs::write(&self.to, &self.weights).map_err(|e| e.to_string()),
            false => Err("the shelf is closed".to_owned()),
        }
    }
}

#[tokio::test]
async fn a_cold_model_is_fetched_for_the_first_request_which_is_told_when_to_come_again() {
    let (_directory, sources) = artifacts(["a", "b"]);
    let (shelf, cold) = Shelf::of(&sources[1], None);
    let engine = Engine::open(vec![sources[0].clone(), cold], EngineOptions::default()).unwrap();
    for _ in 0..3 {
        match engine.submit(job("b", 12)) {
            Err(SubmitError::Cold { retry_after, .. }) => assert!(retry_after > Duration::ZERO),
            other => panic!("{other:?}"),
        }
    }
    // Others go on meanwhile.
    let (ids, ending) = read(engine.submit(job("a", 12)).unwrap()).await;
    assert!(ids.len() == 12 && ending.is_ok());
    *shelf.open.lock().unwrap() = Some(true);
    until("it is fetched", || {
        engine.load().models[1].residency == Residency::Warm
    });
    let (again, ending) = read(engine.submit(job("b", 12)).unwrap()).await;
    assert!(ending.is_ok());
    assert_eq!(again, ids, "one checkpoint under two names");
    assert_eq!(shelf.asked.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[test]
fn a_cold_model_that_cannot_be_had_is_refused_for_a_while() {
    let (_directory, sources) = artifacts(["a", "b"]);
    let (shelf, cold) = Shelf::of(&sources[1], Some(false));
    let engine = Engine::open(vec![sources[0].clone(), cold], EngineOptions::default()).unwrap();
    let ask = || engine.submit(job("b", 12)).unwrap_err();
    assert!(matches!(ask(), SubmitError::Cold { .. }));
    until("it failed", || {
        matches!(ask(), SubmitError::NotLoaded { .. })
    });
    let asked = shelf.asked.load(std::sync::atomic::Ordering::SeqCst);
    assert!(
        matches!(ask(), SubmitError::NotLoaded { retry_after, .. } if retry_after > Duration::from_secs(20))
    );
    assert_eq!(shelf.asked.load(std::sync::atomic::Ordering::SeqCst), asked);
    assert_eq!(engine.load().models[1].residency, Residency::Cold);
}

#[tokio::test]
async fn a_model_is_loaded_although_another_is_asked_for_all_the_time() {
    let (_directory, sources) = artifacts(["a", "b"]);
    let options = within(bytes(&sources[0]));
    let engine = Engine::open(sources.to_vec(), options).unwrap();
    // Three streams of `a` follow one another without a pause.
    let busy = async {
        let follow = async || loop {
            let (ids, ending) = read(engine.submit(job("a", 400)).unwrap()).await;
            assert_eq!((ids.len(), ending.is_ok()), (400, true));
        };
        futures::future::join3(follow(), follow(), follow()).await
    };
    let other = read(engine.submit(job("b", 5)).unwrap());
    tokio::select! {
        _ = busy => unreachable!("it goes on for ever"),
        (ids, ending) = other => assert_eq!((ids.len(), ending.is_ok()), (5, true)),
    }
}

#[tokio::test]
async fn a_model_that_vanished_fails_its_requests_and_no_others() {
    let (_directory, sources) = artifacts(["a", "b"]);
    let options = within(bytes(&sources[0]));
    let engine = Engine::open(sources.to_vec(), options).unwrap();
    std::fs::remove_file(sources[1].path.join("model.safetensors")).unwrap();
    let (_, ending) = read(engine.submit(job("b", 12)).unwrap()).await;
    assert_eq!(ending.unwrap_err(), StreamError::NotLoaded);
    let refused = engine.submit(job("b", 12)).unwrap_err();
    assert!(
        matches!(refused, SubmitError::NotLoaded { .. }),
        "{refused}"
    );
    let (ids, ending) = read(engine.submit(job("a", 12)).unwrap()).await;
    ending.unwrap();
    assert_eq!(ids.len(), 12);
}

#[tokio::test]
async fn encoders_share_the_queue_and_say_what_they_say_alone() {
    let path = fixture("families/bert");
    let source = ModelSource::new(path.clone(), options(Quantization::Q8));
    let alone = crate::Embedder::load(&path, source.options).unwrap();
    let engine = Engine::open(vec![source], EngineOptions::default()).unwrap();
    let model = engine.models().next().unwrap().id.clone();
    let texts: Vec<String> = (1..12).map(|n| "hello world ".repeat(n)).collect();
    let open: Vec<_> = texts
        .iter()
        .map(|text| {
            let mut job = Ask::new(text, 1).job(&[]);
            job.model = model.clone();
            job.task = Task::Embed;
            engine.submit(job).unwrap()
        })
        .collect();
    for (mut stream, text) in open.into_iter().zip(&texts) {
        let Some(Ok(Output::Result(TaskResult::Embedding(vector)))) = stream.next().await else {
            panic!("an embedding comes first");
        };
        assert_eq!(vector, alone.embed(&[text]).unwrap()[0]);
        let Some(Ok(Output::Finished(finished))) = stream.next().await else {
            panic!("then the end");
        };
        assert!(finished.prompt_tokens > 2);
    }
    let mut job = Ask::new("hello", 1).job(&[]);
    job.model = model;
    job.task = Task::Chat;
    assert!(matches!(engine.submit(job), Err(SubmitError::Task { .. })));
}
