use std::time::Duration;

use super::{fleet::sample::policy, *};
use crate::spec::{ExitMatch, OnFail, UnitName};

const RUN: RunId = RunId(4);
const NOW: Mono = Mono(1_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn rules(restart: &Policy) -> Rules<'_> {
    Rules {
        restart,
        kind: Kind::Exec,
        success_exit: &[],
        remain_after_exit: false,
        reports_ready: false,
        on_unhealthy: OnFail::Restart,
        post_start: false,
        post_stop: false,
        start_timeout: Some(90 * SECOND),
        run_timeout: Some(900 * SECOND),
        stop_timeout: Some(15 * SECOND),
        stop_mode: StopMode::Mixed,
        seed: 1,
    }
}

fn life(state: State) -> Life {
    Life { state, last: RUN, ..Life::new() }
}

fn running() -> Life {
    life(State::Running { run: RUN, since: Mono(NOW.0 - 5_000) })
}

fn db() -> UnitName {
    UnitName::new("db").unwrap()
}

/// Feeds `events` at `NOW`, one after the other, and returns the last life and all actions.
fn feed(rules: &Rules<'_>, mut life: Life, events: &[Event]) -> (Life, Vec<Action>) {
    let mut all = Vec::new();
    for event in events {
        let (next, actions) = step(rules, life, event.clone(), NOW);
        life = next;
        all.extend(actions);
    }
    (life, all)
}

// ---- the table of the module's documentation ----

/// Every state that the table tells apart. `since` lies 1000 s back, so that every time-out is due.
fn samples() -> Vec<(&'static str, State)> {
    let since = Mono(0);
    let (run, site) = (RUN, Site::Standing(RUN));
    let (after, until) = (End::Exit(ExitKind::Code(1)), NOW);
    let wait = Then::Wait(Kept::Network);
    let stopping = |main, kill| State::Stopping { run, since, main, kill, then: wait.clone() };
    let then = |then| State::Stopping { run, since, main: Main::Ended, kill: Kill::Sent, then };
    vec![
        ("Stopped", State::Stopped(Why::NeverStarted)),
        ("Failed", State::Failed(Failure::Dependency(db()))),
        ("Waiting", State::Waiting { site: Site::Empty }),
        ("Waiting, sandbox stands", State::Waiting { site }),
        ("Starting", State::Starting { run, since, phase: Phase::Launching }),
        ("Starting, hooks before", State::Starting { run, since, phase: Phase::Preparing }),
        ("Starting, oneshot at work", State::Starting { run, since, phase: Phase::Executed }),
        ("Starting, not ready", State::Starting { run, since, phase: Phase::Executed }),
        ("Starting, hooks after", State::Starting { run, since, phase: Phase::Settling }),
        ("Running", State::Running { run, since }),
        ("Done", State::Done { run, since }),
        ("Stopping, then Waiting", stopping(Main::Alive, Kill::At(NOW))),
        ("Stopping, post_stop due", stopping(Main::Alive, Kill::At(NOW))),
        ("Stopping, hooks after", stopping(Main::Hooks, Kill::At(NOW))),
        ("Stopping, all killed", stopping(Main::Killed, Kill::At(NOW))),
        ("Stopping, main ended", stopping(Main::Ended, Kill::At(NOW))),
        ("Stopping, kill sent", stopping(Main::Alive, Kill::Sent)),
        ("Stopping, for ever", stopping(Main::Alive, Kill::Never)),
        ("Stopping, then Stopped", then(Then::Rest(Why::Asked(By::User)))),
        ("Stopping, then Failed", then(Then::Fail(Failure::Dependency(db())))),
        ("Stopping, then Backoff", then(Then::Backoff(after))),
        ("Stopping, then Done", then(Then::Done)),
        ("Backoff", State::Backoff { until, site: Site::Empty, after }),
        ("Backoff, sandbox stands", State::Backoff { until, site, after }),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    vec![
        ("Start", Event::Start),
        ("Go", Event::Go),
        ("DependencyFailed", Event::DependencyFailed(db())),
        ("Stop", Event::Stop(By::User)),
        ("ForceStop", Event::ForceStop(By::User)),
        ("Restart", Event::Restart),
        ("SpecChanged", Event::SpecChanged(Kept::Network)),
        ("Tick, due", Event::Tick),
        ("Preparing", Event::Preparing(RUN)),
        ("Skipped", Event::Skipped(RUN, None)),
        ("Started", Event::Started(RUN)),
        ("Ready", Event::Ready(RUN)),
        ("Finished", Event::Finished(RUN)),
        ("HookFailed", Event::HookFailed(RUN)),
        ("WatchdogExpired", Event::WatchdogExpired(RUN)),
        ("Unhealthy", Event::Unhealthy(RUN)),
        ("Extend", Event::Extend(RUN, NOW)),
        ("LaunchFailed, later", Event::LaunchFailed(RUN, Retry::Later)),
        ("LaunchFailed, never", Event::LaunchFailed(RUN, Retry::Never)),
        ("Exited, success", Event::Exited(RUN, ExitKind::Code(0))),
        ("Exited, failure", Event::Exited(RUN, ExitKind::Code(1))),
        ("Gone", Event::Gone(RUN)),
    ]
}

fn headline(state: &State) -> &'static str {
    match state {
        State::Stopped(_) => "Stopped",
        State::Failed(_) => "Failed",
        State::Waiting { .. } => "Waiting",
        State::Starting { phase: Phase::Launching, .. } => "Starting",
        State::Starting { phase: Phase::Preparing, .. } => "Starting, hooks before",
        State::Starting { phase: Phase::Executed, .. } => "Starting, executed",
        State::Starting { phase: Phase::Settling, .. } => "Starting, hooks after",
        State::Running { .. } => "Running",
        State::Done { .. } => "Done",
        State::Stopping { then: Then::Rest(_), .. } => "Stopping, then Stopped",
        State::Stopping { then: Then::Fail(_), .. } => "Stopping, then Failed",
        State::Stopping { then: Then::Wait(_), .. } => "Stopping, then Waiting",
        State::Stopping { then: Then::Backoff(_), .. } => "Stopping, then Backoff",
        State::Stopping { then: Then::Done, .. } => "Stopping, then Done",
        State::Backoff { .. } => "Backoff",
    }
}

