//! A dispatcher that remembers, and tells its journal.

use super::fakes::{Step, candidate, computing, outline, request};
use super::remembering::{id, remembering, report};
use crate::Memory;
use futures::StreamExt;
use std::collections::BTreeSet;
use std::time::Duration;
use tiermesh_core::{
    Account, CandidateState, Content, Context, ErrorClass, Explain as _, Reason, Tier, Time,
};
use tiermesh_decision::Policies;
use tiermesh_decision::record::replay;

fn open_on(memory: &Memory, name: &str) -> (u32, u32) {
    let snapshot = memory.snapshot();
    let mut all = snapshot.candidates.iter();
    let found = all.find(|c| c.node.as_str() == name).unwrap();
    (found.outlook.open, found.credits_free)
}

fn slow() -> Vec<Step> {
    let pause = Step::Wait(Duration::from_millis(300));
    vec![pause, Step::Tokens(0, 5), Step::Done(5)]
}

#[tokio::test(start_paused = true)]
async fn a_node_slower_than_it_says_is_found_out() {
    let (world, memory, _) = remembering(vec![candidate(Tier::Mec, "edge-1")]);
    let asked = request("interactive", |_| {});
    let explain = || {
        let context = Context::default();
        world.dispatcher.explain(asked.meta(), &context).unwrap()
    };
    assert!(explain().first_token_ms < 50.0);
    for n in 0..12 {
        world.node("edge-1").script(slow());
        let now = world.time();
        let own = report(&candidate(Tier::Mec, "edge-1"), n + 2);
        memory.nodes(|tracker| tracker.report(&id("edge-1"), &own, 0.0, now));
        let events = world.all("interactive").await;
        outline(&events).2.unwrap();
    }
    let after = explain();
    assert!(after.first_token_ms > 250.0, "{after:?}");
    // Five tokens an answer, where sixteen may be asked for.
    assert!(after.total_ms < after.first_token_ms + 16.0 * 10.0);
    let model = after.model.clone();
    let known = memory.calibrated(&id("edge-1"), &model).unwrap();
    assert_eq!((known.answers, known.failed_share), (12.0, 0.0));
    assert!(known.ratio > 1.0 && known.within_p99 < 1.0, "{known:?}");
    assert!((250.0..400.0).contains(&known.first_token_p50_ms));
}

#[tokio::test(start_paused = true)]
async fn explaining_tells_every_candidates_chance() {
    let mut late = candidate(Tier::Mec, "edge-2");
    (late.state.first_token_ms, late.state.first_token_p99_ms) = (5_000.0, 6_000.0);
    let full = CandidateState {
        credits_free: 0,
        ..candidate(Tier::Mec, "edge-3")
    };
    let (world, memory, _) = remembering(vec![candidate(Tier::Mec, "edge-1"), late, full]);
    memory.nodes(|tracker| tracker.credits(&id("edge-3"), 0, Time::ZERO));
    let asked = request("interactive", |raw| raw.first_token_ms = Some(200));
    let told = world.dispatcher.explain(asked.meta(), &Context::default());
    let chances: Vec<_> = told
        .unwrap()
        .reasons
        .into_iter()
        .filter_map(|record| match record.reason {
            Reason::Chance { chance, .. } => Some((record.node.unwrap().to_string(), chance)),
            _ => None,
        })
        .collect();
    // Nobody can be sent to the third, so it has none.
    assert_eq!(chances.len(), 2, "{chances:?}");
    assert!(
        chances
            .iter()
            .any(|(node, c)| node == "edge-1" && *c > 0.99)
    );
    assert!(
        chances
            .iter()
            .any(|(node, c)| node == "edge-2" && *c < 0.01)
    );
}

#[tokio::test(start_paused = true)]
async fn every_stream_that_opened_is_closed_however_it_ended() {
    let nodes = vec![
        candidate(Tier::Mec, "edge-1"),
        candidate(Tier::Mec, "edge-2"),
    ];
    let (world, memory, kept) = remembering(nodes);
    let both = ["edge-1", "edge-2"];
    let none_open = |what: &str| {
        for node in both {
            assert_eq!(open_on(&memory, node), (0, 4), "{what}: {node}");
        }
    };
    // Answered.
    outline(&world.all("interactive").await).2.unwrap();
    none_open("answered");
    // Left half-way by the client.
    for node in both {
        world
            .node(node)
            .script(vec![Step::Tokens(0, 1), Step::Hang]);
    }
    let mut stream = world.open("interactive").await.unwrap();
    while !matches!(
        stream.next().await,
        Some(Ok(tiermesh_core::Event::Tokens { .. }))
    ) {}
    let open: u32 = both.iter().map(|node| open_on(&memory, node).0).sum();
    assert_eq!(open, 1);
    drop(stream);
    none_open("left");
    // Failed over, and failed for good.
    for node in both {
        world
            .node(node)
            .script(vec![Step::Fail(ErrorClass::Unavailable)]);
    }
    assert!(outline(&world.all("interactive").await).2.is_err());
    none_open("failed");
    // Refused at once.
    for node in both {
        world
            .node(node)
            .script(vec![Step::Refuse(ErrorClass::Exhausted)]);
    }
    let asked = request("interactive", |raw| raw.total_ms = Some(100));
    let context = Context::default();
    assert!(world.ask(asked, context).await.is_err());
    none_open("refused");
    let answered: Vec<_> = kept.outcomes().iter().map(|o| o.node.is_some()).collect();
    assert_eq!(answered, [true, false, false, false], "each is told once");
}

