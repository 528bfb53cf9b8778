use super::*;
use std::process::Command;
use tiermesh_core::{Content, Context, NodeId, RawRequest, RequestMeta, Snapshot, Time};
use tiermesh_decision::record::replay;
use tiermesh_decision::{Policies, Question, decide};

fn meta(n: u64) -> RequestMeta {
    let raw = RawRequest {
        request_id: format!("r-{n}"),
        user_id: "ann".into(),
        policy: "interactive".into(),
        content: Some(Content::Prompt("a secret".into())),
        ..RawRequest::default()
    };
    raw.validate().unwrap().meta
}

fn made(n: u64) -> Made {
    let (meta, policies) = (meta(n), Policies::builtin());
    let question = Question {
        meta: &meta,
        context: &Context::default(),
        policy: policies.require(&meta.policy).unwrap(),
        own: &NodeId::new("gateway").unwrap(),
        zone: None,
        complexity: None,
        prompt_tokens: None,
        answer: None,
        warm: &[],
        hold: None,
        now: Time::from_us(n),
        seed: n,
    };
    let nobody = Snapshot {
        epoch: 1,
        sequence: n,
        ..Snapshot::default()
    };
    let decided = decide(&question, &nobody);
    let decided = decided
        .as_ref()
        .map_err(|none| none.constraint.map(|c| c.code()));
    Made::of(&question, &nobody, &[], decided)
}

fn config(dir: &tempfile::TempDir) -> DecisionsConfig {
    DecisionsConfig {
        file: dir.path().join("decisions.jsonl"),
        max_mib: 1,
        keep: 2,
        queue: 64,
    }
}

const SOON: Duration = Duration::from_secs(20);

fn replayed(path: &Path) -> (u64, u64, u64) {
    let log = io::BufReader::new(File::open(path).unwrap());
    let policies = Policies::builtin();
    let same = replay(log, &policies, &policies).unwrap();
    (same.decisions, same.reproduced, same.lost)
}

#[test]
fn what_was_decided_is_in_the_file_once_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    for run in 1..=2_u64 {
        let log = DecisionLog::open(&config).unwrap();
        (0..20).for_each(|n| log.made(made(n)));
        assert!(log.close(SOON));
        assert_eq!(replayed(&config.file), (20 * run, 20 * run, 0));
        // Half a line, as a crash leaves it, is cut off.
        let mut file = OpenOptions::new().append(true).open(&config.file).unwrap();
        file.write_all(b"{\"kind\":\"deci").unwrap();
    }
    let text = std::fs::read_to_string(&config.file).unwrap();
    assert!(!text.contains("secret"));
}

#[test]
fn the_log_is_put_aside_when_it_is_long_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    let log = DecisionLog::open(&config).unwrap();
    let mut n = 0;
    let aside = |n: u32| dir.path().join(format!("decisions.jsonl.{n}"));
    let begun = Instant::now();
    while !(aside(2).exists() && std::fs::metadata(&config.file).is_ok_and(|m| m.len() > 9_000)) {
        n += 1;
        log.made(made(n));
        assert!(begun.elapsed() < Duration::from_secs(60));
        if n % 64 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert!(log.close(SOON));
    assert!(!aside(3).exists());
    for file in [config.file.clone(), aside(1), aside(2)] {
        let len = std::fs::metadata(&file).unwrap().len();
        assert!(len < (1 << 20) + 2 * GATHERED as u64, "{len}");
        let (decisions, reproduced, _) = replayed(&file);
        assert!(
            decisions > 0 && decisions == reproduced,
            "each is whole by itself"
        );
    }
}

#[test]
fn a_full_disk_loses_records_and_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    let full = DecisionsConfig {
        file: "/dev/full".into(),
        ..config(&dir)
    };
    let log = DecisionLog::open(&full).unwrap();
    log.made(made(1));
    assert!(log.close(SOON));
    assert_eq!(log.lost.load(Ordering::Relaxed), 1);
}

#[test]
fn a_disk_that_hangs_never_keeps_anybody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir);
    // A pipe that nobody reads takes some and then nothing more.
    let pipe = Command::new("mkfifo").arg(&config.file).status().unwrap();
    assert!(pipe.success());
    let log = DecisionLog::open(&config).unwrap();
    let begun = Instant::now();
    (0..3_000).for_each(|n| log.made(made(n)));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(log.lost() > 1_000, "{}", log.lost());
    assert!(!log.close(Duration::from_millis(50)), "it still hangs");
}

#[test]
fn values_out_of_range_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (key, change) in [
        ("decisions.max_mib", |c: &mut DecisionsConfig| c.max_mib = 0),
        ("decisions.queue", |c: &mut DecisionsConfig| c.queue = 1),
        ("decisions.keep", |c: &mut DecisionsConfig| c.keep = 101),
        ("decisions.file", |c: &mut DecisionsConfig| {
            c.file = "/".into()
        }),
    ] as [(&str, fn(&mut DecisionsConfig)); 4]
    {
        let mut config = config(&dir);
        assert!(config.validate().is_ok());
        change(&mut config);
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    let nowhere = DecisionsConfig {
        file: dir.path().join("no/such/place"),
        ..config(&dir)
    };
    let error = DecisionLog::open(&nowhere).err().unwrap();
    assert!(error.to_string().contains("decisions.file"), "{error}");
}
