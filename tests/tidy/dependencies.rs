//! What we build on: licences, bans and sources as deny.toml has them, held
//! for this platform on every run. cargo-deny holds them for all in CI.

use crate::{cargo, none, read};
use std::collections::BTreeSet;

/// A crate of somebody else's that is built, tested or benchmarked with.
struct Dependency {
    name: String,
    version: String,
    licence: String,
}

/// What the feature resolver really selects. `cargo metadata` would list what
/// optional features could bring as well.
fn tree() -> Vec<Dependency> {
    let arguments = ["tree", "--workspace", "--prefix", "none"];
    let edges = ["--edges", "normal,build,dev", "--format", "{p}|{l}|"];
    let printed = cargo(&[&arguments[..], &edges[..]].concat());
    let lines: BTreeSet<&str> = printed.lines().filter(|line| !line.is_empty()).collect();
    lines.into_iter().map(dependency).collect()
}

fn dependency(line: &str) -> Dependency {
    let mut parts = line.split('|');
    let mut package = parts.next().unwrap_or_default().split(' ');
    Dependency {
        name: package.next().unwrap_or_default().to_owned(),
        version: package.next().unwrap_or_default().to_owned(),
        licence: parts.next().unwrap_or_default().to_owned(),
    }
}

fn deny() -> toml::Table {
    read("deny.toml").parse().expect("deny.toml is TOML")
}

fn allowed() -> Vec<String> {
    let deny = deny();
    let list = deny["licenses"]["allow"].as_array().expect("a list");
    let names = list.iter().map(|name| name.as_str().expect("a name"));
    names.map(str::to_owned).collect()
}

/// Whether an SPDX expression can be met with the `allowed` licences. `/` is
/// an old way to write OR.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ");
    let spaced = spaced.replace(')', " ) ").replace(" WITH ", "+WITH+");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = either(&words, &mut at, allowed);
    met && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allowed);
    }
    met
}

fn both(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if *word == "(" {
        let met = either(words, at, allowed);
        *at += 1;
        return met;
    }
    let licence = word.replace("+WITH+", " WITH ");
    allowed.contains(&licence)
}

#[test]
fn every_licence_is_allowed_and_every_allowance_is_needed() {
    let allowed = allowed();
    let tree = tree();
    let mut findings = Vec::new();
    for dependency in tree.iter().filter(|d| !is_met(&d.licence, &allowed)) {
        findings.push(format!("{}: `{}`", dependency.name, dependency.licence));
    }
    for licence in &allowed {
        let others: Vec<_> = allowed.iter().filter(|l| *l != licence).cloned().collect();
        if tree.iter().all(|d| is_met(&d.licence, &others)) {
            findings.push(format!("nothing needs {licence} of deny.toml"));
        }
    }
    none(&findings);
}

#[test]
fn what_is_banned_is_not_built() {
    let deny = deny();
    let bans = deny["bans"]["deny"].as_array().expect("a list");
    let banned: Vec<_> = bans.iter().filter_map(|ban| ban["name"].as_str()).collect();
    let tree = tree();
    let found = tree.iter().filter(|d| banned.contains(&d.name.as_str()));
    none(&found.map(|d| d.name.clone()).collect::<Vec<_>>());
}

#[test]
fn there_is_one_rustls_and_its_provider_is_ring() {
    let tree = tree();
    let versions = |name: &str| -> BTreeSet<&str> {
        let named = tree.iter().filter(|d| d.name == name);
        named.map(|d| d.version.as_str()).collect()
    };
    assert_eq!(versions("rustls").len(), 1, "{:?}", versions("rustls"));
    assert_eq!(versions("ring").len(), 1, "{:?}", versions("ring"));
    for other in ["aws-lc-rs", "boring", "openssl", "rustls-openssl"] {
        assert_eq!(versions(other).len(), 0, "{other}");
    }
}

#[test]
fn everything_comes_from_one_registry() {
    let lock = read("Cargo.lock");
    let sources: BTreeSet<&str> = lock
        .lines()
        .filter_map(|line| line.strip_prefix("source = "))
        .collect();
    assert_eq!(sources.len(), 1, "{sources:?}");
    assert!(sources.iter().all(|s| s.starts_with("\"registry+")));
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let allowed = ["MIT", "Apache-2.0", "ISC"].map(str::to_owned);
    for met in [
        "MIT",
        "MIT/GPL-3.0",
        "GPL-3.0 OR MIT",
        "(GPL-3.0 OR MIT) AND ISC",
        "GPL-3.0 AND BSD-3-Clause OR Apache-2.0",
    ] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for unmet in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(GPL-3.0 OR BSD-3-Clause) AND ISC",
        "Apache-2.0 WITH LLVM-exception",
        "MIT MIT",
    ] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}
