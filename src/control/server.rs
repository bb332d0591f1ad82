//! The supervisor's end of the control socket: non-blocking, for a single-threaded poll loop.
//!
//! It owns the listening socket and every connection, and never waits. A turn of the loop:
//! ```text
//! tick(now) -> when to wake        interests() -> poll(2)        ready(source, readiness) for each that is ready
//! while let Some(incoming) = next() { ... reply() / error() ... }
//! ```
//! Whoever connects is bounded in everything: the length of a request (1 MiB), the time that half a request may take
//! (10 s), the descriptors that it may pass, the output that it does not read (4 MiB, 30 s), and the number of connections:
//! when all are taken, the one that has been silent for longest makes room, so that idle connections cannot lock root out.
//! Users who may not do everything have less: 64 KiB, 256 KiB, 32 connections each, and 50 connections and requests
//! a second together; what is more than that waits.

mod lock;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustix::{
    fs::{FileType, OFlags},
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType},
};
use serde::Serialize;

use super::{
    SOCKET_NAME,
    frame::{FrameError, Frames, Message},
    proto::{self, Access, Call, Error, Method, Peer},
    wire,
};
use crate::{
    machine::Mono,
    spec::Owner,
    sys::{self, SysError},
};

/// Name of the group whose members may look.
pub const GROUP: &str = "palisade";

/// The most connections at a time.
const CLIENTS_MAX: usize = 256;
/// The most connections of one user who may not do everything.
const CLIENTS_OF_USER: usize = 32;
/// The longest request of such a user, its NUL included.
const MESSAGE_OF_USER: usize = 64 << 10;
/// Connections and requests of such a user that are dealt with at once, and the milliseconds after which there is
/// another.
const BURST: u64 = 100;
const PAUSE: u64 = 20;
/// Milliseconds from the first byte of a request to its last.
const REQUEST_TIMEOUT: u64 = 10_000;
/// Milliseconds that a caller may read nothing while there is something to read.
const REPLY_TIMEOUT: u64 = 30_000;
/// Bytes that may wait for a caller to read them; who lets more pile up is disconnected.
const OUTPUT_MAX: usize = 4 << 20;
/// The same for a user who may not do everything.
const OUTPUT_OF_USER: usize = 256 << 10;
/// With so many bytes waiting, no further request of this caller is looked at.
const OUTPUT_PAUSE: usize = 64 << 10;
/// Connections accepted, and bytes read from each, in one turn of the loop.
const ACCEPT_BATCH: usize = 64;
const READ_SIZE: usize = 64 << 10;
/// Descriptors for callers that come when there are no others.
const RESERVE: usize = 4;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another supervisor has it.
    #[error("{}: another supervisor answers here", .0.display())]
    Live(PathBuf),
    /// Others than the supervisor's user could put something in its place.
    #[error("{}: {reason}", path.display())]
    Unsafe {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel's word.
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// One connection; the number is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(u64);

/// A descriptor to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The listening socket.
    Listener,
    /// A connection.
    Client(ClientId),
}

/// What to poll a descriptor for. Hang-ups are to be looked for always; poll(2) does that by itself.
#[derive(Clone, Copy, Debug)]
pub struct Interest<'a> {
    /// Names it in [`Server::ready`].
    pub source: Source,
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// POLLIN.
    pub read: bool,
    /// POLLOUT.
    pub write: bool,
}

/// What poll(2) said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// POLLIN.
    pub readable: bool,
    /// POLLOUT.
    pub writable: bool,
    /// POLLHUP or POLLERR.
    pub hangup: bool,
}

/// What the supervisor has to deal with.
#[derive(Debug)]
pub enum Incoming {
    /// Somebody who may do so asks for something.
    Request(Request),
    /// Whoever asked for this has hung up before the last reply; replies to it are dropped from now on.
    Gone(ClientId),
    /// A caller who awaits more replies has read everything that was sent so far.
    Drained(ClientId),
}

