//! What there is to measure, and the text in which Prometheus is told of it (exposition format 0.0.4). Pure.
//!
//! [`Metric`] is the one table: what is exported, the page about it and the dashboard's test are made of it. Names follow
//! Prometheus' conventions: seconds and bytes, `_total` for what only grows, and no name that another exporter has, so that
//! the text can go through node_exporter's textfile collector beside that one's own.
//!
//! What cannot be measured is left out. A zero would say that it was measured.

use std::{collections::BTreeMap, fmt::Write as _};

/// The content type of [`Exposition::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a value goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until what is counted begins anew.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    /// As a `# TYPE` line says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        }
    }
}

/// Makes the enumeration and its table in one: variant, kind, name, labels beside `service`, whether it is of a service.
macro_rules! metrics {
    ($($variant:ident: $kind:ident $name:literal $labels:tt $about:literal;)*) => {
        /// One thing that is measured.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Metric {
            $(#[doc = $about] $variant,)*
        }

        impl Metric {
            /// All of them, in the order of the text.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it is exported.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How it goes on.
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// The labels of each value, beside those that a service file adds.
            pub fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &$labels,)* }
            }

            /// What it says.
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }
        }
    };
}

metrics! {
    BuildInfo: Gauge "palisade_build_info" ["version"] "The version of the supervisor; always 1.";
    Services: Gauge "palisade_services" ["state"] "Services in each state.";
    ConfigLoads: Counter "palisade_config_loads_total" []
        "How often this supervisor has read the service files, at its start included.";
    ConfigBroken: Gauge "palisade_config_broken_files" []
        "Service files with errors; what they described before goes on as it was.";
    ConfigGood: Gauge "palisade_config_last_load_successful" []
        "Whether the files were without errors when they were last read.";
    ConfigLoaded: Gauge "palisade_config_last_load_timestamp_seconds" [] "When they were, since 1970.";
    SupervisorStart: Gauge "palisade_supervisor_start_time_seconds" []
        "When this supervisor began, since 1970; services may be older.";
    SupervisorCpu: Counter "palisade_supervisor_cpu_seconds_total" ["mode"]
        "CPU time of the supervisor itself, by mode: user, system.";
    SupervisorMemory: Gauge "palisade_supervisor_resident_memory_bytes" [] "Its resident memory.";
    SupervisorFds: Gauge "palisade_supervisor_open_fds" [] "Its open descriptors.";
    SupervisorFdsMax: Gauge "palisade_supervisor_max_fds" [] "How many it may have open.";
    Up: Gauge "palisade_service_up" ["service"]
        "1: its program runs, or it is a oneshot that ended well and counts as active (its state is done).";
    State: Gauge "palisade_service_state" ["service", "state"]
        "1 for the state that the service is in, 0 for all others.";
    Enabled: Gauge "palisade_service_enabled" ["service"] "Whether it is started when the supervisor comes up.";
    Start: Gauge "palisade_service_start_time_seconds" ["service"]
        "When the program of its present run was executed, since 1970.";
    Launches: Counter "palisade_service_launches_total" ["service"] "Its launches, over all supervisors.";
    Restarts: Counter "palisade_service_restarts_total" ["service"]
        "Launches after an end that nobody had asked for.";
    Failures: Gauge "palisade_service_consecutive_failures" ["service"] "Runs that have failed in a row.";
    ExitStatus: Gauge "palisade_service_last_exit_status" ["service"]
        "Exit status of its last run as shells tell it: 128 and the number of the signal that ended it.";
    ExitTime: Gauge "palisade_service_last_exit_timestamp_seconds" ["service"]
        "When its last run ended, since 1970.";
    ExitInfo: Gauge "palisade_service_last_exit_info" ["service", "end", "cause", "why"]
        "How its last run ended (exited, killed, dumped, unknown, launch, start_timeout, run_timeout, not_ready, hook, \
         watchdog, unhealthy), why the kernel ended it (memory_max, memory_elsewhere), where it did, and for what \
         Palisade did (stop, restart, start_timeout, run_timeout, hook, watchdog, unhealthy); always 1.";
    Healthy: Gauge "palisade_service_healthy" ["service"]
        "1: its health checks pass, 0: they fail; of services that are checked, once that is known.";
    Cpu: Counter "palisade_service_cpu_seconds_total" ["service", "mode"]
        "CPU time of its present run, all processes, by mode: user, system.";
    CpuThrottled: Counter "palisade_service_cpu_throttled_seconds_total" ["service"]
        "How long it had to wait because its limits.cpu.max was used up.";
    CpuLimit: Gauge "palisade_service_cpu_limit_cpus" ["service"] "CPUs that it may use at the same time.";
    Memory: Gauge "palisade_service_memory_bytes" ["service"]
        "Memory that its processes use, file cache included (memory.current).";
    MemoryPeak: Gauge "palisade_service_memory_peak_bytes" ["service"] "The same at the worst moment of its run.";
    MemoryLimit: Gauge "palisade_service_memory_limit_bytes" ["service"] "Its memory.max.";
    OomKills: Counter "palisade_service_oom_kills_total" ["service"]
        "Processes of its present run that were killed because memory was used up.";
    Pids: Gauge "palisade_service_pids" ["service"] "Its processes and threads.";
    PidsLimit: Gauge "palisade_service_pids_limit" ["service"] "How many it may have (pids.max).";
    IoRead: Counter "palisade_service_io_read_bytes_total" ["service"]
        "Bytes that its present run has read from disks.";
    IoWritten: Counter "palisade_service_io_written_bytes_total" ["service"] "Bytes that it has written to disks.";
    Pressure: Counter "palisade_service_pressure_seconds_total" ["service", "resource", "share"]
        "How long some, or all at the same time (full), of its processes waited for cpu, memory or io.";
    NetworkReceived: Counter "palisade_service_network_receive_bytes_total" ["service"]
        "Bytes that came to it over its link.";
    NetworkSent: Counter "palisade_service_network_transmit_bytes_total" ["service"]
        "Bytes that it has sent over its link.";
    NetworkReceivedPackets: Counter "palisade_service_network_receive_packets_total" ["service"]
        "Packets that came to it over its link.";
    NetworkSentPackets: Counter "palisade_service_network_transmit_packets_total" ["service"]
        "Packets that it has sent over its link.";
    Connections: Gauge "palisade_service_connections" ["service"]
        "Runs for connections that live, of a service with socket.accept.";
    Denials: Counter "palisade_service_denials_total" ["service", "layer", "reason"]
        "What of it was refused, by the layer that did so (nft: packets; beyond ten a second of one reason the kernel \
         tells of none) and the reason.";
    LogLines: Counter "palisade_service_log_lines_total" ["service"]
        "Lines of its output that were written to its log.";
    LogBytes: Counter "palisade_service_log_bytes_total" ["service"]
        "Bytes of its log that were written, time stamps included.";
    LogDropped: Counter "palisade_service_log_dropped_bytes_total" ["service"]
        "Bytes of its output that are in no log: the disk was full, or nobody supervised and the pipe was full.";
}

