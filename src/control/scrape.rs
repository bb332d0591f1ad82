//! Answers `GET /metrics` over HTTP, on a Unix socket in the run-time directory and, where `palisade.toml` says so, over TCP:
//! non-blocking, for a single-threaded poll loop, as [`super::server`] is.
//!
//! A connection is for one request:
//! ```text
//! reading (5 s, 8 KiB) -> waiting for the supervisor -> writing (10 s) -> lingering (1 s) -> closed
//!         └─ another path or method, no HTTP, too long: an error is written instead
//! ```
//! Lingering means to read on after the answer until the other side has seen it: closing with something unread would reset
//! the connection, and the answer with it (RFC 9112, 9.6). Each door has so many connections at most; the oldest makes room
//! for a new one, so that whoever holds them all open keeps nobody out. What is asked is only whether there is to be an
//! answer: the supervisor makes one text for all who wait.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType},
};

use super::{METRICS_NAME, server::Readiness};
use crate::{machine::Mono, metrics::CONTENT_TYPE, sys::SysError};

/// The most connections of one door.
const CLIENTS_MAX: usize = 16;
/// The longest head of a request.
const HEAD_MAX: usize = 8 << 10;
/// What is read and thrown away after the answer.
const LINGER_MAX: usize = 64 << 10;
/// Milliseconds that each stage may take.
const READ_TIME: u64 = 5_000;
const WRITE_TIME: u64 = 10_000;
const LINGER_TIME: u64 = 1_000;
/// Milliseconds after which a door that could not be opened is tried again, and until when one is left alone that has no
/// descriptor for another caller.
const RETRY: u64 = 10_000;
const PAUSE: u64 = 1_000;

/// A descriptor to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A listening socket, by its place.
    Door(usize),
    /// A connection.
    Client(u64),
}

/// Where it is listened.
#[derive(Clone, Debug)]
enum Place {
    /// A path, and the group that may connect beside root.
    Unix(PathBuf, Option<u32>),
    Tcp(SocketAddr),
}

#[derive(Debug)]
struct Door {
    place: Place,
    listener: Option<OwnedFd>,
    /// When to try it again, or to look at it again.
    again: Option<Mono>,
    is_failing: bool,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    door: usize,
    stage: Stage,
    /// When it will have taken too long; none: it waits for us.
    deadline: Option<Mono>,
}

#[derive(Debug)]
enum Stage {
    Reading(Vec<u8>),
    Waiting { is_head: bool },
    Writing(Answer),
    Lingering(usize),
}

#[derive(Debug)]
struct Answer {
    head: Vec<u8>,
    body: Rc<[u8]>,
    sent: usize,
}

/// All who ask, and where they do.
#[derive(Debug)]
pub struct Scrapes {
    doors: Vec<Door>,
    clients: BTreeMap<u64, Client>,
    next_id: u64,
}

/// What the head of a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Metrics { is_head: bool },
    Wrong(&'static str),
}

const BAD_REQUEST: Asked = Asked::Wrong("400 Bad Request");
const NOT_FOUND: Asked = Asked::Wrong("404 Not Found");
const NOT_ALLOWED: Asked = Asked::Wrong("405 Method Not Allowed");
const TOO_LARGE: Asked = Asked::Wrong("431 Request Header Fields Too Large");

/// Reads as much of a head as has come; none: the rest is missing.
fn asked(head: &[u8]) -> Option<Asked> {
    let ends = |end: &[u8]| head.windows(end.len()).any(|part| part == end);
    if !ends(b"\r\n\r\n") && !ends(b"\n\n") {
        return (head.len() >= HEAD_MAX).then_some(TOO_LARGE);
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some("HTTP/1.0" | "HTTP/1.1"), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Some(BAD_REQUEST);
    };
    let path = target.split('?').next().unwrap_or_default();
    Some(match (path, method) {
        ("/metrics", "GET") => Asked::Metrics { is_head: false },
        ("/metrics", "HEAD") => Asked::Metrics { is_head: true },
        ("/metrics", _) => NOT_ALLOWED,
        _ => NOT_FOUND,
    })
}

impl Answer {
    fn metrics(body: &Rc<[u8]>, is_head: bool) -> Self {
        let head = head("200 OK", CONTENT_TYPE, body.len());
        Self { head, body: if is_head { Rc::new([]) } else { Rc::clone(body) }, sent: 0 }
    }

    fn error(status: &str) -> Self {
        let body: Rc<[u8]> = format!("{status}: there is GET /metrics\n").into_bytes().into();
        Self { head: head(status, "text/plain; charset=utf-8", body.len()), body, sent: 0 }
    }

