//! Somebody who looks at requests before they are decided.

use super::fakes::{Step, World, candidate, outline, request};
use crate::{Advise, Keeps, LookFuture, Options};
use futures::StreamExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tiermesh_core::{Context, Continuation, Privacy, Request, Sealed, Tier};

/// Takes its time, and notes what it was shown.
struct Looks {
    takes: Duration,
    seen: Mutex<Vec<(Privacy, Option<Duration>)>>,
}

impl Advise for Looks {
    fn look<'a>(
        &'a self,
        request: &'a Arc<Sealed<Request>>,
        _context: &'a Context,
        left: Option<Duration>,
    ) -> LookFuture<'a> {
        let privacy = request.meta().privacy;
        self.seen.lock().unwrap().push((privacy, left));
        Box::pin(tokio::time::sleep(self.takes))
    }
}

fn looking(takes_ms: u64) -> (World, Arc<Looks>) {
    let looks = Arc::new(Looks {
        takes: Duration::from_millis(takes_ms),
        seen: Mutex::default(),
    });
    let keeps = Keeps {
        adviser: Some(looks.clone()),
        ..Keeps::default()
    };
    let nodes = vec![candidate(Tier::Mec, "edge-1")];
    let world = World::keeping(Tier::Mec, nodes, Options::default(), keeps);
    (world, looks)
}

#[tokio::test(start_paused = true)]
async fn a_look_is_shown_the_policys_privacy_and_the_time_that_is_left() {
    let (world, looks) = looking(0);
    outline(&world.all("healthcare").await).2.unwrap();
    let asked = request("interactive", |raw| raw.total_ms = Some(400));
    let opened = world.ask(asked, Context::default()).await.unwrap();
    outline(&opened.collect::<Vec<_>>().await).2.unwrap();
    let ms = |ms| Some(Duration::from_millis(ms));
    let seen = looks.seen.lock().unwrap().clone();
    assert_eq!(seen, [(Privacy::Edge, ms(300)), (Privacy::Any, ms(400))]);
}

#[tokio::test(start_paused = true)]
async fn a_look_takes_its_part_of_the_deadline() {
    let (world, _) = looking(300);
    let pause = Step::Wait(Duration::from_millis(100));
    world
        .node("edge-1")
        .script(vec![pause, Step::Tokens(0, 1), Step::Done(1)]);
    let arrived = world.time();
    let events = world.all("interactive").await;
    let done = outline(&events).2.unwrap();
    assert_eq!(done.first_token, Some(Duration::from_millis(400)));
    let told = world.node("edge-1").context().deadline;
    assert_eq!(told.first_token, Some(arrived + Duration::from_millis(500)));
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_or_may_not_be_asked_is_not_looked_at() {
    let (world, looks) = looking(0);
    let goes_on = Context {
        continuation: Continuation::of_ids(vec![1, 2]),
        ..Context::default()
    };
    drop(world.ask(request("interactive", |_| {}), goes_on).await);
    let unknown = request("no-such-policy", |_| {});
    assert!(world.ask(unknown, Context::default()).await.is_err());
    assert!(looks.seen.lock().unwrap().is_empty());
}