fn verb(action: &Action) -> &'static str {
    match action {
        Action::Launch(_) => "Launch",
        Action::RelaunchInPlace { .. } => "RelaunchInPlace",
        Action::PostStart(_) => "PostStart",
        Action::Terminate(_) => "Terminate",
        Action::Abort(_) => "Abort",
        Action::KillAll(_) => "KillAll",
        Action::PostStop(_) => "PostStop",
        Action::KillTree(_) => "KillTree",
        Action::Teardown(_) => "Teardown",
        Action::Release => "Release",
    }
}

fn table() -> String {
    let policy = policy();
    let mut text = format!("{:<27}{:<21}{:<28}{}\n", "state", "event", "becomes", "and asks for");
    for (row, state) in samples() {
        let oneshot = row.contains("oneshot");
        let kind = if oneshot { Kind::Oneshot } else { Kind::Exec };
        let post_stop = ["post_stop due", "hooks after", "all killed"]
            .iter()
            .any(|row_end| row == format!("Stopping, {row_end}"));
        let (reports_ready, post_start) = (row.contains("not ready"), row.contains("hooks"));
        let rules = Rules { kind, reports_ready, post_start, post_stop, ..rules(&policy) };
        for (column, event) in events() {
            let before = life(state.clone());
            let (after, actions) = step(&rules, before.clone(), event, NOW);
            if after.state == before.state && actions.is_empty() {
                continue;
            }
            let verbs: Vec<&str> = actions.iter().map(verb).collect();
            let line = format!("{row:<27}{column:<21}{:<28}{}", headline(&after.state), verbs.join(", "));
            text += &format!("{}\n", line.trim_end());
        }
    }
    text
}

