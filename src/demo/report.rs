//! What the demonstration prints: a table for people, or JSON lines.

use crate::client::tier_name;
use crate::demo::scenario::Step;
use crate::demo::survival::Survived;
use crate::infer::Answer;
use crate::out;
use serde_json::json;
use std::time::Duration;
use tonic::Status;
use tonic_types::StatusExt as _;

/// One request and what became of it.
pub(crate) struct Outcome {
    step: Step,
    title: String,
    answer: Result<Answer, Status>,
    landed_right: bool,
}

impl Outcome {
    /// Judges what became of a step.
    pub(crate) fn new(step: Step, title: &str, answer: Result<Answer, Status>) -> Self {
        let landed_right = match &answer {
            Ok(answer) => {
                let decision = answer.decision.clone().unwrap_or_default();
                step.expect
                    .holds(Ok((tier_name(decision.tier), &decision.node)))
            }
            Err(status) => step.expect.holds(Err(&reason(status))),
        };
        Self {
            step,
            title: title.to_owned(),
            answer,
            landed_right,
        }
    }

    /// The refusal's reason; `None` for an answer.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.answer.as_ref().err().map(reason)
    }

    fn record(&self) -> serde_json::Value {
        let mut record = json!({
            "kind": "request",
            "policy": self.step.policy,
            "door": self.step.door.name(),
            "title": self.title,
            "expected": self.step.expect.words(),
            "landed_right": self.landed_right,
            "tier": null, "node": null, "model": null, "ttft_ms": null, "tokens": 0,
            "cost_usd": 0.0, "text": "", "reasons": [], "error": null,
        });
        match &self.answer {
            Ok(answer) => {
                let decision = answer.decision.clone().unwrap_or_default();
                let done = answer.done.clone().unwrap_or_default();
                record["tier"] = tier_name(decision.tier).into();
                record["node"] = decision.node.into();
                record["model"] = decision.model.into();
                record["ttft_ms"] = done.first_token_ms.into();
                record["tokens"] = done.output_tokens.into();
                record["tokens_per_s"] = answer.tokens_per_s().into();
                record["attempts"] = done.attempts.len().into();
                record["cost_usd"] = done.cost_usd.into();
                record["text"] = answer.text.clone().into();
                record["reasons"] = answer.reasons().into();
            }
            Err(status) => {
                record["error"] = json!({"reason": reason(status), "message": status.message()});
            }
        }
        record
    }

    fn row(&self) -> String {
        let mark = if self.landed_right { " " } else { "!" };
        let (policy, door) = (self.step.policy, self.step.door.name());
        match &self.answer {
            Ok(answer) => {
                let decision = answer.decision.clone().unwrap_or_default();
                let done = answer.done.clone().unwrap_or_default();
                let rate = answer.tokens_per_s().unwrap_or_default();
                let tried = done.attempts.len();
                let tried = if tried > 1 {
                    format!(" ({tried} attempts)")
                } else {
                    String::new()
                };
                format!(
                    "{mark} {policy:<12} {door:<8} {:<6} {:<15} {:<21} {:>8.1} {rate:>8.0} {:>11.7}  {}{tried}",
                    tier_name(decision.tier),
                    decision.node,
                    decision.model,
                    done.first_token_ms.unwrap_or_default(),
                    done.cost_usd,
                    shortened(&answer.reasons()),
                )
            }
            Err(status) => format!(
                "{mark} {policy:<12} {door:<8} {:<6} {:<15} {:<21} {:>8} {:>8} {:>11}  {}",
                "none",
                "refused",
                "-",
                "-",
                "-",
                "-",
                reason(status)
            ),
        }
    }
}

/// The reasons that fit a table's last column.
fn shortened(reasons: &[String]) -> String {
    const SHOWN: usize = 4;
    let more = reasons.len().saturating_sub(SHOWN);
    let shown: Vec<_> = reasons.iter().take(SHOWN).map(String::as_str).collect();
    match more {
        0 => shown.join(" "),
        _ => format!("{} +{more}", shown.join(" ")),
    }
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    match details.error_info() {
        Some(info) => info.reason.clone(),
        None => format!("{:?}", status.code()),
    }
}

/// Everything so far.
pub(crate) struct Report {
    json: bool,
    outcomes: Vec<Outcome>,
    /// Answers that went on as something else than they were.
    differing: usize,
}

impl Report {
    /// An empty report.
    pub(crate) const fn new(json: bool) -> Self {
        Self {
            json,
            outcomes: Vec::new(),
            differing: 0,
        }
    }

    /// Whether it prints JSON lines.
    pub(crate) const fn is_json(&self) -> bool {
        self.json
    }

    /// One more outcome.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        if self.json {
            out::line(&outcome.record().to_string());
        }
        self.outcomes.push(outcome);
    }

    /// Something was broken on purpose.
    pub(crate) fn fault(&self, node: &str, what: &str) {
        if self.json {
            out::line(&json!({"kind": "fault", "node": node, "what": what}).to_string());
        } else {
            out::line(&format!("\n*** {what}: {node}\n"));
        }
    }

    /// An answer outlived its node, or did not.
    pub(crate) fn survived(&mut self, survived: Survived) {
        if self.json {
            out::line(&survived.record().to_string());
        } else {
            out::line(&survived.words());
        }
        self.differing += usize::from(!survived.identical);
    }

    /// The table and the verdict; how many landed where they must not.
    pub(crate) fn finish(&self, took: Duration, cloud: &str) -> usize {
        let wrong = self.outcomes.iter().filter(|o| !o.landed_right).count() + self.differing;
        let answered = self.outcomes.iter().filter(|o| o.answer.is_ok()).count();
        let cost: f64 = self
            .outcomes
            .iter()
            .filter_map(|o| o.answer.as_ref().ok()?.done.as_ref())
            .map(|d| d.cost_usd)
            .sum();
        if self.json {
            out::line(
                &json!({
                    "kind": "summary", "requests": self.outcomes.len(), "answered": answered,
                    "landed_wrong": wrong, "cost_usd": cost, "took_s": took.as_secs_f64(), "cloud": cloud,
                })
                .to_string(),
            );
            return wrong;
        }
        out::line(&format!(
            "\n  {:<12} {:<8} {:<6} {:<15} {:<21} {:>8} {:>8} {:>11}  REASONS",
            "POLICY", "DOOR", "TIER", "NODE", "MODEL", "TTFT ms", "TOK/S", "COST USD"
        ));
        for outcome in &self.outcomes {
            out::line(&outcome.row());
        }
        out::line(&format!(
            "\n{answered} of {} requests answered, {wrong} landed where they must not, ${cost:.6} in all, {:.1} s\n{cloud}",
            self.outcomes.len(),
            took.as_secs_f64()
        ));
        for outcome in self.outcomes.iter().filter(|o| !o.landed_right) {
            out::line(&format!(
                "! {} at {} was to be {}: {}",
                outcome.step.policy,
                outcome.step.door.name(),
                outcome.step.expect.words(),
                outcome.row().trim()
            ));
        }
        wrong
    }
}
