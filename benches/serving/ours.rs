//! The engine's side: so many clients in one process.

use super::{Level, Request};
use futures::StreamExt as _;
use std::cell::RefCell;
use std::time::Instant;
use tiermesh_core::{Content, Task};
use tiermesh_engine::{Engine, Job, Output};

pub(crate) fn run(engine: &Engine, requests: &[Request], clients: usize) -> anyhow::Result<Level> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let level = RefCell::new(Level::default());
    let next = RefCell::new(requests.iter());
    let began = Instant::now();
    let client = || async {
        loop {
            let Some(request) = next.borrow_mut().next() else {
                return Ok::<_, anyhow::Error>(());
            };
            answer(engine, request, &level).await?;
        }
    };
    runtime.block_on(async {
        let clients = (0..clients).map(|_| client());
        futures::future::try_join_all(clients).await
    })?;
    let mut level = level.into_inner();
    level.wall_s = began.elapsed().as_secs_f64();
    Ok(level)
}

async fn answer(engine: &Engine, request: &Request, level: &RefCell<Level>) -> anyhow::Result<()> {
    let info = engine
        .models()
        .next()
        .expect("the engine was given a model");
    let content = Content::Prompt(request.text.clone());
    let job = Job::new(info.id.clone(), Task::Generate, content, request.tokens);
    let asked = Instant::now();
    let mut stream = engine.submit(job)?;
    let mut last: Option<Instant> = None;
    while let Some(output) = stream.next().await {
        let Output::Tokens { items, .. } = output? else {
            continue;
        };
        let now = Instant::now();
        let mut level = level.borrow_mut();
        level.tokens += items.len();
        match last {
            None => level.first_ms.push((now - asked).as_secs_f64() * 1e3),
            // Tokens that came together came after one another.
            Some(last) => {
                let each = (now - last).as_secs_f64() * 1e3 / items.len() as f64;
                level.between_ms.extend(items.iter().map(|_| each));
            }
        }
        last = Some(now);
    }
    Ok(())
}
