//! `palisade supervise`: one thread, one poll loop, one clock.
//!
//! Everything that happens becomes an [`Input`] for the pure [`Fleet`]; what it answers is persisted, told, and carried out.
//! No step of a launch is decided here and no file of a rootfs is read; nothing here waits for anything but poll(2).
//!
//! | module | what |
//! |---|---|
//! | `runs` | a live run: its channel, its end |
//! | `fetch` | programs that credentials come from |
//! | `history` | what has happened |
//! | `ingress` | who passes HTTP requests on to whom |
//! | `hooks` | commands around the main program |
//! | `output` | what services write, into their logs |
//! | `rates` | how many lines of it |
//! | `ages` | how old that becomes |
//! | `squeeze` | and how it is compressed |
//! | `forward` | where it goes on to |
//! | `metrics` | what there is to measure, for whoever asks |
//! | `samples` | the same of some services, for whoever watches |
//! | `limits` | what a run takes, and what it may |
//! | `outdated` | whether it is what would be started now |
//! | `adopt` | taking over from a supervisor that died |
//! | `changes` | reloads when what a service has read has changed |
//! | `conditions` | whether the host suits a start |
//! | `apply` | what other files would change, and going back from them |
//! | `connections` | runs for connections, one each |
//! | `crowd` | all live runs, and which of them has something to tell |
//! | `voice` | what services say about themselves |
//! | `requests` | what the control socket asks for |
//! | `denials`, `refusals` | what services were refused: packets, and everything else |
//! | `rollout` | two runs of one service at a time |
//! | `names` | what services ask about names |
//! | `sockets` | what is held for services beside their network |
//! | `bandwidth` | how much their links carry |
//! | `talk` | who may talk to whom |
//! | `timers` | the clock on the wall |
//! | `sessions` | further processes in a sandbox |
//! | `points` | where the tests have it die |
//! | `wall` | the packet filter, when others change it |
//! | `upgrade` | another program in the supervisor's place |
//! | `probes`, `watch` | whether services are ready, and whether they are well |
//! | `state`, `keeper` | what outlives the supervisor: words, and descriptors |

mod adopt;
mod ages;
mod apply;
mod bandwidth;
mod changes;
mod conditions;
mod connections;
mod crowd;
mod denials;
mod fetch;
mod forward;
mod history;
mod hooks;
mod ingress;
mod keeper;
mod limits;
mod metrics;
mod names;
mod outdated;
mod output;
mod points;
mod probes;
mod rates;
mod refusals;
mod requests;
mod rollout;
mod runs;
mod samples;
mod sessions;
mod sockets;
mod squeeze;
mod state;
mod talk;
mod templates;
mod timers;
mod upgrade;
mod voice;
mod wall;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::event::{PollFd, PollFlags};

use crate::{
    cgroup,
    config::{
        self, Sources,
        settings::{IDS_PER_SERVICE, Settings},
    },
    control::{
        scrape::{self, Scrapes},
        server::{ClientId, Held, Incoming, Readiness, Server, Source},
    },
    launch::{
        Given, Journal, LaunchFault, Launcher, Net, NetworkHost, Peers, Retry,
        credentials::{Fetch, Secret},
    },
    logs::LogWriter,
    machine::{
        self, Action, Mono, RunId, State, Usage,
        fleet::{Effect, Fleet, Input, News, Report},
    },
    net::{
        attach::{self, AttachPlan},
        link::LinkPlan,
        netns::NetNs,
    },
    plan,
    spec::{Egress, HostFacts, NetworkMode, Owner, Stage, Unit, UnitName, UserNamespace},
    sys::SysError,
};
use crowd::Runs;
use keeper::Keeper;
pub use points::{DieAt, Place, Point, Way, points};
use runs::{LiveRun, Part};
pub use state::VERSION as STATE_VERSION;
use state::{Assigned, NetRecord, Places, Record, RunRecord, Store};
#[cfg(fuzzing)]
pub use state::{given, record, taken_over};
pub use upgrade::Inherit;

/// Where a supervisor keeps its things.
#[derive(Clone, Debug)]
pub struct Options {
    /// Run-time state and sockets.
    pub run: PathBuf,
    /// Persistent state.
    pub state: PathBuf,
    /// The services' output.
    pub log: PathBuf,
    /// Where the service files are.
    pub sources: Sources,
    /// What a predecessor in this very process has left open.
    pub inherit: Option<Inherit>,
    /// A service and the step of its plan that is made to fail: how the tests reach every unwinding.
    pub fail_at: Option<(String, plan::FailAt)>,
    /// When this supervisor kills itself: how the tests reach every moment of a takeover.
    pub die_at: Option<DieAt>,
}

/// Why there is no supervisor.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The control socket.
    #[error(transparent)]
    Bind(#[from] crate::control::server::BindError),
    /// The kernel's word.
    #[error(transparent)]
    Sys(#[from] SysError),
    /// State that cannot be trusted.
    #[error("{0}")]
    State(String),
}

/// What the loop waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wake {
    Signals,
    Clock,
    Keeper,
    Control(Source),
    /// Somebody who wants metrics.
    Scrape(scrape::Source),
    /// Some of the runs; of which ones and of what, their set tells.
    Runs,
    Init(UnitName),
    Channel(UnitName),
    Output(UnitName, usize),
    /// A service has said something about itself.
    Notify(UnitName),
    /// A service has said that it is ready.
    Ready(UnitName),
    /// The control group of a run whose init has ended has become empty, or has not yet.
    Empty(UnitName),
    /// The programs of its credentials.
    Fetch(UnitName),
    /// A socket on which a connection starts it.
    Demand(UnitName),
    /// A command on the host for a service.
    Hook(UnitName),
    /// What it is asked for.
    Probe(UnitName),
    /// What it asks about names.
    Names(UnitName, names::Seat),
    /// A server that was asked for one of them.
    Server(u64),
    /// Who takes its log takes more of it.
    Forward(UnitName),
    /// Files that services have read.
    Changes,
    /// Somebody has changed the packet filter.
    Wall,
    /// It has refused something.
    Denied,
    /// The audit log has something to tell.
    Audit,
}

