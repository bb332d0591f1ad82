//! The packet filter, when others change it: `nft flush ruleset` takes our table with everybody else's.
//!
//! The kernel says so, and the table is loaded again at once, for without it nothing is between services. Who does it again
//! and again is answered ever later, up to [`PATIENCE`]: a loop that flushes must not keep the supervisor busy.

use std::{os::fd::BorrowedFd, time::Duration};

use super::{Supervisor, now};
use crate::{
    control::types,
    launch::Net,
    machine::Mono,
    net::{self, nft::Damage},
    spec::{Egress, Firewall, UnitName},
};

/// How long the second mending waits after the first; every further one twice as long.
const PAUSE: Duration = Duration::from_millis(100);
/// No mending waits longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long what others do in their own tables has to be over before it is looked at, and how long after the last look.
const QUIET: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(1);
/// After so long without damage all is forgotten.
const CALM: Duration = Duration::from_secs(30);

/// What is known of the damage to our table.
#[derive(Debug, Default)]
pub(super) struct Wall {
    /// What is to be mended, and when.
    due: Option<(Mono, Damage)>,
    /// When it was mended last, and how often in a row.
    mended: Option<(Mono, u32)>,
    /// When tables of others are to be looked at, and when they were.
    look: Option<Mono>,
    looked: Option<Mono>,
    /// The chains in the way that have been named in the log.
    named: Vec<String>,
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

    /// Others have changed something of theirs.
    fn stirred(&mut self, now: Mono) {
        let after =
            |at: Mono, span: Duration| Mono(at.0 + u64::try_from(span.as_millis()).unwrap_or_default());
        let soon = after(now, QUIET);
        self.look = self.look.or_else(|| Some(self.looked.map_or(soon, |at| soon.max(after(at, SELDOM)))));
    }

    pub(super) fn deadline(&self) -> Option<Mono> {
        self.due.map(|(at, _)| at).into_iter().chain(self.look).min()
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
                // Without one who asks for rules there, it is enough to look when somebody wants to know.
                if heard.others && self.launcher.network.is_passing() {
                    self.wall.stirred(now());
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
        if self.wall.look.is_some_and(|at| at <= now()) {
            self.note_obstacles();
        }
        let Some((damage, is_first)) = self.wall.take_due(now()) else { return };
        let live: Vec<&Net> = self.nets.values().collect();
        let table = self.launcher.network.settings.name.clone();
        if let Err(error) = self.launcher.network.mend(damage, &live, now()) {
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

    /// Looks at the tables of others where that is due, and names in the log what has come to stand in the way.
    pub(super) fn note_obstacles(&mut self) {
        (self.wall.look, self.wall.looked) = (None, Some(now()));
        if !self.nets.values().any(is_forwarded) {
            return;
        }
        let found: Vec<String> = match self.launcher.network.obstacles() {
            Ok(found) => found.iter().map(ToString::to_string).collect(),
            Err(error) => vec![format!("what other tables drop cannot be read or changed: {error}")],
        };
        for text in found.iter().filter(|text| !self.wall.named.contains(text)) {
            tracing::warn!("{text}");
        }
        self.wall.named = found;
    }

    /// The files have been read anew.
    pub(super) fn settle_firewall(&mut self) {
        for (name, net) in &mut self.nets {
            let wanted = self.fleet.entry(name).map(|entry| entry.unit.network.firewall);
            let done = match wanted.filter(|wanted| net.link.is_some() && *wanted != net.firewall) {
                Some(Firewall::Insert) => self.launcher.network.let_pass(net),
                Some(Firewall::Detect) => self.launcher.network.let_stand(net),
                None => continue,
            };
            if let Err(error) = done {
                tracing::error!(unit = %name, "network.firewall is not as its file says: {error}");
            }
        }
    }

    /// The chains of others that drop what this service sends or receives.
    pub(super) fn in_the_way(&mut self, name: &UnitName) -> Vec<types::Obstacle> {
        let base = name.base();
        // Who has the network of another is met by what meets that.
        let base =
            self.fleet.entry(&base).and_then(|entry| entry.unit.network.joined().cloned()).unwrap_or(base);
        if !self.nets.get(&base).is_some_and(is_forwarded) {
            return Vec::new();
        }
        // What there is has been read and told.
        self.wall_stirred();
        let found = self.launcher.network.obstacles().map(<[_]>::to_vec).unwrap_or_default();
        let told =
            |net::others::Obstacle { table, chain, why, allow }| types::Obstacle { table, chain, why, allow };
        found.into_iter().map(told).collect()
    }
}

/// Whether anything of it passes the forward hook, where tables of others may drop it.
fn is_forwarded(net: &Net) -> bool {
    let is_reached = net.reserved.iter().any(|(publish, _)| !publish.address.is_loopback());
    net.link.is_some() && (is_reached || net.egress != Egress::None || !net.talk.is_empty())
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
