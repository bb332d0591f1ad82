//! What is measured, when somebody asks: nothing is measured in between.
//!
//! Some files of the kernel are read for each service, hence only so many services in one turn of the loop: a scrape of a
//! thousand makes nobody else wait for more than a few milliseconds. All who ask meanwhile get the same text. Over HTTP
//! nobody makes it be gathered more than once a second.

use std::{collections::BTreeMap, fs, rc::Rc};

use jiff::Timestamp;

use super::{Supervisor, now};
use crate::{
    control::{
        server::ClientId,
        types::{Metrics as Told, ServiceState},
    },
    logs::LogWriter,
    machine::{
        Cause, End, ExitKind, Mono, Reason, State,
        fleet::{Entry, Past},
        health::HealthState,
    },
    metrics::{Exposition, Labels, Metric, Value},
    spec::UnitName,
};

/// Services that are measured in one turn of the loop.
pub(super) const AT_ONCE: usize = 16;
/// Milliseconds that a text is good for whoever asks over HTTP.
const FRESH: u64 = 1_000;
/// Milliseconds by which the clocks may drift apart before a start is told to have been at another time.
const DRIFT: i64 = 1_000;

/// What is counted here, and who waits for it.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Since 1970, milliseconds.
    begun: i64,
    /// CLOCK_REALTIME less CLOCK_MONOTONIC, milliseconds: of the same start the same time is told each time.
    offset: i64,
    loads: u64,
    last_load: i64,
    is_good: bool,
    /// Who has asked over the control socket.
    clients: Vec<ClientId>,
    gathering: Option<Gathering>,
    latest: Option<(Mono, Rc<[u8]>)>,
}

/// A text that is being made.
#[derive(Debug)]
struct Gathering {
    all: Exposition,
    /// Services that are still to be measured; the next one last.
    left: Vec<UnitName>,
    links: BTreeMap<String, Traffic>,
}

/// What a link has carried, from the host's end: what that one receives the service has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) received: (u64, u64),
    pub(super) sent: (u64, u64),
}

fn realtime() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Milliseconds as Prometheus wants them.
fn seconds(millis: i64) -> Value {
    u64::try_from(millis).map_or(Value::Count(0), |millis| Value::Micros(millis * 1000))
}

impl Metrics {
    pub(super) fn new() -> Self {
        let begun = realtime();
        Self {
            begun,
            offset: begun - i64::try_from(now().0).unwrap_or_default(),
            loads: 0,
            last_load: 0,
            is_good: false,
            clients: Vec::new(),
            gathering: None,
            latest: None,
        }
    }

    /// The service files have been read.
    pub(super) fn loaded(&mut self, is_good: bool) {
        self.loads += 1;
        (self.last_load, self.is_good) = (realtime(), is_good);
    }

    /// Somebody asks over the control socket.
    pub(super) fn asked(&mut self, client: ClientId) {
        self.clients.push(client);
    }

    pub(super) fn forget(&mut self, client: ClientId) {
        self.clients.retain(|other| *other != client);
    }

    fn is_due(&self, over_http: bool) -> bool {
        over_http || !self.clients.is_empty()
    }

    fn at(&self, at: Mono) -> Value {
        seconds(self.offset + i64::try_from(at.0).unwrap_or_default())
    }
}

impl Supervisor {
    /// When the loop is to go on with a text: at once, while one is being made.
    pub(super) fn metrics_deadline(&self) -> Option<Mono> {
        self.metrics.is_due(self.scrapes.is_waited_for()).then(now)
    }

    /// Goes on with the text that somebody waits for.
    pub(super) fn tell_metrics(&mut self) {
        let now = now();
        if let Some((_, text)) = self.metrics.latest.as_ref().filter(|(at, _)| now.0 < at.0 + FRESH) {
            self.scrapes.answer(text, now);
        } else {
            self.metrics.latest = None;
        }
        if !self.metrics.is_due(self.scrapes.is_waited_for()) {
            return;
        }
        let mut gathering = match self.metrics.gathering.take() {
            Some(gathering) => gathering,
            None => self.begin_gathering(),
        };
        let rest = gathering.left.len().saturating_sub(AT_ONCE);
        for name in gathering.left.split_off(rest) {
            self.measure(&name, &mut gathering);
        }
        if !gathering.left.is_empty() {
            self.metrics.gathering = Some(gathering);
            return;
        }
        self.measure_self(&mut gathering.all);
        let text = gathering.all.text();
        for client in std::mem::take(&mut self.metrics.clients) {
            self.server.reply(client, &Told { text: text.clone() }, false);
        }
        let text: Rc<[u8]> = text.into_bytes().into();
        self.scrapes.answer(&text, now);
        self.metrics.latest = Some((now, text));
    }