#[test]
fn the_documented_table_is_what_step_does() {
    let written = include_str!("table.md");
    let wanted = format!("```text\n{}```\n", table());
    assert_eq!(written, wanted, "the table should read\n{wanted}");
}

/// The variants of an enum of this module, as its source has them.
fn variants(of: &str) -> Vec<&'static str> {
    let source = include_str!("state.rs");
    let body = source.split(&format!("pub enum {of} {{\n")).nth(1).expect("an enum").split("\n}").next();
    let names = body.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("    "));
    let names = names.filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()));
    names.map(|line| line.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default()).collect()
}

/// What the table does not tell apart nobody has looked at.
#[test]
fn the_table_leaves_no_state_and_no_event_out() {
    let states: Vec<String> = samples().iter().map(|(_, state)| format!("{state:?} ")).collect();
    let events: Vec<String> = events().iter().map(|(_, event)| format!("{event:?} ")).collect();
    let begins = |all: &[String], words: &str| all.iter().any(|text| text.starts_with(words));
    for (all, of) in [(&states, "State"), (&events, "Event")] {
        assert!(variants(of).len() > 7, "{:?}", variants(of));
        for name in variants(of) {
            assert!(begins(all, name), "{of}::{name}");
        }
    }
    for (of, field) in
        [("Phase", "phase"), ("Main", "main"), ("Kill", "kill"), ("Then", "then"), ("Site", "site")]
    {
        for name in variants(of) {
            let words = format!("{field}: {name}");
            assert!(states.iter().any(|text| text.contains(&words)), "{of}::{name}");
        }
    }
}

// ---- how an end is judged, against systemd.service(5) ----

/// The table "Exit causes and the effect of the Restart= settings" of systemd.service(5), row by row.
#[test]
fn restart_policies_follow_systemds_table() {
    use RestartOn::{Always, Never, OnAbnormal, OnFailure, OnSuccess};
    let rows: [(End, &[RestartOn]); 8] = [
        (End::Exit(ExitKind::Code(0)), &[Always, OnSuccess]),
        (End::Exit(ExitKind::Signal(15)), &[Always, OnSuccess]),
        (End::Exit(ExitKind::Code(3)), &[Always, OnFailure]),
        (End::Exit(ExitKind::Signal(9)), &[Always, OnFailure, OnAbnormal]),
        (End::Exit(ExitKind::Core(11)), &[Always, OnFailure, OnAbnormal]),
        (End::StartTimeout(SECOND), &[Always, OnFailure, OnAbnormal]),
        (End::RunTimeout(SECOND), &[Always, OnFailure, OnAbnormal]),
        (End::Exit(ExitKind::Unknown), &[Always, OnFailure, OnAbnormal]),
    ];
    for on in [Always, OnFailure, OnAbnormal, OnSuccess, Never] {
        let policy = Policy { on, ..policy() };
        for (end, restarted) in rows {
            assert_eq!(rules(&policy).restarts_after(end), restarted.contains(&on), "{on:?} after {end}");
        }
    }
}

#[test]
fn polite_signals_are_a_success_for_daemons_alone() {
    let policy = policy();
    let daemon = rules(&policy);
    let oneshot = Rules { kind: Kind::Oneshot, ..daemon };
    for signal in 1..32 {
        let polite = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGPIPE].contains(&signal);
        assert_eq!(daemon.is_success(ExitKind::Signal(signal)), polite);
        assert!(!oneshot.is_success(ExitKind::Signal(signal)));
        assert!(!daemon.is_success(ExitKind::Core(signal)));
    }
}

