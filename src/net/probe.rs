//! One connection into a service's network namespace that asks whether somebody answers there.
//!
//! The socket is made by the supervisor's thread in that namespace; nothing else of the host ever is there. Everything is
//! non-blocking, what is read is bounded, and when to give up is the caller's business.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt},
};

use super::netns::NetNs;
use crate::sys::SysError;

/// The most that is read of an answer.
const ANSWER_MAX: usize = 16 << 10;
/// The most of it that a status line may take.
const LINE_MAX: usize = 1024;

/// A connection on its way.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    /// What is left to be sent; none until it stands.
    stage: Stage,
    /// Empty: that somebody takes the connection is all there is to know.
    request: Vec<u8>,
    answer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// So many bytes of the request are sent.
    Sending(usize),
    Receiving,
}

/// What came of it, in words.
pub type Outcome = Result<String, String>;

impl Connection {
    /// Begins to connect; `netns` none is the host's own. An empty `request` asks for nothing but the connection.
    ///
    /// # Errors
    /// What kept the supervisor from asking: setns(2), socket(2). It says nothing about the service.
    pub fn open(netns: Option<&NetNs>, at: SocketAddr, request: Vec<u8>) -> Result<Self, SysError> {
        let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let make = || rustix::net::socket_with(family, SocketType::STREAM, flags, None);
        let socket = match netns {
            Some(netns) => netns.within(make)?,
            None => make(),
        };
        let socket = socket.map_err(|errno| SysError::new("socket", at.to_string(), errno))?;
        // Closed by a reset: a check leaves no connection in TIME_WAIT behind, which would keep the port of a server
        // without SO_REUSEADDR from its next run.
        sockopt::set_socket_linger(&socket, Some(Duration::ZERO))
            .map_err(|errno| SysError::new("setsockopt", "SO_LINGER", errno))?;
        match rustix::net::connect(&socket, &at) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
            // Kept for the first look at it: all answers take one way.
            Err(errno) => return Ok(Self::refused(socket, errno)),
        }
        Ok(Self { socket, stage: Stage::Connecting, request, answer: Vec::new() })
    }

    /// What refuses at once is asked again by SO_ERROR in vain, so the refusal is the answer.
    fn refused(socket: OwnedFd, errno: Errno) -> Self {
        let answer = format!("connect: {}", described(errno)).into_bytes();
        Self { socket, stage: Stage::Connecting, request: Vec::new(), answer }
    }

    /// What to wait for.
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let flags = match self.stage {
            Stage::Connecting | Stage::Sending(_) => PollFlags::OUT,
            Stage::Receiving => PollFlags::IN,
        };
        (self.socket.as_fd(), flags)
    }

    /// Goes on as far as that is possible without waiting; none: not at its end yet.
    pub fn go_on(&mut self) -> Option<Outcome> {
        if self.stage == Stage::Connecting {
            if !self.answer.is_empty() {
                return Some(Err(String::from_utf8_lossy(&self.answer).into_owned()));
            }
            match sockopt::socket_error(&self.socket) {
                Ok(Ok(())) => {}
                Ok(Err(errno)) | Err(errno) => return Some(Err(format!("connect: {}", described(errno)))),
            }
            // Woken for nothing: not connected yet.
            if rustix::net::getpeername(&self.socket).is_err() {
                return None;
            }
            if self.request.is_empty() {
                return Some(Ok("connected".to_owned()));
            }
            self.stage = Stage::Sending(0);
        }
        if let Stage::Sending(sent) = self.stage {
            match rustix::net::send(&self.socket, &self.request[sent..], SendFlags::NOSIGNAL) {
                Ok(more) if sent + more < self.request.len() => {
                    self.stage = Stage::Sending(sent + more);
                    return None;
                }
                Ok(_) => self.stage = Stage::Receiving,
                Err(Errno::AGAIN | Errno::INTR) => return None,
                Err(errno) => return Some(Err(format!("send: {}", described(errno)))),
            }
        }
        self.receive()
    }

    /// Reads the answer to its end, or as much as is looked at: a server is not cut off in the middle of a short one.
    fn receive(&mut self) -> Option<Outcome> {
        let mut bytes = [0; 4096];
        while self.answer.len() < ANSWER_MAX {
            match rustix::net::recv(&self.socket, &mut bytes, RecvFlags::empty()) {
                Ok((_, 0)) => return Some(judged(&self.answer)),
                Ok((_, read)) => self.answer.extend_from_slice(&bytes[..read.min(bytes.len())]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // The verdict is known by the first line; a server that does not close is not waited for.
                    let is_known = self.answer.contains(&b'\n') || self.answer.len() > LINE_MAX;
                    return is_known.then(|| judged(&self.answer));
                }
                Err(errno) if self.answer.is_empty() => {
                    return Some(Err(format!("receive: {}", described(errno))));
                }
                Err(_) => return Some(judged(&self.answer)),
            }
        }
        Some(judged(&self.answer))
    }
}

