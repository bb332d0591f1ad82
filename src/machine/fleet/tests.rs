use std::time::Duration;

use super::sample::{after, name, unit};
use super::*;
use crate::{
    machine::RestartMode,
    spec::{HealthCheck, Namespace, NetworkMode, OnFail, Ready, Service, Test},
};

/// A fleet with these services, none of them started, and a clock that is moved by hand.
struct Story {
    fleet: Fleet,
    now: Mono,
}

impl Story {
    fn new(units: impl IntoIterator<Item = Unit>) -> Self {
        let mut story = Self { fleet: Fleet::new(1), now: Mono(1_000) };
        let units = units.into_iter().map(|unit| Unit { enabled: false, ..unit });
        story.apply(Input::Reload(units.map(|unit| (unit.name.clone(), unit)).collect()));
        story
    }

    fn apply(&mut self, input: Input) -> Outcome {
        self.fleet.apply(input, self.now)
    }

    /// The effects of `input`, each as `web Launch(1)`.
    fn effects(&mut self, input: Input) -> Vec<String> {
        let text = |effect: &Effect| format!("{} {:?}", effect.name, effect.action).replace("RunId(", "(");
        let short = |text: String| text.replace("((", "(").replace("))", ")");
        self.apply(input).effects.iter().map(text).map(short).collect()
    }

    fn report(&mut self, text: &str, report: Report) -> Vec<String> {
        self.effects(Input::Report(name(text), report))
    }

    fn started(&mut self, text: &str) -> Vec<String> {
        let run = self.run(text);
        self.report(text, Report::Started(run))
    }

    /// The main process ends, and nothing of its sandbox is left.
    fn ended(&mut self, text: &str, exit: ExitKind) -> Vec<String> {
        let run = self.run(text);
        let mut all = self.report(text, Report::Exited(run, exit));
        all.extend(self.report(text, Report::Gone(run)));
        all.retain(|effect| !effect.contains("KillTree"));
        all
    }

    fn run(&self, text: &str) -> RunId {
        self.fleet.entries[&name(text)].life.last
    }

    fn state(&self, text: &str) -> String {
        let state = &self.fleet.entries[&name(text)].life.state;
        format!("{} {}", state.name(), state.reason()).trim_end().to_owned()
    }

    fn up(mut self, names: &[&str]) -> Self {
        self.apply(Input::Start(names.iter().map(|text| name(text)).collect()));
        for text in names {
            self.started(text);
        }
        self
    }
}

fn names(texts: &[&str]) -> Vec<UnitName> {
    texts.iter().map(|text| name(text)).collect()
}

fn start(text: &str) -> Input {
    Input::Start(names(&[text]))
}

fn stop(text: &str) -> Input {
    Input::Stop(names(&[text]))
}

fn oneshot(text: &str) -> Unit {
    let mut unit = unit(text, &[]);
    unit.service.kind = Kind::Oneshot;
    unit
}

fn files(units: impl IntoIterator<Item = Unit>) -> Input {
    Input::Reload(units.into_iter().map(|unit| (unit.name.clone(), unit)).collect())
}

const CRASH: ExitKind = ExitKind::Signal(11);

#[test]
fn a_start_pulls_in_what_is_required_and_waits_for_it() {
    let mut story =
        Story::new([unit("web", &["app"]), unit("app", &["db"]), unit("db", &[]), unit("x", &[])]);
    assert_eq!(story.effects(start("web")), ["db Launch(1)"]);
    assert_eq!(story.fleet.waits_for(&name("web")), names(&["app"]));
    assert_eq!(story.started("db"), ["app Launch(1)"]);
    assert_eq!(story.started("app"), ["web Launch(1)"]);
    assert_eq!(story.state("x"), "stopped not started yet");
}

#[test]
fn a_joined_namespace_is_a_requirement() {
    let mut side = unit("side", &[]);
    side.namespaces.ipc = Namespace::Join(name("main"));
    let mut story = Story::new([side, unit("main", &[])]);
    assert_eq!(story.effects(start("side")), ["main Launch(1)"]);
    assert_eq!(story.started("main"), ["side Launch(1)"]);
}

#[test]
fn who_joined_a_sandbox_that_is_gone_follows_into_the_next() {
    let mut side = unit("side", &[]);
    side.namespaces.ipc = Namespace::Join(name("main"));
    let mut story =
        Story::new([side, unit("main", &[]), unit("web", &["main"])]).up(&["main", "side", "web"]);
    let effects = story.ended("main", CRASH);
    assert!(effects.contains(&"side Terminate(1)".to_owned()), "{effects:?}");
    assert!(!effects.iter().any(|effect| effect.starts_with("web")), "{effects:?}");
    assert_eq!(story.ended("side", ExitKind::Signal(15)), ["side Teardown(1)"]);
    assert_eq!(story.state("side"), "waiting");
    story.now = Mono(60_000);
    assert_eq!(story.effects(Input::Tick), ["main Launch(2)"]);
    assert_eq!(story.started("main"), ["side Launch(2)"]);
}

