//! All live runs, and which of them has something to tell.
//!
//! A run has some five descriptors, so what a wake-up costs must not depend on how many runs there are: theirs are in one
//! epoll set, which the loop waits for as for any other descriptor. Whoever is to be changed is taken out of the set first,
//! while its descriptors are still open, and put in again before the next wait: a descriptor that somebody else has as well
//! (an init keeps ends of what it was given) would stay in the set when it is closed here, and tell of itself for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::MaybeUninit,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::{PollFlags, epoll};

use super::runs::{LiveRun, Part};
use crate::{control::server::Readiness, spec::UnitName};

/// So many are heard at a time; who is left is heard the next time.
const AT_ONCE: usize = 1024;
/// A run has fewer descriptors than this.
const PARTS: u64 = 64;

/// The live runs, by their names.
#[derive(Debug, Default)]
pub(super) struct Runs {
    all: BTreeMap<UnitName, LiveRun>,
    /// None where the kernel has no room for one: then all runs are polled.
    set: Option<OwnedFd>,
    /// Those that are not in the set.
    out: BTreeSet<UnitName>,
    /// Those that are, and the number that their descriptors have there, times [`PARTS`].
    heard: BTreeMap<UnitName, u64>,
    /// The same the other way round, with what each of the descriptors is.
    numbers: BTreeMap<u64, (UnitName, Vec<Part>)>,
    next: u64,
    /// Those that time may move, whatever their services' files say.
    timed: BTreeSet<UnitName>,
}

impl Deref for Runs {
    type Target = BTreeMap<UnitName, LiveRun>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl Runs {
    /// Nobody, and a set to put them in.
    pub(super) fn open() -> Self {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC);
        let set = set.inspect_err(|errno| tracing::warn!("every run is polled: epoll_create1: {errno}"));
        Self { set: set.ok(), ..Self::default() }
    }

    /// One of them, to be changed.
    pub(super) fn get_mut(&mut self, name: &UnitName) -> Option<&mut LiveRun> {
        self.take_out(name);
        self.all.get_mut(name)
    }

    /// One more.
    pub(super) fn insert(&mut self, name: UnitName, run: LiveRun) -> Option<LiveRun> {
        self.take_out(&name);
        self.out.insert(name.clone());
        self.all.insert(name, run)
    }

    /// One less.
    pub(super) fn remove(&mut self, name: &UnitName) -> Option<LiveRun> {
        self.take_out(name);
        self.out.remove(name);
        self.timed.remove(name);
        self.all.remove(name)
    }

    /// Two names change places.
    pub(super) fn change_places(&mut self, a: &UnitName, b: &UnitName) {
        let (of_a, of_b) = (self.remove(a), self.remove(b));
        for (name, run) in [(b, of_a), (a, of_b)] {
            if let Some(run) = run {
                self.insert(name.clone(), run);
            }
        }
    }

    fn take_out(&mut self, name: &UnitName) {
        let Some(number) = self.heard.remove(name) else { return };
        self.numbers.remove(&number);
        let Some(run) = self.all.get(name) else { return };
        if let Some(set) = &self.set {
            for (_, fd, _) in run.interests() {
                // ENOENT: one that could not be put in.
                let _ = epoll::delete(set, fd);
            }
        }
        self.out.insert(name.clone());
    }

    /// Those that wait for a moment of their own.
    pub(super) fn timed(&self) -> impl Iterator<Item = (&UnitName, &LiveRun)> {
        self.timed.iter().filter_map(|name| self.all.get_key_value(name))
    }

    /// Puts in whoever is out, and sees who waits for a moment; to be done before each wait.
    pub(super) fn settle(&mut self) {
        for name in &self.out {
            match self.all.get(name).is_some_and(LiveRun::is_timed) {
                true => drop(self.timed.insert(name.clone())),
                false => drop(self.timed.remove(name)),
            }
        }
        let Some(set) = &self.set else { return };
        let out = std::mem::take(&mut self.out);
        for name in out {
            let Some(run) = self.all.get(&name) else { continue };
            let number = self.next;
            self.next += 1;
            let mut parts = Vec::new();
            let put_in = run.interests().try_for_each(|(part, fd, flags)| {
                let token = number * PARTS + parts.len() as u64;
                parts.push(part);
                let flags = if flags.contains(PollFlags::PRI) {
                    epoll::EventFlags::PRI
                } else {
                    epoll::EventFlags::IN
                };
                epoll::add(set, fd, epoll::EventData::new_u64(token), flags)
            });
            if let Err(errno) = put_in {
                // Polled by itself, and tried again: the kernel's memory, or its limit of what is in such sets.
                tracing::debug!(unit = %name, "not put into the epoll set: {errno}");
                for (_, fd, _) in run.interests() {
                    let _ = epoll::delete(set, fd);
                }
                self.out.insert(name);
                continue;
            }
            self.heard.insert(name.clone(), number);
            self.numbers.insert(number, (name, parts));
        }
    }

    /// The set: readable when one of those in it has something to tell.
    pub(super) fn set(&self) -> Option<BorrowedFd<'_>> {
        self.set.as_ref().map(AsFd::as_fd)
    }

    /// Those that have to be polled by themselves.
    pub(super) fn unheard(&self) -> impl Iterator<Item = (&UnitName, &LiveRun)> {
        self.out.iter().filter_map(|name| self.all.get_key_value(name))
    }

    /// Who has something to tell, by name.
    pub(super) fn ready(&self) -> Vec<(&UnitName, Part, Readiness)> {
        let Some(set) = &self.set else { return Vec::new() };
        let mut events = vec![MaybeUninit::<epoll::Event>::uninit(); AT_ONCE];
        // It is known to be readable; EINTR and the like are heard the next time.
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let events = epoll::wait(set, &mut events[..], Some(&now)).map_or(&mut [][..], |(events, _)| events);
        let mut ready: Vec<_> = events
            .iter()
            .filter_map(|event| {
                let (token, flags) = (event.data.u64(), event.flags);
                let (name, parts) = self.numbers.get(&(token / PARTS))?;
                let index = usize::try_from(token % PARTS).ok()?;
                let readiness = Readiness {
                    readable: flags.contains(epoll::EventFlags::IN),
                    writable: false,
                    hangup: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
                };
                Some(((name, index), *parts.get(index)?, readiness))
            })
            .collect();
        ready.sort_by_key(|(order, ..)| *order);
        ready.into_iter().map(|((name, _), part, readiness)| (name, part, readiness)).collect()
    }
}
