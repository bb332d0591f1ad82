//! The laws of timers against a world with its own account of which moments have had their start.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    calendar::{parse_calendar, parse_cron},
    machine::{
        Action, ExitKind, RunId, State,
        fleet::{
            Entry, Fleet, Input, News, Outcome, Report, Taken,
            sample::{name, unit},
        },
    },
    spec::{Kind, Overlap, Unit},
};

const SECOND: i64 = 1_000_000;
/// The calendars of the world: every quarter of an hour.
const STEP: i64 = 900 * SECOND;
/// 2026-11-28 12:00:00 UTC.
const NOON: i64 = 1_795_867_200 * SECOND;

fn timer() -> Timer {
    Timer {
        calendars: Vec::new(),
        timezone: None,
        every: None,
        after_boot: None,
        after_end: None,
        jitter: Duration::ZERO,
        persistent: false,
        overlap: Overlap::Skip,
    }
}

fn calendar(text: &str) -> Timer {
    Timer { calendars: vec![parse_calendar(text).unwrap()], ..timer() }
}

fn job(timer: Timer) -> Unit {
    let mut unit = Unit { timer: Some(timer), ..unit("job", &[]) };
    (unit.service.kind, unit.service.start_timeout) = (Kind::Oneshot, None);
    unit
}

/// A host with one supervisor and one service, whose runs end at once unless they are held.
struct World {
    unit: Unit,
    fleet: Fleet,
    real: i64,
    boot: i64,
    mono: u64,
    stamp: Option<Stamp>,
    holds: bool,
    launches: usize,
    taken: Vec<Taken>,
}

impl World {
    fn new(timer: Timer) -> Self {
        let mut world = Self {
            unit: job(timer),
            fleet: Fleet::new(7),
            real: NOON,
            boot: 0,
            mono: 0,
            stamp: None,
            holds: false,
            launches: 0,
            taken: Vec::new(),
        };
        world.come_up();
        world
    }

    fn come_up(&mut self) {
        self.apply(Input::Reload([(name("job"), self.unit.clone())].into()));
        self.apply(Input::Boot);
        self.look();
    }

    fn apply(&mut self, input: Input) -> Outcome {
        let out = self.fleet.apply(input, Mono(self.mono));
        for notice in &out.notices {
            if let News::Elapsed { taken } = notice.news {
                self.taken.push(taken);
            }
        }
        for effect in &out.effects {
            if let Action::Launch(run) = effect.action {
                self.launches += 1;
                self.report(Report::Started(run));
                if !self.holds {
                    self.end(run);
                }
            }
            if let Action::Terminate(run) = effect.action {
                self.end(run);
            }
        }
        let progress = self.entry().timer.as_ref();
        self.stamp = progress
            .and_then(|progress| progress.stamp(Real(self.real), Mono(self.mono)))
            .or(self.stamp.take());
        out
    }

    fn entry(&self) -> &Entry {
        self.fleet.entry(&name("job")).unwrap()
    }

    fn report(&mut self, report: Report) {
        self.apply(Input::Report(name("job"), report));
    }

    fn end(&mut self, run: RunId) {
        self.report(Report::Exited(run, ExitKind::Code(0)));
        self.report(Report::Gone(run));
    }

    fn look(&mut self) {
        let clocks = Clocks { real: Real(self.real), boot: self.boot };
        let stamps =
            self.fleet.without_stamp().into_iter().filter_map(|name| Some((name, self.stamp.clone()?)));
        let stamps = stamps.collect();
        self.apply(Input::Clock(clocks, stamps));
        assert!(!self.fleet.wants_clock());
    }

    fn pass(&mut self, span: i64) {
        self.real += span;
        self.boot += span;
        self.mono += u64::try_from(span / 1000).unwrap();
    }

    /// Time passes, and the supervisor wakes whenever something is due.
    fn run(&mut self, span: i64) {
        let end = self.real + span;
        loop {
            let moment = self.fleet.next_moment().map(|at| at.0);
            let due = self.fleet.deadline().map(|at| {
                self.real + (i64::try_from(at.0).unwrap() - i64::try_from(self.mono).unwrap()).max(0) * 1000
            });
            let Some(next) = moment.into_iter().chain(due).min().filter(|next| *next <= end) else { break };
            self.pass(next - self.real);
            self.apply(Input::Tick);
            if moment.is_some_and(|moment| moment <= self.real) {
                self.look();
            }
        }
        self.pass(end - self.real);
    }