#[test]
fn after_orders_those_that_are_started_and_pulls_in_nobody() {
    let web = || Unit { after: vec![after("migrate"), after("cache")], ..unit("web", &[]) };
    let all = || [web(), oneshot("migrate"), unit("cache", &[])];
    let mut alone = Story::new(all());
    assert_eq!(alone.effects(start("web")), ["web Launch(1)"]);
    let mut story = Story::new(all());
    let both = Input::Start(names(&["web", "migrate"]));
    assert_eq!(story.effects(both), ["migrate Launch(1)"]);
    assert_eq!(story.started("migrate"), [""; 0], "a oneshot at work has not started");
    assert_eq!(
        story.ended("migrate", ExitKind::Code(0)),
        ["migrate Teardown(1)", "migrate Release", "web Launch(1)"]
    );
}

#[test]
fn after_a_failure_the_order_holds_nobody_back() {
    let mut migrate = oneshot("migrate");
    migrate.restart.on = crate::machine::RestartOn::Never;
    let mut story = Story::new([Unit { after: vec![after("migrate")], ..unit("web", &[]) }, migrate]);
    story.apply(Input::Start(names(&["web", "migrate"])));
    assert!(story.ended("migrate", CRASH).contains(&"web Launch(1)".to_owned()));
}

#[test]
fn a_dependency_that_fails_fails_its_dependents_until_it_is_started() {
    let mut story = Story::new([unit("web", &["app"]), unit("app", &["db"]), unit("db", &[])]);
    story.apply(start("web"));
    let run = story.run("db");
    story.report("db", Report::LaunchFailed(run, Retry::Never, "child step 9 pivot_root".to_owned()));
    story.report("db", Report::Gone(run));
    assert_eq!(story.state("db"), "failed launch failed");
    assert_eq!(story.state("app"), "failed dependency failed: db");
    assert_eq!(story.state("web"), "failed dependency failed: app");
    let db = &story.fleet.entries[&name("db")];
    assert_eq!(db.fault.as_deref(), Some("child step 9 pivot_root"));
    assert_eq!(story.effects(start("db")), ["db Launch(2)"]);
    assert_eq!(story.state("web"), "waiting");
    assert_eq!(story.started("db"), ["app Launch(1)"]);
    assert_eq!(story.fleet.entries[&name("db")].fault, None);
}

#[test]
fn a_requirement_without_a_file_fails_the_dependent() {
    let mut story = Story::new([unit("web", &["db"])]);
    assert_eq!(story.effects(start("web")), ["web Release"]);
    assert_eq!(story.state("web"), "failed dependency failed: db");
}

#[test]
fn a_stop_takes_dependents_down_first() {
    let mut story =
        Story::new([unit("web", &["db"]), unit("db", &[]), unit("x", &[])]).up(&["db", "web", "x"]);
    assert_eq!(story.effects(stop("db")), ["web Terminate(1)"]);
    assert_eq!(story.ended("web", ExitKind::Code(0)), ["web Teardown(1)", "web Release", "db Terminate(1)"]);
    story.ended("db", ExitKind::Code(0));
    assert_eq!(story.state("db"), "stopped stopped by user");
    assert_eq!(story.state("web"), "stopped stopped together with db");
    assert_eq!(story.state("x"), "active");
}

#[test]
fn a_start_calls_off_a_stop_that_nobody_was_told_of() {
    let mut story = Story::new([unit("web", &["db"]), unit("db", &[])]).up(&["db", "web"]);
    story.apply(stop("db"));
    assert!(!story.fleet.entries[&name("db")].is_settled());
    assert_eq!(story.effects(start("db")), [""; 0]);
    assert_eq!(story.ended("web", ExitKind::Code(0)), ["web Teardown(1)", "web Release"]);
    assert_eq!(story.state("db"), "active");
}

#[test]
fn a_crash_leaves_dependents_alone_and_launches_wait_for_it() {
    let mut story = Story::new([unit("web", &["db"]), unit("db", &[])]).up(&["db", "web"]);
    assert_eq!(story.ended("db", CRASH), ["db Teardown(1)"]);
    assert_eq!(story.state("web"), "active");
    assert_eq!(story.ended("web", CRASH), ["web Teardown(1)"]);
    story.now = story.fleet.deadline().unwrap();
    assert_eq!(story.effects(Input::Tick), ["db Launch(2)"]);
    assert_eq!(story.state("web"), "waiting");
    assert_eq!(story.started("db"), ["web Launch(2)"]);
}

