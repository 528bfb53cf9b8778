//! Which crate may know which, and what every crate has.

use crate::{cargo, none, read, root};
use serde_json::Value;
use std::path::Path;

/// What a crate may depend on, development apart.
enum May {
    /// These crates of ours.
    Only(&'static [&'static str]),
    /// Every library; no daemon, and nothing that stands above the daemons.
    Libraries,
    /// Every crate.
    Everything,
}

/// Every crate's folder, and what it may know. ARCHITECTURE.md has the same
/// table with the reasons. A new edge is its own commit with its reason.
const HOUSE: &[(&str, May)] = &[
    ("", May::Everything),
    ("proto", May::Only(&["core"])),
    ("router", May::Only(&["core", "decision"])),
    ("router/decision", May::Only(&["core"])),
    ("cloud-gateway", May::Libraries),
    ("device-agent", May::Libraries),
    ("edge-node", May::Libraries),
    ("crates/bedrock", May::Only(&["core"])),
    ("crates/core", May::Only(&[])),
    ("crates/daemon", May::Only(&["core", "decision"])),
    ("crates/engine", May::Only(&["core"])),
    (
        "crates/frontdoor",
        May::Only(&["bedrock", "core", "identity", "proto"]),
    ),
    ("crates/hub", May::Only(&[])),
    ("crates/identity", May::Only(&["core"])),
    ("crates/link", May::Only(&["core", "identity", "proto"])),
    (
        "crates/node",
        May::Only(&[
            "core",
            "daemon",
            "engine",
            "frontdoor",
            "hub",
            "identity",
            "link",
            "router",
            "telemetry",
        ]),
    ),
    ("crates/telemetry", May::Only(&[])),
    ("crates/training", May::Only(&["core", "engine"])),
    ("tests/harness", May::Everything),
];

/// Not libraries: the daemons, and what stands above them.
const ABOVE: [&str; 6] = [
    "",
    "cloud-gateway",
    "device-agent",
    "edge-node",
    "harness",
    "training",
];

/// What must stay without I/O and without a runtime.
const PURE: [&str; 2] = ["core", "decision"];
/// What a crate without I/O has no use for.
const WORLDLY: [&str; 8] = [
    "axum",
    "hyper",
    "libc",
    "quinn",
    "socket2",
    "tokio",
    "tonic",
    "tracing-subscriber",
];

/// A crate of ours, from `cargo metadata`.
struct Package {
    /// Its name without `tiermesh-`; empty for the root.
    name: String,
    /// Its folder below the repository.
    folder: String,
    /// Its targets' first files, build scripts apart.
    entries: Vec<String>,
    /// What it depends on, development apart.
    dependencies: Vec<String>,
}

fn packages() -> Vec<Package> {
    let metadata = cargo(&[
        "metadata",
        "--format-version",
        "1",
        "--no-deps",
        "--offline",
    ]);
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages.iter().map(package).collect()
}

