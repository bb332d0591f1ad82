//! What is on the screen of `top`, and what keys do to it. Pure.

use std::collections::{BTreeMap, VecDeque};

use jiff::{Timestamp, tz::TimeZone};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::{
    logs::{Levels, Line},
    output::escape,
};
use crate::control::types::{Changes, LogEntry, Sample, Samples};

/// Samples of a service that are remembered: as many as the widest terminal shows.
const REMEMBERED: usize = 512;
/// Lines of a log that are.
const LINES: usize = 2_000;
/// Lines that a page is, whatever the height: a key has no business to know that.
const PAGE: usize = 10;

/// What a service took between two samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rates {
    /// CPUs.
    pub(super) cpu: Option<f64>,
    /// What most of it waited for, and the share of the time, 0 to 1.
    pub(super) pressure: Option<(String, f64)>,
    /// Bytes a second.
    pub(super) received: Option<f64>,
    /// Bytes a second.
    pub(super) sent: Option<f64>,
}

impl Rates {
    /// None are known of two runs, and of two samples of the same moment.
    fn between(old: &Sample, new: &Sample) -> Self {
        let millis = new.at.saturating_sub(old.at);
        if old.run != new.run || millis == 0 {
            return Self::default();
        }
        let (rate, micros) = (1000.0 / float(millis), float(millis) * 1000.0);
        let grown = |old: Option<u64>, new: Option<u64>| new?.checked_sub(old?).map(float);
        let waited = |(what, new): (&String, &u64)| {
            let share = grown(old.pressure.get(what).copied(), Some(*new))? / micros;
            Some((what.clone(), share.min(1.0)))
        };
        let most = |one: &(String, f64), other: &(String, f64)| one.1.total_cmp(&other.1);
        Self {
            cpu: grown(old.cpu_usec, new.cpu_usec).map(|usec| usec / micros),
            pressure: new.pressure.iter().filter_map(waited).max_by(most),
            received: grown(old.received_bytes, new.received_bytes).map(|bytes| bytes * rate),
            sent: grown(old.sent_bytes, new.sent_bytes).map(|bytes| bytes * rate),
        }
    }
}

/// Numbers of samples are far below what a float has room for.
#[expect(clippy::cast_precision_loss, reason = "a rate on a screen has three digits")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// A service on the screen.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) sample: Sample,
    pub(super) rates: Rates,
    /// Thousandths of a CPU, the newest first.
    pub(super) cpu: VecDeque<u64>,
    /// Bytes, the newest first.
    pub(super) memory: VecDeque<u64>,
}

impl Row {
    fn new(sample: Sample, before: Option<Self>) -> Self {
        let (rates, mut cpu, mut memory) = match before {
            Some(before) => (Rates::between(&before.sample, &sample), before.cpu, before.memory),
            None => (Rates::default(), VecDeque::new(), VecDeque::new()),
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is not negative")]
        let thousandths = |cpus: f64| (cpus * 1000.0) as u64;
        remember(&mut cpu, rates.cpu.map_or(0, thousandths));
        remember(&mut memory, sample.memory.unwrap_or_default());
        Self { sample, rates, cpu, memory }
    }

    fn network(&self) -> f64 {
        self.rates.received.unwrap_or_default() + self.rates.sent.unwrap_or_default()
    }
}

fn remember(past: &mut VecDeque<u64>, value: u64) {
    past.push_front(value);
    past.truncate(REMEMBERED);
}

/// By what rows are ordered: by their names, or the greatest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    #[default]
    Cpu,
    Memory,
    Network,
    Pressure,
    Restarts,
}

impl Order {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Order::Name => "name",
            Order::Cpu => "cpu",
            Order::Memory => "memory",
            Order::Network => "network",
            Order::Pressure => "pressure",
            Order::Restarts => "restarts",
        }
    }

    fn next(self) -> Self {
        match self {
            Order::Name => Order::Cpu,
            Order::Cpu => Order::Memory,
            Order::Memory => Order::Network,
            Order::Network => Order::Pressure,
            Order::Pressure => Order::Restarts,
            Order::Restarts => Order::Name,
        }
    }

    /// How great a row is.
    fn key(self, row: &Row) -> f64 {
        match self {
            Order::Name => 0.0,
            Order::Cpu => row.rates.cpu.unwrap_or_default(),
            Order::Memory => row.sample.memory.map_or(0.0, float),
            Order::Network => row.network(),
            Order::Pressure => row.rates.pressure.as_ref().map_or(0.0, |(_, share)| *share),
            Order::Restarts => float(row.sample.restarts),
        }
    }
}

