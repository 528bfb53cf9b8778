//! What rounds measured, side by side, and the report made of it.

use crate::cli::{Flags, Report, say};
use crate::stats::{median, range, round};
use serde_json::{Map, Value, json};

/// Samples by name, in the order the names first came.
#[derive(Default)]
struct Series(Vec<(String, Vec<f64>)>);

impl Series {
    fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, samples)) => samples.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    fn get(&self, name: &str) -> Option<&[f64]> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, samples)| &**samples)
    }

    fn medians(&self) -> Map<String, Value> {
        let each = self.0.iter();
        each.map(|(name, samples)| (name.clone(), json!(round(median(samples)))))
            .collect()
    }

    fn ranges(&self) -> Map<String, Value> {
        let each = self.0.iter().filter(|(_, samples)| samples.len() > 1);
        each.map(|(name, samples)| (name.clone(), ends(samples)))
            .collect()
    }
}

fn ends(samples: &[f64]) -> Value {
    let (min, max) = range(samples);
    json!({"min": round(min), "max": round(max)})
}

/// What the two sides did. A figure that both have is compared round by round.
#[derive(Default)]
pub(crate) struct Figures {
    ours: Series,
    peer: Series,
    /// Words about each side: versions, sizes, files.
    ours_said: Map<String, Value>,
    peer_said: Map<String, Value>,
}

impl Figures {
    /// A round's figure of ours; its name ends with its unit.
    pub(crate) fn ours(&mut self, name: &str, value: f64) {
        self.ours.add(name, value);
    }

    /// The peer's figure of the same round.
    pub(crate) fn peer(&mut self, name: &str, value: f64) {
        self.peer.add(name, value);
    }

    /// What is to be known about our side.
    pub(crate) fn say_ours(&mut self, name: &str, value: Value) {
        self.ours_said.insert(name.to_owned(), value);
    }

    /// What is to be known about the peer.
    pub(crate) fn say_peer(&mut self, name: &str, value: Value) {
        self.peer_said.insert(name.to_owned(), value);
    }

    /// Ours over the peer's, round by round.
    fn ratios(&self, name: &str) -> Option<Vec<f64>> {
        let both = self.ours.get(name)?.iter().zip(self.peer.get(name)?);
        Some(both.map(|(ours, theirs)| ours / theirs).collect())
    }

    fn print(&self) {
        let shown = |samples: Option<&[f64]>| {
            samples.map_or_else(
                || "-".to_owned(),
                |samples| {
                    let (min, max) = range(samples);
                    format!("{} ({}–{})", round(median(samples)), round(min), round(max))
                },
            )
        };
        say(&format!(
            "{:<40} {:>28} {:>28} {:>24}",
            "figure, median (least–most)", "ours", "peer", "ratio"
        ));
        let alone = self.peer.0.iter();
        let alone = alone.filter(|(name, _)| self.ours.get(name).is_none());
        for (name, _) in self.ours.0.iter().chain(alone) {
            let ratios = self.ratios(name);
            say(&format!(
                "{name:<40} {:>28} {:>28} {:>24}",
                shown(self.ours.get(name)),
                shown(self.peer.get(name)),
                shown(ratios.as_deref())
            ));
        }
    }

    /// Prints the table and, where asked for, the JSON line. The ratio is the
    /// median over rounds of the figure `headline`.
    pub(crate) fn report(
        self,
        question: &'static str,
        headline: &str,
        flags: Flags,
    ) -> anyhow::Result<()> {
        self.print();
        let names = self.ours.0.iter().map(|(name, _)| name);
        let compared: Vec<(&String, Vec<f64>)> = names
            .filter_map(|name| Some((name, self.ratios(name)?)))
            .collect();
        let mut ratios = Map::new();
        let mut spread = json!({"ours": self.ours.ranges()});
        let mut ratio_ranges = Map::new();
        for (name, samples) in &compared {
            ratios.insert((*name).clone(), json!(round(median(samples))));
            ratio_ranges.insert((*name).clone(), ends(samples));
        }
        let head = self.ratios(headline);
        let runs = self.ours.get(headline).map_or(0, <[f64]>::len);
        let mut ours = self.ours.medians();
        ours.extend(self.ours_said);
        let mut peer = None;
        if !self.peer.0.is_empty() {
            ours.insert("ratios".to_owned(), Value::Object(ratios));
            spread["peer"] = Value::Object(self.peer.ranges());
            spread["ratios"] = Value::Object(ratio_ranges);
            let mut theirs = self.peer.medians();
            theirs.extend(self.peer_said);
            peer = Some(Value::Object(theirs));
        }
        if let Some(head) = &head {
            spread["ratio"] = ends(head);
        }
        Report {
            question,
            ours: Value::Object(ours),
            peer,
            ratio: head.map(|samples| round(median(&samples))),
            spread,
            runs,
        }
        .print(flags)
    }
}
