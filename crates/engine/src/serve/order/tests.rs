use super::*;
use proptest::prelude::*;

fn standing(user: &str, ticket: u64) -> Standing {
    Standing {
        user: UserId::new(user).unwrap(),
        class: 0,
        risen: 0,
        deadline: None,
        ticket,
    }
}

#[test]
fn classes_come_first_then_deadlines_then_arrival() {
    let now = Instant::now();
    let mut standings = vec![
        standing("ann", 0),
        standing("ben", 1),
        standing("cat", 2),
        standing("dan", 3),
        standing("eve", 4),
    ];
    standings[2].deadline = Some(now + Duration::from_secs(9));
    standings[3].deadline = Some(now + Duration::from_secs(2));
    standings[4].class = 2;
    let order = Accounts::default().order(&standings);
    assert_eq!(order, [4, 3, 2, 0, 1]);
}

#[test]
fn a_users_many_streams_do_not_stand_before_anothers_first() {
    let mut standings: Vec<_> = (0..5).map(|ticket| standing("ann", ticket)).collect();
    standings.push(standing("ben", 9));
    let order = Accounts::default().order(&standings);
    assert_eq!(order, [0, 5, 1, 2, 3, 4]);
}

#[test]
fn who_comes_back_is_not_further_behind_than_those_who_stayed() {
    let mut accounts = Accounts::default();
    let (ann, ben) = (standing("ann", 0), standing("ben", 1));
    accounts.charge(&ann.user, 10_000);
    accounts.order(std::slice::from_ref(&ann));
    accounts.charge(&ann.user, 10);
    // Ben has never been served, and gets no ten thousand tokens' lead.
    accounts.charge(&ben.user, 200);
    assert_eq!(accounts.order(&[ben, ann]), [1, 0]);
}

/// Serves one token to each of the first `slots`, and counts by stream.
fn serve(
    accounts: &mut Accounts,
    standings: &mut [Standing],
    slots: usize,
    steps: u64,
) -> Vec<u64> {
    let mut served = vec![0; standings.len()];
    let mut waited = vec![0u64; standings.len()];
    for _ in 0..steps {
        for (standing, waited) in standings.iter_mut().zip(&waited) {
            standing.rise(Duration::from_millis(*waited));
        }
        let order = accounts.order(standings);
        for (place, index) in order.into_iter().enumerate() {
            if place < slots {
                accounts.charge(&standings[index].user, 1);
                served[index] += 1;
                waited[index] = 0;
                standings[index].risen = 0;
            } else {
                waited[index] += 100;
            }
        }
    }
    served
}

#[test]
fn a_heavier_user_gets_its_share_more() {
    let heavy = UserId::new("ann").unwrap();
    let mut accounts = Accounts::new(BTreeMap::from([(heavy, 3.0)]));
    let mut standings: Vec<_> = (0..16)
        .map(|ticket| standing(if ticket % 2 == 0 { "ann" } else { "ben" }, ticket))
        .collect();
    let served = serve(&mut accounts, &mut standings, 4, 4000);
    let of = |user: usize| served.iter().skip(user).step_by(2).sum::<u64>() as f64;
    let share = of(0) / of(1);
    assert!((2.8..3.2).contains(&share), "{share}");
}

proptest! {
    #[test]
    fn nobody_starves_and_equal_users_share_equally(
        users in prop::collection::vec((1usize..6, 0u8..4), 2..6), slots in 1usize..6,
    ) {
        let mut standings = Vec::new();
        for (user, (streams, class)) in users.iter().enumerate() {
            for _ in 0..*streams {
                let mut one = standing(&format!("u{user}"), standings.len() as u64);
                one.class = *class;
                standings.push(one);
            }
        }
        let served = serve(&mut Accounts::default(), &mut standings, slots, 6000);
        for (standing, served) in standings.iter().zip(&served) {
            prop_assert!(*served > 0, "stream {} of {} was never served", standing.ticket, standing.user);
        }
        // Two users of the most urgent class, with streams for every place,
        // share it. What the others get by waiting long goes by stream.
        let most = users.iter().map(|(_, class)| *class).max();
        for (a, (streams_a, class_a)) in users.iter().enumerate() {
            for (b, (streams_b, class_b)) in users.iter().enumerate() {
                if a < b && Some(*class_a) == most && class_a == class_b && streams_a.min(streams_b) >= &slots {
                    let of = |user: usize| {
                        let name = format!("u{user}");
                        let mine = standings.iter().zip(&served).filter(|(s, _)| s.user.as_str() == name);
                        mine.map(|(_, served)| *served).sum::<u64>()
                    };
                    let apart = of(a).abs_diff(of(b));
                    prop_assert!(apart <= 3 * SLICE as u64 + 60, "{} and {}", of(a), of(b));
                }
            }
        }
    }

    #[test]
    fn every_stream_has_one_place(tickets in prop::collection::vec((0u8..9, 0u8..4), 0..40)) {
        let standings: Vec<_> = tickets.iter().enumerate().map(|(ticket, (user, class))| {
            let mut one = standing(&format!("u{user}"), ticket as u64);
            one.class = *class;
            one
        }).collect();
        let mut order = Accounts::default().order(&standings);
        order.sort_unstable();
        prop_assert_eq!(order, (0..standings.len()).collect::<Vec<_>>());
    }
}
