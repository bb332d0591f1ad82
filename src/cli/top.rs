//! `palisade top`: what services take, as it goes on, and the keys to do something about it.
//!
//! ```text
//! threads (watch): keys, samples, lines of a log, answers to verbs ──► one channel ──► Screen (pure) ──► draw (pure)
//!                                                                          └── Wish ──► watch: ask for it
//! ```
//!
//! The supervisor measures when it is asked, and this asks once in a while: what two answers differ by is the rate.

mod draw;
mod screen;
mod watch;

use std::{
    io::{self, IsTerminal},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use ratatui::crossterm::event::{Event, KeyEventKind};

use self::{
    screen::{Screen, Wish},
    watch::{Happened, Log, Watch},
};
use super::{Exit, Global, Times, output, verbs};
use crate::control::{
    client::{CallError, Client},
    proto::{Method, Names},
    types::Samples,
};

/// How much happens between two pictures at most.
const AT_ONCE: usize = 64;
/// A shorter delay is no use to anybody's eyes, and a burden to the supervisor.
const SHORTEST: Duration = Duration::from_millis(100);

/// Shows services until somebody has seen enough.
///
/// # Errors
/// [`CallError`], before anything is shown: what goes wrong later is told on the screen.
pub(super) fn top(
    mut client: Client,
    global: &Global,
    names: Vec<String>,
    delay: Duration,
    times: Times,
) -> Result<Exit, CallError> {
    let names = Names { names };
    let first: Samples = client.call(&Method::Samples(names.clone()))?;
    if global.json {
        return Ok(verbs::done(output::json(&first)));
    }
    if !io::stdout().is_terminal() {
        output::error(
            "top: it needs a terminal; `palisade top --json` and `palisade metrics` tell once what is measured",
        );
        return Ok(Exit::Usage);
    }
    let mut screen = Screen::new(times.zone());
    screen.take(first);
    let (tell, told) = channel();
    let watch = Watch::start(global.run.clone(), names, delay.max(SHORTEST), tell);
    let shown = watch.and_then(|watch| {
        let ended =
            ratatui::try_init().and_then(|mut terminal| show(&mut terminal, &mut screen, &watch, &told));
        // Also of a terminal that was taken by half. One that has gone away wants nothing back.
        let _ = ratatui::try_restore();
        ended
    });
    Ok(shown.unwrap_or_else(|error| verbs::done(Err(error))))
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    screen: &mut Screen,
    watch: &Watch,
    told: &Receiver<Happened>,
) -> io::Result<Exit> {
    let mut log: Option<Log> = None;
    loop {
        terminal.draw(|frame| draw::draw(frame, screen))?;
        // The channel has as many ends as there are threads, and those of keys and signals never end.
        let Ok(happened) = told.recv() else { return Ok(Exit::Done) };
        // What has come meanwhile is drawn at once; of a service that writes without end, not only that.
        for happened in std::iter::once(happened).chain(told.try_iter().take(AT_ONCE)) {
            let wish = match happened {
                Happened::Input(Event::Key(key)) if key.kind == KeyEventKind::Press => screen.key(key),
                // The size is asked for whenever something is drawn.
                Happened::Input(_) => None,
                Happened::Samples(Ok(samples)) => {
                    screen.take(samples);
                    None
                }
                Happened::Samples(Err(error)) => {
                    screen.lost(&error);
                    None
                }
                Happened::Done(answer) => {
                    screen.done(answer);
                    watch.look();
                    None
                }
                Happened::Lines(number, lines) => {
                    if log.as_ref().is_some_and(|log| log.number == number) {
                        screen.lines(lines);
                    }
                    None
                }
                Happened::LogOver(number, error) => {
                    if log.as_ref().is_some_and(|log| log.number == number) {
                        screen.failed(&error);
                    }
                    None
                }
                Happened::InputLost(error) => return Err(error),
                Happened::Signal(signal) => return Ok(Exit::Signal(signal)),
            };
            match wish {
                None => {}
                Some(Wish::End) => return Ok(Exit::Done),
                Some(Wish::Do(verb, name)) => watch.ask(verb, name),
                Some(Wish::OpenLog(name)) => log = Some(watch.open_log(name)),
                Some(Wish::CloseLog) => log = None,
            }
        }
    }
}
