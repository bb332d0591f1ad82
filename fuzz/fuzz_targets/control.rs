//! Whatever is written to the control socket, by several callers at once, in pieces, with descriptors, at any pace: the
//! supervisor answers or hangs up, keeps no descriptor, and answers the next caller. Nothing that is asked for is done.
//!
//! An input is pieces, each ended by 0xff. The first byte of a piece says whose it is (bits 0, 1), how many descriptors go
//! with it (bits 2, 3, 4), whether the caller hangs up or reads afterwards (5, 6), and whether a minute passes (7).

#![no_main]

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
};

use libfuzzer_sys::fuzz_target;
use palisade::{
    config,
    control::{
        frame::Frames,
        proto::{self, Error, Events, Exec, Kill, Logs, Method, Names},
        server::{Incoming, Readiness, Request, Server, Source},
    },
    machine::Mono,
    spec::Unit,
};
use rustix::event::{PollFd, PollFlags};

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    frames(bytes);
    let before = palisade_fuzz::open_files();
    let dir = PathBuf::from(format!("/tmp/palisade-fuzz-control.{}", std::process::id()));
    let mut world = World {
        server: Server::bind(&dir, None).expect("a private directory can be bound in"),
        callers: Default::default(),
        now: Mono(1_000),
        path: dir.join("control.sock"),
        unit: config::parse_str("web", "service.command = ['/bin/web']", &palisade_fuzz::host())
            .expect("a good file"),
    };
    for piece in bytes.split(|byte| *byte == 0xff).filter(|piece| !piece.is_empty()) {
        world.piece(piece[0], &piece[1..]);
    }
    world.is_still_there();
    drop(world);
    let _ = std::fs::remove_dir_all(&dir);
    assert_eq!(palisade_fuzz::open_files(), before, "descriptors are left");
});

/// Every verb, as our own client asks for it.
fn seeds() {
    let names = || Names { names: vec!["web".into(), "d?*[a-z]".into()] };
    let exec = |tty| {
        Method::Exec(Exec {
            name: "web".into(),
            command: vec!["/bin/sh".into(), "-c".into(), "id".into()],
            tty,
            cols: Some(80),
            rows: None,
            env: vec!["TERM=dumb".into()],
            user: Some("root".into()),
        })
    };
    let methods = [
        Method::Ping,
        Method::List,
        Method::Status(names()),
        Method::Start(names()),
        Method::Stop(names()),
        Method::Restart(names()),
        Method::Reload(names()),
        Method::Kill(Kill { names: vec!["web".into()], signal: 15 }),
        Method::Logs(Logs {
            names: vec!["web".into()],
            lines: Some(10),
            follow: true,
            since: None,
            until: Some(0),
        }),
        Method::Events(Events { names: vec!["web".into()], past: Some(1), follow: None }),
        Method::Metrics,
        exec(false),
        exec(true),
        Method::DaemonReload,
        Method::Plan,
        Method::Confirm,
        Method::Revert,
    ];
    for method in methods {
        let message = method.to_message();
        let how = u8::try_from(method.fd_count()).expect("three at most") << 2;
        let (half, rest) = message.split_at(message.len() / 2);
        let whole = [&[how | 0x40], &message[..]].concat();
        let halves = [&[how], half, &[0xff, 0x40], rest, &[0xff, 1], &message, &[0xff, 0x20, 0]].concat();
        palisade_fuzz::seed("control", method.name(), &whole);
        palisade_fuzz::seed("control", &format!("{}-halves", method.name()), &halves);
    }
    let describe = b"\x40{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"io.palisade\"}}\0";
    palisade_fuzz::seed("control", "describe", describe);
}

/// However the bytes are cut, the messages are the same.
fn frames(bytes: &[u8]) {
    let cut = |size: usize| {
        let (mut frames, mut found) = (Frames::with_max(256), Vec::new());
        for piece in bytes.chunks(size) {
            if frames.push(piece, Vec::new()).is_err() {
                return found;
            }
            while let Ok(Some(message)) = frames.take() {
                found.push(message.text);
            }
        }
        found
    };
    let (one, many) = (cut(1), cut(4096));
    let both = one.len().min(many.len());
    assert_eq!(one[..both], many[..both]);
    for text in one {
        let _ = proto::parse_call(&text);
    }
}

struct World {
    server: Server,
    callers: [Option<UnixStream>; 4],
    now: Mono,
    path: PathBuf,
    unit: Unit,
}