impl Wake {
    fn of_run(name: &UnitName, part: Part) -> Self {
        let name = name.clone();
        match part {
            Part::Init => Wake::Init(name),
            Part::Channel => Wake::Channel(name),
            Part::Output(stream) => Wake::Output(name, stream),
            Part::Notify => Wake::Notify(name),
            Part::Ready => Wake::Ready(name),
            Part::Empty => Wake::Empty(name),
            Part::Hook => Wake::Hook(name),
        }
    }
}

/// One supervisor.
struct Supervisor {
    options: Options,
    settings: Settings,
    facts: HostFacts,
    store: Rc<Store>,
    assigned: Assigned,
    fleet: Fleet,
    /// What is to be told to the fleet, in order.
    inputs: VecDeque<Input>,
    launcher: Launcher,
    keeper: Keeper,
    runs: Runs,
    /// Launches that wait for the programs of their credentials.
    fetches: BTreeMap<UnitName, (RunId, Fetch)>,
    nets: BTreeMap<UnitName, Net>,
    holdings: BTreeMap<UnitName, sockets::Holdings>,
    faults: BTreeMap<UnitName, Box<LaunchFault>>,
    /// How many launches followed an end that nobody had asked for.
    restarts: BTreeMap<UnitName, u64>,
    logs: BTreeMap<UnitName, LogWriter>,
    /// Files with errors, and their first error.
    broken: BTreeMap<UnitName, String>,
    masked: BTreeSet<UnitName>,
    /// How far services may go; none: it has never been readable, and nothing may start.
    policy: Option<config::Policy>,
    /// Where each service is described.
    files: BTreeMap<UnitName, PathBuf>,
    /// What stands before the `@` of each template.
    templates: BTreeSet<String>,
    server: Server,
    scrapes: Scrapes,
    metrics: metrics::Metrics,
    /// Who waits for samples, and what is there of them.
    samplings: Vec<samples::Sampling>,
    history: history::History,
    clients: requests::Clients,
    sessions: sessions::Sessions,
    doors: connections::Doors,
    probes: probes::Probes,
    reloads: voice::Reloads,
    names: names::Names,
    changes: changes::Changes,
    wall: wall::Wall,
    denials: denials::Denials,
    refusals: refusals::Refusals,
    copier: output::Copier,
    forwards: forward::Forwards,
    squeezer: squeeze::Squeezer,
    ages: ages::Ages,
    rates: rates::Rates,
    signals: Signals,
    /// Files that were applied and are not confirmed, or were taken back.
    trial: Option<apply::Trial>,
    /// Who wants another program in our place, and which.
    upgrade: Option<(ClientId, PathBuf)>,
    alarm: timers::Alarm,
    announced: bool,
    stopping: bool,
    /// How often two runs have changed places: what was ready before goes by other names now.
    places_changed: u64,
}

/// Supervises until it is told to stop.
///
/// # Errors
/// What kept it from starting; services of a predecessor run on.
pub fn main(options: Options, settings: Settings) -> Result<(), StartError> {
    let inherited = options.inherit.map(Inherit::open).transpose()?;
    let (held, client) = inherited.unzip();
    let mut supervisor = Supervisor::open(options, settings, held)?;
    supervisor.adopt()?;
    if client.is_some() {
        supervisor.point_of_all("upgrade-adopted");
    }
    if let Some(client) = client {
        supervisor.tell_upgraded(client);
    }
    supervisor.run()?;
    supervisor.close();
    Ok(())
}

/// Now, on CLOCK_MONOTONIC.
fn now() -> Mono {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanos) =
        (u64::try_from(time.tv_sec).unwrap_or_default(), u64::try_from(time.tv_nsec).unwrap_or_default());
    Mono(seconds * 1000 + nanos / 1_000_000)
}

/// A supervisor has some descriptors open for every service. The services keep the limit that we were started with.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Within the hard limit this needs no right; where it fails all the same, the old limit holds.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// A number that no other host has; never 0.
fn random_seed() -> Result<u64, SysError> {
    let mut seed = [0; 8];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| SysError::new("getrandom", "", errno))?;
    Ok(u64::from_ne_bytes(seed) | 1)
}

