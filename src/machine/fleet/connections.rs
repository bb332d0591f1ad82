//! Services of which every connection has a run of its own (`socket.accept`).
//!
//! The service itself only listens: it rests for as long as it is known, and is on call or is not. Each connection that is
//! taken adds an entry of its own, under a name that no file can have, made from the service's unit as it is at that
//! moment; that entry lives through one run, and is forgotten when that has ended. Its past is told with the service's. It is
//! never restarted: what it was started for is gone. It is a part of the service, and goes down with it.

use std::net::SocketAddr;

use super::{Demand, Entry, Fleet, Goal, Outcome, Role};
use crate::{
    machine::{By, Event, Life, Mono, RestartOn, RunId, State},
    spec::{Activation, Peer, Socket, Unit, UnitName},
};

/// A connection that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// What its run is called: [`Fleet::connection`] has made it up.
    pub name: UnitName,
    /// Where it came in.
    pub socket: Socket,
    /// From where.
    pub peer: Peer,
}

/// The unit of a run for one connection.
fn of_connection(unit: &Unit, Connection { name, socket, peer }: Connection) -> Unit {
    let mut unit = Unit { name, enabled: false, activation: Activation::Boot, ..unit.clone() };
    unit.part_of.push(unit.name.base());
    unit.upholds.clear();
    unit.before.clear();
    unit.restart.on = RestartOn::Never;
    unit.restart.force_exit.clear();
    unit.sockets = vec![Socket { accept: None, ..socket }];
    if let Peer::Ip(address) = peer {
        let (ip, port): (_, u16) = match address {
            SocketAddr::V4(address) => (address.ip().to_string(), address.port()),
            SocketAddr::V6(address) => (address.ip().to_string(), address.port()),
        };
        unit.service.env.extend([("REMOTE_ADDR".into(), ip), ("REMOTE_PORT".into(), port.to_string())]);
    }
    unit
}

impl Entry {
    /// Whether it only listens, and does so.
    pub(super) fn is_accepting(&self) -> bool {
        self.unit.accepts() && self.is_on_call()
    }

    /// Whether it was about one connection, and that is over.
    fn is_past(&self) -> bool {
        self.role == Role::Connection && self.life.state.is_resting()
    }
}

impl Fleet {
    /// What the next connection to a service is called.
    pub fn connection(&self, name: &UnitName, peer: &Peer) -> UnitName {
        let number = self.entry(name).map_or(0, |entry| entry.life.last.0) + 1;
        name.connection(number, peer)
    }

    /// How many connections of a service there are.
    pub fn connections(&self, name: &UnitName) -> usize {
        self.connections_of(name).count()
    }

    /// Whether one more connection may come in by `socket`.
    pub fn has_place(&self, name: &UnitName, socket: &Socket) -> bool {
        let is_here = |entry: &&Entry| entry.unit.sockets.iter().any(|other| other.is_at(socket));
        let count = self.connections_of(name).filter(is_here).count();
        socket.accept.is_some_and(|most| u32::try_from(count).is_ok_and(|count| count < most))
    }

    fn connections_of(&self, name: &UnitName) -> impl Iterator<Item = &Entry> {
        let is_of = move |entry: &&Entry| entry.role == Role::Connection && entry.unit.name.base() == *name;
        // What is called after it stands behind it; what else begins so is few, where the others may be a thousand.
        let behind = self.entries.range(name.clone()..).map(|(_, entry)| entry);
        let behind = behind.take_while(|entry| entry.unit.name.as_str().starts_with(name.as_str()));
        behind.filter(is_of)
    }

    /// Somebody has connected.
    pub(super) fn connected(&mut self, connection: Connection, now: Mono, out: &mut Outcome) {
        let (name, base) = (connection.name.clone(), connection.name.base());
        let Some(entry) = self.entries.get_mut(&base).filter(|entry| entry.is_accepting()) else { return };
        let before = entry.life.last;
        entry.life.last = RunId(before.0 + 1);
        let mut new = Entry::new(of_connection(&entry.unit, connection), now);
        new.role = Role::Connection;
        // Runs of all connections count as the service's: things of theirs are named after it.
        new.life = Life { last: before, ..Life::new() };
        self.entries.insert(name.clone(), new);
        self.arrange();
        out.touched.extend([base, name.clone()]);
        self.start(&[name], now, out);
    }

    /// Listens for a service that is asked to start, and has nothing else to do.
    pub(super) fn listen(&mut self, name: &UnitName, now: Mono, out: &mut Outcome) {
        self.arm(name, out);
        self.aim(name, Goal::Up, out);
        let state = self.entries.get(name).map(|entry| &entry.life.state);
        if !state.is_none_or(|state| matches!(state, State::Stopped(_))) {
            // Its file was another one.
            self.deliver(name, Event::Stop(By::Replaced), now, out);
        }
    }

