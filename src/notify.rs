//! What a service says about itself: the messages of sd_notify(3), parsed.
//!
//! Pure, and hostile input: whoever is in the sandbox may have written it. What is not understood is passed over, as the
//! protocol demands; nothing that comes out of here has a control character, or is longer than it says here.

/// Where the socket is inside, and what `NOTIFY_SOCKET` says.
pub const SOCKET: &str = "/run/palisade/notify";

/// Bytes of a message; a longer one is none. As with systemd.
pub const LARGEST: usize = 4096;
/// Characters of a status; what is beyond is cut off.
pub const STATUS: usize = 512;
/// Bytes of the name of a descriptor, or of an error.
const NAME: usize = 255;

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `READY=1`: it has started, or has finished a reload.
    pub ready: bool,
    /// `RELOADING=1`.
    pub reloading: bool,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `MONOTONIC_USEC=`: when `RELOADING=1` was said, on CLOCK_MONOTONIC.
    pub monotonic_usec: Option<u64>,
    /// `STATUS=`: one line for people; an empty one takes the last one back.
    pub status: Option<String>,
    /// `ERRNO=`: what went wrong, an error number.
    pub errno: Option<i32>,
    /// `BUSERROR=` or `VARLINKERROR=`: what went wrong, a name.
    pub error: Option<String>,
    /// `MAINPID=`: who is the main process, as the service's pid namespace counts.
    pub main_pid: Option<u32>,
    /// `WATCHDOG=`.
    pub watchdog: Option<Ping>,
    /// `WATCHDOG_USEC=`: how often it means to ping from now on; 0: not at all.
    pub watchdog_usec: Option<u64>,
    /// `EXTEND_TIMEOUT_USEC=`: how much longer it asks for, from now on.
    pub extend_usec: Option<u64>,
    /// `FDSTORE=1`: the descriptors that come along are to be kept.
    pub store: bool,
    /// `FDSTOREREMOVE=1`: those of this name are to be forgotten.
    pub remove: bool,
    /// `FDNAME=`: what they are called.
    pub name: Option<String>,
    /// `FDPOLL=0`: they are to be kept even when nothing more can come of them.
    pub keeps_dead: bool,
    /// `BARRIER=1`: the descriptor that comes along is to be closed when everything before is done.
    pub barrier: bool,
}

/// `WATCHDOG=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ping {
    /// `1`: it is alive.
    Alive,
    /// `trigger`: it has found out itself that it is not well.
    Trigger,
}

/// What a message says; none for what is no message at all. Of two assignments to one name the first counts.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    // One NUL at the end is a habit of C.
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.len() > LARGEST || bytes.contains(&0) {
        return None;
    }
    let lines = || bytes.split(|byte| *byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
    let value = |name: &str| {
        lines()
            .find_map(|line| line.split_once('=').filter(|(found, _)| *found == name))
            .map(|(_, value)| value)
    };
    let is_set = |name| value(name) == Some("1");
    let error = value("BUSERROR").or_else(|| value("VARLINKERROR"));
    Some(Message {
        ready: is_set("READY"),
        reloading: is_set("RELOADING"),
        stopping: is_set("STOPPING"),
        monotonic_usec: value("MONOTONIC_USEC").and_then(decimal),
        status: value("STATUS").map(one_line),
        errno: value("ERRNO").and_then(decimal).and_then(|errno| match errno {
            // errno(3): no kernel has more.
            1..=4095 => i32::try_from(errno).ok(),
            _ => None,
        }),
        error: error.filter(|name| is_error_name(name)).map(str::to_owned),
        main_pid: value("MAINPID").and_then(decimal).and_then(|pid| u32::try_from(pid).ok()),
        watchdog: match value("WATCHDOG") {
            Some("1") => Some(Ping::Alive),
            Some("trigger") => Some(Ping::Trigger),
            Some(_) | None => None,
        },
        watchdog_usec: value("WATCHDOG_USEC").and_then(decimal),
        extend_usec: value("EXTEND_TIMEOUT_USEC").and_then(decimal),
        store: is_set("FDSTORE"),
        remove: is_set("FDSTOREREMOVE"),
        name: value("FDNAME").filter(|name| is_fd_name(name)).map(str::to_owned),
        keeps_dead: value("FDPOLL") == Some("0"),
        barrier: is_set("BARRIER"),
    })
}

/// Digits alone: no sign, no space.
fn decimal(text: &str) -> Option<u64> {
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    }
}

