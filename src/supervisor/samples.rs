//! What services take at the moment, for whoever watches them go on: measured when somebody asks, some in a turn of the loop
//! as in `metrics`.

use std::collections::BTreeMap;

use super::{
    Supervisor,
    metrics::{AT_ONCE, Traffic, traffic_now},
    now,
    requests::{Caller, health, moment},
};
use crate::{
    control::{
        server::ClientId,
        types::{Sample, Samples},
    },
    machine::{Mono, health::HealthState},
    spec::UnitName,
};

/// An answer that is being made.
#[derive(Debug)]
pub(super) struct Sampling {
    pub(super) client: ClientId,
    /// Services that are still to be measured; the next one last.
    left: Vec<UnitName>,
    links: BTreeMap<String, Traffic>,
    done: Vec<Sample>,
}

impl Supervisor {
    pub(super) fn begin_sampling(&mut self, client: ClientId, caller: &Caller, names: &[String]) {
        match self.seen(caller, names) {
            Ok(mut left) => {
                left.reverse();
                let links = traffic_now();
                self.samplings.push(Sampling { client, left, links, done: Vec::new() });
            }
            Err(error) => self.server.error(client, &error),
        }
    }

    /// When the loop is to go on with them: at once, while somebody waits.
    pub(super) fn samples_deadline(&self) -> Option<Mono> {
        (!self.samplings.is_empty()).then(now)
    }

    /// Goes on with the answer to whoever has asked first.
    pub(super) fn tell_samples(&mut self) {
        if self.samplings.is_empty() {
            return;
        }
        let mut sampling = self.samplings.remove(0);
        let rest = sampling.left.len().saturating_sub(AT_ONCE);
        let part = sampling.left.split_off(rest);
        sampling.done.extend(part.iter().rev().map(|name| self.sample(name, &sampling.links)));
        match sampling.left.is_empty() {
            true => self.server.reply(sampling.client, &Samples { services: sampling.done }, false),
            false => self.samplings.insert(0, sampling),
        }
    }

    fn sample(&self, name: &UnitName, links: &BTreeMap<String, Traffic>) -> Sample {
        let entry = self.fleet.entry(name);
        let group = self.runs.get(name).and_then(|run| run.traces.cgroup.as_ref());
        let measured =
            self.launcher.tree().zip(group).map(|(tree, group)| tree.measure(group)).unwrap_or_default();
        let (memory, pids) = match (measured.memory, measured.pids) {
            (Some(memory), Some(pids)) => (Some(memory), Some(pids)),
            (memory, pids) => {
                let (resident, count) = self.counted(name).unzip();
                (memory.or(resident), pids.or(count))
            }
        };
        let link = self.nets.get(name).and_then(|net| net.link.as_ref());
        let traffic = link.and_then(|link| links.get(&link.host_if));
        let some = measured.pressure.iter().filter(|(_, share, _)| *share == "some");
        Sample {
            name: name.to_string(),
            state: self.service_state(name),
            run: entry.map_or(0, |entry| entry.life.last.0),
            restarts: self.restarts.get(name).copied().unwrap_or_default(),
            since: entry.map(|entry| moment(entry.since)),
            healthy: entry.and_then(health).and_then(|health| match health.state {
                HealthState::Healthy => Some(true),
                HealthState::Unhealthy => Some(false),
                HealthState::Unknown => None,
            }),
            at: now().0,
            cpu_usec: measured.cpu_usec.map(|(user, system)| user + system),
            cpus: measured.cpus,
            memory,
            memory_max: measured.memory_max,
            pids,
            pids_max: measured.pids_max,
            pressure: some.map(|(resource, _, usec)| ((*resource).to_owned(), *usec)).collect(),
            // What the host's end sends is what the service receives.
            received_bytes: traffic.map(|traffic| traffic.sent.0),
            sent_bytes: traffic.map(|traffic| traffic.received.0),
        }
    }

    /// Bytes that its processes have in memory, what they share counted for each, and how many there are: where no
    /// controller counts.
    fn counted(&self, name: &UnitName) -> Option<(u64, u64)> {
        let processes = self.processes(name);
        let resident = processes.iter().map(|process| process.memory).sum();
        (!processes.is_empty()).then(|| (resident, u64::try_from(processes.len()).unwrap_or(u64::MAX)))
    }
}
