//! What the other walls have refused to services: calls, processes, memory, files that are not there; and which line of which
//! file decides it.
//!
//! Calls, and what a Landlock domain denies, are told of by the kernel's audit log, which says by the id who it was: that of a
//! range is one service's. Of the rest the kernel keeps count, or a failed launch has said it.

use std::{collections::BTreeMap, os::fd::BorrowedFd};

use super::{
    Supervisor,
    denials::{MOST, Side, nothing},
    now,
    requests::moment,
    runs::LiveRun,
};
use crate::{
    config::settings::IDS_PER_SERVICE,
    control::types::{self, Layer, Verdict},
    launch::limits,
    machine::{Cause, Mono},
    net::audit::{Access, Audit, Call, Line},
    plan,
    seccomp::{self, Decides},
    spec::{Unit, UnitName, UserNamespace},
};

/// Milliseconds between two looks at the log: who makes nothing but calls that are refused is not to keep us busy. What
/// comes faster than it is read is lost.
const PAUSE: u64 = 100;
/// So many Landlock domains are known at a time.
const DOMAINS: usize = 4096;

/// What was refused, by service.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// None: the kernel has none, or lets us not hear it.
    audit: Option<Audit>,
    recent: BTreeMap<UnitName, Vec<Refused>>,
    /// Whose the Landlock domains are that have denied something.
    domains: BTreeMap<u64, UnitName>,
    /// What was denied by those of which that is yet to be told.
    early: Vec<(u64, Access)>,
    /// Until when the log is not looked at.
    rests: Option<Mono>,
}

/// The same, so many times.
#[derive(Clone, Debug)]
struct Refused {
    what: What,
    count: u64,
    last: Mono,
}

#[derive(Clone, Debug)]
enum What {
    Call(Call),
    Access(Access),
}

impl What {
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            // Which process it was does not matter.
            (Self::Call(a), Self::Call(b)) => {
                (&a.program, a.arch, a.number, a.action) == (&b.program, b.arch, b.number, b.action)
            }
            (Self::Access(a), Self::Access(b)) => a == b,
            (Self::Call(_), Self::Access(_)) | (Self::Access(_), Self::Call(_)) => false,
        }
    }
}

impl Refusals {
    pub(super) fn open() -> Self {
        let audit = Audit::open();
        let audit = audit.inspect_err(|error| tracing::debug!("the audit log is not heard: {error}"));
        Self { audit: audit.ok(), ..Self::default() }
    }

    /// Readable when the log has something to tell.
    pub(super) fn interest(&self) -> Option<BorrowedFd<'_>> {
        self.audit.as_ref().filter(|_| self.deadline().is_none()).map(Audit::fd)
    }

    /// When it is looked at again; none: it is looked at.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.rests.filter(|until| *until > now())
    }

    /// Of services that are gone for good nobody asks.
    pub(super) fn forget_all_but(&mut self, units: &BTreeMap<UnitName, Unit>) {
        self.recent.retain(|name, _| units.contains_key(name));
        self.domains.retain(|_, name| units.contains_key(name));
    }

    fn note(&mut self, name: &UnitName, what: What, now: Mono) {
        let all = self.recent.entry(name.clone()).or_default();
        let known = all.iter().position(|known| known.what.is_like(&what)).map(|at| all.remove(at));
        if all.len() >= MOST {
            // In the order of their last time.
            all.remove(0);
        }
        all.push(Refused { what, count: known.map_or(0, |known| known.count).saturating_add(1), last: now });
    }

    fn note_access(&mut self, domain: u64, access: Access, now: Mono) {
        match self.domains.get(&domain).cloned() {
            Some(name) => self.note(&name, What::Access(access), now),
            None if self.early.len() < MOST => self.early.push((domain, access)),
            None => {}
        }
    }

    fn note_domain(&mut self, domain: u64, name: UnitName, now: Mono) {
        // A run has one, and of those that are over nothing more is told.
        if self.domains.len() >= DOMAINS {
            self.domains.pop_first();
        }
        self.domains.insert(domain, name);
        for (domain, access) in std::mem::take(&mut self.early) {
            self.note_access(domain, access, now);
        }
    }
}

impl Supervisor {
    /// Takes in what the audit log tells.
    pub(super) fn hear_audit(&mut self) {
        let Some(audit) = &mut self.refusals.audit else { return };
        let lines = match audit.read() {
            Ok(lines) => lines,
            Err(error) => {
                tracing::error!("the audit log is not heard any more: {error}");
                self.refusals.audit = None;
                return;
            }
        };
        self.refusals.rests = Some(Mono(now().0 + PAUSE));
        for line in lines {
            match line {
                Line::Call(call) => {
                    if let Some(name) = self.of_id(call.uid, Some(call.pid)) {
                        self.refusals.note(&name, What::Call(call), now());
                    }
                }
                Line::Domain(domain, uid) => {
                    if let Some(name) = self.of_id(uid, None) {
                        self.refusals.note_domain(domain, name, now());
                    }
                }
                Line::Access(domain, access) => self.refusals.note_access(domain, access, now()),
            }
        }
    }

