//! Connections that are accepted for services (`socket.accept`): taken in, counted, and handed to a run of their own.
//!
//! Nobody out there can make the supervisor work without end: there are at most `socket.max_connections` runs, and so many
//! connections in so long a time are looked at, however soon they go away again. Who comes then waits in the kernel's queue.
//! A connection that was accepted and not yet handed over when the supervisor was killed is closed with it, as its own
//! end of a connection to any server that dies; one that was handed over lives on with its run.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{SocketFlags, accept_with, getpeername, sockopt},
};

use super::{Supervisor, now};
use crate::{
    launch::LaunchFault,
    machine::{
        Mono,
        fleet::{Connection, Input},
    },
    spec::{Peer, Socket, Unit, UnitName},
    sys::SysError,
};

/// As `PollLimitBurst=` and `PollLimitIntervalSec=` of systemd.socket(5) for `Accept=yes`.
const BURST: u32 = 150;
/// The time for [`BURST`].
const BURST_WITHIN: Duration = Duration::from_secs(2);
/// Until another attempt to listen, or to accept where the host is short of something.
const PAUSE: Duration = Duration::from_secs(2);

/// What there is of all services that accept.
#[derive(Debug, Default)]
pub(super) struct Doors {
    doors: BTreeMap<UnitName, Door>,
    /// Accepted, and not handed over yet.
    waiting: BTreeMap<UnitName, OwnedFd>,
}

/// Of one service.
#[derive(Clone, Copy, Debug)]
struct Door {
    /// When the time for a burst began, and how many have come since.
    burst: (Mono, u32),
    /// Nobody is let in before.
    shut_until: Option<Mono>,
    /// Listening has failed.
    has_failed: bool,
    /// Somebody was turned away since there last was a place.
    is_full: bool,
}

impl Door {
    fn new(now: Mono) -> Self {
        Self { burst: (now, 0), shut_until: None, has_failed: false, is_full: false }
    }

    /// Counts one that has come.
    fn count(&mut self, now: Mono) {
        if now.since(self.burst.0) >= BURST_WITHIN {
            self.burst = (now, 0);
        }
        self.burst.1 += 1;
        if self.burst.1 >= BURST {
            self.shut_until = Some(self.burst.0.after(BURST_WITHIN));
        }
    }
}

impl Doors {
    /// Whether connections to a service are looked at now.
    pub(super) fn is_open(&self, name: &UnitName) -> bool {
        self.doors.get(name).is_none_or(|door| door.shut_until.is_none())
    }

    /// Whether it wants to listen, and cannot.
    pub(super) fn has_failed(&self, name: &UnitName) -> bool {
        self.doors.get(name).is_some_and(|door| door.has_failed)
    }

    /// When the first of those that are shut opens again.
    pub(super) fn deadline(&self) -> Option<Mono> {
        self.doors.values().filter_map(|door| door.shut_until).min()
    }

    /// It does not accept any more.
    pub(super) fn forget(&mut self, name: &UnitName) {
        self.doors.remove(name);
    }

    fn of(&mut self, name: &UnitName) -> &mut Door {
        self.doors.entry(name.clone()).or_insert_with(|| Door::new(now()))
    }
}

impl Supervisor {
    /// Somebody has connected to a service that is not up.
    pub(super) fn called_for(&mut self, name: &UnitName) {
        match self.fleet.entry(name).is_some_and(|entry| entry.unit.accepts()) {
            true => self.accept_from(name),
            false => self.inputs.push_back(Input::Demand(name.clone())),
        }
    }