    /// What is still to be sent, of one of its two parts.
    fn rest(&self) -> &[u8] {
        match self.head.get(self.sent..) {
            Some(rest) if !rest.is_empty() => rest,
            _ => &self.body[self.sent - self.head.len()..],
        }
    }
}

fn head(status: &str, content_type: &str, length: usize) -> Vec<u8> {
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n"
    );
    head.into_bytes()
}

/// The connection has come to its end.
struct Closed;

impl Client {
    fn interest(&self) -> PollFlags {
        match self.stage {
            Stage::Reading(_) | Stage::Lingering(_) => PollFlags::IN,
            // poll(2) tells of a hang-up all the same.
            Stage::Waiting { .. } => PollFlags::empty(),
            Stage::Writing(_) => PollFlags::OUT,
        }
    }

    fn serve(&mut self, readiness: Readiness, now: Mono) -> Result<(), Closed> {
        match &self.stage {
            Stage::Reading(_) => self.read(now),
            Stage::Writing(_) => self.write(now),
            Stage::Lingering(_) => self.linger(),
            // Nobody is left to answer.
            Stage::Waiting { .. } if readiness.hangup => Err(Closed),
            Stage::Waiting { .. } => Ok(()),
        }
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>, Closed> {
        match rustix::net::recv(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(Closed),
            Ok((count, _)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(_) => Err(Closed),
        }
    }

    fn read(&mut self, now: Mono) -> Result<(), Closed> {
        let mut buffer = [0; HEAD_MAX];
        let Some(count) = self.receive(&mut buffer)? else { return Ok(()) };
        let Stage::Reading(head) = &mut self.stage else { return Ok(()) };
        head.extend(&buffer[..count]);
        match asked(head) {
            None => Ok(()),
            Some(Asked::Metrics { is_head }) => {
                (self.stage, self.deadline) = (Stage::Waiting { is_head }, None);
                Ok(())
            }
            Some(Asked::Wrong(status)) => self.begin(Answer::error(status), now),
        }
    }

    fn begin(&mut self, answer: Answer, now: Mono) -> Result<(), Closed> {
        (self.stage, self.deadline) = (Stage::Writing(answer), Some(Mono(now.0 + WRITE_TIME)));
        self.write(now)
    }

    fn write(&mut self, now: Mono) -> Result<(), Closed> {
        let Stage::Writing(answer) = &mut self.stage else { return Ok(()) };
        while !answer.rest().is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, answer.rest(), flags) {
                Ok(count) => answer.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Closed),
            }
        }
        rustix::net::shutdown(&self.socket, Shutdown::Write).map_err(|_| Closed)?;
        (self.stage, self.deadline) = (Stage::Lingering(0), Some(Mono(now.0 + LINGER_TIME)));
        Ok(())
    }

    fn linger(&mut self) -> Result<(), Closed> {
        let mut buffer = [0; HEAD_MAX];
        let Some(count) = self.receive(&mut buffer)? else { return Ok(()) };
        let Stage::Lingering(so_far) = &mut self.stage else { return Ok(()) };
        *so_far += count;
        if *so_far > LINGER_MAX { Err(Closed) } else { Ok(()) }
    }
}

impl Place {
    fn listen(&self) -> Result<OwnedFd, SysError> {
        match self {
            Place::Unix(path, group) => listen_unix(path, *group),
            Place::Tcp(address) => listen_tcp(*address),
        }
    }
}

fn listen_unix(path: &Path, group: Option<u32>) -> Result<OwnedFd, SysError> {
    let fault = |call: &'static str| {
        let args = format!("{:?}", path.display());
        move |errno: Errno| SysError::new(call, args, errno)
    };
    // Who has the lock of the control socket has this one, too: what is there was left by somebody who died.
    if fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket()) {
        rustix::fs::unlink(path).map_err(fault("unlink"))?;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(fault("socket"))?;
    let address = SocketAddrUnix::new(path).map_err(fault("bind"))?;
    rustix::net::bind(&socket, &address).map_err(fault("bind"))?;
    // Nobody can connect before listen(2): the mode and the group are right from the first moment on.
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o660)).map_err(fault("chmod"))?;
    rustix::fs::chown(path, None, group.map(rustix::fs::Gid::from_raw)).map_err(fault("chown"))?;
    rustix::net::listen(&socket, 16).map_err(fault("listen"))?;
    Ok(socket)
}

fn listen_tcp(address: SocketAddr) -> Result<OwnedFd, SysError> {
    let fault = |call: &'static str| move |errno: Errno| SysError::new(call, address.to_string(), errno);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(fault("socket"))?;
    // Connections of a supervisor that has just died are in TIME_WAIT.
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true).map_err(fault("setsockopt"))?;
    rustix::net::bind(&socket, &address).map_err(fault("bind"))?;
    rustix::net::listen(&socket, 16).map_err(fault("listen"))?;
    Ok(socket)
}