/// A call that awaits [`Server::reply`] or [`Server::error`].
#[derive(Debug)]
pub struct Request {
    /// Whom to answer. There is one call at a time of each.
    pub client: ClientId,
    /// Who asks.
    pub peer: Peer,
    /// How far that one may go; of somebody who may not do everything, each service has to be looked at.
    pub access: Access,
    /// What for.
    pub method: Method,
    /// The descriptors of an `Exec`: three without a terminal, none with one.
    pub fds: Vec<OwnedFd>,
}

/// The control socket and everybody who is connected to it.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    path: PathBuf,
    /// Locked as long as this supervisor lives.
    lock: (File, PathBuf),
    owner: u32,
    /// Whose members may look at everything.
    group: Option<u32>,
    /// Everybody who owns a service.
    owners: BTreeSet<Owner>,
    /// The time of the last tick.
    now: Mono,
    /// What users who may not do everything have left to ask.
    budgets: BTreeMap<u32, Budget>,
    /// Given up for a moment when the process has no descriptor left; otherwise the waiting caller would keep poll(2) awake.
    reserve: Vec<File>,
    clients: BTreeMap<ClientId, Connection>,
    next_id: u64,
    /// Counts activity, to know who has been silent for longest.
    turn: u64,
    incoming: VecDeque<Incoming>,
}

/// What a supervisor leaves to the program that takes its place in the same process.
#[derive(Debug)]
pub struct Held {
    /// The listening socket.
    pub listener: OwnedFd,
    /// The lock, held.
    pub lock: OwnedFd,
}

/// What a user may still ask for: a token for each connection and request.
#[derive(Clone, Copy, Debug)]
struct Budget {
    tokens: u64,
    /// Up to when they were counted.
    since: Mono,
}

impl Budget {
    /// Adds the tokens of the time that has passed.
    fn refill(&mut self, now: Mono) {
        let earned = now.0.saturating_sub(self.since.0) / PAUSE;
        self.tokens = self.tokens.saturating_add(earned).min(BURST);
        self.since = if self.tokens == BURST { now } else { Mono(self.since.0 + earned * PAUSE) };
    }
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    peer: Peer,
    access: Access,
    /// Its user has asked for too much: what it sends waits.
    is_throttled: bool,
    frames: Frames,
    call: Option<Outstanding>,
    output: VecDeque<Outgoing>,
    /// Bytes in `output`.
    queued: usize,
    /// Nothing more will come; the replies are still read.
    is_finished: bool,
    last_active: u64,
    /// What the other side keeps us waiting for, and since which tick.
    wait: Option<(Wait, Mono)>,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    oneway: bool,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    RestOfRequest,
    RoomForReply,
}

/// The connection has come to its end.
struct Closed;

