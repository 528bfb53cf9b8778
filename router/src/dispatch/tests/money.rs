//! What answers cost, and who is stopped by it.

use super::fakes::{Step, World, candidate, computing, outline, request};
use crate::{BudgetLimits, HedgeRule, Options, Window};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tiermesh_core::{
    Account, CandidateState, Context, ErrorClass, Event, ModelOffer, Tier, Usd, UserId,
};

const FEW: Duration = Duration::from_millis(5);

/// A dollar for a million tokens written: a thousand billionths each.
fn priced(mut candidate: CandidateState) -> CandidateState {
    let mut offer = ModelOffer::clone(&candidate.model);
    offer.input_per_million = Usd::ZERO;
    offer.output_per_million = Usd::from_dollars(1.0).unwrap();
    candidate.model = Arc::new(offer);
    candidate
}

fn with_budget(tokens: u64, candidates: Vec<CandidateState>) -> World {
    let options = Options {
        budgets: BudgetLimits {
            user: Some(Window {
                most: Usd::from_nanos(tokens * 1_000),
                per: Duration::from_secs(3_600),
            }),
            ..BudgetLimits::default()
        },
        ..Options::default()
    };
    World::patient(Tier::Mec, candidates, options)
}

fn spent(world: &World) -> (u64, u64) {
    let now = world.time();
    let ann = UserId::new("ann").unwrap();
    let (settled, reserved) = world.dispatcher.ledger().of_user(&ann, now);
    (settled.as_nanos() / 1_000, reserved.as_nanos() / 1_000)
}

async fn answer(world: &World, max_tokens: u32) -> Vec<Result<Event, tiermesh_core::InferError>> {
    let asked = request("automotive", |r| r.max_tokens = Some(max_tokens));
    match world.ask(asked, Context::default()).await {
        Ok(stream) => stream.collect().await,
        Err(refusal) => vec![Err(refusal)],
    }
}

