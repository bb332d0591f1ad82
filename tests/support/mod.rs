//! What the tests that need a real kernel share: a world of its own for every test, a leak guard and a probe.
//!
//! A suite is a list of functions handed to [`main`]. Each test runs in three processes:
//!
//! ```text
//! harness      libtest-mimic: names, filters, several tests at a time, one line each
//!  └ keeper    unshares mount, network and pid namespaces; whatever the test leaves behind, it removes
//!     └ test   PID 1 of the world: the test's own function, the supervisor below it, and the leak guard
//! ```
//!
//! The test being PID 1, every process that a supervisor forgets becomes its child and is seen, and when it ends,
//! however it ends, the kernel kills what is left. The same program is also the [`probe`] that services run.
#![allow(dead_code, reason = "each suite uses a part of it")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test and a probe report by printing")]

pub mod calls;
pub mod exported;
pub mod frames;
pub mod held;
pub mod home;
pub mod names;
pub mod need;
pub mod probe;
pub mod snapshot;
pub mod terminal;
pub mod voice;
pub mod world;

use std::{
    num::NonZero,
    panic::AssertUnwindSafe,
    process::{Command, ExitCode},
    sync::mpsc,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Trial};
pub use need::Need;
pub use world::World;

/// How long one test may take before it is ended and counts as failed.
const TEST_TIME: Duration = Duration::from_secs(300);
/// How long something may take that comes for certain. Nobody waits as long but for what has failed, however slow the machine.
pub const LONG: Duration = Duration::from_secs(60);

/// One test of a suite.
pub struct Test {
    /// The sentence that it proves.
    pub name: &'static str,
    /// What the machine must have for it.
    pub needs: &'static [Need],
    /// The test; it fails by panicking.
    pub run: fn(&mut World),
}

/// A list of [`Test`]s from function names: `tests![a_is_b: Root Nft; c_is_d: Root Program("nginx")]`.
#[macro_export]
macro_rules! tests {
    ($($run:path : $($need:ident $(($arg:expr))?)+);+ $(;)?) => {
        vec![$($crate::support::Test {
            name: stringify!($run),
            needs: &[$($crate::support::Need::$need $(($arg))?),+],
            run: $run,
        }),+]
    };
}

/// Runs a suite, or what the suite's own program was started as: keeper, test or probe.
pub fn main(tests: &[Test]) -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "__probe", ref rest @ ..] => probe::main(rest),
        [_, "__keep", name] => world::keep(name),
        [_, "__test", name, dir] => {
            let test = tests.iter().find(|t| t.name == name).expect("the harness knows the names");
            inside(test, dir)
        }
        _ => {
            let trials = tests.iter().map(trial).collect();
            let mut arguments = Arguments::from_args();
            // Half of a test is waiting for somebody: as many again find room beside it.
            let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
            arguments.test_threads.get_or_insert(2 * cpus);
            libtest_mimic::run(&arguments, trials).exit_code()
        }
    }
}

/// The harness's view of a test: ignored when a need is missing, else run by a keeper.
fn trial(test: &Test) -> Trial {
    let missing: Vec<String> = test.needs.iter().filter(|n| !n.is_met()).map(ToString::to_string).collect();
    let name = test.name;
    if missing.is_empty() {
        return Trial::test(name, move || outside(name));
    }
    let missing = format!("needs {}", missing.join(", "));
    // A test that did not run is never green where all of them are asked for.
    match need::all_required() {
        true => Trial::test(name, move || Err(missing.into())),
        false => Trial::test(name, || Ok(())).with_kind(missing).with_ignored_flag(true),
    }
}

/// Starts the keeper of one test and turns its end into a verdict.
fn outside(name: &str) -> Result<(), libtest_mimic::Failed> {
    let me = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    let output = Command::new(me).args(["__keep", name]).output().map_err(|e| format!("keeper: {e}"))?;
    let said = [output.stdout.clone(), output.stderr].concat();
    match output.status.success() {
        true => {
            // Figures, where it has any.
            print!("{}", String::from_utf8_lossy(&output.stdout));
            Ok(())
        }
        false => Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&said)).into()),
    }
}

/// The life of a test as PID 1 of its world.
fn inside(test: &Test, dir: &str) -> ExitCode {
    world::enter();
    let (ended, end) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if end.recv_timeout(scaled(TEST_TIME)) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!(
                "the test did not end within {:?}; alive:\n{}",
                scaled(TEST_TIME),
                snapshot::processes().join("\n")
            );
            std::process::abort();
        }
    });
    let mut world = World::new(dir.into());
    let before = snapshot::Snapshot::take(&world);
    let passed = std::panic::catch_unwind(AssertUnwindSafe(|| (test.run)(&mut world))).is_ok();
    let stopped = world.stop();
    let leaks = before.wait_until_again(&world);
    drop(ended);
    watch.join().expect("the watch does not panic");
    if let Err(trouble) = &stopped {
        eprintln!("supervisor: {trouble}");
    }
    for leak in &leaks {
        eprintln!("leak: {leak}");
    }
    match passed && stopped.is_ok() && leaks.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// A time-out made longer by `PALISADE_TEST_SCALE`, for machines that are emulated.
pub fn scaled(time: Duration) -> Duration {
    let scale = std::env::var("PALISADE_TEST_SCALE").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    time * scale
}

/// How often a test does something, or with how many: an emulated CPU takes long enough with fewer.
pub fn count(host: u16, guest: u16) -> u16 {
    if std::env::var_os("PALISADE_TEST_VM").is_some() { guest } else { host }
}

/// A time in a service file, scaled: of a test that looks at what happens when it is over, or before.
pub fn span(time: Duration) -> String {
    format!("{}ms", scaled(time).as_millis())
}

/// Asks `condition` again and again until it holds or `deadline` (scaled) has passed.
///
/// # Panics
/// When the deadline has passed: with `what` was waited for.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// As [`wait_until`], for a condition that also has a value.
///
/// # Panics
/// As [`wait_until`].
pub fn wait_for<T>(what: &str, deadline: Duration, mut value: impl FnMut() -> Option<T>) -> T {
    let deadline = scaled(deadline);
    let start = Instant::now();
    loop {
        let asked = Instant::now();
        if let Some(value) = value() {
            return value;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        // The pace of asking, not a guess of how long it takes. Where asking is slow, it leaves half of a CPU to whoever is
        // asked.
        std::thread::sleep(asked.elapsed().max(Duration::from_millis(10)));
    }
}
