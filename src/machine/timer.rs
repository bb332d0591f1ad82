//! `[timer]`: when the clock starts a service. Pure: both clocks are told.
//!
//! # Civil time
//! A calendar names moments of civil time, and civil time jumps: somebody sets the clock, the host sleeps, the supervisor
//! is dead for an hour. What is promised all the same: *no moment starts a service twice, and none that has come is lost*.
//!
//! For that, [`Progress`] keeps the stretches of civil time that it has attended to: those which the clock ran through
//! under its eyes, and each moment that has started the service. At every look the time since the last look, on
//! CLOCK_BOOTTIME (which nobody sets, and which goes on while the host sleeps), tells a clock that ran from one that was
//! set. If any moment lies in what civil time has gone over since, unattended, the service is started, once however many
//! they are. Then:
//! - the clock *ran* (asleep or not): all of it is attended to;
//! - it was *set forward*: only from the last moment on, the one that counts as made up for. What was jumped over is not
//!   attended to: if the clock is set back, because it had been wrong, its moments have their starts when they come;
//! - it was *set back*: nothing of what comes again is started again, for that is attended to.
//!
//! A downtime of which nobody knows how the clock ran (`persistent`, after a reboot) counts as a jump forward.
//!
//! # Other times
//! `every`, `after_boot` and `after_end` are on CLOCK_MONOTONIC, as everything else in the machine.

#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Mono, backoff};
use crate::{
    calendar::{Calendar, Zones},
    spec::{Timer, UnitName},
};

/// Two reads of two clocks are never at the same time; nobody sets a clock by so little, in microseconds.
const TOLERANCE: i64 = 100_000;
/// Stretches that are remembered. Each jump leaves one at most; beyond that the oldest gaps count as attended to.
const STRETCHES: usize = 16;

/// A point of civil time, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Real(pub i64);

impl Real {
    fn before(self, span: i64) -> Self {
        Self(self.0.saturating_sub(span))
    }

    fn after(self, span: i64) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// Milliseconds since 1970.
    pub fn millis(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// Now, on two clocks at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// CLOCK_REALTIME.
    pub real: Real,
    /// CLOCK_BOOTTIME, in microseconds.
    pub boot: i64,
}

/// A stretch of civil time, without its first point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Stretch {
    after: Real,
    to: Real,
}

/// What outlives the boot of the host, for `persistent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    attended: Vec<Stretch>,
    /// How far civil time had come.
    until: Real,
    /// When the service was last started.
    started: Option<Real>,
}

/// How far a timer has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Without the jitter, as the calendars have it. In order, none touches the next.
    attended: Vec<Stretch>,
    /// The last look; none: it has yet to learn what time it is.
    looked: Option<Clocks>,
    /// What was missed before it came into force is nobody's business.
    is_changed: bool,
    /// When `every` is next due.
    every: Option<Mono>,
    /// `after_boot` is over.
    is_booted: bool,
    /// From when on `after_end` counts at least.
    rested: Mono,
    /// A start is owed (`overlap = "queue"`).
    pub(super) is_queued: bool,
    /// When it last elapsed.
    pub last: Option<Real>,
    /// When the service was last started in this boot.
    started: Option<Mono>,
    /// When it was last started in an earlier one, as far as that is known.
    earlier: Option<Real>,
    /// When the calendars are next due, jitter included.
    #[serde(skip)]
    pub next: Option<Real>,
    /// That holds.
    #[serde(skip)]
    pub(super) is_reckoned: bool,
}

impl Progress {
    /// A timer that comes into force now.
    pub(super) fn new(timer: &Timer, late: Late, now: Mono) -> Self {
        let mut progress = Self {
            attended: Vec::new(),
            looked: None,
            is_changed: false,
            every: None,
            is_booted: false,
            rested: now,
            is_queued: false,
            last: None,
            started: None,
            earlier: None,
            next: None,
            is_reckoned: false,
        };
        progress.every = timer.every.map(|every| now.after(every).after(late.0));
        progress
    }

    /// The same timer with another file, which says nothing about what was.
    pub(super) fn changed(&self, timer: &Timer, late: Late, now: Mono) -> Self {
        let fresh = Self::new(timer, late, now);
        let Self { is_booted, is_queued, last, started, earlier, .. } = *self;
        Self { is_changed: true, is_booted, is_queued, last, started, earlier, ..fresh }
    }