/// An errno as a person reads it.
fn described(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// What the answer to an HTTP request says: 200 to 399 is well.
fn judged(answer: &[u8]) -> Outcome {
    let line = answer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = String::from_utf8_lossy(&line[..line.len().min(LINE_MAX)]).into_owned();
    let mut words = text.splitn(3, ' ');
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let is_status = |word: &&str| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
    let status = words.next().filter(|word| is_http && is_status(word));
    match status.and_then(|word| word.parse::<u16>().ok()) {
        Some(200..=399) => Ok(text),
        Some(_) => Err(text),
        None if answer.is_empty() => Err("the connection was closed without an answer".to_owned()),
        None => Err("the answer is not HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn a_status_of_200_to_399_is_well() {
        for good in ["HTTP/1.1 200 OK", "HTTP/1.0 204 No Content", "HTTP/1.1 302 Found", "HTTP/1.1 399 "] {
            assert_eq!(judged(format!("{good}\r\nA: b\r\n\r\n").as_bytes()), Ok(good.to_owned()));
        }
        for bad in ["HTTP/1.1 404 Not Found", "HTTP/1.1 500 Oh", "HTTP/1.1 199 x", "HTTP/1.1 101 Switching"] {
            assert_eq!(judged(format!("{bad}\n").as_bytes()), Err(bad.to_owned()));
        }
        for none in ["HTTP/2 200", "HTTP/1.1 2000 x", "HTTP/1.1 +20 x", "SSH-2.0-x", "\r\n", "HTTP/1.1"] {
            assert_eq!(judged(none.as_bytes()), Err("the answer is not HTTP".to_owned()), "{none}");
        }
        assert!(judged(b"").is_err());
        assert_eq!(judged(&[b'x'; ANSWER_MAX]), Err("the answer is not HTTP".to_owned()));
    }

    /// Goes on until there is an outcome.
    fn outcome(mut connection: Connection) -> Outcome {
        loop {
            let (fd, flags) = connection.interest();
            let mut poll = [rustix::event::PollFd::from_borrowed_fd(fd, flags)];
            rustix::event::poll(&mut poll, None).expect("poll(2)");
            if let Some(outcome) = connection.go_on() {
                return outcome;
            }
        }
    }

    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let at = listener.local_addr().expect("bound");
        (listener, at)
    }

    #[test]
    fn a_connection_is_taken_or_refused() {
        let (listener, at) = listen();
        assert_eq!(
            outcome(Connection::open(None, at, Vec::new()).expect("a socket")),
            Ok("connected".into())
        );
        drop(listener);
        // A process that another test starts has a copy of the listener until it executes.
        let ask = || outcome(Connection::open(None, at, Vec::new()).expect("a socket"));
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let refused =
            std::iter::repeat_with(ask).find(|outcome| outcome.is_err() || std::time::Instant::now() > until);
        assert_eq!(refused, Some(Err("connect: connection refused".into())));
    }

    #[test]
    fn a_server_that_does_not_close_and_one_that_says_nothing_are_told_apart() {
        let (listener, at) = listen();
        let server = std::thread::spawn(move || {
            let mut bytes = [0; 64];
            let (mut first, _) = listener.accept().expect("a client");
            let read = first.read(&mut bytes).expect("a request");
            first.write_all(b"HTTP/1.1 200 OK\r\n").expect("connected");
            let (second, _) = listener.accept().expect("a client");
            drop(second);
            // Held open until the client has judged.
            let _ = first.read(&mut bytes);
            read
        });
        let ask = || Connection::open(None, at, b"GET / HTTP/1.1\r\n\r\n".to_vec()).expect("a socket");
        assert_eq!(outcome(ask()), Ok("HTTP/1.1 200 OK".into()));
        assert!(outcome(ask()).is_err());
        assert_eq!(server.join().expect("it does not panic"), 18);
    }
}