#[test]
fn a_restart_takes_dependents_along_in_order() {
    let mut story = Story::new([unit("web", &["db"]), unit("db", &[])]).up(&["db", "web"]);
    assert_eq!(story.effects(Input::Restart(names(&["db"]))), ["web Terminate(1)"]);
    assert_eq!(story.ended("web", ExitKind::Code(0)), ["web Teardown(1)", "db Terminate(1)"]);
    assert_eq!(story.ended("db", ExitKind::Code(0)), ["db Teardown(1)", "db Launch(2)"]);
    assert_eq!(story.started("db"), ["web Launch(2)"]);
}

#[test]
fn a_restart_of_a_stopped_service_starts_it() {
    let mut story = Story::new([unit("web", &["db"]), unit("db", &[])]);
    assert_eq!(story.effects(Input::Restart(names(&["web"]))), ["db Launch(1)"]);
}

#[test]
fn shutdown_goes_in_reverse_order_and_the_second_one_kills_all() {
    let web = Unit { after: vec![after("cache")], ..unit("web", &["db"]) };
    let mut story = Story::new([web, unit("db", &[]), unit("cache", &[]), unit("z", &["db"])])
        .up(&["cache", "db", "web", "z"]);
    let mut first = story.effects(Input::Shutdown);
    first.sort();
    assert_eq!(first, ["web Terminate(1)", "z Terminate(1)"]);
    assert_eq!(
        story.ended("web", ExitKind::Code(0)),
        ["web Teardown(1)", "web Release", "cache Terminate(1)"]
    );
    let mut second = story.effects(Input::Shutdown);
    second.sort();
    assert_eq!(second, ["cache KillTree(1)", "db KillTree(1)", "z KillTree(1)"]);
    for text in ["cache", "db", "z"] {
        story.ended(text, ExitKind::Signal(9));
    }
    assert!(story.fleet.is_resting());
    assert_eq!(story.effects(start("web")), [""; 0]);
}

#[test]
fn boot_starts_what_is_enabled_and_was_not_stopped_by_anybody() {
    let off = Unit { enabled: false, ..unit("off", &[]) };
    let all = || [unit("a", &[]), unit("b", &[]), off.clone()].map(|unit| (unit.name.clone(), unit));
    let mut fleet = Fleet::new(1);
    let launched = |out: Outcome| {
        let launch =
            |effect: &Effect| matches!(effect.action, Action::Launch(_)).then(|| effect.name.clone());
        out.effects.iter().filter_map(launch).collect::<Vec<_>>()
    };
    assert_eq!(launched(fleet.apply(Input::Reload(all().into()), Mono(1))), names(&["a", "b"]));
    for text in ["a", "b"] {
        fleet.apply(Input::Report(name(text), Report::Started(RunId(1))), Mono(2));
    }
    fleet.apply(Input::Stop(names(&["a"])), Mono(3));
    fleet.apply(Input::Report(name("a"), Report::Gone(RunId(1))), Mono(4));
    fleet.apply(Input::Shutdown, Mono(5));
    fleet.apply(Input::Report(name("b"), Report::Gone(RunId(1))), Mono(6));
    let mut next = Fleet::restore(1, fleet.entries().values().cloned());
    assert_eq!(launched(next.apply(Input::Boot, Mono(7))), names(&["b"]));
    assert_eq!(launched(next.apply(Input::Boot, Mono(8))), [], "boot twice is boot once");
}

