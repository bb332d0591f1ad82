//! The laws of the state machine as properties. Each is named after the bug that it bars.
//!
//! Two kinds of input: *noise*, any event in any order, for what must hold whatever a broken supervisor or a lost
//! message makes of it; and a *world*, which keeps to the contract as the kernel does (a program starts before it ends,
//! a sandbox goes once), and keeps its own account of what runs. The world is the oracle: it believes what it was told
//! to do, not what the fleet says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use palisade::{
    machine::{
        self, Action, By, End, Event, ExitKind, Failure, Kept, Life, Mono, Phase, Policy, RestartMode,
        RestartOn, Retry, Rules, RunId, State, Why, backoff,
        fleet::{Effect, Entry, Fleet, Goal, Input, Outcome, Report},
        step,
    },
    spec::{
        self, Activation, After, ExitMatch, Kind, Listen, Milestone, Rollout, Socket, SocketKind, StopMode,
        Unit, UnitName,
    },
};
use proptest::{collection::vec, option, prelude::*, sample::select};

#[path = "../src/machine/fleet/sample.rs"]
mod sample;

fn seconds(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_secs)
}

fn exits() -> impl Strategy<Value = ExitKind> {
    select(vec![
        ExitKind::Code(0),
        ExitKind::Code(1),
        ExitKind::Code(7),
        ExitKind::Signal(9),
        ExitKind::Signal(15),
        ExitKind::Core(11),
        ExitKind::Unknown,
    ])
}

fn restart_on() -> impl Strategy<Value = RestartOn> {
    use RestartOn::{Always, Never, OnAbnormal, OnFailure, OnSuccess};
    select(vec![Always, OnFailure, OnAbnormal, OnSuccess, Never])
}

fn policies() -> impl Strategy<Value = Policy> {
    let bound = prop_oneof![Just(None), (0..4_u32, seconds(1..90)).prop_map(Some)];
    let matches = || vec(select(vec![ExitMatch::Code(7), ExitMatch::Code(0), ExitMatch::Signal(9)]), 0..2);
    let modes = select(vec![RestartMode::Fresh, RestartMode::InPlace]);
    (
        restart_on(),
        seconds(0..5),
        1.0..3.0_f64,
        0.0..1.0_f64,
        seconds(1..90),
        bound,
        matches(),
        matches(),
        modes,
    )
        .prop_map(|(on, delay, factor, jitter, reset_after, max, prevent_exit, force_exit, mode)| {
            let max_delay = Duration::from_secs(60);
            Policy { on, delay, factor, max_delay, jitter, reset_after, max, prevent_exit, force_exit, mode }
        })
}

fn units() -> impl Strategy<Value = Unit> {
    let limit = || prop_oneof![Just(None), seconds(1..100).prop_map(Some)];
    let kinds = select(vec![Kind::Exec, Kind::Oneshot]);
    let modes = select(vec![StopMode::Mixed, StopMode::ControlGroup]);
    (policies(), kinds, modes, any::<bool>(), limit(), limit(), seconds(1..20)).prop_map(
        |(restart, kind, mode, remain, start, run, stop)| {
            let mut unit = Unit { restart, ..sample::unit("web", &[]) };
            unit.service.kind = kind;
            unit.service.stop.mode = mode;
            unit.service.stop.timeout = Some(stop);
            unit.service.remain_after_exit = remain;
            unit.service.start_timeout = start;
            unit.service.run_timeout = run;
            unit
        },
    )
}

/// A service as the machine reads it: its file, and what goes around its program.
#[derive(Clone, Debug)]
struct Case {
    unit: Unit,
    reports_ready: bool,
    post_start: bool,
    post_stop: bool,
}

impl Case {
    fn rules(&self) -> Rules<'_> {
        let (reports_ready, post_start, post_stop) = (self.reports_ready, self.post_start, self.post_stop);
        Rules { reports_ready, post_start, post_stop, ..Rules::of(&self.unit, 1) }
    }
}

fn cases() -> impl Strategy<Value = Case> {
    (units(), any::<[bool; 3]>()).prop_map(|(unit, [reports_ready, post_start, post_stop])| {
        // A oneshot has started when it has ended: there is nothing that it could report before.
        let reports_ready = reports_ready && unit.service.kind == Kind::Exec;
        Case { unit, reports_ready, post_start, post_stop }
    })
}

// ---- one service, noise ----

/// Events, and how many milliseconds go by before each. A report of run 0 is about the newest run, of run N about the
/// one N before it.
fn noise() -> impl Strategy<Value = Vec<(Event, u64)>> {
    let back = || prop_oneof![4 => Just(RunId(0)), 1 => (1..4_u64).prop_map(RunId)];
    let by = || select(vec![By::User, By::Shutdown, By::Removed, By::Required(sample::name("db"))]);
    let kept = select(vec![Kept::Network, Kept::Nothing]);
    let retry = select(vec![Retry::Later, Retry::Never]);
    let event = prop_oneof![
        3 => Just(Event::Start),
        6 => Just(Event::Go),
        1 => Just(Event::DependencyFailed(sample::name("db"))),
        1 => by().prop_map(Event::Stop),
        1 => by().prop_map(Event::ForceStop),
        1 => Just(Event::Restart),
        1 => kept.prop_map(Event::SpecChanged),
        6 => Just(Event::Tick),
        2 => back().prop_map(Event::Preparing),
        1 => (back(), option::of(Just("path_exists = \"/x\"".to_owned()))).prop_map(|(run, unmet)| Event::Skipped(run, unmet)),
        6 => back().prop_map(Event::Started),
        4 => back().prop_map(Event::Ready),
        4 => back().prop_map(Event::Finished),
        1 => back().prop_map(Event::HookFailed),
        1 => back().prop_map(Event::WatchdogExpired),
        1 => back().prop_map(Event::Unhealthy),
        1 => (back(), 0..600_000_u64).prop_map(|(back, until)| Event::Extend(back, Mono(until))),
        2 => (back(), retry).prop_map(|(back, retry)| Event::LaunchFailed(back, retry)),
        6 => (back(), exits()).prop_map(|(back, exit)| Event::Exited(back, exit)),
        6 => back().prop_map(Event::Gone),
    ];
    vec((event, 0..60_000_u64), 0..60)
}

