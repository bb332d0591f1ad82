//! What a service says on its notify socket: whatever it is, what comes of it is bounded and fit for a terminal and a log.

#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade::notify::{self, Message};

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let Some(message) = notify::parse(bytes) else {
        assert!(bytes.len() > notify::LARGEST || bytes[..bytes.len() - 1].contains(&0));
        return;
    };
    if let Some(status) = &message.status {
        assert!(status.chars().count() <= notify::STATUS && !status.contains(char::is_control));
    }
    for text in message.error.iter().chain(&message.name) {
        assert!(!text.is_empty() && text.len() <= 255 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
    assert!(message.name.iter().all(|name| !name.contains(':')));
    assert!(message.errno.is_none_or(|errno| (1..=4095).contains(&errno)));
    assert!(message.main_pid.is_none_or(|pid| u64::from(pid) <= u64::from(u32::MAX)));
    // What a line says it says also among others, and no line takes another back.
    let with_more = [&b"X-OTHER=1\n"[..], bytes, &b"\nX-MORE=2"[..]].concat();
    if with_more.len() <= notify::LARGEST && !bytes.ends_with(b"\0") {
        assert_eq!(notify::parse(&with_more), Some(message.clone()));
    }
    // What is not understood says nothing.
    if !bytes.contains(&b'=') {
        assert_eq!(message, Message::default());
    }
});

fn seeds() {
    for (name, text) in [
        ("ready", &b"READY=1\nSTATUS=Serving\nMAINPID=7\n\0"[..]),
        ("reload", b"RELOADING=1\nMONOTONIC_USEC=12345678901"),
        ("stop", b"STOPPING=1\nERRNO=2\nBUSERROR=org.freedesktop.DBus.Error.TimedOut"),
        ("watchdog", b"WATCHDOG=1\nWATCHDOG_USEC=20000000\nEXTEND_TIMEOUT_USEC=1"),
        ("trigger", b"WATCHDOG=trigger\nVARLINKERROR=io.palisade.Failed"),
        ("store", b"FDSTORE=1\nFDNAME=conn 1\nFDPOLL=0\nBARRIER=1"),
        ("remove", b"FDSTOREREMOVE=1\nFDNAME=conn"),
    ] {
        palisade_fuzz::seed("notify", name, text);
    }
}
