//! How each layer of a decoder attends: its window and its positions.

use super::decoder::Family;
use super::raw::{RawConfig, RawRope, RawRopes};
use super::rope::{Rope, RopeShape};
use super::{ConfigError, MAX_CONTEXT, range, unsupported, within};

/// Windows of Gemma 2 and 3 when the file has none, and Gemma 3's pattern.
const GEMMA_WINDOW: usize = 4096;
const GEMMA3_PATTERN: usize = 6;

/// SmolLM3's theta when the file has none, and how often it leaves positions out.
const SMOLLM3_THETA: f64 = 2e6;
const SMOLLM3_INTERVAL: usize = 4;

/// How a layer attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttentionKind {
    /// Positions a token sees, its own included; all if none.
    pub(crate) window: Option<usize>,
    /// Which of a decoder's ropes turns its queries and keys, if one does.
    pub(crate) rope: Option<usize>,
}

/// The ropes of all layers, the one of full attention first, and how many
/// positions they are right for.
pub(super) fn ropes(
    family: Family,
    raw: &RawConfig,
    head_dim: usize,
    context: usize,
) -> Result<(Vec<Rope>, usize), ConfigError> {
    let plain = RawRope::default();
    let (full, sliding) = match &raw.rope_parameters {
        Some(RawRopes::ByLayer {
            full_attention,
            sliding_attention,
        }) => (&**full_attention, sliding_attention.as_deref()),
        Some(RawRopes::All(rope)) => (&**rope, None),
        None => (raw.rope_scaling.as_ref().unwrap_or(&plain), None),
    };
    let build = |raw_rope: &RawRope, theta: Option<f64>| {
        let partial = raw_rope.partial_rotary_factor.or(raw.partial_rotary_factor);
        let turned = (head_dim as f64 * partial.unwrap_or(1.0)) as usize;
        if !(1..=head_dim).contains(&turned) || !turned.is_multiple_of(2) {
            let allowed = format!("an even part of head_dim, {head_dim}");
            return Err(range(
                "partial_rotary_factor",
                partial.unwrap_or(1.0),
                allowed,
            ));
        }
        let shape = RopeShape {
            dims: turned,
            theta,
            context,
            original: raw.original_max_position_embeddings,
        };
        Rope::build(raw_rope, shape)
    };
    let theta = raw.rope_theta.or(match family {
        Family::Gemma3 => Some(1e6),
        Family::SmolLm3 => Some(SMOLLM3_THETA),
        _ => None,
    });
    let (first, positions) = build(full, theta)?;
    if family != Family::Gemma3 {
        return Ok((vec![first], positions));
    }
    let (second, _) = build(sliding.unwrap_or(&plain), raw.rope_local_base_freq)?;
    Ok((vec![first, second], positions))
}

/// Which layers look through a window.
pub(super) fn layers(
    family: Family,
    raw: &RawConfig,
    count: usize,
    ropes: usize,
) -> Result<Vec<AttentionKind>, ConfigError> {
    let default = matches!(family, Family::Gemma2 | Family::Gemma3).then_some(GEMMA_WINDOW);
    let window = raw.sliding_window.or(default);
    let turned = turned(family, raw, count)?;
    let is_sliding = |layer: usize| match (&raw.layer_types, family) {
        (Some(types), _) => types
            .get(layer)
            .is_some_and(|kind| kind == "sliding_attention"),
        (None, Family::Mistral | Family::Phi3) => window.is_some(),
        (None, Family::Gemma2) => layer.is_multiple_of(2),
        (None, Family::Gemma3) => {
            let pattern = raw.sliding_window_pattern.unwrap_or(GEMMA3_PATTERN).max(1);
            !(layer + 1).is_multiple_of(pattern)
        }
        (None, Family::Qwen2 | Family::Qwen3) => {
            raw.use_sliding_window == Some(true) && layer >= raw.max_window_layers.unwrap_or(0)
        }
        (None, Family::SmolLm3) => {
            raw.use_sliding_window == Some(true) && window.is_some() && !turned[layer]
        }
        (None, Family::Llama | Family::Gemma) => false,
    };
    if let Some(types) = &raw.layer_types {
        let known =
            |kind: &&String| !matches!(kind.as_str(), "full_attention" | "sliding_attention");
        if let Some(other) = types.iter().find(known) {
            let supported = "full_attention, sliding_attention";
            return Err(unsupported("layer_types", other, supported));
        }
        if types.len() != count {
            let allowed = format!("{count} layers' types");
            return Err(range("layer_types", types.len(), allowed));
        }
    }
    (0..count)
        .map(|layer| match is_sliding(layer) {
            false => Ok(AttentionKind {
                window: None,
                rope: turned[layer].then_some(0),
            }),
            true => {
                let window = raw.needed("sliding_window", window)?;
                Ok(AttentionKind {
                    window: Some(within("sliding_window", window, MAX_CONTEXT)?),
                    rope: turned[layer].then_some(ropes - 1),
                })
            }
        })
        .collect()
}

/// Which layers turn queries and keys by their positions: all, but for SmolLM3.
fn turned(family: Family, raw: &RawConfig, count: usize) -> Result<Vec<bool>, ConfigError> {
    if family != Family::SmolLm3 {
        return Ok(vec![true; count]);
    }
    let Some(listed) = &raw.no_rope_layers else {
        let interval = raw.no_rope_layer_interval.unwrap_or(SMOLLM3_INTERVAL);
        let interval = within("no_rope_layer_interval", interval, MAX_CONTEXT)?;
        let turned = |layer: usize| !(layer + 1).is_multiple_of(interval);
        return Ok((0..count).map(turned).collect());
    };
    if listed.len() < count {
        let allowed = format!("a 0 or 1 for each of {count} layers");
        return Err(range("no_rope_layers", listed.len(), allowed));
    }
    // The name notwithstanding, 0 is a layer without.
    Ok(listed[..count].iter().map(|flag| *flag != 0).collect())
}