#[test]
fn a_reload_applies_the_difference_and_says_which_key_it_was() {
    let mut story =
        Story::new([unit("a", &[]), unit("b", &[]), unit("c", &[]), unit("d", &[])]).up(&["a", "b", "c"]);
    let mut live = Unit { enabled: false, ..unit("a", &[]) };
    live.service.stop.timeout = None;
    live.restart.mode = RestartMode::InPlace;
    let mut other = Unit { enabled: false, ..unit("b", &[]) };
    other.rootfs.hide = vec!["/srv".into()];
    let out = story.apply(files([live, other, unit("e", &[])]));
    let actions: Vec<_> = out.effects.iter().map(|effect| (effect.name.as_str(), effect.action)).collect();
    let terminate = Action::Terminate(RunId(1));
    let mut sorted = actions.clone();
    sorted.sort_by_key(|(name, _)| *name);
    assert_eq!(sorted, [("b", terminate), ("c", terminate), ("e", Action::Launch(RunId(1)))]);
    let said = |text: &str| {
        let news = out.notices.iter().find(|notice| notice.name == name(text)).map(|notice| &notice.news);
        news.cloned().unwrap()
    };
    let keys = vec!["restart", "service.stop"];
    assert_eq!(said("a"), News::Changed(Diff { change: Change::Live, keys }));
    let keys = vec!["rootfs.hide"];
    assert_eq!(said("b"), News::Changed(Diff { change: Change::Restart, keys }));
    assert_eq!(said("d"), News::Removed);
    assert_eq!(said("e"), News::Added);
    assert_eq!(story.ended("b", ExitKind::Code(0)), ["b Teardown(1)", "b Launch(2)"]);
    assert_eq!(story.ended("c", ExitKind::Code(0)), ["c Teardown(1)", "c Release"]);
    assert_eq!(story.fleet.entry(&name("c")), None);
}

#[test]
fn the_same_files_again_change_nothing() {
    let all = || [unit("web", &["db"]), unit("db", &[])];
    let mut story = Story::new(all()).up(&["db", "web"]);
    let same = all().map(|unit| Unit { enabled: false, ..unit });
    assert_eq!(story.apply(files(same)), Outcome::default());
}

#[test]
fn another_network_is_made_anew() {
    let mut story = Story::new([unit("web", &[])]).up(&["web"]);
    let mut bare = unit("web", &[]);
    bare.network.mode = NetworkMode::None;
    story.apply(files([bare]));
    assert_eq!(story.ended("web", ExitKind::Code(0)), ["web Teardown(1)", "web Release", "web Launch(2)"]);
}

#[test]
fn a_file_that_comes_back_before_its_service_is_gone_is_kept() {
    let mut story = Story::new([unit("web", &[])]).up(&["web"]);
    story.apply(files([]));
    story.apply(files([unit("web", &[])]));
    assert_eq!(story.ended("web", ExitKind::Code(0)), ["web Teardown(1)", "web Release", "web Launch(2)"]);
}

#[test]
fn a_mended_file_gives_a_failed_service_another_chance() {
    let mut story = Story::new([unit("web", &[])]);
    story.apply(start("web"));
    story.report("web", Report::LaunchFailed(RunId(1), Retry::Never, "no such program".to_owned()));
    story.report("web", Report::Gone(RunId(1)));
    let mut mended = Unit { enabled: false, ..unit("web", &[]) };
    mended.service.command = vec!["/bin/cat".to_owned()];
    assert_eq!(story.effects(files([mended])), ["web Launch(2)"]);
}

#[test]
fn a_cycle_keeps_nobody_waiting_for_ever() {
    let mut story = Story::new([unit("a", &["b"]), unit("b", &["a"]), unit("me", &["me"])]);
    let mut launched = story.effects(Input::Start(names(&["a", "me"])));
    launched.extend(story.started("a"));
    launched.extend(story.started("b"));
    launched.sort();
    assert_eq!(launched, ["a Launch(1)", "b Launch(1)", "me Launch(1)"]);
    story.apply(Input::Shutdown);
    for text in ["b", "a", "me"] {
        story.ended(text, ExitKind::Code(0));
    }
    assert!(story.fleet.is_resting());
}

#[test]
fn the_history_keeps_the_last_sixteen_runs() {
    let mut story = Story::new([unit("web", &[])]);
    story.apply(start("web"));
    for round in 0..20 {
        story.started("web");
        let killed = story.run("web");
        match round % 2 {
            0 => story.ended("web", CRASH),
            _ => story.report("web", Report::Gone(killed)),
        };
        story.now = story.fleet.deadline().unwrap();
        story.apply(Input::Tick);
    }
    let history = &story.fleet.entries[&name("web")].history;
    assert_eq!(history.len(), HISTORY);
    assert_eq!(history[15].run, RunId(20));
    assert_eq!([history[14].end, history[15].end], [End::Exit(CRASH), End::Exit(ExitKind::Unknown)]);
}

