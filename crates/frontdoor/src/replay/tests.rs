use super::told::Told;
use super::*;
use tiermesh_core::{Done, FinishReason, NodeId, Usage, Usd};

fn said(first_seq: u64, texts: &[&str]) -> Event {
    let token = |(at, text): (usize, &&str)| Token {
        text: (*text).to_owned(),
        id: u32::try_from(first_seq + at as u64).ok(),
        logprob: None,
        detail: None,
    };
    Event::Tokens {
        first_seq,
        items: texts.iter().enumerate().map(token).collect(),
    }
}

fn done() -> Event {
    Event::Done(Box::new(Done {
        finish: FinishReason::Stop,
        usage: Usage {
            input_tokens: 1,
            output_tokens: 4,
        },
        cost: Usd::ZERO,
        first_token: None,
        total: Duration::ZERO,
        attempts: Vec::new(),
    }))
}

fn seam(seq: u64, kind: SeamKind) -> Event {
    Event::Seam(Seam {
        seq,
        from: NodeId::new("a").unwrap(),
        to: NodeId::new("b").unwrap(),
        kind,
    })
}

fn stream(events: Vec<Event>) -> EventStream {
    Box::pin(Told(events.into()))
}

/// Serves `events` to a client that then goes away.
async fn served(replays: &Arc<Replays>, id: u64, events: Vec<Event>) {
    let mut kept = replays.keep(id, stream(events), &Missed::default());
    while let Some(event) = futures::StreamExt::next(&mut kept).await {
        event.unwrap();
    }
}

fn texts(missed: &Missed) -> Vec<&str> {
    missed.tokens().map(|token| &*token.text).collect()
}

fn bounds(stream_bytes: usize, all_bytes: usize) -> Arc<Replays> {
    Replays::new(ReplayBounds {
        stream_bytes,
        all_bytes,
        kept: Duration::from_secs(10),
    })
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_is_told_from_any_token_on_until_it_is_forgotten() {
    let replays = bounds(4096, 1 << 20);
    let events = || vec![said(0, &["a", "b"]), said(2, &["c"]), said(3, &["d"])];
    served(&replays, 1, events()).await;
    for (from, rest) in [(0, "abcd"), (1, "bcd"), (2, "cd"), (4, "")] {
        let missed = replays.missed(1, from).unwrap();
        assert_eq!(texts(&missed).concat(), rest);
        assert_eq!((missed.next, missed.is_whole), (4, false));
        assert_eq!(missed.all().unwrap().len(), 4);
    }
    assert!(replays.missed(1, 5).is_none(), "more than was said");
    assert!(replays.missed(2, 0).is_none(), "another answer's");
    served(&replays, 1, [events(), vec![done()]].concat()).await;
    assert!(replays.missed(1, 4).unwrap().is_whole);
    tokio::time::advance(Duration::from_secs(9)).await;
    replays.sweep();
    assert!(replays.missed(1, 0).is_some());
    tokio::time::advance(Duration::from_secs(2)).await;
    replays.sweep();
    assert!(replays.missed(1, 0).is_none());
    assert_eq!(replays.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_long_answer_keeps_its_end_within_the_bound() {
    let replays = bounds(1000, 1 << 20);
    let events: Vec<_> = (0..200).map(|n| said(n, &["word"])).collect();
    served(&replays, 1, events).await;
    assert!(replays.held() <= 1000 + RECORD_BYTES);
    assert!(replays.missed(1, 0).is_none());
    let missed = replays.missed(1, 195).unwrap();
    assert_eq!(texts(&missed).len(), 5);
    assert!(missed.all().is_none(), "its beginning is gone");
}

#[tokio::test(start_paused = true)]
async fn all_answers_together_stay_within_the_bound_and_the_oldest_goes_first() {
    let each = RECORD_BYTES + weight(&said(0, &["word"]));
    let replays = bounds(4096, 10 * each);
    for id in 0..100 {
        served(&replays, id, vec![said(0, &["word"])]).await;
        assert!(replays.held() <= 10 * each, "{}", replays.held());
    }
    assert!(replays.missed(99, 0).is_some() && replays.missed(91, 0).is_some());
    assert!(replays.missed(80, 0).is_none());
    // Those that are being read stay, and what none has room for is not kept.
    let mut open: Vec<_> = (200..240)
        .map(|id| replays.keep(id, stream(vec![said(0, &["word"])]), &Missed::default()))
        .collect();
    for kept in &mut open {
        futures::StreamExt::next(kept).await.unwrap().unwrap();
    }
    assert!(replays.missed(200, 0).is_some());
    assert!(replays.missed(239, 0).is_none());
    drop(open);
    tokio::time::advance(Duration::from_secs(11)).await;
    replays.sweep();
    assert_eq!(replays.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn seams_are_told_again_and_what_was_discarded_is_not() {
    let replays = bounds(4096, 1 << 20);
    let events = vec![
        said(0, &["a"]),
        seam(1, SeamKind::SameModel),
        said(1, &["b"]),
        seam(2, SeamKind::Exact),
        said(2, &["c"]),
    ];
    served(&replays, 1, events).await;
    let missed = replays.missed(1, 1).unwrap();
    assert_eq!(missed.seam, Some(SeamKind::SameModel), "the weakest");
    assert_eq!((missed.events.len(), missed.kept.len()), (4, 5));
    let missed = replays.missed(1, 2).unwrap();
    assert_eq!(missed.events.len(), 2);
    served(
        &replays,
        2,
        vec![said(0, &["a"]), seam(1, SeamKind::Restart), said(1, &["b"])],
    )
    .await;
    assert!(replays.missed(2, 0).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_was_told_again_is_kept_for_the_next_loss() {
    let replays = bounds(4096, 1 << 20);
    served(&replays, 1, vec![said(0, &["a", "b"])]).await;
    let missed = replays.missed(1, 1).unwrap();
    let kept = replays.keep(1, stream(vec![said(2, &["c"]), done()]), &missed);
    let told = after_accepted(missed.events, Box::pin(kept));
    let told: Vec<_> = futures::StreamExt::collect(told).await;
    assert_eq!(
        told.len(),
        3,
        "what was missed, the rest, the end: {told:?}"
    );
    assert!(matches!(&told[0], Ok(Event::Tokens { first_seq: 1, .. })));
    let missed = replays.missed(1, 0).unwrap();
    assert_eq!(texts(&missed), ["a", "b", "c"]);
    assert!(missed.is_whole);
    // The first record's bytes were given back.
    tokio::time::advance(Duration::from_secs(11)).await;
    replays.sweep();
    assert_eq!(replays.held(), 0);
}