    fn sleep(&mut self, span: i64) {
        (self.real, self.boot) = (self.real + span, self.boot + span);
        self.look();
    }

    fn set(&mut self, by: i64) {
        self.real += by;
        self.look();
    }

    /// The supervisor is killed, and the next one comes after a while, in which the clock may be set.
    fn take_over(&mut self, span: i64, by: i64) {
        let entries: Vec<Entry> = self.fleet.entries().values().cloned().collect();
        let text = serde_json::to_string(&entries).unwrap();
        self.pass(span);
        self.real += by;
        self.fleet = Fleet::restore(7, serde_json::from_str::<Vec<Entry>>(&text).unwrap());
        self.come_up();
    }

    /// The host is down for a while; nobody knows how its clock ran.
    fn reboot(&mut self, span: i64) {
        (self.real, self.boot, self.mono) = (self.real + span, 0, 0);
        let text = serde_json::to_string(&self.stamp).unwrap();
        self.stamp = serde_json::from_str(&text).unwrap();
        self.fleet = Fleet::new(7);
        self.come_up();
    }

    /// How often it was started since the last question.
    fn started(&mut self) -> usize {
        std::mem::take(&mut self.launches)
    }
}

const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

#[test]
fn a_calendar_starts_the_service_at_its_moments_and_not_before() {
    let mut world = World::new(calendar("13:00"));
    assert_eq!((world.started(), world.fleet.next_moment()), (0, Some(Real(NOON + HOUR))));
    world.run(HOUR - 1);
    assert_eq!(world.started(), 0);
    world.run(1);
    assert_eq!((world.started(), world.fleet.next_moment()), (1, Some(Real(NOON + HOUR + DAY))));
    world.run(3 * DAY);
    assert_eq!(world.started(), 3);
}

#[test]
fn a_year_forward_and_back_starts_it_once_and_loses_nothing() {
    let mut world = World::new(calendar("hourly"));
    world.run(10 * MINUTE);
    world.set(YEAR);
    assert_eq!(world.started(), 1, "made up for once");
    world.run(HOUR);
    assert_eq!(world.started(), 1);
    world.set(-YEAR);
    assert_eq!(world.started(), 0);
    world.run(3 * HOUR);
    assert_eq!(world.started(), 3, "the true hours have their starts");
    world.run(YEAR - 4 * HOUR);
    let hours = world.started();
    // The two hours that had theirs when the clock was ahead have no other.
    world.run(5 * HOUR);
    assert_eq!((hours, world.started()), (365 * 24 - 4 - 1, 5 - 1));
}

#[test]
fn what_comes_again_when_the_clock_is_set_back_is_not_started_again() {
    let mut world = World::new(calendar("hourly"));
    world.run(3 * HOUR + MINUTE);
    assert_eq!(world.started(), 3);
    world.set(-2 * HOUR);
    world.run(2 * HOUR);
    assert_eq!(world.started(), 0);
    world.run(HOUR);
    assert_eq!(world.started(), 1);
}

#[test]
fn a_suspend_is_made_up_for_once() {
    let mut world = World::new(calendar("*:0/15"));
    world.sleep(DAY);
    assert_eq!(world.started(), 1);
    world.set(-HOUR);
    world.run(HOUR);
    assert_eq!(world.started(), 0, "it slept through these");
    world.sleep(MINUTE);
    assert_eq!(world.started(), 0);
}

#[test]
fn a_successor_makes_up_for_what_came_between() {
    let mut world = World::new(calendar("hourly"));
    world.take_over(30 * MINUTE, 0);
    assert_eq!(world.started(), 0);
    world.take_over(5 * HOUR, 0);
    assert_eq!(world.started(), 1);
    world.run(HOUR);
    assert_eq!(world.started(), 1);
}

#[test]
fn only_a_persistent_timer_makes_up_for_a_downtime() {
    for persistent in [false, true] {
        let mut world = World::new(Timer { persistent, ..calendar("hourly") });
        world.run(HOUR);
        assert_eq!(world.started(), 1);
        world.reboot(30 * MINUTE);
        assert_eq!(world.started(), 0);
        world.reboot(5 * HOUR);
        assert_eq!(world.started(), usize::from(persistent));
    }
}