fn aim(event: Event, life: &Life) -> Event {
    let run = |back: RunId| RunId(life.last.0.saturating_sub(back.0));
    match event {
        Event::Preparing(back) => Event::Preparing(run(back)),
        Event::Skipped(back, unmet) => Event::Skipped(run(back), unmet),
        Event::Started(back) => Event::Started(run(back)),
        Event::Ready(back) => Event::Ready(run(back)),
        Event::Finished(back) => Event::Finished(run(back)),
        Event::HookFailed(back) => Event::HookFailed(run(back)),
        Event::WatchdogExpired(back) => Event::WatchdogExpired(run(back)),
        Event::Unhealthy(back) => Event::Unhealthy(run(back)),
        Event::Extend(back, until) => Event::Extend(run(back), until),
        Event::LaunchFailed(back, retry) => Event::LaunchFailed(run(back), retry),
        Event::Exited(back, exit) => Event::Exited(run(back), exit),
        Event::Gone(back) => Event::Gone(run(back)),
        other => other,
    }
}

/// One call of `step`.
struct Seen<'a> {
    before: &'a Life,
    event: &'a Event,
    after: &'a Life,
    actions: &'a [Action],
    now: Mono,
}

/// Plays `events` from the beginning, shows each step to `see`, and returns what comes of it and when.
fn play(case: &Case, events: Vec<(Event, u64)>, mut see: impl FnMut(&Seen<'_>)) -> (Life, Mono) {
    let rules = case.rules();
    let (mut life, mut now) = (Life::new(), Mono(1_000));
    for (event, pause) in events {
        now.0 += pause;
        let event = aim(event, &life);
        let (next, actions) = step(&rules, life.clone(), event.clone(), now);
        see(&Seen { before: &life, event: &event, after: &next, actions: &actions, now });
        life = next;
    }
    (life, now)
}

proptest! {
    #[test]
    fn no_event_in_any_state_is_a_panic_or_makes_the_loop_spin(case in cases(), events in noise()) {
        play(&case, events, |seen| {
            let deadline = seen.after.deadline(&case.rules());
            let is_past = deadline.is_some_and(|at| at <= seen.now);
            assert!(*seen.event != Event::Tick || !is_past, "{:?}", seen.after);
        });
    }

    #[test]
    fn launch_and_teardown_balance_and_no_two_runs_live(case in cases(), events in noise()) {
        let mut standing: Option<RunId> = None;
        let mut last = RunId(0);
        play(&case, events, |seen| {
            for action in seen.actions {
                match *action {
                    Action::Launch(run) => {
                        assert_eq!(standing, None, "two live runs");
                        assert!(run > last, "a run id was used twice");
                        (standing, last) = (Some(run), run);
                    }
                    Action::RelaunchInPlace { run, sandbox } => {
                        assert_eq!(standing, Some(sandbox));
                        assert!(run > last, "a run id was used twice");
                        (standing, last) = (Some(run), run);
                    }
                    Action::PostStart(run)
                    | Action::Terminate(run)
                    | Action::Abort(run)
                    | Action::KillAll(run)
                    | Action::PostStop(run)
                    | Action::KillTree(run) => assert_eq!(standing, Some(run)),
                    Action::Teardown(run) => assert_eq!(standing.take(), Some(run)),
                    Action::Release => assert_eq!(standing, None, "released under a live run"),
                }
            }
            assert_eq!(seen.after.state.run(), standing);
        });
    }

    #[test]
    fn a_service_at_rest_keeps_nothing(case in cases(), events in noise()) {
        let mut kept = false;
        play(&case, events, |seen| {
            for action in seen.actions {
                kept = match action {
                    Action::Launch(_) | Action::RelaunchInPlace { .. } => true,
                    Action::Release => false,
                    Action::PostStart(_)
                    | Action::Terminate(_)
                    | Action::Abort(_)
                    | Action::KillAll(_)
                    | Action::PostStop(_)
                    | Action::KillTree(_)
                    | Action::Teardown(_) => kept,
                };
            }
            assert!(!(seen.after.state.is_resting() && kept), "{:?} was not released", seen.after);
        });
    }

    /// The worst service: only SIGKILL ends it, and nobody reports how.
    #[test]
    fn stop_while_anything_ends_stopped(case in cases(), events in noise(), force in any::<bool>()) {
        let (life, mut now) = play(&case, events, |_| {});
        let rules = case.rules();
        let stop = if force { Event::ForceStop(By::User) } else { Event::Stop(By::User) };
        let (mut life, mut actions) = step(&rules, life, stop, now);
        // The deadline, another one where hooks were to follow, and the end of what was killed.
        for _ in 0..3 {
            prop_assert!(!actions.iter().any(|action| matches!(action, Action::Launch(_))));
            let event = match (life.deadline(&rules), life.state.run()) {
                (Some(at), _) => {
                    now = now.max(at);
                    Event::Tick
                }
                (None, Some(run)) => Event::Gone(run),
                (None, None) => break,
            };
            (life, actions) = step(&rules, life, event, now);
        }
        prop_assert!(matches!(life.state, State::Stopped(_)), "{:?}", life.state);
    }

    #[test]
    fn every_exit_leaves_running_signals_included(case in cases(), exit in exits(), lived in 0..200_000_u64) {
        let rules = case.rules();
        let (run, since) = (RunId(1), Mono(5));
        let life = Life { state: State::Running { run, since }, last: run, ..Life::new() };
        let now = Mono(5 + lived);
        let (ended, _) = step(&rules, life.clone(), Event::Exited(run, exit), now);
        prop_assert_eq!(ended.state.alive(), None);
        let (over, _) = step(&rules, ended, Event::Gone(run), now);
        let is_restarted = matches!(over.state, State::Backoff { .. });
        let is_refused = matches!(over.state, State::Failed(Failure::StartLimit { .. }));
        prop_assert_eq!(is_restarted || is_refused, rules.restarts_after(End::Exit(exit)));
        // The same without a word about the end.
        let (over, _) = step(&rules, life, Event::Gone(run), now);
        prop_assert_eq!(over.state.run(), None);
    }

    #[test]
    fn a_stale_run_id_changes_nothing(case in cases(), events in noise(), exit in exits(), off in 1..5_u64) {
        let (life, now) = play(&case, events, |_| {});
        for run in [RunId(life.last.0.saturating_sub(off)), RunId(life.last.0 + off)] {
            if life.state.run() == Some(run) {
                continue;
            }
            let reports = [
                Event::Preparing(run),
                Event::Skipped(run, None),
                Event::Skipped(run, Some("kernel = \">99\"".to_owned())),
                Event::Started(run),
                Event::Ready(run),
                Event::Finished(run),
                Event::HookFailed(run),
                Event::WatchdogExpired(run),
                Event::Unhealthy(run),
                Event::Extend(run, Mono(u64::MAX)),
                Event::LaunchFailed(run, Retry::Never),
                Event::Exited(run, exit),
                Event::Gone(run),
            ];
            for report in reports {
                let (after, actions) = step(&case.rules(), life.clone(), report, now);
                prop_assert_eq!((&after, actions), (&life, Vec::new()));
            }
        }
    }

    #[test]
    fn nothing_happens_to_a_service_at_rest_that_nobody_asked_for(case in cases(), events in noise()) {
        play(&case, events, |seen| {
            let is_asked = matches!(
                seen.event,
                Event::Start | Event::Restart | Event::Stop(_) | Event::ForceStop(_) | Event::SpecChanged(_)
            );
            if seen.before.state.is_resting() && !is_asked {
                assert_eq!((seen.after, seen.actions.len()), (seen.before, 0));
            }
        });
    }
}

// ---- one service, crash loops ----

/// Lets every run live for the next of `lives` and end by `exit`; returns when each run was launched and the delay
/// before it, and the life that is left.
fn crash_loop(unit: &Unit, exit: ExitKind, lives: &[u64]) -> (Vec<(Mono, Duration)>, Life) {
    let rules = Rules::of(unit, 1);
    let mut now = Mono(1_000);
    let (mut life, _) = step(&rules, Life::new(), Event::Start, now);
    let (mut launches, mut delay) = (Vec::new(), Duration::ZERO);
    for lived in lives {
        let run = RunId(life.last.0 + 1);
        (life, _) = step(&rules, life, Event::Go, now);
        launches.push((now, delay));
        (life, _) = step(&rules, life, Event::Started(run), now);
        now.0 += lived;
        (life, _) = step(&rules, life, Event::Exited(run, exit), now);
        (life, _) = step(&rules, life, Event::Gone(run), now);
        let State::Backoff { until, .. } = life.state else { break };
        delay = until.since(now);
        now = until;
        (life, _) = step(&rules, life, Event::Tick, now);
    }
    (launches, life)
}

/// A daemon that is restarted after every end, in a new sandbox.
fn daemon(policy: Policy) -> Unit {
    let restart = Policy { on: RestartOn::Always, mode: RestartMode::Fresh, ..policy };
    let restart = Policy { prevent_exit: Vec::new(), force_exit: Vec::new(), ..restart };
    Unit { restart, ..sample::unit("web", &[]) }
}

proptest! {
    #[test]
    fn restarts_never_exceed_the_budget_within_its_window(
        policy in policies(), exit in exits(), max in 0..5_u32, within in seconds(1..120),
        lives in vec(0..100_000_u64, 1..40),
    ) {
        let unit = daemon(Policy { max: Some((max, within)), ..policy });
        let (launches, life) = crash_loop(&unit, exit, &lives);
        // The first launch was asked for; all others are restarts.
        let restarts: Vec<Mono> = launches.iter().skip(1).map(|(at, _)| *at).collect();
        for (index, at) in restarts.iter().enumerate() {
            let count = restarts[..=index].iter().filter(|earlier| at.since(**earlier) < within).count();
            prop_assert!(count <= max as usize, "{count} restarts within {within:?}");
        }
        // And it is not refused without need.
        if let State::Failed(Failure::StartLimit { .. }) = life.state {
            let end = Mono(launches[launches.len() - 1].0.0 + lives[launches.len() - 1]);
            let count = restarts.iter().filter(|at| end.since(**at) < within).count();
            prop_assert!(count >= max as usize, "refused after {count} restarts");
        } else {
            prop_assert_eq!(launches.len(), lives.len());
        }
    }

    #[test]
    fn delays_follow_the_formula_and_start_again_only_after_a_stable_run(
        policy in policies(), lives in vec(0..100_000_u64, 2..30),
    ) {
        let unit = daemon(Policy { max: None, ..policy });
        let seed = backoff::seed(1, "web");
        let (launches, _) = crash_loop(&unit, ExitKind::Code(1), &lives);
        let mut failures = 0;
        for (lived, (_, delay)) in lives.iter().zip(launches.iter().skip(1)) {
            let is_stable = Duration::from_millis(*lived) >= unit.restart.reset_after;
            failures = if is_stable { 1 } else { failures + 1 };
            prop_assert_eq!(*delay, backoff::delay(&unit.restart, seed, failures));
        }
    }

    #[test]
    fn delays_keep_within_the_jitter_around_the_curve(
        policy in policies(), seed in any::<u64>(), failures in 1..200_u32,
    ) {
        let curve = policy.delay.as_secs_f64() * policy.factor.powi(i32::try_from(failures).unwrap() - 1);
        let curve = curve.min(policy.max_delay.as_secs_f64());
        let delay = backoff::delay(&policy, seed, failures).as_secs_f64();
        // Half a millisecond of rounding.
        prop_assert!(delay >= curve * (1.0 - policy.jitter) - 0.000_6, "{delay} for {curve}");
        prop_assert!(delay <= curve * (1.0 + policy.jitter) + 0.000_6, "{delay} for {curve}");
    }

    #[test]
    fn in_place_one_sandbox_serves_a_whole_crash_loop(runs in 1..10_u64) {
        let mut unit = daemon(sample::unit("web", &[]).restart);
        unit.restart.mode = RestartMode::InPlace;
        let rules = Rules::of(&unit, 1);
        let mut now = Mono(0);
        let (mut life, _) = step(&rules, Life::new(), Event::Start, now);
        let mut launches = 0;
        for run in (1..=runs).map(RunId) {
            let (up, actions) = step(&rules, life, Event::Go, now);
            launches += actions.iter().filter(|action| matches!(action, Action::Launch(_))).count();
            let (up, _) = step(&rules, up, Event::Started(run), now);
            let (ended, actions) = step(&rules, up, Event::Exited(run, ExitKind::Signal(9)), now);
            prop_assert_eq!(actions, []);
            now = ended.deadline(&rules).unwrap();
            (life, _) = step(&rules, ended, Event::Tick, now);
        }
        prop_assert_eq!(launches, 1);
    }
}

// ---- many services in a world that keeps to the contract ----

/// Five services. The alphabet runs against the dependencies, so that an order by name would be found out.
const NAMES: [&str; 5] = ["e", "d", "c", "b", "a"];

/// How many of them may be on their way up at the same time.
const PARALLEL: usize = 2;

/// What the world knows of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// The program was not executed yet.
    Setup,
    /// The main process is alive.
    Alive,
    /// It has ended; the sandbox stands.
    Standing,
}

