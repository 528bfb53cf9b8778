//! Many models, and encoders, behind one queue.

use super::*;

fn artifact(directory: &std::path::Path, name: &str) -> ModelSource {
    let path = directory.join(name);
    let wanted = ImportOptions {
        name: Some(name.to_owned()),
        ..ImportOptions::new(Quantization::Q8)
    };
    import(&fixture("tiny-llama"), &path, &wanted, &mut |_| {
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    ModelSource {
        path,
        options: options(Quantization::Q8),
    }
}

#[tokio::test]
async fn models_beyond_the_budget_are_loaded_when_asked_for_and_others_go() {
    let directory = tempfile::tempdir().unwrap();
    let sources = ["a", "b", "c"].map(|name| artifact(directory.path(), name));
    let one = Engine::open(vec![sources[0].clone()], EngineOptions::default()).unwrap();
    let bytes = one.load().model_bytes;
    drop(one);
    let options = EngineOptions {
        model_bytes: 2 * bytes,
        ..EngineOptions::default()
    };
    let engine = Engine::open(sources.to_vec(), options).unwrap();
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
        let mut job = Ask::new("hello", 12).job(&[]);
        job.model = ModelId::new(name).unwrap();
        let (ids, ending) = read(engine.submit(job).unwrap()).await;
        ending.unwrap();
        assert_eq!(ids, expected, "{name}");
        assert!(engine.load().model_bytes <= 2 * bytes);
    }
    assert!(
        engine.load().models[2].load_ms > 0 || engine.load().models[2].residency == Residency::Hot
    );
    assert!(
        !engine.preload(&ModelId::new("a").unwrap()) || residency(&engine)[0] == Residency::Hot
    );
}

#[tokio::test]
async fn a_model_is_loaded_although_another_is_asked_for_all_the_time() {
    let directory = tempfile::tempdir().unwrap();
    let sources = ["a", "b"].map(|name| artifact(directory.path(), name));
    let one = Engine::open(vec![sources[0].clone()], EngineOptions::default()).unwrap();
    let bytes = one.load().model_bytes;
    drop(one);
    let options = EngineOptions {
        model_bytes: bytes,
        ..EngineOptions::default()
    };
    let engine = Engine::open(sources.to_vec(), options).unwrap();
    let job = |name: &str, tokens: u32| {
        let mut job = Ask::new("hello", tokens).job(&[]);
        job.model = ModelId::new(name).unwrap();
        job
    };
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
    let directory = tempfile::tempdir().unwrap();
    let sources = ["a", "b"].map(|name| artifact(directory.path(), name));
    let one = Engine::open(vec![sources[0].clone()], EngineOptions::default()).unwrap();
    let bytes = one.load().model_bytes;
    drop(one);
    let options = EngineOptions {
        model_bytes: bytes,
        ..EngineOptions::default()
    };
    let engine = Engine::open(sources.to_vec(), options).unwrap();
    std::fs::remove_file(sources[1].path.join("model.safetensors")).unwrap();
    let job = |name: &str| {
        let mut job = Ask::new("hello", 12).job(&[]);
        job.model = ModelId::new(name).unwrap();
        job
    };
    let (_, ending) = read(engine.submit(job("b")).unwrap()).await;
    assert_eq!(ending.unwrap_err(), StreamError::NotLoaded);
    let refused = engine.submit(job("b")).unwrap_err();
    assert!(matches!(refused, SubmitError::NotLoaded(_)), "{refused}");
    let (ids, ending) = read(engine.submit(job("a")).unwrap()).await;
    ending.unwrap();
    assert_eq!(ids.len(), 12);
}

#[tokio::test]
async fn encoders_share_the_queue_and_say_what_they_say_alone() {
    let path = fixture("families/bert");
    let source = ModelSource {
        path: path.clone(),
        options: options(Quantization::Q8),
    };
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