/// The labels that Prometheus gives to every target, and would have to rename in what it is told.
const TARGET_LABELS: [&str; 2] = ["instance", "job"];

/// Whether a service file may add a label of this name; else why not.
///
/// # Errors
/// What is wrong with it, in a few words.
pub fn check_label(name: &str) -> Result<(), &'static str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_word) {
        return Err("is no name of letters, digits and '_' that begins with a letter");
    }
    if name.starts_with("__") {
        return Err("begins with two underscores, which Prometheus keeps for itself");
    }
    if TARGET_LABELS.contains(&name) {
        return Err("is what Prometheus calls the target itself");
    }
    match Metric::ALL.iter().any(|metric| metric.labels().contains(&name)) {
        true => Err("is a label of Palisade's own"),
        false => Ok(()),
    }
}

/// A value as the text has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Count(u64),
    /// Microseconds, told in seconds.
    Micros(u64),
    /// Any other number.
    Number(f64),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Value::Count(count)
    }
}

impl From<bool> for Value {
    fn from(holds: bool) -> Self {
        Value::Count(holds.into())
    }
}

impl Value {
    fn write(self, out: &mut String) {
        // Writing to a string does not fail.
        let _ = match self {
            Value::Count(count) => write!(out, "{count}"),
            Value::Micros(micros) if micros % 1_000_000 == 0 => write!(out, "{}", micros / 1_000_000),
            Value::Micros(micros) => {
                let fraction = format!("{:06}", micros % 1_000_000);
                write!(out, "{}.{}", micros / 1_000_000, fraction.trim_end_matches('0'))
            }
            Value::Number(number) if number.is_nan() => write!(out, "NaN"),
            Value::Number(number) if number.is_infinite() => {
                write!(out, "{}Inf", if number > 0.0 { "+" } else { "-" })
            }
            Value::Number(number) => write!(out, "{number}"),
        };
    }
}

