//! `log.rate`: lines beyond it are dropped, and the log says how many, each time once.
//!
//! How many there were is one count for a service. Each run has it in the file of its last words, behind the notes of
//! [`super::output`]: as it is, and for each output as it is once that has been written which the note tells of. What is
//! dropped wholly is noted as written, so that a successor takes it out of the pipe and counts it once.

use std::{borrow::Cow, collections::BTreeMap, fs::File, os::unix::fs::FileExt};

use super::{Supervisor, output::Note, runs::LiveRun};
use crate::{
    control::types::Stream,
    init::wire::{RATE_AT, RATE_NOTE},
    logs::{Place, Window},
    machine::Mono,
    spec::{LogRate, UnitName},
};

/// The windows of the services that have a rate.
#[derive(Debug, Default)]
pub(super) struct Rates(BTreeMap<UnitName, Window>);

/// What a run has noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Noted {
    window: Window,
    /// Of both outputs.
    places: [Place; 2],
}

/// Of which moment.
#[derive(Clone, Copy, Debug)]
enum Which {
    Now,
    /// When what is under way from this output is in the log.
    After(usize),
}

impl Noted {
    fn position(which: Which) -> u64 {
        let n = match which {
            Which::Now => 0,
            Which::After(stream) => 1 + stream,
        };
        (RATE_AT + n * RATE_NOTE) as u64
    }

    /// Without it lines may be counted twice or not at all by a successor; that stops nobody.
    fn write(self, file: &File, which: Which) {
        let Window { since, taken, dropped, told, stream } = self.window;
        let place = |Place { bytes, is_dropped }| u64::from(bytes) | u64::from(is_dropped) << 16;
        let [one, other] = self.places.map(place);
        let words = [since, u64::from(taken) | (stream as u64) << 32, dropped, told, one | other << 32];
        let _ = file.write_all_at(&words.map(u64::to_ne_bytes).concat(), Self::position(which));
    }

    /// None: nothing was ever noted, as by an older program.
    fn read(file: &File, which: Which) -> Option<Self> {
        let mut bytes = [0; RATE_NOTE];
        file.read_exact_at(&mut bytes, Self::position(which)).ok()?;
        let word = |n: usize| bytes[8 * n..8 * n + 8].try_into().map_or(0, u64::from_ne_bytes);
        let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default();
        let place = |word: u64| Place {
            bytes: u16::try_from(word & u64::from(u16::MAX)).unwrap_or_default(),
            is_dropped: word >> 16 & 1 == 1,
        };
        let stream = if word(1) >> 32 == 0 { Stream::Stdout } else { Stream::Stderr };
        let window = Window { since: word(0), taken: low(word(1)), dropped: word(2), told: word(3), stream };
        let places = [place(word(4)), place(word(4) >> 32)];
        (window.since > 0).then_some(Self { window, places })
    }

    /// What comes later has more of it.
    fn order(&self) -> (u64, u64, u64) {
        let Window { since, taken, dropped, told, .. } = self.window;
        (since, dropped.saturating_add(taken.into()), told)
    }
}

impl Supervisor {
    fn rate(&self, name: &UnitName) -> Option<LogRate> {
        self.fleet.entry(name)?.unit.log.rate
    }

