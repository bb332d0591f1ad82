//! What filters of system calls and Landlock domains refused, as the kernel's audit log tells of it (linux/audit.h).
//!
//! The log is heard by netlink, beside an auditd if there is one; who hears it changes nothing about it. The kernel tells of
//! everything in its first network namespace alone: a Palisade in a container hears nothing.

use std::os::fd::{AsFd, BorrowedFd};

use super::{
    NetError,
    netlink::{Netlink, messages},
};
use crate::sys::SysError;

/// AUDIT_NLGRP_READLOG.
const GROUP: u32 = 1;
const AUDIT_SECCOMP: u16 = 1326;
/// SECCOMP_RET_LOG of linux/seccomp.h: the call was let through, and a line is all that comes of it.
const LET_THROUGH: u32 = 0x7ffc_0000;
const AUDIT_LANDLOCK_ACCESS: u16 = 1423;
const AUDIT_LANDLOCK_DOMAIN: u16 = 1424;
/// So many datagrams are taken at once; what is left comes the next time.
const DATAGRAMS: usize = 64;

/// A line of the log that says something about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A call that a filter did not let through.
    Call(Call),
    /// Whose a Landlock domain is: its number, and the id of who made it. Told once, after the first of what it denies.
    Domain(u64, u32),
    /// What the domain with this number has denied (Linux 6.15).
    Access(u64, Access),
}

/// Something that a Landlock domain has denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Rights that are missing, with commas between: `fs.read_file`, `scope.signal`.
    pub rights: String,
    /// On what; empty: on nothing that has a name.
    pub object: String,
}

/// A call that a filter did not let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who made it, as the host counts.
    pub uid: u32,
    /// The process, as the host counts.
    pub pid: u32,
    /// Its program, as far as it can be told.
    pub program: String,
    /// AUDIT_ARCH_* of linux/audit.h.
    pub arch: u32,
    /// Its number there.
    pub number: u32,
    /// SECCOMP_RET_*, without the data.
    pub action: u32,
}

/// Hears the audit log.
#[derive(Debug)]
pub struct Audit(Netlink);

impl Audit {
    /// Begins to hear it.
    ///
    /// # Errors
    /// EPROTONOSUPPORT: the kernel has no audit log; EPERM: CAP_AUDIT_READ is missing (Linux 3.16).
    pub fn open() -> Result<Self, NetError> {
        let socket = Netlink::open(netlink_sys::protocols::NETLINK_AUDIT)?;
        socket.join(GROUP)?;
        Ok(Self(socket))
    }

    /// Readable when there is something in the log.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// What it says since. Never waits; what came faster than it was read is lost.
    ///
    /// # Errors
    /// From recv(2).
    pub fn read(&mut self) -> Result<Vec<Line>, SysError> {
        let mut found = Vec::new();
        for _ in 0..DATAGRAMS {
            match self.0.receive() {
                Ok(None) => break,
                Ok(Some(datagram)) => {
                    found.extend(messages(datagram).filter_map(|message| line(message.kind, message.body)));
                }
                Err(error) if error.errno == libc::ENOBUFS => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

fn line(kind: u16, body: &[u8]) -> Option<Line> {
    let text = String::from_utf8_lossy(body);
    match kind {
        AUDIT_SECCOMP => call(&text).filter(|call| call.action != LET_THROUGH).map(Line::Call),
        AUDIT_LANDLOCK_DOMAIN => Some(Line::Domain(domain(&text)?, value(&text, "uid")?.parse().ok()?)),
        AUDIT_LANDLOCK_ACCESS => {
            let rights = value(&text, "blockers")?.to_owned();
            let object = value(&text, "path").map_or_else(String::new, self::text);
            Some(Line::Access(domain(&text)?, Access { rights, object }))
        }
        _ => None,
    }
}

fn domain(line: &str) -> Option<u64> {
    u64::from_str_radix(value(line, "domain")?, 16).ok()
}

fn value<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// Reads a line of the log: `audit(1795950381.123:45): auid=0 uid=1000 … exe="/bin/x" sig=0 arch=c000003e syscall=165 …`.
fn call(line: &str) -> Option<Call> {
    let value = |key: &str| value(line, key);
    let hex = |key: &str| {
        let digits = value(key)?;
        u32::from_str_radix(digits.strip_prefix("0x").unwrap_or(digits), 16).ok()
    };
    Some(Call {
        uid: value("uid")?.parse().ok()?,
        pid: value("pid")?.parse().ok()?,
        program: text(value("exe").unwrap_or_default()),
        arch: hex("arch")?,
        number: value("syscall")?.parse::<i32>().ok()?.cast_unsigned(),
        action: hex("code")? & 0xffff_0000,
    })
}

/// In quotes, or in hexadecimal digits where it has a quote, a space or a control character in it.
fn text(value: &str) -> String {
    if let Some(quoted) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        return quoted.to_owned();
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
    let bytes: Option<Vec<u8>> = value.as_bytes().chunks(2).map(byte).collect();
    bytes.map_or_else(|| value.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_read_whatever_the_program_is_called() {
        let text = "audit(1795950381.123:45): auid=4294967295 uid=1879048192 gid=1879048192 ses=4294967295 pid=4242 \
                    comm=\"a uid=0\" exe=\"/usr/bin/x\" sig=0 arch=c000003e syscall=165 compat=0 ip=0x7f00 code=0x50001";
        let read = call(text).unwrap();
        assert_eq!((read.uid, read.pid, read.number), (1_879_048_192, 4242, 165));
        assert_eq!((read.program.as_str(), read.arch, read.action), ("/usr/bin/x", 0xc000_003e, 0x5_0000));
        let odd = text.replace("\"/usr/bin/x\"", "2F746D702F6120622063").replace("=165", "=-1");
        let read = call(&odd).unwrap();
        assert_eq!((read.program.as_str(), read.number), ("/tmp/a b c", u32::MAX));
        assert_eq!(call("audit(1.2:3): pid=12 exe=\"x\""), None);
        assert_eq!(call(""), None);
        let logged = text.replace("code=0x50001", "code=0x7ffc0000");
        assert_eq!(line(AUDIT_SECCOMP, logged.as_bytes()), None);
        assert!(line(AUDIT_SECCOMP, text.as_bytes()).is_some());
        let domain =
            "audit(1.2:3): domain=195ba459b status=allocated mode=enforcing pid=300 uid=1879048192 exe=\"\"";
        assert_eq!(
            line(AUDIT_LANDLOCK_DOMAIN, domain.as_bytes()),
            Some(Line::Domain(0x1_95ba_459b, 1_879_048_192))
        );
        let access = "audit(1.2:3): domain=195ba459b blockers=fs.read_file path=\"/x\" dev=\"vda\" ino=3";
        let read = Access { rights: "fs.read_file".into(), object: "/x".into() };
        assert_eq!(line(AUDIT_LANDLOCK_ACCESS, access.as_bytes()), Some(Line::Access(0x1_95ba_459b, read)));
        assert_eq!(line(1300, access.as_bytes()), None);
        assert_eq!(super::text("4"), "4");
    }
}