#[test]
fn success_exit_adds_statuses_and_signals_but_no_core_dumps() {
    let policy = policy();
    let list = [ExitMatch::Code(42), ExitMatch::Signal(9)];
    let rules = Rules { success_exit: &list, ..rules(&policy) };
    assert!(rules.is_success(ExitKind::Code(42)));
    assert!(rules.is_success(ExitKind::Signal(9)));
    assert!(!rules.is_success(ExitKind::Core(9)));
    assert!(!rules.is_success(ExitKind::Code(9)));
    assert!(!rules.is_success(ExitKind::Unknown));
}

#[test]
fn prevent_exit_beats_force_exit_beats_the_policy() {
    let never = Policy {
        on: RestartOn::Never,
        prevent_exit: vec![ExitMatch::Code(7)],
        force_exit: vec![ExitMatch::Code(7), ExitMatch::Signal(11)],
        ..policy()
    };
    assert!(!rules(&never).restarts_after(End::Exit(ExitKind::Code(7))));
    assert!(rules(&never).restarts_after(End::Exit(ExitKind::Core(11))));
    let always = Policy { on: RestartOn::Always, ..never };
    assert!(!rules(&always).restarts_after(End::Exit(ExitKind::Code(7))));
}

#[test]
fn a_launch_is_repeated_only_where_that_can_help() {
    let always = Policy { on: RestartOn::Always, ..policy() };
    assert!(rules(&always).restarts_after(End::Launch(Retry::Later)));
    assert!(!rules(&always).restarts_after(End::Launch(Retry::Never)));
    let never = Policy { on: RestartOn::Never, ..policy() };
    assert!(!rules(&never).restarts_after(End::Launch(Retry::Later)));
}

// ---- stories ----

#[test]
fn a_oneshot_has_started_when_it_has_ended_well() {
    let policy = Policy { on: RestartOn::Always, ..policy() };
    let rules = Rules { kind: Kind::Oneshot, remain_after_exit: true, ..rules(&policy) };
    let run = RunId(1);
    let (at_work, _) = feed(&rules, Life::new(), &[Event::Start, Event::Go, Event::Started(run)]);
    assert_eq!(at_work.state, State::Starting { run, since: NOW, phase: Phase::Executed });
    let (done, actions) =
        feed(&rules, at_work.clone(), &[Event::Exited(run, ExitKind::Code(0)), Event::Gone(run)]);
    assert_eq!(done.state, State::Done { run, since: NOW });
    assert_eq!(actions, [Action::KillTree(run), Action::Teardown(run)]);
    let plain = Rules { remain_after_exit: false, ..rules };
    let (ended, actions) = feed(&plain, at_work, &[Event::Exited(run, ExitKind::Code(0)), Event::Gone(run)]);
    assert_eq!(ended.state, State::Stopped(Why::Ended(ExitKind::Code(0))));
    assert_eq!(actions, [Action::KillTree(run), Action::Teardown(run), Action::Release]);
}

#[test]
fn stop_while_starting_kills_without_asking_and_ends_stopped() {
    let policy = policy();
    let rules = rules(&policy);
    let starting = life(State::Starting { run: RUN, since: NOW, phase: Phase::Launching });
    let (stopped, actions) = feed(&rules, starting, &[Event::Stop(By::User), Event::Gone(RUN)]);
    assert_eq!(stopped.state, State::Stopped(Why::Asked(By::User)));
    assert_eq!(actions, [Action::KillTree(RUN), Action::Teardown(RUN), Action::Release]);
}

#[test]
fn a_service_that_ignores_the_request_to_stop_is_killed_once_at_its_time() {
    let policy = policy();
    let rules = rules(&policy);
    let (asked, actions) = feed(&rules, running(), &[Event::Stop(By::User)]);
    assert_eq!(actions, [Action::Terminate(RUN)]);
    let at = asked.deadline(&rules).unwrap();
    assert_eq!(at, NOW.after(15 * SECOND));
    let (early, actions) = step(&rules, asked, Event::Tick, Mono(at.0 - 1));
    assert_eq!(actions, []);
    let (killed, actions) = step(&rules, early, Event::Tick, at);
    assert_eq!(actions, [Action::KillTree(RUN)]);
    assert_eq!(killed.deadline(&rules), None);
    let (_, actions) = feed(
        &rules,
        killed,
        &[Event::Tick, Event::ForceStop(By::User), Event::Exited(RUN, ExitKind::Signal(9))],
    );
    assert_eq!(actions, []);
}

