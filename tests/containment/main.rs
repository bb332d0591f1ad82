//! Whether anything gets out: known ways of breaking out, tried from inside; and launches whose system calls fail.

#![allow(unreachable_pub, reason = "a test program exports nothing")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test and a probe report by printing")]

#[path = "../support/mod.rs"]
#[macro_use]
mod support;
mod battery;
mod escape;
mod inject;
mod leak;
mod limit;
mod raw;
mod reach;
mod stage;
mod surface;
mod tracer;
mod verdicts;

use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        // What the program is when it is not the suite.
        ["__battery", ref facts @ ..] => battery::main(facts),
        ["__weak", group, ref facts @ ..] => stage::be_weak(group, facts),
        ["__host", word, _, dir] => stage::be_host(word, Path::new(dir)),
        ["__measure"] => inject::measure(),
        ["__inject", out, target, errno, seconds, ref program @ ..] => {
            return ExitCode::from(tracer::main(out, target, errno, seconds, program));
        }
        ["__lacks"] => stage::print_lacks(),
        ["__caller", dir, program, ref args @ ..] => stage::be_caller(dir, program, args),
        ["__stay", _] => std::thread::sleep(std::time::Duration::from_secs(600)),
        _ => return suite(),
    }
    ExitCode::SUCCESS
}

fn suite() -> ExitCode {
    let all = tests![
        verdicts::every_class_has_its_probe: Root;
        verdicts::a_place_without_walls_lets_every_probe_out: Root CgroupV2 UserNs Nft;
        verdicts::nothing_escapes_from_an_empty_service_file: Root CgroupV2 UserNs Nft;
        verdicts::nothing_escapes_from_root_inside: Root CgroupV2 UserNs Nft;
        inject::a_failing_call_of_the_supervisor_weakens_nothing: Root CgroupV2 UserNs;
        inject::a_failing_call_for_the_network_weakens_nothing: Root CgroupV2 UserNs Nft;
        inject::a_failing_call_of_the_init_weakens_nothing: Root CgroupV2 UserNs;
        inject::a_failing_call_of_the_service_weakens_nothing: Root CgroupV2 UserNs;
    ];
    support::main(&all)
}
