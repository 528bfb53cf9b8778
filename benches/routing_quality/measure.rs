//! Figures of runs, their means over seeds and how sure those are.

use crate::cli::say;
use crate::stats::range;
use serde_json::{Map, Value, json};

/// One run's figures by name.
pub(crate) type Measured = Vec<(&'static str, f64)>;

/// Two-sided 95 % points of Student's distribution for 1 to 9 degrees of
/// freedom; the normal one's beyond.
const STUDENT: [f64; 9] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262,
];

/// Every strategy's figures, run by run.
#[derive(Default)]
pub(crate) struct Table(Vec<(&'static str, Vec<Measured>)>);

impl Table {
    pub(crate) fn add(&mut self, who: &'static str, measured: Measured) {
        match self.0.iter_mut().find(|(known, _)| *known == who) {
            Some((_, runs)) => runs.push(measured),
            None => self.0.push((who, vec![measured])),
        }
    }

    fn samples(&self, who: &str, name: &str) -> Vec<f64> {
        let runs = self.0.iter().filter(|(known, _)| *known == who);
        let figures = runs.flat_map(|(_, runs)| runs.iter().flatten());
        figures
            .filter(|(known, _)| *known == name)
            .map(|(_, value)| *value)
            .collect()
    }

    fn names(&self, who: &str) -> Vec<&'static str> {
        let runs = self.0.iter().find(|(known, _)| *known == who);
        let first = runs.and_then(|(_, runs)| runs.first());
        first.map_or_else(Vec::new, |run| run.iter().map(|(name, _)| *name).collect())
    }

    pub(crate) fn means(&self, who: &str) -> Value {
        let names = self.names(who).into_iter();
        let each = names.map(|name| (name.to_owned(), json!(fine(mean(&self.samples(who, name))))));
        Value::Object(each.collect::<Map<_, _>>())
    }

    pub(crate) fn ranges(&self, who: &str) -> Value {
        let names = self.names(who).into_iter();
        let each = names.map(|name| {
            let (min, max) = range(&self.samples(who, name));
            (name.to_owned(), json!({"min": fine(min), "max": fine(max)}))
        });
        Value::Object(each.collect::<Map<_, _>>())
    }

    /// Half widths of the 95 % confidence intervals over seeds.
    pub(crate) fn intervals(&self) -> Value {
        let each = self.0.iter().map(|(who, _)| {
            let names = self.names(who).into_iter();
            let of = names.map(|name| {
                let half = half_width(&self.samples(who, name));
                (name.to_owned(), json!(fine(half)))
            });
            ((*who).to_owned(), Value::Object(of.collect::<Map<_, _>>()))
        });
        Value::Object(each.collect::<Map<_, _>>())
    }

    pub(crate) fn print(&self) {
        say(&format!(
            "{:<18} {:>15} {:>17} {:>8} {:>9} {:>9} {:>8} {:>7} {:>16}",
            "",
            "in time %",
            "$ / 1k in time",
            "refused",
            "p50 ms",
            "p99 ms",
            "J each",
            "prefix",
            "device/mec/cloud"
        ));
        for (who, _) in &self.0 {
            let shown = |name: &str, scale: f64, digits: usize| {
                let samples = self.samples(who, name);
                match samples.is_empty() {
                    true => "-".to_owned(),
                    false => format!("{:.digits$}", mean(&samples) * scale),
                }
            };
            let sure = |name: &str, scale: f64, digits: usize| {
                let half = half_width(&self.samples(who, name)) * scale;
                format!("{} ±{half:.digits$}", shown(name, scale, digits))
            };
            let mix = ["device_share", "mec_share", "cloud_share"];
            let mix: Vec<_> = mix.iter().map(|name| shown(name, 100.0, 0)).collect();
            say(&format!(
                "{who:<18} {:>15} {:>17} {:>8} {:>9} {:>9} {:>8} {:>7} {:>16}",
                sure("attainment", 100.0, 2),
                sure("cost_usd", 1.0, 4),
                shown("refused", 100.0, 2),
                shown("first_token_p50_ms", 1.0, 0),
                shown("first_token_p99_ms", 1.0, 0),
                shown("joules", 1.0, 1),
                shown("prefix_hit_share", 100.0, 1),
                mix.join("/"),
            ));
        }
        let of = |name: &str| mean(&self.samples("bound", name)) * 100.0;
        let usd = mean(&self.samples("bound", "cost_usd_of_that_schedule"));
        let usual = mean(&self.samples("bound", "cost_usd_without_luck"));
        say(&format!(
            "the bound: at most {:.2} % in time; its cost is for {:.2} %, and with no luck to \
             know ${usual:.4} / 1k; a schedule that knows all keeps {:.2} %, at ${usd:.4} / 1k",
            of("attainment"),
            of("served"),
            of("reached_by_a_schedule"),
        ));
    }
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len().max(1) as f64
}

fn half_width(samples: &[f64]) -> f64 {
    let count = samples.len();
    if count < 2 {
        return 0.0;
    }
    let middle = mean(samples);
    let squares: f64 = samples.iter().map(|s| (s - middle) * (s - middle)).sum();
    let deviation = (squares / (count - 1) as f64).sqrt();
    let student = STUDENT.get(count - 2).copied().unwrap_or(1.96);
    student * deviation / (count as f64).sqrt()
}

/// Six digits: shares of a percent and of a cent both show.
fn fine(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
