use std::time::Duration;

use tiermesh_core::{
    Continuity, Deadline, FinishReason, MonotonicClock, NodeId, Privacy, RawRequest, Tier, Time,
    UserId,
};

use super::*;
use crate::engine::tests::tiny_engine;

fn local(queue_capacity: usize) -> LocalInfer {
    let destination = Destination {
        tier: Tier::Device,
        region: None,
        node: NodeId::new("phone").unwrap(),
        owner: Some(UserId::new("ann").unwrap()),
    };
    let prices = Prices {
        input_per_million: Usd::from_nanos(1_000_000),
        output_per_million: Usd::from_nanos(2_000_000),
    };
    let engine = Arc::new(tiny_engine(queue_capacity));
    LocalInfer::new(engine, destination, prices, Arc::new(MonotonicClock::new()))
}

fn request(change: impl FnOnce(&mut RawRequest)) -> Arc<Sealed<Request>> {
    let mut raw = RawRequest {
        request_id: "r".into(),
        user_id: "ann".into(),
        policy: "interactive".into(),
        content: Some(tiermesh_core::Content::Prompt("hello there".into())),
        max_tokens: Some(12),
        ..RawRequest::default()
    };
    change(&mut raw);
    Arc::new(Sealed::new(raw.validate().unwrap()))
}

async fn refused(local: &LocalInfer, request: Arc<Sealed<Request>>, context: Context) -> Refusal {
    local
        .infer(request, context)
        .await
        .err()
        .expect("it is refused")
}

#[tokio::test]
async fn an_owner_gets_tokens_and_the_bill() {
    let local = local(4);
    let stream = local
        .infer(request(|_| {}), Context::default())
        .await
        .unwrap();
    let events: Vec<_> = stream.collect().await;
    let mut tokens = 0;
    for event in &events[..events.len() - 1] {
        let Ok(Event::Tokens { first_seq, items }) = event else {
            panic!("{event:?}")
        };
        assert_eq!(*first_seq, tokens);
        tokens += items.len() as u64;
    }
    let Some(Ok(Event::Done(done))) = events.last() else {
        panic!("no end")
    };
    assert_eq!(
        (done.usage.output_tokens, tokens, done.finish),
        (12, 12, FinishReason::Length)
    );
    assert_eq!(
        done.cost,
        local.offers()[0].cost(done.usage.input_tokens, 12)
    );
    assert_eq!(done.attempts[0].node.as_str(), "phone");
}

#[tokio::test]
async fn penalties_biases_and_log_probabilities_reach_the_sampler() {
    let local = local(4);
    let tokens = async |change: fn(&mut RawRequest)| {
        let stream = local.infer(request(change), Context::default()).await;
        let events: Vec<_> = stream.unwrap().collect().await;
        let mut tokens = Vec::new();
        for event in events {
            if let Ok(Event::Tokens { items, .. }) = event {
                tokens.extend(items);
            }
        }
        tokens
    };
    let plain = tokens(|_| {}).await;
    assert!(plain.iter().all(|token| token.logprob.is_none()));
    let told = tokens(|raw| raw.logprobs = Some(3)).await;
    let ids = |tokens: &[tiermesh_core::Token]| tokens.iter().map(|t| t.id).collect::<Vec<_>>();
    assert_eq!(ids(&told), ids(&plain), "being told changes nothing");
    assert!(
        told.iter()
            .all(|t| t.logprob.is_some() && t.detail.as_ref().unwrap().top.len() == 3)
    );
    let forced = tokens(|raw| raw.logit_bias = vec![(68, 100.0)]).await;
    assert!(forced.iter().all(|token| token.id == Some(68)));
    let penalised = tokens(|raw| {
        raw.logit_bias = vec![(68, 50.0), (70, 45.0)];
        raw.presence_penalty = Some(2.0);
        raw.frequency_penalty = Some(2.0);
    });
    assert!(penalised.await.iter().any(|token| token.id == Some(70)));
    let beyond = request(|raw| raw.logit_bias = vec![(9999, 1.0)]);
    let refusal = refused(&local, beyond, Context::default()).await;
    assert_eq!(refusal.metadata[0], ("field", "logit_bias".to_owned()));
}

#[tokio::test]
async fn content_opens_only_for_whom_the_permit_allows() {
    let local = local(4);
    let stranger = request(|raw| raw.user_id = "bob".into());
    let refusal = refused(&local, stranger, Context::default()).await;
    assert_eq!(refusal.class, ErrorClass::Forbidden);
    let private = request(|raw| raw.privacy = Some(Privacy::Device));
    assert!(local.infer(private, Context::default()).await.is_ok());
}

#[tokio::test]
async fn a_full_queue_is_exhausted_with_a_time_to_return() {
    let local = local(0);
    let long = || request(|raw| raw.max_tokens = Some(2000));
    let running = local.infer(long(), Context::default()).await.unwrap();
    let refusal = refused(&local, long(), Context::default()).await;
    assert_eq!(
        (refusal.class, refusal.reason),
        (ErrorClass::Exhausted, "QUEUE_FULL")
    );
    assert!(refusal.retry_after.unwrap() > Duration::ZERO);
    drop(running);
}

#[tokio::test]
async fn a_deadline_that_is_over_and_a_model_that_is_not_here_are_refused() {
    let local = local(4);
    tokio::time::sleep(Duration::from_millis(2)).await;
    let deadline = Deadline {
        first_token: None,
        total: Some(Time::from_us(1)),
    };
    let context = Context {
        deadline,
        ..Context::default()
    };
    assert_eq!(
        refused(&local, request(|_| {}), context).await.class,
        ErrorClass::DeadlineExceeded
    );
    let other = request(|raw| raw.model = "other".into());
    assert_eq!(
        refused(&local, other, Context::default()).await.reason,
        "MODEL_NOT_FOUND"
    );
    let embed = request(|raw| {
        raw.task = Some(tiermesh_core::Task::Embed);
        raw.continuity = Some(Continuity::Fail);
    });
    assert_eq!(
        refused(&local, embed, Context::default()).await.reason,
        "TASK_NOT_SUPPORTED"
    );
}
