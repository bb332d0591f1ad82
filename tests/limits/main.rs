//! What a service may take, on the real kernel: judged by the files of its control group, by /proc and by what it says itself.
//!
//! Limits of a service as a whole need the controllers of cgroup v2. In the guest of `tests/run vm` they must be there, and
//! what they do is looked at. On a hybrid host they are not: there it is looked at that nothing pretends otherwise.

#![allow(unreachable_pub, reason = "a test program exports nothing")]

#[path = "../support/mod.rs"]
#[macro_use]
mod support;
mod control;
mod life;
mod metrics;
mod process;
mod refuse;

use std::process::ExitCode;

use support::{Need, Test};

fn main() -> ExitCode {
    let mut all = everywhere();
    // In the guest a missing controller is a failure, never a reason to try less.
    let is_guest = std::env::var_os("PALISADE_TEST_VM").is_some();
    match is_guest || Need::Controller("memory").is_met() {
        true => all.extend(enforced()),
        false => all.extend(refused()),
    }
    support::main(&all)
}

fn everywhere() -> Vec<Test> {
    tests![
        process::every_process_has_the_same_limits: Root CgroupV2 UserNs;
        process::a_limit_of_processes_holds_in_the_user_namespace: Root CgroupV2 UserNs;
        process::the_limits_of_the_caller_do_not_leak_in: Root CgroupV2 UserNs;
        process::a_memory_file_system_has_a_bound_on_files: Root CgroupV2 UserNs;
        process::there_is_a_bound_on_sessions: Root CgroupV2 UserNs;
        process::a_line_without_end_is_kept_in_parts: Root CgroupV2 UserNs;
    ]
}

fn enforced() -> Vec<Test> {
    tests![
        control::an_empty_file_is_bounded: Root CgroupV2 UserNs Controller("memory") Controller("pids");
        control::memory_max_kills_the_whole_service_and_says_so: Root CgroupV2 UserNs Controller("memory");
        control::memory_max_of_a_run_is_told: Root CgroupV2 UserNs Controller("memory");
        control::one_process_is_killed_where_the_file_says_so: Root CgroupV2 UserNs Controller("memory");
        control::memory_high_slows_down: Root CgroupV2 UserNs Controller("memory");
        control::pids_max_stops_a_fork_bomb: Root CgroupV2 UserNs Controller("pids");
        control::cpu_max_throttles: Root CgroupV2 UserNs Controller("cpu");
        control::weights_and_cpus_are_in_the_kernel: Root CgroupV2 UserNs Controller("cpu") Controller("cpuset");
        control::a_disk_is_bounded_and_counted: Root CgroupV2 UserNs Controller("io");
        control::what_no_device_is_refuses_the_start: Root CgroupV2 UserNs Controller("io");
        life::new_limits_bound_a_run_that_lives: Root CgroupV2 UserNs Controller("memory") Controller("cpu");
        life::a_limit_that_somebody_has_changed_is_set_again_at_a_takeover: Root CgroupV2 UserNs Controller("pids");
        life::what_a_run_took_is_known_after_a_takeover: Root CgroupV2 UserNs Controller("memory");
        life::a_delegated_group_is_left_as_it_was: Root CgroupV2 UserNs Controller("memory");
        life::a_launch_without_room_for_a_process_is_tried_again: Root CgroupV2 UserNs Controller("pids");
        metrics::what_a_group_takes_is_told: Root CgroupV2 UserNs Controller("memory") Controller("pids") Controller("cpu") Controller("io") Python("prometheus_client");
        life::a_core_handler_is_not_started_unless_asked: Root CgroupV2 UserNs;
    ]
}

fn refused() -> Vec<Test> {
    tests![
        refuse::what_the_host_cannot_do_is_refused_by_line: Root CgroupV2;
        refuse::what_may_bend_is_told: Root CgroupV2 UserNs;
        refuse::rlimit_nproc_stands_in_for_pids_max: Root CgroupV2 UserNs;
    ]
}