#[tokio::test(start_paused = true)]
async fn what_the_journal_heard_replays_bit_for_bit() {
    let nodes = vec![
        candidate(Tier::Device, "phone"),
        candidate(Tier::Mec, "edge-1"),
        candidate(Tier::Mec, "edge-2"),
        candidate(Tier::Cloud, "region"),
    ];
    let (world, _memory, kept) = remembering(nodes);
    for n in 0..40_u32 {
        let policy = ["interactive", "gaming", "batch", "healthcare"][n as usize % 4];
        for node in ["phone", "edge-1", "edge-2", "region"] {
            world.node(node).script(slow());
        }
        if n % 5 == 0 {
            world
                .node("edge-1")
                .script(vec![Step::Fail(ErrorClass::Unavailable)]);
            world
                .node("phone")
                .script(vec![Step::Fail(ErrorClass::Unavailable)]);
        }
        let asked = request(policy, |raw| raw.request_id = format!("r{n}"));
        let opened = world.ask(asked, Context::default()).await;
        let events: Vec<_> = opened.unwrap().collect().await;
        outline(&events).2.unwrap();
    }
    // One that nobody may answer.
    let asked = request("interactive", |raw| raw.model = "other".into());
    assert!(world.ask(asked, Context::default()).await.is_err());
    let log = kept.log.lock().unwrap().clone();
    let policies = Policies::builtin();
    let same = replay(log.as_bytes(), &policies, &policies).unwrap();
    assert!(same.decisions >= 41, "{same:?}");
    assert_eq!((same.reproduced, same.changed), (same.decisions, 0));
    assert_eq!((same.sides[0].refused, same.outcomes), (1, 40));
    assert!(!log.contains("title"), "a prompt is never in the log");
}

