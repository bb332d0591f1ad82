use jiff::{Timestamp, tz::TimeZone};
use proptest::prelude::*;

use super::*;

/// The zone rules that the tests need, without the host's files.
fn zone(name: &str) -> TimeZone {
    let rules = match name {
        "UTC" => return TimeZone::UTC,
        "Europe/Berlin" => "CET-1CEST,M3.5.0,M10.5.0/3",
        "America/New_York" => "EST5EDT,M3.2.0,M11.1.0",
        "Asia/Kathmandu" => "<+0545>-5:45",
        // Half an hour is put forward there.
        "Australia/Lord_Howe" => "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
        _ => panic!("no rules for {name}"),
    };
    TimeZone::posix(rules).unwrap()
}

/// Some moments after a time of a zone, in UTC.
fn elapses(calendar: &Calendar, zone: &TimeZone, base: &str, count: usize) -> Vec<String> {
    let base: jiff::civil::DateTime = base.parse().unwrap();
    let mut at = zone.to_ambiguous_timestamp(base).earlier().unwrap();
    let next = || {
        at = calendar.next(at, zone)?;
        Some(at.to_string().replace('T', " ").trim_end_matches('Z').to_owned())
    };
    std::iter::from_fn(next).take(count).collect()
}

fn after(expression: &str, place: &str, base: &str, count: usize) -> String {
    elapses(&parse_calendar(expression).unwrap(), &zone(place), base, count).join(", ")
}

/// What systemd takes though it never comes, and zones that nobody knows, which others find out.
const OTHERWISE: [&str; 6] = [
    "*-02-30",
    "Wed-Sat,Tue 12-10-15 1:2:3",
    "Wed..Wed,Wed 48-10-15",
    "daily Nowhere/Land",
    "Mon Tue",
    "daily daily",
];

#[test]
fn systemd_says_the_same_of_every_expression() {
    let table = include_str!("../../tests/data/calendar/systemd.tsv");
    let mut count = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [place, base, expression, form, ..] = columns[..] else { panic!("{line}") };
        if OTHERWISE.contains(&expression) {
            continue;
        }
        let parsed = parse_calendar(expression);
        let Ok(calendar) = parsed else {
            assert_eq!(form, "refused", "{expression:?}: {parsed:?}");
            continue;
        };
        assert_eq!(calendar.to_string(), form, "{expression:?}");
        let rules = zone(calendar.zone().unwrap_or(place));
        // It leaves the fractions of seconds out.
        let base = elapses_base(base, place, &rules);
        let found = elapses(&calendar, &rules, &base, 5);
        let found: Vec<&str> = found.iter().map(|time| time.split('.').next().unwrap()).collect();
        assert_eq!(found.join(","), columns[4], "{expression:?} from {base} in {place}");
        count += 1;
    }
    assert!(count > 300, "{count}");
}

/// The same moment on the clock of another zone.
fn elapses_base(base: &str, from: &str, to: &TimeZone) -> String {
    let base: jiff::civil::DateTime = base.parse().unwrap();
    to.to_datetime(zone(from).to_timestamp(base).unwrap()).to_string()
}

#[test]
fn mistakes_say_what_to_write_instead() {
    let said = |text: &str| {
        let Mistake { message, hint } = parse_calendar(text).unwrap_err();
        format!("{message}; {hint}")
    };
    let of = |text: &str| {
        let whole = said(text);
        let prefix = format!("{text:?} is not a calendar expression: ");
        whole.strip_prefix(&prefix).unwrap_or(&whole).to_owned()
    };
    assert_eq!(of("*:*/15"), "a step needs a start; write \"0/15\"");
    assert_eq!(of("*-*/2-1"), "a step needs a start; write \"1/2\"");
    assert_eq!(of("Sat..Mon"), "the week has no Sat..Mon, it begins on Monday; write \"Sat,Sun,Mon\"");
    assert_eq!(of("24:00"), "there is no hour 24; write a number from 0 to 23");
    assert_eq!(of("*-*-32"), "there is no day 32; write a number from 1 to 31");
    assert_eq!(of("*:*:60"), "there is no second 60; write a number from 0 to 59");
    assert_eq!(of("*-*~29"), "there is no day from the end of the month 29; write a number from 1 to 28");
    assert_eq!(of("5..3:00"), "the range 5..3 goes backwards; write \"3..5\"");
    assert_eq!(of("*-02-30"), "such a day never comes; write a day that its months and weeks have");
    assert!(of("0:0/0").starts_with("a step of 0 in the minute leads nowhere; "), "{}", of("0:0/0"));
    assert!(of("*:0/60").starts_with("the step 60 leads out of the minute at once; "));
    assert_eq!(of("Tue 2026-11-30"), "such a day never comes; write a day that its months and weeks have");
    assert!(of("every day").contains("is not expected there; write it as in \"Mon..Fri 09:00\""));
    assert!(of("5").contains("it ends too early"), "{}", of("5"));
    assert!(of("").starts_with("it is empty"));
    assert!(of("daily ../x").contains("is not expected"), "{}", of("daily ../x"));
    assert!(of("daily E/../x").contains("is not the name of a time zone"));
}

