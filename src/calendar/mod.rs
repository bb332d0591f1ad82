//! Moments of civil time: systemd.time(7) calendar expressions and cron's five fields. Pure.
//!
//! Both become a [`Calendar`], which says of any moment which one comes next ([`Calendar::next`]). It knows no clock, and
//! no file: whoever asks brings the time and the rules of the time zone. `spec` reads expressions, `machine` asks.
//!
//! # Where the clock is put forward or back
//! - A time that the clock skips elapses at the moment of the skip, once, however many of them fall into it: a backup of
//!   02:30 is made at 03:00 in the night when there is no 02:30. (systemd leaves it out, cron(8) does the same as we.)
//! - A time that comes twice elapses the first time alone. Where every hour matches it is the interval that is meant,
//!   not the hour: such an expression elapses both times, or a service of every five minutes would rest for an hour.
//!
//! | module | what |
//! |---|---|
//! | `parse` | systemd.time(7) |
//! | `cron` | crontab(5) |
//! | `next` | what comes next |

mod cron;
mod next;
mod parse;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

pub use cron::parse_cron;
pub use parse::parse_calendar;

/// Microseconds of a second, in which seconds are counted here.
const SECOND: u32 = 1_000_000;
/// systemd's bounds: what comes later does not come.
const YEARS: std::ops::RangeInclusive<u32> = 1970..=2199;
/// Monday to Sunday.
const ALL_DAYS: u8 = 0b111_1111;
const DAY_NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Why an expression is refused, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is wrong: lower case, no period.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// The rules of the time zones that calendars are read in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zones {
    /// The host's own.
    pub local: TimeZone,
    /// Others, by their names.
    pub named: BTreeMap<String, TimeZone>,
}

impl Zones {
    /// Nothing but UTC.
    pub fn utc() -> Self {
        Self { local: TimeZone::UTC, named: BTreeMap::new() }
    }

    /// The rules of a zone, of the host's where none is named; UTC where they are not at hand.
    pub fn get(&self, name: Option<&str>) -> TimeZone {
        match name {
            None => self.local.clone(),
            Some(name) => self.named.get(name).cloned().unwrap_or(TimeZone::UTC),
        }
    }
}

/// A set of moments of civil time, as one expression names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Calendar {
    /// Bit 0 is Monday.
    weekdays: u8,
    /// No part: every one. So with the other fields.
    years: Vec<Part>,
    months: Vec<Part>,
    days: Vec<Part>,
    /// Days are counted from the end of the month.
    from_end: bool,
    hours: Vec<Part>,
    minutes: Vec<Part>,
    /// In microseconds.
    seconds: Vec<Part>,
    zone: Option<String>,
}

/// Some values of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    start: u32,
    /// None: `start` alone, or with a step to the end of the field.
    stop: Option<u32>,
    /// 0: `start` alone.
    step: u32,
}

impl Part {
    const fn one(value: u32) -> Self {
        Self { start: value, stop: None, step: 0 }
    }

    /// The least value that is at least `value`. It may be beyond the end of the field.
    fn at_least(&self, value: u32) -> Option<u32> {
        if value <= self.start {
            return Some(self.start);
        }
        let steps = (value - self.start).checked_next_multiple_of(self.step)?;
        let found = self.start.checked_add(steps)?;
        self.stop.is_none_or(|stop| found <= stop).then_some(found)
    }
}

impl Calendar {
    /// Every day at midnight, from which the expressions are made.
    fn daily() -> Self {
        let any = Vec::new;
        let zero = || vec![Part::one(0)];
        Self {
            weekdays: ALL_DAYS,
            years: any(),
            months: any(),
            days: any(),
            from_end: false,
            hours: zero(),
            minutes: zero(),
            seconds: zero(),
            zone: None,
        }
    }

