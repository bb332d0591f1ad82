//! Supervisors that die at every moment of a launch, a stop, a reload and a takeover, over services that serve requests.
//!
//! The moments are those of the program itself: the steps of the victim's plan, as `palisade plan` tells them, and the
//! points that the supervisor has names for. `palisade supervise --die-at` kills at each of them.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use palisade::supervisor::POINTS;

use crate::support::{
    World, scaled,
    snapshot::{self, Snapshot},
    wait_until,
    world::{PROBE, http_get, wait_http},
};

const LIVE: u16 = 20;
const LONG: Duration = Duration::from_secs(30);

/// What makes a supervisor come to the moment at which it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Start,
    Stop,
    Restart,
    Reload,
    /// Its own beginning.
    Takeover,
    /// As `Takeover`, of a victim that has ended while nobody supervised.
    TakeoverOfDead,
}

/// One death.
#[derive(Clone, Debug)]
struct Moment {
    place: String,
    operation: Operation,
}

/// How the supervisor comes to a point of its own.
fn natural(point: &str) -> Operation {
    const STOP: [&str; 16] = [
        "record-stopping",
        "recorded-stopping",
        "before-terminate",
        "after-terminate",
        "before-kill-tree",
        "after-kill-tree",
        "init-ended",
        "init-told",
        "before-teardown",
        "torn-down",
        "after-teardown",
        "record-stopped",
        "recorded-stopped",
        "before-release",
        "released-keeper",
        "after-release",
    ];
    match point {
        "adopt-dead" => Operation::TakeoverOfDead,
        _ if point.starts_with("adopt-") || ["heard-kept", "heard-state"].contains(&point) => {
            Operation::Takeover
        }
        _ if point.starts_with("reload-") => Operation::Reload,
        _ if STOP.contains(&point) => Operation::Stop,
        _ => Operation::Start,
    }
}

/// The victim, with one of everything that takes a host step of its own, and deaf to what asks it to stop.
fn victim(world: &World, round: usize) -> String {
    format!(
        "service.command = [\"{PROBE}\", \"__probe\", \"http\", \"81\"]\nrootfs.mounts = [{}]\n\
         rootfs.hide = [\"/usr/share\"]\nrootfs.read_only = [\"/tmp\"]\nservice.oom_score_adj = 500\n\
         security.credentials = [{{ name = \"t\", command = \"/bin/true\" }}]\n\
         service.stop = {{ signal = \"WINCH\", timeout = \"20ms\" }}\nservice.env = {{ ROUND = \"{round}\" }}\n\
         restart.policy = \"always\"\nrestart.delay = \"10ms\"\n\
         network.publish = [\"8081:81\", \"8082:81/udp\"]\nnetwork.egress = \"any\"\n",
        world.probe_mount()
    )
}

/// Every step of one side of the victim's plan.
fn steps(world: &World, side: &str) -> Vec<Moment> {
    let plan = world.json(&["plan", "victim", "--services", &world.services_dir().display().to_string()]);
    let steps = plan["steps"].as_array().expect("a list").clone();
    let steps = steps.iter().filter(|step| step["side"] == side);
    let moments: Vec<Moment> = steps
        .map(|step| Moment {
            place: format!("victim:{side}:{}", step["number"]),
            operation: Operation::Start,
        })
        .collect();
    assert!(moments.len() > 20, "{plan}");
    moments
}

/// The points of the supervisor that are (or are not) come to by a launch.
fn points(of_launch: bool) -> Vec<Moment> {
    let moment = |point: &&str| {
        let operation = natural(point);
        // Whoever is taken over is one that runs for certain.
        let name = if operation == Operation::Takeover { "web7" } else { "victim" };
        Moment { place: format!("{name}:at:{point}"), operation }
    };
    POINTS.iter().map(moment).filter(|m| (m.operation == Operation::Start) == of_launch).collect()
}

/// Takes from both in turn until both have been taken from whole; the shorter one is gone through again.
fn interleave(a: &[Moment], b: &[Moment]) -> Vec<Moment> {
    let count = a.len().max(b.len());
    let (a, b) = (a.iter().cycle().take(count), b.iter().cycle().take(count));
    a.zip(b).flat_map(|(a, b)| [a.clone(), b.clone()]).collect()
}

/// As a number in the environment asks for.
fn asked(name: &str) -> Option<usize> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// Twenty services that answer, somebody who asks them all the time, and what is known of them.
struct Campaign {
    before: BTreeMap<String, (u32, String, u64)>,
    over: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    client: JoinHandle<Vec<String>>,
    round: usize,
    kills: usize,
    missed: Vec<String>,
}

