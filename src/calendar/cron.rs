//! crontab(5): five fields and the words that stand for them.

use super::{ALL_DAYS, Calendar, Mistake, Part};

/// A field: its name, its bounds, the names of its values and the value of the first name.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
/// Sunday is 0, and 7 as well.
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { name: "minute", least: 0, most: 59, names: &[] },
    Field { name: "hour", least: 0, most: 23, names: &[] },
    Field { name: "day of the month", least: 1, most: 31, names: &[] },
    Field { name: "month", least: 1, most: 12, names: MONTHS },
    Field { name: "day of the week", least: 0, most: 7, names: WEEKDAYS },
];
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Reads five fields, or a word such as `@daily`.
///
/// When neither the day of the month nor that of the week begins with `*`, a day that matches one of them is enough, as
/// crontab(5) has it: there are two calendars then.
///
/// # Errors
/// Anything that is not in crontab(5), and days that do not exist.
pub fn parse_cron(text: &str) -> Result<Vec<Calendar>, Mistake> {
    let text = text.trim();
    let said = || format!("{text:?} is not a cron expression");
    let text = match text.starts_with('@') {
        true => word(text)?,
        false => text,
    };
    let fields: Vec<&str> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields[..] else {
        let message = format!("{}: it has {} fields", said(), fields.len());
        let hint =
            "write five: minute, hour, day of the month, month, day of the week, such as \"30 2 * * 1-5\"";
        return Err(Mistake { message, hint: hint.to_owned() });
    };
    let read = |index: usize, text: &str| {
        FIELDS[index]
            .parse(text)
            .map_err(|(message, hint)| Mistake { message: format!("{}: {message}", said()), hint })
    };
    let mut both = Calendar::daily();
    (both.minutes, both.hours) = (read(0, minute)?, read(1, hour)?);
    (both.days, both.months) = (read(2, day)?, read(3, month)?);
    both.weekdays = weekdays(&read(4, weekday)?);
    let both = both.normalize();
    let never = || {
        let (message, hint) = super::parse::NEVER;
        Mistake { message: format!("{}: {message}", said()), hint: hint.to_owned() }
    };
    let is_restricted = |text: &str| !text.starts_with('*');
    if !(is_restricted(day) && is_restricted(weekday)) {
        return if both.comes() { Ok(vec![both]) } else { Err(never()) };
    }
    let of_month = Calendar { weekdays: ALL_DAYS, ..both.clone() };
    let of_week = Calendar { days: Vec::new(), ..both };
    // A week has all its days: only a day of the month can be one that never comes.
    if of_month.comes() { Ok(vec![of_month, of_week]) } else { Err(never()) }
}

fn word(text: &str) -> Result<&'static str, Mistake> {
    let lower = text.to_ascii_lowercase();
    if let Some((_, fields)) = WORDS.iter().find(|(word, _)| *word == lower) {
        return Ok(fields);
    }
    let hint = match lower.as_str() {
        "@reboot" => "write `after_boot = \"0s\"` instead".to_owned(),
        word if word.starts_with("@every") => "write `every = \"1h\"` instead".to_owned(),
        _ => format!("write {}", WORDS.map(|(word, _)| word).join(", ")),
    };
    Err(Mistake { message: format!("{text:?} is not a word of cron that has a time"), hint })
}

/// Bit 0 is Monday, as everywhere else.
fn weekdays(parts: &[Part]) -> u8 {
    if parts.is_empty() {
        return ALL_DAYS;
    }
    let matches = |day: u32| super::next::least(parts, day) == Some(day);
    let is_on = |day: u32| match day {
        6 => matches(0) || matches(7),
        day => matches(day + 1),
    };
    (0..7).filter(|day| is_on(*day)).fold(0, |days, day| days | (1 << day))
}

/// What is wrong, and what to do.
type Wrong = (String, String);

impl Field {
    /// No part: every value.
    fn parse(&self, text: &str) -> Result<Vec<Part>, Wrong> {
        match text {
            "*" => Ok(Vec::new()),
            text => text.split(',').map(|part| self.part(part)).collect(),
        }
    }

    fn part(&self, text: &str) -> Result<Part, Wrong> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (text, None),
        };
        let (start, stop) = match range.split_once('-') {
            _ if range == "*" => (self.least, self.most - u32::from(self.names.len() == 7)),
            Some((start, stop)) => (self.value(start)?, self.last(stop)?),
            None => {
                let start = self.value(range)?;
                let Some(step) = step else { return Ok(Part::one(start)) };
                let message = format!("in {text:?} the step has no range");
                return Err((message, format!("write \"{range}-{}/{step}\"", self.most)));
            }
        };
        if start > stop {
            let message = format!("the range {range:?} goes backwards");
            return Err((
                message,
                format!("write \"{range}\" as two, such as \"{start}-{},{}-{stop}\"", self.most, self.least),
            ));
        }
        match start == stop {
            true => Ok(Part::one(start)),
            false => Ok(Part { start, stop: Some(stop), step: step.unwrap_or(1) }),
        }
    }

    fn step(&self, text: &str) -> Result<u32, Wrong> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match digits.then(|| text.parse::<u32>()) {
            Some(Ok(step)) if (1..=self.most).contains(&step) => Ok(step),
            _ => {
                let message = format!("{text:?} is not a step of the {}", self.name);
                Err((message, format!("write a number from 1 to {}", self.most)))
            }
        }
    }

    /// The end of a range, where Sunday is the last day of the week.
    fn last(&self, text: &str) -> Result<u32, Wrong> {
        match self.value(text)? {
            0 if text.eq_ignore_ascii_case("sun") => Ok(7),
            value => Ok(value),
        }
    }

    fn value(&self, text: &str) -> Result<u32, Wrong> {
        let lower = text.to_ascii_lowercase();
        if let Some(index) = self.names.iter().position(|name| *name == lower) {
            return Ok(u32::try_from(index).unwrap_or_default() + self.least);
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match digits.then(|| text.parse::<u32>()) {
            Some(Ok(value)) if (self.least..=self.most).contains(&value) => Ok(value),
            _ => {
                let names = match self.names {
                    [first, .., last] => format!(", or a name from {first} to {last}"),
                    _ => String::new(),
                };
                let message = format!("{text:?} is not a {}", self.name);
                Err((message, format!("write a number from {} to {}{names}", self.least, self.most)))
            }
        }
    }
}
