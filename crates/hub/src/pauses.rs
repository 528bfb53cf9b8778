//! When to try again, and when not any more.

use super::HubError;
use super::config::Patience;
use std::time::Duration;

/// Why a request has no answer, and whether another try may have one.
pub(crate) enum Failure {
    /// Waiting may help; the hub may have said how long.
    Passing(HubError, Option<Duration>),
    /// It will be the same again.
    Lasting(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Lasting(error)
    }
}

/// The pauses between tries: each twice the one before, and a bounded number
/// of them.
pub(crate) struct Pauses {
    patience: Patience,
    tries: u32,
}

impl Pauses {
    pub(crate) fn new(patience: Patience) -> Self {
        Self { patience, tries: 1 }
    }

    /// Progress was made: the count starts again.
    pub(crate) fn forget(&mut self) {
        self.tries = 1;
    }

    /// Waits for the next try.
    ///
    /// # Errors
    /// The failure's, if another try is useless, one too many, or to come
    /// later than anybody would wait here.
    pub(crate) async fn pause(&mut self, failure: Failure) -> Result<(), HubError> {
        let (error, asked) = match failure {
            Failure::Lasting(error) => return Err(error),
            Failure::Passing(error, asked) => (error, asked),
        };
        match self.next(asked) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return Err(error),
        }
        Ok(())
    }

    fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let Patience {
            attempts,
            first,
            most,
            ..
        } = self.patience;
        if self.tries >= attempts || asked.is_some_and(|asked| asked > most) {
            return None;
        }
        let doubled = first.saturating_mul(1 << (self.tries - 1).min(16));
        self.tries += 1;
        Some(doubled.max(asked.unwrap_or_default()).min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_obey_the_hub_and_end() {
        let seconds = Duration::from_secs;
        let patience = Patience {
            attempts: 4,
            first: seconds(1),
            most: seconds(60),
            silence: seconds(1),
        };
        let mut pauses = Pauses::new(patience);
        assert_eq!(pauses.next(None), Some(seconds(1)));
        assert_eq!(pauses.next(Some(seconds(30))), Some(seconds(30)));
        assert_eq!(pauses.next(None), Some(seconds(4)));
        assert_eq!(pauses.next(None), None);
        pauses.forget();
        assert_eq!(pauses.next(Some(seconds(61))), None);
        assert_eq!(pauses.next(None), Some(seconds(1)));
    }
}