/// What can be done to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Stop,
    Restart,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Restart => "restart",
        }
    }
}

/// What a key asks for that is more than another picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    End,
    Do(Verb, String),
    OpenLog(String),
    CloseLog,
}

/// What was last said at the foot of the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) is_error: bool,
}

/// A line of a log, safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// Of the day.
    pub(super) time: String,
    /// As syslog(3) counts.
    pub(super) level: u8,
    pub(super) text: String,
}

/// The log of a service.
#[derive(Debug)]
pub(super) struct LogView {
    pub(super) name: String,
    pub(super) lines: VecDeque<Shown>,
    /// How many of the last lines are below what is shown.
    pub(super) below: usize,
    levels: Levels,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Screen {
    /// In the order in which they are shown.
    pub(super) rows: Vec<Row>,
    pub(super) order: Order,
    /// The service that keys are about, wherever its row goes; the first one, as long as nobody has chosen.
    selected: Option<String>,
    pub(super) log: Option<LogView>,
    /// What is to be done, once somebody says yes.
    pub(super) question: Option<(Verb, String)>,
    pub(super) said: Option<Said>,
    /// Why nobody knows what services do.
    pub(super) lost: Option<String>,
    zone: TimeZone,
}

impl Screen {
    /// Nothing yet; times are told in this zone.
    pub(super) fn new(zone: TimeZone) -> Self {
        Self {
            rows: Vec::new(),
            order: Order::default(),
            selected: None,
            log: None,
            question: None,
            said: None,
            lost: None,
            zone,
        }
    }

    /// What services take now.
    pub(super) fn take(&mut self, samples: Samples) {
        self.lost = None;
        let mut before: BTreeMap<String, Row> =
            std::mem::take(&mut self.rows).into_iter().map(|row| (row.sample.name.clone(), row)).collect();
        self.rows = samples
            .services
            .into_iter()
            .map(|sample| {
                let before = before.remove(&sample.name);
                Row::new(sample, before)
            })
            .collect();
        self.sort();
    }

    fn sort(&mut self) {
        let order = self.order;
        self.rows.sort_by(|one, other| {
            let names = || one.sample.name.cmp(&other.sample.name);
            order.key(other).total_cmp(&order.key(one)).then_with(names)
        });
    }

    /// The number of the row that keys are about.
    pub(super) fn index(&self) -> usize {
        let is_selected = |row: &Row| Some(&row.sample.name) == self.selected.as_ref();
        self.rows.iter().position(is_selected).unwrap_or_default()
    }

    pub(super) fn selected(&self) -> Option<&Row> {
        self.rows.get(self.index())
    }

    /// Nobody answers at the moment; what is known stays.
    pub(super) fn lost(&mut self, error: &str) {
        self.lost = Some(escape(error).into_owned());
    }

    pub(super) fn failed(&mut self, error: &str) {
        self.said = Some(Said { text: escape(error).into_owned(), is_error: true });
    }

    /// What came of a verb.
    pub(super) fn done(&mut self, answer: Result<Changes, String>) {
        match answer {
            Ok(Changes { changes }) => {
                let is_error = changes.iter().any(|change| !change.ok);
                let lines = changes.iter().map(|change| format!("{}: {}", change.name, change.what));
                let text = escape(&lines.collect::<Vec<_>>().join("; ")).into_owned();
                self.said = Some(Said { text, is_error });
            }
            Err(error) => self.failed(&error),
        }
    }

    /// What the service has written whose log is shown.
    pub(super) fn lines(&mut self, entries: Vec<LogEntry>) {
        let Some(log) = &mut self.log else { return };
        for entry in entries {
            let Line { entry, level, .. } = log.levels.read(entry);
            let time = entry.time.parse::<Timestamp>().map_or_else(
                |_| String::new(),
                |time| time.to_zoned_datetime(self.zone.clone()).strftime("%H:%M:%S").to_string(),
            );
            log.lines.push_back(Shown { time, level, text: escape(&entry.text).into_owned() });
            // Who reads what was is not moved away from it.
            if log.below > 0 {
                log.below += 1;
            }
            if log.lines.len() > LINES {
                log.lines.pop_front();
            }
        }
    }

