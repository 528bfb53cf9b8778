use super::*;
use proptest::prelude::*;

fn at(ms: u64) -> Time {
    Time::from_us(ms * 1_000)
}

fn payer(user: &str) -> Payer {
    Payer {
        user: UserId::new(user).unwrap(),
        account: Account::default(),
    }
}

fn ledger(most: u64) -> Arc<Ledger> {
    Ledger::new(BudgetLimits {
        user: Some(Window {
            most: Usd::from_nanos(most),
            per: Duration::from_secs(3_600),
        }),
        ..BudgetLimits::default()
    })
}

fn nanos(n: u64) -> Usd {
    Usd::from_nanos(n)
}

#[test]
fn what_is_reserved_cannot_be_reserved_again_until_it_is_settled() {
    let ledger = ledger(100);
    let ann = payer("ann");
    let mut first = ledger.reserve(&ann, nanos(80), None, at(1)).unwrap();
    let refused = ledger.reserve(&ann, nanos(30), None, at(2)).unwrap_err();
    assert_eq!(refused.reason, "BUDGET_EXHAUSTED");
    assert_eq!(
        refused.retry_after,
        Some(Duration::from_millis(3_600_000 - 2))
    );
    // Another user's money is another's.
    ledger
        .reserve(&payer("bob"), nanos(30), None, at(2))
        .unwrap();
    first.settle(nanos(20), at(3));
    assert_eq!(ledger.of_user(&ann.user, at(3)), (nanos(20), nanos(0)));
    ledger.reserve(&ann, nanos(80), None, at(4)).unwrap();
}

#[test]
fn a_tenants_window_binds_all_its_users_and_keys() {
    let window = Window {
        most: nanos(100),
        per: Duration::from_secs(60),
    };
    let ledger = Ledger::new(BudgetLimits {
        tenant: Some(window),
        ..BudgetLimits::default()
    });
    let of = |user: &str| Payer {
        account: Account {
            tenant: Some("acme".into()),
            key: Some(user.to_owned()),
        },
        ..payer(user)
    };
    let _held = ledger.reserve(&of("ann"), nanos(60), None, at(0)).unwrap();
    let refused = ledger
        .reserve(&of("bob"), nanos(60), None, at(0))
        .unwrap_err();
    assert!(refused.message.contains("tenant"), "{refused}");
    ledger
        .reserve(&payer("eve"), nanos(60), None, at(0))
        .unwrap();
}

#[test]
fn each_budget_is_its_owners_and_its_own_goes_before_everybodys() {
    let per = |most| Window {
        most: nanos(most),
        per: Duration::from_secs(60),
    };
    let ledger = Ledger::new(BudgetLimits {
        user: Some(per(100)),
        users: BTreeMap::from([("ann".to_owned(), per(10))]),
        keys: BTreeMap::from([("web".to_owned(), per(50))]),
        tenants: BTreeMap::from([("acme".to_owned(), per(70))]),
        ..BudgetLimits::default()
    });
    let of = |user: &str, key: &str, tenant: &str| Payer {
        account: Account {
            tenant: Some(tenant.into()),
            key: Some(key.into()),
        },
        ..payer(user)
    };
    let refused = |payer: &Payer, first| {
        let error = ledger.reserve(payer, nanos(first), None, at(1_000));
        let error = error.unwrap_err();
        assert_eq!(error.retry_after, Some(Duration::from_secs(59)));
        let budget = error.metadata.iter().find(|(key, _)| *key == "budget");
        (budget.unwrap().1.clone(), error.message)
    };
    let (budget, message) = refused(&of("ann", "app", "other"), 11);
    assert_eq!(budget, "user:ann");
    assert!(message.contains("the user `ann`'s budget of"), "{message}");
    assert_eq!(refused(&of("bob", "app", "other"), 101).0, "user:bob");
    assert_eq!(refused(&of("bob", "web", "other"), 51).0, "key:web");
    assert_eq!(refused(&of("bob", "app", "acme"), 71).0, "tenant:acme");
    // A key and a tenant without a window of their own have none.
    let held = ledger.reserve(&of("bob", "app", "other"), nanos(100), None, at(0));
    // And the bob of another tenant is another bob.
    let other = ledger.reserve(&of("bob", "app", "third"), nanos(100), None, at(0));
    assert!(held.is_ok() && other.is_ok());
}

#[test]
fn one_request_never_costs_more_than_it_may() {
    let ledger = Ledger::new(BudgetLimits::default());
    let most = Some(nanos(100));
    assert!(
        ledger
            .reserve(&payer("ann"), nanos(101), most, at(0))
            .is_err()
    );
    let mut booking = ledger
        .reserve(&payer("ann"), nanos(10), most, at(0))
        .unwrap();
    booking.grow(nanos(10), nanos(100), at(1)).unwrap();
    let refused = booking.grow(nanos(100), nanos(101), at(2)).unwrap_err();
    assert_eq!(refused.reason, "BUDGET_EXHAUSTED");
}