    /// What of an output's next bytes goes into the log. To be noted before it is written.
    pub(super) fn within_rate<'a>(
        &mut self,
        name: &UnitName,
        stream: usize,
        bytes: &'a [u8],
    ) -> Cow<'a, [u8]> {
        if self.is_unlogged(name) {
            return Cow::default();
        }
        let Some(rate) = self.rate(name) else { return bytes.into() };
        let now = super::now().0;
        let window = self.rates.0.entry(name.base()).or_insert_with(|| Window::new(now));
        if window.ends(rate) <= now {
            // What it dropped has been told.
            *window = Window::new(now);
        }
        let Some(run) = self.runs.get_mut(name) else { return bytes.into() };
        let kind = if stream == 0 { Stream::Stdout } else { Stream::Stderr };
        let taken = window.take(rate, kind, &mut run.places[stream], bytes);
        note(run, *window, Which::After(stream));
        taken.into()
    }

    /// What was under way from an output is in the log.
    pub(super) fn rate_written(&mut self, name: &UnitName) {
        if let Some(window) = self.rates.0.get(&name.base())
            && let Some(run) = self.runs.get_mut(name)
        {
            note(run, *window, Which::Now);
        }
    }

    /// Tells the log how many lines were dropped, if any were.
    pub(super) fn tell_dropped(&mut self, name: &UnitName) {
        let base = name.base();
        let rate = self.rate(name);
        let Some(window) = self.rates.0.get_mut(&base).filter(|window| window.untold() > 0) else { return };
        let count = window.untold();
        window.told = window.dropped;
        let (window, stream) = (*window, window.stream as usize);
        let path = crate::logs::path(&self.options.log, base.as_str(), 0);
        if let Some(run) = self.runs.get_mut(name) {
            note(run, window, Which::After(stream));
            if let Some(notes) = run.notes() {
                Note::about_us(&path).write(notes, stream);
            }
        }
        let more_than = rate.map_or_else(|| "there could be".to_owned(), |rate| rate.to_string());
        tracing::warn!(unit = %base, "{count} lines of its output were dropped: more than {more_than} (log.rate)");
        let line = format!("[palisade: {count} lines were dropped here: more than {more_than}]\n");
        self.write_log(name, stream, line.as_bytes());
        self.point(name, "dropped-told");
        self.rate_written(name);
        if let Some(notes) = self.runs.get_mut(name).and_then(LiveRun::notes) {
            Note::NOTHING.write(notes, stream);
        }
    }

    /// When the log is to be told next what was dropped.
    pub(super) fn rate_deadline(&self) -> Option<Mono> {
        let untold = self.rates.0.iter().filter(|(_, window)| window.untold() > 0);
        // Without a rate, as when it was taken out of the file: now.
        untold.map(|(name, window)| Mono(self.rate(name).map_or(0, |rate| window.ends(rate)))).min()
    }

    /// The windows in which lines were dropped and that are over.
    pub(super) fn rates_overdue(&mut self) {
        if self.rate_deadline().is_none_or(|at| at > super::now()) {
            return;
        }
        let now = super::now().0;
        let is_over = |(name, window): &(&UnitName, &Window)| {
            window.untold() > 0 && self.rate(name).is_none_or(|rate| window.ends(rate) <= now)
        };
        let over: Vec<UnitName> = self.rates.0.iter().filter(is_over).map(|(name, _)| name.clone()).collect();
        for base in over {
            let of_it = self.runs.keys().find(|name| name.base() == base).cloned();
            self.tell_dropped(&of_it.unwrap_or(base));
        }
    }

    /// Takes over what a run of a predecessor has noted; of which outputs what was under way is in the log, or dropped.
    pub(super) fn adopt_rate(&mut self, name: &UnitName, run: &mut LiveRun, is_written: [bool; 2]) {
        let Some(notes) = run.notes() else { return };
        let after = [0, 1].into_iter().filter(|stream| is_written[*stream]).map(Which::After);
        let noted = std::iter::once(Which::Now).chain(after).filter_map(|which| Noted::read(notes, which));
        let Some(noted) = noted.max_by_key(Noted::order) else { return };
        noted.write(notes, Which::Now);
        run.places = noted.places;
        let known = self.rates.0.entry(name.base()).or_insert(noted.window);
        let other = Noted { window: *known, ..noted };
        if other.order() < noted.order() {
            *known = noted.window;
        }
    }
}

fn note(run: &mut LiveRun, window: Window, which: Which) {
    let noted = Noted { window, places: run.places };
    if let Some(notes) = run.notes() {
        noted.write(notes, which);
    }
}