    /// Forgets the connections that are over.
    pub(super) fn forget_the_past(&mut self, out: &mut Outcome) {
        let past: Vec<UnitName> = self
            .entries
            .stirring()
            .filter(|entry| entry.is_past())
            .map(|entry| entry.unit.name.clone())
            .collect();
        for name in &past {
            let Some(gone) = self.entries.remove(name) else { continue };
            let base = name.base();
            if let Some(own) = self.entries.get_mut(&base) {
                own.remember(gone.history);
            }
            out.touched.extend([base, name.clone()]);
        }
        if !past.is_empty() {
            self.arrange();
        }
    }

    /// Nobody hears those any more who have called.
    pub(super) fn is_deaf(&self, name: &UnitName) -> bool {
        self.entry(name).is_some_and(|entry| entry.unit.accepts() && entry.demand == Demand::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        machine::{
            Action, ExitKind,
            fleet::{Effect, Input, Report, sample},
        },
        spec::{Listen, SocketKind},
    };

    const PEER: Peer = Peer::Ip(SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 4711));

    fn socket(most: u32) -> Socket {
        let (listen, kind, name) = (Listen::Unix("/run/e".into()), SocketKind::Stream, "connection".into());
        Socket { listen, kind, name, backlog: 1, mode: 0o600, user: 0, group: 0, accept: Some(most) }
    }

    fn listening(most: u32) -> Fleet {
        let mut unit = Unit { activation: Activation::OnDemand, enabled: true, ..sample::unit("e", &[]) };
        unit.restart.on = RestartOn::Always;
        unit.sockets.push(socket(most));
        let mut fleet = Fleet::new(1);
        let out = fleet.apply(Input::Reload([(unit.name.clone(), unit)].into()), Mono(1));
        assert_eq!(out.effects, [], "it is never launched itself");
        fleet
    }

    fn connect(fleet: &mut Fleet) -> (UnitName, Outcome) {
        let name = fleet.connection(&sample::name("e"), &PEER);
        let connection = Connection { name: name.clone(), socket: socket(2), peer: PEER };
        (name, fleet.apply(Input::Connected(connection), Mono(2)))
    }

    #[test]
    fn a_connection_has_one_run_and_is_forgotten_after_it() {
        let (mut fleet, own) = (listening(2), sample::name("e"));
        for number in 1..=2 {
            let (name, out) = connect(&mut fleet);
            assert_eq!(name.as_str(), format!("e@{number}-::1:4711"));
            assert_eq!(
                UnitName::try_from(String::from(name.clone())),
                Ok(name.clone()),
                "it can be written down"
            );
            let launch = Effect { name: name.clone(), action: Action::Launch(RunId(number)) };
            assert_eq!(out.effects, [launch]);
            let env = &fleet.entries()[&name].unit.service.env;
            assert_eq!((&*env["REMOTE_ADDR"], &*env["REMOTE_PORT"]), ("::1", "4711"));
        }
        assert!(!fleet.has_place(&own, &socket(2)));
        let name = own.connection(1, &PEER);
        for report in
            [Report::Started(RunId(1)), Report::Exited(RunId(1), ExitKind::Code(3)), Report::Gone(RunId(1))]
        {
            fleet.apply(Input::Report(name.clone(), report), Mono(3));
        }
        assert_eq!((fleet.entry(&name), fleet.connections(&own)), (None, 1));
        assert_eq!(fleet.entries()[&own].history[0].run, RunId(1));
        assert!(fleet.has_place(&own, &socket(2)));
        assert_eq!(connect(&mut fleet).0, own.connection(3, &PEER), "no number is used twice");
    }

    #[test]
    fn connections_go_with_their_service_and_are_never_restarted() {
        let (mut fleet, own) = (listening(2), sample::name("e"));
        let (name, _) = connect(&mut fleet);
        fleet.apply(Input::Report(name.clone(), Report::Started(RunId(1))), Mono(3));
        // Other files change nothing about who is connected, nor does a successor.
        let mut unit = fleet.entries()[&own].unit.clone();
        unit.service.command = vec!["/bin/false".into()];
        fleet.apply(Input::Reload([(own.clone(), unit)].into()), Mono(4));
        let mut fleet = Fleet::restore(1, fleet.entries().values().cloned());
        fleet.apply(Input::Boot, Mono(5));
        assert_eq!(fleet.entries()[&name].life.state, State::Running { run: RunId(1), since: Mono(3) });
        let out = fleet.apply(Input::Restart(vec![own.clone()]), Mono(6));
        assert_eq!(out.effects, [Effect { name: name.clone(), action: Action::Terminate(RunId(1)) }]);
        assert!(fleet.entries()[&own].is_on_call());
        fleet.apply(Input::Stop(vec![own.clone()]), Mono(7));
        assert!(!fleet.is_settled(&own), "one is left");
        for report in [Report::Exited(RunId(1), ExitKind::Code(0)), Report::Gone(RunId(1))] {
            let out = fleet.apply(Input::Report(name.clone(), report), Mono(8));
            assert!(!out.effects.iter().any(|effect| matches!(effect.action, Action::Launch(_))));
        }
        assert!(fleet.is_settled(&own));
        assert_eq!(connect(&mut fleet).1, Outcome::default(), "nobody listens");
        fleet.apply(Input::Boot, Mono(9));
        assert!(!fleet.entries()[&own].is_on_call(), "somebody has stopped it");
    }
}