/// For a terminal and a log.
fn one_line(text: &str) -> String {
    text.chars().take(STATUS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// sd_pid_notify_with_fds(3): printable ASCII without a colon, which parts the names in `LISTEN_FDNAMES`.
fn is_fd_name(name: &str) -> bool {
    let is_good = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b':';
    !name.is_empty() && name.len() <= NAME && name.bytes().all(is_good)
}

/// Of D-Bus and Varlink: `org.freedesktop.DBus.Error.TimedOut`.
fn is_error_name(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !name.is_empty() && name.len() <= NAME && name.bytes().all(is_good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_send_is_understood() {
        let ready =
            Message { ready: true, status: Some("Up".into()), main_pid: Some(7), ..Message::default() };
        assert_eq!(parse(b"READY=1\nSTATUS=Up\nMAINPID=7"), Some(ready.clone()));
        assert_eq!(parse(b"READY=1\nSTATUS=Up\nMAINPID=7\n\0"), Some(ready));
        let reloading =
            Message { reloading: true, monotonic_usec: Some(12_345_678_901), ..Message::default() };
        assert_eq!(parse(b"RELOADING=1\nMONOTONIC_USEC=12345678901"), Some(reloading));
        let failing = Message {
            stopping: true,
            errno: Some(2),
            error: Some("org.freedesktop.DBus.Error.TimedOut".into()),
            ..Message::default()
        };
        assert_eq!(
            parse(b"STOPPING=1\nERRNO=2\nBUSERROR=org.freedesktop.DBus.Error.TimedOut"),
            Some(failing)
        );
        let pings = Message {
            watchdog: Some(Ping::Alive),
            watchdog_usec: Some(20_000_000),
            extend_usec: Some(0),
            ..Message::default()
        };
        assert_eq!(parse(b"WATCHDOG=1\nWATCHDOG_USEC=20000000\nEXTEND_TIMEOUT_USEC=0"), Some(pings));
        let triggers = Message { watchdog: Some(Ping::Trigger), ..Message::default() };
        assert_eq!(parse(b"WATCHDOG=trigger"), Some(triggers));
        let stores =
            Message { store: true, name: Some("conn 1".into()), keeps_dead: true, ..Message::default() };
        assert_eq!(parse(b"FDSTORE=1\nFDNAME=conn 1\nFDPOLL=0"), Some(stores));
        let removes = Message { remove: true, name: Some("conn".into()), ..Message::default() };
        assert_eq!(parse(b"FDSTOREREMOVE=1\nFDNAME=conn"), Some(removes));
        assert_eq!(parse(b"BARRIER=1"), Some(Message { barrier: true, ..Message::default() }));
    }

    #[test]
    fn what_is_not_understood_is_passed_over() {
        for text in [
            "",
            "=",
            "READY",
            "READY=",
            "READY=0",
            "READY=yes",
            " READY=1",
            "ready=1",
            "X-MINE=1",
            "NOTIFYACCESS=all",
            "MAINPID=",
            "MAINPID=-7",
            "MAINPID=+7",
            "MAINPID= 7",
            "MAINPID=7 ",
            "MAINPID=0x7",
            "MAINPID=4294967296",
            "WATCHDOG=2",
            "WATCHDOG_USEC=1s",
            "EXTEND_TIMEOUT_USEC=18446744073709551616",
            "ERRNO=0",
            "ERRNO=4096",
            "ERRNO=-2",
            "BUSERROR=a b",
            "FDNAME=a:b",
            "FDNAME=ä",
            "FDNAME=",
            "FDPOLL=1",
            "BARRIER=2",
        ] {
            assert_eq!(parse(text.as_bytes()), Some(Message::default()), "{text:?}");
        }
        assert_eq!(parse(b"READY=1\0STATUS=x"), None);
        assert_eq!(parse(&[b'x'; LARGEST + 1]), None);
        // A line that is no text takes no other with it, and the first of two counts.
        let message = parse(b"STATUS=\xff\nSTATUS=one\nSTATUS=two\nREADY=1").expect("a message");
        assert_eq!((message.status.as_deref(), message.ready), (Some("one"), true));
    }

    #[test]
    fn a_status_is_one_bounded_line() {
        let message = parse("STATUS=\u{1b}[31mred\r\u{85}\tä".as_bytes()).expect("a message");
        assert_eq!(message.status.as_deref(), Some(" [31mred   ä"));
        let long = format!("STATUS={}", "ä".repeat(2000));
        let status = parse(long.as_bytes()).and_then(|message| message.status).expect("a status");
        assert_eq!(status.chars().count(), STATUS);
    }
}
