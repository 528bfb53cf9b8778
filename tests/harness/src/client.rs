//! A client as the tests need it: whole answers, checked as they come.

use anyhow::Context as _;
use tiermesh_proto::v1;
use tiermesh_proto::v1::infer_event::Event;
use tiermesh_proto::v1::inference_client::InferenceClient;
use tonic::transport::Channel;
use tonic::{IntoRequest, Status, Streaming};
use tonic_types::StatusExt as _;

/// The inference API of a door.
pub type Client = InferenceClient<Channel>;

/// A client of the door at `endpoint`, on a connection of its own.
///
/// # Errors
/// When nobody listens there.
pub async fn client(endpoint: &str) -> anyhow::Result<Client> {
    Client::connect(endpoint.to_owned())
        .await
        .with_context(|| format!("nobody answers at {endpoint}"))
}

/// A request for `text`, at most `max_tokens` long, with everything else at
/// the door's defaults.
#[must_use]
pub fn prompt(text: &str, max_tokens: u32) -> v1::InferRequest {
    v1::InferRequest {
        content: Some(v1::infer_request::Content::Prompt(text.to_owned())),
        sampling: Some(v1::Sampling {
            max_tokens: Some(max_tokens),
            ..v1::Sampling::default()
        }),
        ..v1::InferRequest::default()
    }
}

/// What came of an answer so far.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Every `Accepted`, in order: one more for each time it went elsewhere.
    pub accepted: Vec<v1::Accepted>,
    /// Every place where it went on from somewhere else.
    pub seams: Vec<v1::Seam>,
    /// Every token, in order.
    pub tokens: Vec<v1::Token>,
    /// The last event, of a whole answer.
    pub done: Option<v1::Done>,
}

impl Answer {
    /// The text so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.tokens
            .iter()
            .map(|token| token.text.as_str())
            .collect()
    }

    /// The ids of the tokens so far.
    #[must_use]
    pub fn ids(&self) -> Vec<Option<u32>> {
        self.tokens.iter().map(|token| token.id).collect()
    }

    /// Where it was, or is, answered.
    #[must_use]
    pub fn decision(&self) -> v1::Decision {
        let last = self.accepted.last().cloned().unwrap_or_default();
        last.decision.unwrap_or_default()
    }
}

/// Reads a stream to its end. `Accepted` comes before the first token, tokens
/// have every number from 0 on, and `Done` comes last: what breaks this is
/// returned as `DATA_LOSS`.
///
/// # Errors
/// The status that ended it, with what came before.
pub async fn read(mut stream: Streaming<v1::InferEvent>) -> Result<Answer, (Status, Answer)> {
    let mut answer = Answer::default();
    loop {
        let event = match stream.message().await {
            Ok(Some(event)) => event.event,
            Ok(None) if answer.done.is_some() => return Ok(answer),
            Ok(None) => return Err((Status::data_loss("no Done"), answer)),
            Err(status) => return Err((status, answer)),
        };
        let in_order = answer.done.is_none();
        let fits = match event {
            Some(Event::Accepted(accepted)) => {
                answer.accepted.push(accepted);
                answer.tokens.is_empty()
            }
            Some(Event::Tokens(tokens)) => {
                let next = tokens.first_seq == answer.tokens.len() as u64;
                answer.tokens.extend(tokens.items);
                next && !answer.accepted.is_empty()
            }
            Some(Event::Done(done)) => {
                answer.done = Some(done);
                true
            }
            Some(Event::Seam(seam)) => {
                let here = seam.seq == answer.tokens.len() as u64;
                answer.seams.push(seam);
                here
            }
            Some(Event::Result(_)) | None => true,
        };
        if !fits || !in_order {
            return Err((Status::data_loss("the events are out of order"), answer));
        }
    }
}

/// Asks and reads the whole answer.
///
/// # Errors
/// The status it ended with, with what came before.
pub async fn ask(
    client: &mut Client,
    request: impl IntoRequest<v1::InferRequest>,
) -> Result<Answer, (Status, Answer)> {
    match client.infer(request).await {
        Ok(stream) => read(stream.into_inner()).await,
        Err(status) => Err((status, Answer::default())),
    }
}

/// The reason code of a status; empty when it has none.
#[must_use]
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info();
    info.map_or_else(String::new, |info| info.reason.clone())
}
