//! What outlives the runs of a service beside its network: the sockets that Palisade listens on for it, and the descriptors
//! that it has handed over. The keeper has a copy of each.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::{Supervisor, state::Record};
use crate::{
    launch::LaunchFault,
    machine::fleet::{Entry, Input},
    net::listen::{self, Held, SocketFile},
    plan::Assigned,
    spec::{Socket, Stdin, Unit, UnitName},
    sys::{SysError, file},
};

/// All that is held for one service.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    sockets: Vec<Held>,
    stored: Vec<Stored>,
}

/// A descriptor of the service's own.
#[derive(Debug)]
struct Stored {
    /// Counted by service, so that the keeper has a name for each.
    serial: u32,
    name: String,
    fd: OwnedFd,
}

/// Copies of the sockets, and of what is stored.
type Copies = (Vec<(Socket, OwnedFd)>, Vec<OwnedFd>);

/// Standard input, sockets, and what is stored.
type ToGive = (Option<OwnedFd>, Vec<(Socket, OwnedFd)>, Vec<OwnedFd>);

/// The same without descriptors, for a successor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct HoldingsRecord {
    sockets: Vec<SocketRecord>,
    stored: Vec<(u32, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SocketRecord {
    socket: Socket,
    file: Option<SocketFile>,
}

impl Holdings {
    pub(super) fn record(&self) -> HoldingsRecord {
        let socket = |held: &Held| SocketRecord { socket: held.socket.clone(), file: held.file.clone() };
        HoldingsRecord {
            sockets: self.sockets.iter().map(socket).collect(),
            stored: self.stored.iter().map(|stored| (stored.serial, stored.name.clone())).collect(),
        }
    }

    /// The sockets that are listened on.
    pub(super) fn listening(&self) -> impl Iterator<Item = &Held> {
        self.sockets.iter()
    }

    /// What the descriptors are called by the keeper, within the service.
    fn labelled(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let sockets = self.sockets.iter().map(|held| (socket_label(&held.socket), held.fd.as_fd()));
        let stored = self.stored.iter().map(|stored| (stored_label(stored.serial), stored.fd.as_fd()));
        sockets.chain(stored)
    }

    /// Copies for a run of `unit`: its sockets, and what is stored.
    pub(super) fn given(&self, unit: &Unit) -> Result<Copies, SysError> {
        let copy = |fd: &OwnedFd| {
            rustix::io::fcntl_dupfd_cloexec(fd, 3)
                .map_err(|errno| SysError::new("fcntl", "F_DUPFD_CLOEXEC", errno))
        };
        let wanted = self.sockets.iter().filter(|held| unit.sockets.iter().any(|s| s.is_at(&held.socket)));
        let sockets: Result<Vec<_>, _> =
            wanted.map(|held| Ok((held.socket.clone(), copy(&held.fd)?))).collect();
        let stored: Result<Vec<_>, _> = self.stored.iter().map(|stored| copy(&stored.fd)).collect();
        Ok((sockets?, stored?))
    }

    /// Where it is listened, for people.
    pub(super) fn shown(&self) -> Vec<String> {
        self.sockets.iter().map(|held| held.socket.to_string()).collect()
    }

    /// What the stored descriptors are called by the service.
    pub(super) fn stored_names(&self) -> Vec<String> {
        self.stored.iter().map(|stored| stored.name.clone()).collect()
    }
}

/// Paths may be longer than the keeper's labels, so a hash stands for the place.
fn socket_label(socket: &Socket) -> String {
    let fnv = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("socket {:016x}", socket.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, fnv))
}

fn stored_label(serial: u32) -> String {
    format!("stored {serial}")
}

impl Supervisor {
    /// Listens where the service's file says, and nowhere else.
    ///
    /// # Errors
    /// Of the first socket that cannot be had; those that can are held all the same.
    pub(super) fn hold_sockets(&mut self, name: &UnitName) -> Result<(), Box<LaunchFault>> {
        let Some(unit) = self.fleet.entry(name).map(|entry| entry.unit.clone()) else { return Ok(()) };
        if unit.sockets.is_empty() && !self.holdings.contains_key(name) {
            return Ok(());
        }
        // The keeper's labels begin with it.
        self.slot_of(name)?;
        let mut holdings = self.holdings.remove(name).unwrap_or_default();
        let before = holdings.record();
        let (kept, gone): (Vec<Held>, Vec<Held>) = std::mem::take(&mut holdings.sockets)
            .into_iter()
            .partition(|held| unit.sockets.iter().any(|socket| socket.is_at(&held.socket)));
        self.close_sockets(name, gone);
        let mut kept: Vec<Option<Held>> = kept.into_iter().map(Some).collect();
        let mut failed: Option<Box<LaunchFault>> = None;
        for socket in &unit.sockets {
            let is_at =
                |held: &&mut Option<Held>| held.as_ref().is_some_and(|held| held.socket.is_at(socket));
            let held = match kept.iter_mut().find(is_at).and_then(Option::take) {
                Some(mut held) => {
                    if held.socket != *socket
                        && let Err(error) = held.change(socket)
                    {
                        failed.get_or_insert(LaunchFault::listen(socket, error));
                    }
                    Ok(held)
                }
                None => listen::open(socket).inspect(|held| {
                    tracing::info!(unit = %name, "listening on {}", held.socket);
                    self.keep(name, &socket_label(socket), held.fd.as_fd());
                }),
            };
            match held {
                Ok(held) => holdings.sockets.push(held),
                Err(error) => drop(failed.get_or_insert(LaunchFault::listen(socket, error))),
            }
        }
        let has_changed = before != holdings.record();
        self.holdings.insert(name.clone(), holdings);
        if has_changed {
            self.point(name, "socket-opened");
            self.persist(name);
            self.point(name, "socket-noted");
        }
        failed.map_or(Ok(()), Err)
    }