impl Supervisor {
    fn open(options: Options, settings: Settings, held: Option<Held>) -> Result<Self, StartError> {
        let facts = crate::sys::facts::gather(settings.cgroup.as_deref());
        let group = facts.groups.get(crate::control::server::GROUP).map(|(gid, _)| *gid);
        // First of all: it holds the lock that keeps a second supervisor out.
        let server = match held {
            Some(held) => Server::resume(&options.run, group, held)?,
            None => Server::bind(&options.run, group)?,
        };
        // Under the same lock.
        let scrapes = Scrapes::new(&options.run, group, settings.metrics);
        let store = Rc::new(Store::open(&options.run, &options.state)?);
        let (mut assigned, complaint) = store.assigned().map_err(StartError::State)?;
        if let Some(complaint) = &complaint {
            tracing::error!("{complaint}: its copy is taken");
        }
        if assigned.seed == 0 || complaint.is_some() {
            assigned.seed = if assigned.seed == 0 { random_seed()? } else { assigned.seed };
            store.save_assigned(&assigned)?;
        }
        let network = settings.network.clone();
        let tree = cgroup::Tree::find(settings.cgroup.as_deref())?;
        let notes = Rc::clone(&store);
        let network =
            NetworkHost::watching(network, Journal::new(move |changed| notes.save_forwarding(changed)));
        let launcher = Launcher::open(&options.run, tree, network, false)?;
        // After the launcher has seen what services are to have.
        raise_descriptor_limit();
        let keeper = Keeper::new(&options.run.join("init"));
        Ok(Self {
            fleet: Fleet::new(assigned.seed),
            settings,
            facts,
            store,
            assigned,
            inputs: VecDeque::new(),
            launcher,
            keeper,
            runs: Runs::open(),
            fetches: BTreeMap::new(),
            nets: BTreeMap::new(),
            holdings: BTreeMap::new(),
            faults: BTreeMap::new(),
            restarts: BTreeMap::new(),
            logs: BTreeMap::new(),
            broken: BTreeMap::new(),
            masked: BTreeSet::new(),
            policy: None,
            files: BTreeMap::new(),
            templates: BTreeSet::new(),
            server,
            scrapes,
            metrics: metrics::Metrics::new(),
            samplings: Vec::new(),
            history: history::History::new(&options.log),
            clients: requests::Clients::default(),
            sessions: sessions::Sessions::default(),
            doors: connections::Doors::default(),
            probes: probes::Probes::default(),
            reloads: voice::Reloads::default(),
            names: names::Names::default(),
            changes: changes::Changes::default(),
            wall: wall::Wall::default(),
            denials: denials::Denials::default(),
            refusals: refusals::Refusals::open(),
            copier: output::Copier::open()?,
            forwards: forward::Forwards::default(),
            squeezer: squeeze::Squeezer::default(),
            ages: ages::Ages::default(),
            rates: rates::Rates::default(),
            signals: Signals::open()?,
            trial: None,
            upgrade: None,
            alarm: timers::Alarm::open()?,
            announced: false,
            stopping: false,
            places_changed: 0,
            options,
        })
    }

    /// The loop.
    fn run(&mut self) -> Result<(), SysError> {
        loop {
            self.pump();
            self.maybe_upgrade();
            self.mind_the_clock()?;
            self.feed_followers();
            if self.stopping && self.fleet.is_resting() && self.runs.is_empty() {
                return Ok(());
            }
            self.tell_metrics();
            self.tell_samples();
            // Before the deadlines: which of the runs have one is seen here.
            self.runs.settle();
            let control = self.server.tick(now());
            let deadlines = [
                control,
                self.scrapes.tick(now()),
                self.metrics_deadline(),
                self.samples_deadline(),
                self.fleet.deadline(),
                self.fetch_deadline(),
                self.hook_deadline(),
                self.trial_deadline(),
                self.probe_deadline(),
                self.voice_deadline(),
                self.doors.deadline(),
                self.changes.deadline(),
                self.wall.deadline(),
                self.refusals.deadline(),
                self.names.deadline(),
                self.rate_deadline(),
                self.ages.deadline(),
                self.squeezer.deadline(),
                self.forwards.deadline(),
            ];
            let deadline = deadlines.into_iter().flatten().min();
            let places_changed = self.places_changed;
            let heard = self.wait(deadline)?;
            let is_idle = heard.is_empty();
            for (wake, readiness) in heard {
                self.wake(wake, readiness);
                if self.places_changed != places_changed {
                    // Whatever else is ready still is, under the name that it has now.
                    break;
                }
            }
            self.fetches_overdue();
            self.hooks_overdue();
            self.trial_overdue();
            self.probe();
            self.voices_overdue();
            self.open_doors();
            self.changes_overdue();
            self.wall_overdue();
            self.names_overdue();
            self.rates_overdue();
            self.ages_overdue();
            self.forward();
            self.squeeze(is_idle);
            if self.fleet.deadline().is_some_and(|at| at <= now()) {
                self.inputs.push_back(Input::Tick);
            }
        }
    }

