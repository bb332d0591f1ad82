//! Supervisors that die at every moment of a launch, a stop, a reload and a takeover, over services that serve requests.
//!
//! The moments are those of the program itself: the steps of the victim's plan, as `palisade plan` tells them, and the
//! points that the supervisor has names for. `palisade supervise --die-at` kills at each of them.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use palisade::supervisor::{Way, points};

use crate::support::{
    LONG, World, scaled,
    snapshot::{self, Snapshot},
    wait_until,
    world::{PALISADE, PROBE, http_get, wait_http},
};

const LIVE: u16 = 20;
const ROLLING: &str = "8097";
const CALLED: &str = "8098";
/// What there is one of at most, whoever has died.
const SINGLE: [&str; 7] = [
    "__probe http 81",
    "__probe http 82",
    "__probe wait hooked",
    "__probe wait placed",
    "__probe wait commanded",
    "say echo:telling",
    "say echo:lining",
];

/// What makes a supervisor come to the moment at which it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// What leads there by itself.
    By(Way),
    /// A launch within a restart.
    Restart,
}

/// One death.
#[derive(Clone, Debug)]
struct Moment {
    place: String,
    operation: Operation,
}

/// The service to which what leads somewhere happens.
fn actor(way: Way) -> &'static str {
    match way {
        Way::Start
        | Way::Stop
        | Way::Files
        | Way::TakeoverOfDead
        | Way::Apply
        | Way::Confirm
        | Way::Revert
        | Way::Upgrade => "victim",
        // Whoever is taken over is one that runs for certain.
        Way::Takeover => "web7",
        Way::Hooks => "hooked",
        Way::Crash => "placed",
        Way::Failure => "failing",
        Way::Success => "ending",
        Way::Rollout => "rolling",
        Way::Notice | Way::ReloadSignal => "telling",
        Way::Line | Way::Output => "lining",
        Way::Rate => "flooding",
        Way::Probe => "probed",
        Way::ReloadCommand => "commanded",
        Way::Store => "storing",
        Way::Demand => "called",
        Way::Timer => "timed",
    }
}

/// Those that nobody starts before it is their turn. What they run tells them apart.
fn write_actors(world: &World) {
    let off = "unit.enabled = false\nnetwork.mode = \"none\"\n";
    let probe = |args: &[&str], keys: &str| world.probe_toml(args, &format!("{off}{keys}"));
    let hooks = ["condition", "pre_start", "post_start", "pre_stop", "post_stop"];
    let hooks = hooks.map(|stage| format!("service.{stage} = [[\"/bin/true\"]]\n")).concat();
    let reloads = ["hup", "reloading", "send:READY=1"].repeat(4);
    let telling = [&["echo:telling", "send:READY=1"], &reloads[..]].concat();
    let socket = |port: &str| format!("[[socket]]\nlisten = \"127.0.0.1:{port}\"\n");
    let rolling = format!("service.rollout = \"blue-green\"\n{}", socket(ROLLING));
    let called = format!("{}activation = \"on-demand\"\n", socket(CALLED));
    let in_place = "restart = { policy = \"always\", delay = \"10ms\", mode = \"in-place\" }\n";
    let failing = "restart.policy = \"never\"\nunit.on_failure = [\"answering\"]\n";
    let asked = "service.ready = \"tcp:82\"\nhealth = { test = \"tcp:82\", interval = \"1s\" }\n";
    let flooding = "service.ready = \"fd:3\"\nlog.rate = \"1/d\"\n";
    let all = [
        ("hooked", probe(&["wait", "hooked"], &hooks)),
        ("placed", probe(&["wait", "placed"], in_place)),
        ("failing", probe(&["exit", "1"], failing)),
        ("answering", probe(&["print", "answered"], "service.type = \"oneshot\"\n")),
        ("ending", probe(&["print", "x"], "service.type = \"oneshot\"\nservice.remain_after_exit = true\n")),
        ("rolling", probe(&["held"], &rolling)),
        ("telling", probe(&[&["say"], &telling[..]].concat(), "service.type = \"notify-reload\"\n")),
        ("lining", probe(&["say", "echo:lining", "fd:3:ready"], "service.ready = \"fd:3\"\n")),
        ("flooding", probe(&["say", "echo:one", "echo:two", "fd:3:ready"], flooding)),
        ("probed", probe(&["http", "82"], asked)),
        ("commanded", probe(&["wait", "commanded"], "service.reload = { command = [\"/bin/true\"] }\n")),
        (
            "storing",
            probe(
                &["say", "echo:storing", "store:x", "send:READY=1"],
                "service.type = \"notify\"\nservice.fd_store_max = 4\n",
            ),
        ),
        ("called", probe(&["held-once"], &called)),
    ];
    for (name, toml) in all {
        world.write_service(name, &toml);
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
            operation: Operation::By(Way::Start),
        })
        .collect();
    assert!(moments.len() > 20, "{plan}");
    moments
}

