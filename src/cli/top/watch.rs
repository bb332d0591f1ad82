//! What happens while the screen is shown, each kind of it waited for by a thread of its own: all of them block, and the
//! screen goes on.

use std::{
    io::{self, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use ratatui::crossterm::event::{self, Event};

use super::{super::verbs, screen::Verb};
use crate::control::{
    client::{CallError, Client},
    proto::{Logs, Method, Names},
    types::{Changes, LogEntries, LogEntry, Samples},
};

/// Lines of the past that a log begins with.
const PAST: u32 = 500;

/// Something that the screen is about.
#[derive(Debug)]
pub(super) enum Happened {
    /// A key, or another size.
    Input(Event),
    /// The terminal is gone.
    InputLost(io::Error),
    /// What services take; else why nobody knows.
    Samples(Result<Samples, String>),
    /// What came of a verb.
    Done(Result<Changes, String>),
    /// Lines of the log with this number.
    Lines(u64, Vec<LogEntry>),
    /// Nothing more comes of it, and why.
    LogOver(u64, String),
    /// Somebody wants this program to end.
    Signal(i32),
}

/// Who asks the supervisor.
#[derive(Debug)]
pub(super) struct Watch {
    run_dir: PathBuf,
    tell: Sender<Happened>,
    hurry: Sender<()>,
    logs: std::cell::Cell<u64>,
}

/// A log that is followed; no longer when this is dropped.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) number: u64,
    socket: Option<OwnedFd>,
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            // Whoever waits for the next line reads the end instead.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
    }
}

impl Watch {
    /// # Errors
    /// Those of socketpair(2), sigaction(2) and clone(2).
    pub(super) fn start(
        run_dir: PathBuf,
        names: Names,
        delay: Duration,
        tell: Sender<Happened>,
    ) -> io::Result<Self> {
        let (hurry, hurried) = channel();
        let watch = Self { run_dir, tell, hurry, logs: std::cell::Cell::new(0) };
        // Those that would leave the terminal as it is now.
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
            let (mut end, other) = UnixStream::pair()?;
            signal_hook::low_level::pipe::register(signal as i32, other)?;
            watch.thread("signal", move |tell| {
                if end.read(&mut [0]).is_ok() {
                    let _ = tell.send(Happened::Signal(signal as i32));
                }
            })?;
        }
        watch.thread("keys", keys)?;
        let run_dir = watch.run_dir.clone();
        watch.thread("samples", move |tell| samples(&run_dir, &names, delay, tell, &hurried))?;
        Ok(watch)
    }

    fn thread(&self, name: &str, work: impl FnOnce(&Sender<Happened>) + Send + 'static) -> io::Result<()> {
        let tell = self.tell.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || work(&tell))?;
        Ok(())
    }

    /// Measures again at once.
    pub(super) fn look(&self) {
        // Whoever measured is gone only when everything is.
        let _ = self.hurry.send(());
    }

    /// Has the supervisor do something; the answer comes when it is done.
    pub(super) fn ask(&self, verb: Verb, name: String) {
        let run_dir = self.run_dir.clone();
        let names = Names { names: vec![name] };
        let method = match verb {
            Verb::Start => Method::Start(names),
            Verb::Stop => Method::Stop(names),
            Verb::Restart => Method::Restart(names),
        };
        let asked = self.thread("verb", move |tell| {
            let answer = Client::connect(&run_dir).and_then(|mut client| client.call(&method));
            let _ = tell.send(Happened::Done(answer.map_err(|error: CallError| error.to_string())));
        });
        if let Err(error) = asked {
            let _ = self.tell.send(Happened::Done(Err(error.to_string())));
        }
    }

    /// Follows what a service writes.
    pub(super) fn open_log(&self, name: String) -> Log {
        let number = self.logs.get() + 1;
        self.logs.set(number);
        let method = Method::Logs(Logs {
            names: vec![name],
            lines: Some(PAST),
            follow: true,
            since: None,
            until: None,
        });
        let opened =
            Client::connect(&self.run_dir).map_err(|error| error.to_string()).and_then(|mut client| {
                let socket =
                    rustix::io::fcntl_dupfd_cloexec(&client, 0).map_err(|error| error.to_string())?;
                let follow = move |tell: &Sender<Happened>| {
                    let followed = client.call_more(&method, |LogEntries { entries, .. }| {
                        verbs::go_on(&tell.send(Happened::Lines(number, entries)).map_err(io::Error::other))
                    });
                    if let Err(error) = followed {
                        let _ = tell.send(Happened::LogOver(number, error.to_string()));
                    }
                };
                self.thread("log", follow).map_err(|error| error.to_string())?;
                Ok(socket)
            });
        let socket = opened.map_err(|error| self.tell.send(Happened::LogOver(number, error))).ok();
        Log { number, socket }
    }
}

fn keys(tell: &Sender<Happened>) {
    loop {
        let happened = match event::read() {
            Ok(event) => Happened::Input(event),
            Err(error) => Happened::InputLost(error),
        };
        let is_last = matches!(happened, Happened::InputLost(_));
        if tell.send(happened).is_err() || is_last {
            return;
        }
    }
}

fn samples(
    run_dir: &std::path::Path,
    names: &Names,
    delay: Duration,
    tell: &Sender<Happened>,
    hurried: &Receiver<()>,
) {
    let mut client = None;
    while !matches!(hurried.recv_timeout(delay), Err(RecvTimeoutError::Disconnected)) {
        let answer = match client.take().map_or_else(|| Client::connect(run_dir), Ok) {
            Ok(mut known) => known.call(&Method::Samples(names.clone())).inspect(|_| client = Some(known)),
            Err(error) => Err(error),
        };
        if tell.send(Happened::Samples(answer.map_err(|error| error.to_string()))).is_err() {
            return;
        }
    }
}
