//! When to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Why a daemon stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Ctrl-C.
    Interrupt,
    /// The service manager asks.
    Terminate,
    /// The system lets nobody listen for signals.
    NoSignals,
}

/// Resolves at the first Ctrl-C or SIGTERM.
pub async fn stop_requested() -> StopReason {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return StopReason::NoSignals;
    };
    tokio::select! {
        _ = interrupt.recv() => StopReason::Interrupt,
        _ = terminate.recv() => StopReason::Terminate,
    }
}