/// Feeds `events` and compares the actions.
fn asks(rules: &Rules<'_>, life: Life, events: &[Event], actions: &[Action]) -> Life {
    let (life, all) = feed(rules, life, events);
    assert_eq!(all, actions, "{events:?}");
    life
}

#[test]
fn whoever_reports_is_starting_until_it_is_ready_even_when_that_is_heard_first() {
    let policy = policy();
    let rules = Rules { reports_ready: true, ..rules(&policy) };
    let launched = life(State::Starting { run: RUN, since: NOW, phase: Phase::Launching });
    let up = State::Running { run: RUN, since: NOW };
    let executed = asks(&rules, launched.clone(), &[Event::Started(RUN)], &[]);
    assert_eq!(executed.state, State::Starting { run: RUN, since: NOW, phase: Phase::Executed });
    assert_eq!(asks(&rules, executed.clone(), &[Event::Ready(RUN)], &[]).state, up);
    assert_eq!(asks(&rules, launched, &[Event::Ready(RUN), Event::Started(RUN)], &[]).state, up);
    let ended = asks(&rules, executed, &[Event::Exited(RUN, ExitKind::Code(0))], &[Action::KillTree(RUN)]);
    assert_eq!(ended.state.reason(), "ended before it was ready: exit status 0");
}

#[test]
fn hooks_go_around_the_program() {
    let policy = Policy { on: RestartOn::Never, ..policy() };
    let rules = Rules { post_start: true, post_stop: true, ..rules(&policy) };
    let launched = life(State::Starting { run: RUN, since: NOW, phase: Phase::Launching });
    let preparing = asks(&rules, launched, &[Event::Preparing(RUN)], &[]);
    let settling = asks(&rules, preparing, &[Event::Started(RUN)], &[Action::PostStart(RUN)]);
    let up = asks(&rules, settling.clone(), &[Event::Finished(RUN)], &[]);
    assert_eq!(up.state, State::Running { run: RUN, since: NOW });
    let exit = Event::Exited(RUN, ExitKind::Code(0));
    let asked = asks(&rules, up.clone(), &[Event::Stop(By::User)], &[Action::Terminate(RUN)]);
    let after = asks(&rules, asked, std::slice::from_ref(&exit), &[Action::PostStop(RUN)]);
    let gone = [Event::Finished(RUN), Event::Gone(RUN)];
    let end = [Action::KillTree(RUN), Action::Teardown(RUN), Action::Release];
    assert_eq!(asks(&rules, after, &gone, &end).state, State::Stopped(Why::Asked(By::User)));
    // By itself, too.
    let after = asks(&rules, up, &[exit], &[Action::PostStop(RUN)]);
    assert_eq!(asks(&rules, after, &gone, &end).state, State::Stopped(Why::Ended(ExitKind::Code(0))));
    let failing = asks(&rules, settling, &[Event::HookFailed(RUN)], &[Action::Terminate(RUN)]);
    assert_eq!(failing.state.reason(), "post_start command failed");
}