    /// The time zone that the expression names: of the database, or `UTC`.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Whether it names any moment at all.
    fn comes(&self) -> bool {
        self.at_or_after(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0)).is_some()
    }

    /// Whether it names every hour, and so means an interval rather than a time of the day.
    fn is_interval(&self) -> bool {
        self.hours.is_empty() || (0..24).all(|hour| next::least(&self.hours, hour) == Some(hour))
    }

    /// Puts the fields into the one form that all expressions of the same meaning share.
    fn normalize(mut self) -> Self {
        let fields = [
            &mut self.years,
            &mut self.months,
            &mut self.days,
            &mut self.hours,
            &mut self.minutes,
            &mut self.seconds,
        ];
        for field in fields {
            for part in field.iter_mut() {
                if let Some(stop) = part.stop.as_mut().filter(|_| part.step > 0) {
                    *stop -= (*stop - part.start) % part.step;
                }
            }
            field.sort_unstable();
            field.dedup();
        }
        self
    }
}

impl From<Calendar> for String {
    fn from(calendar: Calendar) -> Self {
        calendar.to_string()
    }
}

impl TryFrom<String> for Calendar {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_calendar(&text).map_err(|mistake| mistake.message)
    }
}

/// The normalized form, as `systemd-analyze calendar` prints it.
impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.weekdays != ALL_DAYS {
            write_weekdays(f, self.weekdays)?;
            f.write_str(" ")?;
        }
        write_field(f, &self.years, 4)?;
        f.write_str("-")?;
        write_field(f, &self.months, 2)?;
        f.write_str(if self.from_end { "~" } else { "-" })?;
        write_field(f, &self.days, 2)?;
        f.write_str(" ")?;
        write_field(f, &self.hours, 2)?;
        f.write_str(":")?;
        write_field(f, &self.minutes, 2)?;
        f.write_str(":")?;
        write_seconds(f, &self.seconds)?;
        match &self.zone {
            Some(zone) => write!(f, " {zone}"),
            None => Ok(()),
        }
    }
}

/// `Mon,Wed..Fri`: three in a row or more are a range.
fn write_weekdays(f: &mut fmt::Formatter<'_>, days: u8) -> fmt::Result {
    let has = |day: usize| day < 7 && days & (1 << day) != 0;
    let (mut day, mut separator) = (0, "");
    while day < 7 {
        if !has(day) {
            day += 1;
            continue;
        }
        let last = (day..7).take_while(|day| has(*day)).last().unwrap_or(day);
        write!(f, "{separator}{}", DAY_NAMES[day])?;
        if last > day {
            write!(f, "{}{}", if last > day + 1 { ".." } else { "," }, DAY_NAMES[last])?;
        }
        (day, separator) = (last + 1, ",");
    }
    Ok(())
}

fn write_field(f: &mut fmt::Formatter<'_>, parts: &[Part], width: usize) -> fmt::Result {
    if parts.is_empty() {
        return f.write_str("*");
    }
    for (index, Part { start, stop, step }) in parts.iter().enumerate() {
        write!(f, "{}{start:0width$}", if index > 0 { "," } else { "" })?;
        if let Some(stop) = stop {
            write!(f, "..{stop:0width$}")?;
        }
        if *step > 1 || (*step == 1 && stop.is_none()) {
            write!(f, "/{step}")?;
        }
    }
    Ok(())
}

fn write_seconds(f: &mut fmt::Formatter<'_>, parts: &[Part]) -> fmt::Result {
    if parts == [EVERY_SECOND] {
        return f.write_str("*");
    }
    let whole = |micros: u32| micros / SECOND;
    let fraction = |micros: u32| match micros % SECOND {
        0 => String::new(),
        rest => format!(".{rest:06}"),
    };
    for (index, Part { start, stop, step }) in parts.iter().enumerate() {
        write!(f, "{}{:02}{}", if index > 0 { "," } else { "" }, whole(*start), fraction(*start))?;
        if let Some(stop) = stop {
            write!(f, "..{:02}{}", whole(*stop), fraction(*stop))?;
        }
        if *step > 0 && !(*step == SECOND && stop.is_some()) {
            write!(f, "/{}{}", whole(*step), fraction(*step))?;
        }
    }
    Ok(())
}

/// `*` in the field of the seconds.
const EVERY_SECOND: Part = Part { start: 0, stop: None, step: SECOND };