impl Scrapes {
    /// Will listen on `metrics.sock` in `run_dir`, for root and `group`, and at `tcp`, from the first [`Scrapes::tick`] on.
    pub fn new(run_dir: &Path, group: Option<u32>, tcp: Option<SocketAddr>) -> Self {
        let unix = Place::Unix(run_dir.join(METRICS_NAME), group);
        let places = std::iter::once(unix).chain(tcp.map(Place::Tcp));
        let door = |place| Door { place, listener: None, again: Some(Mono(0)), is_failing: false };
        Self { doors: places.map(door).collect(), clients: BTreeMap::new(), next_id: 0 }
    }

    /// Opens doors that are to be opened and closes connections that take too long; when to call this again. That a door
    /// cannot be opened is told once, and stops nothing else.
    pub fn tick(&mut self, now: Mono) -> Option<Mono> {
        for door in &mut self.doors {
            if door.again.is_none_or(|again| again > now) {
                continue;
            }
            door.again = None;
            if door.listener.is_some() {
                continue;
            }
            match door.place.listen() {
                Ok(listener) => (door.listener, door.is_failing) = (Some(listener), false),
                Err(error) => {
                    if !std::mem::replace(&mut door.is_failing, true) {
                        tracing::error!("metrics are not told there, which is tried again: {error}");
                    }
                    door.again = Some(Mono(now.0 + RETRY));
                }
            }
        }
        self.clients.retain(|_, client| client.deadline.is_none_or(|deadline| deadline > now));
        let doors = self.doors.iter().filter_map(|door| door.again);
        doors.chain(self.clients.values().filter_map(|client| client.deadline)).min()
    }

    /// Everything to poll.
    pub fn interests(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, PollFlags)> {
        let doors = self.doors.iter().enumerate().filter(|(_, door)| door.again.is_none());
        let doors = doors.filter_map(|(number, door)| {
            Some((Source::Door(number), door.listener.as_ref()?.as_fd(), PollFlags::IN))
        });
        let clients = self.clients.iter();
        doors.chain(
            clients.map(|(id, client)| (Source::Client(*id), client.socket.as_fd(), client.interest())),
        )
    }

    /// Goes on with what is ready.
    pub fn ready(&mut self, source: Source, readiness: Readiness, now: Mono) {
        match source {
            Source::Door(number) => self.accept(number, now),
            Source::Client(id) => {
                let Some(client) = self.clients.get_mut(&id) else { return };
                if client.serve(readiness, now).is_err() {
                    self.clients.remove(&id);
                }
            }
        }
    }