#[test]
fn post_stop_still_runs_after_a_stop_that_took_too_long() {
    let policy = policy();
    let rules = Rules { post_stop: true, ..rules(&policy) };
    let asked = asks(&rules, running(), &[Event::Stop(By::User)], &[Action::Terminate(RUN)]);
    let (killed, actions) = step(&rules, asked, Event::Tick, NOW.after(15 * SECOND));
    assert_eq!(actions, [Action::KillAll(RUN)]);
    let exit = Event::Exited(RUN, ExitKind::Signal(9));
    let (after, actions) = step(&rules, killed.clone(), exit, NOW.after(15 * SECOND));
    assert_eq!(actions, [Action::PostStop(RUN)]);
    // It has its time, too; and where nothing helps, everything is killed.
    for hanging in [after, killed] {
        let due = hanging.deadline(&rules).unwrap();
        let (_, actions) = step(&rules, hanging, Event::Tick, due);
        assert_eq!(actions, [Action::KillTree(RUN)]);
    }
}

#[test]
fn a_hook_that_is_stopped_is_asked_first_and_a_condition_is_no_failure() {
    let policy = policy();
    let rules = rules(&policy);
    let preparing = life(State::Starting { run: RUN, since: NOW, phase: Phase::Preparing });
    let asked = asks(&rules, preparing.clone(), &[Event::Stop(By::User)], &[Action::Terminate(RUN)]);
    asks(&rules, asked, &[Event::Finished(RUN)], &[Action::KillTree(RUN)]);
    let skipped = asks(&rules, preparing, &[Event::Skipped(RUN, None)], &[Action::KillTree(RUN)]);
    let (skipped, _) = feed(&rules, skipped, &[Event::Gone(RUN)]);
    assert_eq!(skipped.state, State::Stopped(Why::Skipped));
}

#[test]
fn a_watchdog_aborts_and_ill_health_restarts_whatever_the_policy() {
    let policy = Policy { on: RestartOn::Never, ..policy() };
    let rules = rules(&policy);
    let hung = asks(&rules, running(), &[Event::WatchdogExpired(RUN)], &[Action::Abort(RUN)]);
    assert_eq!(hung.state.reason(), "watchdog expired");
    let ill = asks(&rules, running(), &[Event::Unhealthy(RUN)], &[Action::Terminate(RUN)]);
    assert!(matches!(ill.state, State::Stopping { then: Then::Backoff(End::Unhealthy), .. }));
}

#[test]
fn ill_health_means_what_the_file_says() {
    let policy = policy();
    let ill = |on_unhealthy, actions: &[Action]| {
        let rules = Rules { on_unhealthy, ..rules(&policy) };
        asks(&rules, running(), &[Event::Unhealthy(RUN)], actions).state
    };
    let killed = ill(OnFail::Kill, &[Action::KillTree(RUN)]);
    assert!(matches!(killed, State::Stopping { then: Then::Backoff(End::Unhealthy), .. }));
    let stopped = ill(OnFail::Stop, &[Action::Terminate(RUN)]);
    assert!(matches!(stopped, State::Stopping { then: Then::Fail(Failure::Ended(End::Unhealthy)), .. }));
    assert_eq!(ill(OnFail::None, &[]), running().state);
    let budget = Policy { max: Some((0, 60 * SECOND)), ..policy.clone() };
    let spent = asks(&rules(&budget), running(), &[Event::Unhealthy(RUN)], &[Action::Terminate(RUN)]);
    assert!(matches!(spent.state, State::Stopping { then: Then::Fail(Failure::StartLimit { .. }), .. }));
}

#[test]
fn patience_that_was_asked_for_lasts_until_the_state_changes() {
    let policy = policy();
    let rules = Rules { reports_ready: true, ..rules(&policy) };
    let starting = life(State::Starting { run: RUN, since: NOW, phase: Phase::Executed });
    let later = NOW.after(200 * SECOND);
    let patient = asks(&rules, starting, &[Event::Extend(RUN, later)], &[]);
    assert_eq!(patient.deadline(&rules), Some(later));
    let (patient, actions) = step(&rules, patient, Event::Tick, NOW.after(91 * SECOND));
    assert_eq!(actions, []);
    let (ended, actions) = step(&rules, patient.clone(), Event::Tick, later);
    assert_eq!(
        (ended.state.reason().as_str(), actions),
        ("not started within 1m 30s", vec![Action::Terminate(RUN)])
    );
    let up = asks(&rules, patient, &[Event::Ready(RUN)], &[]);
    assert_eq!(up.deadline(&rules), Some(NOW.after(900 * SECOND)));
}