    /// Takes one connection from each socket of a service: whoever comes in masses has others served between.
    fn accept_from(&mut self, name: &UnitName) {
        let Some(holdings) = self.holdings.get(name) else { return };
        let taken: Vec<(Socket, Result<OwnedFd, Errno>)> = holdings
            .listening()
            .filter_map(|held| {
                // Who has connected may be gone again, and nothing here waits.
                let taken = rustix::io::ioctl_fionbio(&held.fd, true)
                    .and_then(|()| accept_with(&held.fd, SocketFlags::CLOEXEC));
                let is_none = matches!(taken, Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED));
                (!is_none).then(|| (held.socket.clone(), taken))
            })
            .collect();
        for (socket, taken) in taken {
            match taken {
                Ok(fd) => self.let_in(name, socket, fd),
                Err(errno) => {
                    tracing::error!(unit = %name, "no connection is accepted from {socket}: {errno}");
                    self.doors.of(name).shut_until = Some(now().after(PAUSE));
                }
            }
        }
    }

    fn let_in(&mut self, name: &UnitName, socket: Socket, fd: OwnedFd) {
        let has_place = self.fleet.has_place(name, &socket);
        let door = self.doors.of(name);
        door.count(now());
        let was_full = std::mem::replace(&mut door.is_full, !has_place);
        if !has_place {
            if !was_full {
                let most = socket.accept.unwrap_or_default();
                tracing::warn!(unit = %name, "{socket} has {most} connections: more are turned away");
            }
            return;
        }
        // Gone again, and nothing is known of it.
        let Some(peer) = peer(&fd) else { return };
        let connection = Connection { name: self.fleet.connection(name, &peer), socket, peer };
        self.doors.waiting.insert(connection.name.clone(), fd);
        self.inputs.push_back(Input::Connected(connection));
        self.pump();
    }

    /// What a run finds of its connection: the only socket of its unit.
    pub(super) fn connection_for(
        &mut self,
        name: &UnitName,
        unit: &Unit,
    ) -> Result<(Socket, OwnedFd), Box<LaunchFault>> {
        let fd = self.doors.waiting.remove(name);
        let lost =
            || LaunchFault::refused("accept", "the connection has ended with the supervisor that took it");
        unit.sockets.first().cloned().zip(fd).ok_or_else(lost)
    }

    /// Keeps it for the moment at which its program is executed, where commands go before.
    pub(super) fn keep_connection(&mut self, name: &UnitName, fd: &OwnedFd) -> Result<(), SysError> {
        self.doors.waiting.insert(name.clone(), crate::launch::copy(fd.as_fd())?);
        Ok(())
    }

    /// A service cannot listen: it is tried again in time.
    pub(super) fn cannot_listen(&mut self, name: &UnitName, fault: Box<LaunchFault>) {
        let door = self.doors.of(name);
        (door.shut_until, door.has_failed) = (Some(now().after(PAUSE)), true);
        if self.faults.get(name) != Some(&fault) {
            tracing::error!(unit = %name, "{fault}");
        }
        self.faults.insert(name.clone(), fault);
    }

    /// It listens.
    pub(super) fn listens(&mut self, name: &UnitName) {
        if let Some(door) = self.doors.doors.get_mut(name)
            && std::mem::take(&mut door.has_failed)
        {
            door.shut_until = None;
            self.faults.remove(name);
        }
    }

    /// Opens the doors whose time has come.
    pub(super) fn open_doors(&mut self) {
        let now = now();
        let is_due = |door: &Door| door.shut_until.is_some_and(|until| until <= now);
        let due = self.doors.doors.iter().filter(|(_, door)| is_due(door));
        let due: Vec<UnitName> = due.map(|(name, _)| name.clone()).collect();
        for name in due {
            let door = self.doors.of(&name);
            door.shut_until = None;
            if door.has_failed {
                self.settle_holdings(&name);
            }
        }
    }

    /// What is left of one that is forgotten: a fault of its is what there is to say of the service.
    pub(super) fn forget_connection(&mut self, name: &UnitName) {
        if !name.is_connection() || self.fleet.entry(name).is_some() {
            return;
        }
        self.doors.waiting.remove(name);
        self.restarts.remove(name);
        let base = name.base();
        if let Some(fault) = self.faults.remove(name) {
            self.faults.insert(base.clone(), fault);
        }
        self.release_if_idle(&base);
    }

    /// The network that runs for connections have shared goes when nobody listens any more and the last of them has gone.
    pub(super) fn release_if_idle(&mut self, name: &UnitName) {
        let is_wanted =
            self.fleet.entry(name).is_some_and(|entry| !entry.unit.accepts() || entry.is_on_call());
        if !is_wanted && self.fleet.connections(name) == 0 && !self.is_shared(name) {
            self.release(name);
            self.doors.forget(name);
        }
    }
}

fn peer(fd: &OwnedFd) -> Option<Peer> {
    let address = getpeername(fd).ok().flatten()?;
    match std::net::SocketAddr::try_from(address) {
        Ok(address) => Some(Peer::Ip(address)),
        Err(_) => sockopt::socket_peercred(fd).ok().map(|who| Peer::User(who.uid.as_raw())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_shuts_the_door_until_its_time_is_over() {
        let mut door = Door::new(Mono(1000));
        for _ in 1..BURST {
            door.count(Mono(1500));
        }
        assert_eq!(door.shut_until, None);
        door.count(Mono(1900));
        assert_eq!(door.shut_until, Some(Mono(3000)));
        // What has opened again counts anew.
        door.shut_until = None;
        door.count(Mono(3000));
        assert_eq!((door.shut_until, door.burst), (None, (Mono(3000), 1)));
    }
}
