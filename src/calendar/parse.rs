//! systemd.time(7): `[WEEKDAYS] [[YEAR-]MONTH-DAY] [HOUR:MINUTE[:SECOND]] [ZONE]`, and the words that stand for one.

use jiff::Timestamp;

use super::{ALL_DAYS, Calendar, DAY_NAMES, EVERY_SECOND, Mistake, Part, SECOND, YEARS};

/// More parts in a field than anybody writes by hand; systemd's bound as well.
const MOST_PARTS: usize = 240;
const LONG_DAY_NAMES: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const WORDS: [(&str, &str); 13] = [
    ("minutely", "*-*-* *:*:00"),
    ("hourly", "*-*-* *:00:00"),
    ("daily", "*-*-* 00:00:00"),
    ("weekly", "Mon *-*-* 00:00:00"),
    ("monthly", "*-*-01 00:00:00"),
    ("quarterly", "*-01,04,07,10-01 00:00:00"),
    ("semiannually", "*-01,07-01 00:00:00"),
    ("semi-annually", "*-01,07-01 00:00:00"),
    ("biannually", "*-01,07-01 00:00:00"),
    ("bi-annually", "*-01,07-01 00:00:00"),
    ("yearly", "*-01-01 00:00:00"),
    ("annually", "*-01-01 00:00:00"),
    ("anually", "*-01-01 00:00:00"),
];
const HINT: &str = "write it as in \"Mon..Fri 09:00\", \"*-*-01 03:30:00\" or \"daily\" (systemd.time(7))";

/// What is said of an expression that matches nothing.
pub(super) const NEVER: (&str, &str) =
    ("such a day never comes", "write a day that its months and weeks have");

/// What is wrong, and what to do where more can be said than the general hint.
type Wrong = (String, Option<String>);

/// Reads one calendar expression.
///
/// Whether there is a time zone of its name is for others to find out.
///
/// # Errors
/// Anything that is not in systemd.time(7), and times that never come.
pub fn parse_calendar(text: &str) -> Result<Calendar, Mistake> {
    let read = || {
        let calendar = Parser::new(text.trim()).calendar()?;
        match calendar.comes() {
            true => Ok(calendar),
            false => Err((NEVER.0.to_owned(), Some(NEVER.1.to_owned()))),
        }
    };
    read().map_err(|(message, hint): Wrong| Mistake {
        message: format!("{text:?} is not a calendar expression: {message}"),
        hint: hint.unwrap_or_else(|| HINT.to_owned()),
    })
}

/// What is left to read.
struct Parser<'a> {
    rest: &'a str,
    zone: Option<String>,
}

/// A field: its name and bounds.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    /// Of which seconds have a million.
    unit: u32,
}

const fn field(name: &'static str, least: u32, most: u32) -> Field {
    Field { name, least, most, unit: 1 }
}

