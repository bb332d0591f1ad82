//! The clock on the wall: when it is looked at, and what of it outlives the boot.
//!
//! The loop waits for moments of civil time on a timerfd of CLOCK_REALTIME that is cancelled when somebody sets the clock
//! (TFD_TIMER_CANCEL_ON_SET), and when the host wakes up: no moment passes unseen, and nothing looks at the clock in
//! between. What a look means is decided in [`crate::machine::timer`].

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use jiff::tz::TimeZone;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use super::{Supervisor, now};
use crate::{
    calendar::Zones,
    control::types::{Moment, TimerStatus},
    machine::{
        fleet::Input,
        timer::{Clocks, Progress, Real, Stamp},
    },
    spec::UnitName,
    sys::SysError,
};

/// Beyond every moment of a calendar: the clock can be set back before one that is over.
const FAR: Real = Real(7_258_118_400_000_000);
/// Two clocks are read as one when nothing came in between for so long, in microseconds.
const APART: i64 = 1000;

/// What wakes the loop when a moment has come or the clock was set.
pub(super) struct Alarm {
    fd: OwnedFd,
    set: Option<Real>,
    /// The time is to be told, whether or not a moment has come.
    is_due: bool,
    /// Stamps as they are on disk.
    written: BTreeMap<UnitName, Progress>,
}

impl Alarm {
    pub(super) fn open() -> Result<Self, SysError> {
        let fd = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(|errno| SysError::new("timerfd_create", "", errno))?;
        let mut alarm = Self { fd, set: None, is_due: true, written: BTreeMap::new() };
        // Before the first look: a clock that is set in between is noticed.
        alarm.arm(None)?;
        Ok(alarm)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A moment has come, or the clock was set.
    pub(super) fn rang(&mut self) {
        // EAGAIN or ECANCELED: it says no more than that.
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        (self.set, self.is_due) = (None, true);
    }

    /// The files, or the host's time zone, may be others now.
    pub(super) fn tell_again(&mut self) {
        self.is_due = true;
    }

    fn arm(&mut self, at: Option<Real>) -> Result<(), SysError> {
        let at = at.unwrap_or(FAR);
        if self.set == Some(at) {
            return Ok(());
        }
        // A value of zero would switch it off.
        let micros = at.0.max(1);
        let it_value =
            Timespec { tv_sec: micros.div_euclid(1_000_000), tv_nsec: micros.rem_euclid(1_000_000) * 1000 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        match timerfd_settime(&self.fd, flags, &once) {
            Ok(_) => self.set = Some(at),
            // It is armed, and the clock was set since the last look.
            Err(rustix::io::Errno::CANCELED) => (self.set, self.is_due) = (Some(at), true),
            Err(errno) => return Err(SysError::new("timerfd_settime", "", errno)),
        }
        Ok(())
    }
}

/// Now, on the clocks that [`Clocks`] has.
fn clocks() -> Clocks {
    let micros = |id| {
        let time = clock_gettime(id);
        time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1000)
    };
    let mut tries = 0;
    loop {
        let (before, real, boot) =
            (micros(ClockId::Boottime), micros(ClockId::Realtime), micros(ClockId::Boottime));
        tries += 1;
        // On a host that has no CPU for us, a little apart must do.
        if boot - before < APART || tries == 10 {
            return Clocks { real: Real(real), boot };
        }
    }
}

/// The rules of the host's own time zone as they are now; jiff's own word may be minutes old.
fn local_zone() -> TimeZone {
    if std::env::var_os("TZ").is_some() {
        return TimeZone::system();
    }
    // Without the file it is UTC: localtime(5).
    let rules = std::fs::read("/etc/localtime").ok();
    rules.and_then(|rules| TimeZone::tzif("localtime", &rules).ok()).unwrap_or(TimeZone::UTC)
}

impl Supervisor {
    /// Tells the fleet what time it is where that matters, and sets the alarm for the next moment.
    pub(super) fn mind_the_clock(&mut self) -> Result<(), SysError> {
        loop {
            if self.alarm.is_due || self.fleet.wants_clock() {
                self.alarm.is_due = false;
                self.tell_the_time();
                self.pump();
            }
            self.alarm.arm(self.fleet.next_moment())?;
            if !self.alarm.is_due {
                return Ok(());
            }
        }
    }

    fn tell_the_time(&mut self) {
        let named: Vec<String> = self.fleet.zones_named().map(str::to_owned).collect();
        let known = |name: String| Some((name.clone(), TimeZone::get(&name).ok()?));
        self.fleet
            .set_zones(Zones { local: local_zone(), named: named.into_iter().filter_map(known).collect() });
        let stamp = |name: UnitName| Some((name.clone(), self.store.stamp(&name)?));
        let stamps: BTreeMap<UnitName, Stamp> =
            self.fleet.without_stamp().into_iter().filter_map(stamp).collect();
        self.inputs.push_back(Input::Clock(clocks(), stamps));
    }

    /// Writes down what of a timer outlives the boot; nothing for a service without one that is persistent.
    pub(super) fn stamp(&mut self, name: &UnitName) {
        let entry = self.fleet.entry(name);
        let is_persistent =
            entry.and_then(|entry| entry.unit.timer.as_ref()).is_some_and(|timer| timer.persistent);
        let progress = entry.and_then(|entry| entry.timer.as_ref()).filter(|_| is_persistent);
        let Some(progress) = progress else {
            // A service that only rests keeps it: `enabled` may come back.
            if !is_persistent && self.alarm.written.remove(name).is_some() {
                self.store.forget_stamp(name);
            }
            return;
        };
        if self.alarm.written.get(name) == Some(progress) {
            return;
        }
        let Some(stamp) = progress.stamp(clocks().real, now()) else { return };
        match self.store.save_stamp(name, &stamp) {
            Ok(()) => {
                self.alarm.written.insert(name.clone(), progress.clone());
                self.point(name, "stamp-written");
            }
            Err(error) => tracing::error!(unit = %name, "the time of its timer was not written: {error}"),
        }
    }

    /// What there is to say about the timer of a service.
    pub(super) fn timer_status(&self, name: &UnitName) -> Option<TimerStatus> {
        let entry = self.fleet.entry(name)?;
        entry.unit.timer.as_ref()?;
        let (moment, due) = self.fleet.timer_next(name);
        let (real, mono) = (clocks().real, now());
        let civil = |at: Real| {
            let ahead = at.millis() - real.millis();
            let mono = i64::try_from(mono.0).unwrap_or(i64::MAX).saturating_add(ahead);
            Moment { unix: at.millis().div_euclid(1000), mono: u64::try_from(mono).unwrap_or_default() }
        };
        let next = moment.map(civil).into_iter().chain(due.map(super::requests::moment));
        Some(TimerStatus {
            next: next.min_by_key(|next| next.mono),
            last: entry.timer.as_ref().and_then(|progress| progress.last).map(civil),
            late_ms: u64::try_from(self.fleet.late(&entry.unit).0.as_millis()).unwrap_or_default(),
            queued: entry.timer.as_ref().is_some_and(Progress::is_queued),
            in_force: entry.timer.is_some(),
        })
    }
}
