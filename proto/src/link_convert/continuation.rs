//! What a Start says of an answer that others began.

use crate::convert::WireError;
use crate::link;
use tiermesh_core::{Continuation, ModelDigest, ModelId, NumericsId, Speaker};

/// The most emitted ids a Start carries: the longest answer.
const MAX_EMITTED: usize = tiermesh_core::request::MAX_OUTPUT_TOKENS as usize;
/// The most text of an answer a Start carries, in bytes.
const MAX_EMITTED_TEXT: usize = 128 * 1024;

/// What the client has already, checked.
pub(super) fn continuation(wire: &mut link::Start) -> Result<Continuation, WireError> {
    let ids = std::mem::take(&mut wire.emitted_ids);
    let number = |field, value: u64| {
        Err(WireError::Number {
            field,
            value: value.to_string(),
        })
    };
    if ids.len() > MAX_EMITTED {
        return number("start.emitted_ids", ids.len() as u64);
    }
    let text = std::mem::take(&mut wire.emitted_text);
    if text.len() > MAX_EMITTED_TEXT {
        return number("start.emitted_text", text.len() as u64);
    }
    // A sender that tells no count has told the ids.
    let tokens = match wire.emitted_tokens {
        0 => ids.len() as u64,
        tokens => tokens,
    };
    let fits = ids.is_empty() || ids.len() as u64 == tokens;
    if !fits || tokens > MAX_EMITTED as u64 {
        return number("start.emitted_tokens", tokens);
    }
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let speaker = Speaker {
        model: some(&wire.emitted_model).map(ModelId::new).transpose()?,
        digest: some(&wire.emitted_digest)
            .map(ModelDigest::new)
            .transpose()?,
        numerics_id: some(&wire.emitted_numerics_id)
            .map(NumericsId::new)
            .transpose()?,
    };
    Ok(Continuation {
        emitted_ids: ids,
        text,
        tokens,
        speaker: (speaker != Speaker::default()).then_some(speaker),
    })
}
