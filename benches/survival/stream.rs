//! One stream as a client reads it.

use anyhow::Context as _;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tiermesh_harness::client::{Client, prompt, reason};
use tiermesh_proto::v1;
use tiermesh_proto::v1::infer_event::Event;

/// An answer's tokens: what fits the model's context.
const TOKENS: u32 = 400;

/// What a client heard.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Which of the answers it asked for.
    pub(crate) which: usize,
    pub(crate) ids: Vec<Option<u32>>,
    /// A token's number came twice, or one was left out.
    pub(crate) duplicated: bool,
    pub(crate) seams: usize,
    /// Of those, the ones that do not promise the very tokens.
    pub(crate) inexact: usize,
    /// From the last token before a seam to the first after it.
    pub(crate) gaps_ms: Vec<f64>,
    /// How it ended, if not with its end.
    pub(crate) error: Option<String>,
}

/// The `which`-th request. The shipped model would end after a few words, so
/// its end is not let through.
pub(crate) fn request(model: &Path, which: usize) -> anyhow::Result<v1::InferRequest> {
    let config = std::fs::read(model.join("config.json")).context("a model has a config.json")?;
    let config: serde_json::Value = serde_json::from_slice(&config)?;
    let end = config["eos_token_id"].as_u64().context("the model's end")?;
    let mut request = prompt(&format!("title {which}: sony on-ear headphones"), TOKENS);
    "iot".clone_into(&mut request.policy);
    request.seed = Some(which as u64);
    if let Some(sampling) = &mut request.sampling {
        sampling.temperature = Some(0.9);
        sampling.logit_bias = [(u32::try_from(end)?, -100.0)].into();
    }
    Ok(request)
}

/// Which node speaks in each stream that is under way.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<usize, String>>);

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of one of the streams, drawn by `lot`.
    pub(crate) fn somebody(&self, lot: u64) -> Option<String> {
        let speaking = self.lock();
        let at = lot.checked_rem(speaking.len() as u64)?;
        speaking.values().nth(usize::try_from(at).ok()?).cloned()
    }
}

/// A stream's line on the board, wiped when it ends.
struct Line<'a>(&'a Board, usize);

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// Asks, and reads to the end, whatever it is.
pub(crate) async fn ask(
    mut client: Client,
    request: v1::InferRequest,
    which: usize,
    (board, stream_number): (&Board, usize),
) -> Heard {
    let line = Line(board, stream_number);
    let mut node = String::new();
    let mut heard = Heard {
        which,
        ..Heard::default()
    };
    let broken = |status: tonic::Status| {
        Some(format!(
            "{:?} {} {}",
            status.code(),
            reason(&status),
            status.message()
        ))
    };
    let mut stream = match client.infer(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => {
            heard.error = broken(status);
            return heard;
        }
    };
    let (mut last, mut at_seam) = (Instant::now(), None);
    loop {
        match stream.message().await {
            Ok(Some(event)) => match event.event {
                Some(Event::Tokens(tokens)) => {
                    if heard.ids.is_empty() {
                        line.0.lock().insert(line.1, node.clone());
                    }
                    heard.duplicated |= tokens.first_seq != heard.ids.len() as u64;
                    heard.ids.extend(tokens.items.iter().map(|token| token.id));
                    let now = Instant::now();
                    let gap: Option<Instant> = at_seam.take();
                    let ms = |since: Instant| (now - since).as_secs_f64() * 1e3;
                    heard.gaps_ms.extend(gap.map(ms));
                    last = now;
                }
                Some(Event::Seam(seam)) => {
                    heard.seams += 1;
                    let exact = seam.kind == v1::seam::Kind::Exact as i32;
                    heard.inexact += usize::from(!exact);
                    at_seam = Some(last);
                    line.0.lock().insert(line.1, seam.to);
                }
                Some(Event::Done(_)) => return heard,
                Some(Event::Accepted(accepted)) => {
                    node = accepted.decision.unwrap_or_default().node;
                }
                Some(Event::Result(_)) | None => {}
            },
            Ok(None) => {
                heard.error = Some("ended without its end".to_owned());
                return heard;
            }
            Err(status) => {
                heard.error = broken(status);
                return heard;
            }
        }
    }
}
