use std::time::Duration;

use super::sample::{after, name, unit};
use super::*;
use crate::{
    machine::RestartMode,
    spec::{After, Dns, HealthCheck, Namespace, NetworkMode, OnFail, Ready, Service, Test},
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
fn who_joined_a_network_stays_until_that_is_gone() {
    let mut side = unit("side", &[]);
    side.network.mode = NetworkMode::Join(name("main"));
    let all = [side, unit("main", &[])];
    let mut story = Story::new(all.clone());
    assert_eq!(story.effects(start("side")), ["main Launch(1)"]);
    assert_eq!(story.started("main"), ["side Launch(1)"]);
    story.started("side");
    // The next run of its owner has the same.
    assert_eq!(story.ended("main", CRASH), ["main Teardown(1)"]);
    story.now = Mono(60_000);
    assert_eq!(story.effects(Input::Tick), ["main Launch(2)"]);
    assert_eq!(story.started("main"), [""; 0]);
    // With another file it has another network.
    let [side, mut main] = all;
    main.network.mtu = Some(9000);
    let units = [side, main].map(|unit| (unit.name.clone(), unit)).into();
    assert_eq!(story.effects(Input::Reload(units)), ["main Terminate(2)"]);
    let effects = story.ended("main", ExitKind::Signal(15));
    assert!(effects.contains(&"main Release".to_owned()), "{effects:?}");
    assert!(effects.contains(&"side Terminate(1)".to_owned()), "{effects:?}");
    assert_eq!(story.ended("side", ExitKind::Signal(15)), ["side Teardown(1)"]);
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
    let effects = ["web Teardown(1)", "web Release", "web Launch(2)"];
    assert_eq!(story.ended("web", ExitKind::Code(0)), effects, "it went down only because of db");
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
fn other_servers_need_no_restart_and_another_place_to_ask_does() {
    let with = |dns: Dns| {
        let mut unit = unit("a", &[]);
        unit.network.dns = dns;
        unit
    };
    let servers = Dns::Servers(vec![[192, 0, 2, 53].into()]);
    let change = |old: &Dns, new: &Dns| diff(&with(old.clone()), &with(new.clone())).change;
    assert_eq!(change(&Dns::Host, &servers), Change::Live);
    assert_eq!(change(&servers, &Dns::None), Change::Restart);
    assert_eq!(change(&Dns::None, &Dns::Host), Change::Restart);
    assert_eq!(change(&Dns::None, &Dns::None), Change::None);
    let hosts = |hosts: &[(&str, u8)], dns: &Dns| {
        let mut unit = with(dns.clone());
        let all = hosts.iter().map(|(name, last)| ((*name).to_owned(), [192, 0, 2, *last].into()));
        unit.network.hosts = all.collect();
        unit
    };
    for (old, new, dns, wanted) in [
        (&[("a", 1)][..], &[("a", 1)][..], Dns::None, Change::None),
        (&[("a", 1)], &[("a", 1), ("b", 2)], Dns::Host, Change::Live),
        (&[("a", 1)], &[("a", 1), ("b", 2)], Dns::None, Change::Restart),
        (&[("a", 1)], &[("a", 2)], Dns::Host, Change::Restart),
        (&[("a", 1)], &[], Dns::Host, Change::Restart),
    ] {
        let found = diff(&hosts(old, &dns), &hosts(new, &dns));
        assert_eq!(found.change, wanted, "{old:?} to {new:?} with {dns:?}");
    }
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
fn the_history_keeps_the_last_twenty_runs() {
    let mut story = Story::new([unit("web", &[])]);
    story.apply(start("web"));
    for round in 0..24 {
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
    assert_eq!(history[19].run, RunId(24));
    assert_eq!([history[18].end, history[19].end], [End::Exit(CRASH), End::Exit(ExitKind::Unknown)]);
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

fn check() -> HealthCheck {
    HealthCheck {
        test: Test::Tcp(([127, 0, 0, 1], 80).into()),
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        retries: 2,
        start_period: Duration::ZERO,
        start_interval: Duration::from_secs(1),
        on_fail: OnFail::Restart,
    }
}

#[test]
fn a_checked_service_is_healthy_unhealthy_and_started_again() {
    let mut fleet = Story::new([Unit { health: Some(check()), ..unit("web", &[]) }]).up(&["web"]);
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

/// Daemons by name, which `say` then changes.
fn daemons<const N: usize>(all: [&str; N], say: impl FnOnce(&mut [Unit; N])) -> Story {
    let mut units = all.map(|text| unit(text, &[]));
    say(&mut units);
    Story::new(units)
}

#[test]
fn what_is_wanted_comes_along_and_is_missed_by_nobody() {
    let mut story = daemons(["web", "cache"], |[web, _]| web.wants = names(&["cache", "nobody"]));
    let mut both = story.effects(start("web"));
    both.sort();
    assert_eq!(both, ["cache Launch(1)", "web Launch(1)"]);
    story.started("cache");
    story.started("web");
    story.apply(stop("cache"));
    story.ended("cache", ExitKind::Code(0));
    assert_eq!(story.state("web"), "active");
}

#[test]
fn what_is_bound_goes_down_with_a_crash_and_comes_back() {
    let mut story = daemons(["web", "db"], |[web, _]| web.binds_to = names(&["db"])).up(&["db", "web"]);
    let run = story.run("db");
    let effects = story.report("db", Report::Exited(run, CRASH));
    assert!(effects.contains(&"web Terminate(1)".to_owned()), "{effects:?}");
    story.report("db", Report::Gone(run));
    assert_eq!(story.ended("web", ExitKind::Code(0)), ["web Teardown(1)"]);
    assert_eq!(story.state("web"), "waiting");
    story.now = story.fleet.deadline().unwrap();
    assert_eq!(story.effects(Input::Tick), ["db Launch(2)"]);
    assert_eq!(story.started("db"), ["web Launch(2)"]);
}

#[test]
fn what_went_down_with_another_comes_back_with_it_unless_it_was_stopped_itself() {
    let mut story = daemons(["web", "app", "db", "x"], |[web, app, _, x]| {
        web.requires = names(&["app"]);
        app.binds_to = names(&["db"]);
        x.requires = names(&["db"]);
    })
    .up(&["db", "app", "web", "x"]);
    story.apply(stop("x"));
    story.ended("x", ExitKind::Code(0));
    story.apply(stop("db"));
    for text in ["web", "app", "db"] {
        story.ended(text, ExitKind::Code(0));
    }
    assert_eq!(story.state("web"), "stopped stopped together with app");
    assert_eq!(story.effects(start("db")), ["db Launch(2)"]);
    assert_eq!(story.started("db"), ["app Launch(2)"]);
    assert_eq!(story.started("app"), ["web Launch(2)"]);
    assert_eq!(story.state("x"), "stopped stopped by user");
}

#[test]
fn a_bound_service_rests_with_one_that_has_ended_well() {
    let mut story = daemons(["web", "db"], |[web, _]| web.binds_to = names(&["db"])).up(&["db", "web"]);
    story.ended("db", ExitKind::Code(0));
    story.ended("web", ExitKind::Code(0));
    assert_eq!(story.state("web"), "stopped stopped together with db");
    assert_eq!(story.effects(start("db")), ["db Launch(2)"]);
    assert_eq!(story.started("db"), ["web Launch(2)"]);
}

#[test]
fn a_part_is_stopped_and_restarted_with_the_whole_and_not_started() {
    let mut story =
        daemons(["part", "whole"], |[part, _]| part.part_of = names(&["whole"])).up(&["whole", "part"]);
    let mut both = story.effects(Input::Restart(names(&["whole"])));
    both.sort();
    assert_eq!(both, ["part Terminate(1)", "whole Terminate(1)"]);
    assert!(story.ended("part", ExitKind::Code(0)).contains(&"part Launch(2)".to_owned()));
    assert!(story.ended("whole", ExitKind::Code(0)).contains(&"whole Launch(2)".to_owned()));
    story.started("part");
    story.started("whole");
    story.apply(stop("whole"));
    story.ended("part", ExitKind::Code(0));
    story.ended("whole", ExitKind::Code(0));
    assert_eq!(story.state("part"), "stopped stopped as a part of whole");
    assert_eq!(story.effects(start("whole")), ["whole Launch(3)"]);
    assert_eq!(story.state("part"), "stopped stopped as a part of whole");
}

#[test]
fn what_is_upheld_is_started_again_however_it_went_down_and_ever_more_slowly() {
    let mut story = daemons(["lord", "vassal"], |[lord, vassal]| {
        lord.upholds = names(&["vassal"]);
        vassal.restart.on = crate::machine::RestartOn::Never;
    });
    let mut both = story.effects(start("lord"));
    both.sort();
    assert_eq!(both, ["lord Launch(1)", "vassal Launch(1)"]);
    story.started("lord");
    for (round, delay) in [1_000, 2_000, 4_000].into_iter().enumerate() {
        story.started("vassal");
        match round {
            1 => {
                story.apply(stop("vassal"));
                story.ended("vassal", ExitKind::Code(0));
            }
            _ => drop(story.ended("vassal", CRASH)),
        }
        assert_eq!(story.fleet.deadline(), Some(Mono(story.now.0 + delay)));
        story.now.0 += delay;
        assert_eq!(story.effects(Input::Tick), [format!("vassal Launch({})", round + 2)]);
    }
    story.apply(stop("lord"));
    story.started("vassal");
    story.ended("lord", ExitKind::Code(0));
    story.ended("vassal", CRASH);
    assert_eq!(story.fleet.deadline(), None);
}

#[test]
fn of_two_that_conflict_the_one_that_is_started_stays() {
    let mut story = daemons(["a", "b", "c"], |[a, _, c]| {
        a.conflicts = names(&["b"]);
        c.requires = names(&["b"]);
    })
    .up(&["b", "c"]);
    assert_eq!(story.effects(start("a")), ["c Terminate(1)"]);
    assert_eq!(story.fleet.waits_for(&name("a")), names(&["b"]));
    story.ended("c", ExitKind::Code(0));
    let effects = story.ended("b", ExitKind::Code(0));
    assert!(effects.contains(&"a Launch(1)".to_owned()), "{effects:?}");
    assert_eq!(story.state("b"), "stopped stopped in favour of a");
    story.started("a");
    assert_eq!(story.effects(start("b")), ["a Terminate(1)"]);
    let effects = story.ended("a", ExitKind::Code(0));
    assert!(effects.contains(&"b Launch(2)".to_owned()), "{effects:?}");
    assert_eq!(story.started("b"), ["c Launch(2)"], "it went down only because of b");
}

#[test]
fn of_two_that_conflict_and_are_asked_for_at_once_the_one_that_says_so_stays() {
    let mut story = daemons(["a", "b"], |[_, b]| b.conflicts = names(&["a"]));
    let effects = story.effects(Input::Start(names(&["a", "b"])));
    assert_eq!(effects, ["a Release", "b Launch(1)"]);
    assert_eq!(story.state("a"), "stopped stopped in favour of b");
    // The files say so of two that run.
    let mut story = daemons(["a", "b"], |_| ()).up(&["a", "b"]);
    let a = Unit { conflicts: names(&["b"]), ..unit("a", &[]) };
    let b = Unit { conflicts: names(&["a"]), ..unit("b", &[]) };
    assert_eq!(story.effects(files([a, b])), ["b Terminate(1)"]);
}

#[test]
fn whoever_is_bound_to_one_that_a_conflict_takes_down_goes_first() {
    // The files bring two conflicts at once, and one of the losers has another command as well.
    let mut story = daemons(["a", "b", "c", "d"], |_| ()).up(&["b", "c", "d"]);
    let a = Unit { conflicts: names(&["b", "d"]), ..unit("a", &[]) };
    let c = Unit { binds_to: names(&["d"]), ..unit("c", &[]) };
    let mut d = unit("d", &[]);
    d.service.command = vec!["/bin/other".into()];
    assert_eq!(story.effects(files([a, unit("b", &[]), c, d])), ["c Terminate(1)", "b Terminate(1)"]);
    let effects = story.ended("c", ExitKind::Code(0));
    assert!(effects.contains(&"d Terminate(1)".to_owned()), "{effects:?}");
}

#[test]
fn before_is_after_from_the_other_side() {
    let mut story = daemons(["web", "db"], |[_, db]| db.before = vec![after("web")]);
    assert_eq!(story.effects(Input::Start(names(&["web", "db"]))), ["db Launch(1)"]);
    assert_eq!(story.started("db"), ["web Launch(1)"]);
    story.started("web");
    assert_eq!(story.effects(Input::Stop(names(&["web", "db"]))), ["web Terminate(1)"]);
}

#[test]
fn order_waits_for_health_where_it_says_so() {
    let mut story = daemons(["web", "db"], |[web, db]| {
        db.health = Some(check());
        web.requires = names(&["db"]);
        web.after = vec![After { name: name("db"), milestone: Milestone::Healthy }];
    });
    story.apply(start("web"));
    assert_eq!(story.started("db"), [""; 0]);
    assert_eq!(story.fleet.waits_for(&name("web")), names(&["db"]));
    let checked = |run| Report::Checked(RunId(run), Answer { ok: true, text: String::new() });
    assert_eq!(story.report("db", checked(7)), [""; 0], "another run's");
    assert_eq!(story.report("db", checked(1)), ["web Launch(1)"]);
}

#[test]
fn an_end_calls_those_that_it_names() {
    let mut story = daemons(["job", "alert", "next"], |[job, ..]| {
        job.restart.on = crate::machine::RestartOn::Never;
        job.on_failure = names(&["alert"]);
        job.on_success = names(&["next"]);
    });
    story = story.up(&["job"]);
    assert_eq!(story.ended("job", CRASH), ["job Teardown(1)", "job Release", "alert Launch(1)"]);
    story = story.up(&["job"]);
    assert_eq!(story.ended("job", ExitKind::Code(0)), ["job Teardown(2)", "job Release", "next Launch(1)"]);
    story = story.up(&["job"]);
    story.ended("alert", ExitKind::Code(0));
    story.apply(stop("job"));
    assert_eq!(story.ended("job", CRASH), ["job Teardown(3)", "job Release"], "that was asked for");
}

#[test]
fn two_that_call_each_other_in_vain_come_to_an_end() {
    let mut story = daemons(["a", "b"], |[a, b]| {
        (a.requires, b.requires) = (names(&["nobody"]), names(&["nobody"]));
        (a.on_failure, b.on_failure) = (names(&["b"]), names(&["a"]));
    });
    story.apply(start("a"));
    assert_eq!(story.state("a"), "failed dependency failed: nobody");
    assert_eq!(story.state("b"), "failed dependency failed: nobody");
}

#[test]
fn no_more_are_started_at_a_time_than_may_be() {
    let mut story = daemons(["a", "b", "c", "job"], |[_, _, _, job]| job.service.kind = Kind::Oneshot);
    story.fleet.set_parallel_starts(Some(2));
    assert_eq!(story.effects(Input::Start(names(&["a", "b", "c", "job"]))), ["a Launch(1)", "b Launch(1)"]);
    assert_eq!(story.fleet.waits_for(&name("c")), names(&["a", "b"]));
    assert_eq!(story.started("a"), ["c Launch(1)"]);
    assert_eq!(story.started("c"), ["job Launch(1)"]);
    assert_eq!(story.started("job"), [""; 0]);
    assert_eq!(story.effects(Input::Restart(names(&["a"]))), ["a Terminate(1)"]);
    assert!(
        story.ended("a", ExitKind::Code(0)).contains(&"a Launch(2)".to_owned()),
        "a oneshot at work counts not"
    );
}

/// What the proxy needs to know is made anew; only what a run is shown from its start needs another run.
#[test]
fn another_host_restarts_nobody() {
    use crate::spec::{Format, Host, Http, Ingress, Tls, WebPath};
    let http = |host: &str| Http {
        hosts: vec![Host::new(host).expect("a host")],
        port: 80,
        path: WebPath::new("/").expect("a path"),
    };
    let with = |http: Option<Http>, ingress: Option<Ingress>| {
        let mut unit = unit("web", &[]);
        (unit.http, unit.ingress) = (http, ingress);
        unit
    };
    let of = |old: &Unit, new: &Unit| {
        let diff = diff(old, new);
        (diff.change, diff.keys)
    };
    let ingress = |format| Some(Ingress { format, tls: Tls::Off });
    let plain = with(None, None);
    let asked = with(Some(http("a.example")), None);
    assert_eq!(of(&plain, &asked), (Change::Live, vec!["http"]));
    assert_eq!(of(&asked, &with(Some(http("b.example")), None)), (Change::Live, vec!["http"]));
    let nginx = with(None, ingress(Format::Nginx));
    assert_eq!(of(&plain, &nginx), (Change::Restart, vec!["ingress"]));
    assert_eq!(of(&nginx, &with(None, ingress(Format::Caddy))), (Change::Live, vec!["ingress"]));
}