impl Server {
    /// Listens on `control.sock` in `run_dir`, which is made if it is not there.
    ///
    /// `group` is the id of the group [`GROUP`], whose members may connect and look; none: only root may.
    ///
    /// # Errors
    /// [`BindError`]; a live supervisor's socket is left alone, a dead one's is replaced.
    pub fn bind(run_dir: &Path, group: Option<u32>) -> Result<Self, BindError> {
        let owner = rustix::process::geteuid().as_raw();
        prepare_directory(run_dir, owner)?;
        let path = run_dir.join(SOCKET_NAME);
        let lock = lock::take(&run_dir.join("control.lock"), &path)?;
        lock::remove_dead(&path)?;
        let sys = |call: &'static str| {
            let args = format!("{:?}", path.display());
            move |errno: Errno| SysError::new(call, args, errno)
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(sys("socket"))?;
        let address = SocketAddrUnix::new(&path).map_err(sys("bind"))?;
        rustix::net::bind(&listener, &address).map_err(sys("bind"))?;
        // Nobody can connect before listen(2): the mode and the group are right from the first moment on.
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o660)).map_err(sys("chmod"))?;
        rustix::fs::chown(&path, None, group.map(rustix::fs::Gid::from_raw)).map_err(sys("chown"))?;
        rustix::net::listen(&listener, 128).map_err(sys("listen"))?;
        Ok(Self::with(listener, path, lock, group))
    }

    fn with(listener: OwnedFd, path: PathBuf, lock: (File, PathBuf), group: Option<u32>) -> Self {
        Self {
            listener,
            path,
            lock,
            owner: rustix::process::geteuid().as_raw(),
            group,
            owners: BTreeSet::new(),
            now: Mono(0),
            budgets: BTreeMap::new(),
            reserve: (0..RESERVE).filter_map(|_| File::open("/dev/null").ok()).collect(),
            clients: BTreeMap::new(),
            next_id: 0,
            turn: 0,
            incoming: VecDeque::new(),
        }
    }

    /// Goes on with the listening socket and the lock of a predecessor in this very process.
    ///
    /// # Errors
    /// [`BindError::Unsafe`]: they are not those of `run_dir`.
    pub fn resume(run_dir: &Path, group: Option<u32>, held: Held) -> Result<Self, BindError> {
        let (path, lock) = (run_dir.join(SOCKET_NAME), run_dir.join("control.lock"));
        let unsafe_because = |reason| BindError::Unsafe { path: path.clone(), reason };
        let listens = rustix::net::sockopt::socket_acceptconn(&held.listener).unwrap_or_default();
        let address = rustix::net::getsockname(&held.listener).ok();
        let address = address.and_then(|address| SocketAddrUnix::try_from(address).ok());
        let is_here =
            address.is_some_and(|address| address.path_bytes() == Some(path.as_os_str().as_encoded_bytes()));
        if !listens || !is_here {
            return Err(unsafe_because("the inherited socket does not listen here"));
        }
        let inode = |metadata: io::Result<fs::Metadata>| metadata.map(|file| (file.dev(), file.ino())).ok();
        let file = File::from(held.lock);
        if inode(file.metadata()).is_none_or(|ours| inode(fs::metadata(&lock)) != Some(ours)) {
            return Err(unsafe_because("the inherited lock is another one"));
        }
        Ok(Self::with(held.listener, path, (file, lock), group))
    }

    /// What a successor in this very process goes on with, and the connection of whoever asks for it.
    pub fn held(&self, client: ClientId) -> Option<[BorrowedFd<'_>; 3]> {
        let client = self.clients.get(&client)?;
        Some([self.listener.as_fd(), self.lock.0.as_fd(), client.socket.as_fd()])
    }

    /// Takes in a caller whom a predecessor in this very process owes an answer; none: that one may not ask any more.
    pub fn owe(&mut self, socket: OwnedFd) -> Option<ClientId> {
        self.admit(socket);
        let id = ClientId(self.next_id);
        self.clients.get_mut(&id)?.call = Some(Outstanding { oneway: false });
        Some(id)
    }

    /// Says who owns services: they may connect as well, and are handed on with what they ask for. Whoever has lost the
    /// right to be connected by that is disconnected.
    ///
    /// # Errors
    /// The file system has no access lists: only owners in the socket's group can connect.
    pub fn set_owners(&mut self, owners: BTreeSet<Owner>) -> Result<(), SysError> {
        if owners == self.owners {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.owners, owners);
        let access: Vec<(ClientId, Access)> =
            self.clients.iter().map(|(id, client)| (*id, self.access(&client.peer))).collect();
        for (id, access) in access {
            match access == Access::default() {
                true => self.drop_client(id),
                false => drop(self.clients.get_mut(&id).map(|client| client.access = access)),
            }
        }
        let list = access_list(&self.owners);
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(&self.path, "system.posix_acl_access", &list, flags).map_err(|errno| {
            // Whoever is no owner any more is none from here on; that the socket lets new ones in is tried again next time.
            self.owners.retain(|owner| before.contains(owner));
            SysError::new("setxattr", format!("{:?}", self.path.display()), errno)
        })
    }

    fn access(&self, peer: &Peer) -> Access {
        Access {
            all: peer.uid == 0 || peer.uid == self.owner,
            looks: self.group.is_some_and(|group| peer.gids.contains(&group)),
            owns: self.owners.iter().any(|owner| owner.is(peer.uid, &peer.gids)),
        }
    }

    /// Takes a token of a user; false: there is none left for now.
    fn spend(&mut self, uid: u32) -> bool {
        let budget = self.budgets.entry(uid).or_insert(Budget { tokens: BURST, since: self.now });
        budget.refill(self.now);
        let has_some = budget.tokens > 0;
        budget.tokens = budget.tokens.saturating_sub(1);
        has_some
    }

    /// Everything to poll.
    pub fn interests(&self) -> impl Iterator<Item = Interest<'_>> {
        let listener =
            Interest { source: Source::Listener, fd: self.listener.as_fd(), read: true, write: false };
        std::iter::once(listener).chain(self.clients.iter().map(|(&id, client)| Interest {
            source: Source::Client(id),
            fd: client.socket.as_fd(),
            read: client.wants_input(),
            write: !client.output.is_empty(),
        }))
    }

    /// Disconnects whoever takes too long; when to call this again, if nothing else happens before.
    ///
    /// To be called once in each turn of the loop.
    pub fn tick(&mut self, now: Mono) -> Option<Mono> {
        self.now = now;
        let mut nearest = None;
        let mut overdue = Vec::new();
        for (&id, client) in &mut self.clients {
            let Some(deadline) = client.deadline(now) else { continue };
            match deadline <= now {
                true => overdue.push(id),
                false => nearest = Some(nearest.map_or(deadline, |other: Mono| other.min(deadline))),
            }
        }
        for id in overdue {
            self.drop_client(id);
        }
        match (self.release(now), nearest) {
            (Some(next), Some(nearest)) => Some(next.min(nearest)),
            (next, nearest) => next.or(nearest),
        }
    }

    /// Goes on with those whose user may ask again; when the next one may.
    fn release(&mut self, now: Mono) -> Option<Mono> {
        self.budgets.retain(|_, budget| {
            budget.refill(now);
            budget.tokens < BURST
        });
        let waiting: Vec<ClientId> =
            self.clients.iter().filter(|(_, client)| client.is_throttled).map(|(id, _)| *id).collect();
        for id in waiting {
            if let Some(client) = self.clients.get_mut(&id) {
                client.is_throttled = false;
            }
            if self.advance(id).is_err() {
                self.drop_client(id);
            }
        }
        // Those that still wait do so for a token of their user.
        let still = self.clients.values().filter(|client| client.is_throttled);
        still.filter_map(|client| self.budgets.get(&client.peer.uid)).map(|b| Mono(b.since.0 + PAUSE)).min()
    }

    /// Does what poll(2) says can be done; what comes of it is to be had from [`Server::next`].
    pub fn ready(&mut self, source: Source, readiness: Readiness) {
        match source {
            Source::Listener => self.accept(),
            Source::Client(id) => {
                if self.serve(id, readiness).is_err() {
                    self.drop_client(id);
                }
            }
        }
    }

    /// What there is to deal with, in the order in which it came.
    #[expect(clippy::should_implement_trait, reason = "more may come after None: no iterator")]
    pub fn next(&mut self) -> Option<Incoming> {
        self.incoming.pop_front()
    }

    /// Answers a call. With `continues` another reply will follow; without, the call is over.
    ///
    /// A caller who is gone, or has got the last reply, is passed over.
    pub fn reply(&mut self, client: ClientId, value: &impl Serialize, continues: bool) {
        self.reply_with(client, value, continues, Vec::new());
    }

    /// As [`Server::reply`], with up to three descriptors.
    pub fn reply_with(
        &mut self,
        client: ClientId,
        value: &impl Serialize,
        continues: bool,
        fds: Vec<OwnedFd>,
    ) {
        self.answer(client, proto::reply_message(value, continues), continues, fds);
    }

    /// Answers a call with an error: it is over.
    pub fn error(&mut self, client: ClientId, error: &Error) {
        self.answer(client, proto::error_message(error), false, Vec::new());
    }

    /// How many bytes this caller has yet to read; none: it is gone.
    pub fn backlog(&self, client: ClientId) -> Option<usize> {
        self.clients.get(&client).map(|client| client.queued)
    }

    /// Disconnects a caller, whatever it has yet to read. [`Incoming::Gone`] follows if a call was open.
    pub fn close(&mut self, client: ClientId) {
        self.drop_client(client);
    }

    fn answer(&mut self, id: ClientId, message: Vec<u8>, continues: bool, fds: Vec<OwnedFd>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let Some(call) = client.call else { return };
        if !continues {
            client.call = None;
        }
        let sent = match call.oneway {
            true => Ok(()),
            false => client.send(message, fds),
        };
        let advanced = sent.and_then(|()| self.advance(id));
        if advanced.is_err() {
            self.drop_client(id);
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..ACCEPT_BATCH {
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(socket) => self.admit(socket),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE) => {
                    self.squeeze_in();
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// Lets one caller in with a descriptor of the reserve. With the last of them it is hung up on at once, which is better
    /// than to be asked for it for ever.
    fn squeeze_in(&mut self) {
        let is_last = self.reserve.len() <= 1;
        drop(self.reserve.pop());
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(&self.listener, flags) {
            Ok(socket) if !is_last => self.admit(socket),
            Ok(_) | Err(_) => {}
        }
        self.fill_reserve();
    }

    fn fill_reserve(&mut self) {
        while self.reserve.len() < RESERVE
            && let Ok(file) = File::open("/dev/null")
        {
            self.reserve.push(file);
        }
    }

    fn admit(&mut self, socket: OwnedFd) {
        // nix, because rustix has no room for the pid 0 of a caller from another pid namespace.
        let Ok(credentials) = getsockopt(&socket, PeerCredentials) else { return };
        let Ok(groups) = sys::socket::peer_groups(socket.as_fd()) else { return };
        let gids = std::iter::once(credentials.gid()).chain(groups).collect();
        let peer = Peer { uid: credentials.uid(), gids, pid: credentials.pid() };
        let access = self.access(&peer);
        if !access.all && !self.has_room_for(peer.uid) {
            return;
        }
        if self.clients.len() >= CLIENTS_MAX && !self.make_room(access) {
            return;
        }
        self.turn += 1;
        self.next_id += 1;
        let connection = Connection {
            socket,
            peer,
            access,
            is_throttled: false,
            frames: if access.all { Frames::default() } else { Frames::with_max(MESSAGE_OF_USER) },
            call: None,
            output: VecDeque::new(),
            queued: 0,
            is_finished: false,
            last_active: self.turn,
            wait: None,
        };
        self.clients.insert(ClientId(self.next_id), connection);
    }

    /// Whether another connection of a user who may not do everything is let in; its oldest idle one may have to go.
    fn has_room_for(&mut self, uid: u32) -> bool {
        if !self.spend(uid) {
            return false;
        }
        let own = self.clients.iter().filter(|(_, client)| client.peer.uid == uid);
        let idle = own.clone().filter(|(_, client)| client.call.is_none());
        let oldest = idle.min_by_key(|(_, client)| client.last_active).map(|(id, _)| *id);
        match (own.count() < CLIENTS_OF_USER, oldest) {
            (true, _) => true,
            (false, Some(oldest)) => {
                self.drop_client(oldest);
                true
            }
            (false, None) => false,
        }
    }

    /// Disconnects one caller in favour of another: an idle one, or, for who may do everything, one who may not.
    fn make_room(&mut self, access: Access) -> bool {
        let least = self
            .clients
            .iter()
            .filter(|(_, client)| client.call.is_none() || (access.all && !client.access.all))
            .min_by_key(|(_, client)| (client.call.is_some(), client.access.all, client.last_active))
            .map(|(&id, _)| id);
        match least {
            // Who may not do everything does not push out who may.
            Some(id) if access.all || !self.clients[&id].access.all => {
                self.drop_client(id);
                true
            }
            _ => false,
        }
    }

    fn serve(&mut self, id: ClientId, readiness: Readiness) -> Result<(), Closed> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        if readiness.writable && !client.output.is_empty() {
            client.flush()?;
            if client.output.is_empty() && client.call.is_some() {
                self.incoming.push_back(Incoming::Drained(id));
            }
        }
        if readiness.readable || readiness.hangup {
            self.turn += 1;
            client.last_active = self.turn;
            while client.wants_input() && client.fill()? && readiness.hangup {}
        }
        self.advance(id)?;
        // Nobody is left to read a reply; what was asked for before the hang-up is still done.
        match readiness.hangup {
            true => Err(Closed),
            false => Ok(()),
        }
    }

    /// Takes the next requests of a caller, until one has to be dealt with outside.
    fn advance(&mut self, id: ClientId) -> Result<(), Closed> {
        loop {
            let Some(client) = self.clients.get(&id) else { return Ok(()) };
            if client.call.is_some() || client.queued >= OUTPUT_PAUSE || !client.frames.has_message() {
                break;
            }
            let is_free = client.access.all;
            let uid = client.peer.uid;
            let may = is_free || self.spend(uid);
            let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
            client.is_throttled = !may;
            if !may {
                return Ok(());
            }
            let Some(message) = client.frames.take().map_err(|_: FrameError| Closed)? else { break };
            client.wait = None;
            if let Some(request) = client.take(id, message)? {
                self.incoming.push_back(Incoming::Request(request));
            }
        }
        let Some(client) = self.clients.get(&id) else { return Ok(()) };
        match client.is_finished && client.call.is_none() && client.output.is_empty() {
            true => Err(Closed),
            false => Ok(()),
        }
    }

    fn drop_client(&mut self, id: ClientId) {
        if self.clients.remove(&id).is_some_and(|client| client.call.is_some()) {
            self.incoming.push_back(Incoming::Gone(id));
        }
        self.fill_reserve();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Under the lock, hence nobody else's. A supervisor that was killed leaves both; the next one takes them over.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(&self.lock.1);
    }
}

impl Connection {
    fn wants_input(&self) -> bool {
        !self.is_finished
            && !self.is_throttled
            && self.frames.len() < self.frames.max() + READ_SIZE
            && self.queued < OUTPUT_PAUSE
    }

    /// Reads once; false: there is nothing more for now.
    fn fill(&mut self) -> Result<bool, Closed> {
        let mut buffer = [0; READ_SIZE];
        match wire::receive(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.is_finished = true;
                Ok(false)
            }
            Ok((length, fds)) => self.frames.push(&buffer[..length], fds).map(|()| true).map_err(|_| Closed),
            Err(Errno::AGAIN) => Ok(false),
            Err(_) => Err(Closed),
        }
    }

    /// Reads one message; a request that others have to answer comes back.
    fn take(&mut self, id: ClientId, message: Message) -> Result<Option<Request>, Closed> {
        let Message { text, mut fds } = message;
        let parsed = proto::parse_call(&text).map_err(|_| Closed)?;
        let answer = match parsed.call {
            Ok(Call::Palisade(method)) if !method.is_allowed(self.access) => Err(Error::NotAllowed),
            Ok(Call::Palisade(method)) if fds.len() < method.fd_count() => {
                Err(Error::InvalidParameter { parameter: "three descriptors go with this call".to_owned() })
            }
            Ok(Call::Palisade(method)) => {
                fds.truncate(method.fd_count());
                match fds.iter().all(is_stream) {
                    true => {
                        self.call = Some(Outstanding { oneway: parsed.oneway });
                        let (peer, access) = (self.peer.clone(), self.access);
                        return Ok(Some(Request { client: id, peer, access, method, fds }));
                    }
                    false => Err(Error::InvalidParameter { parameter: NO_STREAM.to_owned() }),
                }
            }
            Ok(Call::Answered(value)) => Ok(value),
            Err(error) => Err(error),
        };
        if !parsed.oneway {
            let message = match answer {
                Ok(value) => proto::reply_message(&value, false),
                Err(error) => proto::error_message(&error),
            };
            self.send(message, Vec::new())?;
        }
        Ok(None)
    }

    /// Queues a message and sends what can be sent.
    fn send(&mut self, bytes: Vec<u8>, fds: Vec<OwnedFd>) -> Result<(), Closed> {
        // What is queued already counts, not the message: a single long answer always fits.
        if self.queued > if self.access.all { OUTPUT_MAX } else { OUTPUT_OF_USER } {
            return Err(Closed);
        }
        self.queued += bytes.len();
        self.output.push_back(Outgoing { bytes, sent: 0, fds });
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Closed> {
        while let Some(outgoing) = self.output.front_mut() {
            let rest = &outgoing.bytes[outgoing.sent..];
            let count = match wire::send(&self.socket, rest, &outgoing.fds, SendFlags::DONTWAIT) {
                Ok(count) => count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Closed),
            };
            // They went with the first byte.
            outgoing.fds.clear();
            outgoing.sent += count;
            self.queued -= count;
            self.wait = None;
            if outgoing.sent == outgoing.bytes.len() {
                self.output.pop_front();
            }
        }
        Ok(())
    }

    /// When the other side will have kept us waiting for too long.
    fn deadline(&mut self, now: Mono) -> Option<Mono> {
        let wait = match (self.output.is_empty(), self.call.is_none() && self.frames.is_mid_message()) {
            (false, _) => Some((Wait::RoomForReply, REPLY_TIMEOUT)),
            (true, true) => Some((Wait::RestOfRequest, REQUEST_TIMEOUT)),
            (true, false) => None,
        };
        let Some((wait, patience)) = wait else {
            self.wait = None;
            return None;
        };
        let since = match self.wait {
            Some((same, since)) if same == wait => since,
            _ => now,
        };
        self.wait = Some((wait, since));
        Some(Mono(since.0 + patience))
    }
}