    fn begin_gathering(&mut self) -> Gathering {
        self.hear_denials();
        let fresh = realtime() - i64::try_from(now().0).unwrap_or_default();
        if (fresh - self.metrics.offset).abs() > DRIFT {
            self.metrics.offset = fresh;
        }
        let known = self.fleet.entries().keys().chain(self.broken.keys()).chain(&self.masked);
        // Of connections there may be any number; their service tells how many.
        let mut left: Vec<UnitName> =
            known.filter(|name| !name.is_twin() && !name.is_connection()).cloned().collect();
        left.sort();
        left.dedup();
        left.reverse();
        Gathering { all: Exposition::default(), left, links: traffic_now() }
    }

    fn measure(&self, name: &UnitName, gathering: &mut Gathering) {
        let state = self.service_state(name);
        let entry = self.fleet.entry(name);
        let none = BTreeMap::new();
        let labels = Labels::of_service(name.as_str(), entry.map_or(&none, |entry| &entry.unit.labels));
        let all = &mut gathering.all;
        let is_up = matches!(state, ServiceState::Active | ServiceState::Done);
        all.put(Metric::Up, &labels, is_up);
        for other in ServiceState::ALL {
            all.put(Metric::State, &labels.with([("state", other.as_str())]), *other == state);
        }
        let Some(entry) = entry else { return };
        self.measure_life(name, entry, &labels, all);
        self.measure_group(name, &labels, all);
        let net = self.nets.get(name).and_then(|net| net.link.as_ref());
        if let Some(traffic) = net.and_then(|link| gathering.links.get(&link.host_if)) {
            let ((bytes_in, packets_in), (bytes_out, packets_out)) = (traffic.sent, traffic.received);
            all.put(Metric::NetworkReceived, &labels, bytes_in);
            all.put(Metric::NetworkSent, &labels, bytes_out);
            all.put(Metric::NetworkReceivedPackets, &labels, packets_in);
            all.put(Metric::NetworkSentPackets, &labels, packets_out);
        }
        for (reason, count) in self.denials.totals(name) {
            let labels = labels.with([("layer", "nft"), ("reason", reason.name())]);
            all.put(Metric::Denials, &labels, count);
        }
        let log = self.logs.get(name).map(LogWriter::written).unwrap_or_default();
        all.put(Metric::LogLines, &labels, log.lines);
        all.put(Metric::LogBytes, &labels, log.bytes);
        all.put(Metric::LogDropped, &labels, log.dropped);
    }

    /// Its starts and ends.
    fn measure_life(&self, name: &UnitName, entry: &Entry, labels: &Labels, all: &mut Exposition) {
        all.put(Metric::Enabled, labels, entry.unit.enabled);
        if let State::Running { since, .. } = entry.life.state {
            all.put(Metric::Start, labels, self.metrics.at(since));
        }
        all.put(Metric::Launches, labels, entry.life.last.0);
        all.put(Metric::Restarts, labels, self.restarts.get(name).copied().unwrap_or_default());
        all.put(Metric::Failures, labels, u64::from(entry.life.tally.failures));
        let health = entry.health().map(|health| health.verdict);
        match (&entry.life.state, &entry.unit.health, health) {
            (State::Running { .. }, Some(_), Some(HealthState::Healthy)) => {
                all.put(Metric::Healthy, labels, true);
            }
            (State::Running { .. }, Some(_), Some(HealthState::Unhealthy)) => {
                all.put(Metric::Healthy, labels, false);
            }
            _ => {}
        }
        if entry.unit.accepts() {
            let count = u64::try_from(self.fleet.connections(name)).unwrap_or_default();
            all.put(Metric::Connections, labels, count);
        }
        if let Some(past) = entry.history.last() {
            self.measure_end(past, labels, all);
        }
    }

    fn measure_end(&self, past: &Past, labels: &Labels, all: &mut Exposition) {
        all.put(Metric::ExitTime, labels, self.metrics.at(past.ended));
        let status = match past.end {
            End::Exit(ExitKind::Code(code)) => Some(u64::from(code)),
            End::Exit(ExitKind::Signal(signal) | ExitKind::Core(signal)) => {
                u64::try_from(signal).ok().map(|signal| 128 + signal)
            }
            _ => None,
        };
        if let Some(status) = status {
            all.put(Metric::ExitStatus, labels, status);
        }
        let why = past.why.map_or("", Reason::as_str);
        let cause = past.cause.map_or("", |cause| match cause {
            Cause::MemoryMax => "memory_max",
            Cause::MemoryElsewhere => "memory_elsewhere",
        });
        all.put(
            Metric::ExitInfo,
            &labels.with([("end", end_word(past.end)), ("cause", cause), ("why", why)]),
            1,
        );
    }

