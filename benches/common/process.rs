//! What processes cost, from `/proc`.

use anyhow::Context as _;
use std::path::Path;

/// A clock tick of `/proc/stat`, in microseconds: Linux reports 100 a second
/// on every architecture we run on.
const TICK_US: f64 = 10_000.0;

/// CPU time of a process's living threads in microseconds, user and system
/// together, with the scheduler's own resolution. A pool thread that ends
/// takes its time with it; what we measure keeps its threads.
pub(crate) fn cpu_us(pid: u32) -> anyhow::Result<f64> {
    let tasks = format!("/proc/{pid}/task");
    let mut nanos = 0_u64;
    for task in std::fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
        // A thread may end between the listing and here.
        let Ok(line) = std::fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let on_cpu = line.split_whitespace().next().unwrap_or("0");
        nanos += on_cpu.parse::<u64>()?;
    }
    Ok(nanos as f64 / 1e3)
}

/// CPU time of the whole machine that was not idle, in microseconds: every
/// process, interrupts, and what the hypervisor took.
pub(crate) fn machine_us() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    // user nice system idle iowait irq softirq steal; guests are in user.
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|&at| ticks.get(at));
    Ok(busy.sum::<f64>() * TICK_US)
}

/// Resident memory in MiB.
pub(crate) fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let path = Path::new("/proc").join(pid.to_string()).join("status");
    let text = std::fs::read_to_string(&path)?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