#[test]
fn in_a_control_group_stop_the_others_get_their_time_too() {
    let policy = policy();
    let rules = Rules { stop_mode: StopMode::ControlGroup, ..rules(&policy) };
    let exit = Event::Exited(RUN, ExitKind::Code(0));
    let (waiting, actions) = feed(&rules, running(), &[Event::Stop(By::User), exit.clone()]);
    assert_eq!(actions, [Action::Terminate(RUN)]);
    assert_eq!(waiting.deadline(&rules), Some(NOW.after(15 * SECOND)));
    let (_, actions) = feed(&rules, running(), &[exit, Event::Gone(RUN)]);
    assert_eq!(actions, [Action::Terminate(RUN), Action::Teardown(RUN), Action::Release]);
}

#[test]
fn delays_grow_until_a_run_has_lived_long_enough() {
    let policy = policy();
    let rules = rules(&policy);
    let crash = |life: Life, lived: u64| {
        let run = RunId(life.last.0 + 1);
        let (up, _) = feed(&rules, life, &[Event::Go, Event::Started(run)]);
        let later = Mono(NOW.0 + lived);
        let (ended, _) = step(&rules, up, Event::Exited(run, ExitKind::Code(1)), later);
        let (backoff, _) = step(&rules, ended, Event::Gone(run), later);
        let State::Backoff { until, .. } = backoff.state else { panic!("{:?}", backoff.state) };
        let (waiting, _) = step(&rules, backoff, Event::Tick, until);
        (waiting, until.since(later))
    };
    let (life, _) = step(&rules, Life::new(), Event::Start, NOW);
    let (life, first) = crash(life, 0);
    let (life, second) = crash(life, 59_999);
    let (life, third) = crash(life, 60_000);
    assert_eq!([first, second, third], [SECOND, 2 * SECOND, SECOND]);
    let (life, _) = step(&rules, life, Event::Start, NOW);
    assert_eq!(life.tally, Tally::default());
}

#[test]
fn one_restart_too_many_within_the_window_fails_and_a_start_forgives() {
    let policy = Policy { max: Some((2, Duration::from_secs(30))), delay: Duration::ZERO, ..policy() };
    let rules = rules(&policy);
    let (mut life, _) = feed(&rules, Life::new(), &[Event::Start, Event::Go]);
    for restart in 0..2 {
        let run = life.last;
        let events = [Event::Exited(run, ExitKind::Code(3)), Event::Gone(run), Event::Tick, Event::Go];
        (life, _) = feed(&rules, life, &events);
        assert_eq!(life.last, RunId(restart + 2));
    }
    let run = life.last;
    let (failed, _) = feed(&rules, life, &[Event::Exited(run, ExitKind::Code(3)), Event::Gone(run)]);
    assert_eq!(failed.state.name(), "failed");
    assert_eq!(failed.state.reason(), "start limit: 2 restarts within 30s, last: exit status 3");
    let (again, _) = feed(&rules, failed, &[Event::Start]);
    assert_eq!((again.state, again.tally), (State::Waiting { site: Site::Empty }, Tally::default()));
}

