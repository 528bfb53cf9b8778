//! The advisor over Bedrock's client, against the stand-in.

use super::*;
use tiermesh_bedrock::{
    BedrockConfig, BedrockModel, CredentialSource, Fault, Standin, StandinHandle, StandinOptions,
    Wiring,
};
use tiermesh_core::{
    Done, EventStream, FinishReason, InferFuture, MonotonicClock, NodeId, Privacy, RawRequest,
    Token, Usage,
};
use tokio::net::TcpListener;

const MICRO: &str = "amazon.nova-micro-v1:0";
const LITE: &str = "amazon.nova-lite-v1:0";
const PRO: &str = "amazon.nova-pro-v1:0";
const SECRET: &str = "a prompt like no other";

/// Says what each model is to say.
struct Brain {
    class: &'static str,
    complexity: &'static str,
    pause: Duration,
}

fn says(text: &str, pause: Duration) -> EventStream {
    let token = Event::Tokens {
        first_seq: 0,
        items: vec![Token {
            text: text.to_owned(),
            id: None,
            logprob: None,
            detail: None,
        }],
    };
    let done = Event::Done(Box::new(Done {
        finish: FinishReason::Stop,
        usage: Usage {
            input_tokens: 100,
            output_tokens: 4,
        },
        cost: Usd::ZERO,
        first_token: None,
        total: Duration::ZERO,
        attempts: Vec::new(),
    }));
    let events = futures::stream::iter([Ok(token), Ok(done)]);
    Box::pin(events.then(move |event| async move {
        tokio::time::sleep(pause).await;
        event
    }))
}

impl Infer for Brain {
    fn infer(&self, _: Arc<Sealed<Request>>, context: Context) -> InferFuture<'_> {
        Box::pin(async move {
            let text = match context.model.unwrap().as_str() {
                "micro" => self.class,
                "lite" => self.complexity,
                _ => "CLOUD: it is long\nMEC: it is near\nDEVICE: it is small",
            };
            Ok(says(text, self.pause))
        })
    }
}

async fn standin(class: &'static str, complexity: &'static str, pause_ms: u64) -> StandinHandle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let names = [(MICRO, "micro"), (LITE, "lite"), (PRO, "pro")];
    let models = names.map(|(id, name)| (id.to_owned(), ModelId::new(name).unwrap()));
    let brain = Brain {
        class,
        complexity,
        pause: Duration::from_millis(pause_ms),
    };
    let options = StandinOptions {
        models: models.into(),
        keep_bodies: true,
    };
    Standin::start(listener, Arc::new(brain), options).unwrap()
}

fn model(id: &str) -> Option<BedrockModel> {
    Some(BedrockModel {
        id: ModelId::new(id).unwrap(),
        family: "nova".into(),
        model_id: id.into(),
        context_tokens: 100_000,
        quality: 0.5,
        input_usd_per_million: 1.0,
        output_usd_per_million: 1.0,
        priced_on: "2026-11-20".into(),
        first_token_ms: 300.0,
        decode_tok_s: 100.0,
        assistant_prefill: None,
    })
}

fn config() -> AdvisorConfig {
    AdvisorConfig {
        timeout_ms: 2_000,
        room: 5,
        cache: 4,
        max_usd_per_hour: 1.0,
        breaker_open_ms: 60_000,
        max_streams: 16,
        class: model(MICRO),
        complexity: model(LITE),
        plan: model(PRO),
    }
}

async fn advisor(standin: &StandinHandle, change: impl FnOnce(&mut AdvisorConfig)) -> Advisor {
    let mut config = config();
    change(&mut config);
    let bedrock = BedrockConfig {
        region: Some("us-east-1".into()),
        endpoint_url: Some(standin.endpoint_url()),
        ..BedrockConfig::default()
    };
    config.validate(Some(&bedrock)).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::new());
    let wiring = Wiring {
        credentials: CredentialSource::Standin,
        clock: clock.clone(),
        gateway: NodeId::new("gateway-1").unwrap(),
    };
    let client = BedrockCloud::connect(config.client(&bedrock), wiring);
    Advisor::new(&config, client.await.unwrap(), clock, 1)
}

fn request(name: &str, change: impl FnOnce(&mut RawRequest)) -> Arc<Sealed<Request>> {
    let mut raw = RawRequest {
        request_id: name.into(),
        user_id: "ann".into(),
        policy: "batch".into(),
        content: Some(Content::Prompt(SECRET.into())),
        ..RawRequest::default()
    };
    change(&mut raw);
    Arc::new(Sealed::new(raw.validate().unwrap()))
}

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));

fn asked_by(advisor: &Advisor) -> u64 {
    advisor.asked.load(Ordering::Relaxed)
}

/// What the estimate is after a look.
async fn looked(advisor: &Advisor, request: &Arc<Sealed<Request>>) -> f64 {
    advisor.look(request, &Context::default(), MINUTE).await;
    advisor.complexity(request.meta())
}

