//! Service files, drop-ins, `palisade.toml` and `policy.toml` that nobody wrote: a unit or a list of mistakes, never a panic; and whatever
//! is a unit can be planned, lowered and kept in the state as it is.
//!
//! A form feed on a line of its own begins the next drop-in.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use palisade::{
    config::{self, Diagnostic, Policy, Settings},
    report,
    spec::Unit,
};

fuzz_target!(|text: &str| {
    let facts = palisade_fuzz::host();
    let texts: Vec<&str> = text.split("\n\u{c}\n").collect();
    match config::parse_texts("fuzz", &texts, &facts) {
        Ok(unit) => check(&unit),
        Err(found) => show(&found),
    }
    if let Err(found) = Settings::parse(Path::new("palisade.toml"), text) {
        show(&found);
    }
    if let Err(found) = Policy::parse(Path::new("policy.toml"), text, &facts) {
        show(&found);
    }
});

fn check(unit: &Unit) {
    palisade_fuzz::plan(unit, &palisade_fuzz::host());
    let service = &unit.service;
    let texts = service.command.iter().chain(service.env.iter().flat_map(|(key, value)| [key, value]));
    for text in texts.chain([&unit.namespaces.hostname, &unit.namespaces.domainname]) {
        assert!(!text.contains('\0'), "{text:?} would end early in a system call");
    }
    let kept = serde_json::to_string(unit).expect("a unit has a JSON form");
    let again: Unit = serde_json::from_str(&kept).expect("what was written can be read");
    assert_eq!(&again, unit, "a takeover would change the service");
}

fn show(found: &[Diagnostic]) {
    assert!(!found.is_empty(), "refused without a word");
    for colour in [false, true] {
        report::render(found, colour);
    }
    report::to_json(found);
}