#[test]
fn a_time_that_the_clock_skips_elapses_at_the_skip() {
    // 02:00 CET becomes 03:00 CEST, which is 01:00 UTC.
    assert_eq!(
        after("02:30", "Europe/Berlin", "2027-03-27 00:00", 3),
        "2027-03-27 01:30:00, 2027-03-28 01:00:00, 2027-03-29 00:30:00"
    );
    // Several of them are one, and one with the hour that follows.
    assert_eq!(
        after("*:0/20", "Europe/Berlin", "2027-03-28 01:20", 4),
        "2027-03-28 00:40:00, 2027-03-28 01:00:00, 2027-03-28 01:20:00, 2027-03-28 01:40:00"
    );
    assert_eq!(after("Sat 02:30", "Europe/Berlin", "2027-03-27 12:00", 1), "2027-04-03 00:30:00");
    assert_eq!(
        after("02:15", "Australia/Lord_Howe", "2026-10-03 12:00", 2),
        "2026-10-03 15:30:00, 2026-10-04 15:15:00"
    );
}

#[test]
fn a_time_that_comes_twice_elapses_once_and_an_interval_both_times() {
    // 03:00 CEST becomes 02:00 CET, which is 01:00 UTC.
    assert_eq!(
        after("02:30", "Europe/Berlin", "2026-10-24 12:00", 2),
        "2026-10-25 00:30:00, 2026-10-26 01:30:00"
    );
    assert_eq!(
        after("0/2:00", "Europe/Berlin", "2026-10-25 00:00", 3),
        "2026-10-25 00:00:00, 2026-10-25 03:00:00, 2026-10-25 05:00:00"
    );
    let hourly = "2026-10-25 00:00:00, 2026-10-25 01:00:00, 2026-10-25 02:00:00";
    assert_eq!(after("hourly", "Europe/Berlin", "2026-10-25 01:30", 3), hourly);
    assert_eq!(after("0..23:00", "Europe/Berlin", "2026-10-25 01:30", 3), hourly);
    // Asked in the middle of the second time.
    let calendar = parse_calendar("02:30").unwrap();
    let at: Timestamp = "2026-10-25T01:10:00Z".parse().unwrap();
    let next = calendar.next(at, &zone("Europe/Berlin")).unwrap();
    assert_eq!(next.to_string(), "2026-10-26T01:30:00Z");
}

fn cron(text: &str) -> String {
    let calendars = parse_cron(text).unwrap();
    calendars.iter().map(Calendar::to_string).collect::<Vec<_>>().join(" | ")
}

#[test]
fn cron_is_read_as_crontab_has_it() {
    for (text, expected) in [
        ("* * * * *", "*-*-* *:*:00"),
        ("30 2 * * *", "*-*-* 02:30:00"),
        ("*/15 * * * *", "*-*-* *:00..45/15:00"),
        ("0 9-17/2 * * 1-5", "Mon..Fri *-*-* 09..17/2:00:00"),
        ("5,35 0 1,15 jan,JUL *", "*-01,07-01,15 00:05,35:00"),
        // Sunday is 0 and 7, and the end of the week.
        ("0 0 * * 0", "Sun *-*-* 00:00:00"),
        ("0 0 * * 7", "Sun *-*-* 00:00:00"),
        ("0 0 * * fri-sun", "Fri..Sun *-*-* 00:00:00"),
        ("0 0 * * sun-tue", "Mon,Tue,Sun *-*-* 00:00:00"),
        ("0 0 * * */2", "Tue,Thu,Sat,Sun *-*-* 00:00:00"),
        // One of the two days is enough, unless one of them begins with a star.
        ("0 0 13 * 5", "*-*-13 00:00:00 | Fri *-*-* 00:00:00"),
        ("0 0 */10 * 5", "Fri *-*-01..31/10 00:00:00"),
        ("0 0 13 * */2", "Tue,Thu,Sat,Sun *-*-13 00:00:00"),
        ("0 0 13 * 0-7", "*-*-13 00:00:00 | *-*-* 00:00:00"),
        ("@yearly", "*-01-01 00:00:00"),
        ("@annually", "*-01-01 00:00:00"),
        ("@monthly", "*-*-01 00:00:00"),
        ("@weekly", "Sun *-*-* 00:00:00"),
        ("@daily", "*-*-* 00:00:00"),
        ("@midnight", "*-*-* 00:00:00"),
        ("@Hourly", "*-*-* *:00:00"),
        ("  0\t0   * * *  ", "*-*-* 00:00:00"),
    ] {
        assert_eq!(cron(text), expected, "{text}");
    }
}