    /// Whether it has yet to be told what time it is, and what its stamp says, if it has one.
    pub fn is_new(&self) -> bool {
        self.looked.is_none()
    }

    /// Whether it owes the service a start, as soon as its run has ended.
    pub fn is_queued(&self) -> bool {
        self.is_queued
    }

    /// Takes in what a stamp of an earlier boot says, before the first look.
    pub(super) fn resume(&mut self, timer: &Timer, stamp: Stamp, clocks: Clocks, now: Mono) {
        if !timer.persistent || self.is_changed || !self.is_new() {
            return;
        }
        self.earlier = stamp.started;
        if let (Some(every), Some(started)) = (timer.every, stamp.started) {
            let gone = Duration::from_micros(
                u64::try_from(clocks.real.0.saturating_sub(started.0)).unwrap_or_default(),
            );
            self.every = Some(now.after(every.saturating_sub(gone)));
        }
        self.attended = stamp.attended;
        self.attend(Real(i64::MIN), Real(i64::MIN));
        // As if the clock had been set from there to where it is now.
        self.looked = Some(Clocks { real: stamp.until, boot: clocks.boot });
    }

    /// What is to be kept beyond the boot; none before the first look. `now` and `real` are the same moment.
    pub fn stamp(&self, real: Real, now: Mono) -> Option<Stamp> {
        let ago = |at: Mono| i64::try_from(now.since(at).as_micros()).unwrap_or(i64::MAX);
        let started = self.started.map(|at| real.before(ago(at))).or(self.earlier);
        Some(Stamp { attended: self.attended.clone(), until: self.looked?.real, started })
    }

    /// Learns what time it is. True: a moment has come.
    pub(super) fn look(&mut self, moments: &Moments<'_>, clocks: Clocks) -> bool {
        let late = moments.late.micros();
        let now = clocks.real.before(late);
        let elapsed = match self.looked.replace(clocks) {
            None => {
                self.attend(Real(i64::MIN), now);
                false
            }
            Some(before) => {
                let ran_to = before.real.before(late).after(clocks.boot.saturating_sub(before.boot));
                self.pass(moments, (before.real.before(late), ran_to), now)
            }
        };
        if elapsed {
            self.last = Some(clocks.real);
        }
        self.next = self.first_unattended(moments, now).map(|next| next.after(late));
        self.is_reckoned = true;
        elapsed
    }

    /// Whether there is anything to learn: a moment has come, the clock was set, or `next` does not hold any more.
    pub(super) fn wants_look(&self, clocks: Clocks) -> bool {
        let Some(before) = self.looked.filter(|_| self.is_reckoned) else { return true };
        let ran = clocks.boot.saturating_sub(before.boot);
        let is_set = clocks.real.0.saturating_sub(before.real.after(ran).0).abs() >= TOLERANCE;
        is_set || self.next.is_some_and(|next| next <= clocks.real)
    }

    /// Civil time was at `from`, would be at `ran_to` had nobody set it, and is at `now`.
    fn pass(&mut self, moments: &Moments<'_>, (from, ran_to): (Real, Real), now: Real) -> bool {
        let jump = now.0.saturating_sub(ran_to.0);
        let found = if jump > -TOLERANCE {
            self.last_unattended(moments, from, now)
        } else {
            // What it ran through before, and the point where it was put to.
            let seen = self.last_unattended(moments, from, ran_to.min(now));
            seen.or_else(|| self.last_unattended(moments, now.before(1), now))
        };
        if jump.abs() < TOLERANCE {
            self.attend(from, now);
        } else {
            self.attend(from, ran_to.min(now));
        }
        if let Some(found) = found {
            self.attend(found.before(1), found.max(now));
        }
        found.is_some()
    }

    /// Adds a stretch, and joins those that touch.
    fn attend(&mut self, after: Real, to: Real) {
        if to >= after {
            self.attended.push(Stretch { after, to });
        }
        self.attended.sort_unstable();
        let mut joined: Vec<Stretch> = Vec::with_capacity(self.attended.len());
        for stretch in self.attended.drain(..) {
            match joined.last_mut() {
                Some(last) if stretch.after <= last.to => last.to = last.to.max(stretch.to),
                _ => joined.push(stretch),
            }
        }
        while joined.len() > STRETCHES {
            let oldest = joined.remove(0);
            joined[0].after = oldest.after;
        }
        self.attended = joined;
    }

