//! What a run takes, told with its end; and that it is bounded as its file says, for as long as it lives.

use std::time::Duration;

use super::{Supervisor, now};
use crate::{
    control::types::{Limit, Process, ServiceStatus},
    launch::limits::{self, Found},
    machine::{Cause, ExitKind, RunId, State, Usage, fleet::Report},
    plan::render,
    spec::{Limits, UnitName},
};

impl Supervisor {
    /// The main process has ended: what the run took goes before the news of its end.
    pub(super) fn exited(&mut self, name: &UnitName, run: RunId, kind: ExitKind) {
        let used = self.used(name);
        let is_killed = matches!(kind, ExitKind::Signal(libc::SIGKILL) | ExitKind::Unknown);
        let cause = match is_killed && used.oom_kills > 0 {
            true => self.cause(name),
            false => None,
        };
        self.note_usage(name, cause);
        // The kernel has said who killed it, where the init died with it and could not.
        let kind = if cause.is_some() { ExitKind::Signal(libc::SIGKILL) } else { kind };
        self.report(name, Report::Exited(run, kind));
    }

    pub(super) fn note_usage(&mut self, name: &UnitName, cause: Option<Cause>) {
        let used = self.used(name);
        if let Some(run) = self.runs.get(name) {
            self.report(name, Report::Used(run.run, used, cause));
        }
    }

    fn cause(&self, name: &UnitName) -> Option<Cause> {
        let group = self.runs.get(name)?.traces.cgroup.as_ref()?;
        Some(match self.launcher.tree()?.is_out_of_memory(group) {
            true => Cause::MemoryMax,
            false => Cause::MemoryElsewhere,
        })
    }

    /// What this run has taken so far.
    fn used(&self, name: &UnitName) -> Usage {
        let before = self.runs.get(name).map(|run| run.before).unwrap_or_default();
        self.used_in_all(name).since(&before)
    }

    /// What all runs in this sandbox have taken. Where the group does not say, the main process's last words do.
    pub(super) fn used_in_all(&self, name: &UnitName) -> Usage {
        let Some(run) = self.runs.get(name) else { return Usage::default() };
        let group = self.launcher.tree().zip(run.traces.cgroup.as_ref());
        let mut usage = group.map(|(tree, group)| tree.usage(group)).unwrap_or_default();
        let Some(words) = run.last_words() else { return usage };
        if group.is_none() {
            (usage.cpu_user_usec, usage.cpu_system_usec) = (words.user_us, words.system_us);
        }
        usage.memory_peak = usage.memory_peak.or(Some(words.max_rss_kib * 1024));
        usage
    }

    /// Limits are a state, not an event: what a run that was taken over is bounded by is looked at, and put right with
    /// an alarm where somebody has changed it meanwhile (the class of CVE-2020-27352).
    pub(super) fn verify_limits(&self, name: &UnitName) {
        let Some((limits, group)) = self.limited(name) else { return };
        for knob in limits.knobs() {
            let what = format!("{} {}", knob.file, render::value(&knob.value));
            match limits::verify(&group, &knob) {
                Ok(Found::AsItShouldBe) => {}
                Ok(Found::Other(found)) => {
                    tracing::error!(unit = %name, "its limit {what} was {found:?}, and is set again");
                    self.set(name, &group, &knob);
                }
                Err(error) => tracing::error!(unit = %name, "its limit {what} is not enforced: {error}"),
            }
        }
    }

    /// How the runs that live are bounded.
    pub(super) fn bounded(&self) -> Vec<(UnitName, Limits)> {
        let limits = |name: &UnitName| Some((name.clone(), self.fleet.entry(name)?.unit.limits.clone()));
        self.runs.keys().filter_map(limits).collect()
    }

    /// A new file bounds a run that lives in another way. What only the old one says goes back to the kernel's own value.
    pub(super) fn change_limits(&self, name: &UnitName, old: &Limits) {
        let Some((new, group)) = self.limited(name) else { return };
        for knob in limits::difference(old, &new) {
            self.set(name, &group, &knob);
        }
    }