#[tokio::test(start_paused = true)]
async fn a_policys_priority_goes_with_the_request_and_what_goes_on_keeps_its_own() {
    let policies = include_str!("../../../decision/policies/builtin.toml").replace(
        "[policy.batch]",
        "[policy.urgent]\npriority = 3\ndeadline = \"steer\"\n\
         weights = { latency = 1, cost = 0, quality = 0, load = 0, energy = 0, preference = 0 }\n\
         preference = { DEVICE = 0, MEC = 0, CLOUD = 0 }\n[policy.batch]",
    );
    let (world, _, _) = remembering(vec![
        candidate(Tier::Mec, "edge-1"),
        candidate(Tier::Mec, "edge-2"),
    ]);
    let policies = Policies::parse(&policies).unwrap();
    world.dispatcher.set_policies(policies);
    for (policy, priority, kept) in [("urgent", 3, 3), ("interactive", 0, 0), ("urgent", 9, 9)] {
        let context = Context {
            priority,
            ..Context::default()
        };
        let opened = world.ask(request(policy, |_| {}), context).await.unwrap();
        let events: Vec<_> = opened.collect().await;
        let (asked, _, end) = outline(&events);
        end.unwrap();
        assert_eq!(world.node(asked[0]).context().priority, kept);
    }
    let breaks = vec![Step::Tokens(0, 1), Step::Fail(ErrorClass::Unavailable)];
    for node in ["edge-1", "edge-2"] {
        world.node(node).script(breaks.clone());
    }
    let asked = request("urgent", |raw| {
        raw.continuity = Some(tiermesh_core::Continuity::Prefill);
    });
    let opened = world.ask(asked, Context::default()).await.unwrap();
    let _: Vec<_> = opened.collect().await;
    let both = ["edge-1", "edge-2"].map(|node| world.node(node).context().priority);
    assert!(both.contains(&128), "{both:?}");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_runs_under_no_policy_that_is_not_its_own() {
    let (world, _, _) = remembering(vec![candidate(Tier::Mec, "edge-1")]);
    let text = "[tenants.acme]\ndefault = \"iot\"\nmay_use = [\"iot\"]\n";
    let policies = Policies::builtin().extended(text).unwrap();
    world.dispatcher.set_policies(policies);
    let by = |tenant: &str| Context {
        account: Account {
            tenant: Some(tenant.to_owned()),
            ..Account::default()
        },
        ..Context::default()
    };
    for (policy, tenant, refused) in [
        ("iot", "acme", false),
        ("interactive", "acme", true),
        ("interactive", "other", false),
    ] {
        let asked = request(policy, |_| {});
        let explained = world.dispatcher.explain(asked.meta(), &by(tenant));
        let answered = world.ask(asked, by(tenant)).await;
        assert_eq!(explained.is_err(), refused, "{policy} for {tenant}");
        match answered.err() {
            None => assert!(!refused),
            Some(error) => assert_eq!(error.reason, "POLICY_NOT_ALLOWED"),
        }
    }
}

fn beginning(end: &str) -> Content {
    let system = "You read product titles and answer with the brand alone. ".repeat(40);
    Content::Prompt(format!("{system}{end}"))
}

#[tokio::test(start_paused = true)]
async fn prompts_that_begin_alike_go_where_the_beginning_was_read_until_that_node_is_busy() {
    let edges = ["edge-1", "edge-2", "edge-3"].map(|name| candidate(Tier::Mec, name));
    let (world, memory, kept) = remembering(edges.to_vec());
    let at = |n: u32, end: &'static str| {
        request("interactive", |raw| {
            raw.request_id = format!("r{n}");
            raw.content = Some(beginning(end));
        })
    };
    let explain = |n: u32| {
        let asked = at(n, "next");
        let context = Context::default();
        let decision = world.dispatcher.explain(asked.meta(), &context).unwrap();
        decision.node.to_string()
    };
    // Nobody has read it: lots decide, and they fall on more than one.
    let spread: BTreeSet<_> = (0..24).map(explain).collect();
    assert!(spread.len() > 1, "{spread:?}");
    let stream = world
        .ask(at(100, "first"), Context::default())
        .await
        .unwrap();
    let events: Vec<_> = stream.collect().await;
    let home = outline(&events).0[0].to_owned();
    for n in 0..24 {
        assert_eq!(explain(n), home, "request {n}");
    }
    let log = kept.log.lock().unwrap().clone();
    assert!(!log.contains("product titles"));
    // Its node fills up: others read the beginning as well rather than wait.
    let busy = edges.iter().find(|c| c.node.as_str() == home).unwrap();
    let mut full = report(busy, 2);
    (full.load, full.queued, full.models[0].first_token_ms) = (1.0, 40, 4_000.0);
    full.models[0].first_token_p99_ms = 8_000.0;
    let now = world.time() + Duration::from_secs(2);
    memory.nodes(|tracker| {
        tracker.report(&busy.node, &full, 0.0, now);
        for other in edges.iter().filter(|c| c.node != busy.node) {
            tracker.report(&other.node, &report(other, 2), 0.0, now);
        }
    });
    for n in 0..24 {
        assert_ne!(explain(n), home, "request {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_went_quiet_is_spared_until_it_reports() {
    let edges = ["a", "b"].map(|name| computing(Tier::Mec, name, "ab", "x"));
    let (world, memory, _) = remembering(edges.to_vec());
    let at = |n: u32| request("iot", |raw| raw.request_id = format!("r{n}"));
    let picked = |n: u32| {
        let decision = world.dispatcher.explain(at(n).meta(), &Context::default());
        decision.unwrap().node.to_string()
    };
    let both = |range: std::ops::Range<u32>| range.map(picked).collect::<BTreeSet<_>>();
    assert_eq!(both(0..24).len(), 2);
    let (home, few) = (picked(100), Duration::from_millis(5));
    let other = if home == "a" { "b" } else { "a" };
    world
        .node(&home)
        .script(vec![Step::Say(10, few), Step::Hang]);
    world
        .node(other)
        .script(vec![Step::Say(20, few), Step::End]);
    let stream = world.ask(at(100), Context::default()).await.unwrap();
    let events: Vec<_> = stream.collect().await;
    assert_eq!(outline(&events).1, 20);
    assert_eq!(both(0..24), [other.to_owned()].into());
    let quiet = edges.iter().find(|c| c.node.as_str() == home).unwrap();
    memory.nodes(|tracker| tracker.report(&quiet.node, &report(quiet, 2), 0.0, world.time()));
    assert_eq!(both(0..24).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn answers_are_as_long_as_those_to_the_customers_own_prompts_that_begin_alike() {
    let (world, memory, _) = remembering(vec![candidate(Tier::Mec, "edge-1")]);
    let of = |tenant: &str| Context {
        account: Account {
            tenant: Some(tenant.to_owned()),
            ..Account::default()
        },
        ..Context::default()
    };
    let asked = |template: &str, n: usize| {
        request("interactive", |raw| {
            let prompt = template.repeat(20) + &n.to_string();
            raw.content = Some(Content::Prompt(prompt));
        })
    };
    let (brief, long) = ("Answer me in one word. ", "Tell me all at length. ");
    for n in 0..20 {
        for (template, tokens) in [(brief, 2), (long, 14)] {
            let steps = vec![Step::Tokens(0, tokens), Step::Done(tokens)];
            world.node("edge-1").script(steps);
            let answer = world.ask(asked(template, n), of("acme")).await.unwrap();
            let events: Vec<_> = answer.collect().await;
            outline(&events).2.unwrap();
        }
    }
    let likely = |template: &str, tenant: &str| {
        let asked = asked(template, 99);
        memory
            .analysis(asked.meta(), &of(tenant))
            .answer
            .unwrap()
            .likely
    };
    assert!(likely(brief, "acme") <= 3, "{}", likely(brief, "acme"));
    assert!(likely(long, "acme") >= 12, "{}", likely(long, "acme"));
    // Nobody else learns from it what acme asks; both are as long.
    assert_eq!(likely(brief, "other"), likely(long, "other"));
}