#[derive(Clone, Debug)]
enum Op {
    Start(usize),
    Stop(usize),
    Restart(usize),
    Forgive(usize),
    /// Somebody connects.
    Demand(usize),
    Reload(Vec<Option<Unit>>),
    /// Something becomes of the run of this service: which of the things that can.
    Run(usize, u8, ExitKind),
    Pause(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let service = || 0..NAMES.len();
    let run = (service(), any::<u8>(), exits());
    vec(
        prop_oneof![
            3 => service().prop_map(Op::Start),
            1 => service().prop_map(Op::Stop),
            1 => service().prop_map(Op::Restart),
            1 => service().prop_map(Op::Forgive),
            3 => service().prop_map(Op::Demand),
            1 => files().prop_map(Op::Reload),
            12 => run.prop_map(|(service, what, exit)| Op::Run(service, what, exit)),
            4 => (0..40_000_u64).prop_map(Op::Pause),
        ],
        1..80,
    )
}

/// A set of files: each service may lack one, and requires or follows some of those before it in `NAMES`. What makes nobody
/// wait may name anybody.
fn files() -> impl Strategy<Value = Vec<Option<Unit>>> {
    let edges = || vec(0..12_u8, NAMES.len());
    let loose = || vec(0..24_u8, NAMES.len());
    vec((units(), edges(), loose(), any::<bool>(), 0..10_u8), NAMES.len()).prop_map(|all| {
        type File = (Unit, Vec<u8>, Vec<u8>, bool, u8);
        let file = |(own, (unit, edges, loose, is_other, luck)): (usize, File)| {
            let mut unit = Unit { name: sample::name(NAMES[own]), ..unit };
            for (other, edge) in NAMES.iter().zip(edges).take(own) {
                let after = |milestone| After { name: sample::name(other), milestone };
                match edge {
                    0 => unit.requires.push(sample::name(other)),
                    1 => unit.after.push(sample::after(other)),
                    2 => unit.after.push(after(Milestone::Done)),
                    3 => unit.after.push(after(Milestone::Started)),
                    4 => unit.after.push(after(Milestone::Healthy)),
                    5 => unit.binds_to.push(sample::name(other)),
                    _ => {}
                }
            }
            for (at, (other, edge)) in NAMES.iter().zip(loose).enumerate().filter(|(at, _)| *at != own) {
                let other = sample::name(other);
                match edge {
                    0 => unit.wants.push(other),
                    1 => unit.part_of.push(other),
                    2 => unit.upholds.push(other),
                    3 => unit.conflicts.push(other),
                    4 => unit.on_failure.push(other),
                    5 => unit.on_success.push(other),
                    6 if at > own => unit.before.push(After { name: other, milestone: Milestone::Ready }),
                    _ => {}
                }
            }
            let needed = |name: &UnitName| unit.requires.contains(name) || unit.binds_to.contains(name);
            unit.conflicts.retain(|name| !needed(name));
            if is_other {
                unit.rootfs.hide.push("/srv".into());
            }
            if luck > 5 {
                let listen = Listen::Ip(([127, 0, 0, 1], 80).into());
                let (kind, name) = (SocketKind::Stream, "web".to_owned());
                let socket =
                    Socket { listen, kind, name, backlog: 1, mode: 0o600, user: 0, group: 0, accept: None };
                unit.sockets.push(socket);
                unit.service.rollout = if luck > 7 { Rollout::BlueGreen } else { Rollout::Restart };
                unit.activation = if luck % 2 == 0 { Activation::OnDemand } else { Activation::Boot };
            }
            if unit.service.rollout == Rollout::BlueGreen {
                unit.service.kind = Kind::Exec;
                unit.restart.mode = RestartMode::Fresh;
            }
            unit.enabled = luck > 2;
            (luck > 0).then_some(unit)
        };
        all.into_iter().enumerate().map(file).collect()
    })
}

struct World {
    fleet: Fleet,
    now: Mono,
    runs: BTreeMap<UnitName, (RunId, Body)>,
    /// Newest run of each service, the forgotten ones left out.
    last: BTreeMap<UnitName, RunId>,
    /// Services whose last run ended with success.
    done: BTreeSet<UnitName>,
    /// Everything is to go down: no launch any more.
    is_closed: bool,
    /// All that was put in, and what came of it.
    tape: Vec<(Input, Mono, Outcome)>,
}

impl World {
    fn new() -> Self {
        let mut fleet = Fleet::new(1);
        fleet.set_parallel_starts(Some(PARALLEL));
        Self {
            fleet,
            now: Mono(1_000),
            runs: BTreeMap::new(),
            last: BTreeMap::new(),
            done: BTreeSet::new(),
            is_closed: false,
            tape: Vec::new(),
        }
    }

