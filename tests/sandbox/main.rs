//! What a service finds around it, on the real kernel: the probe reports from inside, this side judges.

#![allow(unreachable_pub, reason = "a test program exports nothing")]

#[path = "../support/mod.rs"]
#[macro_use]
mod support;
mod around;
mod credentials;
mod filter;
mod hostile;
mod inner;
mod powers;
mod roots;
mod selftest;
mod sessions;
mod sharing;
mod single;
mod stdio;
mod unprivileged;
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
        around::commands_go_before_and_after_and_the_exit_is_the_services: Root CgroupV2 UserNs;
        around::what_a_command_left_behind_is_gone_before_the_next: Root CgroupV2 UserNs Program("python3");
        around::a_command_that_says_no_or_fails_keeps_the_service_from_running: Root CgroupV2 UserNs;
        around::a_signal_ends_it_in_order: Root CgroupV2 UserNs;
        around::a_privileged_command_of_a_run_is_outside: Root CgroupV2 UserNs;
        roots::a_persistent_root_remembers_and_holds_only_what_was_written: Root CgroupV2 UserNs;
        roots::what_is_removed_from_a_persistent_root_stays_removed: Root CgroupV2 UserNs;
        roots::a_directory_roots_files_belong_to_their_owners_inside: Root CgroupV2 UserNs;
        roots::a_read_only_mount_shows_its_owners_and_takes_nothing: Root CgroupV2 UserNs;
        roots::what_is_made_belongs_to_root_inside: Root CgroupV2 UserNs;
        roots::a_missing_source_is_passed_over_or_named: Root CgroupV2 UserNs;
        roots::a_link_as_source_is_refused: Root CgroupV2 UserNs;
        roots::what_is_hidden_is_empty: Root CgroupV2 UserNs;
        roots::a_part_of_a_writable_root_is_read_only: Root CgroupV2 UserNs;
        roots::a_memory_file_system_has_its_size_and_mode: Root CgroupV2 UserNs;
        roots::devices_are_had_by_name: Root CgroupV2 UserNs;
        roots::the_hosts_devices_are_had_by_a_word: Root CgroupV2 UserNs;
        roots::proc_and_sys_none_leave_nothing: Root CgroupV2 UserNs;
        roots::who_may_go_out_knows_whom_to_ask: Root CgroupV2 UserNs Nft;
        sharing::an_ipc_namespace_is_joined_by_one_with_the_same_ids: Root CgroupV2 UserNs;
        sharing::an_ipc_namespace_is_seen_but_not_touched_by_one_with_other_ids: Root CgroupV2 UserNs;
        sharing::a_joined_uts_namespace_has_its_owners_name: Root CgroupV2 UserNs;
        sharing::a_joined_cgroup_namespace_is_its_owners: Root CgroupV2 UserNs;
        sharing::a_joined_pid_namespace_shows_its_owners_processes: Root CgroupV2 UserNs;
        sharing::stopping_one_of_two_in_a_pid_namespace_leaves_the_other: Root CgroupV2 UserNs;
        sharing::a_join_goes_down_with_the_owner_and_comes_back_after_it: Root CgroupV2 UserNs;
        sharing::a_join_follows_its_owner_after_a_crash: Root CgroupV2 UserNs;
        sharing::a_join_without_a_supervisor_is_refused: Root CgroupV2 UserNs;
        sharing::the_hosts_namespaces_are_had_by_name: Root CgroupV2 UserNs;
        sharing::without_a_pid_namespace_the_whole_tree_is_killed: Root CgroupV2 UserNs;
        sharing::without_a_pid_namespace_nothing_outlives_a_killed_run: Root CgroupV2 UserNs;
        sharing::without_a_user_namespace_ids_are_real_and_powerless: Root CgroupV2;
        sharing::clocks_are_shifted: Root CgroupV2 UserNs;
        powers::the_five_sets_are_what_the_file_says: Root CgroupV2 UserNs;
        powers::a_session_has_the_sets_of_its_service: Root CgroupV2 UserNs;
        powers::a_capability_counts_where_it_was_given_and_nowhere_else: Root CgroupV2 UserNs;
        powers::a_device_is_given_to_the_services_user_alone: Root CgroupV2 UserNs;
        powers::what_is_no_device_is_refused: Root CgroupV2 UserNs;
        powers::what_palisade_has_not_it_does_not_give: Root CgroupV2 Program("setpriv");
        stdio::standard_input_is_inherited_by_name: Root CgroupV2 UserNs;
        stdio::a_file_is_standard_input: Root CgroupV2 UserNs;
        stdio::a_fifo_without_a_writer_holds_nobody_up: Root CgroupV2 UserNs;
        stdio::a_terminal_of_its_own_is_relayed_by_run: Root CgroupV2 UserNs;
        stdio::the_operators_terminal_is_mirrored_and_put_in_order: Root CgroupV2 UserNs;
        stdio::a_terminal_outlives_the_supervisor: Root CgroupV2 UserNs;
        stdio::the_supervisor_has_no_standard_input_to_give: Root CgroupV2 UserNs;
        single::a_reader_who_does_not_read_keeps_nobody_from_ending_it: Root CgroupV2 UserNs;
        single::the_default_sandbox_has_no_hole: Root CgroupV2 UserNs Nft;
        single::a_directory_root_has_no_hole: Root CgroupV2 UserNs Nft;
        single::an_empty_root_holds_only_what_was_mounted: Root CgroupV2 UserNs;
        single::nothing_of_the_caller_leaks_in: Root CgroupV2 UserNs;
        single::the_environment_is_what_the_file_says: Root CgroupV2 UserNs;
        single::process_attributes_are_what_the_file_says: Root CgroupV2 UserNs;
        single::the_exit_status_is_the_payloads: Root CgroupV2 UserNs;
        single::a_daemon_is_followed_and_what_a_service_says_goes_nowhere: Root CgroupV2 UserNs;
        single::a_signal_is_128_and_its_number: Root CgroupV2 UserNs;
        single::a_missing_program_is_127_and_leaves_nothing: Root CgroupV2 UserNs;
        single::what_a_killed_run_leaves_is_cleared_by_the_next: Root CgroupV2 UserNs Nft;
        single::a_run_timeout_is_124: Root CgroupV2 UserNs;
        single::mode_none_has_loopback_only: Root CgroupV2 UserNs;
        single::the_root_cannot_be_written: Root CgroupV2 UserNs;
        single::an_ephemeral_root_forgets: Root CgroupV2 UserNs;
        single::a_writable_mount_belongs_to_the_service_inside_and_to_its_owner_outside: Root CgroupV2 UserNs;
        single::a_writable_mount_of_roots_directory_is_refused: Root CgroupV2 UserNs;
        single::proc_none_and_sys_none_are_not_there: Root CgroupV2 UserNs;
        sessions::a_session_is_as_confined_as_the_service: Root CgroupV2 UserNs;
        sessions::a_shell_has_a_terminal_of_its_own_and_nothing_else: Root CgroupV2 UserNs;
        sessions::a_service_that_stops_every_session_does_not_hold_up_its_init: Root CgroupV2 UserNs;
        sessions::the_init_holds_what_it_needs_and_no_more: Root CgroupV2 UserNs;
        sessions::every_run_in_the_same_sandbox_may_open_its_output: Root CgroupV2 UserNs;
        sessions::root_inside_has_no_power_over_the_init: Root CgroupV2 UserNs;
        sessions::nobody_inside_can_signal_the_init: Root CgroupV2 UserNs;
        sessions::no_signal_is_ignored_or_blocked: Root CgroupV2 UserNs;
        credentials::the_service_reads_them_and_nobody_else_does: Root CgroupV2 UserNs;
        credentials::they_come_from_a_file_a_program_or_the_environment: Root CgroupV2 UserNs;
        credentials::what_cannot_be_had_or_trusted_is_refused_by_name: Root CgroupV2 UserNs;
        credentials::a_hostile_root_does_not_lead_them_astray: Root CgroupV2 UserNs;
        credentials::they_are_nowhere_else: Root CgroupV2 UserNs;
        credentials::a_program_that_takes_its_time_holds_up_nobody_else: Root CgroupV2 UserNs;
        unprivileged::an_ordinary_users_sandbox_has_no_hole: Root UserNs;
        unprivileged::who_has_a_range_of_ids_gives_it_to_the_service: Root UserNs Program("newuidmap");
        unprivileged::an_ordinary_users_run_ends_as_its_payload_does: Root UserNs;
        unprivileged::an_ordinary_users_commands_go_around_the_service: Root UserNs;
        unprivileged::a_users_files_are_shown_and_what_is_written_is_his: Root UserNs Program("newuidmap");
        unprivileged::a_tree_of_the_users_is_a_root: Root UserNs Program("newuidmap");
        unprivileged::a_users_credentials_are_read_before_he_is_root_of_anything: Root UserNs;
        unprivileged::a_users_port_is_answered_and_nothing_else_leads_out: Root UserNs Nft Program("pasta");
        unprivileged::where_there_is_no_pasta_slirp4netns_does_the_same: Root UserNs Nft Program("pasta") Program("slirp4netns");
        unprivileged::a_users_service_on_the_hosts_network_starts_without_sys: Root UserNs;
        unprivileged::what_only_root_can_have_is_refused_by_key_and_remedy: Root UserNs;
        unprivileged::a_host_without_user_namespaces_names_the_knob: Root UserNs;
        unprivileged::a_sandbox_inside_of_one_says_what_it_lacks: Root UserNs;
        unprivileged::a_killed_run_of_a_user_takes_everything_along: Root UserNs Nft Program("pasta") Program("slirp4netns");
        unprivileged::a_user_may_check_and_plan: Root UserNs;
        unprivileged::a_group_that_was_given_to_the_user_is_used: Root UserNs CgroupV2;
        filter::what_no_server_needs_is_denied_and_the_rest_is_not: Root CgroupV2 UserNs;
        filter::a_session_is_filtered_as_the_service_is: Root CgroupV2 UserNs;
        filter::a_call_of_another_architecture_kills: Root CgroupV2 UserNs;
        filter::each_restriction_is_lifted_by_its_own_key_alone: Root CgroupV2 UserNs;
        filter::a_list_kills_or_lets_through_what_it_names: Root CgroupV2 UserNs;
        filter::no_wx_denies_every_way_to_writable_code: Root CgroupV2 UserNs;
        filter::without_no_new_privs_there_is_a_filter_all_the_same: Root CgroupV2 UserNs;
        filter::both_filters_are_there: Root CgroupV2 UserNs;
        filter::what_is_denied_becomes_an_audit_line: Root CgroupV2 UserNs;
        hostile::every_trap_at_every_mount_point_is_refused_by_name: Root CgroupV2 UserNs;
        hostile::every_trap_at_every_file_is_passed_over: Root CgroupV2 UserNs;
        hostile::a_mount_point_that_is_swapped_meanwhile_leads_nowhere: Root CgroupV2 UserNs;
        single::a_directory_of_the_host_is_no_standard_input: Root CgroupV2 UserNs;
        hostile::what_stands_below_a_mount_point_is_nobodys_business: Root CgroupV2 UserNs;
        hostile::a_trap_where_a_file_wants_something_is_refused_by_name: Root CgroupV2 UserNs;
        hostile::a_set_id_program_of_the_root_gives_nobody_its_owner: Root CgroupV2 UserNs;
        hostile::a_session_is_not_held_up_by_a_trap: Root CgroupV2 UserNs;
        hostile::a_user_is_not_looked_up_in_a_trap: Root CgroupV2 UserNs;
        hostile::nobody_else_is_root_because_the_root_says_so: Root CgroupV2 UserNs;
        inner::what_a_mount_allows_the_inner_wall_allows: Root CgroupV2 UserNs Program("python3");
        inner::a_descriptor_of_the_host_is_no_way_to_the_host: Root CgroupV2 UserNs;
        inner::abstract_sockets_of_the_host_are_out_of_reach: Root CgroupV2 UserNs Program("python3");
        inner::a_session_may_signal_and_look_at_the_service: Root CgroupV2 UserNs;
        inner::message_queues_are_the_sandboxs_own: Root CgroupV2 UserNs Program("python3");
        inner::no_user_namespace_is_made_inside: Root CgroupV2 UserNs;
        inner::a_nested_service_makes_sandboxes_that_hold: Root CgroupV2 UserNs;
        inner::bubblewrap_runs_in_a_nested_service_and_nowhere_else: Root CgroupV2 UserNs Program("bwrap");
        inner::proc_and_sys_tell_nothing_of_the_machine: Root CgroupV2 UserNs;
        inner::no_knob_of_the_kernel_is_turned: Root CgroupV2 UserNs;
        inner::a_label_that_cannot_be_had_is_refused: Root CgroupV2 UserNs;
        inner::no_key_of_the_host_is_seen: Root CgroupV2 UserNs Program("python3");
        single::an_unknown_key_is_refused_with_line_and_column: Root;
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
    // The guest's kernel has AppArmor, and must; elsewhere it is as it is.
    if std::env::var_os("PALISADE_TEST_VM").is_some() {
        all.extend(tests![
            inner::a_profile_holds_the_service_and_its_sessions: Root CgroupV2 UserNs Program("apparmor_parser");
        ]);
    }
    support::main(&all)
}