    /// As [`Supervisor::hold_sockets`], before a run of this name is launched. One for a connection is given nothing else.
    pub(super) fn hold_sockets_for(&mut self, name: &UnitName) -> Result<(), Box<LaunchFault>> {
        if name.is_connection() { Ok(()) } else { self.hold_sockets(&name.base()) }
    }

    /// Has what is held agree with where the service stands: to be called whenever that has changed.
    pub(super) fn settle_holdings(&mut self, name: &UnitName) {
        if !name.is_service() {
            return;
        }
        let accepts = self.fleet.entry(name).is_some_and(|entry| entry.unit.accepts());
        match self.fleet.entry(name) {
            Some(entry) if entry.is_on_call() => match self.hold_sockets(name) {
                Ok(()) => self.listens(name),
                Err(fault) if accepts => self.cannot_listen(name, fault),
                Err(fault) => {
                    // As any other start that fails: it is told, shown, and tried again in time.
                    tracing::error!(unit = %name, "{fault}");
                    self.inputs.push_back(Input::Demand(name.clone()));
                }
            },
            // What has changed in its file; what fails now is tried again, and told, at the next launch.
            Some(entry) if entry.is_listened_for() => {
                if self.holdings.contains_key(name)
                    && let Err(fault) = self.hold_sockets(name)
                {
                    tracing::warn!(unit = %name, "{fault}");
                }
            }
            Some(entry) if !entry.life.state.is_resting() => {}
            Some(_) | None => self.let_go(name),
        }
        match accepts {
            true => self.release_if_idle(name),
            // Whatever came of its listening for connections, while its file had it do that.
            false => self.doors.forget(name),
        }
    }

    /// Nothing is held for the service any more.
    pub(super) fn let_go(&mut self, name: &UnitName) {
        let Some(holdings) = self.holdings.remove(name) else { return };
        let labels: Vec<String> =
            holdings.stored.iter().map(|stored| self.label(name, &stored_label(stored.serial))).collect();
        self.keeper.let_go(&labels);
        self.close_sockets(name, holdings.sockets);
        if self.fleet.entry(name).is_some() {
            self.persist(name);
        }
    }

    fn close_sockets(&mut self, name: &UnitName, sockets: Vec<Held>) {
        let labels: Vec<String> =
            sockets.iter().map(|held| self.label(name, &socket_label(&held.socket))).collect();
        self.keeper.let_go(&labels);
        sockets.into_iter().for_each(Held::close);
    }

    fn keep(&mut self, name: &UnitName, what: &str, fd: BorrowedFd<'_>) {
        let label = self.label(name, what);
        if let Err(error) = self.keeper.keep(&label, fd) {
            tracing::error!(unit = %name, "the keeper does not hold {label}: {error}");
        }
    }

    /// Everything once more, for another keeper.
    pub(super) fn keep_holdings(&mut self) {
        let all = std::mem::take(&mut self.holdings);
        for (name, holdings) in &all {
            for (what, fd) in holdings.labelled() {
                self.keep(name, &what, fd);
            }
        }
        self.holdings = all;
    }

    /// The sockets on which a connection starts a service.
    pub(super) fn called(&self) -> impl Iterator<Item = (&UnitName, BorrowedFd<'_>)> {
        let on_call = |name: &UnitName| {
            self.fleet.entry(name).is_some_and(Entry::is_on_call) && self.doors.is_open(name)
        };
        let all = self.holdings.iter().filter(move |(name, _)| on_call(name));
        all.flat_map(|(name, holdings)| holdings.sockets.iter().map(move |held| (name, held.fd.as_fd())))
    }

