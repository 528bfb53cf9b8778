//! The command line, as people and scripts use it.

use crate::support::{EXE, run, text, tiny};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};

#[tokio::test(flavor = "multi_thread")]
async fn demo_tells_every_request_as_json_and_none_lands_wrong() {
    let model = tiny().display().to_string();
    let ended = run(&["demo", "--json", "--cloud", "standin", "--model", &model]).await;
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let mut requests = 0;
    let mut faults = 0;
    let mut summary = None;
    for line in text(&ended.stdout).lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect(line);
        match line["kind"].as_str() {
            Some("request") => {
                requests += 1;
                assert_eq!(line["landed_right"], true, "{line}");
                let answered = line["tokens"].as_u64().unwrap() > 0;
                assert!(answered != line["error"].is_object(), "{line}");
            }
            Some("fault") => faults += 1,
            Some("survived") => {
                assert_eq!(line["identical"], true, "{line}");
                assert_eq!(line["seams"][0]["kind"], "exact", "{line}");
            }
            Some("summary") => summary = Some(line),
            _ => panic!("an unknown kind of line: {line}"),
        }
    }
    let summary = summary.expect("the last line sums up");
    assert!(requests >= 12, "{requests} requests");
    assert!(faults >= 2, "{faults} faults");
    assert_eq!(summary["requests"], requests);
    assert_eq!(summary["landed_wrong"], 0);
}

/// Every process below `pid`.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|line| {
            let pids = line.split_whitespace().map(|pid| pid.parse().unwrap());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn up_serves_the_other_commands_and_leaves_nothing_behind() {
    let mut up = tokio::process::Command::new(EXE);
    up.args(["up", "--free-ports", "--cloud", "standin", "--model"])
        .arg(tiny())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut up = up.spawn().unwrap();
    let mut lines = BufReader::new(up.stdout.take().unwrap()).lines();
    let (mut gateway, mut logs) = (String::new(), PathBuf::new());
    let ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("cloud") if words.next() == Some("gateway") => {
                    words.next().unwrap().clone_into(&mut gateway);
                }
                Some("logs") => logs = words.next().unwrap().into(),
                Some("Ctrl-C") => return,
                _ => {}
            }
        }
    };
    let ready = tokio::time::timeout(Duration::from_secs(60), ready).await;
    ready.expect("the mesh starts");
    let pid = up.id().unwrap();
    let below = children(pid);
    assert_eq!(below.len(), 5, "gateway, two edges, device, stand-in");
    assert!(logs.join("gateway-1.log").is_file());

    client_commands(&gateway).await;

    // To the one process, as a service manager would: it stops the others.
    #[expect(unsafe_code, reason = "no safe signal call without another dependency")]
    // SAFETY: kill has no memory effects; the child is ours and not waited for.
    let sent = unsafe { libc::kill(i32::try_from(pid).unwrap(), libc::SIGINT) };
    assert_eq!(sent, 0);
    let ended = tokio::time::timeout(Duration::from_secs(60), up.wait()).await;
    assert!(ended.expect("it drains").unwrap().success());
    for pid in below {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} lives");
    }
    assert!(!logs.exists(), "its scratch directory is gone");
}

async fn client_commands(gateway: &str) {
    let ended = run(&[
        "infer",
        "sony mdr-zx110",
        "--model",
        "tiny-llama",
        "--max-tokens",
        "8",
        "--json",
        "--endpoint",
        gateway,
    ])
    .await;
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let answer: serde_json::Value = serde_json::from_str(&text(&ended.stdout)).unwrap();
    assert_eq!(answer["tokens"], 8);
    assert_eq!(answer["model"], "tiny-llama");

    let plain = ["infer", "sony", "--max-tokens", "4", "--endpoint", gateway];
    let ended = run(&plain).await;
    assert!(ended.status.success() && !ended.stdout.is_empty());
    assert!(text(&ended.stderr).contains("first token"));

    let refused = ["infer", "x", "--policy", "yolo", "--endpoint", gateway];
    let ended = run(&refused).await;
    assert!(!ended.status.success());
    assert!(text(&ended.stderr).contains("yolo"));

    let ended = run(&[
        "route",
        "explain",
        "sony mdr-zx110",
        "--policy",
        "iot",
        "--json",
        "--endpoint",
        gateway,
    ])
    .await;
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let decision: serde_json::Value = serde_json::from_str(&text(&ended.stdout)).unwrap();
    assert_eq!(decision["tier"], "MEC");
    assert!(!decision["reasons"].as_array().unwrap().is_empty());

    let ended = run(&["nodes", "--json", "--endpoint", gateway]).await;
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let lines = text(&ended.stdout);
    let nodes: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for name in ["edge-1", "edge-2", "phone-1"] {
        assert!(nodes.iter().any(|node| node["node"] == name), "{lines}");
    }
}