#[tokio::test(start_paused = true)]
async fn streams_at_once_share_a_budget_and_none_overshoots_it() {
    for streams in [1_u64, 16, 128] {
        let mut node = priced(candidate(Tier::Mec, "edge"));
        node.credits_free = 1_000;
        // Money for half of what they want.
        let budget = streams * 100;
        let world = with_budget(budget, vec![node]);
        world
            .node("edge")
            .script(vec![Step::Say(200, FEW), Step::End]);
        let answers = (0..streams).map(|_| answer(&world, 200));
        let answers = futures::future::join_all(answers).await;
        let refused = answers.iter().filter(|a| a.last().unwrap().is_err());
        for answer in refused {
            let error = answer.last().unwrap().as_ref().unwrap_err();
            assert_eq!(error.reason, "BUDGET_EXHAUSTED");
            assert!(error.retry_after.is_some());
        }
        let (settled, reserved) = spent(&world);
        assert!(settled <= budget, "{streams}: {settled} of {budget}");
        assert!(
            settled >= budget * 9 / 10,
            "{streams}: {settled} of {budget}"
        );
        assert_eq!((reserved, world.dispatcher.ledger().open()), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_over_a_seam_is_one_entry_and_paid_once() {
    let mut second = priced(computing(Tier::Mec, "b", "ab", "x"));
    second.load = 0.9;
    let world = with_budget(
        1_000,
        vec![priced(computing(Tier::Mec, "a", "ab", "x")), second],
    );
    let dies = vec![Step::Say(40, FEW), Step::Fail(ErrorClass::Unavailable)];
    world.node("a").script(dies);
    world.node("b").script(vec![Step::Say(100, FEW), Step::End]);
    let events = answer(&world, 100).await;
    let done = outline(&events).2.unwrap();
    assert_eq!(done.cost.as_nanos(), 100_000);
    assert_eq!(spent(&world), (100, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_owes_what_it_heard() {
    let world = with_budget(1_000, vec![priced(candidate(Tier::Mec, "edge"))]);
    world
        .node("edge")
        .script(vec![Step::Say(100, FEW), Step::End]);
    let asked = request("automotive", |r| r.max_tokens = Some(100));
    let mut stream = world.ask(asked, Context::default()).await.unwrap();
    let mut heard = 0;
    while heard < 10 {
        if let Event::Tokens { items, .. } = stream.next().await.unwrap().unwrap() {
            heard += items.len() as u64;
        }
    }
    assert!(spent(&world).1 >= 10);
    drop(stream);
    assert_eq!(spent(&world), (10, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_paid_is_refused_before_anybody_is_asked() {
    let world = with_budget(20, vec![priced(candidate(Tier::Mec, "edge"))]);
    let events = answer(&world, 100).await;
    let error = outline(&events).2.unwrap_err();
    assert_eq!(
        (error.class, error.reason),
        (ErrorClass::Exhausted, "BUDGET_EXHAUSTED")
    );
    assert_eq!(world.node("edge").called(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_account_has_one_entry_however_many_are_asked() {
    let window = |tokens: u64| Window {
        most: Usd::from_nanos(tokens * 1_000),
        per: Duration::from_secs(3_600),
    };
    let options = Options {
        budgets: BudgetLimits {
            key: Some(window(10_000)),
            tenants: [("acme".to_owned(), window(250))].into(),
            ..BudgetLimits::default()
        },
        hedge: HedgeRule {
            always: true,
            after: Some(FEW),
            tiers: Vec::new(),
        },
        ..Options::default()
    };
    let nodes = ["a", "b", "c"].map(|name| priced(computing(Tier::Mec, name, "ab", "x")));
    let world = World::patient(Tier::Mec, nodes.into(), options);
    for name in ["a", "b", "c"] {
        let dies = [Step::Wait(20 * FEW), Step::Say(40, FEW)];
        let lives = [Step::Wait(20 * FEW), Step::Say(100, FEW), Step::End];
        let steps = match name {
            "c" => lives.to_vec(),
            _ => [&dies[..], &[Step::Fail(ErrorClass::Unavailable)]].concat(),
        };
        world.node(name).script(steps);
    }
    let context = |tenant: &str| Context {
        account: Account {
            key: Some("web".into()),
            tenant: Some(tenant.into()),
        },
        ..Context::default()
    };
    let asked = || request("iot", |r| r.max_tokens = Some(100));
    for _ in 0..2 {
        let mut stream = world.ask(asked(), context("acme")).await.unwrap();
        while let Some(event) = stream.next().await {
            event.unwrap();
            assert!(world.dispatcher.ledger().open() <= 1);
        }
        assert_eq!(world.dispatcher.ledger().open(), 0);
    }
    let called: usize = ["a", "b", "c"].iter().map(|n| world.node(n).called()).sum();
    assert!(called > 2, "hedges and seams: {called}");
    let asked_with = |name: &str| world.node(name).calls.lock().unwrap().clone();
    for (_, told) in ["a", "b", "c"].into_iter().flat_map(asked_with) {
        assert_eq!(told.account.tenant.as_deref(), Some("acme"));
    }
    // Two answers of a hundred: a third would pass the tenant's window.
    let events = match world.ask(asked(), context("acme")).await {
        Ok(stream) => stream.collect().await,
        Err(refused) => vec![Err(refused)],
    };
    let refused = outline(&events).2.unwrap_err();
    assert_eq!(refused.reason, "BUDGET_EXHAUSTED");
    assert!(refused.message.contains("tenant `acme`"), "{refused}");
    assert!(world.ask(asked(), context("globex")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_a_hedges_loser_read_is_booked_in_the_same_entry() {
    let options = Options {
        budgets: BudgetLimits {
            user: Some(Window {
                most: Usd::from_dollars(1.0).unwrap(),
                per: Duration::from_secs(3_600),
            }),
            ..BudgetLimits::default()
        },
        hedge: HedgeRule {
            always: true,
            after: Some(10 * FEW),
            tiers: Vec::new(),
        },
        ..Options::default()
    };
    let mut costs = Vec::new();
    for first_token in [FEW, 100 * FEW] {
        let nodes = vec![
            priced(candidate(Tier::Mec, "edge")),
            candidate(Tier::Cloud, "cloud"),
        ];
        let world = World::patient(Tier::Mec, nodes, options.clone());
        let says = vec![Step::Wait(first_token), Step::Say(100, FEW), Step::End];
        world.node("edge").script(says);
        world.node("cloud").script(vec![Step::Hang]);
        let asked = request("iot", |r| r.max_tokens = Some(100));
        let prompt = u64::from(asked.meta().estimated_prompt_tokens());
        let stream = world.ask(asked, Context::default()).await.unwrap();
        let events: Vec<_> = stream.collect().await;
        let done = outline(&events).2.unwrap();
        let now = world.time();
        let ann = UserId::new("ann").unwrap();
        let (settled, reserved) = world.dispatcher.ledger().of_user(&ann, now);
        assert_eq!((settled, reserved), (done.cost, Usd::ZERO));
        assert_eq!(world.dispatcher.ledger().open(), 0);
        let hedged = world.node("cloud").called() as u64;
        // The provider bills what it read, at three dollars a million.
        costs.push((hedged, done.cost.as_nanos() - hedged * prompt * 3_000));
    }
    assert_eq!(costs, [(0, 100_000), (1, 100_000)]);
}
