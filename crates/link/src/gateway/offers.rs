//! When a node should hear its offers again.

use tiermesh_proto::link::Offer;

/// A time that changed by less than this factor changes no decision.
const FACTOR: f32 = 1.5;
/// Nor does one that changed by less than this, in milliseconds.
const SLACK_MS: f32 = 2.0;
/// Nor does a busy share that changed by less than this.
const LOAD: f32 = 0.25;

/// Whether `new` tells a node something that `old` did not. Measured values
/// move with every answer: telling each movement would wake every idle phone
/// every second.
pub(super) fn differ(old: &[Offer], new: &[Offer]) -> bool {
    old.len() != new.len()
        || old
            .iter()
            .zip(new)
            .any(|(old, new)| offer_differs(old, new))
}

fn offer_differs(old: &Offer, new: &Offer) -> bool {
    let first_token = |offer: &Offer| offer.state.map_or(0.0, |state| state.first_token_ms);
    let decode = |offer: &Offer| offer.state.map_or(0.0, |state| state.decode_tok_s);
    let same_place = old.node == new.node && old.tier == new.tier && old.region == new.region;
    !same_place
        || old.model != new.model
        || (old.credits_free == 0) != (new.credits_free == 0)
        || (old.load - new.load).abs() > LOAD
        || moved(first_token(old), first_token(new))
        || moved(old.rtt_ms, new.rtt_ms)
        || decode(old).max(decode(new)) > FACTOR * decode(old).min(decode(new))
}

fn moved(old: f32, new: f32) -> bool {
    (old - new).abs() > SLACK_MS && old.max(new) > FACTOR * old.min(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiermesh_proto::link::ModelState;

    fn offer(first_token_ms: f32, credits_free: u32) -> Offer {
        Offer {
            tier: 2,
            node: "edge-1".into(),
            credits_free,
            state: Some(ModelState {
                first_token_ms,
                decode_tok_s: 100.0,
                ..ModelState::default()
            }),
            ..Offer::default()
        }
    }

    #[test]
    fn small_movements_are_not_told_and_large_ones_are() {
        let before = [offer(10.0, 8)];
        assert!(!differ(&before, &[offer(11.5, 3)]));
        assert!(differ(&before, &[offer(30.0, 8)]));
        assert!(differ(&before, &[offer(10.0, 0)]));
        assert!(differ(&before, &[]));
        let mut elsewhere = offer(10.0, 8);
        elsewhere.node = "edge-2".into();
        assert!(differ(&before, &[elsewhere]));
    }
}