fn is_launch(way: Way) -> bool {
    way == Way::Start
}

/// What every supervisor does all the time, beside launches.
fn is_frequent(way: Way) -> bool {
    matches!(way, Way::Stop | Way::Files | Way::Takeover | Way::TakeoverOfDead)
}

/// The points of the supervisor that are on such ways.
fn named(is_wanted: impl Fn(Way) -> bool) -> Vec<Moment> {
    let moment = |point: palisade::supervisor::Point| Moment {
        place: format!("{}:at:{}", actor(point.way), point.name),
        operation: Operation::By(point.way),
    };
    points().filter(|point| is_wanted(point.way)).map(moment).collect()
}

/// Takes from both in turn until both have been taken from whole.
fn interleave(a: &[Moment], b: &[Moment]) -> Vec<Moment> {
    let count = a.len().max(b.len());
    (0..count).flat_map(|n| [a.get(n), b.get(n)]).flatten().cloned().collect()
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

/// What there is to say of all services; none where nobody answers, for it may die while it is asked.
fn statuses(world: &World) -> Option<Vec<serde_json::Value>> {
    let all: serde_json::Value = serde_json::from_slice(&world.palisade(&["list", "--json"]).stdout).ok()?;
    all["services"].as_array().cloned()
}

/// As [`statuses`], of one.
fn status(world: &World, name: &str) -> Option<serde_json::Value> {
    statuses(world)?.into_iter().find(|status| status["name"] == name)
}

/// Main process, address and run of every live service; none where nobody answers.
fn lives(world: &World) -> Option<BTreeMap<String, (u32, String, u64)>> {
    let all = statuses(world)?;
    let list = all.iter().filter(|s| s["name"].as_str().is_some_and(|name| name.starts_with("web")));
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
        write_actors(world);
        world.start();
        for n in 0..LIVE {
            assert_eq!(wait_http(&format!("127.0.0.1:{}", 8100 + n), "/"), format!("web{n}"));
        }
        world.wait_state("victim", "active");
        let broken = world.ok(&["list"]);
        assert!(!broken.contains("broken"), "{broken}\n{}", world.supervisor_log());
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
        if *operation == Operation::By(Way::TakeoverOfDead) {
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
        let deadline = Instant::now() + scaled(LONG);
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
        self.clear_up(world);
        let way = match operation {
            Operation::By(way) => way,
            Operation::Restart => {
                world.palisade(&["restart", "victim"]);
                return;
            }
        };
        let name = actor(way);
        let verbs = |verbs: &[&str]| verbs.iter().for_each(|verb| drop(world.palisade(&[verb, name])));
        match way {
            // Nothing is needed but what is taken over.
            Way::Takeover | Way::TakeoverOfDead => {}
            Way::Stop => verbs(&["start", "stop"]),
            Way::Hooks => verbs(&["stop", "start", "stop"]),
            Way::Rollout => verbs(&["start", "restart"]),
            Way::ReloadSignal | Way::ReloadCommand => verbs(&["stop", "start", "reload"]),
            Way::Start
            | Way::Failure
            | Way::Success
            | Way::Notice
            | Way::Line
            | Way::Probe
            | Way::Store
            | Way::Output => verbs(&["stop", "start"]),
            // All that the second run says is too much.
            Way::Rate => verbs(&["stop", "start", "stop", "start"]),
            Way::Files => {
                verbs(&["start"]);
                world.write_service("victim", &victim(world, self.round));
                world.palisade(&["daemon-reload"]);
                // It has answered before the other run is up: the new one is told apart by its file.
                wait_until("death, or another run", LONG, || {
                    world.has_died() || is_up_in_round(world, self.round)
                });
            }
            Way::Crash => {
                verbs(&["start"]);
                let run = |world: &World| status(world, name).and_then(|status| status["run"].as_u64());
                let before = run(world);
                end("wait\u{0}placed");
                wait_until("death, or another run", LONG, || world.has_died() || run(world) > before);
            }
            Way::Demand => {
                verbs(&["stop", "start"]);
                let deadline = Instant::now() + scaled(LONG);
                while !world.has_died() && Instant::now() < deadline {
                    // One ends its run, the next starts another.
                    drop(TcpStream::connect(format!("127.0.0.1:{CALLED}")));
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            Way::Timer => {
                let keys = "network.mode = \"none\"\nservice.type = \"oneshot\"\n\
                            timer = { calendar = \"*:*:*\", persistent = true }\n";
                world.write_service(name, &world.probe_toml(&["print", "x"], keys));
                world.palisade(&["daemon-reload"]);
                let deadline = Instant::now() + scaled(LONG);
                while !world.has_died() && Instant::now() < deadline {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Way::Apply | Way::Confirm | Way::Revert => {
                verbs(&["start"]);
                world.write_service("victim", &victim(world, self.round));
                world.palisade(&["apply", "--confirm", "600s"]);
                match way {
                    Way::Confirm => drop(world.palisade(&["confirm"])),
                    Way::Revert => drop(world.palisade(&["revert"])),
                    _ => {}
                }
            }
            Way::Upgrade => drop(world.palisade(&["upgrade", PALISADE])),
        }
    }

    /// Nothing that a predecessor was asked for is under way any more: a timer, a trial.
    fn clear_up(&self, world: &World) {
        let file = world.services_dir().join("timed.toml");
        // Where there is one.
        let was_there = fs::remove_file(file).is_ok();
        if world.palisade(&["confirm"]).status.success() || was_there {
            world.palisade(&["daemon-reload"]);
        }
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
        for what in SINGLE {
            assert!(count(what) <= 1, "{what} before {place}: {alive:?}");
        }
    }

    /// All over: the last supervisor finds everybody, and stops them all.
    #[expect(clippy::print_stdout, reason = "a campaign reports its figures")]
    fn end(self, world: &mut World, before: &Snapshot) {
        world.start();
        self.look(world, "the end");
        self.clear_up(world);
        // Whatever has happened to them, they do what they are there for.
        for name in ["hooked", "placed", "rolling", "telling", "lining", "probed", "commanded", "storing"] {
            world.ok(&["start", name]);
            assert_eq!(world.state(name), "active", "{name}: {}", world.supervisor_log());
        }
        world.ok(&["restart", "rolling"]);
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

/// The processes whose arguments have this in them.
fn running(what: &str) -> Vec<i32> {
    let is_one = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|args| String::from_utf8_lossy(&args).contains(what))
    };
    crate::support::world::pids().into_iter().filter(is_one).collect()
}

/// The processes of the victim.
fn victims() -> Vec<i32> {
    running("http\u{0}81")
}

/// Kills whoever has this in his arguments.
fn end(what: &str) {
    for pid in running(what) {
        // Its end in between is what is wanted.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Whether the victim runs with what its file said in this round.
fn is_up_in_round(world: &World, round: usize) -> bool {
    let wanted = format!("ROUND={round}");
    let env = |pid: i32| fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let is_of_round = |pid: i32| env(pid).split(|byte| *byte == 0).any(|line| line == wanted.as_bytes());
    let is_active = |status: serde_json::Value| status["state"] == "active";
    victims().into_iter().any(is_of_round) && status(world, "victim").is_some_and(is_active)
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
    let launch = [steps(world, "host"), named(is_launch)].concat();
    campaign(world, &interleave(&launch, &named(is_frequent)));
}

pub fn a_supervisor_may_die_in_whatever_else_it_does(world: &mut World) {
    // `hooks` dies in these, and looks closer.
    campaign(world, &named(|way| !is_launch(way) && !is_frequent(way) && way != Way::Hooks));
}

pub fn a_supervisor_may_die_at_every_step_inside_a_sandbox(world: &mut World) {
    world.write_service("victim", &victim(world, 0));
    campaign(world, &steps(world, "child"));
}

/// With `PALISADE_TEST_KILLS=1000` (and `PALISADE_TEST_SCALE=40` for the time) so many deaths, from the one with the number
/// `PALISADE_TEST_SEED` on; by default a handful of those that are not among the others: launches within a restart and a
/// reload, others of them with another seed.
pub fn a_supervisor_may_die_in_every_way_again_and_again(world: &mut World) {
    world.write_service("victim", &victim(world, 0));
    let launch = [steps(world, "host"), named(is_launch), steps(world, "child")].concat();
    let all = interleave(&launch, &named(|way| !is_launch(way)));
    let ways = [Operation::Restart, Operation::By(Way::Files)];
    let within = |n: usize, moment: &Moment| {
        // With the network kept a plan has other host steps: those of a fresh one are come to by a fresh start alone.
        let is_of_launch = moment.operation == Operation::By(Way::Start) && !moment.place.contains(":host:");
        Moment { operation: if is_of_launch { ways[n % 2] } else { moment.operation }, ..moment.clone() }
    };
    let again: Vec<Moment> = all.iter().enumerate().map(|(n, moment)| within(n / 2, moment)).collect();
    let seed = asked("PALISADE_TEST_SEED").unwrap_or(0);
    match asked("PALISADE_TEST_KILLS") {
        Some(kills) => {
            let moments = all.into_iter().chain(again).cycle();
            let moments: Vec<Moment> = moments.skip(seed).take(kills).collect();
            campaign(world, &moments);
        }
        None => {
            let is_within = |moment: &Moment| match moment.operation {
                Operation::By(way) => way == Way::Files,
                Operation::Restart => true,
            };
            let within = again.into_iter().filter(is_within).skip(seed % 4);
            campaign(world, &within.step_by(4).collect::<Vec<_>>());
        }
    }
}