    /// A world in which all this has happened.
    fn after(files: Vec<Option<Unit>>, ops: Vec<Op>) -> Self {
        let mut world = Self::new();
        world.perform(Op::Reload(files));
        for op in ops {
            world.perform(op);
        }
        world
    }

    fn apply(&mut self, input: Input) {
        let before = self.fleet.clone();
        let is_repeated = input == Input::Shutdown && self.is_closed;
        self.is_closed |= input == Input::Shutdown;
        let out = self.fleet.apply(input.clone(), self.now);
        for name in &out.swapped {
            // Otherwise the old run has ended, or run out of time.
            let is_about_next = matches!(&input, Input::Report(of, _) if *of == name.twin());
            self.change_places(name, is_about_next);
        }
        for effect in &out.effects {
            // Nobody is asked to stop in a sandbox that was left standing: what it waited for has failed, say.
            let is_alive = self.runs.get(&effect.name).is_some_and(|(_, body)| *body != Body::Standing);
            self.obey(effect);
            // What a service's own time-out or end asks for, and a shutdown that has lost patience, keep no order.
            let is_own = matches!(&input, Input::Report(name, _) if *name == effect.name);
            let is_stop = matches!(effect.action, Action::Terminate(_) | Action::KillTree(_));
            if is_stop && is_alive && !is_own && !is_repeated && input != Input::Tick {
                self.check_reverse_order(&effect.name);
            }
        }
        for name in before.entries().keys().chain(self.fleet.entries().keys()) {
            let is_same = before.entry(name) == self.fleet.entry(name);
            assert!(is_same || out.touched.contains(name), "{name} changed and would not be persisted");
        }
        if let Input::Demand(name) = &input
            && !before.entry(name).is_some_and(Entry::is_on_call)
        {
            assert_eq!(out, Outcome::default(), "{name} was not on call");
        }
        for (name, entry) in self.fleet.entries() {
            let is_down = matches!(entry.goal, Goal::Down(_)) && entry.life.state.is_resting();
            assert!(!(is_down || self.is_closed) || !entry.is_on_call(), "{name} is wanted down and on call");
            let has_run = entry.life.state.run().is_some() && !entry.unit.sockets.is_empty();
            assert!(!has_run || entry.is_listened_for(), "{name} has a run, and nobody listens for it");
            assert_eq!(entry.life.state.run(), self.runs.get(name).map(|(run, _)| *run), "{name}");
        }
        self.check_bonds();
        if out.effects.iter().any(|effect| matches!(effect.action, Action::Launch(_))) {
            self.check_crowd();
        }
        self.last.retain(|name, _| self.fleet.entry(name).is_some());
        self.done.retain(|name| self.fleet.entry(name).is_some());
        self.tape.push((input, self.now, out));
    }