const YEAR: Field = field("year", *YEARS.start(), *YEARS.end());
const MONTH: Field = field("month", 1, 12);
const DAY: Field = field("day", 1, 31);
/// Every month has so many.
const DAY_FROM_END: Field = field("day from the end of the month", 1, 28);
const HOUR: Field = field("hour", 0, 23);
const MINUTE: Field = field("minute", 0, 59);
const SECONDS: Field = Field { name: "second", least: 0, most: 60 * SECOND - 1, unit: SECOND };

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        match text.rsplit_once(' ') {
            // Weekdays come first: a word at the end is the zone.
            Some((rest, zone)) if zone.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                let zone = if zone.eq_ignore_ascii_case("utc") { "UTC" } else { zone };
                Self { rest: rest.trim_end(), zone: Some(zone.to_owned()) }
            }
            _ => Self { rest: text, zone: None },
        }
    }

    fn calendar(mut self) -> Result<Calendar, Wrong> {
        if let Some(zone) = &self.zone
            && !is_zone_name(zone)
        {
            return Err((format!("{zone:?} is not the name of a time zone"), None));
        }
        if self.rest.is_empty() {
            return Err(("it is empty".to_owned(), None));
        }
        if let Some((_, meaning)) = WORDS.iter().find(|(word, _)| self.rest.eq_ignore_ascii_case(word)) {
            self.rest = meaning;
        }
        let mut calendar = Calendar::daily();
        if let Some(moment) = self.rest.strip_prefix('@') {
            if self.zone.is_some_and(|zone| zone != "UTC") {
                return Err(("a moment in seconds since 1970 has no time zone".to_owned(), None));
            }
            at_moment(moment, &mut calendar)?;
            return Ok(calendar);
        }
        calendar.weekdays = self.weekdays()?;
        self.date(&mut calendar)?;
        self.time(&mut calendar)?;
        calendar.zone = self.zone;
        Ok(calendar.normalize())
    }

    /// Goes on behind `text` if it is next.
    fn accept(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn is_at(&self, ends: &str) -> bool {
        self.rest.chars().next().is_none_or(|c| ends.contains(c))
    }

    fn unexpected(&self) -> Wrong {
        match self.rest {
            "" => ("it ends too early".to_owned(), None),
            rest => (format!("{rest:?} is not expected there"), None),
        }
    }

    /// The number of the weekday that is next, Monday first.
    fn weekday(&mut self) -> Result<Option<usize>, Wrong> {
        let starts =
            |name: &str| self.rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        let names = LONG_DAY_NAMES.iter().chain(&DAY_NAMES).enumerate();
        let Some((index, name)) = names.into_iter().find(|(_, name)| starts(name)) else { return Ok(None) };
        self.rest = &self.rest[name.len()..];
        match self.is_at("-., ") {
            true => Ok(Some(index % 7)),
            false => Err(self.unexpected()),
        }
    }

    fn weekdays(&mut self) -> Result<u8, Wrong> {
        let (mut days, mut open, mut is_first) = (0, None, true);
        loop {
            let Some(day) = self.weekday()? else {
                return if is_first { Ok(ALL_DAYS) } else { Err(self.unexpected()) };
            };
            let is_end = open.is_some();
            let from = open.take().unwrap_or(day);
            if from > day {
                let message =
                    format!("the week has no {}..{}, it begins on Monday", DAY_NAMES[from], DAY_NAMES[day]);
                let all = (from..7).chain(0..=day).map(|day| DAY_NAMES[day]).collect::<Vec<_>>().join(",");
                return Err((message, Some(format!("write \"{all}\""))));
            }
            days |= (from..=day).fold(0, |days, day| days | (1 << day));
            if !is_end && (self.accept("..") || self.accept("-")) {
                open = Some(day);
            } else if !self.accept(",") && !self.is_at(" ") {
                return Err(self.unexpected());
            }
            if self.is_at(" ") {
                self.rest = self.rest.trim_start();
                return if open.is_some() { Err(self.unexpected()) } else { Ok(days) };
            }
            is_first = false;
        }
    }

    fn date(&mut self, calendar: &mut Calendar) -> Result<(), Wrong> {
        let whole = self.rest;
        // A day alone is none, and what a colon follows is a time.
        let date = &whole[..whole.find(' ').unwrap_or(whole.len())];
        if date.is_empty() || date.contains(':') || !date.contains(['-', '~']) {
            return Ok(());
        }
        let count = date.chars().filter(|c| matches!(c, '-' | '~')).count();
        if count > 1 {
            calendar.years = self.field(&YEAR, "-")?;
            if !self.accept("-") {
                return Err(self.unexpected());
            }
        }
        calendar.months = self.field(&MONTH, "-~")?;
        calendar.from_end = self.accept("~");
        if !calendar.from_end && !self.accept("-") {
            return Err(self.unexpected());
        }
        let is_counted_back = calendar.from_end;
        let field = if is_counted_back { &DAY_FROM_END } else { &DAY };
        calendar.days = self.field_of(field, " ", is_counted_back)?;
        calendar.from_end &= !calendar.days.is_empty();
        self.rest = self.rest.trim_start();
        Ok(())
    }

    fn time(&mut self, calendar: &mut Calendar) -> Result<(), Wrong> {
        if self.rest.is_empty() {
            return Ok(());
        }
        calendar.hours = self.field(&HOUR, ":")?;
        if !self.accept(":") {
            return Err(self.unexpected());
        }
        calendar.minutes = self.field(&MINUTE, ":")?;
        if self.accept(":") {
            calendar.seconds = match self.field(&SECONDS, "")? {
                parts if parts.is_empty() => vec![EVERY_SECOND],
                parts => parts,
            };
        }
        match self.rest {
            "" => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    fn field(&mut self, field: &Field, ends: &str) -> Result<Vec<Part>, Wrong> {
        self.field_of(field, ends, false)
    }

    /// The parts of a field, up to one of `ends`; none for `*`.
    fn field_of(&mut self, field: &Field, ends: &str, is_counted_back: bool) -> Result<Vec<Part>, Wrong> {
        let mut parts = Vec::new();
        if self.accept("*") {
            if let Some(step) = self.rest.strip_prefix('/').filter(|_| !is_counted_back) {
                let step: String = step.chars().take_while(char::is_ascii_digit).collect();
                let hint = format!("write \"{}/{step}\"", field.least / field.unit);
                return Err(("a step needs a start".to_owned(), Some(hint)));
            }
        } else {
            loop {
                parts.push(self.part(field, is_counted_back)?);
                if !self.accept(",") {
                    break;
                }
                if parts.len() == MOST_PARTS {
                    return Err((format!("more than {MOST_PARTS} parts of the {}", field.name), None));
                }
            }
        }
        match self.is_at(ends) {
            true => Ok(parts),
            false => Err(self.unexpected()),
        }
    }

    fn part(&mut self, field: &Field, is_counted_back: bool) -> Result<Part, Wrong> {
        let start = field.check(self.number(field)?)?;
        let stop = match self.accept("..") {
            true => Some(field.check(self.number(field)?)?),
            false => None,
        };
        let step = match (self.accept("/"), stop) {
            (true, _) => self.number(field)?,
            (false, None) => return Ok(Part::one(start)),
            (false, Some(stop)) if stop == start => return Ok(Part::one(start)),
            (false, Some(_)) => field.unit,
        };
        let show = |value: u32| field.show(value);
        if step == 0 {
            return Err((format!("a step of 0 in the {} leads nowhere", field.name), None));
        }
        if let Some(stop) = stop.filter(|stop| *stop < start) {
            let message = format!("the range {}..{} goes backwards", show(start), show(stop));
            return Err((message, Some(format!("write \"{}..{}\"", show(stop), show(start)))));
        }
        let room = match (stop, is_counted_back) {
            (Some(stop), _) => stop - start,
            (None, false) => field.most - start,
            (None, true) => start - field.least,
        };
        if step > room {
            let message = format!("the step {} leads out of the {} at once", show(step), field.name);
            return Err((message, Some("leave the step out, or start earlier".to_owned())));
        }
        Ok(Part { start, stop, step })
    }

    /// A number; of seconds also with a fraction, whose seventh digit rounds.
    fn number(&mut self, field: &Field) -> Result<u32, Wrong> {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let length = digits(self.rest);
        if length == 0 {
            return Err(self.unexpected());
        }
        let too_large = || (format!("the {} is too large", field.name), None);
        let value: u32 = self.rest[..length].parse().map_err(|_| too_large())?;
        let mut value = value.checked_mul(field.unit).ok_or_else(too_large)?;
        self.rest = &self.rest[length..];
        let fraction = self.rest.strip_prefix('.').filter(|rest| field.unit > 1 && !rest.starts_with('.'));
        if let Some(rest) = fraction {
            let length = digits(rest);
            let digit =
                |at: usize| rest.as_bytes()[..length].get(at).map_or(0, |byte| u32::from(byte - b'0'));
            let micros = (0..6).fold(0, |sum, at| sum * 10 + digit(at)) + u32::from(digit(6) >= 5);
            value = value.checked_add(micros).ok_or_else(too_large)?;
            self.rest = &rest[length..];
        }
        Ok(value)
    }
}

impl Field {
    fn check(&self, value: u32) -> Result<u32, Wrong> {
        // Two digits are a year all the same.
        let value = match value {
            0..70 if self.name == "year" => value + 2000,
            70..100 if self.name == "year" => value + 1900,
            value => value,
        };
        match (self.least..=self.most).contains(&value) {
            true => Ok(value),
            false => {
                let message = format!("there is no {} {}", self.name, self.show(value));
                let (least, most) = (self.least / self.unit, self.most / self.unit);
                Err((message, Some(format!("write a number from {least} to {most}"))))
            }
        }
    }

    fn show(&self, value: u32) -> String {
        match value % self.unit {
            0 => (value / self.unit).to_string(),
            rest => format!("{}.{rest:06}", value / self.unit),
        }
    }
}

/// `@SECONDS` since 1970: one moment of UTC.
fn at_moment(text: &str, calendar: &mut Calendar) -> Result<(), Wrong> {
    let wrong = || (format!("{text:?} is not a number of seconds since 1970"), None);
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds: i64 = is_number.then(|| text.parse().ok()).flatten().ok_or_else(wrong)?;
    let time = Timestamp::from_second(seconds).map_err(|_| wrong())?;
    let time = jiff::tz::Offset::UTC.to_datetime(time);
    let one = |value: i16| vec![Part::one(u32::try_from(value).unwrap_or_default())];
    let small = |value: i8| one(i16::from(value));
    calendar.years = one(time.year());
    (calendar.months, calendar.days) = (small(time.month()), small(time.day()));
    (calendar.hours, calendar.minutes) = (small(time.hour()), small(time.minute()));
    calendar.seconds = vec![Part::one(u32::try_from(time.second()).unwrap_or_default() * SECOND)];
    calendar.zone = Some("UTC".to_owned());
    Ok(())
}

/// Such as `Europe/Berlin` and `Etc/GMT+5`: a name below a directory, and no way out of it.
fn is_zone_name(name: &str) -> bool {
    name.len() <= 64
        && name.split('/').all(|part| part.starts_with(|c: char| c.is_ascii_alphabetic()))
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte))
}
