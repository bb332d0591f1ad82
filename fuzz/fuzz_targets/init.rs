//! What passes between the supervisor and the inside: messages and last words of an init that might be anybody's, and the
//! /etc/passwd and /etc/group of a hostile root, read by the very file that the init reads them with.

#![no_main]

use std::{
    cell::RefCell,
    fs::File,
    io::Write,
    os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
};

use libfuzzer_sys::fuzz_target;
use palisade::{
    config,
    init::{self, wire},
    launch::LaunchFault,
    plan::LaunchPlan,
    sys::socket,
};

// What `text.rs` expects of the program that it is part of.
const EINVAL: i64 = 22;
const ENOENT: i64 = 2;
const EPERM: i64 = 1;
const O_CLOEXEC: u64 = 0o2000000;

fn byte_at(address: u64) -> u8 {
    // SAFETY: the addresses are those of NUL-terminated texts of this file.
    unsafe { *(address as *const u8) }
}

fn close(fd: i64) {
    // SAFETY: only `Text::open` closes, and what `raw::call` has just given it.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
}

#[path = "../../src/init/text.rs"]
mod text;

/// The calls of the init, with the files of the sandbox in memory.
mod raw {
    pub(crate) const AT_FDCWD: u64 = -100i64 as u64;
    pub(crate) const O_NOFOLLOW: u64 = 0o400000;

    pub(crate) enum Call {
        OpenAt,
        LSeek,
        Mmap,
        Munmap,
    }

    pub(crate) fn call(call: Call, args: [u64; 6]) -> i64 {
        let number = match call {
            Call::OpenAt => return super::the_file(),
            Call::LSeek => nix::libc::SYS_lseek,
            Call::Mmap => nix::libc::SYS_mmap,
            Call::Munmap => nix::libc::SYS_munmap,
        };
        // SAFETY: lseek, mmap and munmap of what `text.rs` has opened and mapped itself.
        match unsafe { nix::libc::syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]) } {
            -1 => -i64::from(nix::errno::Errno::last_raw()),
            result => result,
        }
    }
}

thread_local! {
    static FILE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static PLAN: LaunchPlan = {
        let facts = palisade_fuzz::host();
        let unit = config::parse_str("web", "service.command = ['/bin/web']", &facts).expect("a good file");
        palisade_fuzz::plan(&unit, &facts)
    };
}

fn the_file() -> i64 {
    FILE.with_borrow(|bytes| {
        let fd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
        let mut file = File::from(fd);
        file.write_all(bytes).expect("memory");
        i64::from(OwnedFd::from(file).into_raw_fd())
    })
}

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    match first % 3 {
        0 => messages(usize::from(first >> 3), rest),
        1 => words(rest),
        _ => users(rest),
    }
});

fn seeds() {
    for verb in [wire::SAY_HELLO, wire::SAY_FAULT, wire::SAY_EXITED, wire::SAY_KEPT, wire::SAY_FD] {
        let message = wire::Message { label: init::label("stdout"), ..wire::Message::new(verb, 1, 9, 2) };
        let seed = [&[8 * 3][..], &init::message_bytes(&message)].concat();
        palisade_fuzz::seed("init", &verb.to_string(), &seed);
    }
    let words = [&[1][..], &wire::MAGIC.to_ne_bytes(), &[0; 36]].concat();
    palisade_fuzz::seed("init", "words", &words);
    let users = "\u{2}web\nroot:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:\nvideo:x:44:db,web\n";
    palisade_fuzz::seed("init", "users", users.as_bytes());
}

/// Datagrams of the init's end, with descriptors.
fn messages(fds: usize, bytes: &[u8]) {
    let before = palisade_fuzz::open_files();
    let (ours, theirs) = socket::channel().expect("a socket pair");
    let null = File::open("/dev/null").expect("there is one");
    for piece in bytes.chunks(size_of::<wire::Message>()) {
        if socket::send(theirs.as_fd(), piece, &vec![null.as_fd(); fds]).is_err() {
            break;
        }
        let received = socket::receive(ours.as_fd(), size_of::<wire::Message>()).expect("just sent");
        assert_eq!(received.fds.len(), fds);
        assert!(received.fds.iter().all(|fd| fd.as_raw_fd() > 2));
        let Some(message) = init::message_from(&received.bytes) else { continue };
        assert_eq!(init::message_bytes(&message), piece);
        let label = init::label_text(&message.label);
        assert!(label.chars().count() <= wire::LABEL);
        // As the supervisor looks a step up and tells of it.
        let number = usize::try_from(message.a).unwrap_or_default();
        let errno = i32::try_from(message.b).unwrap_or(5);
        PLAN.with(|plan| LaunchFault::child(number, plan.child_step(number), errno).to_string());
        palisade::supervisor::exit_kind(message.a);
    }
    drop((ours, theirs, null));
    assert_eq!(palisade_fuzz::open_files(), before);
}

fn words(bytes: &[u8]) {
    if let Some(words) = init::words_from(bytes) {
        assert_eq!(words.magic, wire::MAGIC);
        palisade::supervisor::exit_kind(i64::from(words.status));
    }
}

/// The name on the first line, the file behind it.
fn users(bytes: &[u8]) {
    let (name, file) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[][..]),
    };
    let name: Vec<u8> = name.iter().copied().filter(|byte| *byte != 0).chain([0]).collect();
    FILE.set(file.to_vec());
    let address = name.as_ptr() as u64;
    let plain = &name[..name.len() - 1];

    // The same with nothing but the standard library.
    let lines =
        || file.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b':').collect::<Vec<_>>());
    let number = |field: Option<&&[u8]>| -> Option<u32> {
        let text =
            std::str::from_utf8(field?).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
        text.parse().ok().filter(|id| *id != u32::MAX)
    };
    let found = lines().find(|fields| fields[0] == plain).filter(|_| !file.is_empty());
    let expected = match &found {
        None => Err(-ENOENT),
        Some(fields) => match number(fields.get(2)).zip(number(fields.get(3))) {
            Some((0, _)) if plain != b"root" => Err(-EPERM),
            ids => ids.ok_or(-EINVAL),
        },
    };
    assert_eq!(text::user_ids(address), expected);
    let expected = found.map_or(Err(-ENOENT), |fields| number(fields.get(2)).ok_or(-EINVAL));
    assert_eq!(text::group_id(address), expected);

    let mut groups = Vec::new();
    let all = text::memberships(address, |gid| {
        groups.push(gid);
        0
    });
    let is_member = |fields: &[&[u8]]| {
        fields.get(3).is_some_and(|names| names.split(|b| *b == b',').any(|name| name == plain))
    };
    let expected: Vec<u32> = lines()
        .filter(|fields| is_member(fields) && !file.is_empty())
        .filter_map(|fields| number(fields.get(2)))
        .collect();
    assert_eq!((all, groups), (0, expected));
}