impl World {
    fn piece(&mut self, how: u8, bytes: &[u8]) {
        let slot = usize::from(how & 3);
        if self.callers[slot].is_none() {
            let caller = UnixStream::connect(&self.path).expect("somebody listens");
            caller.set_nonblocking(true).expect("a socket");
            self.callers[slot] = Some(caller);
        }
        let caller = self.callers[slot].as_mut().expect("just made");
        send(caller, bytes, usize::from(how >> 2 & 7));
        if how & 0x20 != 0 {
            self.callers[slot] = None;
        } else if how & 0x40 != 0 {
            let mut buffer = [0; 4096];
            while caller.read(&mut buffer).is_ok_and(|read| read > 0) {}
        }
        if how & 0x80 != 0 {
            self.now = Mono(self.now.0 + 60_000);
        }
        self.turn();
    }

    /// Turns of the supervisor's loop, until nothing is ready.
    fn turn(&mut self) {
        for _ in 0..64 {
            self.server.tick(self.now);
            let mut found: Vec<(Source, Readiness)> = Vec::new();
            {
                let interests: Vec<_> = self.server.interests().collect();
                let flags = |read, write| {
                    let flag = |on, flag| if on { flag } else { PollFlags::empty() };
                    flag(read, PollFlags::IN) | flag(write, PollFlags::OUT)
                };
                let mut polls: Vec<PollFd<'_>> = interests
                    .iter()
                    .map(|one| PollFd::from_borrowed_fd(one.fd, flags(one.read, one.write)))
                    .collect();
                let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
                rustix::event::poll(&mut polls, Some(&now)).expect("poll");
                for (one, poll) in interests.iter().zip(&polls) {
                    let has = |flag| poll.revents().intersects(flag);
                    let readiness = Readiness {
                        readable: has(PollFlags::IN),
                        writable: has(PollFlags::OUT),
                        hangup: has(PollFlags::HUP | PollFlags::ERR),
                    };
                    if readiness != Readiness::default() {
                        found.push((one.source, readiness));
                    }
                }
            }
            if found.is_empty() {
                return;
            }
            for (source, readiness) in found {
                self.server.ready(source, readiness);
            }
            while let Some(incoming) = self.server.next() {
                if let Incoming::Request(request) = incoming {
                    self.answer(request);
                }
            }
        }
        panic!("the supervisor is kept busy by nobody");
    }

    fn answer(&mut self, request: Request) {
        let client = request.client;
        let read_again = request.method.to_message();
        let parsed = proto::parse_call(&read_again[..read_again.len() - 1]).expect("our own message");
        assert_eq!(parsed.call, Ok(proto::Call::Palisade(request.method.clone())));
        match &request.method {
            Method::Ping => self.server.reply(client, &"pong", false),
            Method::Events(_) => self.server.reply(client, &["event"], true),
            Method::Logs(logs) if logs.follow => self.server.reply(client, &logs, true),
            Method::Exec(exec) => {
                let mut unit = self.unit.clone();
                for (key, value) in exec.env.iter().filter_map(|assignment| assignment.split_once('=')) {
                    unit.service.env.insert(key.to_owned(), value.to_owned());
                }
                palisade_fuzz::session(&unit, &exec.command);
                self.server.reply_with(client, &exec, exec.tty, request.fds);
            }
            method => {
                let error = Error::Refused { reason: format!("{method:?}") };
                self.server.error(client, &error);
            }
        }
    }

    /// A caller who behaves is served, whatever the others have done.
    fn is_still_there(&mut self) {
        let mut caller = UnixStream::connect(&self.path).expect("somebody listens");
        caller.set_nonblocking(true).expect("a socket");
        caller.write_all(&Method::Ping.to_message()).expect("room for a short message");
        self.turn();
        let mut reply = [0; 256];
        let read = caller.read(&mut reply).expect("an answer");
        assert_eq!(&reply[..read], b"{\"parameters\":\"pong\"}\0");
    }
}

fn send(caller: &UnixStream, bytes: &[u8], count: usize) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let fds: Vec<OwnedFd> =
        (0..count).map(|_| File::open("/dev/null").expect("there is one").into()).collect();
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &control[..0] } else { &control[..] };
    // A caller whom the supervisor has hung up on finds out here.
    let _ = sendmsg::<()>(
        caller.as_raw_fd(),
        &[std::io::IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        None,
    );
}