/// Main process, address and run of every live service; none where nobody answers.
fn lives(world: &World) -> Option<BTreeMap<String, (u32, String, u64)>> {
    let all: serde_json::Value = serde_json::from_slice(&world.palisade(&["list", "--json"]).stdout).ok()?;
    let list = all["services"].as_array()?.iter().filter(|s| s["name"] != "victim");
    let one = |s: &serde_json::Value| {
        let pid = s["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        let address = s["addresses"][0].as_str().unwrap_or_default().to_owned();
        (
            s["name"].as_str().unwrap_or_default().to_owned(),
            (pid, address, s["run"].as_u64().unwrap_or_default()),
        )
    };
    Some(list.map(one).collect())
}

impl Campaign {
    fn begin(world: &mut World) -> Self {
        for n in 0..LIVE {
            let keys = format!("network.publish = [\"{}:80\"]", 8100 + n);
            world.write_service(&format!("web{n}"), &world.probe_toml(&["http", "80"], &keys));
        }
        world.write_service("victim", &victim(world, 0));
        world.start();
        for n in 0..LIVE {
            assert_eq!(wait_http(&format!("127.0.0.1:{}", 8100 + n), "/"), format!("web{n}"));
        }
        world.wait_state("victim", "active");
        wait_until("all of them are active", LONG, || !world.ok(&["list"]).contains("starting"));
        let before = lives(world).expect("it answers");
        assert!(before.len() == usize::from(LIVE) && before.values().all(|(pid, ..)| *pid > 0), "{before:?}");
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let client = std::thread::spawn({
            let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
            move || ask(&over, &asked)
        });
        world.kill_supervisor();
        Self { before, over, asked, client, round: 0, kills: 1, missed: Vec::new() }
    }

    /// One death at this moment.
    fn die(&mut self, world: &mut World, moment: &Moment) {
        let Moment { place, operation } = moment;
        if *operation == Operation::TakeoverOfDead {
            end_victim(world);
        }
        world.reap();
        let mut command = world.supervise();
        command.arg("--die-at").arg(place);
        if world.start_to_die(command) {
            self.look(world, place);
            self.come_to(world, *operation);
        }
        // What was asked for is answered, and what an init says comes, a moment before the end.
        let deadline = Instant::now() + scaled(Duration::from_secs(1));
        while !world.has_died() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !world.has_died() {
            self.missed.push(format!("{place} by {operation:?}"));
            world.kill_supervisor();
        }
        self.kills += 1;
        let asked = self.asked.load(Ordering::Relaxed);
        // Everybody is asked without a supervisor, too.
        wait_until("requests go on", LONG, || self.asked.load(Ordering::Relaxed) > asked + u32::from(LIVE));
    }

    /// Does what leads to the moment, until it has come or the operation is over without it.
    fn come_to(&mut self, world: &mut World, operation: Operation) {
        self.round += 1;
        let verb = match operation {
            Operation::Start => {
                world.palisade(&["stop", "victim"]);
                "start"
            }
            Operation::Stop => {
                world.palisade(&["start", "victim"]);
                "stop"
            }
            Operation::Restart => "restart",
            Operation::Reload => {
                world.palisade(&["start", "victim"]);
                world.write_service("victim", &victim(world, self.round));
                world.palisade(&["daemon-reload"]);
                // It has answered before the other run is up: the new one is told apart by its file.
                wait_until("death, or another run", LONG, || {
                    world.has_died() || is_up_in_round(world, self.round)
                });
                return;
            }
            // Nothing is needed but what is taken over.
            Operation::Takeover | Operation::TakeoverOfDead => "start",
        };
        world.palisade(&[verb, "victim"]);
    }

    /// Nobody was lost, nobody is there twice, nobody is another.
    fn look(&self, world: &World, place: &str) {
        // It may die while it is asked.
        if let Some(now) = lives(world) {
            assert_eq!(now, self.before, "before {place}: {}", world.supervisor_log());
        }
        world.reap();
        let alive = snapshot::processes();
        let count = |what: &str| alive.iter().filter(|p| p.contains(what)).count();
        assert_eq!(count("__probe http 80"), usize::from(LIVE), "before {place}: {alive:?}");
        assert!(count("__probe http 81") <= 1, "before {place}: {alive:?}");
    }

    /// All over: the last supervisor finds everybody, and stops them all.
    #[expect(clippy::print_stdout, reason = "a campaign reports its figures")]
    fn end(self, world: &mut World, before: &Snapshot) {
        world.start();
        self.look(world, "the end");
        world.ok(&["start", "victim"]);
        assert_eq!(wait_http("127.0.0.1:8081", "/"), "victim");
        self.over.store(true, Ordering::Relaxed);
        let failures = self.client.join().expect("the client does not panic");
        println!(
            "{} kills, {} requests, {} failed, moments that did not come: {:?}",
            self.kills,
            self.asked.load(Ordering::Relaxed),
            failures.len(),
            self.missed
        );
        assert_eq!(failures, Vec::<String>::new());
        assert_eq!(self.missed, Vec::<String>::new());
        assert_eq!(world.stop(), Ok(()));
        assert_eq!(before.wait_until_again(world), Vec::<String>::new());
    }
}

/// Asks one after the other until it is over; what went wrong.
fn ask(over: &AtomicBool, asked: &AtomicU32) -> Vec<String> {
    let mut failures = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let n = asked.fetch_add(1, Ordering::Relaxed) % u32::from(LIVE);
        match http_get(&format!("127.0.0.1:{}", 8100 + n), "/") {
            Ok(name) if name == format!("web{n}") => {}
            other => failures.push(format!("web{n}: {other:?}")),
        }
    }
    failures
}