/// What is said of a descriptor that is a way to more than itself.
const NO_STREAM: &str = "a directory, a disk or a mere path (O_PATH) is no standard input, output or error";

/// Whether a descriptor can be somebody's standard input. A directory would be a way out of the sandbox: one openat(2)
/// from it, and the mounts around it are those of who passed it (CVE-2024-21626).
fn is_stream(fd: &OwnedFd) -> bool {
    let kind = rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let is_path = rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::PATH));
    let streams = [FileType::RegularFile, FileType::Fifo, FileType::Socket, FileType::CharacterDevice];
    kind.is_ok_and(|kind| streams.contains(&kind)) && !is_path
}

/// An access list as the kernel keeps it, acl(5): what mode 0660 says, and reading and writing for each owner.
fn access_list(owners: &BTreeSet<Owner>) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    const READ_WRITE: u16 = 6;
    let named = |of: fn(&Owner) -> Option<u32>, tag| {
        owners.iter().filter_map(of).map(move |id| (tag, READ_WRITE, id))
    };
    let user = |owner: &Owner| match owner {
        Owner::User(uid) => Some(*uid),
        Owner::Group(_) => None,
    };
    let group = |owner: &Owner| match owner {
        Owner::User(_) => None,
        Owner::Group(gid) => Some(*gid),
    };
    // The kernel wants them in this order: owner, users by id, group, groups by id, mask, others.
    let entries = std::iter::once((0x01, READ_WRITE, NOBODY))
        .chain(named(user, 0x02))
        .chain([(0x04, READ_WRITE, NOBODY)])
        .chain(named(group, 0x08))
        .chain([(0x10, READ_WRITE, NOBODY), (0x20, 0, NOBODY)]);
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend(u16::to_le_bytes(tag));
        list.extend(u16::to_le_bytes(rights));
        list.extend(u32::to_le_bytes(id));
    }
    list
}

/// Makes the directory, and sees to it that nobody but its owner could put another socket in our place.
fn prepare_directory(path: &Path, owner: u32) -> Result<(), BindError> {
    let failed = |call: &'static str| {
        move |error: io::Error| SysError::new(call, format!("{:?}", path.display()), error)
    };
    if !path.exists() {
        DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed("mkdir"))?;
        // Whatever the umask: the group has to come through to the socket.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed("chmod"))?;
    }
    let metadata = fs::symlink_metadata(path).map_err(failed("stat"))?;
    let unsafe_because = |reason| Err(BindError::Unsafe { path: path.to_owned(), reason });
    if !metadata.is_dir() {
        return unsafe_because("is not a directory");
    }
    if metadata.uid() != owner && metadata.uid() != 0 {
        return unsafe_because("belongs to another user");
    }
    if metadata.permissions().mode() & 0o022 != 0 {
        return unsafe_because("others than its owner may write to it; chmod go-w");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
