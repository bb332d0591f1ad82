//! Services that a connection starts: when Palisade listens for one, and when it stops to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Entry, Fleet, Goal, News, Notice, Outcome};
use crate::{
    machine::{Mono, State},
    spec::{Activation, UnitName},
};

/// As `TriggerLimitBurst=` and `TriggerLimitIntervalSec=` of systemd.socket(5): a program that ends well without taking the
/// connection that it was started for is not started again and again.
pub(super) const CALLS: usize = 20;
/// The time for [`CALLS`].
pub(super) const CALLS_WITHIN: Duration = Duration::from_secs(2);

/// What the next connection does, where `socket.activation = "on-demand"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// There is none: nobody listens while it is down.
    #[default]
    No,
    /// It starts the service.
    Armed,
    /// It started it too often; nobody listens until somebody starts it by hand.
    Tripped,
}

impl Entry {
    /// Whether its sockets are open: for as long as it is wanted up, restarts and backoff included, and while the next
    /// connection would start it.
    pub fn is_listened_for(&self) -> bool {
        !self.unit.sockets.is_empty() && (!self.life.state.is_resting() || self.is_on_call())
    }

    /// Whether the next connection starts it.
    pub fn is_on_call(&self) -> bool {
        let is_down = matches!(self.life.state, State::Stopped(_));
        is_down && self.demand == Demand::Armed && self.goal == Goal::Up
    }

    fn is_on_demand(&self) -> bool {
        !self.unit.sockets.is_empty() && self.unit.activation == Activation::OnDemand
    }
}

impl Fleet {
    /// Has the next connection start it, where its file says so; whether it does.
    pub(super) fn arm(&mut self, name: &UnitName, out: &mut Outcome) -> bool {
        let Some(entry) = self.entries.get_mut(name) else { return false };
        let is_on_demand = entry.is_on_demand();
        let demand = if is_on_demand { Demand::Armed } else { Demand::No };
        if entry.demand != demand {
            entry.demand = demand;
            out.touched.insert(name.clone());
        }
        is_on_demand
    }

    /// Has no connection start it any more.
    pub(super) fn disarm(&mut self, name: &UnitName, out: &mut Outcome) {
        if let Some(entry) = self.entries.get_mut(name)
            && entry.demand != Demand::No
        {
            entry.demand = Demand::No;
            out.touched.insert(name.clone());
        }
    }

    /// Those that are to be up from now on: to be started, or, of those on demand, to be listened for.
    pub(super) fn welcome(&mut self, names: Vec<UnitName>, now: Mono, out: &mut Outcome) {
        let mut started = Vec::new();
        for name in names {
            if self.arm(&name, out) {
                // Whatever has brought it down before does not count any more.
                self.aim(&name, Goal::Up, out);
            } else {
                started.push(name);
            }
        }
        self.start(&started, now, out);
    }

    /// Somebody waits for a service that is down.
    pub(super) fn demanded(&mut self, name: &UnitName, now: Mono, out: &mut Outcome) {
        let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.is_on_call()) else { return };
        out.touched.insert(name.clone());
        entry.calls.retain(|at| now.since(*at) < CALLS_WITHIN);
        if entry.calls.len() >= CALLS {
            entry.calls.clear();
            entry.demand = Demand::Tripped;
            out.notices.push(Notice { name: name.clone(), at: now, news: News::Tripped });
            return;
        }
        entry.calls.push(now);
        self.start(std::slice::from_ref(name), now, out);
    }
}
