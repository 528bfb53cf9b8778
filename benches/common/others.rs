//! What ran on the machine beside both sides of a measurement.

use crate::process::machine_us;
use anyhow::Context as _;
use std::time::Instant;

/// A clock tick of `/proc/PID/stat`, in microseconds.
const TICK_US: f64 = 10_000.0;

/// A stretch of time, and the processes in it that are the measurement's own.
pub(crate) struct Watch {
    pids: Vec<u32>,
    began: Instant,
    busy_us: f64,
    own_us: f64,
}

impl Watch {
    /// Begins with this process and these others.
    pub(crate) fn start(peers: impl IntoIterator<Item = u32>) -> anyhow::Result<Self> {
        let mut pids: Vec<u32> = peers.into_iter().collect();
        pids.push(std::process::id());
        Ok(Self {
            began: Instant::now(),
            busy_us: machine_us()?,
            own_us: own_us(&pids)?,
            pids,
        })
    }

    /// How much of a core everything else took so far, in percent.
    pub(crate) fn others_percent(&self) -> anyhow::Result<f64> {
        let own = own_us(&self.pids)? - self.own_us;
        let others = machine_us()? - self.busy_us - own;
        let us = self.began.elapsed().as_secs_f64() * 1e6;
        Ok((others / us * 100.0).max(0.0))
    }
}

/// CPU time of processes, threads that ended included.
fn own_us(pids: &[u32]) -> anyhow::Result<f64> {
    pids.iter().map(|pid| cpu_us(*pid)).sum()
}

fn cpu_us(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The second field is the command's name, in brackets; after it come the
    // third and so on. User and system time are the 14th and 15th.
    let (_, fields) = text
        .rsplit_once(')')
        .with_context(|| format!("odd {path}"))?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(|field| field.parse().unwrap_or(0.0));
    Ok(ticks.sum::<f64>() * TICK_US)
}
