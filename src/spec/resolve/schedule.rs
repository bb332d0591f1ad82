//! `service.sched` and `service.ioprio`.

use super::{Reader, defaults};
use crate::{
    config::value::Refusal,
    spec::{IoPrio, Sched},
};

pub(super) fn sched(reader: &mut Reader<'_>) -> Option<Sched> {
    let table = &reader.file.tables;
    let text = table.service.sched.as_ref()?;
    let word = reader.text(text)?;
    let sched = reader.take(text.span(), parse_sched(&word))?;
    if sched.is_realtime() && table.security.no_realtime.unwrap_or(defaults::NO_REALTIME) {
        let refusal = Refusal::new(format!("`security.no_realtime` keeps a service from {word:?}"));
        reader.refuse(
            text.span(),
            refusal.hint("write `no_realtime = false` in [security], or a policy that is not realtime"),
        );
    }
    Some(sched)
}

fn parse_sched(word: &str) -> Result<Sched, Refusal> {
    let (name, number) = parts(word);
    let priority = || match number.and_then(|number| number.parse().ok()) {
        Some(priority @ 1..=99) => Ok(priority),
        _ => Err(Refusal::new(format!("{word:?} has no realtime priority"))
            .hint(format!("write \"{name}:1\" to \"{name}:99\"; the larger one goes first"))),
    };
    match (name, number) {
        ("other", None) => Ok(Sched::Other),
        ("batch", None) => Ok(Sched::Batch),
        ("idle", None) => Ok(Sched::Idle),
        ("fifo", _) => Ok(Sched::Fifo(priority()?)),
        ("rr", _) => Ok(Sched::Rr(priority()?)),
        ("other" | "batch" | "idle", Some(_)) => {
            Err(Refusal::new(format!("{name:?} has no priority")).hint("`nice` says who goes first"))
        }
        _ => Err(Refusal::new(format!("{word:?} is not a value of `service.sched`"))
            .hint("write \"other\", \"batch\", \"idle\", \"fifo:N\" or \"rr:N\"")),
    }
}

pub(super) fn ioprio(reader: &mut Reader<'_>) -> Option<IoPrio> {
    let text = reader.file.tables.service.ioprio.as_ref()?;
    let word = reader.text(text)?;
    reader.take(text.span(), parse_ioprio(&word))
}

/// systemd's level, where there is none.
const LEVEL: u8 = 4;

fn parse_ioprio(word: &str) -> Result<IoPrio, Refusal> {
    let (name, number) = parts(word);
    let level = || match number.map(str::parse) {
        None => Ok(LEVEL),
        Some(Ok(level @ 0..=7)) => Ok(level),
        Some(_) => Err(Refusal::new(format!("{word:?} has no such level"))
            .hint(format!("write \"{name}:0\", who goes first, to \"{name}:7\""))),
    };
    match (name, number) {
        ("none", None) => Ok(IoPrio::None),
        ("idle", None) => Ok(IoPrio::Idle),
        ("best-effort", _) => Ok(IoPrio::BestEffort(level()?)),
        ("realtime", _) => Ok(IoPrio::Realtime(level()?)),
        ("none" | "idle", Some(_)) => {
            Err(Refusal::new(format!("{name:?} has no levels")).hint(format!("write \"{name}\"")))
        }
        _ => Err(Refusal::new(format!("{word:?} is not a value of `service.ioprio`"))
            .hint("write \"none\", \"best-effort:0\" to \"best-effort:7\", \"idle\" or \"realtime:0\" to \"realtime:7\"")),
    }
}

/// A name, and what follows a colon; digits alone, for `+5` and `05` may be meant as anything.
fn parts(word: &str) -> (&str, Option<&str>) {
    match word.split_once(':') {
        Some((name, number)) => {
            let is_plain = number.bytes().all(|byte| byte.is_ascii_digit())
                && (number == "0" || !number.starts_with('0'));
            (name, Some(if is_plain { number } else { "" }))
        }
        None => (word, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_and_levels_are_the_kernels_or_nothing() {
        assert_eq!(parse_sched("other"), Ok(Sched::Other));
        assert_eq!(parse_sched("fifo:99"), Ok(Sched::Fifo(99)));
        assert_eq!(parse_sched("rr:1"), Ok(Sched::Rr(1)));
        for word in ["fifo", "fifo:0", "fifo:100", "rr:+5", "rr:05", "rr:", "batch:1", "deadline", "", ":"] {
            assert!(parse_sched(word).is_err(), "{word:?}");
        }
        assert_eq!(parse_ioprio("best-effort"), Ok(IoPrio::BestEffort(4)));
        assert_eq!(parse_ioprio("best-effort:0"), Ok(IoPrio::BestEffort(0)));
        assert_eq!(parse_ioprio("realtime:7").map(IoPrio::value), Ok(1 << 13 | 7));
        assert_eq!(parse_ioprio("idle").map(IoPrio::value), Ok(3 << 13));
        for word in ["idle:1", "none:0", "best-effort:8", "realtime:-1", "realtime:07", "2:4", ""] {
            assert!(parse_ioprio(word).is_err(), "{word:?}");
        }
    }
}