#[test]
fn notices_tell_the_story_of_a_crash_loop_with_the_time_of_the_next_run() {
    let mut story = Story::new([unit("web", &[])]).up(&["web"]);
    story.now = Mono(3_000);
    let exited = story.apply(Input::Report(name("web"), Report::Exited(RunId(1), ExitKind::Code(3))));
    let gone = story.apply(Input::Report(name("web"), Report::Gone(RunId(1))));
    story.now = Mono(4_000);
    let again = story.apply(Input::Tick);
    let lines: Vec<String> = [exited, gone, again]
        .iter()
        .flat_map(|out| &out.notices)
        .map(|notice| serde_json::to_string(notice).unwrap())
        .collect();
    let expected = [
        r#"{"name":"web","at":3000,"event":"ended","run":1,"started":1000,"ended":3000,"end":{"exit":{"code":3}}}"#,
        r#"{"name":"web","at":3000,"event":"state","from":"active","to":"stopping","reason":"exit status 3","run":1}"#,
        r#"{"name":"web","at":3000,"event":"state","from":"stopping","to":"backoff","reason":"exit status 3","run":1,"until":4000,"failures":1}"#,
        r#"{"name":"web","at":4000,"event":"state","from":"backoff","to":"starting","reason":"","run":2}"#,
    ];
    assert_eq!(lines, expected);
}

#[test]
fn who_waits_is_told_for_whom_and_who_is_killed_is_told_so() {
    let mut story = Story::new([unit("web", &["db"]), unit("db", &[])]);
    let out = story.apply(start("web"));
    let waiting = out.notices.iter().find(|notice| notice.name == name("web")).map(|notice| &notice.news);
    assert!(matches!(waiting, Some(News::State { to: "waiting", reason, .. }) if reason == "db"));
    story.started("db");
    story.apply(stop("db"));
    story.report("web", Report::Gone(RunId(1)));
    story.now = story.fleet.deadline().unwrap();
    let out = story.apply(Input::Tick);
    assert_eq!(out.notices[0].news, News::Killed { run: RunId(1) });
}

#[test]
fn without_timers_there_is_no_deadline() {
    let mut story = Story::new([unit("web", &[])]);
    assert_eq!(story.fleet.deadline(), None);
    story.apply(start("web"));
    assert_eq!(story.fleet.deadline(), Some(story.now.after(Duration::from_secs(90))));
    story.started("web");
    assert_eq!(story.fleet.deadline(), None);
}

#[test]
fn a_checked_service_is_healthy_unhealthy_and_started_again() {
    let check = HealthCheck {
        test: Test::Tcp(([127, 0, 0, 1], 80).into()),
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        retries: 2,
        start_period: Duration::ZERO,
        start_interval: Duration::from_secs(1),
        on_fail: OnFail::Restart,
    };
    let mut fleet = Story::new([Unit { health: Some(check), ..unit("web", &[]) }]).up(&["web"]);
    let run = fleet.run("web");
    let told = |fleet: &mut Story, of, ok| {
        let answer = Answer { ok, text: "so".to_owned() };
        let out = fleet.apply(Input::Report(name("web"), Report::Checked(of, answer)));
        let news = |notice: &Notice| {
            let News::Health { state, .. } = &notice.news else { return None };
            Some(state.as_str())
        };
        (out.notices.iter().find_map(news), out.touched.len(), out.effects.len())
    };
    assert_eq!(told(&mut fleet, run, true), (Some("healthy"), 1, 0));
    assert_eq!(told(&mut fleet, run, true), (None, 0, 0), "nothing new is nothing to write down");
    assert_eq!(told(&mut fleet, RunId(run.0 + 1), false), (None, 0, 0), "of another run");
    assert_eq!(told(&mut fleet, run, false), (None, 1, 0));
    assert_eq!(told(&mut fleet, run, false), (Some("unhealthy"), 1, 1));
    assert!(fleet.state("web").starts_with("stopping"), "{}", fleet.state("web"));
    assert_eq!(told(&mut fleet, run, true), (None, 0, 0), "too late");
    let entry = fleet.fleet.entry(&name("web")).unwrap();
    assert_eq!(entry.health(), None, "of the run that is up");
}

#[test]
fn a_daemon_waits_for_readiness_for_as_long_as_its_file_does() {
    let with = |ready| {
        let service = Service { ready, ..unit("web", &[]).service };
        Unit { service, enabled: false, ..unit("web", &[]) }
    };
    let late = || with(Some(Ready::File("/tmp/ready".into())));
    let mut story = Story::new([late(), unit("user", &["web"])]).up(&["web"]);
    story.apply(start("user"));
    assert_eq!((story.state("web"), story.state("user")), ("starting".to_owned(), "waiting".to_owned()));
    let run = story.run("web");
    assert_eq!(story.report("web", Report::Ready(run)), ["user Launch(1)"]);
    assert_eq!(story.state("web"), "active");
    let mut story = Story::new([late()]).up(&["web"]);
    story.apply(files([with(None)]));
    assert_eq!(story.state("web"), "active", "nobody is left who would say so");
}