fn package(package: &Value) -> Package {
    let manifest = text(&package["manifest_path"]);
    let folder = manifest.strip_suffix("/Cargo.toml").expect("a manifest");
    let all = package["dependencies"].as_array().expect("a list");
    let lasting = all.iter().filter(|d| d["kind"] != "dev");
    let targets = package["targets"].as_array().expect("a list").iter();
    let code = targets.filter(|target| target["kind"][0] != "custom-build");
    Package {
        name: short(text(&package["name"])).to_owned(),
        folder: below(folder),
        entries: code
            .map(|target| below(text(&target["src_path"])))
            .collect(),
        dependencies: lasting.map(|d| text(&d["name"]).to_owned()).collect(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string in cargo's metadata")
}

fn below(path: &str) -> String {
    let path = Path::new(path);
    let path = path.strip_prefix(root()).expect("below the repository");
    path.display().to_string()
}

fn short(name: &str) -> &str {
    name.strip_prefix("tiermesh")
        .map_or(name, |rest| rest.trim_start_matches('-'))
}

impl Package {
    fn ours(&self) -> impl Iterator<Item = &str> {
        let ours = self.dependencies.iter().filter(|name| {
            let name = name.as_str();
            name == "tiermesh" || name.starts_with("tiermesh-")
        });
        ours.map(|name| short(name))
    }
}

#[test]
fn every_crate_knows_only_what_the_house_allows() {
    let mut findings = Vec::new();
    let packages = packages();
    for package in &packages {
        let Some((_, may)) = HOUSE.iter().find(|(folder, _)| *folder == package.folder) else {
            findings.push(format!("{}: not in the table", package.folder));
            continue;
        };
        for dependency in package.ours() {
            let allowed = match may {
                May::Only(list) => list.contains(&dependency),
                May::Libraries => !ABOVE.contains(&dependency),
                May::Everything => true,
            };
            if !allowed {
                findings.push(format!("{} must not know {dependency}", package.folder));
            }
        }
    }
    for (folder, _) in HOUSE {
        if !packages.iter().any(|package| package.folder == *folder) {
            findings.push(format!("{folder}: in the table and nowhere else"));
        }
    }
    none(&findings);
}

#[test]
fn the_architecture_page_has_the_same_table() {
    let page = read("ARCHITECTURE.md");
    let mut findings = Vec::new();
    for (folder, may) in HOUSE.iter().filter(|(folder, _)| !folder.is_empty()) {
        let room = match *folder {
            "tests/harness" => "tests",
            folder => folder,
        };
        let row = page.lines().find_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, places, .., knows, _] = cells[..] else {
                return None;
            };
            let named = |place: &str| place.trim_matches(['`', '/', ' ']) == room;
            places.split(',').any(named).then(|| knows.to_owned())
        });
        let Some(knows) = row else {
            findings.push(format!("ARCHITECTURE.md has no row for `{folder}`"));
            continue;
        };
        let agrees = match may {
            May::Everything => knows == "everything",
            May::Libraries => knows.starts_with("libraries"),
            May::Only(list) => {
                let mut named: Vec<&str> = knows.split(", ").filter(|name| *name != "–").collect();
                named.sort_unstable();
                named == *list
            }
        };
        if !agrees {
            findings.push(format!("ARCHITECTURE.md says of `{folder}`: {knows}"));
        }
    }
    none(&findings);
}

#[test]
fn the_pure_crates_have_no_runtime_and_no_sockets() {
    let mut findings = Vec::new();
    for package in packages() {
        let pure = PURE.contains(&package.name.as_str());
        for dependency in package.dependencies.iter().filter(|_| pure) {
            if WORLDLY.contains(&dependency.as_str()) {
                findings.push(format!("{} must not need {dependency}", package.folder));
            }
        }
    }
    none(&findings);
}

#[test]
fn a_crate_is_named_after_its_folder() {
    let misnamed = packages().into_iter().filter(|package| {
        let folder = package.folder.rsplit('/').next();
        folder != Some(package.name.as_str())
    });
    none(&misnamed.map(|p| p.folder).collect::<Vec<_>>());
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let mut findings = Vec::new();
    for package in packages() {
        let manifest = Path::new(&package.folder).join("Cargo.toml");
        let parsed: toml::Table = read(&manifest).parse().expect("a manifest is TOML");
        let lints = parsed.get("lints").and_then(|lints| lints.get("workspace"));
        if lints.and_then(toml::Value::as_bool) != Some(true) {
            findings.push(format!("{}: no `[lints] workspace`", manifest.display()));
        }
    }
    none(&findings);
}

#[test]
fn every_target_says_what_it_is() {
    let entries = packages().into_iter().flat_map(|package| package.entries);
    let silent = entries.filter(|entry| !read(entry).starts_with("//! "));
    none(&silent.collect::<Vec<_>>());
}