    /// What a run is given of it: a connection as standard input, sockets, and what is stored.
    pub(super) fn give(
        &mut self,
        name: &UnitName,
        unit: &Unit,
        assigned: &mut Assigned,
    ) -> Result<ToGive, Box<LaunchFault>> {
        let refused = |error: SysError| LaunchFault::refused("listen", &error.to_string());
        if name.is_connection() {
            let (socket, fd) = self.connection_for(name, unit)?;
            if self.is_yet_to_follow(name, unit) {
                self.keep_connection(name, &fd).map_err(refused)?;
            }
            return Ok(match unit.service.stdin {
                Stdin::Socket => (Some(fd), Vec::new(), Vec::new()),
                Stdin::Null | Stdin::Inherit | Stdin::File(_) => (None, vec![(socket, fd)], Vec::new()),
            });
        }
        let Some(holdings) = self.holdings.get(&unit.name) else {
            return Ok((None, Vec::new(), Vec::new()));
        };
        assigned.stored = holdings.stored_names();
        let (sockets, stored) = holdings.given(unit).map_err(refused)?;
        Ok((None, sockets, stored))
    }

    /// The sandbox is made, and the program is executed later.
    fn is_yet_to_follow(&self, name: &UnitName, unit: &Unit) -> bool {
        unit.service.hooks.go_before() && !self.runs.contains_key(name)
    }

    /// Keeps a descriptor for the next run of a service (sd_notify(3), FDSTORE=1). What is beyond `service.fd_store_max`, is
    /// there already, or could make whoever closes it wait, is closed.
    pub(super) fn store_fd(&mut self, name: &UnitName, fdname: &str, fd: OwnedFd) {
        // Of a second run as well: its store is the service's.
        let name = &name.base();
        let Some(entry) = self.fleet.entry(name) else { return };
        let most = usize::try_from(entry.unit.service.fd_store_max).unwrap_or_default();
        let stored = self.holdings.get(name).map(|holdings| holdings.stored.as_slice()).unwrap_or_default();
        if stored.iter().any(|stored| stored.name == fdname && file::is_same(stored.fd.as_fd(), fd.as_fd())) {
            return;
        }
        if stored.len() >= most {
            tracing::warn!(unit = %name, "a descriptor is not kept: service.fd_store_max is {most}");
            return;
        }
        if !file::is_storable(fd.as_fd()) {
            tracing::warn!(unit = %name, "a descriptor is not kept: only sockets, pipes, memory and the like are");
            return;
        }
        let serial = stored.iter().map(|stored| stored.serial + 1).max().unwrap_or(0);
        if let Err(fault) = self.slot_of(name) {
            tracing::error!(unit = %name, "a descriptor is not kept: {fault}");
            return;
        }
        self.keep(name, &stored_label(serial), fd.as_fd());
        self.point(name, "descriptor-kept");
        let stored = Stored { serial, name: fdname.to_owned(), fd };
        self.holdings.entry(name.clone()).or_default().stored.push(stored);
        self.persist(name);
        self.point(name, "descriptor-noted");
    }

    /// Closes what is kept under a name (FDSTOREREMOVE=1).
    pub(super) fn drop_fd(&mut self, name: &UnitName, fdname: &str) {
        let name = &name.base();
        let Some(holdings) = self.holdings.get_mut(name) else { return };
        let (gone, kept): (Vec<Stored>, Vec<Stored>) =
            std::mem::take(&mut holdings.stored).into_iter().partition(|stored| stored.name == fdname);
        holdings.stored = kept;
        if gone.is_empty() {
            return;
        }
        let labels: Vec<String> =
            gone.iter().map(|stored| self.label(name, &stored_label(stored.serial))).collect();
        self.keeper.let_go(&labels);
        self.persist(name);
    }

    /// Finds again what a predecessor held. What the keeper does not have any more is opened anew.
    pub(super) fn adopt_holdings(
        &mut self,
        record: &Record,
        held: &mut std::collections::BTreeMap<String, OwnedFd>,
    ) {
        let name = &record.entry.unit.name;
        let mut holdings = Holdings::default();
        for SocketRecord { socket, file } in &record.holdings.sockets {
            match held.remove(&self.label(name, &socket_label(socket))) {
                Some(fd) => {
                    holdings.sockets.push(Held { socket: socket.clone(), fd, file: file.clone() });
                }
                None => {
                    tracing::error!(unit = %name, "{socket} was lost with the keeper, and is opened anew");
                    if let (crate::spec::Listen::Unix(path), Some(file)) = (&socket.listen, file) {
                        listen::remove(path, file);
                    }
                }
            }
        }
        for (serial, fdname) in &record.holdings.stored {
            if let Some(fd) = held.remove(&self.label(name, &stored_label(*serial))) {
                holdings.stored.push(Stored { serial: *serial, name: fdname.clone(), fd });
            }
        }
        if !holdings.sockets.is_empty() || !holdings.stored.is_empty() {
            self.holdings.insert(name.clone(), holdings);
        }
    }
}
