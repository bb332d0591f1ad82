//! Sockets of the domain name system: where a service asks, and where its questions are passed on to.
//!
//! A service's own are bound within its network namespace, so that the socket says who is asking; the others are the host's.
//! Everything is non-blocking, and what is read and kept is bounded; whoever calls says when to give up.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, acceptfrom_with, bind, connect, listen,
        recv, recvfrom, send, sendto, socket_with, sockopt,
    },
};

use super::netns::NetNs;
use crate::{
    names::{SERVER, wire::MESSAGE_MAX},
    sys::SysError,
};

const PORT: u16 = 53;
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 16;
/// So much is read at once of a connection.
const PIECE: usize = 4096;

/// Where one service asks.
#[derive(Debug)]
pub struct Desk {
    udp: OwnedFd,
    tcp: OwnedFd,
}

impl Desk {
    /// Binds 127.0.0.53:53 in a network namespace.
    ///
    /// # Errors
    /// From setns(2), socket(2), bind(2), listen(2); EADDRINUSE: somebody in there has taken it.
    pub fn open(netns: &NetNs) -> Result<Self, SysError> {
        netns.within(|| {
            let at = SocketAddr::new(SERVER.into(), PORT);
            let failed = |call, errno| SysError::new(call, at.to_string(), errno);
            let make = |kind| {
                socket_with(AddressFamily::INET, kind, FLAGS, None).map_err(|errno| failed("socket", errno))
            };
            let (udp, tcp) = (make(SocketType::DGRAM)?, make(SocketType::STREAM)?);
            // Past the connections of a predecessor. (With UDP it would let somebody inside share the port.)
            sockopt::set_socket_reuseaddr(&tcp, true).map_err(|errno| failed("setsockopt", errno))?;
            for fd in [&udp, &tcp] {
                bind(fd, &at).map_err(|errno| failed("bind", errno))?;
            }
            listen(&tcp, BACKLOG).map_err(|errno| failed("listen", errno))?;
            Ok(Self { udp, tcp })
        })?
    }

    /// Where datagrams come in.
    pub fn udp(&self) -> BorrowedFd<'_> {
        self.udp.as_fd()
    }

    /// Where connections come in.
    pub fn tcp(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }

    /// The next datagram, and where it is from. None: there is none.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<(&'a [u8], SocketAddr)> {
        let (_, length, from) = recvfrom(&self.udp, &mut buffer[..], RecvFlags::empty()).ok()?;
        let from = SocketAddr::try_from(from?).ok()?;
        Some((&buffer[..length.min(buffer.len())], from))
    }

    /// Sends a datagram. Whoever does not take it asks again.
    pub fn send(&self, bytes: &[u8], to: SocketAddr) {
        let _ = sendto(&self.udp, bytes, SendFlags::DONTWAIT, &to);
    }

    /// The next connection; none: not now.
    ///
    /// # Errors
    /// Nobody will come any more: who has power over the network of the service has destroyed the socket, which is readable
    /// for ever from then on.
    pub fn accept(&self) -> Result<Option<Stream>, SysError> {
        use rustix::io::Errno;
        match acceptfrom_with(&self.tcp, FLAGS) {
            Ok((fd, _)) => Ok(Some(Stream::new(fd, false))),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(SysError::new("accept", "questions about names", errno)),
        }
    }
}

/// What has come of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A message.
    Message(Vec<u8>),
    /// Nothing yet.
    Wait,
    /// It is over.
    Over,
}

/// Messages on a connection, each behind its length.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    is_connecting: bool,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Stream {
    fn new(fd: OwnedFd, is_connecting: bool) -> Self {
        Self { fd, is_connecting, incoming: Vec::new(), outgoing: Vec::new() }
    }

    /// Begins to connect, in the calling thread's network namespace.
    ///
    /// # Errors
    /// From socket(2), connect(2).
    pub fn connect(to: SocketAddr) -> Result<Self, SysError> {
        let fd = open(to, SocketType::STREAM)?;
        match connect(&fd, &to) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(Self::new(fd, true)),
            Err(errno) => Err(SysError::new("connect", to.to_string(), errno)),
        }
    }

    /// What to wait for. Nothing more is read before what was said has been taken.
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let is_saying = self.is_connecting || !self.outgoing.is_empty();
        (self.fd.as_fd(), if is_saying { PollFlags::OUT } else { PollFlags::IN })
    }

    /// Whether there is something that the other side has not taken.
    pub fn is_saying(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Says a message, as soon as that is possible.
    pub fn say(&mut self, message: &[u8]) {
        let Ok(length) = u16::try_from(message.len()) else { return };
        self.outgoing.extend(length.to_be_bytes());
        self.outgoing.extend(message);
    }

    /// Goes on as far as that is possible without waiting, up to the next message; one longer than `most` ends it.
    pub fn go_on(&mut self, most: usize) -> Step {
        if self.is_connecting {
            match sockopt::socket_error(&self.fd) {
                Ok(Ok(())) if rustix::net::getpeername(&self.fd).is_ok() => self.is_connecting = false,
                Ok(Ok(())) => return Step::Wait,
                Ok(Err(_)) | Err(_) => return Step::Over,
            }
        }
        while !self.outgoing.is_empty() {
            match send(&self.fd, &self.outgoing, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(self.outgoing.drain(..sent.min(self.outgoing.len()))),
                Err(Errno::AGAIN | Errno::INTR) => return Step::Wait,
                Err(_) => return Step::Over,
            }
        }
        loop {
            if let Some(&[a, b]) = self.incoming.get(..2) {
                let length = usize::from(u16::from_be_bytes([a, b]));
                if length > most {
                    return Step::Over;
                }
                if let Some(message) = self.incoming.get(2..2 + length) {
                    let message = message.to_vec();
                    self.incoming.drain(..2 + length);
                    return Step::Message(message);
                }
            }
            let mut piece = [0; PIECE];
            match recv(&self.fd, &mut piece, RecvFlags::empty()) {
                Ok((_, 0)) => return Step::Over,
                Ok((_, read)) => self.incoming.extend(&piece[..read.min(PIECE)]),
                Err(Errno::AGAIN | Errno::INTR) => return Step::Wait,
                Err(_) => return Step::Over,
            }
        }
    }
}

fn open(to: SocketAddr, kind: SocketType) -> Result<OwnedFd, SysError> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, kind, FLAGS, None).map_err(|errno| SysError::new("socket", to.to_string(), errno))
}

/// A question on its way to a server by datagram. The kernel takes a port by chance, and lets nothing in that is not from
/// there.
#[derive(Debug)]
pub struct Asking(OwnedFd);

impl Asking {
    /// Makes the socket, in the calling thread's network namespace.
    ///
    /// # Errors
    /// From socket(2), connect(2).
    pub fn open(to: SocketAddr) -> Result<Self, SysError> {
        let fd = open(to, SocketType::DGRAM)?;
        connect(&fd, &to).map_err(|errno| SysError::new("connect", to.to_string(), errno))?;
        Ok(Self(fd))
    }

    /// What to wait for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Asks.
    ///
    /// # Errors
    /// ECONNREFUSED: nobody is there; otherwise from send(2).
    pub fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        send(&self.0, bytes, SendFlags::NOSIGNAL).map(drop)
    }

    /// What has come back. None: nothing yet.
    ///
    /// # Errors
    /// ECONNREFUSED: nobody is there.
    pub fn receive(&self) -> Result<Option<Vec<u8>>, Errno> {
        let mut buffer = vec![0; MESSAGE_MAX];
        match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, length)) => {
                buffer.truncate(length);
                Ok(Some(buffer))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}
