//! What the clock asks of the fleet: timers that come into force, elapse, and start their services.

use std::collections::BTreeMap;

use super::{Entry, Fleet, News, Notice, Outcome, Shutdown, Taken, verbs};
use crate::{
    calendar::Zones,
    machine::{
        By, Event, Mono, State,
        fleet::Goal,
        timer::{Clocks, Ended, Late, Moments, Progress, Real, Stamp},
    },
    spec::{Activation, Overlap, Timer, Unit, UnitName},
};

impl Fleet {
    /// What calendars are read by from now on; whoever sets it tells the time next.
    pub fn set_zones(&mut self, zones: Zones) {
        if self.zones == zones {
            return;
        }
        self.zones = zones;
        let timed = self.entries.stirring().filter(|entry| entry.timer.is_some());
        for name in timed.map(|entry| entry.unit.name.clone()).collect::<Vec<_>>() {
            if let Some(progress) = self.entries.get_mut(&name).and_then(|entry| entry.timer.as_mut()) {
                progress.is_reckoned = false;
            }
        }
    }

    /// The zones that some calendar names.
    pub fn zones_named(&self) -> impl Iterator<Item = &str> {
        let timers = self.entries.values().filter_map(|entry| entry.unit.timer.as_ref());
        timers.flat_map(|timer| {
            timer.calendars.iter().filter_map(|calendar| calendar.zone()).chain(timer.timezone.as_deref())
        })
    }

    /// When the next [`super::Input::Clock`] is due: a point of civil time.
    pub fn next_moment(&self) -> Option<Real> {
        self.in_force().filter_map(|(.., progress)| progress.next).min()
    }

    /// Some timer does not know what time it is, and is to be told before anything else.
    pub fn wants_clock(&self) -> bool {
        self.in_force().any(|(.., progress)| !progress.is_reckoned)
    }

    /// Those among them that may have a stamp of an earlier boot.
    pub fn without_stamp(&self) -> Vec<UnitName> {
        let new = self.in_force().filter(|(_, timer, progress)| timer.persistent && progress.is_new());
        new.map(|(entry, ..)| entry.unit.name.clone()).collect()
    }

    /// By how much a service is late.
    pub fn late(&self, unit: &Unit) -> Late {
        unit.timer.as_ref().map_or(Late::NONE, |timer| Late::of(timer, self.seed, &unit.name))
    }

    /// When a timer is next due: in civil time, and on the clock of the machine.
    pub fn timer_next(&self, name: &UnitName) -> (Option<Real>, Option<Mono>) {
        match self.entries.get(name) {
            Some(entry) => (entry.timer.as_ref().and_then(|progress| progress.next), self.timer_due(entry)),
            None => (None, None),
        }
    }

    fn in_force(&self) -> impl Iterator<Item = (&Entry, &Timer, &Progress)> {
        let is_on = self.shutdown == Shutdown::No;
        let all = self.entries.stirring().filter(move |_| is_on).filter(|entry| is_wanted(entry));
        all.filter_map(|entry| Some((entry, entry.unit.timer.as_ref()?, entry.timer.as_ref()?)))
    }

    /// The timer of a service that is new.
    pub(super) fn new_timer(&self, unit: &Unit, now: Mono) -> Option<Progress> {
        let timer = unit.timer.as_ref().filter(|_| unit.enabled)?;
        Some(Progress::new(timer, self.late(unit), now))
    }

    /// The timer of a service that has another file now.
    pub(super) fn changed_timer(&self, entry: &Entry, unit: &Unit, now: Mono) -> Option<Progress> {
        let timer = unit.timer.as_ref().filter(|_| unit.enabled)?;
        match &entry.timer {
            Some(progress) if entry.unit.timer == unit.timer => Some(progress.clone()),
            Some(progress) => Some(progress.changed(timer, self.late(unit), now)),
            None => {
                let late = self.late(unit);
                Some(Progress::new(timer, late, now).changed(timer, late, now))
            }
        }
    }

    /// When one of the times that are not civil is due.
    pub(super) fn timer_due(&self, entry: &Entry) -> Option<Mono> {
        let (timer, progress) = (entry.unit.timer.as_ref()?, entry.timer.as_ref()?);
        if self.shutdown == Shutdown::Asked || !is_wanted(entry) {
            return None;
        }
        let rests = entry.life.state.is_resting() || matches!(entry.life.state, State::Done { .. });
        let ended = match entry.history.last() {
            _ if !rests => Ended::NotYet,
            Some(past) => Ended::At(past.ended),
            None => Ended::Never,
        };
        progress.due(timer, self.late(&entry.unit), ended).filter(|at| *at < Mono(u64::MAX))
    }

