//! The files that outlive a supervisor, cut off, of another version, or filled with nonsense: they are read or refused, and
//! a fleet that takes them over goes on without a panic and without spinning.
//!
//! An input is texts, each ended by a NUL; the rest is what happens afterwards, a byte for each event.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use palisade::{
    config,
    machine::{
        ExitKind, Mono, Retry, RunId,
        fleet::{Entry, Fleet, Input, Report},
    },
    spec::{Unit, UnitName},
    supervisor,
};

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let mut parts = bytes.split(|byte| *byte == 0).peekable();
    let (mut entries, mut events): (Vec<Entry>, &[u8]) = (Vec::new(), &[]);
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            events = part;
        }
        let Ok(text) = std::str::from_utf8(part) else { continue };
        if let Some((entry, again)) = supervisor::taken_over(text) {
            let (same, _) = supervisor::taken_over(&again).expect("what was written can be read");
            // A number that is none is not equal to itself; JSON has none.
            assert_eq!(same, entry, "a takeover changes what it takes over");
            entries.push(entry);
        }
        assignments(text);
        palisade::launch::run::left(text.as_bytes());
    }
    fleet(entries, events);
});

/// Records of today's form, of the services that we hand out in some states that they get into.
fn seeds() {
    let facts = palisade_fuzz::host();
    for (n, text) in palisade_fuzz::examples().iter().enumerate() {
        let Ok(unit) = config::parse_str("web", text, &facts) else { continue };
        let name = unit.name.clone();
        let mut fleet = Fleet::new(7);
        fleet.apply(Input::Reload([(name.clone(), unit)].into()), Mono(1));
        let story = [
            Input::Start(vec![name.clone()]),
            Input::Report(name.clone(), Report::Started(RunId(1))),
            Input::Report(name.clone(), Report::Exited(RunId(1), ExitKind::Signal(9))),
            Input::Report(name.clone(), Report::Gone(RunId(1))),
        ];
        for (at, input) in story.into_iter().enumerate() {
            fleet.apply(input, Mono(10));
            let entry = fleet.entry(&name).expect("just added");
            let seed = format!("{}\0\x00\x06\x0a\x0c\x0e\x02\x01\x03", supervisor::record(entry));
            palisade_fuzz::seed("state", &format!("{n}-{at}"), seed.as_bytes());
        }
    }
    let assigned = r#"{"version":1,"boot":"","ids":{"web":0,"db":3},"addresses":{"web":0},"seed":7}"#;
    palisade_fuzz::seed("state", "assigned", assigned.as_bytes());
    palisade_fuzz::seed("state", "left", br#"{"group":"palisade/web.1","forwarding":["eth0"]}"#);
}

/// Nobody is given a range that the settings do not hold.
fn assignments(text: &str) {
    let names: Vec<UnitName> =
        ["web", "db", "a@b"].iter().map(|name| UnitName::new(name).expect("good")).collect();
    for slot in supervisor::given(text, &names, 4).into_iter().flatten().flatten() {
        assert!(slot < 4, "range {slot} of 4");
    }
}

fn fleet(entries: Vec<Entry>, events: &[u8]) {
    let facts = palisade_fuzz::host();
    let units: BTreeMap<UnitName, Unit> =
        entries.iter().map(|entry| (entry.unit.name.clone(), entry.unit.clone())).collect();
    for unit in units.values() {
        palisade_fuzz::plan(unit, &facts);
    }
    let names: Vec<UnitName> = units.keys().cloned().collect();
    let mut fleet = Fleet::restore(7, entries);
    for entry in fleet.entries().values() {
        entry.life.state.owed();
        entry.life.state.reason();
    }
    let mut now = Mono(1_000_000);
    fleet.apply(Input::Reload(units.clone()), now);
    fleet.apply(Input::Boot, now);
    // Each may have all files read again: what is looked for is a story and not its length.
    for event in events.iter().take(1000) {
        let Some(name) = names.get(usize::from(event >> 5) % names.len().max(1)) else { return };
        let run = fleet.entry(name).map(|entry| entry.life.last).unwrap_or_default();
        let report = |report| Input::Report(name.clone(), report);
        let input = match event & 0x1f {
            0 => Input::Start(vec![name.clone()]),
            1 => Input::Stop(vec![name.clone()]),
            2 => Input::Restart(vec![name.clone()]),
            3 => Input::Shutdown,
            4 => Input::Reload(units.clone()),
            5 => Input::Reload(BTreeMap::new()),
            6 => report(Report::Started(run)),
            7 => report(Report::LaunchFailed(run, Retry::Later, "no".into())),
            8 => report(Report::LaunchFailed(run, Retry::Never, "no".into())),
            9 => report(Report::Exited(run, ExitKind::Code(0))),
            10 => report(Report::Exited(run, ExitKind::Signal(9))),
            11 => report(Report::Exited(run, ExitKind::Unknown)),
            12 => report(Report::Gone(run)),
            13 => Input::Boot,
            14 => {
                now = fleet.deadline().map_or(now, |at| Mono(at.0.max(now.0)));
                Input::Tick
            }
            far => {
                now = Mono(now.0.saturating_add(1 << (far * 2)));
                Input::Tick
            }
        };
        fleet.apply(input, now);
        progress(&mut fleet, now);
    }
}

/// What is due is done: a deadline that stays in the past keeps the supervisor's loop awake for ever.
fn progress(fleet: &mut Fleet, now: Mono) {
    for _ in 0..64 {
        match fleet.deadline() {
            Some(at) if at <= now && now.0 < u64::MAX => drop(fleet.apply(Input::Tick, now)),
            _ => return,
        }
    }
    panic!("due at {:?}, and still at {now:?}", fleet.deadline());
}
