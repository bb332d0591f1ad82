//! Taking over: what a predecessor left running is found, what it left behind half-made is undone.
//!
//! A live run is known by its init, which listens on a socket of its own, and by pid and start time. The order matters:
//! first the records, then the runs and networks that they tell of, then everything that nobody tells of goes, and
//! only then are the service files read and the fleet told what has become of each run.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use super::{StartError, Supervisor, keeper, runs, runs::LiveRun, state::Record};
use crate::{
    cgroup,
    init::wire,
    launch::Net,
    machine::fleet::{Effect, Entry, Fleet, Input, Report},
    net::netns::NetNs,
    spec::{Egress, UnitName},
};

impl Supervisor {
    /// Takes over what there is, and starts what is to be started.
    pub(super) fn adopt(&mut self) -> Result<(), StartError> {
        let (records, complaints) = self.store.load();
        for complaint in complaints {
            tracing::error!("state that cannot be read is passed over: {complaint}");
        }
        let mut held = self.keeper.find().unwrap_or_else(|error| {
            tracing::error!("the keeper of a predecessor does not answer: {error}");
            BTreeMap::new()
        });
        let entries = records.iter().map(|record| record.entry.clone());
        self.fleet = Fleet::restore(self.assigned.seed, entries);
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.fleet.set_parallel_starts(self.settings.parallel_starts(cpus));
        self.point_of_all("adopt-records");
        let mut dead = Vec::new();
        for record in &records {
            let name = &record.entry.unit.name;
            self.restarts.insert(name.clone(), record.restarts);
            if let Some(fault) = &record.fault {
                self.faults.insert(name.clone(), fault.clone());
            }
            if !self.adopt_run(record) {
                dead.extend(record.entry.life.state.run().map(|run| (name.clone(), run)));
            }
            self.changes.adopt(name, &record.marks);
            if name.is_service() {
                self.point(name, "adopt-run");
            }
        }
        // A network may be known by a run of any of a service's.
        for record in records.iter().filter(|record| record.entry.unit.name.is_service()) {
            let name = &record.entry.unit.name;
            self.adopt_net(record, &mut held);
            self.adopt_holdings(record, &mut held);
            self.point(name, "adopt-net");
        }
        self.point_of_all("adopt-runs");
        // What is still held belongs to nobody. Ours is a copy: both go, or the port stays taken.
        self.keeper.let_go(held.keys());
        drop(held);
        self.recall_talk();
        let mut live: Vec<&mut Net> = self.nets.values_mut().collect();
        let changed = self.store.forwarding();
        if let Err(error) = self.launcher.network.adopt(&mut live, changed, super::now()) {
            tracing::error!("the network was not taken over: {error}");
        }
        self.bound_again();
        self.point_of_all("adopt-networks");
        self.sweep();
        self.point_of_all("adopt-swept");
        for name in self.runs.keys().cloned().collect::<Vec<_>>() {
            self.verify_limits(&name);
        }
        if self.runs.len() > dead.len() {
            tracing::info!("taking over {} running services", self.runs.len() - dead.len());
        }
        let units = self.load();
        self.point_of_all("adopt-read");
        let units = self.resume_trial(units);
        self.inputs.push_back(Input::Reload(units));
        self.pump();
        self.point_of_all("adopt-reloaded");
        for name in self.runs.keys().cloned().collect::<Vec<_>>() {
            self.watch_again(&name);
        }
        for (name, run) in dead {
            // A run whose init is gone: its last words say how it ended.
            if let Some(name) = self.name_of(&name, run) {
                self.init_ended(&name);
            }
        }
        self.pump();
        self.point_of_all("adopt-dead");
        let owed = |entry: &Entry| {
            let name = entry.unit.name.clone();
            entry.life.state.owed().into_iter().map(move |action| Effect { name: name.clone(), action })
        };
        let owed: Vec<Effect> = self.fleet.entries().values().flat_map(owed).collect();
        for effect in owed {
            self.carry_out(effect);
        }
        self.point_of_all("adopt-owed");
        self.inputs.push_back(Input::Boot);
        self.pump();
        // What was held when a predecessor died, and what it had not come to.
        let known = self.fleet.entries().keys().chain(self.holdings.keys());
        for name in known.cloned().collect::<BTreeSet<_>>() {
            self.settle_holdings(&name);
            self.mind_changes(&name);
        }
        self.pump();
        self.point_of_all("adopt-booted");
        Ok(())
    }