fn by_length(request: &Arc<Sealed<Request>>) -> f64 {
    PromptLength.complexity(request.meta())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_models_make_one_estimate_and_a_prompt_is_asked_once() {
    let standin = standin("code", "0.62", 0).await;
    let advisor = advisor(&standin, |_| {}).await;
    let first = request("r-1", |_| {});
    assert_eq!(advisor.complexity(first.meta()), by_length(&first));
    let told = looked(&advisor, &first).await;
    assert!((told - 0.72).abs() < 1e-9, "{told}");
    assert_eq!(standin.requests(), 3);
    assert!(standin.saw_bytes(SECRET));
    assert_eq!(looked(&advisor, &request("r-2", |_| {})).await, told);
    assert_eq!(
        (standin.requests(), asked_by(&advisor)),
        (3, 1),
        "it is kept"
    );
    // Of another user's prompt it says nothing.
    let other = request("r-3", |raw| raw.user_id = "bob".into());
    looked(&advisor, &other).await;
    assert_eq!(asked_by(&advisor), 2);
    // What is kept is bounded.
    for n in 0..20 {
        let next = request(&format!("n-{n}"), |raw| {
            raw.content = Some(Content::Prompt(format!("another {n}")));
        });
        looked(&advisor, &next).await;
    }
    let kept = advisor.lock();
    assert_eq!((kept.by_content.len(), kept.order.len()), (4, 4));
    assert_eq!((kept.by_request.len(), kept.requests.len()), (4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_may_not_travel_never_reaches_the_advisor() {
    let standin = standin("code", "0.62", 0).await;
    let advisor = advisor(&standin, |_| {}).await;
    let near = |privacy| request("r", |raw| raw.privacy = Some(privacy));
    let abroad = request("r", |raw| raw.residency = "ap-southeast-7".into());
    let scoped = Context {
        scope: PermitScope::only(Tier::Mec),
        ..Context::default()
    };
    for kept in [near(Privacy::Device), near(Privacy::Edge), abroad] {
        assert_eq!(looked(&advisor, &kept).await, by_length(&kept));
    }
    let open = request("r", |_| {});
    advisor.look(&open, &scoped, MINUTE).await;
    // As a policy tightens it, so it is asked for.
    let tightened = Arc::new(open.tightened(Privacy::Edge));
    looked(&advisor, &tightened).await;
    assert_eq!((standin.requests(), asked_by(&advisor)), (0, 0));
    assert!(!standin.saw_bytes(SECRET));
    // The question is as private as the request was.
    let home = request("r", |raw| {
        raw.privacy = Some(Privacy::Region);
        raw.residency = "us-east-1".into();
    });
    looked(&advisor, &home).await;
    assert_eq!(asked_by(&advisor), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_runs_only_where_the_deadline_leaves_room() {
    let standin = standin("code", "0.62", 0).await;
    let advisor = advisor(&standin, |_| {}).await;
    let asked = request("r", |_| {});
    for left in [0, 500, 9_999] {
        let left = Some(Duration::from_millis(left));
        advisor.look(&asked, &Context::default(), left).await;
    }
    assert_eq!(asked_by(&advisor), 0);
    advisor.look(&asked, &Context::default(), None).await;
    assert_eq!(asked_by(&advisor), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_and_absence_leave_the_estimate_to_the_length() {
    let standin = standin("I would rather not say", "very hard indeed", 0).await;
    let advisor = advisor(&standin, |_| {}).await;
    let asked = request("r", |_| {});
    assert_eq!(looked(&advisor, &asked).await, by_length(&asked));
    assert_eq!(asked_by(&advisor), 1);
    // Nothing was kept of it: it is asked again.
    looked(&advisor, &asked).await;
    assert_eq!(asked_by(&advisor), 2);
    for fault in [
        Fault::Throttle,
        Fault::CutAfter(0),
        Fault::ServiceUnavailable,
    ] {
        standin.set_fault(Some(fault));
        assert_eq!(looked(&advisor, &asked).await, by_length(&asked));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_advisor_is_cut_off_and_one_that_keeps_failing_left_alone() {
    let standin = standin("code", "0.62", 5_000).await;
    let advisor = advisor(&standin, |config| config.timeout_ms = 100).await;
    let asked = request("r", |_| {});
    let begun = tokio::time::Instant::now();
    assert_eq!(looked(&advisor, &asked).await, by_length(&asked));
    assert!(begun.elapsed() < Duration::from_secs(2));
    standin.set_fault(Some(Fault::ServiceUnavailable));
    for _ in 0..10 {
        looked(&advisor, &asked).await;
    }
    let tried = standin.requests();
    assert!(tried <= 3 * 6, "{tried}");
    looked(&advisor, &asked).await;
    assert_eq!(standin.requests(), tried, "its breakers are open");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_money_is_bounded() {
    let standin = standin("code", "0.62", 0).await;
    // Enough for a few questions, a hundred tokens each at a dollar a million.
    let advisor = advisor(&standin, |config| config.max_usd_per_hour = 0.001_2).await;
    for n in 0..20 {
        let next = request(&format!("n-{n}"), |raw| {
            raw.content = Some(Content::Prompt(format!("another {n}")));
        });
        looked(&advisor, &next).await;
    }
    let asked = standin.requests();
    assert!((3..=12).contains(&asked), "{asked}");
    assert!(advisor.lock().spent <= Usd::from_dollars(0.001_2).unwrap());
}

#[test]
fn a_configuration_that_cannot_be_is_named() {
    let bedrock = BedrockConfig {
        models: Vec::new(),
        ..BedrockConfig::default()
    };
    for (said, change) in [
        ("advisor.timeout_ms", |c: &mut AdvisorConfig| {
            c.timeout_ms = 1
        }),
        ("advisor.room", |c: &mut AdvisorConfig| c.room = 0),
        ("max_usd_per_hour", |c: &mut AdvisorConfig| {
            c.max_usd_per_hour = -1.0
        }),
        ("[advisor.class]", |c: &mut AdvisorConfig| {
            (c.class, c.complexity, c.plan) = (None, None, None);
        }),
        ("priced_on", |c: &mut AdvisorConfig| {
            c.plan.as_mut().unwrap().priced_on = "today".into();
        }),
    ] as [(&str, fn(&mut AdvisorConfig)); 5]
    {
        let mut config = config();
        change(&mut config);
        let error = config.validate(Some(&bedrock)).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    let error = config().validate(None).unwrap_err().to_string();
    assert!(error.contains("[bedrock]"), "{error}");
}