#[test]
fn a_host_that_boots_in_1970_waits_for_the_right_time() {
    let mut world = World::new(Timer { persistent: true, ..calendar("hourly") });
    world.run(HOUR + MINUTE);
    assert_eq!(world.started(), 1);
    let right = world.real;
    world.reboot(-right);
    world.run(MINUTE);
    assert_eq!(world.started(), 0);
    world.set(right);
    assert_eq!(world.started(), 0, "nothing was missed");
    world.set(2 * HOUR);
    assert_eq!(world.started(), 1);
}

#[test]
fn jitter_moves_every_moment_by_the_same() {
    let timer = Timer { jitter: Duration::from_secs(600), ..calendar("hourly") };
    let late = Late::of(&timer, 7, &name("job"));
    assert!(late.0 < Duration::from_secs(600) && late.0 > Duration::ZERO, "{late:?}");
    assert_ne!(late, Late::of(&timer, 8, &name("job")));
    assert_ne!(late, Late::of(&timer, 7, &name("other")));
    let mut world = World::new(timer);
    // It was noon when it came into force: a moment ago for others, a moment to come for this one.
    for hour in 0..4 {
        let expected = Real(NOON + hour * HOUR).after(late.micros());
        assert_eq!(world.fleet.next_moment(), Some(expected));
        world.run(HOUR);
    }
    world.take_over(0, 0);
    assert_eq!(world.fleet.next_moment(), Some(Real(NOON + 4 * HOUR).after(late.micros())));
}

#[test]
fn every_is_counted_from_the_last_start_whoever_wanted_it() {
    let mut world = World::new(Timer { every: Some(Duration::from_secs(3600)), ..timer() });
    world.run(HOUR - SECOND);
    assert_eq!(world.started(), 0);
    world.run(SECOND);
    assert_eq!(world.started(), 1);
    world.run(30 * MINUTE);
    world.apply(Input::Start(vec![name("job")]));
    assert_eq!(world.started(), 1);
    world.run(59 * MINUTE);
    assert_eq!(world.started(), 0);
    world.run(MINUTE);
    assert_eq!(world.started(), 1);
    // The clock on the wall is nothing to it, nor is a suspend.
    world.set(YEAR);
    world.sleep(5 * HOUR);
    assert_eq!(world.started(), 0);
    world.take_over(HOUR, 0);
    world.run(0);
    assert_eq!(world.started(), 1);
}

#[test]
fn a_persistent_every_goes_on_where_it_was() {
    let every = Some(Duration::from_secs(7 * 86_400));
    let mut world = World::new(Timer { every, persistent: true, ..timer() });
    world.apply(Input::Start(vec![name("job")]));
    world.run(5 * DAY);
    world.reboot(HOUR);
    world.run(DAY);
    world.reboot(HOUR);
    assert_eq!(world.started(), 1);
    world.run(21 * HOUR);
    assert_eq!(world.started(), 0);
    world.run(HOUR);
    assert_eq!(world.started(), 1, "a week after the last start");
    world.reboot(YEAR);
    world.run(0);
    assert_eq!(world.started(), 1);
}

#[test]
fn after_boot_comes_once_in_a_boot() {
    let mut world = World::new(Timer { after_boot: Some(Duration::from_secs(600)), ..timer() });
    world.run(10 * MINUTE);
    assert_eq!(world.started(), 1);
    world.run(DAY);
    world.take_over(MINUTE, 0);
    world.run(DAY);
    assert_eq!((world.started(), world.fleet.deadline()), (0, None));
    world.reboot(0);
    world.run(11 * MINUTE);
    assert_eq!(world.started(), 1);
}

#[test]
fn after_end_is_counted_from_the_end_of_a_run() {
    let mut world = World::new(Timer { after_end: Some(Duration::from_secs(60)), ..timer() });
    world.holds = true;
    world.run(MINUTE);
    assert_eq!(world.started(), 1);
    world.run(DAY);
    assert_eq!(world.started(), 0, "it still runs");
    world.end(RunId(1));
    world.run(59 * SECOND);
    assert_eq!(world.started(), 0);
    world.run(SECOND);
    assert_eq!(world.started(), 1);
}