    /// What its control group says.
    fn measure_group(&self, name: &UnitName, labels: &Labels, all: &mut Exposition) {
        let group = self.runs.get(name).and_then(|run| run.traces.cgroup.as_ref());
        let Some((tree, group)) = self.launcher.tree().zip(group) else { return };
        let it = tree.measure(group);
        if let Some((user, system)) = it.cpu_usec {
            all.put(Metric::Cpu, &labels.with([("mode", "user")]), Value::Micros(user));
            all.put(Metric::Cpu, &labels.with([("mode", "system")]), Value::Micros(system));
        }
        let throttled = it.throttled_usec.map(Value::Micros);
        let (read, written) = it.io_bytes.unzip();
        let values = [
            (Metric::CpuThrottled, throttled),
            (Metric::CpuLimit, it.cpus.map(Value::Number)),
            (Metric::Memory, it.memory.map(Value::Count)),
            (Metric::MemoryPeak, it.memory_peak.map(Value::Count)),
            (Metric::MemoryLimit, it.memory_max.map(Value::Count)),
            (Metric::OomKills, it.oom_kills.map(Value::Count)),
            (Metric::Pids, it.pids.map(Value::Count)),
            (Metric::PidsLimit, it.pids_max.map(Value::Count)),
            (Metric::IoRead, read.map(Value::Count)),
            (Metric::IoWritten, written.map(Value::Count)),
        ];
        for (metric, value) in values {
            if let Some(value) = value {
                all.put(metric, labels, value);
            }
        }
        for (resource, share, usec) in it.pressure {
            let labels = labels.with([("resource", resource), ("share", share)]);
            all.put(Metric::Pressure, &labels, Value::Micros(usec));
        }
    }

    fn measure_self(&self, all: &mut Exposition) {
        let none = Labels::default();
        let with = |name, value| Labels::default().with([(name, value)]);
        all.put(Metric::BuildInfo, &with("version", env!("CARGO_PKG_VERSION")), 1);
        let known = self.fleet.entries().keys().chain(self.broken.keys()).chain(&self.masked);
        let names: std::collections::BTreeSet<&UnitName> =
            known.filter(|name| !name.is_twin() && !name.is_connection()).collect();
        let states: Vec<ServiceState> = names.into_iter().map(|name| self.service_state(name)).collect();
        for state in ServiceState::ALL {
            let count = states.iter().filter(|other| *other == state).count();
            all.put(
                Metric::Services,
                &with("state", state.as_str()),
                u64::try_from(count).unwrap_or(u64::MAX),
            );
        }
        all.put(Metric::ConfigLoads, &none, self.metrics.loads);
        all.put(Metric::ConfigBroken, &none, u64::try_from(self.broken.len()).unwrap_or(u64::MAX));
        all.put(Metric::ConfigGood, &none, self.metrics.is_good);
        all.put(Metric::ConfigLoaded, &none, seconds(self.metrics.last_load));
        all.put(Metric::SupervisorStart, &none, seconds(self.metrics.begun));
        use nix::sys::{
            resource::{UsageWho, getrusage},
            time::TimeValLike,
        };
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            for (mode, time) in [("user", usage.user_time()), ("system", usage.system_time())] {
                let micros = u64::try_from(time.num_microseconds()).unwrap_or_default();
                all.put(Metric::SupervisorCpu, &with("mode", mode), Value::Micros(micros));
            }
        }
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        if let Some(pages) = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()) {
            let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
            all.put(Metric::SupervisorMemory, &none, pages * page);
        }
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            // The one that reads the directory is among them.
            all.put(Metric::SupervisorFds, &none, u64::try_from(fds.count() - 1).unwrap_or_default());
        }
        if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            all.put(Metric::SupervisorFdsMax, &none, most);
        }
    }
}

/// How a run ended, as a label.
fn end_word(end: End) -> &'static str {
    match end {
        End::Exit(ExitKind::Code(_)) => "exited",
        End::Exit(ExitKind::Signal(_)) => "killed",
        End::Exit(ExitKind::Core(_)) => "dumped",
        End::Exit(ExitKind::Unknown) => "unknown",
        End::Launch(_) => "launch",
        End::StartTimeout(_) => "start_timeout",
        End::RunTimeout(_) => "run_timeout",
        End::NotReady(_) => "not_ready",
        End::Hook => "hook",
        End::Watchdog => "watchdog",
        End::Unhealthy => "unhealthy",
    }
}

/// What all links have carried until now, by their names.
pub(super) fn traffic_now() -> BTreeMap<String, Traffic> {
    traffic(&fs::read_to_string("/proc/self/net/dev").unwrap_or_default())
}

/// Reads /proc/net/dev (proc_pid_net(5)): of each link bytes and packets received, six other numbers, and those sent.
fn traffic(text: &str) -> BTreeMap<String, Traffic> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let [bytes_in, packets_in, _, _, _, _, _, _, bytes_out, packets_out, ..] = numbers[..] else {
            return None;
        };
        let traffic = Traffic { received: (bytes_in, packets_in), sent: (bytes_out, packets_out) };
        Some((name.trim().to_owned(), traffic))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_links_is_read_as_the_kernel_writes_it() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls\n    \
                lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0\n\
             ps0123-ab: 18446744073709551615       7    0    0    0     0          0         0      9       1    0    0\n";
        let all = traffic(text);
        assert_eq!(all.len(), 2);
        assert_eq!(all["ps0123-ab"], Traffic { received: (u64::MAX, 7), sent: (9, 1) });
    }

    #[test]
    fn times_are_told_in_seconds() {
        assert_eq!((seconds(1500), seconds(-1)), (Value::Micros(1_500_000), Value::Count(0)));
    }
}
