//! What a service finds around it, on the real kernel: the probe reports from inside, this side judges.

#![allow(unreachable_pub, reason = "a test program exports nothing")]

#[path = "../support/mod.rs"]
#[macro_use]
mod support;
mod selftest;
mod walls;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut all = tests![
        selftest::a_plain_process_has_every_hole_that_the_walls_know: Root;
        selftest::a_hand_made_sandbox_has_no_hole: Root UserNs;
        selftest::the_guard_sees_every_kind_of_leak: Root CgroupV2 Nft;
        selftest::a_test_that_leaks_fails_and_is_cleared_up: Root CgroupV2;
        selftest::a_test_that_panics_fails_and_is_cleared_up: Root CgroupV2;
        selftest::a_test_that_leaks_nothing_passes: Root;
        selftest::a_wait_in_vain_says_what_for: Root;
    ];
    // Started by the self-tests alone: they are there to fail.
    let specimens = tests![
        selftest::leak_a_process_and_a_cgroup: Root;
        selftest::panic_with_a_cgroup: Root;
        selftest::do_nothing: Root;
    ];
    if std::env::args().nth(1).is_some_and(|arg| arg == "__test") {
        all.extend(specimens);
    }
    support::main(&all)
}
