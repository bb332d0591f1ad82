//! A server on held sockets: HTTP/1.1 with keep-alive on everything that listens, answers to datagrams, and a drain that
//! loses no request.

#![allow(unsafe_code, reason = "descriptors that were there at exec have no owner yet")]

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};
use serde_json::{Value, json};

/// What the service was given, as sd_listen_fds(3) has it.
pub fn given() -> Value {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    json!({
        "fds": variable("LISTEN_FDS"),
        "names": variable("LISTEN_FDNAMES"),
        "is_mine": variable("LISTEN_PID") == std::process::id().to_string(),
        "pid": std::process::id(),
        "kept": stored(),
    })
}

/// The text of every pipe or file in memory that was given behind the sockets, read from its beginning.
fn stored() -> BTreeMap<String, String> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let text = |n: usize| {
        let bytes = std::fs::read(format!("/proc/self/fd/{}", n + 3)).ok()?;
        String::from_utf8(bytes).ok()
    };
    names.split(':').enumerate().filter_map(|(n, name)| Some((name.to_owned(), text(n)?))).collect()
}

/// The descriptors, from 3 on.
pub fn descriptors() -> Vec<OwnedFd> {
    let count = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<i32>().ok()).unwrap_or(0);
    // SAFETY: whoever started this program has left so many descriptors open, and nothing here has used them before.
    (3..3 + count).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// The connections that are open.
#[derive(Default)]
struct Open {
    count: Mutex<usize>,
    changed: Condvar,
}

/// Serves until SIGTERM, and then everybody who is connected once more. `once`: ends by itself after the first connection.
pub fn serve(once: bool) {
    let fds = descriptors();
    let drains = Arc::new(AtomicBool::new(false));
    let (read, write) = rustix::pipe::pipe().expect("a pipe");
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&drains)).expect("a handler");
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, write).expect("a handler");
    let open = Arc::new(Open::default());
    // Two runs may wait on the same sockets: whoever comes second must not be stuck in accept(2).
    for fd in &fds {
        rustix::io::ioctl_fionbio(fd, true).expect("a socket");
    }
    println!("serving {} as {}", fds.len(), std::process::id());
    'serving: while !drains.load(Ordering::SeqCst) {
        let mut polls: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        polls.push(PollFd::new(&read, PollFlags::IN));
        if rustix::event::poll(&mut polls, None).is_err() {
            continue;
        }
        let ready: Vec<bool> = polls.iter().map(|poll| !poll.revents().is_empty()).collect();
        for fd in fds.iter().zip(&ready).filter(|(_, ready)| **ready).map(|(fd, _)| fd) {
            if rustix::net::sockopt::socket_type(fd) == Ok(rustix::net::SocketType::DGRAM) {
                datagram(fd);
                continue;
            }
            match rustix::net::accept(fd) {
                Ok(connection) => begin(connection, &open, &drains),
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => continue,
                Err(errno) => panic!("accept: {errno}"),
            }
            if once {
                break 'serving;
            }
        }
    }
    drains.store(true, Ordering::SeqCst);
    drop(fds);
    let mut count = open.count.lock().expect("nobody panics");
    while *count > 0 {
        count = open.changed.wait(count).expect("nobody panics");
    }
    println!("drained");
}

fn begin(connection: OwnedFd, open: &Arc<Open>, drains: &Arc<AtomicBool>) {
    rustix::io::ioctl_fionbio(&connection, false).expect("a socket");
    *open.count.lock().expect("nobody panics") += 1;
    let (open, drains) = (Arc::clone(open), Arc::clone(drains));
    std::thread::spawn(move || {
        // A client that went away is its own business.
        let _ = talk(File::from(connection), &drains);
        *open.count.lock().expect("nobody panics") -= 1;
        open.changed.notify_all();
    });
}

/// Answers one request after the other. While it drains, the next answer says that it is the last.
fn talk(mut connection: File, drains: &AtomicBool) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
            let mut piece = [0; 4096];
            match connection.read(&mut piece)? {
                0 => return Ok(()),
                read => bytes.extend_from_slice(&piece[..read]),
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        bytes.clear();
        let body = match text.split(' ').nth(1) {
            Some("/given") => given().to_string(),
            Some("/report") => super::probe::report().to_string(),
            Some("/slow") => {
                // What takes so long that somebody has this program go meanwhile.
                while !drains.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                "slow".to_owned()
            }
            _ => std::process::id().to_string(),
        };
        let is_last = drains.load(Ordering::SeqCst) || text.contains("HTTP/1.0") || text.contains("close");
        let ends = if is_last { "close" } else { "keep-alive" };
        let length = body.len();
        connection.write_all(
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: {ends}\r\n\r\n{body}")
                .as_bytes(),
        )?;
        if is_last {
            return Ok(());
        }
    }
}

fn datagram(fd: &OwnedFd) {
    let mut bytes = [0; 2048];
    if let Ok((_, read, Some(from))) =
        rustix::net::recvfrom(fd, bytes.as_mut_slice(), rustix::net::RecvFlags::empty())
    {
        let _ = rustix::net::sendto(fd.as_fd(), &bytes[..read], rustix::net::SendFlags::empty(), &from);
    }
}
