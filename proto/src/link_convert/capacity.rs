//! What nodes report of themselves.

use super::WireError;
use crate::link;
use std::time::Duration;
use tiermesh_core::{CapacityReport, EngineCapacity, ModelState, PRIORITY_CLASSES, Residency};

/// A node that says it works on more streams than this at once is taken to
/// have said this.
const MAX_SLOTS: u32 = 10_000;

impl From<ModelState> for link::ModelState {
    fn from(state: ModelState) -> Self {
        Self {
            prefill_tok_s: state.prefill_tok_s,
            decode_tok_s: state.decode_tok_s,
            first_token_ms: state.first_token_ms,
            first_token_p99_ms: state.first_token_p99_ms,
            residency: match state.residency {
                Residency::Hot => link::Residency::Hot,
                Residency::Loading => link::Residency::Loading,
                Residency::Warm => link::Residency::Warm,
                Residency::Cold => link::Residency::Cold,
            } as i32,
            load_ms: state.load_ms,
            kv_tokens_free: state.kv_tokens_free,
            calibration_error: state.calibration_error,
        }
    }
}

impl From<link::ModelState> for ModelState {
    fn from(wire: link::ModelState) -> Self {
        Self {
            prefill_tok_s: wire.prefill_tok_s,
            decode_tok_s: wire.decode_tok_s,
            first_token_ms: wire.first_token_ms,
            first_token_p99_ms: wire.first_token_p99_ms,
            // A state that is unknown here is at least not in memory.
            residency: match wire.residency() {
                link::Residency::Hot => Residency::Hot,
                link::Residency::Loading => Residency::Loading,
                link::Residency::Warm => Residency::Warm,
                link::Residency::Cold => Residency::Cold,
            },
            load_ms: wire.load_ms,
            kv_tokens_free: wire.kv_tokens_free,
            calibration_error: wire.calibration_error,
        }
    }
}

impl From<EngineCapacity> for link::EngineCapacity {
    fn from(engine: EngineCapacity) -> Self {
        Self {
            queued_by_class: engine.queued_by_class.to_vec(),
            kv_used_kib: engine.kv_used_kib,
            kv_budget_kib: engine.kv_budget_kib,
            weights_kib: engine.weights_kib,
            prefix_hit_share: engine.prefix_hit_share,
            temperature_c: engine.temperature_c,
        }
    }
}

impl From<link::EngineCapacity> for EngineCapacity {
    fn from(wire: link::EngineCapacity) -> Self {
        let mut queued_by_class = [0; PRIORITY_CLASSES];
        for (class, queued) in queued_by_class.iter_mut().zip(wire.queued_by_class) {
            *class = queued;
        }
        Self {
            queued_by_class,
            kv_used_kib: wire.kv_used_kib,
            kv_budget_kib: wire.kv_budget_kib,
            weights_kib: wire.weights_kib,
            prefix_hit_share: wire.prefix_hit_share.clamp(0.0, 1.0),
            temperature_c: wire.temperature_c,
        }
    }
}

impl From<&CapacityReport> for link::CapacityDatagram {
    fn from(report: &CapacityReport) -> Self {
        Self {
            sequence: report.sequence,
            credits: report.credits,
            lease_ms: u32::try_from(report.lease.as_millis()).unwrap_or(u32::MAX),
            active: report.active,
            queued: report.queued,
            load: report.load,
            battery_percent: report.battery_percent.map(u32::from),
            engine: Some(report.engine.into()),
            models: report.models.iter().map(|m| (*m).into()).collect(),
            slots: report.slots,
        }
    }
}

impl TryFrom<link::CapacityDatagram> for CapacityReport {
    type Error = WireError;

    fn try_from(wire: link::CapacityDatagram) -> Result<Self, WireError> {
        if !(0.0..=1.0).contains(&wire.load) {
            return Err(WireError::Number {
                field: "capacity.load",
                value: wire.load.to_string(),
            });
        }
        Ok(Self {
            sequence: wire.sequence,
            credits: wire.credits,
            slots: wire.slots.min(MAX_SLOTS),
            lease: Duration::from_millis(u64::from(wire.lease_ms)),
            active: wire.active,
            queued: wire.queued,
            load: wire.load,
            battery_percent: wire
                .battery_percent
                .map(|p| u8::try_from(p.min(100)).unwrap_or(100)),
            engine: wire.engine.unwrap_or_default().into(),
            models: wire.models.into_iter().map(Into::into).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn with_slots(slots: u32) -> CapacityReport {
        CapacityReport {
            sequence: 7,
            credits: 8,
            slots,
            lease: Duration::from_secs(2),
            active: 3,
            queued: 1,
            load: 0.5,
            battery_percent: Some(80),
            engine: EngineCapacity::default(),
            models: vec![ModelState::default(); 2],
        }
    }

    fn read(bytes: &[u8]) -> CapacityReport {
        let wire = link::CapacityDatagram::decode(bytes).unwrap();
        wire.try_into().unwrap()
    }

    #[test]
    fn a_report_arrives_with_its_slots() {
        for slots in [0, 1, 32, MAX_SLOTS] {
            let sent = with_slots(slots);
            let bytes = link::CapacityDatagram::from(&sent).encode_to_vec();
            assert_eq!(read(&bytes), sent);
        }
    }

    #[test]
    fn a_peer_that_knows_no_slots_says_none() {
        // `sequence` 7, `credits` 8 and `load` 0.5: all that was ever in it.
        let bytes = [0x08, 7, 0x10, 8, 0x35, 0, 0, 0, 0x3f];
        let report = read(&bytes);
        assert_eq!((report.sequence, report.credits), (7, 8));
        assert_eq!((report.load, report.slots), (0.5, 0));
    }

    #[test]
    fn slots_beyond_belief_are_bounded() {
        for said in [MAX_SLOTS + 1, u32::MAX] {
            let bytes = link::CapacityDatagram::from(&with_slots(said)).encode_to_vec();
            assert_eq!(read(&bytes), with_slots(MAX_SLOTS));
        }
        // Ten bytes of a varint, more than 32 bits: whatever is read of it.
        let mut bytes = vec![0x50];
        bytes.extend([0xff; 9]);
        bytes.push(0x01);
        assert_eq!(read(&bytes).slots, MAX_SLOTS);
    }

    #[test]
    fn a_capacity_datagram_of_all_models_fits_its_bound() {
        let state = ModelState {
            prefill_tok_s: 1.0,
            decode_tok_s: 2.0,
            first_token_ms: 3.0,
            first_token_p99_ms: 4.0,
            residency: Residency::Warm,
            load_ms: 4_000_000,
            kv_tokens_free: u32::MAX,
            calibration_error: 0.25,
        };
        let report = CapacityReport {
            sequence: u64::MAX,
            credits: u32::MAX,
            slots: u32::MAX,
            lease: Duration::from_secs(4_000_000),
            active: u32::MAX,
            queued: u32::MAX,
            load: 1.0,
            battery_percent: Some(100),
            engine: EngineCapacity {
                queued_by_class: [u32::MAX; PRIORITY_CLASSES],
                kv_used_kib: u32::MAX,
                kv_budget_kib: u32::MAX,
                weights_kib: u32::MAX,
                prefix_hit_share: 0.5,
                temperature_c: Some(70.0),
            },
            models: vec![state; 24],
        };
        let bytes = link::CapacityDatagram::from(&report).encoded_len();
        assert!(bytes < 1100, "{bytes}");
    }
}