#[test]
fn in_place_the_sandbox_passes_to_the_next_run_and_is_torn_down_once() {
    let policy = Policy { mode: RestartMode::InPlace, ..policy() };
    let rules = rules(&policy);
    let (backoff, actions) = feed(&rules, running(), &[Event::Exited(RUN, ExitKind::Code(1))]);
    assert_eq!(actions, []);
    let due = backoff.deadline(&rules).unwrap();
    let (waiting, _) = step(&rules, backoff, Event::Tick, due);
    let (starting, actions) = step(&rules, waiting, Event::Go, due);
    let run = RunId(RUN.0 + 1);
    assert_eq!(actions, [Action::RelaunchInPlace { run, sandbox: RUN }]);
    let events = [Event::Started(run), Event::Gone(RUN), Event::Stop(By::User), Event::Gone(run)];
    let (stopped, actions) = feed(&rules, starting, &events);
    assert_eq!(stopped.state.name(), "stopped");
    assert_eq!(actions, [Action::Terminate(run), Action::Teardown(run), Action::Release]);
}

#[test]
fn a_sandbox_that_dies_in_backoff_is_replaced() {
    let policy = Policy { mode: RestartMode::InPlace, ..policy() };
    let rules = rules(&policy);
    let (life, actions) = feed(&rules, running(), &[Event::Exited(RUN, ExitKind::Code(1)), Event::Gone(RUN)]);
    assert_eq!(actions, [Action::Teardown(RUN)]);
    let due = life.deadline(&rules).unwrap();
    let (life, _) = step(&rules, life, Event::Tick, due);
    let (_, actions) = step(&rules, life, Event::Go, due);
    assert_eq!(actions, [Action::Launch(RunId(RUN.0 + 1))]);
}

#[test]
fn another_network_releases_the_kept_one_between_two_runs() {
    let policy = policy();
    let rules = rules(&policy);
    let (_, actions) =
        feed(&rules, running(), &[Event::SpecChanged(Kept::Nothing), Event::Gone(RUN), Event::Go]);
    let next = RunId(RUN.0 + 1);
    let all = [Action::Terminate(RUN), Action::Teardown(RUN), Action::Release, Action::Launch(next)];
    assert_eq!(actions, all);
    let (_, actions) =
        feed(&rules, running(), &[Event::SpecChanged(Kept::Network), Event::Gone(RUN), Event::Go]);
    assert!(!actions.contains(&Action::Release));
}

#[test]
fn time_outs_end_a_run_and_infinity_never_comes() {
    let policy = policy();
    let rules = rules(&policy);
    let young = life(State::Running { run: RUN, since: NOW });
    let (ended, actions) = step(&rules, young.clone(), Event::Tick, NOW.after(900 * SECOND));
    assert_eq!(actions, [Action::Terminate(RUN)]);
    assert_eq!(ended.state.reason(), "still running after 15m");
    let endless = Rules { run_timeout: Some(Duration::MAX), stop_timeout: Some(Duration::MAX), ..rules };
    assert_eq!(young.deadline(&endless), None);
    let (stopping, _) = step(&endless, young, Event::Stop(By::User), NOW);
    assert_eq!(stopping.deadline(&endless), None);
}

#[test]
fn reasons_read_as_sentences() {
    let failed = |failure: Failure| State::Failed(failure).reason();
    assert_eq!(failed(Failure::Ended(End::Exit(ExitKind::Code(3)))), "exit status 3");
    assert_eq!(failed(Failure::Ended(End::Exit(ExitKind::Core(11)))), "killed by SIGSEGV, core dumped");
    assert_eq!(failed(Failure::Ended(End::Exit(ExitKind::Signal(34)))), "killed by signal 34");
    assert_eq!(failed(Failure::Ended(End::StartTimeout(90 * SECOND))), "not started within 1m 30s");
    assert_eq!(failed(Failure::Ended(End::Launch(Retry::Never))), "launch failed");
    assert_eq!(failed(Failure::Dependency(db())), "dependency failed: db");
    assert_eq!(State::Stopped(Why::Asked(By::User)).reason(), "stopped by user");
}

/// The oracle is the C library's own list.
#[test]
fn signal_names_are_those_of_signal_7() {
    for number in 1..32 {
        let name = nix::sys::signal::Signal::try_from(number).unwrap();
        assert_eq!(ExitKind::Signal(number).to_string(), format!("killed by {name}"));
    }
}
