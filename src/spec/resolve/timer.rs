//! `[timer]`: when a service is started by the clock.

use std::time::Duration;

use toml::Spanned;

use super::Reader;
use crate::{
    calendar::{self, Calendar, Mistake},
    config::{
        schema::{Scalar, Text, TimerTable, WordOrList},
        value::Refusal,
    },
    spec::{Overlap, Timer, defaults},
};

const OVERLAPS: &[(&str, Overlap)] =
    &[("skip", Overlap::Skip), ("queue", Overlap::Queue), ("restart", Overlap::Restart)];
/// What comes sooner again is a service of its own, or a mistake.
const LEAST: Duration = Duration::from_secs(1);

pub(super) fn timer(reader: &mut Reader<'_>) -> Option<Timer> {
    let entry = reader.file.tables.timer.as_ref()?;
    let TimerTable { calendar, cron, timezone, every, after_boot, after_end, jitter, persistent, overlap } =
        entry.get_ref();
    let has_calendar = calendar.is_some() || cron.is_some();
    if !has_calendar && every.is_none() && after_boot.is_none() && after_end.is_none() {
        let refusal = Refusal::new("the timer does not say when");
        reader.refuse(
            entry.span(),
            refusal.hint("add `calendar = \"daily\"`, `cron`, `every`, `after_boot` or `after_end`"),
        );
    }
    let mut calendars =
        expressions(reader, calendar, |text| calendar::parse_calendar(text).map(|one| vec![one]));
    calendars.extend(expressions(reader, cron, calendar::parse_cron));
    let timezone = timezone.as_ref().and_then(|text| {
        let name = reader.text(text)?;
        reader.take(text.span(), known_zone(reader.host.zone_exists, &name).map(|()| name))
    });
    if let (Some(true), Some(key), None, None) =
        (persistent.as_ref().map(|key| *key.get_ref()), persistent, has_calendar.then_some(()), every)
    {
        let refusal =
            Refusal::new("`persistent` is for `calendar`, `cron` and `every`: nothing else can be missed");
        reader.refuse(key.span(), refusal.hint("leave it out"));
    }
    Some(Timer {
        calendars,
        timezone,
        every: pause(reader, every),
        after_boot: reader.bounded(after_boot),
        after_end: pause(reader, after_end),
        jitter: reader.bounded(jitter).unwrap_or(defaults::TIMER_JITTER),
        persistent: persistent.as_ref().map_or(defaults::TIMER_PERSISTENT, |key| *key.get_ref()),
        overlap: reader.word("timer.overlap", overlap, OVERLAPS).unwrap_or(defaults::TIMER_OVERLAP),
    })
}

/// The calendars of one expression or more, each with a time zone that there is.
fn expressions(
    reader: &mut Reader<'_>,
    key: &Option<Spanned<WordOrList>>,
    parse: impl Fn(&str) -> Result<Vec<Calendar>, Mistake>,
) -> Vec<Calendar> {
    let texts: Vec<Text> = match key.as_ref().map(|key| (key.span(), key.get_ref())) {
        Some((span, WordOrList::Word(word))) => vec![Text::new(span, word.clone())],
        Some((_, WordOrList::List(list))) => list.clone(),
        None => Vec::new(),
    };
    let zone_exists = reader.host.zone_exists;
    let mut all = Vec::new();
    for text in texts {
        let Some(expression) = reader.text(&text) else { continue };
        let parsed = parse(&expression)
            .map_err(|Mistake { message, hint }| Refusal::new(message).hint(hint))
            .and_then(|calendars| {
                let zones = calendars.iter().filter_map(Calendar::zone);
                zones.into_iter().try_for_each(|zone| known_zone(zone_exists, zone))?;
                Ok(calendars)
            });
        all.extend(reader.take(text.span(), parsed).unwrap_or_default());
    }
    all
}

fn known_zone(exists: Option<fn(&str) -> bool>, name: &str) -> Result<(), Refusal> {
    match name == "UTC" || exists.is_none_or(|exists| exists(name)) {
        true => Ok(()),
        false => Err(Refusal::new(format!("this host knows no time zone {name:?}"))
            .hint("write one of those below /usr/share/zoneinfo (package tzdata), such as \"Europe/Berlin\", or \"UTC\"")),
    }
}

/// A time after which it comes again, so not none at all.
fn pause(reader: &mut Reader<'_>, key: &Option<Spanned<Scalar>>) -> Option<Duration> {
    let span = key.as_ref()?.span();
    let pause = reader.bounded(key)?;
    let checked = match pause >= LEAST {
        true => Ok(pause),
        false => {
            let shown = key.as_ref().map(|key| key.get_ref().to_string()).unwrap_or_default();
            Err(Refusal::new(format!("{shown} is less than a second")).hint("write a second or more"))
        }
    };
    reader.take(span, checked)
}