    fn accept(&mut self, number: usize, now: Mono) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..CLIENTS_MAX {
            let door = &mut self.doors[number];
            let Some(listener) = &door.listener else { return };
            match rustix::net::accept_with(listener, flags) {
                Ok(socket) => self.admit(socket, number, now),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    // No descriptor is left, say: the caller stays in the queue and would keep poll(2) awake.
                    door.again = Some(Mono(now.0 + PAUSE));
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd, door: usize, now: Mono) {
        let mut of_door = self.clients.iter().filter(|(_, client)| client.door == door).map(|(id, _)| *id);
        if let (Some(oldest), CLIENTS_MAX..) = (of_door.next(), of_door.count() + 1) {
            self.clients.remove(&oldest);
        }
        self.next_id += 1;
        let (stage, deadline) = (Stage::Reading(Vec::new()), Some(Mono(now.0 + READ_TIME)));
        self.clients.insert(self.next_id, Client { socket, door, stage, deadline });
    }

    /// Whether somebody waits for [`Scrapes::answer`].
    pub fn is_waited_for(&self) -> bool {
        self.clients.values().any(|client| matches!(client.stage, Stage::Waiting { .. }))
    }

    /// Gives everybody who waits this text.
    pub fn answer(&mut self, text: &Rc<[u8]>, now: Mono) {
        self.clients.retain(|_, client| match client.stage {
            Stage::Waiting { is_head } => client.begin(Answer::metrics(text, is_head), now).is_ok(),
            _ => true,
        });
    }
}

impl Drop for Scrapes {
    fn drop(&mut self) {
        for door in self.doors.iter().filter(|door| door.listener.is_some()) {
            if let Place::Unix(path, _) = &door.place {
                // Absent is as good as removed.
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    /// A turn of the loop at `now`, with an answer for whoever waits.
    fn turn(scrapes: &mut Scrapes, now: Mono) {
        scrapes.tick(now);
        let all: Vec<Source> = scrapes.interests().map(|(source, ..)| source).collect();
        for source in all {
            scrapes.ready(source, Readiness { readable: true, writable: true, hangup: false }, now);
        }
        if scrapes.is_waited_for() {
            let text: Rc<[u8]> = b"palisade_up 1\n".as_slice().into();
            scrapes.answer(&text, now);
        }
    }

    fn open(dir: &tempfile::TempDir) -> Scrapes {
        let mut scrapes = Scrapes::new(dir.path(), None, None);
        turn(&mut scrapes, Mono(0));
        scrapes
    }

    fn connect(dir: &tempfile::TempDir) -> UnixStream {
        UnixStream::connect(dir.path().join(METRICS_NAME)).unwrap()
    }

    fn read(mut stream: UnixStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_request_is_answered_whole_in_whatever_pieces_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let mut scrapes = open(&dir);
        let mut stream = connect(&dir);
        for byte in b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n" {
            stream.write_all(&[*byte]).unwrap();
            turn(&mut scrapes, Mono(1));
        }
        let answer = read(stream);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\nContent-Length: 14\r\n"),
            "{head}"
        );
        assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
        assert_eq!(body, "palisade_up 1\n");
        turn(&mut scrapes, Mono(2));
        assert!(scrapes.clients.is_empty(), "{scrapes:?}");
    }

    #[test]
    fn what_is_no_request_for_metrics_is_told_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut scrapes = open(&dir);
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(HEAD_MAX));
        for (request, status) in [
            ("HEAD /metrics HTTP/1.0\r\n\r\n", "200"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("GET /metrics/../etc HTTP/1.1\n\n", "404"),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", "405"),
            ("GET /metrics\r\n\r\n", "400"),
            ("GET  /metrics HTTP/1.1\r\n\r\n", "400"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
            ("\u{16}\u{3}\u{1}\n\n", "400"),
            (&long, "431"),
        ] {
            let mut stream = connect(&dir);
            stream.write_all(request.as_bytes()).unwrap();
            for _ in 0..4 {
                turn(&mut scrapes, Mono(1));
            }
            let answer = read(stream);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
            assert_eq!(answer.ends_with("\r\n\r\n"), request.starts_with("HEAD"), "{request:?}: {answer}");
        }
    }

    #[test]
    fn whoever_says_nothing_or_reads_nothing_is_hung_up_on_and_keeps_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut scrapes = open(&dir);
        let silent: Vec<UnixStream> = (0..100)
            .map(|_| {
                let stream = connect(&dir);
                turn(&mut scrapes, Mono(1));
                stream
            })
            .collect();
        assert_eq!(scrapes.clients.len(), CLIENTS_MAX);
        let mut good = connect(&dir);
        good.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        turn(&mut scrapes, Mono(2));
        turn(&mut scrapes, Mono(2));
        assert!(read(good).ends_with("palisade_up 1\n"));
        assert_eq!(scrapes.tick(Mono(3)), Some(Mono(1002)), "the one that lingers is next");
        assert_eq!(scrapes.tick(Mono(READ_TIME + 1)), None);
        assert!(scrapes.clients.is_empty(), "{scrapes:?}");
        drop(silent);

        let mut deaf = connect(&dir);
        deaf.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let large: Rc<[u8]> = vec![b'x'; 8 << 20].into();
        for _ in 0..2 {
            let all: Vec<Source> = scrapes.interests().map(|(source, ..)| source).collect();
            for source in all {
                scrapes.ready(source, Readiness { readable: true, ..Readiness::default() }, Mono(10_000));
            }
        }
        assert!(scrapes.is_waited_for());
        assert_eq!(scrapes.tick(Mono(1 << 40)), None, "nobody is hung up on for what he waits for us");
        scrapes.answer(&large, Mono(10_000));
        assert_eq!(scrapes.tick(Mono(10_001)), Some(Mono(10_000 + WRITE_TIME)));
        scrapes.tick(Mono(10_000 + WRITE_TIME));
        assert!(scrapes.clients.is_empty(), "{scrapes:?}");
    }

    #[test]
    fn a_door_that_cannot_be_opened_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut scrapes = Scrapes::new(dir.path(), None, Some(address));
        assert_eq!(scrapes.tick(Mono(5)), Some(Mono(5 + RETRY)));
        assert_eq!(scrapes.interests().count(), 1, "the other one is open");
        drop(taken);
        assert_eq!(scrapes.tick(Mono(5 + RETRY)), None);
        assert_eq!(scrapes.interests().count(), 2);
        drop(scrapes);
        assert!(!dir.path().join(METRICS_NAME).exists());
    }
}
