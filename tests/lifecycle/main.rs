//! A supervisor and what its services live through, asked as a user asks: over the command line, sockets and signals.

#![allow(unreachable_pub, reason = "a test program exports nothing")]

#[path = "../support/mod.rs"]
#[macro_use]
mod support;
mod apply;
mod bonds;
mod campaign;
mod clock;
mod ends;
mod faults;
mod hooks;
mod ids;
mod modes;
mod owners;
mod probes;
mod programs;
mod reach;
mod readiness;
mod refuse;
mod schedule;
mod short;
mod shutdown;
mod sockets;
mod spoof;
mod takeover;
mod timers;
mod verbs;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut all = everywhere();
    if std::env::var_os("PALISADE_TEST_VM").is_some() {
        all.extend(tests![
            short::a_clock_that_goes_back_a_year_moves_nobody: Root CgroupV2 UserNs;
            clock::a_year_forward_and_back_starts_nothing_twice_and_loses_nothing: Root CgroupV2 UserNs;
        ]);
    }
    support::main(&all)
}

fn everywhere() -> Vec<support::Test> {
    tests![
        reach::two_published_services_see_only_themselves: Root CgroupV2 UserNs Nft;
        reach::udp_is_published_too: Root CgroupV2 UserNs Nft;
        reach::a_service_reaches_neither_another_nor_the_host: Root CgroupV2 UserNs Nft;
        reach::what_is_published_is_reached_from_outside_and_who_may_go_out_does: Root CgroupV2 UserNs Nft Program("curl");
        reach::exec_and_shell_run_inside: Root CgroupV2 UserNs Nft;
        ends::a_killed_service_comes_back_with_the_same_address: Root CgroupV2 UserNs Nft;
        ends::a_server_without_reuseaddr_comes_back_while_a_client_holds_on: Root CgroupV2 UserNs Nft;
        ends::a_crash_loop_backs_off_by_the_formula: Root CgroupV2 UserNs;
        ends::jitter_is_the_one_that_the_seed_gives: Root CgroupV2 UserNs;
        ends::what_ignores_sigterm_is_killed_with_all_that_it_forked: Root CgroupV2 UserNs;
        ends::a_oneshot_is_done_and_what_waits_for_it_starts_afterwards: Root CgroupV2 UserNs;
        ends::what_requires_a_service_goes_up_after_and_down_before_it: Root CgroupV2 UserNs;
        ends::a_reload_touches_only_what_differs: Root CgroupV2 UserNs;
        ends::two_hundred_cycles_leak_nothing: Root CgroupV2 UserNs Nft;
        ends::output_is_kept_in_bounded_files: Root CgroupV2 UserNs;
        apply::what_is_planned_is_what_a_reload_does: Root CgroupV2 UserNs;
        apply::what_nobody_confirms_is_taken_back: Root CgroupV2 UserNs;
        apply::what_fails_on_trial_is_taken_back_at_once: Root CgroupV2 UserNs;
        apply::an_upgrade_keeps_services_and_the_control_socket: Root CgroupV2 UserNs Nft;
        bonds::order_holds_at_boot_and_after_a_crash: Root CgroupV2 UserNs;
        bonds::what_is_bound_goes_and_comes_with_the_other_also_over_a_takeover: Root CgroupV2 UserNs;
        bonds::a_failed_dependency_brings_its_dependents_back: Root CgroupV2 UserNs;
        bonds::two_that_conflict_are_never_up_together: Root CgroupV2 UserNs;
        bonds::an_end_starts_what_it_names: Root CgroupV2 UserNs;
        bonds::what_is_upheld_does_not_stay_down_and_a_part_goes_with_the_whole: Root CgroupV2 UserNs;
        takeover::a_killed_supervisor_loses_no_service_and_no_request: Root CgroupV2 UserNs Nft;
        takeover::a_service_that_ends_while_nobody_supervises_is_restarted: Root CgroupV2 UserNs;
        takeover::two_supervisors_do_not_meet: Root CgroupV2 UserNs Nft;
        takeover::output_written_while_nobody_supervises_arrives: Root CgroupV2 UserNs;
        takeover::a_killed_keeper_is_replaced: Root CgroupV2 UserNs Nft;
        takeover::a_keeper_that_does_not_answer_is_replaced: Root CgroupV2 UserNs Nft;
        takeover::a_stopped_init_blocks_nobody_and_is_killed_in_time: Root CgroupV2 UserNs;
        takeover::a_killed_init_leaves_an_unknown_exit: Root CgroupV2 UserNs;
        takeover::records_of_garbage_have_a_copy: Root CgroupV2 UserNs Nft;
        takeover::output_without_room_is_dropped_and_counted_while_nobody_supervises: Root CgroupV2 UserNs;
        takeover::output_without_room_waits_where_the_file_says_so: Root CgroupV2 UserNs;
        faults::every_step_may_fail_and_leaves_nothing: Root CgroupV2 UserNs Nft;
        faults::whatever_is_read_back_may_differ_and_is_named: Root CgroupV2 UserNs Nft;
        faults::what_was_read_back_is_shown_also_by_a_successor: Root CgroupV2 UserNs Nft;
        faults::every_step_with_power_may_fail_and_leaves_nothing: Root CgroupV2 UserNs Nft;
        faults::a_child_step_that_fails_is_named: Root CgroupV2 UserNs;
        faults::a_supervisor_killed_anywhere_in_a_launch_has_a_successor: Root CgroupV2 UserNs Nft Program("strace");
        campaign::a_supervisor_may_die_at_every_step_of_its_own: Root CgroupV2 UserNs Nft;
        campaign::a_supervisor_may_die_at_every_step_inside_a_sandbox: Root CgroupV2 UserNs Nft;
        campaign::a_supervisor_may_die_in_every_way_again_and_again: Root CgroupV2 UserNs Nft;
        probes::what_is_ready_late_holds_up_those_who_come_after: Root CgroupV2 UserNs Nft;
        probes::what_does_not_become_ready_in_time_is_started_again: Root CgroupV2 UserNs;
        probes::readiness_survives_the_supervisor: Root CgroupV2 UserNs;
        probes::whatever_is_unhealthy_is_started_again: Root CgroupV2 UserNs Nft;
        probes::an_unhealthy_service_is_dealt_with_as_its_file_says: Root CgroupV2 UserNs;
        probes::a_check_that_hangs_has_failed_and_is_ended: Root CgroupV2 UserNs;
        probes::in_the_start_period_failures_do_not_count: Root CgroupV2 UserNs;
        probes::health_is_told_as_an_event: Root CgroupV2 UserNs;
        short::without_descriptors_what_runs_goes_on_and_nothing_is_forgotten: Root CgroupV2 UserNs Nft;
        short::with_a_full_state_directory_what_is_known_restarts_and_what_is_new_waits: Root CgroupV2 UserNs Nft;
        short::with_a_full_run_directory_what_is_asked_is_done_and_remembered: Root CgroupV2 UserNs;
        short::a_launch_that_gets_no_process_is_tried_again_later: Root CgroupV2 UserNs Program("strace");
        short::a_stopped_service_is_taken_over_and_ends_in_time: Root CgroupV2 UserNs;
        short::a_flood_of_output_drowns_nobody: Root CgroupV2 UserNs Nft;
        short::a_pid_that_is_somebody_elses_now_is_neither_adopted_nor_killed: Root CgroupV2 UserNs;
        short::records_of_another_boot_are_not_believed: Root CgroupV2 UserNs Nft;
        probes::who_waits_for_health_is_launched_only_then: Root CgroupV2 UserNs;
        probes::what_could_not_be_asked_is_no_answer: Root CgroupV2 UserNs Program("prlimit");
        shutdown::sigterm_stops_everybody_in_reverse_order: Root CgroupV2 UserNs;
        shutdown::a_second_sigterm_does_not_wait: Root CgroupV2 UserNs;
        shutdown::a_stop_while_starting_ends_stopped: Root CgroupV2 UserNs;
        shutdown::a_storm_of_reloads_ends_in_the_last_files: Root CgroupV2 UserNs;
        shutdown::fifty_services_come_and_go: Root CgroupV2 UserNs Nft;
        sockets::the_protocol_is_kept_to: Root CgroupV2 UserNs;
        sockets::no_connection_is_refused_while_a_service_restarts: Root CgroupV2 UserNs;
        sockets::a_connection_starts_a_service: Root CgroupV2 UserNs;
        sockets::what_takes_no_connection_is_not_started_without_end: Root CgroupV2 UserNs;
        sockets::a_socket_that_is_taken_is_named_with_who_has_it: Root CgroupV2 UserNs;
        sockets::a_changed_socket_is_applied: Root CgroupV2 UserNs;
        modes::in_place_keeps_the_sandbox_over_ends_and_takeovers: Root CgroupV2 UserNs;
        modes::stop_and_reload_commands_run_inside: Root CgroupV2 UserNs;
        modes::a_service_on_a_terminal_is_logged_and_taken_over: Root CgroupV2 UserNs;
        modes::in_the_hosts_pid_namespace_everything_ends_all_the_same: Root CgroupV2 UserNs;
        modes::restarts_are_limited_and_reset_by_hand: Root CgroupV2 UserNs;
        timers::a_calendar_starts_a_job_and_goes_on_after_a_takeover: Root CgroupV2 UserNs;
        timers::a_missed_moment_is_made_up_for_once: Root CgroupV2 UserNs;
        timers::intervals_and_overlaps_are_kept: Root CgroupV2 UserNs;
        verbs::every_verb_has_its_exit_code: Root CgroupV2 UserNs;
        verbs::verbs_say_what_happened: Root CgroupV2 UserNs;
        verbs::status_carries_what_a_program_needs: Root CgroupV2 UserNs Nft;
        verbs::masks_and_drop_ins_count: Root CgroupV2 UserNs;
        verbs::logs_are_followed_and_survive_a_rotation: Root CgroupV2 UserNs;
        verbs::events_tell_a_life_in_order: Root CgroupV2 UserNs;
        verbs::a_shell_has_a_terminal_whose_size_follows: Root CgroupV2 UserNs;
        verbs::an_abandoned_exec_ends: Root CgroupV2 UserNs;
        verbs::a_full_log_file_system_stops_nobody: Root CgroupV2 UserNs;
        owners::owners_operate_their_own_services_and_no_others: Root CgroupV2 UserNs;
        owners::a_policy_says_what_owners_may_do: Root CgroupV2 UserNs;
        owners::what_is_above_the_ceiling_runs_on_but_does_not_start: Root CgroupV2 UserNs;
        owners::a_profile_is_read_again_with_the_files: Root CgroupV2 UserNs;
        owners::every_built_in_profile_runs_a_service: Root CgroupV2 UserNs;
        owners::half_open_clients_and_passed_descriptors_hold_nobody_up: Root CgroupV2 UserNs;
        owners::nothing_that_a_service_says_is_obeyed_by_a_terminal: Root CgroupV2 UserNs;
        refuse::three_mistakes_are_three_messages_and_the_others_go_on: Root CgroupV2 UserNs;
        refuse::a_missing_program_is_named: Root CgroupV2 UserNs;
        refuse::a_missing_rootfs_is_named: Root CgroupV2 UserNs;
        refuse::a_taken_port_is_named_with_who_has_it: Root CgroupV2 UserNs Nft;
        refuse::two_services_with_one_address_are_named: Root CgroupV2;
        refuse::a_dependency_cycle_is_named: Root CgroupV2;
        refuse::an_unknown_user_is_named: Root CgroupV2;
        refuse::unknown_names_and_absent_supervisors_have_their_exit_codes: Root CgroupV2;
        spoof::a_naive_bridge_lets_every_forgery_through: Root Nft;
        spoof::raw_packets_reach_nobody: Root CgroupV2 UserNs Nft;
        spoof::power_over_the_network_is_power_over_its_own_alone: Root CgroupV2 UserNs Nft;
        spoof::a_network_of_its_own_is_new_in_every_run: Root CgroupV2 UserNs Nft;
        ids::a_range_is_one_services_for_good: Root CgroupV2 UserNs;
        ids::a_host_that_denies_namespaces_is_named: Root CgroupV2 Program("strace");
        hooks::they_run_in_order_behind_the_same_walls: Root CgroupV2 UserNs;
        hooks::a_condition_skips_and_fails_as_with_systemd: Root CgroupV2 UserNs;
        hooks::a_command_that_fails_fails_the_start_and_is_named: Root CgroupV2 UserNs;
        hooks::post_stop_runs_however_it_ended: Root CgroupV2 UserNs;
        hooks::a_killed_supervisor_runs_no_command_twice: Root CgroupV2 UserNs;
        hooks::a_supervisor_may_die_at_every_moment_of_the_commands: Root CgroupV2 UserNs;
        hooks::a_stop_ends_what_goes_before: Root CgroupV2 UserNs;
        hooks::a_privileged_command_runs_outside_and_ends_with_its_run: Root CgroupV2 UserNs;
        hooks::a_privileged_command_is_run_again_by_a_successor: Root CgroupV2 UserNs;
        hooks::in_place_they_go_before_every_run_and_after_the_last: Root CgroupV2 UserNs;
        hooks::what_hangs_is_killed_when_the_time_to_stop_is_over: Root CgroupV2 UserNs;
        hooks::in_the_hosts_pid_namespace_they_leave_nothing_either: Root CgroupV2 UserNs;
        hooks::a_service_that_says_when_it_is_ready_has_them_too: Root CgroupV2 UserNs;
        hooks::an_upgrade_waits_for_a_privileged_command_and_not_for_others: Root CgroupV2 UserNs;
        hooks::a_command_has_a_user_of_its_own: Root CgroupV2 UserNs;
        schedule::the_kernel_schedules_as_the_file_says: Root CgroupV2 UserNs Program("chrt") Program("ionice");
        readiness::a_service_is_starting_until_it_says_that_it_is_ready: Root CgroupV2 UserNs;
        readiness::what_was_said_while_nobody_supervised_is_heard: Root CgroupV2 UserNs;
        readiness::only_who_could_signal_the_main_process_is_heard: Root CgroupV2 UserNs;
        readiness::a_line_on_a_descriptor_makes_ready: Root CgroupV2 UserNs;
        readiness::a_watchdog_that_hears_nothing_bites: Root CgroupV2 UserNs;
        readiness::a_reload_ends_when_the_service_says_so: Root CgroupV2 UserNs;
        readiness::a_daemon_is_followed_by_its_pid_file: Root CgroupV2 UserNs;
        readiness::a_daemon_without_a_pid_file_is_the_one_that_is_left: Root CgroupV2 UserNs;
        readiness::a_starter_that_leaves_nobody_has_failed: Root CgroupV2 UserNs;
        readiness::the_main_process_is_whom_the_service_names: Root CgroupV2 UserNs;
        readiness::patience_is_granted_when_it_is_asked_for: Root CgroupV2 UserNs;
        readiness::a_flood_of_messages_holds_nobody_up: Root CgroupV2 UserNs;
        readiness::descriptors_that_a_service_stores_come_back: Root CgroupV2 UserNs;
        readiness::a_simple_service_has_started_before_its_program: Root CgroupV2 UserNs;
        programs::nginx_answers: Root CgroupV2 UserNs Nft Program("nginx") Program("curl");
        programs::nginx_that_leaves_its_starter_answers: Root CgroupV2 UserNs Nft Program("nginx") Program("curl");
        programs::redis_answers: Root CgroupV2 UserNs Nft Program("redis-server") Program("redis-cli");
        programs::postgresql_answers: Root CgroupV2 UserNs Nft Program("psql");
        programs::gunicorn_answers: Root CgroupV2 UserNs Program("gunicorn");
        programs::node_answers: Root CgroupV2 UserNs Nft Program("node");
    ]
}
