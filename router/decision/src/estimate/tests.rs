use super::*;
use crate::tests::world::{NOW, candidate, meta, policy};
use tiermesh_core::Context;

fn busy(open: u32, waiting: u32) -> CandidateState {
    let mut busy = candidate(Tier::Mec, "edge", 10.0);
    busy.rtt_ms = 0.0;
    busy.outlook = Outlook {
        slots: 4,
        open,
        waiting,
        waiting_ms: 1_000.0 * waiting as f32,
        running_ms: 800.0,
        spread: 1.0,
        base_ms: 10.0,
        ..Outlook::default()
    };
    busy
}

fn of(candidate: &CandidateState, warm: u32) -> Estimate {
    let policy = policy("interactive");
    let limits = Limits::of(&meta(|_| {}), &Context::default(), &policy, NOW);
    Estimate::of(&limits, &policy, candidate, NOW, (warm, Some(u32::MAX)))
}

#[test]
fn a_free_slot_means_no_wait_and_a_queue_means_its_length() {
    let idle = of(&busy(3, 0), 0).first_token_ms;
    assert!(idle < 30.0, "{idle}");
    let full = of(&busy(4, 0), 0).first_token_ms;
    assert!((full - idle - 200.0).abs() < 1.0, "{full}");
    let queued = of(&busy(10, 6), 0);
    assert!((queued.first_token_ms - idle - 200.0 - 1_500.0).abs() < 1.0);
    assert!(queued.first_token_p99_ms > queued.first_token_sure_ms - 1e-3);
    assert!(queued.first_token_p99_ms > 1.5 * queued.first_token_ms);
}

#[test]
fn what_is_at_hand_is_not_read_again() {
    let cold = of(&busy(0, 0), 0);
    let warm = of(&busy(0, 0), 1_000_000);
    assert!(warm.first_token_ms < cold.first_token_ms);
    assert!(warm.warm_share > 0.9 && warm.warm_share < 1.0);
}

#[test]
fn memory_beyond_a_slots_own_counts_half() {
    let mut node = busy(0, 0);
    let slot = of(&node, 0);
    node.outlook.kv_slot = slot.kv_tokens * 2;
    assert_eq!(of(&node, 0).hold_ms, slot.hold_ms);
    node.outlook.kv_slot = slot.kv_tokens / 3;
    let more = of(&node, 0).hold_ms / slot.hold_ms;
    assert!((more - 2.0).abs() < 0.1, "{more}");
}

#[test]
fn an_old_report_is_doubted() {
    let mut old = busy(4, 0);
    let fresh = of(&old, 0);
    old.outlook.reported_at = Some(Time::from_us(NOW.as_us() - 4_000_000));
    let doubted = of(&old, 0);
    assert_eq!(fresh.first_token_ms, doubted.first_token_ms);
    assert!(doubted.first_token_p99_ms > fresh.first_token_p99_ms);
    assert!(doubted.chance(400.0) < fresh.chance(400.0));
}

#[test]
fn normal_quantiles_are_the_textbooks() {
    for (share, z) in [
        (0.5, 0.0),
        (0.975, 1.959_964),
        (0.99, P99_Z),
        (0.01, -P99_Z),
    ] {
        assert!((normal_quantile(share) - z).abs() < 1e-5, "{share}");
    }
}
