//! One pass over a model's weights for all its streams.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use tiermesh_core::{FinishReason, TaskResult, Token};

use super::entry::{Encoding, Entry, Work};
use super::scheduler::{Scheduler, reading_time};
use super::sequence::{Sequence, Step};
use super::speed::StepTime;
use crate::embedder::{EmbedError, Embedder};
use crate::loaded::Model;
use crate::model::PAGE;
use crate::sampler::NotANumber;
use crate::stream::StreamError;

/// The most tokens of prompts that one step reads, however fast it is.
const MOST_READ: usize = 512;
/// The most tokens of texts an encoder reads in one step.
const MOST_ENCODED: usize = 2048;
/// From this many logits on, threads share the choosing.
const PARALLEL_CHOICES: usize = 1 << 15;

/// One stream's part of a step.
struct Part {
    /// Its place among those that run.
    place: usize,
    /// Tokens it reads.
    count: usize,
    /// Whether it wants to know what comes after them.
    wanted: bool,
}

impl Scheduler {
    /// Reads and writes for the streams of one decoder.
    pub(super) fn write(&mut self, model: usize, decoder: &Arc<Model>) {
        self.end_finished(model);
        let parts = self.compose(model);
        if parts.is_empty() {
            // Admission sees to it that the first in line always has enough.
            if self.running.len() == 1 && self.pages.free() < self.pages.budget() {
                self.fail(model, StreamError::NotUsable);
            }
            return;
        }
        let began = Instant::now();
        let _beat = self.pulse.begin(model);
        let computed = self.compute(decoder, &parts);
        let took = began.elapsed();
        let Some(steps) = computed else {
            self.fail_parts(&parts, StreamError::Panicked);
            return;
        };
        let wrote = parts
            .iter()
            .filter(|part| part.count == 1 && part.wanted)
            .count();
        let read = parts.iter().map(|part| part.count).sum::<usize>() - wrote;
        let charge = |part: &Part| (self.running[part.place].standing.user.clone(), part.count);
        let charges: Vec<_> = parts.iter().map(charge).collect();
        let step = StepTime { wrote, read, took };
        let step_tokens = self.read_most(model, wrote);
        self.queue.learn(model, step, step_tokens, &charges);
        self.deliver(&parts, steps);
    }

    /// Streams that were over before they began: their continuation says all.
    fn end_finished(&mut self, model: usize) {
        let finished = |entry: &Entry| match &entry.work {
            Work::Sequence(sequence) if entry.model == model => sequence.finished(),
            _ => None,
        };
        let over: Vec<(usize, FinishReason)> = (0..self.running.len())
            .filter_map(|place| Some((place, finished(&self.running[place])?)))
            .collect();
        for (place, reason) in over.into_iter().rev() {
            let entry = self.running.remove(place);
            self.end(entry, Ok((reason, None)));
        }
    }

    /// Tokens of prompts that a step beside so many writing streams may read.
    fn read_most(&self, model: usize, writing: usize) -> usize {
        let (prefill, step) = self.queue.pace(model, writing);
        let tokens = reading_time(self.options.step, step) * prefill;
        (tokens as usize).clamp(PAGE, MOST_READ)
    }

    /// What each stream does in this step: those that write first, then the
    /// prompts in order, as much of them as the step's time allows.
    fn compose(&mut self, model: usize) -> Vec<Part> {
        let writes = |entry: &Entry| match &entry.work {
            Work::Sequence(sequence) if entry.model == model => Some(sequence.unread() <= 1),
            _ => None,
        };
        let kinds: Vec<Option<bool>> = self.running.iter().map(writes).collect();
        let writing = kinds.iter().filter(|kind| **kind == Some(true)).count();
        let mut left = self.read_most(model, writing);
        let mut parts: Vec<Part> = Vec::with_capacity(kinds.len());
        let order = |wanted: bool| {
            let of_kind = move |(place, kind): (usize, &Option<bool>)| {
                (*kind == Some(wanted)).then_some(place)
            };
            kinds.iter().enumerate().filter_map(of_kind)
        };
        let mut need = 0;
        for place in order(true).chain(order(false)) {
            let Work::Sequence(sequence) = &self.running[place].work else {
                continue;
            };
            let most = match kinds[place] {
                Some(true) => 1,
                _ => left,
            };
            if most == 0 {
                break;
            }
            let count = sequence.chunk(most);
            let growth = sequence.cache().growth(count);
            if self.pages.free() < need + growth {
                // What it takes from those behind it, they lose: they read
                // again what they had read, when their turn comes. Where that
                // is not enough, somebody ahead may still find enough.
                let enough = self.make_room(place, need + growth);
                parts.retain(|part| self.reads(part));
                if !enough {
                    continue;
                }
            }
            need += growth;
            let Work::Sequence(sequence) = &self.running[place].work else {
                continue;
            };
            if kinds[place] == Some(false) {
                left = left.saturating_sub(count);
            }
            let wanted = count == sequence.unread();
            parts.push(Part {
                place,
                count,
                wanted,
            });
        }
        parts.sort_by_key(|part| part.place);
        parts
    }

