//! The load: clients with a connection each, and what they saw.

use crate::node::{INSTANT, INTERVAL, PACED};
use crate::pacer::wall_us;
use anyhow::{Context as _, bail};
use std::time::Duration;
use tiermesh_proto::v1;
use tiermesh_proto::v1::infer_event::Event;
use tiermesh_proto::v1::inference_client::InferenceClient;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

/// Tokens of a short answer.
const SHORT: u32 = 2;

/// Clients of one way, connected once and kept.
pub(crate) struct Clients {
    clients: Vec<InferenceClient<Channel>>,
}

/// What clients saw, in microseconds.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// From the request to its first token.
    pub(crate) first_token: Vec<f64>,
    /// From the moment a token was due, first ones left out, to its arrival.
    pub(crate) token: Vec<f64>,
    /// Requests answered.
    pub(crate) requests: u64,
    /// Tokens of them.
    pub(crate) tokens: u64,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.first_token.extend(other.first_token);
        self.token.extend(other.token);
        self.requests += other.requests;
        self.tokens += other.tokens;
    }
}

impl Clients {
    /// Connects so many clients, and asks each something.
    pub(crate) async fn connect(endpoint: &str, count: usize) -> anyhow::Result<Self> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let mut client = InferenceClient::connect(endpoint.to_owned())
                .await
                .with_context(|| format!("cannot connect to {endpoint}"))?;
            ask(&mut client, INSTANT, SHORT, &mut Seen::default()).await?;
            clients.push(client);
        }
        Ok(Self { clients })
    }

    /// Every client streams `answers` paced answers of `tokens` each, one
    /// after the other. Clients begin an interval and a bit apart, so that
    /// first tokens do not queue behind each other.
    pub(crate) async fn stream(&self, answers: u32, tokens: u32) -> anyhow::Result<Seen> {
        let mut running = JoinSet::new();
        let began = Instant::now();
        for (number, client) in self.clients.iter().enumerate() {
            let mut client = client.clone();
            let from = began + INTERVAL * u32::try_from(number)?;
            running.spawn(async move {
                tokio::time::sleep_until(from).await;
                let mut seen = Seen::default();
                for _ in 0..answers {
                    ask(&mut client, PACED, tokens, &mut seen).await?;
                }
                anyhow::Ok(seen)
            });
        }
        together(running).await
    }

    /// The first `count` clients ask for short answers, one after the other,
    /// for so long.
    pub(crate) async fn hurry(&self, count: usize, span: Duration) -> anyhow::Result<Seen> {
        let mut running = JoinSet::new();
        let until = Instant::now() + span;
        for client in self.clients.iter().take(count) {
            let mut client = client.clone();
            running.spawn(async move {
                let mut seen = Seen::default();
                while Instant::now() < until {
                    ask(&mut client, INSTANT, SHORT, &mut seen).await?;
                }
                anyhow::Ok(seen)
            });
        }
        together(running).await
    }
}

async fn together(mut running: JoinSet<anyhow::Result<Seen>>) -> anyhow::Result<Seen> {
    let mut all = Seen::default();
    while let Some(seen) = running.join_next().await {
        all.add(seen??);
    }
    Ok(all)
}

async fn ask(
    client: &mut InferenceClient<Channel>,
    model: &str,
    tokens: u32,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    let request = v1::InferRequest {
        content: Some(v1::infer_request::Content::Prompt(
            "Tell me of a proxy that costs nothing.".into(),
        )),
        model: model.to_owned(),
        sampling: Some(v1::Sampling {
            max_tokens: Some(tokens),
            ..v1::Sampling::default()
        }),
        ..v1::InferRequest::default()
    };
    let began = Instant::now();
    let mut events = client.infer(request).await?.into_inner();
    let mut came = 0_u32;
    while let Some(event) = events.message().await? {
        let Some(Event::Tokens(batch)) = event.event else {
            continue;
        };
        let now = wall_us();
        for token in batch.items {
            if came == 0 {
                seen.first_token.push(began.elapsed().as_secs_f64() * 1e6);
            } else {
                // Clocks wrap; a token is never half an hour late.
                let late = now.wrapping_sub(token.id.unwrap_or(now));
                seen.token.push(f64::from(late.cast_signed()));
            }
            came += 1;
        }
    }
    if came != tokens {
        bail!("{came} tokens of {tokens} came from `{model}`");
    }
    seen.requests += 1;
    seen.tokens += u64::from(came);
    Ok(())
}
