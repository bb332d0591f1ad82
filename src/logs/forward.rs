//! Lines for journald and syslog (`log.target`).
//!
//! journald gets its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): fields in a datagram, or in a sealed memfd where that
//! is too large. Syslog gets what syslog(3) of glibc sends, RFC 3164 without a host name: every program that listens on
//! /dev/log reads that, and not all of them RFC 5424.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixDatagram,
    },
};

use jiff::{Timestamp, tz::TimeZone};
use rustix::fs::{MemfdFlags, SealFlags};

use super::{LogEntry, Stream};
use crate::{
    spec::LogTarget,
    sys::{SysError, socket},
};

/// Of a line that does not say its own.
const INFO: u8 = 6;
/// LOG_DAEMON of syslog(3).
const FACILITY: u8 = 3;

/// The levels of lines, which the parts of a long one share.
#[derive(Debug, Default)]
pub struct Levels([Option<u8>; 2]);

impl Levels {
    /// The level of a line, `<3>` at its beginning as sd-daemon(3) has it, and its text without it.
    pub fn read<'a>(&mut self, entry: &'a LogEntry) -> (u8, &'a str) {
        let begun = self.0[entry.stream as usize].take();
        let (own, text) = match entry.text.as_bytes() {
            [b'<', level @ b'0'..=b'7', b'>', ..] if begun.is_none() => {
                (Some(level - b'0'), &entry.text[3..])
            }
            _ => (None, entry.text.as_str()),
        };
        let level = begun.or(own).unwrap_or(INFO);
        if entry.partial {
            self.0[entry.stream as usize] = Some(level);
        }
        (level, text)
    }
}

/// A connection to who takes lines.
#[derive(Debug)]
pub struct Sink {
    target: LogTarget,
    socket: UnixDatagram,
}

impl Sink {
    /// Connects to where the host's journald or syslog listens.
    ///
    /// # Errors
    /// `SysError` of connect(2); of a target that is none of the two, EINVAL.
    pub fn open(target: LogTarget) -> Result<Self, SysError> {
        let path = target.socket().unwrap_or_default();
        let fault = |error: io::Error| SysError::new("connect", format!("{path:?}"), error);
        let socket = UnixDatagram::unbound().map_err(fault)?;
        socket.connect(path).map_err(fault)?;
        socket.set_nonblocking(true).map_err(fault)?;
        Ok(Self { target, socket })
    }

    /// Writable when it takes more.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a line.
    ///
    /// # Errors
    /// `SysError` of sendmsg(2): EAGAIN where it takes no more now, anything else where nobody takes any.
    pub fn send(&self, entry: &LogEntry, level: u8, text: &str) -> Result<(), SysError> {
        match self.target {
            LogTarget::Journald => {
                let message = journal(entry, level, text);
                match socket::send(self.fd(), &message, &[]) {
                    Err(error) if error.symbol() == "EMSGSIZE" => {
                        socket::send(self.fd(), &[], &[sealed(&message)?.as_fd()])
                    }
                    sent => sent,
                }
            }
            _ => match socket::send(self.fd(), &syslog(entry, level, text, &TimeZone::system()), &[]) {
                // Longer than this host lets a datagram be: there is no other way for it.
                Err(error) if error.symbol() == "EMSGSIZE" => Ok(()),
                sent => sent,
            },
        }
    }
}

/// The fields of a journal entry.
fn journal(entry: &LogEntry, level: u8, text: &str) -> Vec<u8> {
    let stream = match entry.stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let level = level.to_string();
    let mut message = Vec::with_capacity(text.len() + 256);
    for (name, value) in [
        ("PRIORITY", &*level),
        ("SYSLOG_IDENTIFIER", &*entry.name),
        ("PALISADE_SERVICE", &*entry.name),
        ("PALISADE_STREAM", stream),
        ("PALISADE_TIME", &*entry.time),
    ] {
        message.extend_from_slice(format!("{name}={value}\n").as_bytes());
    }
    // With its length before it: whatever is in the text, it ends no field.
    message.extend_from_slice(b"MESSAGE\n");
    message.extend_from_slice(&(text.len() as u64).to_le_bytes());
    message.extend_from_slice(text.as_bytes());
    message.push(b'\n');
    message
}

/// A message of RFC 3164 as it goes to /dev/log.
fn syslog(entry: &LogEntry, level: u8, text: &str, zone: &TimeZone) -> Vec<u8> {
    let time: Timestamp = entry.time.parse().unwrap_or_default();
    let time = zone.to_datetime(time).strftime("%b %e %H:%M:%S").to_string();
    format!("<{}>{time} {}: {text}", FACILITY * 8 + level, entry.name).into_bytes()
}

/// A file in memory that nobody can change any more.
fn sealed(bytes: &[u8]) -> Result<OwnedFd, SysError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fault = |errno| SysError::new("memfd_create", "", errno);
    let file = rustix::fs::memfd_create("palisade-log", flags).map_err(fault)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = rustix::io::write(&file, rest).map_err(fault)?;
        rest = &rest[count..];
    }
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(fault)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;

    fn entry(partial: bool, text: &str) -> LogEntry {
        let (name, time) = ("web".to_owned(), "2026-11-09T07:00:12.123456Z".to_owned());
        LogEntry { name, time, stream: Stream::Stderr, partial, text: text.to_owned() }
    }

    #[test]
    fn a_line_becomes_the_fields_of_an_entry() {
        let message = journal(&entry(false, ""), 3, "a\nPRIORITY=0");
        let expected = b"PRIORITY=3\nSYSLOG_IDENTIFIER=web\nPALISADE_SERVICE=web\nPALISADE_STREAM=stderr\n\
            PALISADE_TIME=2026-11-09T07:00:12.123456Z\nMESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n";
        assert_eq!(message, expected);
    }

    #[test]
    fn a_line_becomes_what_syslog_writes() {
        let message = syslog(&entry(false, ""), 4, "text", &TimeZone::UTC);
        assert_eq!(message, b"<28>Nov  9 07:00:12 web: text");
    }

    #[test]
    fn the_parts_of_a_line_have_its_level() {
        let mut levels = Levels::default();
        assert_eq!(levels.read(&entry(true, "<3>long")), (3, "long"));
        assert_eq!(levels.read(&entry(false, "<4>er")), (3, "<4>er"));
        assert_eq!(levels.read(&entry(false, "plain")), (INFO, "plain"));
    }

    #[test]
    fn what_no_datagram_takes_goes_in_a_sealed_file() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        // The least that there can be, socket(7).
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, 1).unwrap();
        let sink = Sink { target: LogTarget::Journald, socket: ours };
        let text = "x".repeat(16 << 10);
        sink.send(&entry(false, &text), 6, &text).unwrap();
        let received = socket::receive(theirs.as_fd(), 1 << 20).unwrap();
        assert_eq!((received.bytes.len(), received.fds.len()), (0, 1));
        let file = received.fds.into_iter().next().unwrap();
        assert!(rustix::fs::fcntl_get_seals(&file).unwrap().contains(SealFlags::WRITE | SealFlags::SEAL));
        let mut file = File::from(file);
        std::io::Seek::rewind(&mut file).unwrap();
        let mut message = Vec::new();
        file.read_to_end(&mut message).unwrap();
        assert_eq!(message, journal(&entry(false, &text), 6, &text));
    }
}