    /// Whether a part still fits its stream: it may have lost its memory.
    fn reads(&self, part: &Part) -> bool {
        match &self.running[part.place].work {
            Work::Sequence(sequence) => part.wanted == (sequence.unread() == part.count),
            _ => false,
        }
    }

    /// The pass itself; none when it panicked.
    fn compute(
        &mut self,
        decoder: &Model,
        parts: &[Part],
    ) -> Option<Vec<Option<Result<Step, StreamError>>>> {
        let mut places = parts.iter().peekable();
        let mut sequences = Vec::with_capacity(parts.len());
        for (place, entry) in self.running.iter_mut().enumerate() {
            if places.next_if(|part| part.place == place).is_some()
                && let Work::Sequence(sequence) = &mut entry.work
            {
                sequences.push(&mut **sequence);
            }
        }
        let index = &mut self.index;
        let run = || {
            let mut logits = Vec::with_capacity(parts.len());
            if decoder.decoder.is_row_exact() {
                let asked = sequences
                    .iter_mut()
                    .zip(parts)
                    .map(|(s, part)| s.input(part.count));
                let (mut inputs, wanted): (Vec<_>, Vec<bool>) = asked.unzip();
                let mut rows = decoder.decoder.step(&mut inputs, &wanted).into_iter();
                logits.extend(
                    wanted
                        .iter()
                        .map(|wanted| wanted.then(|| rows.next()).flatten()),
                );
            } else {
                // A dense model's sums depend on a call's shape.
                for (sequence, part) in sequences.iter_mut().zip(parts) {
                    let (input, wanted) = sequence.input(part.count);
                    logits.push(decoder.decoder.step(&mut [input], &[wanted]).pop());
                }
            }
            for sequence in &mut sequences {
                sequence.share(index);
            }
            let choose = |(sequence, logits): (&mut &mut Sequence, Option<Vec<f32>>)| {
                logits.map(|mut logits| sequence.choose(&mut logits))
            };
            let work = logits.iter().flatten().map(Vec::len).sum::<usize>();
            match work < PARALLEL_CHOICES {
                true => sequences.iter_mut().zip(logits).map(choose).collect(),
                false => sequences
                    .par_iter_mut()
                    .zip(logits)
                    .with_max_len(1)
                    .map(choose)
                    .collect(),
            }
        };
        catch_unwind(AssertUnwindSafe(|| self.threads.install(run))).ok()
    }

    /// Hands out what was written, and ends what is over.
    fn deliver(&mut self, parts: &[Part], steps: Vec<Option<Result<Step, StreamError>>>) {
        let mut endings = Vec::new();
        for (part, step) in parts.iter().zip(steps) {
            let entry = &mut self.running[part.place];
            match step {
                None | Some(Ok(Step::Read(_))) => {}
                Some(Ok(Step::Token(token))) => push(entry, token, &self.queue),
                Some(Ok(Step::Finished(token, reason))) => {
                    if let Some(token) = token {
                        push(entry, token, &self.queue);
                    }
                    let end_token = match &entry.work {
                        Work::Sequence(sequence) => sequence.end_token(),
                        _ => None,
                    };
                    endings.push((part.place, Ok((reason, end_token))));
                }
                Some(Err(error)) => endings.push((part.place, Err(error))),
            }
        }
        for (place, ending) in endings.into_iter().rev() {
            let entry = self.running.remove(place);
            self.end(entry, ending);
        }
    }