    /// Everything there is to wait for.
    fn interests(&self) -> Vec<(Wake, BorrowedFd<'_>, PollFlags)> {
        let mut all = vec![(Wake::Signals, self.signals.pipe.as_fd(), PollFlags::IN)];
        all.push((Wake::Clock, self.alarm.fd(), PollFlags::IN));
        all.extend(self.changes.interest().map(|fd| (Wake::Changes, fd, PollFlags::IN)));
        all.extend(self.wall_interest().map(|fd| (Wake::Wall, fd, PollFlags::IN)));
        all.extend(self.launcher.network.drops().map(|fd| (Wake::Denied, fd, PollFlags::IN)));
        all.extend(self.refusals.interest().map(|fd| (Wake::Audit, fd, PollFlags::IN)));
        all.extend(self.keeper.channel().map(|fd| (Wake::Keeper, fd, PollFlags::IN)));
        all.extend(self.server.interests().map(|interest| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, interest.read);
            flags.set(PollFlags::OUT, interest.write);
            (Wake::Control(interest.source), interest.fd, flags)
        }));
        all.extend(self.scrapes.interests().map(|(source, fd, flags)| (Wake::Scrape(source), fd, flags)));
        all.extend(self.runs.set().map(|fd| (Wake::Runs, fd, PollFlags::IN)));
        for (name, run) in self.runs.unheard() {
            all.extend(run.interests().map(|(part, fd, flags)| (Wake::of_run(name, part), fd, flags)));
        }
        for (name, (_, fetch)) in &self.fetches {
            all.extend(fetch.interests().map(|fd| (Wake::Fetch(name.clone()), fd, PollFlags::IN)));
        }
        all.extend(self.called().map(|(name, fd)| (Wake::Demand(name.clone()), fd, PollFlags::IN)));
        all.extend(self.probes.interests().map(|(name, fd, flags)| (Wake::Probe(name.clone()), fd, flags)));
        let names = self.names.interests();
        all.extend(names.map(|(name, seat, fd, flags)| (Wake::Names(name.clone(), seat), fd, flags)));
        all.extend(
            self.forwards.interests().map(|(name, fd)| (Wake::Forward(name.clone()), fd, PollFlags::OUT)),
        );
        all.extend(self.names.passed().map(|(number, fd, flags)| (Wake::Server(number), fd, flags)));
        all
    }

    /// Waits for any of it.
    fn wait(&self, deadline: Option<Mono>) -> Result<Vec<(Wake, Readiness)>, SysError> {
        let interests = self.interests();
        let mut polls: Vec<PollFd<'_>> =
            interests.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let timeout = deadline.map(|at| {
            let left = at.0.saturating_sub(now().0);
            rustix::time::Timespec {
                tv_sec: i64::try_from(left / 1000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(left % 1000 * 1_000_000).unwrap_or_default(),
            }
        });
        match rustix::event::poll(&mut polls, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(errno) => return Err(SysError::new("poll", "", errno)),
        }
        let ready = interests.into_iter().zip(&polls).filter(|(_, poll)| !poll.revents().is_empty());
        let mut heard = Vec::new();
        for ((wake, ..), poll) in ready {
            let revents = poll.revents();
            let readiness = Readiness {
                readable: revents.contains(PollFlags::IN),
                writable: revents.contains(PollFlags::OUT),
                hangup: revents.intersects(PollFlags::HUP | PollFlags::ERR),
            };
            match wake {
                Wake::Runs => heard.extend(
                    self.runs
                        .ready()
                        .into_iter()
                        .map(|(name, part, readiness)| (Wake::of_run(name, part), readiness)),
                ),
                wake => heard.push((wake, readiness)),
            }
        }
        Ok(heard)
    }

    fn wake(&mut self, wake: Wake, readiness: Readiness) {
        match wake {
            Wake::Signals => self.signalled(),
            Wake::Clock => self.alarm.rang(),
            Wake::Keeper => self.keeper_ended(),
            // Told apart by `wait`.
            Wake::Runs => {}
            Wake::Control(source) => {
                self.server.ready(source, readiness);
                while let Some(incoming) = self.server.next() {
                    match incoming {
                        Incoming::Request(request) => self.request(request),
                        Incoming::Gone(client) => self.client_gone(client),
                        Incoming::Drained(client) => self.feed_follower(client),
                    }
                    self.pump();
                }
            }
            Wake::Scrape(source) => self.scrapes.ready(source, readiness, now()),
            Wake::Init(name) => self.init_ended(&name),
            Wake::Channel(name) => self.channel_ready(&name),
            Wake::Output(name, stream) => self.output_ready(&name, stream),
            Wake::Notify(name) => self.notified(&name),
            Wake::Ready(name) => self.ready_said(&name),
            Wake::Empty(name) => self.maybe_gone(&name),
            Wake::Fetch(name) => self.fetch_ready(&name),
            Wake::Demand(name) => {
                self.point(&name, "demand-heard");
                self.called_for(&name);
            }
            Wake::Hook(name) => self.hook_ready(&name),
            Wake::Probe(name) => self.probe_ready(&name),
            Wake::Names(name, seat) => self.names_asked(&name, seat),
            Wake::Server(number) => self.passed_ready(number),
            Wake::Forward(name) => self.forwards.ready(&name),
            Wake::Changes => self.changes_ready(),
            Wake::Wall => self.wall_stirred(),
            Wake::Denied => self.hear_denials(),
            Wake::Audit => self.hear_audit(),
        }
    }

    /// Tells the fleet what has happened until nothing is left to tell.
    fn pump(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            let is_reload = matches!(input, Input::Reload(_));
            let bounded = match &input {
                Input::Reload(_) => {
                    self.alarm.tell_again();
                    self.bounded()
                }
                _ => Vec::new(),
            };
            let outcome = self.fleet.apply(input, now());
            for name in &outcome.swapped {
                self.change_places(name);
                self.point(name, "places-changed");
            }
            for (name, before) in bounded {
                self.change_limits(&name, &before);
            }
            if is_reload {
                self.mend_first();
                self.settle_all_talk();
                self.settle_ingress();
                self.settle_firewall();
                self.settle_all_bandwidth();
            }
            for notice in &outcome.notices {
                self.tell(notice);
                if matches!(notice.news, News::Elapsed { .. }) {
                    self.point(&notice.name, "timer-elapsed");
                }
            }
            // The one of a takeover has a name of its own.
            if is_reload && self.announced {
                self.point_of_all("reload-applied");
            }
            for name in outcome.touched.in_order() {
                let state = self.fleet.entry(name).map_or("", |entry| entry.life.state.name());
                self.moment(name, "record-", state);
                // One file for both runs of a service, which follows.
                if !name.is_twin() || !outcome.touched.contains(&name.base()) {
                    self.persist(name);
                }
                self.moment(name, "recorded-", state);
                self.stamp(name);
            }
            for effect in outcome.effects {
                let (name, action) = (effect.name.clone(), points::named(&effect.action));
                self.moment(&name, "before-", action);
                self.carry_out(effect);
                self.moment(&name, "after-", action);
            }
            for name in outcome.touched.in_order() {
                self.settle_holdings(name);
                self.mind_changes(name);
                self.forget_twin(name);
                self.forget_connection(name);
            }
        }
        self.answer_settled();
        self.announce();
    }

    fn report(&mut self, name: &UnitName, report: Report) {
        self.inputs.push_back(Input::Report(name.clone(), report));
    }

    /// Writes down where a service stands, with both its runs where it has two. That it cannot be written is worth an alarm
    /// and no reason to stop anything.
    fn persist(&self, name: &UnitName) {
        let run = self.runs.get(name).and_then(LiveRun::record);
        self.write_down(name, run.as_ref(), self.nets.get(&name.base()));
    }

    fn write_down(&self, name: &UnitName, run: Option<&RunRecord>, net: Option<&Net>) {
        if name.is_connection() {
            let Some(record) = self.record(name, run.cloned()) else { return self.store.forget(name) };
            return self.save(&record);
        }
        let base = name.base();
        let run_of = |other: &UnitName| match other == name {
            true => run.cloned(),
            false => self.runs.get(other).and_then(LiveRun::record),
        };
        let Some(mut record) = self.record(&base, run_of(&base)) else { return self.store.forget(&base) };
        record.net = net.map(|net| NetRecord {
            link: net.link.clone(),
            publish: net.reserved.iter().map(|(publish, _)| *publish).collect(),
            egress: net.egress == Egress::Any,
            reach: net.reach().to_vec(),
            bandwidth: net.bandwidth,
            names: net.names.clone(),
            is_fleeting: net.is_fleeting,
            firewall: net.firewall,
        });
        record.holdings = self.holdings.get(&base).map(sockets::Holdings::record).unwrap_or_default();
        let twin = base.twin();
        record.twin = self.record(&twin, run_of(&twin)).map(Box::new);
        self.save(&record);
    }

    fn save(&self, record: &Record) {
        if let Err(error) = self.store.save(record) {
            tracing::error!(unit = %record.entry.unit.name, "state was not written: {error}");
        }
    }

    /// What there is to write down of one entry.
    fn record(&self, name: &UnitName, run: Option<RunRecord>) -> Option<Record> {
        Some(Record {
            entry: self.fleet.entry(name)?.clone(),
            run,
            net: None,
            holdings: sockets::HoldingsRecord::default(),
            marks: self.changes.taken(name),
            fault: self.faults.get(name).cloned(),
            restarts: self.restarts.get(name).copied().unwrap_or_default(),
            twin: None,
        })
    }

    fn carry_out(&mut self, Effect { name, action }: Effect) {
        match action {
            Action::Launch(run) => self.launch(&name, run),
            Action::RelaunchInPlace { run, .. } => self.relaunch(&name, run),
            Action::Terminate(_) => self.terminate(&name),
            Action::Abort(_) => self.signal(&name, libc::SIGABRT, false),
            Action::KillAll(_) => self.kill_all(&name),
            Action::PostStart(_) => self.run_hooks(&name, Stage::PostStart),
            Action::PostStop(_) => self.run_hooks(&name, Stage::PostStop),
            Action::KillTree(_) => self.kill_tree(&name),
            Action::Teardown(_) => self.tear_down(&name),
            // Of a service that only listens those who have connected may go on.
            Action::Release if self.fleet.connections(&name) > 0 => {}
            Action::Release => self.release(&name),
        }
    }

    fn launch_with(&mut self, name: &UnitName, run: RunId, secrets: Option<Vec<Secret>>) {
        let Some(unit) = self.unit_of(name) else { return };
        self.faults.remove(name);
        self.mark_for_start(name);
        self.mend_first();
        let admitted = self.admit(&unit).and_then(|()| self.hold_sockets_for(name));
        let mut net = self.kept_net(name, &unit);
        let was_kept = net.is_some();
        let assigned = admitted.and_then(|()| self.assign(&unit, run, net.is_some()));
        let launched = assigned.and_then(|mut assigned| {
            let (stdin, sockets, stored) = self.give(name, &unit, &mut assigned)?;
            let plan = self.plan(&unit, &assigned);
            let service = plan::ids_on_host(&unit, &assigned, &self.facts);
            let peers = self.peers(&unit);
            let joined = self.joined_net(&unit);
            let given = Given { service, stdin, peers, joined, secrets, sockets, stored };
            let launch = self.launcher.prepare((&unit, &assigned, &plan), &mut net, given)?;
            self.point(name, "launch-prepared");
            // Written down before the service is executed: whoever takes over knows of every service that ever ran.
            self.keep_net(&unit.name, launch.net());
            self.point(name, "launch-kept");
            let init = launch.pid().and_then(|pid| Some((pid, state::start_time(pid)?)));
            let record = init.map(|(pid, start_time)| RunRecord {
                pid,
                start_time,
                main: None,
                traces: launch.traces().clone(),
                before: Usage::default(),
                attested: plan::attested(&unit, plan.child()),
                hook: None,
                told: voice::Told::default(),
                version: Some(outdated::VERSION.into()),
            });
            self.write_down(name, record.as_ref(), launch.net());
            if name.is_connection() && !was_kept {
                self.write_down(&unit.name, None, launch.net());
            }
            self.point(name, "launch-noted");
            // Before anybody in there can take the place.
            if let Some(net) = launch.net() {
                self.settle_names(&unit.name, net);
            }
            let launched = self.launcher.go(launch)?;
            self.point_in_sandbox(name);
            self.point(name, "launch-sent");
            Ok((launched, plan))
        });
        if let Some(net) = net {
            self.nets.insert(unit.name.clone(), net);
            self.introduce(&unit.name);
            self.note_obstacles();
        }
        match launched {
            Ok((launched, plan)) => {
                self.runs.insert(name.clone(), LiveRun::launched(run, launched, plan, &unit));
            }
            Err(fault) => {
                self.forget_net(&unit.name, &unit);
                self.refuse_launch(name, run, fault);
            }
        }
    }

    fn plan(&self, unit: &Unit, assigned: &plan::Assigned) -> plan::LaunchPlan {
        let mut plan = plan::build(unit, assigned, &self.facts);
        plan.fail_at = self.fail_at(&unit.name);
        plan
    }

    /// A launch that failed has taken back what it made: the keeper must not hold it either.
    fn forget_net(&mut self, name: &UnitName, unit: &Unit) {
        if !self.nets.contains_key(name) {
            let mut labels = vec![self.label(name, "netns")];
            labels.extend(unit.network.publish.iter().map(|publish| self.label(name, &publish.to_string())));
            self.keeper.let_go(&labels);
            self.names.close(name);
        }
    }

    /// The inits of those whose namespaces a service joins. One that is missing is missed by the step that wants it.
    fn peers(&self, unit: &Unit) -> Peers {
        let init = |name: &UnitName| self.runs.get(name)?.init_fd()?.try_clone_to_owned().ok();
        unit.namespaces.joined().filter_map(|name| Some((name.clone(), init(name)?))).collect()
    }

    /// The network namespace of another service that a service has; none where that one is not up.
    fn joined_net(&self, unit: &Unit) -> Option<NetNs> {
        self.nets.get(unit.network.joined()?)?.netns.try_clone().ok()
    }

    /// Whether another service is in the network namespace of this one.
    fn has_guests(&self, name: &UnitName) -> bool {
        let entries = self.fleet.entries();
        let is_guest = |other: &UnitName| {
            entries.get(other).is_some_and(|entry| entry.unit.network.joined() == Some(name))
        };
        self.nets.keys().any(is_guest)
    }

    /// The network of earlier runs, with their leftovers swept out. Where the kernel cannot do that (connections in
    /// TIME_WAIT on Linux 6.1), it is given up: a server that does not set SO_REUSEADDR could not bind in it.
    ///
    /// Nor is a network kept that the service had power over, or is to have.
    /// The second run of a service has the network of the first, with all that goes on in it.
    fn kept_net(&mut self, name: &UnitName, unit: &Unit) -> Option<Net> {
        if self.is_shared(name) {
            return self.nets.remove(&unit.name);
        }
        let name = &unit.name;
        let net = self.nets.get(name)?;
        if net.is_fleeting || unit.has_network_power() {
            self.release(name);
            return None;
        }
        let is_attached =
            AttachPlan::new(&unit.network).is_none_or(|plan| attach::is_there(&net.netns, &plan));
        if !is_attached || !self.launcher.network.has_link(net).unwrap_or(true) {
            tracing::info!(unit = %name, "its link has gone: another network namespace");
            self.release(name);
            return None;
        }
        if self.has_guests(name) {
            // Among what is left without an owner is what they have just closed, and is yet to be sent.
            return self.nets.remove(name);
        }
        match crate::net::sockdiag::sweep(&net.netns) {
            Ok(swept) if swept.left == 0 => return self.nets.remove(name),
            Ok(swept) => {
                tracing::info!(unit = %name, "{} old connections stay: another network namespace", swept.left);
            }
            Err(error) => tracing::warn!(unit = %name, "{error}: another network namespace"),
        }
        self.release(name);
        None
    }

    fn launch_failed(&mut self, name: &UnitName, run: RunId, fault: Box<LaunchFault>) {
        let retry = match fault.retry {
            Retry::Later => machine::Retry::Later,
            Retry::Never => machine::Retry::Never,
        };
        let text = fault.to_string();
        self.faults.insert(name.clone(), fault);
        self.report(name, Report::LaunchFailed(run, retry, text));
    }

    /// What was running when the policy forbade it runs on, but is not started again.
    fn admit(&self, unit: &Unit) -> Result<(), Box<LaunchFault>> {
        let refused = match &self.policy {
            Some(policy) => policy.refuses(unit),
            None => Some("the policy of this host cannot be read".to_owned()),
        };
        refused.map_or(Ok(()), |reason| Err(LaunchFault::refused("policy", &reason)))?;
        match unit.log.target.socket() {
            Some(path) if !std::path::Path::new(path).exists() => {
                let reason =
                    format!("log.target = {:?}: there is no {path} on this host", unit.log.target.as_str());
                Err(LaunchFault::refused("log", &reason))
            }
            _ => Ok(()),
        }
    }

    /// The id range of a service, which it keeps for good and which things of it are named after.
    pub(super) fn slot_of(&mut self, name: &UnitName) -> Result<u32, Box<LaunchFault>> {
        let before = self.assigned.of(&[name]);
        let count = self.settings.service_ranges();
        let slot = self.assigned.id_slot(name, count).ok_or_else(|| self.no_slot(&[name]))?;
        self.note_assigned(before)?;
        Ok(slot)
    }

    /// Writes down what was given away since; where that cannot be done, nothing was: a successor would give it to others.
    fn note_assigned(&mut self, before: Places) -> Result<(), Box<LaunchFault>> {
        if before == self.assigned.of(&before.names()) {
            return Ok(());
        }
        self.store.save_assigned(&self.assigned).map_err(|error| {
            self.assigned.put_back(before);
            LaunchFault::passing("assigned", &error)
        })
    }

    fn no_slot(&self, names: &[&UnitName]) -> Box<LaunchFault> {
        let count = self.settings.service_ranges();
        let error = match names.iter().find_map(|name| self.assigned.ids.get(*name)) {
            Some(slot) => format!(
                "range {slot}, which the service's files may belong to, is beyond ids.count = {count}: \
                 raise it in palisade.toml to what it was"
            ),
            None => "every id range of [ids] is given away".to_owned(),
        };
        LaunchFault::refused("ids", &error)
    }

    /// What this run gets: ids, address, control group.
    fn assign(
        &mut self,
        unit: &Unit,
        run: RunId,
        netns_kept: bool,
    ) -> Result<plan::Assigned, Box<LaunchFault>> {
        let name = &unit.name;
        // A service that shares another's range keeps one of its own all the same: things are named after it.
        let owner = match &unit.namespaces.user {
            UserNamespace::Shared(owner) => owner,
            UserNamespace::Auto | UserNamespace::Off => name,
        };
        let before = self.assigned.of(&[name, owner]);
        let count = self.settings.service_ranges();
        let slots = self.assigned.id_slot(name, count).zip(self.assigned.id_slot(owner, count));
        let Some((_, slot)) = slots else {
            return Err(self.no_slot(&[name, owner]));
        };
        let link = match &unit.network.mode {
            NetworkMode::Veth => {
                let network = &self.launcher.network.settings;
                let position = self
                    .assigned
                    .addresses
                    .assign(network, name, (unit.network.address, unit.network.bridge.as_deref()))
                    .map_err(|error| LaunchFault::refused("address", &error.to_string()))?;
                // A new letter for each namespace: the name of the last one is taken for a moment longer.
                let generation = u32::try_from(run.0 % 26).unwrap_or_default();
                LinkPlan::of(network, (position, generation), &unit.network)
            }
            NetworkMode::Attached(_) | NetworkMode::None | NetworkMode::Join(_) | NetworkMode::Host => None,
        };
        self.note_assigned(before)?;
        let (talk, peers) = self.talks(unit);
        let machine_id = unit.namespaces.machine_id.clone();
        Ok(plan::Assigned {
            run: run.0,
            id_base: self.settings.id_base + slot * IDS_PER_SERVICE,
            cgroup: self.launcher.tree().map(|tree| tree.group(name.as_str(), run.0)),
            root: self.launcher.root().to_path_buf(),
            state: self.options.state.clone(),
            link,
            netns_kept,
            talk,
            peers,
            stored: Vec::new(),
            machine_id: machine_id.unwrap_or_else(|| plan::machine_id(&self.facts.hostname, name.as_str())),
            ends_with_launcher: false,
            unprivileged: None,
        })
    }

    /// What the keeper calls the things of a service; names of services may be longer than its labels.
    fn label(&self, name: &UnitName, what: &str) -> String {
        let slot = self.assigned.ids.get(name).copied().unwrap_or_default();
        format!("{slot} {what}")
    }

    fn keep_net(&mut self, name: &UnitName, net: Option<&Net>) {
        let Some(net) = net else { return };
        let mut kept = Vec::new();
        if !net.is_fleeting {
            kept.push((self.label(name, "netns"), net.netns.as_fd()));
        }
        kept.extend(
            net.reserved.iter().map(|(publish, fd)| (self.label(name, &publish.to_string()), fd.as_fd())),
        );
        for (label, fd) in kept {
            if let Err(error) = self.keeper.keep(&label, fd) {
                tracing::error!(unit = %name, "the keeper does not hold {label}: {error}");
            }
        }
    }

    /// Somebody killed the keeper: another one gets what we hold.
    fn keeper_ended(&mut self) {
        if !self.keeper.has_ended() {
            return;
        }
        tracing::warn!("the keeper has ended; another one takes its place");
        self.keeper.lost();
        let nets = std::mem::take(&mut self.nets);
        for (name, net) in &nets {
            self.keep_net(name, Some(net));
        }
        self.nets = nets;
        self.keep_holdings();
    }

    fn release(&mut self, name: &UnitName) {
        // Of a twin it is never the last word.
        let Some(net) = self.nets.remove(name) else { return };
        self.names.close(name);
        let asking = net.talk.iter().map(|talk| talk.from).collect();
        let mut labels = vec![self.label(name, "netns")];
        labels.extend(net.reserved.iter().map(|(publish, _)| self.label(name, &publish.to_string())));
        self.keeper.let_go(&labels);
        self.point(name, "released-keeper");
        if let Err(error) = self.launcher.network.release(net) {
            tracing::error!(unit = %name, "the network was not released: {error}");
        }
        self.settle_asking(&asking);
        self.persist(name);
    }

    fn log(&mut self, name: &UnitName) -> Option<&mut LogWriter> {
        let name = &name.base();
        if !self.logs.contains_key(name) {
            let policy = self.fleet.entry(name)?.unit.log.clone();
            match LogWriter::open(&self.options.log, name.as_str(), policy) {
                Ok(writer) => drop(self.logs.insert(name.clone(), writer)),
                Err(error) => {
                    tracing::error!(unit = %name, "no log file: {error}");
                    return None;
                }
            }
        }
        self.logs.get_mut(name)
    }

    /// Reads the service files again; nothing comes of it yet.
    fn read_files(&mut self) -> config::Loaded {
        self.facts = crate::sys::facts::gather(self.settings.cgroup.as_deref());
        let mut loaded = config::load_with(&self.options.sources, &self.facts, &self.instances());
        self.show_ingress(&mut loaded);
        // What runs goes on as it was: nothing is lost by a mistake in a file.
        for name in loaded.broken.keys() {
            if let Some(entry) = self.fleet.entry(name) {
                loaded.units.insert(name.clone(), entry.unit.clone());
            }
        }
        loaded
    }

    /// Reads the service files again; what there is to say about them.
    fn load(&mut self) -> BTreeMap<UnitName, Unit> {
        let loaded = self.read_files();
        self.take_files(loaded)
    }

    /// From now on these are the files; their services are for the fleet.
    fn take_files(&mut self, loaded: config::Loaded) -> BTreeMap<UnitName, Unit> {
        for diagnostic in loaded.diagnostics() {
            tracing::error!("\n{}", crate::report::render(std::slice::from_ref(diagnostic), false));
        }
        match loaded.policy {
            Some(policy) => self.policy = Some(policy),
            // As with a service file: a mistake in it changes nothing.
            None => tracing::error!("the policy cannot be read: the last one that could be holds"),
        }
        self.metrics.loaded(loaded.broken.is_empty() && self.policy.is_some());
        let units = loaded.units;
        let in_a_line = |(name, found): (_, Vec<_>)| (name, config::diagnostic::in_a_line(&found));
        self.broken = loaded.broken.into_iter().map(in_a_line).collect();
        self.masked = loaded.masked;
        self.denials.places = loaded.deciding_places;
        self.denials.forget_all_but(&units);
        self.refusals.forget_all_but(&units);
        (self.files, self.templates) = (loaded.files, loaded.templates);
        let owners: BTreeSet<Owner> = units.values().flat_map(|unit| unit.owners.iter().cloned()).collect();
        let has_owners = !owners.is_empty();
        match self.server.set_owners(owners) {
            Err(error) if has_owners => tracing::warn!(
                "{error}: of the services' owners only members of the group {} can connect",
                crate::control::server::GROUP
            ),
            Ok(()) | Err(_) => {}
        }
        for (name, unit) in &units {
            if let Some(log) = self.logs.get_mut(name) {
                log.set_policy(unit.log.clone());
            }
            if name.is_service() {
                self.ages.look_at(name);
                self.settle_forward(name, unit.log.target);
            }
        }
        units
    }

    fn signalled(&mut self) {
        for signal in self.signals.take() {
            match signal {
                libc::SIGHUP => {
                    tracing::info!("SIGHUP: reading the service files again");
                    if let Err(refused) = self.read_again(None) {
                        tracing::error!("not done: {refused}");
                    }
                }
                libc::SIGUSR1 => {
                    self.history.reopen();
                    for (name, log) in &mut self.logs {
                        if let Err(error) = log.reopen() {
                            tracing::error!(unit = %name, "the log file was not opened again: {error}");
                        }
                    }
                }
                libc::SIGUSR2 => self.dump(),
                _ => {
                    let again = if self.stopping { ", at once" } else { "" };
                    tracing::info!("stopping all services{again}");
                    self.stopping = true;
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                    self.inputs.push_back(Input::Shutdown);
                }
            }
        }
    }

    fn dump(&self) {
        for (name, entry) in self.fleet.entries() {
            let (state, reason) = (entry.life.state.name(), entry.life.state.reason());
            let pids = self.runs.get(name).map(|run| (run.init.map(|(pid, _)| pid), run.main));
            tracing::info!(unit = %name, "{state} {reason} run {} pids {pids:?}", entry.life.last);
        }
    }

    /// Tells whoever started us when everything enabled has come up, or cannot.
    fn announce(&mut self) {
        let is_settled = |name: &UnitName| {
            self.fleet.entry(name).is_none_or(|entry| !matches!(entry.life.state, State::Starting { .. }))
        };
        if !self.announced && self.fleet.entries().keys().all(is_settled) {
            self.announced = true;
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            tracing::info!("ready: {} services", self.fleet.entries().len());
        }
    }

    /// Every service is down: nothing of this supervisor is left on the host after this.
    fn close(mut self) {
        let names: Vec<UnitName> = self.nets.keys().cloned().collect();
        for name in names {
            self.release(&name);
        }
        for name in self.holdings.keys().cloned().collect::<Vec<_>>() {
            self.let_go(&name);
        }
        self.squeezer.close();
        self.keeper.end();
        if let Err(error) = self.launcher.network.close() {
            tracing::error!("the network was not put back: {error}");
        }
        if let Some(tree) = self.launcher.tree() {
            tree.remove_base();
        }
        self.store.clear();
        self.clear_ingress();
        self.launcher.clear();
        tracing::info!("stopped");
    }
}

