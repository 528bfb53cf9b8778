//! Notices a step that does not end.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::prefix::PrefixStats;

/// A step that takes this long is stuck: the slowest that is meant to be
/// takes a fraction of a second.
const STUCK: Duration = Duration::from_secs(30);
/// It is looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// What the computing thread lets others see, a step at a time.
#[derive(Default)]
pub(crate) struct Pulse {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    step: Option<(Instant, usize)>,
    told: bool,
    prefix: PrefixStats,
}

/// A step under way.
pub(crate) struct Beat(Arc<Pulse>);

impl Pulse {
    pub(crate) fn begin(self: &Arc<Self>, model: usize) -> Beat {
        let mut state = self.lock();
        state.step = Some((Instant::now(), model));
        state.told = false;
        Beat(Arc::clone(self))
    }

    pub(crate) fn publish(&self, prefix: PrefixStats) {
        self.lock().prefix = prefix;
    }

    pub(crate) fn prefix(&self) -> PrefixStats {
        self.lock().prefix
    }

    /// How long the step under way has taken, if that is too long.
    pub(crate) fn stuck(&self) -> Option<Duration> {
        let state = self.lock();
        let took = state.step.map(|(began, _)| began.elapsed());
        took.filter(|took| *took >= STUCK)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.lock().step = None;
    }
}

/// Reports stuck steps until the engine is gone.
pub(crate) fn watch(pulse: &Weak<Pulse>) {
    while let Some(pulse) = pulse.upgrade() {
        if let Some(stuck) = pulse.stuck() {
            let mut state = pulse.lock();
            let model = state.step.map(|(_, model)| model);
            if !std::mem::replace(&mut state.told, true) {
                tracing::error!(
                    model,
                    for_s = stuck.as_secs(),
                    "an inference step does not end; its streams wait"
                );
            }
        }
        drop(pulse);
        std::thread::sleep(LOOK);
    }
}