/// The processes of the victim.
fn victims() -> Vec<i32> {
    let is_victim = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|args| String::from_utf8_lossy(&args).contains("http\u{0}81"))
    };
    crate::support::world::pids().into_iter().filter(is_victim).collect()
}

/// Whether the victim runs with what its file said in this round.
fn is_up_in_round(world: &World, round: usize) -> bool {
    let wanted = format!("ROUND={round}");
    let env = |pid: i32| fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let is_of_round = |pid: i32| env(pid).split(|byte| *byte == 0).any(|line| line == wanted.as_bytes());
    victims().into_iter().any(is_of_round) && world.state("victim") == "active"
}

/// Kills the victim, if it runs.
fn end_victim(world: &World) {
    for pid in victims() {
        let pid = nix::unistd::Pid::from_raw(pid);
        // Its end in between is what is wanted.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        wait_until("it is dead", LONG, || {
            world.reap();
            nix::sys::signal::kill(pid, None).is_err()
        });
    }
}

/// Dies at all of these moments, or at fewer where the environment asks for fewer.
fn campaign(world: &mut World, moments: &[Moment]) {
    let before = Snapshot::take(world);
    let mut campaign = Campaign::begin(world);
    let step = asked("PALISADE_TEST_POINTS").map_or(1, |points| (moments.len() / points.max(1)).max(1));
    for moment in moments.iter().step_by(step) {
        campaign.die(world, moment);
    }
    campaign.end(world, &before);
}

pub fn a_supervisor_may_die_at_every_step_of_its_own(world: &mut World) {
    world.write_service("victim", &victim(world, 0));
    let launch = [steps(world, "host"), points(true)].concat();
    campaign(world, &interleave(&launch, &points(false)));
}

pub fn a_supervisor_may_die_at_every_step_inside_a_sandbox(world: &mut World) {
    world.write_service("victim", &victim(world, 0));
    campaign(world, &steps(world, "child"));
}

/// With `PALISADE_TEST_KILLS=1000` (and `PALISADE_TEST_SCALE=40` for the time) so many deaths; by default a handful of those
/// that are not among the others: launches within a restart and a reload.
pub fn a_supervisor_may_die_in_every_way_again_and_again(world: &mut World) {
    world.write_service("victim", &victim(world, 0));
    let launch = [steps(world, "host"), points(true), steps(world, "child")].concat();
    let all = interleave(&launch, &points(false));
    let ways = [Operation::Restart, Operation::Reload];
    let within = |n: usize, moment: &Moment| {
        // With the network kept a plan has other host steps: those of a fresh one are come to by a fresh start alone.
        let is_of_launch = moment.operation == Operation::Start && !moment.place.contains(":host:");
        Moment { operation: if is_of_launch { ways[n % 2] } else { moment.operation }, ..moment.clone() }
    };
    let again: Vec<Moment> = all.iter().enumerate().map(|(n, moment)| within(n / 2, moment)).collect();
    match asked("PALISADE_TEST_KILLS") {
        Some(kills) => {
            let moments: Vec<Moment> = all.into_iter().chain(again).cycle().take(kills).collect();
            campaign(world, &moments);
        }
        None => campaign(world, &again.into_iter().step_by(9).collect::<Vec<_>>()),
    }
}
