//! Which moment comes next: a search in civil time, and its way to the clock of the world through a time zone.

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, DateTime},
    tz::{Offset, TimeZone},
};

use super::{Calendar, Part, SECOND, YEARS};

/// Microseconds of a minute, an hour.
const MINUTE: u64 = 60 * SECOND as u64;
const HOUR: u64 = 60 * MINUTE;

/// The least value of a field that is at least `value`; it may be beyond the end of the field.
pub(super) fn least(parts: &[Part], value: u32) -> Option<u32> {
    match parts {
        [] => Some(value),
        parts => parts.iter().filter_map(|part| part.at_least(value)).min(),
    }
}

/// A day, and a time of it in microseconds: where the search stands.
#[derive(Clone, Copy)]
struct Place {
    year: u32,
    month: u32,
    /// 32 where a month is used up.
    day: u32,
    time: u64,
}

impl Place {
    fn year(year: u32) -> Self {
        Self { year, month: 1, day: 1, time: 0 }
    }

    fn month(year: u32, month: u32) -> Self {
        match month {
            13.. => Self::year(year + 1),
            _ => Self { year, month, day: 1, time: 0 },
        }
    }

    fn day(self, day: u32) -> Self {
        Self { day, time: 0, ..self }
    }
}

impl Calendar {
    /// The first moment after `after`; none when there is none before the year 2200.
    ///
    /// `zone` are the rules of the zone that the expression names, or of the one that is meant where it names none.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let is_interval = self.is_interval();
        let mut offset = zone.to_offset(after);
        let mut from = later(offset.to_datetime(after))?;
        if let Some(repeated) = repeated_until(after, offset, zone).filter(|_| !is_interval) {
            from = from.max(repeated);
        }
        let mut at = after;
        // Between two changes of the clock civil time runs as the world's does.
        loop {
            let found = self.at_or_after(from)?;
            let Some(change) = zone.following(at).next() else { return offset.to_timestamp(found).ok() };
            at = change.timestamp();
            let (old, new) = (offset.to_datetime(at), change.offset().to_datetime(at));
            if found < old {
                return offset.to_timestamp(found).ok();
            }
            if found < new {
                return Some(at);
            }
            offset = change.offset();
            from = if is_interval { new } else { new.max(old) };
        }
    }

    /// The first time that is not before `from`, in civil time.
    pub(super) fn at_or_after(&self, from: DateTime) -> Option<DateTime> {
        let number = |value: i8| u32::try_from(value).unwrap_or_default();
        let micros = |time: DateTime| {
            let seconds = (u64::from(number(time.hour())) * 60 + u64::from(number(time.minute()))) * 60;
            (seconds + u64::from(number(time.second()))) * u64::from(SECOND)
                + u64::try_from(time.subsec_nanosecond()).unwrap_or_default().div_ceil(1000)
        };
        let mut place = match u32::try_from(from.year()) {
            Ok(year) if year >= *YEARS.start() => {
                Place { year, month: number(from.month()), day: number(from.day()), time: micros(from) }
            }
            _ => Place::year(*YEARS.start()),
        };
        // Every turn goes on by a day at least, and mostly by much more.
        loop {
            place = match self.try_place(place)? {
                Ok(found) => return Some(found),
                Err(next) => next,
            };
        }
    }

    /// The time looked for, or the place where to look on; none: beyond the last year.
    fn try_place(&self, place: Place) -> Option<Result<DateTime, Place>> {
        let year = least(&self.years, place.year).filter(|year| YEARS.contains(year))?;
        let place = if year == place.year { place } else { Place::year(year) };
        let Some(month) = least(&self.months, place.month).filter(|month| *month <= 12) else {
            return Some(Err(Place::year(year + 1)));
        };
        let place = if month == place.month { place } else { Place::month(year, month) };
        let date = |day: u32| {
            let (year, month, day) = (i16::try_from(year), i8::try_from(month), i8::try_from(day));
            Date::new(year.ok()?, month.ok()?, day.ok()?).ok()
        };
        let length = date(1).map_or(28, |first| u32::try_from(first.days_in_month()).unwrap_or(28));
        let Some(day) = self.day_at_least(place.day, length) else {
            return Some(Err(Place::month(year, month + 1)));
        };
        let place = if day == place.day { place } else { place.day(day) };
        let date = date(day)?;
        let weekday = date.weekday().to_monday_zero_offset();
        let time = match self.weekdays & (1 << weekday) {
            0 => None,
            _ => self.time_at_least(place.time),
        };
        Some(match time {
            Some(micros) => Ok(date
                .to_datetime(jiff::civil::Time::midnight())
                .saturating_add(i64::try_from(micros).unwrap_or_default().microseconds())),
            None => Err(place.day(day + 1)),
        })
    }

    /// The first day of a month of that many that is not before `day`.
    fn day_at_least(&self, day: u32, length: u32) -> Option<u32> {
        if !self.from_end {
            return least(&self.days, day).filter(|day| *day <= length);
        }
        // From the end on 1 is the last day, and a range goes from the larger number to the smaller one.
        let matches = |day: u32, part: &Part| {
            let back = length + 1 - day;
            let first = part.stop.unwrap_or(part.start).max(part.start);
            let last = part.stop.map_or(1, |stop| stop.min(part.start));
            match part.step {
                0 => back == part.start,
                step => (last..=first).contains(&back) && (first - back).is_multiple_of(step),
            }
        };
        (day..=length).find(|day| self.days.is_empty() || self.days.iter().any(|part| matches(*day, part)))
    }

    /// The first time of a day that is not before `time`, in microseconds.
    fn time_at_least(&self, time: u64) -> Option<u64> {
        let part = |span: u64, of: u64| u32::try_from(time / span % of).unwrap_or(u32::MAX);
        if time >= 24 * HOUR {
            return None;
        }
        let (mut from_hour, mut from_minute) = (part(HOUR, 24), part(MINUTE, 60));
        let mut from_second = u32::try_from(time % MINUTE).unwrap_or(u32::MAX);
        loop {
            let hour = least(&self.hours, from_hour).filter(|hour| *hour < 24)?;
            if hour > from_hour {
                (from_minute, from_second) = (0, 0);
            }
            let Some(minute) = least(&self.minutes, from_minute).filter(|minute| *minute < 60) else {
                (from_hour, from_minute, from_second) = (hour + 1, 0, 0);
                continue;
            };
            if minute > from_minute {
                from_second = 0;
            }
            match least(&self.seconds, from_second).filter(|second| *second < 60 * SECOND) {
                Some(second) => {
                    return Some(u64::from(hour) * HOUR + u64::from(minute) * MINUTE + u64::from(second));
                }
                None => (from_hour, from_minute, from_second) = (hour, minute + 1, 0),
            }
        }
    }
}

/// The next microsecond.
fn later(time: DateTime) -> Option<DateTime> {
    time.checked_add(1.microsecond()).ok()
}

/// The clock was put back at the last change before `after`: until then it shows what it had shown before.
fn repeated_until(after: Timestamp, offset: Offset, zone: &TimeZone) -> Option<DateTime> {
    let change = zone.preceding(after.checked_add(1.nanosecond()).ok()?).next()?;
    let at = change.timestamp();
    let before = zone.to_offset(at.checked_sub(1.nanosecond()).ok()?);
    (before > offset).then(|| before.to_datetime(at))
}