#[test]
fn overlap_says_what_becomes_of_a_moment_while_it_runs() {
    for (overlap, taken, later) in [
        (Overlap::Skip, Taken::Skipped, 0),
        (Overlap::Queue, Taken::Queued, 1),
        (Overlap::Restart, Taken::Restarted, 0),
    ] {
        let mut world = World::new(Timer { overlap, ..calendar("hourly") });
        world.holds = true;
        world.run(HOUR);
        assert_eq!((world.started(), world.taken.last()), (1, Some(&Taken::Started)));
        world.run(3 * HOUR);
        let again = if overlap == Overlap::Restart { 3 } else { 0 };
        assert_eq!((world.started(), world.taken.last()), (again, Some(&taken)), "{overlap:?}");
        let State::Starting { run, .. } = world.entry().life.state else { panic!() };
        world.end(run);
        assert_eq!(world.started(), later, "{overlap:?}: once however many");
    }
}

#[test]
fn what_is_queued_survives_a_takeover_and_not_a_stop() {
    let mut world = World::new(Timer { overlap: Overlap::Queue, ..calendar("hourly") });
    world.holds = true;
    world.run(2 * HOUR);
    world.take_over(MINUTE, 0);
    assert!(world.entry().timer.as_ref().is_some_and(Progress::is_queued));
    world.end(RunId(1));
    assert_eq!(world.started(), 2);
    world.run(HOUR);
    world.apply(Input::Stop(vec![name("job")]));
    world.run(MINUTE);
    assert_eq!(world.started(), 0);
    world.run(HOUR);
    assert_eq!(world.started(), 1, "the timer goes on");
}

#[test]
fn one_that_counts_as_active_when_done_is_run_again() {
    let mut world = World::new(calendar("hourly"));
    world.unit.service.remain_after_exit = true;
    world.reboot(0);
    world.run(2 * HOUR);
    assert_eq!(world.started(), 2);
}

#[test]
fn a_service_with_a_timer_is_not_started_at_boot_and_not_by_a_new_file() {
    let mut world = World::new(calendar("hourly"));
    assert_eq!(world.started(), 0);
    world.unit.enabled = false;
    world.apply(Input::Reload([(name("job"), world.unit.clone())].into()));
    assert_eq!((world.fleet.next_moment(), world.entry().timer.as_ref()), (None, None));
    world.run(DAY);
    assert_eq!(world.started(), 0, "not enabled: its timer is not in force");
    world.unit.enabled = true;
    world.apply(Input::Reload([(name("job"), world.unit.clone())].into()));
    world.look();
    assert_eq!(world.started(), 0);
    world.run(HOUR);
    assert_eq!(world.started(), 1);
    // Another timer says nothing about what was.
    world.unit.timer = Some(Timer { persistent: true, ..calendar("*:0/10") });
    world.apply(Input::Reload([(name("job"), world.unit.clone())].into()));
    world.look();
    assert_eq!(world.started(), 0);
    world.run(10 * MINUTE);
    assert_eq!(world.started(), 1);
}

#[test]
fn nothing_elapses_after_a_shutdown() {
    let mut world = World::new(Timer { every: Some(Duration::from_secs(60)), ..calendar("*:*") });
    world.apply(Input::Shutdown);
    assert_eq!((world.fleet.deadline(), world.fleet.next_moment()), (None, None));
    world.apply(Input::Clock(Clocks { real: Real(NOON + DAY), boot: DAY }, BTreeMap::new()));
    assert_eq!(world.started(), 0);
}

#[test]
fn several_occasions_count_each() {
    let mut calendars = parse_cron("0 0 13 * 5").unwrap();
    calendars.push(parse_calendar("Mon 12:00").unwrap());
    let mut world = World::new(Timer { calendars, ..timer() });
    world.run(31 * DAY);
    // Fridays 4, 11, 18, 25 December, Sunday 13 December, Mondays 30 November to 28 December.
    assert_eq!(world.started(), 4 + 1 + 5);
}

/// What can happen to a host with a clock.
#[derive(Clone, Debug)]
enum Happens {
    Run(i64),
    Sleep(i64),
    Set(i64),
    TakeOver(i64, i64),
    Reboot(i64),
}

fn spans(most: i64) -> impl Strategy<Value = i64> {
    // Often a whole number of steps, where the edges are.
    prop_oneof![
        (0..most / STEP).prop_map(|steps| steps * STEP),
        (0..most / SECOND).prop_map(|span| span * SECOND),
        0..most
    ]
}