/// Labels, ready for the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(String);

impl Labels {
    /// Those of one service.
    pub fn of_service(name: &str, own: &BTreeMap<String, String>) -> Self {
        let own = own.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Self::default().with([("service", name)]).with(own)
    }

    /// These, and more.
    #[must_use]
    pub fn with<'a>(&self, more: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = self.0.clone();
        for (name, value) in more {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
            text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        Self(text)
    }
}

/// Values as they come, of whatever is measured at the moment; in the text those of one metric stand together.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    values: BTreeMap<Metric, String>,
}

impl Exposition {
    /// Adds one value.
    pub fn put(&mut self, metric: Metric, labels: &Labels, value: impl Into<Value>) {
        let lines = self.values.entry(metric).or_default();
        lines.push_str(metric.name());
        if !labels.0.is_empty() {
            lines.push('{');
            lines.push_str(&labels.0);
            lines.push('}');
        }
        lines.push(' ');
        value.into().write(lines);
        lines.push('\n');
    }

    /// The whole text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (metric, lines) in &self.values {
            let (name, kind) = (metric.name(), metric.kind().as_str());
            // Nothing in it has to be escaped: a test looks.
            let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n{lines}", metric.about());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_types_go_together_as_prometheus_has_it() {
        let mut names = BTreeSet::new();
        for metric in Metric::ALL {
            let name = metric.name();
            assert!(names.insert(name), "{name} twice");
            assert!(name.starts_with("palisade_"), "{name}");
            assert_eq!(metric.kind() == Kind::Counter, name.ends_with("_total"), "{name}");
            let about = metric.about();
            assert!(about.ends_with('.') && !about.contains(['\\', '\n']) && !about.contains("  "), "{name}");
            let is_of_service = name.starts_with("palisade_service_");
            assert_eq!(metric.labels().first() == Some(&"service"), is_of_service, "{name}");
            for old in ["_ms", "_usec", "_kb", "_mb", "_percent"] {
                assert!(!name.contains(old), "{name}: seconds, bytes and ratios");
            }
        }
    }

    #[test]
    fn a_label_is_escaped_and_values_are_exact() {
        let own = BTreeMap::from([("team".to_owned(), "a\"b\\c\nd".to_owned())]);
        let web = Labels::of_service("web", &own);
        let mut all = Exposition::default();
        all.put(Metric::Up, &web, true);
        all.put(Metric::Cpu, &web.with([("mode", "user")]), Value::Micros(1_000_042));
        all.put(Metric::Cpu, &web.with([("mode", "system")]), Value::Micros(3_000_000));
        all.put(Metric::CpuLimit, &web, Value::Number(0.5));
        all.put(Metric::Memory, &web, u64::MAX);
        all.put(Metric::ConfigLoads, &Labels::default(), 7);
        let text = all.text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let labels = r#"service="web",team="a\"b\\c\nd""#;
        assert_eq!(
            lines,
            [
                "palisade_config_loads_total 7".to_owned(),
                format!("palisade_service_up{{{labels}}} 1"),
                format!("palisade_service_cpu_seconds_total{{{labels},mode=\"user\"}} 1.000042"),
                format!("palisade_service_cpu_seconds_total{{{labels},mode=\"system\"}} 3"),
                format!("palisade_service_cpu_limit_cpus{{{labels}}} 0.5"),
                format!("palisade_service_memory_bytes{{{labels}}} 18446744073709551615"),
            ]
        );
        assert_eq!(text.matches("# TYPE palisade_service_cpu_seconds_total counter\n").count(), 1);
        assert!(!text.contains("palisade_service_pids"), "what was not measured has no heading either");
    }

    #[test]
    fn labels_that_mean_something_else_are_refused() {
        for good in ["team", "Tier_2", "_x", "servicename"] {
            assert_eq!(check_label(good), Ok(()), "{good}");
        }
        for bad in
            ["", "2x", "a-b", "a.b", "ä", "__x", "job", "instance", "service", "state", "mode", "version"]
        {
            assert!(check_label(bad).is_err(), "{bad}");
        }
    }
}