/// The signals that mean something to a supervisor.
struct Signals {
    pipe: OwnedFd,
    seen: Vec<(i32, Arc<AtomicBool>)>,
}

impl Signals {
    const KNOWN: [i32; 5] = [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTERM, libc::SIGINT];

    fn open() -> Result<Self, SysError> {
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (read, write) =
            rustix::pipe::pipe_with(flags).map_err(|errno| SysError::new("pipe2", "", errno))?;
        let mut seen = Vec::new();
        for signal in Self::KNOWN {
            let fault = |error| SysError::new("sigaction", signal.to_string(), error);
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(signal, Arc::clone(&flag)).map_err(fault)?;
            signal_hook::low_level::pipe::register(signal, write.try_clone().map_err(fault)?)
                .map_err(fault)?;
            seen.push((signal, flag));
        }
        // A predecessor in this very process has left them blocked, so that none is lost.
        let _ = nix::sys::signal::SigSet::all().thread_unblock();
        Ok(Self { pipe: read, seen })
    }

    /// Those that came since; the pipe only wakes.
    fn take(&self) -> Vec<i32> {
        let mut bytes = [0; 64];
        while rustix::io::read(&self.pipe, &mut bytes).is_ok_and(|read| read > 0) {}
        let came = self.seen.iter().filter(|(_, flag)| flag.swap(false, Ordering::SeqCst));
        came.map(|(signal, _)| *signal).collect()
    }
}

/// The end of a process, as an init tells of it: for `fuzz/`.
#[cfg(fuzzing)]
pub fn exit_kind(status: i64) -> machine::ExitKind {
    runs::exit_kind(status)
}