    /// Does what it is told, and checks that it may be told so.
    fn obey(&mut self, Effect { name, action }: &Effect) {
        match *action {
            Action::Launch(run) => {
                assert!(!self.runs.contains_key(name), "two live runs of {name}");
                self.launch(name, run);
            }
            Action::RelaunchInPlace { run, sandbox } => {
                assert_eq!(self.runs.get(name), Some(&(sandbox, Body::Standing)));
                self.launch(name, run);
            }
            Action::PostStart(run)
            | Action::Terminate(run)
            | Action::Abort(run)
            | Action::KillAll(run)
            | Action::PostStop(run)
            | Action::KillTree(run) => {
                assert_eq!(self.runs.get(name).map(|(run, _)| *run), Some(run));
            }
            Action::Teardown(run) => assert_eq!(self.runs.remove(name).map(|(run, _)| run), Some(run)),
            Action::Release => assert!(!self.runs.contains_key(name), "{name} released under a live run"),
        }
    }

    /// Who takes the place of somebody who is up is up.
    fn change_places(&mut self, name: &UnitName, is_about_next: bool) {
        let twin = name.twin();
        let (old, new) = (self.runs.remove(name), self.runs.remove(&twin));
        let is_up = |run: &Option<(RunId, Body)>| matches!(run, Some((_, Body::Alive)));
        let state = &self.fleet.entries()[name].life.state;
        let is_running = matches!(state, State::Running { .. });
        assert!(!is_about_next || (is_up(&new) && is_running), "{name}: {state:?}");
        self.runs.extend(new.map(|run| (name.clone(), run)));
        self.runs.extend(old.map(|run| (twin.clone(), run)));
        let (was_done, is_done) = (self.done.remove(name), self.done.remove(&twin));
        self.done.extend(is_done.then(|| name.clone()));
        self.done.extend(was_done.then_some(twin));
    }

    fn launch(&mut self, name: &UnitName, run: RunId) {
        assert!(!self.is_closed, "{name} launched after a shutdown");
        assert!(self.last.insert(name.base(), run) < Some(run), "run {run} of {name} twice");
        let unit = &self.fleet.entries()[name].unit;
        for other in unit.requires.iter().chain(&unit.binds_to) {
            let is_alive = matches!(self.runs.get(other), Some((_, Body::Alive)));
            let is_started = match self.fleet.entry(other).map(|entry| entry.unit.service.kind) {
                Some(Kind::Oneshot) => self.done.contains(other),
                // One that has ended well counts where it remains after its exit.
                Some(_) => is_alive || self.done.contains(other),
                None => false,
            };
            assert!(is_started, "{name} was launched before {other}, which it requires, has started");
        }
        for other in self.runs.keys().filter(|other| *other != name) {
            assert!(!self.are_rivals(name, other), "{name} was launched while {other} is there");
            let is_ahead = |after: &After, name: &UnitName| after.name == *name;
            let other = &self.fleet.entries()[other].unit;
            let is_ordered = unit.after.iter().any(|after| is_ahead(after, &other.name))
                || other.before.iter().any(|before| is_ahead(before, name));
            let is_setup = matches!(self.runs[&other.name], (_, Body::Setup));
            // One that is going away was not on its way when this one went.
            let entry = &self.fleet.entries()[&other.name];
            let is_coming = entry.goal == Goal::Up && matches!(entry.life.state, State::Starting { .. });
            assert!(!(is_ordered && is_setup && is_coming), "{name} was launched before {}", other.name);
        }
        self.done.remove(name);
        self.runs.insert(name.clone(), (run, Body::Setup));
    }

    fn are_rivals(&self, one: &UnitName, two: &UnitName) -> bool {
        let says =
            |one, two| self.fleet.entry(one).is_some_and(|entry: &Entry| entry.unit.conflicts.contains(two));
        says(one, two) || says(two, one)
    }

    /// Where something was launched: files that make a daemon of a oneshot at work may bring about more.
    fn check_crowd(&self) {
        let starting = self.fleet.entries().values().filter(|entry| {
            let is_oneshot = entry.unit.service.kind == Kind::Oneshot;
            let is_at_work = matches!(entry.life.state, State::Starting { phase: Phase::Executed, .. });
            matches!(entry.life.state, State::Starting { .. }) && !(is_oneshot && is_at_work)
        });
        assert!(starting.count() <= PARALLEL, "more are being started than may be");
    }