fn jumps() -> impl Strategy<Value = i64> {
    let size = prop_oneof![spans(4 * HOUR), spans(3 * DAY), spans(YEAR)];
    // What is less nobody can tell from two reads at different times.
    (size, any::<bool>()).prop_map(|(size, back)| (size + SECOND) * if back { -1 } else { 1 })
}

fn stories() -> impl Strategy<Value = Vec<Happens>> {
    let one = prop_oneof![
        4 => spans(6 * HOUR).prop_map(Happens::Run),
        1 => spans(2 * DAY).prop_map(Happens::Sleep),
        2 => jumps().prop_map(Happens::Set),
        1 => (spans(2 * HOUR), prop_oneof![Just(0), jumps()]).prop_map(|(span, by)| Happens::TakeOver(span, by)),
        1 => prop_oneof![spans(2 * DAY), jumps()].prop_map(Happens::Reboot),
    ];
    // Each leaves one gap at most.
    proptest::collection::vec(one, 1..12)
}

/// Which moments have had their start, or been passed over for good.
struct Account {
    from: i64,
    done: BTreeSet<i64>,
}

impl Account {
    /// The moments of a time that are open.
    fn open(&self, after: i64, to: i64) -> Vec<i64> {
        let first = (after.max(self.from).div_euclid(STEP) + 1) * STEP;
        let all = (first..=to).step_by(usize::try_from(STEP).unwrap());
        all.filter(|moment| !self.done.contains(moment)).collect()
    }

    /// How many starts there are to be when the clock goes to `now` from `at`, and would be at `ran_to` unset.
    fn move_to(&mut self, at: i64, ran_to: i64, now: i64) -> usize {
        let mut open = self.open(at, if now >= ran_to { now } else { ran_to.min(now) });
        if open.is_empty() && now < ran_to {
            open = self.open(now - 1, now);
        }
        self.done.extend(self.open(at, ran_to.min(now)));
        self.done.extend(open.last());
        usize::from(!open.is_empty())
    }
}

fn hold(story: Vec<Happens>, jitter: Duration, persistent: bool) -> Result<(), TestCaseError> {
    let timer = Timer { jitter, persistent, ..calendar("*:0/15") };
    let late = Late::of(&timer, 7, &name("job")).micros();
    let mut world = World::new(timer);
    let mut account = Account { from: world.real - late, done: BTreeSet::new() };
    for happens in story {
        let at = world.real - late;
        let expected = match happens {
            Happens::Run(span) => {
                world.run(span);
                let open = account.open(at, at + span);
                account.done.extend(&open);
                open.len()
            }
            Happens::Sleep(span) => {
                world.sleep(span);
                account.move_to(at, at + span, at + span)
            }
            Happens::Set(by) => {
                world.set(by);
                account.move_to(at, at, at + by)
            }
            Happens::TakeOver(span, by) => {
                world.take_over(span, by);
                account.move_to(at, at + span, at + span + by)
            }
            Happens::Reboot(span) => {
                world.reboot(span);
                match persistent {
                    true => account.move_to(at, at, at + span),
                    false => {
                        account = Account { from: at + span, done: BTreeSet::new() };
                        0
                    }
                }
            }
        };
        prop_assert_eq!(
            world.started(),
            expected,
            "{:?} at {}",
            happens,
            Timestamp::from_microsecond(at).unwrap()
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_moment_starts_it_twice_and_none_is_lost(
        story in stories(),
        jitter in prop_oneof![Just(0_u64), 1..3600_u64],
        persistent in any::<bool>(),
    ) {
        hold(story, Duration::from_secs(jitter), persistent)?;
    }

    #[test]
    fn the_last_of_many_is_found(step in 1..59_u32, after in 0..YEAR, span in 0..YEAR) {
        let timer = calendar(&format!("*:{}:{}", step, 59 - step));
        let moments = Moments { timer: &timer, zones: &Zones::utc(), late: Late::NONE };
        let (after, to) = (Real(NOON + after), Real(NOON + after + span));
        match moments.last(after, to) {
            Some(last) => {
                prop_assert!(after < last && last <= to);
                prop_assert!(moments.next(last).unwrap() > to);
            }
            None => prop_assert!(moments.next(after).unwrap() > to),
        }
    }
}
