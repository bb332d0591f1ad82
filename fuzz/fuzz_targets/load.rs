//! The loader on bytes that nobody wrote: whatever a file holds, it is a unit or a list of diagnostics, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade::spec::HostFacts;

fuzz_target!(|text: &str| {
    let _ = palisade::config::parse_str("fuzz", text, &HostFacts::default());
});
