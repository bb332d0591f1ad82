//! The packet filter, when others change it: `nft flush ruleset` takes our table with everybody else's.
//!
//! The kernel says so, and the table is loaded again at once, for without it nothing is between services. Who does it again
//! and again is answered ever later, up to [`PATIENCE`]: a loop that flushes must not keep the supervisor busy.

use std::{os::fd::BorrowedFd, time::Duration};

use super::{Supervisor, now};
use crate::{launch::Net, machine::Mono, net::nft::Damage, spec::UnitName};

/// How long the second mending waits after the first; every further one twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// No mending waits longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// After so long without damage all is forgotten.
const CALM: Duration = Duration::from_secs(30);

/// What is known of the damage to our table.
#[derive(Debug, Default)]
pub(super) struct Wall {
    /// What is to be mended, and when.
    due: Option<(Mono, Damage)>,
    /// When it was mended last, and how often in a row.
    mended: Option<(Mono, u32)>,
}

impl Wall {
    /// Somebody has changed our table.
    fn damaged(&mut self, damage: Damage, now: Mono) {
        let wait = match self.mended {
            Some((at, times)) if now.since(at) < CALM => {
                let pause = PAUSE.saturating_mul(1 << times.saturating_sub(1).min(8)).min(PATIENCE);
                Mono(at.0 + u64::try_from(pause.as_millis()).unwrap_or_default())
            }
            Some(_) | None => {
                self.mended = None;
                now
            }
        };
        let (at, worst) = self.due.unwrap_or((wait, damage));
        self.due = Some((at, worst.max(damage)));
    }

    /// What is to be mended now, if anything; then that has been tried. True with the first of a row.
    fn take_due(&mut self, now: Mono) -> Option<(Damage, bool)> {
        let (_, damage) = self.due.filter(|(at, _)| *at <= now)?;
        self.due = None;
        let times = self.mended.map_or(0, |(_, times)| times);
        self.mended = Some((now, times.saturating_add(1)));
        Some((damage, times == 0))
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        self.due.map(|(at, _)| at)
    }
}

impl Supervisor {
    /// Readable when somebody has changed the packet filter. Not looked at while mending waits: then it is known that
    /// there is something to do.
    pub(super) fn wall_interest(&self) -> Option<BorrowedFd<'_>> {
        self.launcher.network.watch().filter(|_| self.wall.due.is_none())
    }

    /// Hears what was changed, and mends what is to be mended.
    pub(super) fn wall_stirred(&mut self) {
        match self.launcher.network.hear() {
            Ok(heard) => {
                if let Some(damage) = heard.damage {
                    self.wall.damaged(damage, now());
                }
            }
            Err(error) => tracing::error!("what others do to the packet filter is not known: {error}"),
        }
        self.wall_overdue();
    }

    /// Before something is to be changed in our table, it is to be there, however often it was flushed.
    pub(super) fn mend_first(&mut self) {
        self.wall_stirred();
        if let Some((at, _)) = &mut self.wall.due {
            *at = now();
        }
        self.wall_overdue();
    }

    pub(super) fn wall_overdue(&mut self) {
        let Some((damage, is_first)) = self.wall.take_due(now()) else { return };
        let live: Vec<&Net> = self.nets.values().collect();
        let table = self.launcher.network.settings.name.clone();
        if let Err(error) = self.launcher.network.mend(damage, &live) {
            // Without its rules services are bare: it is tried until it is there.
            self.wall.damaged(damage, now());
            if is_first {
                tracing::error!("table inet {table} was changed by somebody and is not as it was: {error}");
            }
            return;
        }
        // What could not be brought into a table that was gone.
        self.settle_all_talk();
        if !is_first {
            return;
        }
        let linked = self.nets.iter().filter(|(_, net)| net.link.is_some());
        let names: Vec<UnitName> = linked.map(|(name, _)| name.clone()).collect();
        tracing::warn!(
            "table inet {table} was changed by somebody: loaded again, with what holds for {} services; what follows \
             within {} s of the last one is mended without a word",
            names.len(),
            CALM.as_secs()
        );
        for name in names {
            self.tell_aside(&name, "rules_restored", &format!("somebody had changed table inet {table}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_mended_at_once_and_then_ever_later() {
        let mut wall = Wall::default();
        let (mut at, mut waited) = (1_000, Vec::new());
        for round in 0..8 {
            wall.damaged(Damage::Part, Mono(at));
            let due = wall.deadline().expect("there is something to do");
            waited.push(due.0.saturating_sub(at));
            assert_eq!(wall.take_due(Mono(due.0.max(at))), Some((Damage::Part, round == 0)));
            assert_eq!(wall.deadline(), None);
            at = due.0.max(at);
        }
        assert_eq!(waited, [0, 100, 200, 400, 800, 1600, 2000, 2000]);
        // Much later it is the first one again.
        at += 30_000;
        wall.damaged(Damage::Part, Mono(at));
        assert_eq!(wall.take_due(Mono(at)), Some((Damage::Part, true)));
    }

    #[test]
    fn what_waits_is_mended_once_and_for_the_worst_of_it() {
        let mut wall = Wall::default();
        wall.damaged(Damage::Part, Mono(5));
        wall.take_due(Mono(5));
        wall.damaged(Damage::Part, Mono(6));
        wall.damaged(Damage::Foreign, Mono(7));
        wall.damaged(Damage::Part, Mono(8));
        assert_eq!(wall.take_due(Mono(50)), None, "it is not time yet");
        assert_eq!(wall.take_due(Mono(105)), Some((Damage::Foreign, false)));
        assert_eq!(wall.take_due(Mono(999)), None);
    }
}