    /// Finds the run of a record again. False: it has ended meanwhile, and waits for its end to be told.
    fn adopt_run(&mut self, record: &Record) -> bool {
        let entry = &record.entry;
        let name = &entry.unit.name;
        let Some(run) = entry.life.state.run() else { return true };
        // Persisted before the launch, killed before it was recorded: the traces have names that can be told.
        let traces = match &record.run {
            Some(run) => run.traces.clone(),
            None => self.launcher.traces(&name.base(), run.0),
        };
        let mut live = LiveRun::adopted(run, traces, record.run.as_ref());
        live.is_over = entry.life.state.alive().is_none();
        live.before = record.run.as_ref().map(|run| run.before).unwrap_or_default();
        if let Some(known) = &record.run
            && runs::is_alive(known.pid, known.start_time)
            && let Some(pidfd) = open_pidfd(known.pid)
            // Checked again: the descriptor might have come too late.
            && runs::is_alive(known.pid, known.start_time)
        {
            live.init = Some((known.pid, known.start_time));
            live.pidfd = Some(pidfd);
        }
        match keeper::connect(&live.traces.socket) {
            Ok(Some(channel)) => {
                let _ = rustix::io::ioctl_fionbio(&channel, true);
                live.channel = Some(channel);
                live.say(wire::SAY_HAND_OVER, 0, 0);
            }
            Ok(None) => {}
            Err(error) => tracing::error!(unit = %name, "its init is not reached: {error}"),
        }
        self.adopt_notes(name, &mut live);
        let is_there = live.pidfd.is_some() || live.channel.is_some();
        self.runs.insert(name.clone(), live);
        is_there
    }

    /// An adopted init has said which process it is, and whether its main process lives.
    pub(super) fn identified(&mut self, name: &UnitName, pid: Option<u32>, main: i64) {
        let is_main_alive = main != 0;
        let Some(run) = self.runs.get_mut(name) else { return };
        if run.pidfd.is_none()
            && let Some(pid) = pid
        {
            run.pidfd = open_pidfd(pid);
            run.init = super::state::start_time(pid).map(|time| (pid, time));
        }
        run.main_inside = (main > 0).then_some(main);
        let id = run.run;
        if !is_main_alive && !run.is_over {
            run.main = None;
            // It ended while nobody listened, in a sandbox that stays (`restart.mode = "in-place"`). Without last words
            // it is yet to be started.
            if let Some(words) = run.last_words() {
                run.is_over = true;
                self.exited(name, id, runs::exit_kind(i64::from(words.status)));
            }
        } else if !run.is_over {
            run.main = match main {
                // Of a starter that has ended some are left.
                ..0 => None,
                _ => run.main.or_else(|| run.init.and_then(|(pid, _)| first_child(pid))),
            };
            // Whether its program was executed before the predecessor died nobody has told the fleet yet.
            if run.main.is_some() || main < 0 {
                self.report(name, Report::Started(id));
            }
        }
        self.hooks_known(name, is_main_alive);
        self.persist(name);
    }

    fn adopt_net(&mut self, record: &Record, held: &mut BTreeMap<String, OwnedFd>) {
        let name = &record.entry.unit.name;
        let Some(known) = &record.net else { return };
        let kept = held.remove(&self.label(name, "netns")).and_then(|fd| NetNs::from_fd(fd).ok());
        let of_run = || {
            let mut all = self.runs.iter().filter(|(other, _)| other.base() == *name);
            let pidfd = all.find_map(|(_, run)| run.pidfd.as_ref())?;
            NetNs::of_pid(pidfd.as_fd()).ok()
        };
        let Some(netns) = kept.or_else(of_run) else { return };
        let mut net = Net::new(netns);
        net.link = known.link.clone();
        net.egress = match known.reach.as_slice() {
            _ if known.egress => Egress::Any,
            [] if known.names.is_empty() => Egress::None,
            list => Egress::Only(list.to_vec()),
        };
        net.bandwidth = known.bandwidth;
        net.names.clone_from(&known.names);
        net.is_fleeting = known.is_fleeting;
        net.firewall = known.firewall;
        for publish in &known.publish {
            let reserved = match held.remove(&self.label(name, &publish.to_string())) {
                Some(fd) => Ok(fd),
                None => crate::net::reserve::reserve(publish),
            };
            match reserved {
                Ok(fd) => net.reserved.push((*publish, fd)),
                Err(error) => tracing::error!(unit = %name, "{publish} was lost: {error}"),
            }
        }
        self.nets.insert(name.clone(), net);
    }

    /// Removes the control groups, sockets and records of runs that nobody knows.
    fn sweep(&self) {
        let known: BTreeSet<_> = self.runs.values().filter_map(|run| run.traces.cgroup.clone()).collect();
        if let Some(tree) = self.launcher.tree() {
            let groups = tree.runs().into_iter().map(|(service, run)| tree.group(&service, run));
            let lost: Vec<PathBuf> = groups.filter(|group| !known.contains(group)).collect();
            for group in &lost {
                tracing::warn!("removing what is left of {}", group.display());
                if let Err(error) = tree.kill(group) {
                    tracing::error!("{error}");
                }
            }
            for group in &lost {
                cgroup::wait_until_empty(&tree.path(group));
                if let Err(error) = tree.remove(group) {
                    tracing::error!("{error}");
                }
            }
        }
        let files: BTreeSet<_> = self
            .runs
            .values()
            .flat_map(|run| [run.traces.socket.clone(), run.traces.words.clone()])
            .collect();
        self.launcher.sweep(&files);
    }
}

/// A descriptor of a process, if it lives.
pub(super) fn open_pidfd(pid: u32) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

/// The first child of an init: the main process, for sessions come later.
fn first_child(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
