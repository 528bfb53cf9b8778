//! What a process holds in memory, from `/proc`.

use anyhow::Context as _;

/// Memory of a process in MiB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident_mib: f64,
    /// Its own: heap and stacks.
    pub(crate) anonymous_mib: f64,
    /// Pages of mapped files.
    pub(crate) file_mib: f64,
    /// The most it ever held.
    pub(crate) peak_mib: f64,
    /// Resident memory, each page divided by the processes that share it.
    pub(crate) proportional_mib: f64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let status = read(pid, "status")?;
        let rollup = read(pid, "smaps_rollup")?;
        Ok(Self {
            resident_mib: mib(&status, "VmRSS:")?,
            anonymous_mib: mib(&status, "RssAnon:")?,
            file_mib: mib(&status, "RssFile:")?,
            peak_mib: mib(&status, "VmHWM:")?,
            proportional_mib: mib(&rollup, "Pss:")?,
        })
    }
}

fn read(pid: u32, file: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

fn mib(text: &str, key: &str) -> anyhow::Result<f64> {
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(key));
    let kib = value.and_then(|rest| rest.split_whitespace().next());
    Ok(kib.with_context(|| format!("no {key}"))?.parse::<f64>()? / 1024.0)
}

/// Empties the system's cache of file pages, where we may: a start after it
/// reads from disk. Pages that a process has mapped stay.
pub(crate) fn drop_page_cache() -> bool {
    std::fs::write("/proc/sys/vm/drop_caches", "1").is_ok()
}