    /// The service that has this id, or this main process.
    fn of_id(&self, uid: u32, pid: Option<u32>) -> Option<UnitName> {
        let is_its = |run: &LiveRun| run.main.is_some() && run.main == pid;
        let slot = uid.checked_sub(self.settings.id_base).map(|offset| offset / IDS_PER_SERVICE);
        let of_range = slot.and_then(|slot| {
            let holder = self.assigned.ids.iter().find(|(_, held)| **held == slot).map(|(name, _)| name)?;
            // Others may share it, and it may not run itself.
            let has_it = |name: &UnitName| {
                let shares = |unit: &Unit| unit.namespaces.user == UserNamespace::Shared(holder.clone());
                name == holder || self.fleet.entry(name).is_some_and(|entry| shares(&entry.unit))
            };
            let all = || self.runs.iter().filter(|(name, _)| has_it(name));
            all().find(|(_, run)| is_its(run)).or_else(|| all().next())
        });
        let found = of_range.or_else(|| self.runs.iter().find(|(_, run)| is_its(run)));
        found.map(|(name, _)| name.base())
    }

    /// What a service was refused lately by other walls than the packet filter, with what decides it.
    pub(super) fn refused(&mut self, name: &UnitName) -> Vec<types::Refusal> {
        self.hear_audit();
        let base = name.base();
        let Some(entry) = self.fleet.entry(name) else { return Vec::new() };
        let file = self.files.get(&base).map(|path| path.display().to_string());
        let side = Side { name: &base, places: self.denials.places.get(&base), file };
        let mut all = Vec::new();
        let told = self.refusals.recent.get(&base).into_iter().flatten().rev();
        all.extend(told.map(|Refused { what, count, last }| {
            let (layer, what, verdict) = match what {
                What::Call(call) => of_call(call, &entry.unit, &side),
                What::Access(access) => of_access(access, &side),
            };
            refusal((layer, what), (*count, Some(*last)), verdict)
        }));
        let killed = entry.history.iter().rev().find(|past| past.cause == Some(Cause::MemoryMax));
        all.extend(killed.map(|past| {
            let verdict = side.says("limits.memory.max");
            let what = format!("memory.max: run {} was killed", past.run.0);
            refusal((Layer::Cgroup, what), (1, Some(past.ended)), verdict)
        }));
        let group = self.runs.get(name).and_then(|run| {
            let group = run.traces.cgroup.as_ref()?;
            Some(self.launcher.tree()?.path(group))
        });
        let events = group.and_then(|group| limits::read_at(&group, "pids.events"));
        let count = events.as_deref().and_then(|text| text.strip_prefix("max ")?.trim().parse().ok());
        all.extend(count.filter(|count| *count > 0).map(|count: u64| {
            let what = "pids.max: no further process".to_owned();
            refusal((Layer::Cgroup, what), (count, None), side.says("limits.pids.max"))
        }));
        let fault = self.faults.get(name).filter(|fault| fault.errno == Some(libc::ENOENT));
        all.extend(fault.and_then(|fault| {
            let key = plan::key_of(fault.step.rsplit(' ').next()?)?;
            let mut verdict = side.says(key);
            if let Some(hint) = &fault.hint {
                verdict.why = format!("{}: {hint}", verdict.why);
            }
            let what = format!("{}: no such file", fault.object);
            Some(refusal((Layer::Root, what), (1, None), verdict))
        }));
        all
    }
}

fn refusal(
    (layer, what): (Layer, String),
    (count, last): (u64, Option<Mono>),
    verdict: Verdict,
) -> types::Refusal {
    types::Refusal { layer, what, count, last: last.map(moment), verdict }
}

/// Of files the mounts decide, which the domain is made of.
fn of_access(Access { rights, object }: &Access, side: &Side<'_>) -> (Layer, String, Verdict) {
    let key = if rights.starts_with("fs.") { "rootfs.mounts" } else { "security.landlock" };
    let what = if object.is_empty() { rights.clone() } else { format!("{rights} of {object}") };
    (Layer::Landlock, what, side.says(key))
}

fn of_call(call: &Call, unit: &Unit, side: &Side<'_>) -> (Layer, String, Verdict) {
    let name = seccomp::call(call.arch, call.number);
    let shown = name.map_or_else(|| format!("call {}", call.number), str::to_owned);
    let what = format!("{shown} by {}", call.program);
    let mut layer = Layer::Seccomp;
    let verdict = match name.map(|name| (name, seccomp::decides(&plan::filter_policy(unit), call.arch, name)))
    {
        None => nothing("this version of Palisade does not know the call"),
        Some((_, Decides::Abi)) => side.says("security.native_abi_only"),
        Some((_, Decides::Kill)) => side.says("security.seccomp"),
        Some((_, Decides::Arguments(""))) => nothing("no key allows that on a terminal"),
        Some((_, Decides::Arguments(key))) => {
            let mut verdict = side.says(key);
            verdict.why += ": not with these arguments";
            verdict
        }
        Some((_, Decides::Capability(capability))) => {
            layer = Layer::Capability;
            side.lacks("security.capabilities", Some(capability.to_owned()))
        }
        Some((name, Decides::List)) => side.lacks("security.seccomp", Some(name.to_owned())),
    };
    (layer, what, verdict)
}