    /// What must hold whenever the fleet has had its say.
    fn check_bonds(&self) {
        let entries = self.fleet.entries();
        for (name, entry) in entries.iter().filter(|(_, entry)| entry.goal == Goal::Up) {
            let is_up = matches!(entry.life.state, State::Starting { .. } | State::Running { .. });
            for other in &entry.unit.binds_to {
                let is_here = entries.get(other).is_some_and(|entry| {
                    use Phase::{Executed, Settling};
                    matches!(entry.life.state, State::Running { .. } | State::Done { .. })
                        || matches!(entry.life.state, State::Starting { phase: Executed | Settling, .. })
                        || (entry.unit.service.kind == Kind::Oneshot && self.done.contains(other))
                        || matches!(entry.life.state, State::Stopped(Why::Ended(_)))
                });
                assert!(is_here || !is_up, "{name} is up without {other}, to which it is bound");
            }
            let is_waiting = matches!(entry.life.state, State::Waiting { .. });
            for other in entry.unit.requires.iter().chain(&entry.unit.binds_to).filter(|_| is_waiting) {
                let state = entries.get(other).map(|other| &other.life.state);
                let is_moving = state.is_some_and(|state| !state.is_resting() || self.done.contains(other));
                assert!(is_moving, "{name} waits, and {other}, which it needs, will not come: {state:?}");
            }
            let coming = |entry: &Entry| entry.goal == Goal::Up && !entry.life.state.is_resting();
            for (other, rival) in entries.iter().filter(|(other, _)| *other != name) {
                let is_both = coming(entry) && coming(rival) && self.are_rivals(name, other);
                assert!(!is_both, "{name} and {other} conflict, and both are to be up");
            }
        }
    }

    /// Who requires a service or comes after it, and is to go down as well, is gone before it is told to.
    fn check_reverse_order(&self, name: &UnitName) {
        let is_down = |entry: &Entry| matches!(entry.goal, Goal::Down(_));
        if !self.fleet.entry(name).is_some_and(is_down) {
            return;
        }
        for entry in self.fleet.entries().values().filter(|entry| is_down(entry)) {
            let mut first = entry
                .unit
                .requires
                .iter()
                .chain(&entry.unit.binds_to)
                .chain(entry.unit.after.iter().map(|after| &after.name));
            let (is_held, other) = (first.any(|first| first == name), &entry.unit.name);
            assert!(!(is_held && self.runs.contains_key(other)), "{name} is to stop before {other}");
        }
    }

    fn report(&mut self, name: &UnitName, report: Report) {
        self.apply(Input::Report(name.clone(), report));
    }

    /// One of the things that can become of a run as it is; `what` chooses.
    fn run(&mut self, name: &UnitName, what: u8, exit: ExitKind) {
        let Some((run, body)) = self.runs.get(name).copied() else { return };
        match (body, what % 8) {
            (Body::Setup, 0) => {
                self.runs.insert(name.clone(), (run, Body::Standing));
                let retry = if what & 8 == 0 { Retry::Later } else { Retry::Never };
                self.report(name, Report::LaunchFailed(run, retry, "no such file".to_owned()));
            }
            (Body::Setup, _) => {
                self.runs.insert(name.clone(), (run, Body::Alive));
                self.report(name, Report::Started(run));
            }
            (Body::Alive, 0..6) => {
                self.runs.insert(name.clone(), (run, Body::Standing));
                let unit = &self.fleet.entries()[name].unit;
                if Rules::of(unit, 1).is_success(exit) {
                    self.done.insert(name.clone());
                }
                self.report(name, Report::Exited(run, exit));
            }
            (Body::Alive | Body::Standing, _) => self.report(name, Report::Gone(run)),
        }
    }

    fn pause(&mut self, millis: u64) {
        self.now.0 += millis;
        if self.fleet.deadline().is_some_and(|at| at <= self.now) {
            self.apply(Input::Tick);
            assert!(self.fleet.deadline().is_none_or(|at| at > self.now), "the loop would spin");
        }
    }

    fn perform(&mut self, op: Op) {
        let name = |index: usize| sample::name(NAMES[index]);
        match op {
            Op::Start(index) => self.apply(Input::Start(vec![name(index)])),
            Op::Stop(index) => self.apply(Input::Stop(vec![name(index)])),
            Op::Restart(index) => self.apply(Input::Restart(vec![name(index)])),
            Op::Forgive(index) => {
                let name = name(index);
                self.apply(Input::Forgive(vec![name.clone()]));
                let state = self.fleet.entry(&name).map(|entry| &entry.life.state);
                assert!(!matches!(state, Some(State::Failed(_))), "{name} has still failed");
            }
            Op::Demand(index) => self.apply(Input::Demand(name(index))),
            Op::Run(index, what, exit) => self.run(&name(index), what, exit),
            Op::Pause(millis) => self.pause(millis),
            Op::Reload(files) => {
                let units = files.into_iter().flatten().map(|unit| (unit.name.clone(), unit)).collect();
                self.apply(Input::Reload(units));
            }
        }
    }

    /// Lets time pass and sandboxes that were killed go, as the kernel does, until nothing moves any more.
    fn drain(&mut self) {
        for _ in 0..200 {
            let killed = self.fleet.entries().iter().find_map(|(name, entry)| {
                let run = entry.life.state.run()?;
                entry.life.state.owed().contains(&Action::KillTree(run)).then(|| (name.clone(), run))
            });
            match (killed, self.fleet.deadline()) {
                (Some((name, run)), _) => self.report(&name, Report::Gone(run)),
                (None, Some(at)) => self.pause(at.0.saturating_sub(self.now.0)),
                (None, None) => return,
            }
        }
        panic!("nothing comes to an end: {:?}", self.fleet);
    }