#[test]
fn mistakes_in_cron_say_what_to_write_instead() {
    for (text, message, hint) in [
        ("* * * *", "it has 4 fields", "write five: "),
        ("* * * * * *", "it has 6 fields", "write five: "),
        ("", "it has 0 fields", "write five: "),
        ("60 * * * *", "\"60\" is not a minute", "write a number from 0 to 59"),
        ("* 24 * * *", "\"24\" is not a hour", "write a number from 0 to 23"),
        ("* * 0 * *", "\"0\" is not a day of the month", "write a number from 1 to 31"),
        ("* * * foo *", "\"foo\" is not a month", "or a name from jan to dec"),
        ("* * * * 8", "\"8\" is not a day of the week", "or a name from sun to sat"),
        ("*/0 * * * *", "\"0\" is not a step of the minute", "write a number from 1 to 59"),
        ("5/10 * * * *", "in \"5/10\" the step has no range", "write \"5-59/10\""),
        ("0 22-2 * * *", "the range \"22-2\" goes backwards", "\"22-23,0-2\""),
        ("-5 * * * *", "\"\" is not a minute", "write a number"),
        ("1, * * * *", "\"\" is not a minute", "write a number"),
        ("? * * * *", "\"?\" is not a minute", "write a number"),
        ("@reboot", "is not a word of cron that has a time", "after_boot = \"0s\""),
        ("@every 1h", "is not a word of cron that has a time", "every = \"1h\""),
        ("@never", "is not a word of cron that has a time", "@yearly"),
    ] {
        let mistake = parse_cron(text).unwrap_err();
        assert!(mistake.message.contains(message) && mistake.hint.contains(hint), "{text}: {mistake:?}");
    }
    assert_eq!(parse_cron("0 0 30 2 *").unwrap_err().hint, "write a day that its months and weeks have");
}

/// Any field that is well formed, within its bounds.
fn fields(least: u32, most: u32) -> impl Strategy<Value = String> {
    let part = (least..=most, least..=most, 1..=(most - least).max(1), 0..4).prop_map(
        move |(one, other, step, form)| {
            let (start, stop) = (one.min(other), one.max(other));
            match form {
                1 if start + step <= most => format!("{start}/{step}"),
                2 if start < stop => format!("{start}..{stop}"),
                3 if start + step <= stop => format!("{start}..{stop}/{step}"),
                _ => start.to_string(),
            }
        },
    );
    prop_oneof![Just("*".to_owned()), proptest::collection::vec(part, 1..3).prop_map(|parts| parts.join(","))]
}

fn expressions() -> impl Strategy<Value = String> {
    let days = ["", "Mon ", "Tue..Thu ", "Sat,Sun ", "Mon,Wed..Sun "].map(str::to_owned).to_vec();
    let date = (prop_oneof![Just("*".to_owned()), fields(2020, 2035)], fields(1, 12), fields(1, 28));
    let time = (fields(0, 23), fields(0, 59), fields(0, 59));
    (proptest::sample::select(days), date, time, any::<bool>()).prop_map(|(week, date, time, from_end)| {
        let dash = if from_end && !date.2.contains('/') { "~" } else { "-" };
        format!("{week}{}-{}{dash}{} {}:{}:{}", date.0, date.1, date.2, time.0, time.1, time.2)
    })
}