    /// The next moment that has yet to have its start.
    fn first_unattended(&self, moments: &Moments<'_>, after: Real) -> Option<Real> {
        let mut next = moments.next(after)?;
        while let Some(stretch) =
            self.attended.iter().find(|stretch| stretch.after < next && next <= stretch.to)
        {
            next = moments.next(stretch.to)?;
        }
        Some(next)
    }

    /// The last moment of a time that has yet to have its start.
    fn last_unattended(&self, moments: &Moments<'_>, after: Real, to: Real) -> Option<Real> {
        let mut end = to;
        for stretch in self.attended.iter().rev().filter(|stretch| stretch.after < to) {
            if let Some(found) = moments.last(stretch.to.max(after), end) {
                return Some(found);
            }
            end = end.min(stretch.after);
            if end <= after {
                return None;
            }
        }
        moments.last(after, end)
    }

    /// When one of the times on CLOCK_MONOTONIC is due. `ended`: since when the service rests, where it does.
    pub(super) fn due(&self, timer: &Timer, late: Late, ended: Ended) -> Option<Mono> {
        let boot =
            timer.after_boot.filter(|_| !self.is_booted).map(|after| Mono(0).after(after).after(late.0));
        let end = timer.after_end.and_then(|after| match ended {
            Ended::Never => Some(self.rested.after(after).after(late.0)),
            Ended::At(ended) => Some(ended.max(self.rested).after(after)),
            Ended::NotYet => None,
        });
        [boot, self.every, end].into_iter().flatten().min()
    }

    /// What was due by `now` is over.
    pub(super) fn elapse(&mut self, timer: &Timer, late: Late, now: Mono) {
        if timer.after_boot.is_some_and(|after| Mono(0).after(after).after(late.0) <= now) {
            self.is_booted = true;
        }
        if let (Some(due), Some(every)) = (self.every.filter(|due| *due <= now), timer.every) {
            let next = due.after(every);
            self.every = Some(if next > now { next } else { now.after(every) });
        }
        self.rested = now;
    }

    /// The service was started.
    pub(super) fn started(&mut self, timer: &Timer, now: Mono) {
        if let Some(every) = timer.every {
            self.every = Some(now.after(every));
        }
        self.started = Some(now);
        self.is_queued = false;
    }
}

/// Whether the service rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It never ran.
    Never,
    /// Its last run ended then.
    At(Mono),
    /// It does not.
    NotYet,
}

/// By how much one service is late: `jitter`, drawn once for each service and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late(pub Duration);

impl Late {
    /// On time.
    pub const NONE: Self = Self(Duration::ZERO);

    /// `seed` is the fleet's.
    pub fn of(timer: &Timer, seed: u64, name: &UnitName) -> Self {
        let share = backoff::unit(backoff::seed(seed, name.as_str()), 0);
        // Whole milliseconds, as all spans of the machine.
        Self(Duration::from_millis(
            u64::try_from(timer.jitter.mul_f64(share).as_millis()).unwrap_or_default(),
        ))
    }

    fn micros(self) -> i64 {
        i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX)
    }
}

/// The moments of a timer's calendars, without its jitter.
pub(super) struct Moments<'a> {
    pub(super) timer: &'a Timer,
    pub(super) zones: &'a Zones,
    pub(super) late: Late,
}

impl Moments<'_> {
    fn next(&self, after: Real) -> Option<Real> {
        let beyond = if after.0 < 0 { Timestamp::MIN } else { Timestamp::MAX };
        let after = Timestamp::from_microsecond(after.0).unwrap_or(beyond);
        let zone = |calendar: &Calendar| self.zones.get(calendar.zone().or(self.timer.timezone.as_deref()));
        let next = |calendar: &Calendar| calendar.next(after, &zone(calendar));
        self.timer.calendars.iter().filter_map(next).min().map(|next| Real(next.as_microsecond()))
    }

    /// The last one that is not later than `to`, if any is later than `after`.
    fn last(&self, after: Real, to: Real) -> Option<Real> {
        let next = |after: Real| self.next(after).filter(|next| *next <= to);
        let mut found = next(after)?;
        // None lies between `top` and `to`.
        let mut top = to;
        while let Some(later) = next(found) {
            found = later;
            // A clock that jumped by a year has gone over half a million minutes: by halves, not one by one.
            while found < top {
                let middle = Real(found.0 + (top.0 - found.0) / 2);
                match next(middle) {
                    Some(later) => found = later,
                    None if middle == found => return Some(found),
                    None => top = middle,
                }
            }
        }
        Some(found)
    }
}