#[tokio::test]
async fn nobody_at_the_endpoint_is_said_with_what_to_do() {
    let ended = run(&["infer", "x", "--endpoint", "http://127.0.0.1:1"]).await;
    assert!(!ended.status.success());
    let said = text(&ended.stderr);
    assert!(
        said.contains("127.0.0.1:1") && said.contains("tiermesh up"),
        "{said}"
    );
}

#[tokio::test]
async fn certificates_are_private_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    let folder = pki.display().to_string();
    let name = "spiffe://tiermesh/mec/edge-1";
    let early = run(&["ca", "issue", name, "--dir", &folder]).await;
    assert!(!early.status.success());
    assert!(
        text(&early.stderr).contains("ca init"),
        "{}",
        text(&early.stderr)
    );

    assert!(
        run(&["ca", "init", "--dir", &folder])
            .await
            .status
            .success()
    );
    assert!(
        run(&["ca", "issue", name, "--dir", &folder])
            .await
            .status
            .success()
    );
    let mut before = Vec::new();
    for key in ["ca.key", "edge-1.key"] {
        let path = pki.join(key);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
        before.push(std::fs::read(path).unwrap());
    }
    assert!(pki.join("edge-1.pem").is_file());
    for again in [vec!["ca", "init"], vec!["ca", "issue", name]] {
        let ended = run(&[again.as_slice(), &["--dir", &folder]].concat()).await;
        assert!(!ended.status.success());
        assert!(
            text(&ended.stderr).contains("exists"),
            "{}",
            text(&ended.stderr)
        );
    }
    for (key, before) in ["ca.key", "edge-1.key"].iter().zip(before) {
        assert_eq!(std::fs::read(pki.join(key)).unwrap(), before, "{key}");
    }
    let nobody = run(&["ca", "issue", "spiffe://tiermesh/oops", "--dir", &folder]).await;
    assert!(!nobody.status.success());
}

/// A log of one decision, as a router records it.
fn recorded() -> String {
    use tiermesh_core::{Content, Context, NodeId, RawRequest, Snapshot, Time};
    use tiermesh_decision::record::Recorder;
    use tiermesh_decision::{Policies, Question, decide};
    let policies = Policies::builtin();
    let raw = RawRequest {
        request_id: "r-1".into(),
        user_id: "ann".into(),
        policy: "gaming".into(),
        content: Some(Content::Prompt("hello".into())),
        ..RawRequest::default()
    };
    let meta = raw.validate().unwrap().meta;
    let own = NodeId::new("gateway").unwrap();
    let question = Question {
        meta: &meta,
        context: &Context::default(),
        policy: policies.require(&meta.policy).unwrap(),
        own: &own,
        zone: None,
        complexity: None,
        prompt_tokens: None,
        answer: None,
        warm: &[],
        hold: None,
        now: Time::from_us(1),
        seed: 1,
    };
    let nobody = Snapshot::default();
    let decided = decide(&question, &nobody);
    let decided = decided
        .as_ref()
        .map_err(|none| none.constraint.map(|by| by.code()));
    Recorder::default().decision(&question, &nobody, decided)
}

#[tokio::test(flavor = "multi_thread")]
async fn route_replay_makes_a_log_again_and_names_a_broken_line() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("decisions.jsonl").display().to_string();
    let policy = folder.path().join("new.toml").display().to_string();
    std::fs::write(&log, recorded()).unwrap();
    std::fs::write(&policy, "default = \"batch\"\n").unwrap();
    let arguments = [
        "route",
        "replay",
        "--decisions",
        &log,
        "--policy",
        &policy,
        "--json",
    ];
    let ended = run(&arguments).await;
    assert!(ended.status.success(), "{}", text(&ended.stderr));
    let said: serde_json::Value = serde_json::from_str(text(&ended.stdout).trim()).unwrap();
    assert_eq!(
        (&said["decisions"], &said["reproduced"]),
        (&1.into(), &1.into())
    );
    assert_eq!(said["before"]["refused"], 1);
    std::fs::write(&log, recorded() + "nonsense\n").unwrap();
    let ended = run(&arguments).await;
    assert!(!ended.status.success());
    assert!(
        text(&ended.stderr).contains("line 3"),
        "{}",
        text(&ended.stderr)
    );
}