    /// Somebody has pressed a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return matches!(key.code, KeyCode::Char('c')).then_some(Wish::End);
        }
        if let Some((verb, name)) = self.question.take() {
            return match key.code {
                KeyCode::Char('y' | 'Y') => Some(self.begin(verb, name)),
                _ => None,
            };
        }
        self.said = None;
        if self.log.is_some() {
            return self.key_of_log(key.code);
        }
        let index = self.index();
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Wish::End),
            KeyCode::Up | KeyCode::Char('k') => self.select(index.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(index + 1),
            KeyCode::PageUp => self.select(index.saturating_sub(PAGE)),
            KeyCode::PageDown => self.select(index + PAGE),
            KeyCode::Home => self.select(0),
            KeyCode::End => self.select(usize::MAX),
            KeyCode::Char('o') => {
                self.order = self.order.next();
                self.sort();
            }
            // Nothing is lost by a start; what goes on is asked about.
            KeyCode::Char('a') => return self.choose().map(|name| self.begin(Verb::Start, name)),
            KeyCode::Char('r') => self.question = self.choose().map(|name| (Verb::Restart, name)),
            KeyCode::Char('s') => self.question = self.choose().map(|name| (Verb::Stop, name)),
            KeyCode::Char('l') | KeyCode::Enter => {
                let name = self.choose()?;
                self.log = Some(LogView {
                    name: name.clone(),
                    lines: VecDeque::new(),
                    below: 0,
                    levels: Levels::default(),
                });
                return Some(Wish::OpenLog(name));
            }
            _ => {}
        }
        None
    }

    fn begin(&mut self, verb: Verb, name: String) -> Wish {
        self.said = Some(Said { text: format!("{} {name} ...", verb.as_str()), is_error: false });
        Wish::Do(verb, name)
    }

    fn select(&mut self, row: usize) {
        let row = self.rows.get(row.min(self.rows.len().saturating_sub(1)));
        self.selected = row.map(|row| row.sample.name.clone());
    }

    /// The service that a key is about, which it is about from now on.
    fn choose(&mut self) -> Option<String> {
        self.select(self.index());
        self.selected.clone()
    }

    fn key_of_log(&mut self, key: KeyCode) -> Option<Wish> {
        let log = self.log.as_mut()?;
        let most = log.lines.len().saturating_sub(1);
        match key {
            KeyCode::Char('q' | 'l') | KeyCode::Esc => {
                self.log = None;
                return Some(Wish::CloseLog);
            }
            KeyCode::Up | KeyCode::Char('k') => log.below += 1,
            KeyCode::Down | KeyCode::Char('j') => log.below = log.below.saturating_sub(1),
            KeyCode::PageUp => log.below += PAGE,
            KeyCode::PageDown => log.below = log.below.saturating_sub(PAGE),
            KeyCode::Home => log.below = most,
            KeyCode::End => log.below = 0,
            _ => {}
        }
        log.below = log.below.min(most);
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::control::types::{Change, ServiceState, Stream};

    /// A second sample is a second later.
    pub(in super::super) fn sample(name: &str, at: u64, cpu_usec: u64) -> Sample {
        Sample {
            name: name.to_owned(),
            state: ServiceState::Active,
            run: 1,
            restarts: 0,
            since: None,
            healthy: None,
            at,
            cpu_usec: Some(cpu_usec),
            cpus: None,
            memory: Some(5 << 20),
            memory_max: None,
            pids: Some(3),
            pids_max: None,
            pressure: BTreeMap::from([("cpu".to_owned(), cpu_usec / 2), ("io".to_owned(), 0)]),
            received_bytes: Some(at * 10),
            sent_bytes: Some(0),
        }
    }

    pub(in super::super) fn screen(names: &[(&str, u64)]) -> Screen {
        let mut screen = Screen::new(TimeZone::UTC);
        let at = |at: u64| {
            let of = |(name, cpu): &(&str, u64)| sample(name, at, cpu * at);
            Samples { services: names.iter().map(of).collect() }
        };
        screen.take(at(1_000));
        screen.take(at(2_000));
        screen
    }

    fn names(screen: &Screen) -> Vec<&str> {
        screen.rows.iter().map(|row| row.sample.name.as_str()).collect()
    }

    fn press(screen: &mut Screen, code: KeyCode) -> Option<Wish> {
        screen.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn two_samples_of_one_run_make_a_rate() {
        let (old, new) = (sample("web", 1_000, 100_000), sample("web", 3_000, 600_000));
        let rates = Rates::between(&old, &new);
        assert_eq!(rates.cpu, Some(0.25));
        assert_eq!(rates.pressure, Some(("cpu".to_owned(), 0.125)));
        assert_eq!((rates.received, rates.sent), (Some(10_000.0), Some(0.0)));
        assert_eq!(Rates::between(&old, &Sample { run: 2, ..new.clone() }), Rates::default());
        assert_eq!(Rates::between(&new, &new), Rates::default());
        // A counter that begins anew, as that of a link that was made anew.
        assert_eq!(Rates::between(&old, &Sample { received_bytes: Some(0), ..new }).received, None);
    }

    #[test]
    fn a_key_is_about_the_service_that_was_chosen_wherever_its_row_goes() {
        let mut screen = screen(&[("idle", 0), ("busy", 900), ("web", 500)]);
        assert_eq!(names(&screen), ["busy", "web", "idle"]);
        assert_eq!(press(&mut screen, KeyCode::Down), None);
        let swapped = [("busy", 1_900_000), ("idle", 0), ("web", 2_000_000)];
        screen.take(Samples {
            services: swapped.iter().map(|(name, cpu)| sample(name, 3_000, *cpu)).collect(),
        });
        assert_eq!(names(&screen), ["web", "busy", "idle"]);
        assert_eq!(screen.selected().map(|row| row.sample.name.as_str()), Some("web"));
        assert_eq!(press(&mut screen, KeyCode::Char('s')), None, "asked first");
        assert_eq!(press(&mut screen, KeyCode::Char('n')), None);
        assert_eq!(press(&mut screen, KeyCode::Char('s')), None);
        assert_eq!(press(&mut screen, KeyCode::Char('y')), Some(Wish::Do(Verb::Stop, "web".to_owned())));
        assert_eq!(press(&mut screen, KeyCode::Char('a')), Some(Wish::Do(Verb::Start, "web".to_owned())));
        press(&mut screen, KeyCode::Char('o'));
        press(&mut screen, KeyCode::Char('o'));
        assert_eq!(screen.order, Order::Network);
        screen.take(Samples::default());
        assert_eq!(press(&mut screen, KeyCode::Char('r')), None, "nobody is there");
        assert_eq!(screen.question, None);
        assert_eq!(press(&mut screen, KeyCode::Char('q')), Some(Wish::End));
    }

    #[test]
    fn what_came_of_a_verb_is_said_until_the_next_key() {
        let mut screen = screen(&[("web", 0)]);
        let change = Change { name: "web".to_owned(), what: "stopped\u{1b}[2J".to_owned(), ok: true };
        screen.done(Ok(Changes { changes: vec![change] }));
        let said = screen.said.clone().expect("it was said");
        assert_eq!((said.text.as_str(), said.is_error), ("web: stopped\\x1b[2J", false));
        press(&mut screen, KeyCode::Up);
        assert_eq!(screen.said, None);
        screen.done(Err("refused".to_owned()));
        assert!(screen.said.expect("it was said").is_error);
    }

    #[test]
    fn a_log_goes_on_without_moving_what_is_read() {
        let mut screen = screen(&[("web", 0)]);
        assert_eq!(press(&mut screen, KeyCode::Char('l')), Some(Wish::OpenLog("web".to_owned())));
        let entry = |text: &str| LogEntry {
            name: "web".to_owned(),
            time: "2026-11-29T07:00:00.000001Z".to_owned(),
            stream: Stream::Stdout,
            partial: false,
            text: text.to_owned(),
        };
        screen.lines(vec![entry("<3>one\u{7}"), entry("two"), entry("three")]);
        let log = screen.log.as_ref().expect("it is shown");
        assert_eq!((log.lines[0].level, log.lines[0].text.as_str()), (3, "one\\x07"));
        press(&mut screen, KeyCode::Up);
        screen.lines(vec![entry("four")]);
        assert_eq!(screen.log.as_ref().map(|log| log.below), Some(2));
        press(&mut screen, KeyCode::Home);
        assert_eq!(screen.log.as_ref().map(|log| log.below), Some(3));
        press(&mut screen, KeyCode::End);
        screen.lines((0..LINES).map(|_| entry("more")).collect());
        assert_eq!(screen.log.as_ref().map(|log| (log.lines.len(), log.below)), Some((LINES, 0)));
        assert_eq!(press(&mut screen, KeyCode::Esc), Some(Wish::CloseLog));
        assert!(screen.log.is_none());
    }
}