#[test]
fn a_reservation_nobody_renews_expires_at_what_it_used() {
    let ledger = ledger(100);
    let ann = payer("ann");
    let mut forgotten = ledger.reserve(&ann, nanos(50), None, at(0)).unwrap();
    forgotten.grow(nanos(20), nanos(90), at(10)).unwrap();
    std::mem::forget(forgotten);
    assert!(ledger.reserve(&ann, nanos(50), None, at(60_000)).is_err());
    let late = at(10 + 120_000);
    ledger.reserve(&ann, nanos(80), None, late).unwrap();
    assert_eq!(ledger.of_user(&ann.user, late).0, nanos(20));
}

#[test]
fn a_new_window_begins_with_nothing_spent_and_with_what_is_still_reserved() {
    let ledger = ledger(100);
    let ann = payer("ann");
    ledger
        .reserve(&ann, nanos(60), None, at(0))
        .unwrap()
        .settle(nanos(60), at(1));
    let hour = 3_600_000;
    let held = ledger
        .reserve(&ann, nanos(40), None, at(hour - 1_000))
        .unwrap();
    let next = ledger.reserve(&ann, nanos(60), None, at(hour)).unwrap();
    assert!(ledger.reserve(&ann, nanos(1), None, at(hour)).is_err());
    drop((held, next));
    assert_eq!(ledger.open(), 0);
}

#[derive(Debug, Clone)]
enum Deed {
    Open(u64),
    Grow(usize, u64),
    Settle(usize, u64),
    Drop(usize),
    Forget(usize),
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0..50_u64).prop_map(Deed::Open),
        6 => (any::<usize>(), 0..30_u64).prop_map(|(n, more)| Deed::Grow(n, more)),
        2 => (any::<usize>(), 0..100_u64).prop_map(|(n, percent)| Deed::Settle(n, percent)),
        1 => any::<usize>().prop_map(Deed::Drop),
        1 => any::<usize>().prop_map(Deed::Forget),
        1 => (0..90_000_u64).prop_map(Deed::Wait),
    ]
}

proptest! {
    /// Whatever many streams do at once, what is settled and reserved never
    /// passes the budget, and nothing stays reserved in the end.
    #[test]
    fn the_budget_holds_and_nothing_leaks(deeds in proptest::collection::vec(deed(), 1..200)) {
        const MOST: u64 = 500;
        let ledger = ledger(MOST);
        let ann = payer("ann");
        let (mut open, mut ms) = (Vec::<Booking>::new(), 0);
        // What an answer costs whose reservation had expired is booked all
        // the same: it was spent. Others may have its money by then.
        let mut late = 0;
        let expired = |booking: &Booking, now: Time| match now.since(booking.seen) >= EXPIRES {
            true => booking.reserved,
            false => 0,
        };
        for deed in deeds {
            let now = at(ms);
            let count = open.len().max(1);
            match deed {
                Deed::Open(first) => open.extend(ledger.reserve(&ann, nanos(first), None, now).ok()),
                Deed::Grow(n, more) if !open.is_empty() => {
                    let booking = &mut open[n % count];
                    late += expired(booking, now);
                    let used = nanos(booking.reserved);
                    let next = nanos(booking.reserved + more);
                    if booking.grow(used, next, now).is_ok() {
                        prop_assert!(booking.covers(next));
                    }
                }
                Deed::Settle(n, percent) if !open.is_empty() => {
                    let mut booking = open.swap_remove(n % count);
                    late += expired(&booking, now);
                    let actual = booking.reserved * percent / 100;
                    booking.settle(nanos(actual), now);
                }
                Deed::Drop(n) if !open.is_empty() => {
                    let booking = open.swap_remove(n % count);
                    late += expired(&booking, now);
                }
                Deed::Forget(n) if !open.is_empty() => {
                    std::mem::forget(open.swap_remove(n % count));
                }
                Deed::Wait(more) => ms += more,
                _ => {}
            }
            let (settled, reserved) = ledger.of_user(&ann.user, at(ms));
            prop_assert!(settled.as_nanos() + reserved.as_nanos() <= MOST + late);
        }
        open.clear();
        let later = at(ms + 200_000);
        drop(ledger.reserve(&ann, nanos(0), None, later));
        prop_assert_eq!(ledger.open(), 0);
        prop_assert_eq!(ledger.of_user(&ann.user, later).1, nanos(0));
    }
}
