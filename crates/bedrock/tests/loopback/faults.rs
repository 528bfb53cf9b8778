//! Every fault of the stand-in, as the mesh sees it.

use crate::brain::{ask, cloud, read, standin};
use std::time::{Duration, Instant};
use tiermesh_bedrock::Fault;
use tiermesh_core::ErrorClass::{Exhausted, Internal, InvalidArgument, Unavailable};

#[tokio::test]
async fn refusals_keep_their_meaning() {
    let standin = standin(Duration::ZERO).await;
    let cloud = cloud(&standin).await;
    let cases = [
        (Fault::Throttle, Exhausted, "BEDROCK_THROTTLED"),
        (Fault::AccessDenied, Unavailable, "BEDROCK_ACCESS_DENIED"),
        (Fault::Validation, InvalidArgument, "BEDROCK_VALIDATION"),
        (Fault::ModelError, Internal, "BEDROCK_MODEL_ERROR"),
        (
            Fault::ServiceUnavailable,
            Unavailable,
            "BEDROCK_UNAVAILABLE",
        ),
        (Fault::Silence, Unavailable, "BEDROCK_TIMEOUT"),
    ];
    for (at, (fault, class, reason)) in cases.into_iter().enumerate() {
        standin.push_fault(fault);
        let refused = ask(&cloud).await.err().unwrap();
        assert_eq!(
            (refused.class, refused.reason),
            (class, reason),
            "{fault:?}"
        );
        assert!(refused.message.contains("stand-in"), "{}", refused.message);
        assert!(!refused.message.contains("arn:aws:iam"));
        assert_eq!(standin.requests(), at as u64 + 1, "the SDK must not retry");
        assert_eq!(cloud.active(), 0);
    }
    assert!(read(ask(&cloud).await.unwrap()).await.1.is_ok());
}

#[tokio::test]
async fn a_throttle_says_when_to_come_back() {
    let standin = standin(Duration::ZERO).await;
    let cloud = cloud(&standin).await;
    standin.push_fault(Fault::Throttle);
    let refused = ask(&cloud).await.err().unwrap();
    assert_eq!(refused.retry_after, Some(Duration::from_secs(2)));
    assert!(!refused.class.blames_the_node());
    // In mid-stream there is no header, so the wait is computed.
    for wait_ms in [500, 1_000] {
        standin.push_fault(Fault::InStreamThrottle(1));
        let (_, end) = read(ask(&cloud).await.unwrap()).await;
        let wait = end.unwrap_err().retry_after;
        assert_eq!(wait, Some(Duration::from_millis(wait_ms)));
    }
}

#[tokio::test]
async fn broken_streams_keep_their_text_and_name_the_break() {
    let standin = standin(Duration::ZERO).await;
    let cloud = cloud(&standin).await;
    let cases = [
        (
            Fault::InStreamThrottle(0),
            0,
            Exhausted,
            "BEDROCK_THROTTLED",
        ),
        (
            Fault::InStreamThrottle(2),
            2,
            Exhausted,
            "BEDROCK_THROTTLED",
        ),
        (
            Fault::InStreamModelError(1),
            1,
            Internal,
            "BEDROCK_MODEL_ERROR",
        ),
        (Fault::CutAfter(0), 0, Unavailable, "STREAM_CUT"),
        (Fault::CutAfter(4), 4, Unavailable, "STREAM_CUT"),
        (Fault::ResetAfter(2), 2, Unavailable, "STREAM_BROKEN"),
        (Fault::StallAfter(3), 3, Unavailable, "STREAM_STALLED"),
    ];
    for (fault, said, class, reason) in cases {
        standin.push_fault(fault);
        let (texts, end) = read(ask(&cloud).await.unwrap()).await;
        let error = end.unwrap_err();
        assert_eq!((error.class, error.reason), (class, reason), "{fault:?}");
        assert_eq!(texts.len(), said, "{fault:?}");
        assert_eq!(cloud.active(), 0);
    }
    assert_eq!(standin.requests(), 7, "nothing was retried");
}

#[tokio::test]
async fn a_stall_is_found_by_the_idle_timer_and_not_before() {
    let standin = standin(Duration::ZERO).await;
    let cloud = cloud(&standin).await;
    standin.push_fault(Fault::StallAfter(1));
    let began = Instant::now();
    let (_, end) = read(ask(&cloud).await.unwrap()).await;
    assert_eq!(end.unwrap_err().reason, "STREAM_STALLED");
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_slow_first_token_within_the_idle_time_is_only_slow() {
    let standin = standin(Duration::ZERO).await;
    let cloud = cloud(&standin).await;
    standin.push_fault(Fault::SlowFirstToken(150));
    let (texts, end) = read(ask(&cloud).await.unwrap()).await;
    assert_eq!(texts.len(), 4);
    assert!(end.unwrap().first_token.unwrap() >= Duration::from_millis(150));
}

#[tokio::test]
async fn an_answer_without_a_bill_is_accounted_at_its_upper_bound() {
    let standin = standin(Duration::ZERO).await;
    let cloud = cloud(&standin).await;
    standin.push_fault(Fault::NoUsage);
    let (texts, end) = read(ask(&cloud).await.unwrap()).await;
    let done = end.unwrap();
    assert_eq!(done.usage.output_tokens, texts.concat().len() as u64);
    assert!(done.usage.input_tokens > 30 && done.cost.as_nanos() > 0);
}

#[tokio::test]
async fn a_standing_fault_holds_until_it_is_lifted() {
    let standin = standin(Duration::ZERO).await;
    let cloud = cloud(&standin).await;
    standin.set_fault(Some(Fault::ServiceUnavailable));
    for _ in 0..3 {
        assert_eq!(ask(&cloud).await.err().unwrap().class, Unavailable);
    }
    standin.set_fault(None);
    assert!(read(ask(&cloud).await.unwrap()).await.1.is_ok());
    standin.shutdown().await;
    assert_eq!(ask(&cloud).await.err().unwrap().class, Unavailable);
}