/// Whether a time matches, worked out field by field from the text and from nothing else.
fn matches(expression: &str, time: jiff::civil::DateTime) -> bool {
    let number = |text: &str| text.parse::<i64>().unwrap();
    let field = |text: &str, value: i64| {
        text == "*"
            || text.split(',').any(|part| {
                let (range, step) =
                    part.split_once('/').map_or((part, None), |(range, step)| (range, Some(number(step))));
                let (start, stop) = match range.split_once("..") {
                    Some((start, stop)) => (number(start), number(stop)),
                    None if step.is_some() => (number(range), i64::MAX),
                    None => (number(range), number(range)),
                };
                (start..=stop).contains(&value) && (value - start) % step.unwrap_or(1) == 0
            })
    };
    let words: Vec<&str> = expression.split(' ').collect();
    let (week, date, clock) = match words[..] {
        [week, date, clock] => (week, date, clock),
        [date, clock] => ("Mon..Sun", date, clock),
        _ => panic!("{expression}"),
    };
    let day_number = |name: &str| DAY_NAMES.iter().position(|day| *day == name).unwrap();
    let today = usize::try_from(time.weekday().to_monday_zero_offset()).unwrap();
    let week = week.split(',').any(|part| match part.split_once("..") {
        Some((start, stop)) => (day_number(start)..=day_number(stop)).contains(&today),
        None => day_number(part) == today,
    });
    let from_end = date.contains('~');
    let date: Vec<&str> = date.split(['-', '~']).collect();
    let day = if from_end { time.days_in_month() + 1 - time.day() } else { time.day() };
    let clock: Vec<&str> = clock.split(':').collect();
    week && field(date[0], time.year().into())
        && field(date[1], time.month().into())
        && field(date[2], day.into())
        && field(clock[0], time.hour().into())
        && field(clock[1], time.minute().into())
        && field(clock[2], time.second().into())
}

fn moments() -> impl Strategy<Value = Timestamp> {
    // 2024 to 2031.
    (1_704_067_200_i64..1_924_992_000).prop_map(|second| Timestamp::from_second(second).unwrap())
}

proptest! {
    #[test]
    fn what_comes_next_matches_and_comes_later(expression in expressions(), at in moments()) {
        let Ok(calendar) = parse_calendar(&expression) else { return Ok(()) };
        if let Some(next) = calendar.next(at, &TimeZone::UTC) {
            prop_assert!(next > at);
            prop_assert!(matches(&expression, TimeZone::UTC.to_datetime(next)), "{expression}: {next}");
        }
    }

    #[test]
    fn nothing_that_matches_is_left_out(expression in expressions(), at in moments(), on in 1..200_000_i64) {
        let Ok(calendar) = parse_calendar(&expression) else { return Ok(()) };
        let next = calendar.next(at, &TimeZone::UTC);
        let between = Timestamp::from_second(at.as_second() + on).unwrap();
        if matches(&expression, TimeZone::UTC.to_datetime(between)) {
            prop_assert!(next.is_some_and(|next| next <= between), "{expression}: {next:?} passes over {between}");
        }
    }

    #[test]
    fn time_goes_on_through_every_change_of_the_clock(expression in expressions(), at in moments()) {
        let Ok(calendar) = parse_calendar(&expression) else { return Ok(()) };
        for place in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"] {
            let zone = zone(place);
            let mut last = at;
            for _ in 0..20 {
                let Some(next) = calendar.next(last, &zone) else { break };
                prop_assert!(next > last);
                // Asked from anywhere in between, it is the same.
                let middle = Timestamp::from_microsecond(i64::midpoint(last.as_microsecond(), next.as_microsecond()));
                let middle = middle.unwrap();
                if middle < next {
                    prop_assert_eq!(calendar.next(middle, &zone), Some(next), "{} in {}", expression, place);
                }
                last = next;
            }
        }
    }

    #[test]
    fn the_normalized_form_means_the_same(expression in expressions()) {
        let Ok(calendar) = parse_calendar(&expression) else { return Ok(()) };
        prop_assert_eq!(parse_calendar(&calendar.to_string()), Ok(calendar));
    }

    #[test]
    fn no_text_is_too_much(text in "[A-Za-z0-9*/,.:~@ -]{0,40}") {
        let _ = parse_calendar(&text);
        let _ = parse_cron(&text);
    }

    #[test]
    fn nor_is_any_other(text in any::<String>()) {
        let _ = parse_calendar(&text);
        let _ = parse_cron(&text);
    }
}
