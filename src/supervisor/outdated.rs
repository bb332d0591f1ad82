//! Whether what runs of a service is what would be started now.
//!
//! A package upgrade puts other programs in the place of those that run, and another Palisade makes other sandboxes. Where
//! libraries were replaced stands in proc_pid_maps(5), which is not read here: the kernel takes a lock of the memory of
//! the process for it, and who holds that, in a page fault that lasts, would hold up everybody. The command line looks.

use std::{collections::BTreeSet, os::unix::ffi::OsStrExt};

use super::{Supervisor, limits::PROCESSES};
use crate::spec::UnitName;

/// Which Palisade this is.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Programs of one service that are named.
const PROGRAMS: usize = 8;

impl Supervisor {
    /// Why a restart would start something else than runs now, for people; empty: it would not, or nothing runs.
    pub(super) fn outdated(&self, name: &UnitName) -> Vec<String> {
        let Some(run) = self.runs.get(name).filter(|run| !run.is_over) else { return Vec::new() };
        // What serves a connection ends with it, and is not started again.
        if name.is_connection() {
            return Vec::new();
        }
        let group = run.traces.cgroup.as_ref();
        let pids = match self.launcher.tree().zip(group) {
            Some((tree, group)) => tree.processes(group),
            None => run.main.into_iter().collect(),
        };
        let programs: BTreeSet<String> = pids.into_iter().take(PROCESSES).filter_map(replaced).collect();
        let mut reasons: Vec<String> = programs
            .into_iter()
            .take(PROGRAMS)
            .map(|path| format!("program {path} was replaced or removed on the disk since it was started"))
            .collect();
        match run.version.as_deref() {
            Some(VERSION) => {}
            Some(other) => {
                reasons.push(format!("its sandbox was made by Palisade {other}, and this is {VERSION}"));
            }
            None => {
                reasons.push(format!("its sandbox was made by an older Palisade, and this is {VERSION}"));
            }
        }
        reasons
    }
}

/// The program of a process, where it has no name on the disk any more. No lock of the process's memory is taken for it.
fn replaced(pid: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // proc_pid_exe(5). What was executed from memory, as our init is, has never had one: memfd_create(2).
    let path = link.as_os_str().as_bytes().strip_suffix(b" (deleted)")?;
    (!path.starts_with(b"/memfd:")).then(|| String::from_utf8_lossy(path).into_owned())
}