    fn fail_parts(&mut self, parts: &[Part], error: StreamError) {
        for part in parts.iter().rev() {
            let entry = self.running.remove(part.place);
            self.end(entry, Err(error));
        }
    }

    /// Encodes texts of one encoder, those of like length together.
    pub(super) fn encode(&mut self, model: usize, embedder: &Arc<Embedder>) {
        let mut places: Vec<(usize, usize, Encoding)> = Vec::new();
        for (place, entry) in self.running.iter().enumerate() {
            if let Work::Text(text) = &entry.work
                && entry.model == model
            {
                places.push((place, text.tokens, text.wanted));
            }
        }
        let Some((_, _, wanted)) = places.first().copied() else {
            return;
        };
        // The first in line goes, with as many of the others as are like it.
        let length = places[0].1;
        places.retain(|(_, _, other)| *other == wanted);
        places.sort_by_key(|(place, tokens, _)| (tokens.abs_diff(length), *place));
        let mut tokens = 0;
        places.retain(|(_, count, _)| {
            tokens += count;
            tokens == *count || tokens <= MOST_ENCODED
        });
        places.sort_unstable_by_key(|(place, ..)| *place);
        let began = Instant::now();
        let _beat = self.pulse.begin(model);
        let texts: Vec<&str> = places
            .iter()
            .filter_map(|(place, ..)| match &self.running[*place].work {
                Work::Text(text) => Some(text.text.as_str()),
                _ => None,
            })
            .collect();
        let run = || results(embedder, &texts, wanted);
        let results = catch_unwind(AssertUnwindSafe(|| self.threads.install(run)));
        let results = results.unwrap_or_else(|_| vec![Err(StreamError::Panicked); places.len()]);
        let step = StepTime {
            wrote: 0,
            read: places.iter().map(|(_, tokens, _)| tokens).sum(),
            took: began.elapsed(),
        };
        let charge = |(place, tokens, _): &(usize, usize, Encoding)| {
            (self.running[*place].standing.user.clone(), *tokens)
        };
        let charges: Vec<_> = places.iter().map(charge).collect();
        self.queue.learn(model, step, MOST_ENCODED, &charges);
        for ((place, ..), result) in places.into_iter().zip(results).rev() {
            let entry = self.running.remove(place);
            let ending = result.map(|result| {
                entry.mailbox.result(result);
                (FinishReason::Stop, None)
            });
            self.end(entry, ending);
        }
    }
}

fn push(entry: &mut Entry, token: Token, queue: &super::queue::Queue) {
    if let Some(observed) = entry.watch.token() {
        queue.first_token(entry.model, entry.predicted, observed);
    }
    entry.mailbox.push(token);
}

/// Each text's result. One that cannot be encoded does not fail the others.
fn results(
    embedder: &Embedder,
    texts: &[&str],
    wanted: Encoding,
) -> Vec<Result<TaskResult, StreamError>> {
    let together = match wanted {
        Encoding::Embedding => embedder.embed(texts).map(|all| {
            all.into_iter()
                .map(TaskResult::Embedding)
                .collect::<Vec<_>>()
        }),
        Encoding::Tags => embedder.tag(texts).map(|all| {
            let spans = |labels: Vec<crate::embedder::LabelledToken>| {
                let span =
                    |l: crate::embedder::LabelledToken| (l.bytes.start, l.bytes.end, l.label);
                TaskResult::Tags(labels.into_iter().map(span).collect())
            };
            all.into_iter().map(spans).collect()
        }),
    };
    match together {
        Ok(results) => results.into_iter().map(Ok).collect(),
        Err(_) if texts.len() > 1 => texts
            .iter()
            .flat_map(|text| results(embedder, &[text], wanted))
            .collect(),
        Err(EmbedError::NotANumber { .. }) => vec![Err(NotANumber { position: 0 }.into())],
        Err(_) => vec![Err(StreamError::NotUsable)],
    }
}