    fn set(&self, name: &UnitName, group: &std::path::Path, knob: &crate::spec::limits::Knob) {
        if let Err(error) = limits::set_at(group, knob) {
            tracing::error!(unit = %name, "its limit was not set: {error}");
        }
    }

    /// What bounds a service, and the directory of its group, while it has one.
    fn limited(&self, name: &UnitName) -> Option<(Limits, std::path::PathBuf)> {
        let limits = self.fleet.entry(name)?.unit.limits.clone();
        let group = self.runs.get(name)?.traces.cgroup.as_ref()?;
        Some((limits, self.launcher.tree()?.path(group)))
    }

    /// Adds to a status what has to be asked of the kernel.
    pub(super) fn with_limits(&self, name: &UnitName, status: ServiceStatus) -> ServiceStatus {
        let Some(limits) = self.fleet.entry(name).map(|entry| &entry.unit.limits) else { return status };
        let group = self.limited(name).map(|(_, group)| group);
        let usage = self.runs.contains_key(name).then(|| self.used(name));
        let up = self.fleet.entry(name).and_then(|entry| match entry.life.state {
            State::Running { since, .. } => Some(now().since(since)),
            _ => None,
        });
        let average = usage.zip(up).map(|(usage, up)| percent(usage, up));
        let mut all: Vec<Limit> = Vec::new();
        for knob in limits.knobs() {
            let enforced = group.as_ref().and_then(|group| limits::read_at(group, knob.file));
            let asked = render::value(&knob.value);
            let used = match knob.file {
                "cpu.max" => average.clone(),
                file => {
                    group.as_ref().zip(counter(file)).and_then(|(group, file)| limits::read_at(group, file))
                }
            };
            all.push(Limit { key: knob.file.to_owned(), asked, enforced, used, why: None });
        }
        for bent in &limits.bent {
            all.push(Limit {
                key: bent.key.clone(),
                asked: bent.asked.clone(),
                enforced: bent.enforced.clone(),
                used: None,
                why: Some(bent.why.clone()),
            });
        }
        ServiceStatus { usage, limits: all, processes: self.processes(name), ..status }
    }

    /// The processes of a service. Nothing is read of what they have in memory, their command lines neither: a process may
    /// have that lie where whoever reads it waits for ever (userfaultfd(2), FUSE), and here nobody may wait.
    pub(super) fn processes(&self, name: &UnitName) -> Vec<Process> {
        let group = self.runs.get(name).and_then(|run| run.traces.cgroup.as_ref());
        let Some((tree, group)) = self.launcher.tree().zip(group) else { return Vec::new() };
        let mut pids = tree.processes(group);
        pids.sort_unstable();
        pids.into_iter().take(PROCESSES).filter_map(process).collect()
    }
}

/// Processes of one service that are told.
pub(super) const PROCESSES: usize = 128;

/// Where the kernel counts what a limit bounds.
fn counter(file: &str) -> Option<&'static str> {
    match file {
        "memory.max" | "memory.high" => Some("memory.current"),
        "memory.swap.max" => Some("memory.swap.current"),
        "pids.max" => Some("pids.current"),
        _ => None,
    }
}

/// CPU time as a share of one CPU since the start of a run.
fn percent(usage: Usage, up: Duration) -> String {
    let usec = u128::from(usage.cpu_user_usec) + u128::from(usage.cpu_system_usec);
    format!("{}%", usec * 100 / up.as_micros().max(1))
}

/// One process, of which nothing is left where it has ended meanwhile.
fn process(pid: u32) -> Option<Process> {
    // proc_pid_status(5): only the name may have anything in it, and control characters of it are escaped.
    let text = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    Some(Process {
        pid: pid.try_into().ok()?,
        parent: field("PPid:")?.parse().ok()?,
        // The innermost comes last.
        inside: field("NSpid:").and_then(|pids| pids.split_whitespace().last()?.parse().ok()),
        name: field("Name:")?.to_owned(),
        memory: field("VmRSS:")
            .and_then(|size| size.strip_suffix(" kB")?.parse::<u64>().ok())
            .unwrap_or_default()
            * 1024,
    })
}