    pub(super) fn elapse_the_due(&mut self, now: Mono, out: &mut Outcome) {
        let is_due = |entry: &&Entry| self.timer_due(entry).is_some_and(|at| at <= now);
        let due: Vec<UnitName> =
            self.entries.stirring().filter(is_due).map(|entry| entry.unit.name.clone()).collect();
        for name in due {
            let late = self.entries.get(&name).map_or(Late::NONE, |entry| self.late(&entry.unit));
            if let Some(entry) = self.entries.get_mut(&name)
                && let (Some(timer), Some(progress)) = (&entry.unit.timer, &mut entry.timer)
            {
                progress.elapse(timer, late, now);
            }
            self.elapse(&name, now, out);
        }
    }

    pub(super) fn clock(
        &mut self,
        clocks: Clocks,
        mut stamps: BTreeMap<UnitName, Stamp>,
        now: Mono,
        out: &mut Outcome,
    ) {
        let wants = self.in_force().filter(|(.., progress)| progress.wants_look(clocks));
        let names: Vec<UnitName> = wants.map(|(entry, ..)| entry.unit.name.clone()).collect();
        for name in names {
            let late = self.entries.get(&name).map_or(Late::NONE, |entry| self.late(&entry.unit));
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            let (Some(timer), Some(progress)) = (&entry.unit.timer, &mut entry.timer) else { continue };
            if let Some(stamp) = stamps.remove(&name) {
                progress.resume(timer, stamp, clocks, now);
            }
            let moments = Moments { timer, zones: &self.zones, late };
            let has_elapsed = progress.look(&moments, clocks);
            out.touched.insert(name.clone());
            if has_elapsed {
                self.elapse(&name, now, out);
            }
        }
    }

    /// A service is to be started by its timer.
    fn elapse(&mut self, name: &UnitName, now: Mono, out: &mut Outcome) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(overlap) = entry.unit.timer.as_ref().map(|timer| timer.overlap) else { return };
        let is_done = matches!(entry.life.state, State::Done { .. });
        let taken = match overlap {
            _ if is_done || verbs::is_down(entry) => Taken::Started,
            Overlap::Skip => Taken::Skipped,
            Overlap::Queue => Taken::Queued,
            Overlap::Restart => Taken::Restarted,
        };
        if let Some(progress) = &mut entry.timer {
            progress.is_queued |= taken == Taken::Queued;
        }
        out.touched.insert(name.clone());
        out.notices.push(Notice { name: name.clone(), at: now, news: News::Elapsed { taken } });
        match taken {
            // That it counts as active keeps nobody from running it again.
            Taken::Started if is_done => self.deliver(name, Event::Restart, now, out),
            Taken::Started => self.start(std::slice::from_ref(name), now, out),
            Taken::Restarted => self.restart(std::slice::from_ref(name), now, out),
            Taken::Skipped | Taken::Queued => {}
        }
    }

    /// Starts those whose run has ended after their timer had elapsed. True: there were some.
    pub(super) fn start_the_queued(&mut self, now: Mono, out: &mut Outcome) -> bool {
        let is_ready = |entry: &&Entry| {
            let is_down = matches!(entry.life.state, State::Done { .. }) || verbs::is_down(entry);
            is_down && entry.timer.as_ref().is_some_and(Progress::is_queued)
        };
        let queued = self.entries.stirring().filter(is_ready);
        let mut ready: Vec<UnitName> = queued.map(|entry| entry.unit.name.clone()).collect();
        for name in &ready {
            if let Some(progress) = self.entries.get_mut(name).and_then(|entry| entry.timer.as_mut()) {
                progress.is_queued = false;
            }
            out.touched.insert(name.clone());
        }
        // Whoever stopped it meanwhile did not want it started again.
        let is_wanted = |entry: &Entry| self.shutdown == Shutdown::No && !matches!(entry.goal, Goal::Down(_));
        ready.retain(|name| self.entries.get(name).is_some_and(is_wanted));
        for name in &ready {
            self.elapse(name, now, out);
        }
        !ready.is_empty()
    }
}

/// It is not started when the supervisor comes up. Where connections start it, they do so all the same.
pub(super) fn is_left_to_the_clock(unit: &Unit) -> bool {
    let is_on_demand = !unit.sockets.is_empty() && unit.activation == Activation::OnDemand;
    unit.timer.is_some() && !is_on_demand
}

/// Its file is there.
fn is_wanted(entry: &Entry) -> bool {
    entry.goal != Goal::Down(By::Removed)
}