    /// A healthy host: whatever was launched starts, and oneshots succeed. For long enough.
    fn thrive(&mut self) {
        for _ in 0..200 {
            let next = self.fleet.entries().values().find_map(|entry| match entry.life.state {
                State::Starting { .. } => Some(entry.unit.name.clone()),
                _ => None,
            });
            let Some(name) = next else { return };
            let what = if self.runs[&name].1 == Body::Setup { 1 } else { 2 };
            self.run(&name, what, ExitKind::Code(0));
            // The end of a oneshot is followed by that of its sandbox.
            if self.runs.get(&name).is_some_and(|(_, body)| *body == Body::Standing) {
                self.run(&name, 7, ExitKind::Code(0));
            }
        }
        // Two oneshots that name each other in `on_success` go on for ever, as they say.
    }
}

proptest! {
    /// The world's own checks: launches after what they require, stops in reverse, nothing live twice, all persisted.
    #[test]
    fn no_story_breaks_the_order_of_dependencies(files in files(), ops in ops()) {
        let world = World::after(files, ops);
        prop_assert!(!world.tape.is_empty());
    }

    #[test]
    fn a_shutdown_brings_everything_to_rest_and_launches_nothing(
        files in files(), before in ops(), during in ops(), is_repeated in any::<bool>(),
    ) {
        let mut world = World::after(files, before);
        world.apply(Input::Shutdown);
        for op in during {
            world.perform(op);
        }
        if is_repeated {
            world.apply(Input::Shutdown);
        }
        world.drain();
        prop_assert!(world.fleet.is_resting(), "{:?}", world.fleet);
        prop_assert!(world.runs.is_empty());
        prop_assert_eq!(world.fleet.deadline(), None);
    }

    #[test]
    fn a_stop_of_all_ends_with_all_stopped(files in files(), before in ops()) {
        let mut world = World::after(files, before);
        world.apply(Input::Stop(NAMES.iter().map(|text| sample::name(text)).collect()));
        world.is_closed = true;
        world.drain();
        for (name, entry) in world.fleet.entries() {
            prop_assert!(matches!(entry.life.state, State::Stopped(_)), "{} {:?}", name, entry.life.state);
            prop_assert!(entry.is_settled());
        }
    }

    /// Each that waits waits for another that waits in its turn, for time, or for one that is at work or going away.
    #[test]
    fn nobody_waits_for_somebody_who_will_not_come(files in files(), before in ops()) {
        let mut world = World::after(files, before);
        world.thrive();
        let entries = world.fleet.entries();
        for (name, entry) in entries {
            if !matches!(entry.life.state, State::Waiting { .. }) || entry.goal != Goal::Up {
                continue;
            }
            let others = world.fleet.waits_for(name);
            prop_assert!(!others.is_empty(), "{} waits for nobody", name);
            for other in others {
                let state = entries.get(&other).map(|entry| &entry.life.state);
                let is_moving = state.is_some_and(|state| !state.is_resting());
                prop_assert!(is_moving, "{} waits for {} in {:?}", name, other, state);
            }
        }
    }

    #[test]
    fn a_restored_fleet_behaves_the_same(files in files(), before in ops(), later in ops()) {
        let mut world = World::after(files, before);
        let saved = serde_json::to_vec(&world.fleet.entries().values().collect::<Vec<_>>()).unwrap();
        let entries: Vec<Entry> = serde_json::from_slice(&saved).unwrap();
        let mut restored = Fleet::restore(1, entries);
        restored.set_parallel_starts(Some(PARALLEL));
        prop_assert_eq!(&restored, &world.fleet);
        let length = world.tape.len();
        for op in later {
            world.perform(op);
        }
        for (input, now, out) in world.tape.drain(length..) {
            prop_assert_eq!(restored.apply(input, now), out);
        }
        prop_assert_eq!(&restored, &world.fleet);
    }
}

/// The entries as a successor finds them when only the first of these files were written.
fn half_written(before: &Fleet, after: &Fleet, written: &[&UnitName]) -> Vec<Entry> {
    let is_new = |name: &UnitName| written.iter().any(|new| **new == name.base());
    let old = before.entries().iter().filter(|(name, _)| !is_new(name));
    let new = after.entries().iter().filter(|(name, _)| is_new(name));
    old.chain(new).map(|(_, entry)| entry.clone()).collect()
}

/// What a successor hears in place of what its predecessor has heard; none where nothing is heard twice.
fn heard_again(input: &Input) -> Option<Input> {
    match input {
        Input::Tick => Some(Input::Tick),
        Input::Report(name, Report::LaunchFailed(run, ..)) => {
            Some(Input::Report(name.clone(), Report::Gone(*run)))
        }
        Input::Report(_, Report::Exited(..) | Report::Gone(_)) => Some(input.clone()),
        _ => None,
    }
}

proptest! {
    /// An end that was written down before the start that it brings about would never be heard of again, and nor would the
    /// start.
    #[test]
    fn who_is_called_comes_though_the_supervisor_dies_between_two_records(files in files(), ops in ops()) {
        // One that conflicts with what its own failure starts is taken down by that, and has not failed. One whose failure
        // starts somebody who needs or wants it back is brought back by the first of two starts alone. So nobody here calls
        // or wants, and as everywhere needs, one that stands behind him in `NAMES`. Who is upheld comes when that one is up.
        let place = |name: &UnitName| NAMES.iter().position(|known| *known == name.as_str());
        let apart = |mut unit: Unit| {
            unit.conflicts.clear();
            unit.upholds.clear();
            let own = place(&unit.name);
            let Unit { wants, on_failure, on_success, .. } = &mut unit;
            for names in [wants, on_failure, on_success] {
                names.retain(|other| place(other) < own);
            }
            unit
        };
        let peaceful = |files: Vec<Option<Unit>>| files.into_iter().map(|file| file.map(apart)).collect();
        let ops = ops.into_iter().map(|op| match op {
            Op::Reload(files) => Op::Reload(peaceful(files)),
            other => other,
        });
        let world = World::after(peaceful(files), ops.collect());
        let mut fleet = Fleet::new(1);
        fleet.set_parallel_starts(Some(PARALLEL));
        for (input, now, _) in world.tape {
            let before = fleet.clone();
            let out = fleet.apply(input.clone(), now);
            let Some(again) = heard_again(&input) else { continue };
            let order = out.touched.in_order();
            let files: Vec<&UnitName> = order.into_iter().filter(|name| !name.is_twin()).collect();
            for count in 1..files.len() {
                let mut restored = Fleet::restore(1, half_written(&before, &fleet, &files[..count]));
                restored.set_parallel_starts(Some(PARALLEL));
                restored.apply(again.clone(), now);
                // A second run begins whenever the service is to be restarted and may be.
                for (name, entry) in fleet.entries().iter().filter(|(name, _)| !name.is_twin()) {
                    let is_coming = |entry: &Entry| {
                        !matches!(entry.goal, Goal::Down(_)) && !entry.life.state.is_resting()
                    };
                    let was = before.entry(name).is_some_and(is_coming);
                    let is = restored.entry(name).is_some_and(is_coming);
                    prop_assert!(was || is || !is_coming(entry), "{} after {:?} of {:?}: {:?}", name, count, files, input);
                }
            }
        }
    }
}

fn held() -> Socket {
    let listen = Listen::Unix("/run/e.sock".into());
    let (kind, name) = (SocketKind::Stream, "e".to_owned());
    Socket { listen, kind, name, backlog: 1, mode: 0o600, user: 0, group: 0, accept: None }
}

/// A service with a held socket that is restarted blue-green, and is up.
fn blue_green() -> (World, UnitName) {
    let mut unit = sample::unit("e", &[]);
    unit.sockets.push(held());
    unit.service.rollout = Rollout::BlueGreen;
    let mut world = World::after(vec![Some(unit)], Vec::new());
    world.thrive();
    (world, sample::name("e"))
}

#[test]
fn a_rollout_ends_with_the_new_run_and_without_the_old_one() {
    let (mut world, name) = blue_green();
    let twin = name.twin();
    world.apply(Input::Restart(vec![name.clone()]));
    assert_eq!((world.runs[&name], world.runs[&twin]), ((RunId(1), Body::Alive), (RunId(2), Body::Setup)));
    assert!(!world.fleet.is_settled(&name));
    world.run(&twin, 1, ExitKind::Code(0));
    assert_eq!((world.runs[&name], world.runs[&twin]), ((RunId(2), Body::Alive), (RunId(1), Body::Alive)));
    // A word about the old one that was written before they changed places.
    world.runs.insert(twin.clone(), (RunId(1), Body::Standing));
    world.report(&name, Report::Exited(RunId(1), ExitKind::Code(0)));
    world.report(&name, Report::Gone(RunId(1)));
    assert_eq!(world.fleet.entry(&twin), None);
    assert!(world.fleet.is_settled(&name));
    let entry = &world.fleet.entries()[&name];
    assert_eq!((entry.life.last, &entry.rolled_back), (RunId(2), &None));
    assert_eq!(entry.history.iter().map(|past| past.run).collect::<Vec<_>>(), [RunId(1)]);
}

#[test]
fn a_rollout_that_fails_leaves_the_old_run_alone() {
    let (mut world, name) = blue_green();
    let twin = name.twin();
    for run in 2..5 {
        world.apply(Input::Restart(vec![name.clone()]));
        world.run(&twin, 0, ExitKind::Code(1));
        world.report(&twin, Report::Gone(RunId(run)));
        assert_eq!(world.runs, BTreeMap::from([(name.clone(), (RunId(1), Body::Alive))]));
        assert!(world.fleet.is_settled(&name));
        let why = world.fleet.entries()[&name].rolled_back.clone();
        assert_eq!(why, Some(format!("run {run}: no such file")));
    }
    // The number of the next run is nobody's.
    world.run(&name, 2, ExitKind::Code(1));
    world.run(&name, 7, ExitKind::Code(1));
    world.pause(1_000);
    assert_eq!(world.runs[&name], (RunId(5), Body::Setup));
}

#[test]
fn an_old_run_that_ends_by_itself_has_its_successor_at_once() {
    let (mut world, name) = blue_green();
    let twin = name.twin();
    world.apply(Input::Restart(vec![name.clone()]));
    world.run(&name, 2, ExitKind::Signal(9));
    assert_eq!(world.runs[&name], (RunId(2), Body::Setup));
    world.report(&twin, Report::Gone(RunId(1)));
    world.thrive();
    assert_eq!(world.runs, BTreeMap::from([(name.clone(), (RunId(2), Body::Alive))]));
    // Stopped in the middle, nothing of either is left.
    world.apply(Input::Restart(vec![name.clone()]));
    world.apply(Input::Stop(vec![name.clone()]));
    world.drain();
    assert!(world.fleet.is_settled(&name) && world.runs.is_empty());
    assert_eq!(world.fleet.entries().len(), 1);
}

/// A program that ends well without taking the connection that waits for it is not started again and again.
#[test]
fn a_connection_that_nobody_takes_is_no_busy_loop() {
    let mut unit = Unit { activation: Activation::OnDemand, ..sample::unit("e", &[]) };
    unit.sockets.push(held());
    let mut world = World::after(vec![Some(unit)], Vec::new());
    let name = sample::name("e");
    for run in 1..=100 {
        if !world.fleet.entries()[&name].is_on_call() {
            break;
        }
        world.apply(Input::Demand(name.clone()));
        if world.runs.contains_key(&name) {
            assert_eq!(world.runs[&name], (RunId(run), Body::Setup));
            world.thrive();
            world.run(&name, 2, ExitKind::Code(0));
            world.run(&name, 7, ExitKind::Code(0));
        }
    }
    assert_eq!(world.last[&name], RunId(20));
    assert!(!world.fleet.entries()[&name].is_listened_for());
    world.apply(Input::Start(vec![name.clone()]));
    world.thrive();
    assert_eq!(world.runs[&name], (RunId(21), Body::Alive));
    world.run(&name, 2, ExitKind::Code(0));
    world.run(&name, 7, ExitKind::Code(0));
    assert!(world.fleet.entries()[&name].is_on_call(), "it is forgotten");
}

/// The world tests nothing if nothing happens in it: it gets services up, restarts them and takes them down.
#[test]
fn the_world_is_not_empty() {
    let files = vec![Some(sample::unit("e", &[])), Some(sample::unit("d", &["e"]))];
    let mut world = World::after(files, Vec::new());
    let (db, web) = (sample::name("e"), sample::name("d"));
    world.thrive();
    assert_eq!(world.runs[&web], (RunId(1), Body::Alive));
    world.run(&db, 2, ExitKind::Code(1));
    world.run(&db, 7, ExitKind::Code(1));
    world.pause(1_000);
    assert_eq!(world.runs[&db], (RunId(2), Body::Setup));
    world.apply(Input::Shutdown);
    world.drain();
    assert_eq!(world.fleet.entry(&web).unwrap().life.state, State::Stopped(Why::Asked(By::Shutdown)));
}
