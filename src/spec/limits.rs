//! `[limits]`: how much a service may take, as it is enforced on this host.
//!
//! What a file asks for and the host cannot do never gets here: resolution refuses it. A default bends, and so does
//! everything under `best_effort`; how far is kept in [`Limits::bent`], so that `status` can say it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of all its processes together.
    pub memory: MemoryLimits,
    /// Of all its processes together.
    pub cpu: CpuLimits,
    /// Of all its processes together.
    pub io: IoLimits,
    /// Processes and threads; none: no bound by control group.
    pub pids: Option<u64>,
    /// Of each of its processes.
    pub rlimits: BTreeMap<Rlimit, Bounds>,
    /// Who is killed when its memory is used up.
    pub oom: Oom,
    /// What this host cannot enforce is left out.
    pub best_effort: bool,
    /// What is enforced in another way than asked, or not at all.
    pub bent: Vec<Bent>,
}

/// `limits.memory`, bytes; none: no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryLimits {
    /// Beyond it processes are killed.
    pub max: Option<u64>,
    /// Beyond it they are slowed down.
    pub high: Option<u64>,
    /// Up to here it is not taken away for others.
    pub low: Option<u64>,
    /// Of swap space.
    pub swap_max: Option<u64>,
}

/// `limits.cpu`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuLimits {
    /// Microseconds within [`CPU_PERIOD`].
    pub max: Option<u64>,
    /// 1 to 10000; who says nothing has 100.
    pub weight: Option<u64>,
    /// On which CPUs alone.
    pub pin: Option<CpuSet>,
}

/// The period of `cpu.max`, microseconds: the kernel's own default.
pub const CPU_PERIOD: u64 = 100_000;

/// `limits.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoLimits {
    /// 1 to 10000; who says nothing has 100.
    pub weight: Option<u64>,
    /// Bounds for single disks.
    pub max: Vec<IoMax>,
}

/// One entry of `limits.io.max`; none: no bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoMax {
    /// A block device, or a file on the disk that is meant.
    pub device: PathBuf,
    /// Bytes read in a second.
    pub rbps: Option<u64>,
    /// Bytes written in a second.
    pub wbps: Option<u64>,
    /// Reads in a second.
    pub riops: Option<u64>,
    /// Writes in a second.
    pub wiops: Option<u64>,
}

/// `limits.oom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Oom {
    /// The whole sandbox: what is left of a service that lost a process is rarely of use.
    KillGroup,
    /// One process, of the kernel's choice.
    KillOne,
}

/// A limit that is not enforced as it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bent {
    /// As a service file spells it.
    pub key: String,
    /// What the file or the default says.
    pub asked: String,
    /// What is enforced instead; none: nothing.
    pub enforced: Option<String>,
    /// Why.
    pub why: String,
}

/// A set of CPUs; written as the kernel does, `0-3,5`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuSet(pub BTreeSet<u32>);

impl CpuSet {
    /// Reads the kernel's form: numbers and ranges, joined by commas. None for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut set = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                digits.then(|| text.parse::<u32>().ok()).flatten().filter(|cpu| *cpu < MOST_CPUS)
            };
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            set.extend(first..=last);
        }
        Some(Self(set))
    }
}

/// More than any kernel is built for (NR_CPUS).
const MOST_CPUS: u32 = 8192;

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|next| *next == last + 1) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

/// Soft and hard limit; none: no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// What counts.
    pub soft: Option<u64>,
    /// Up to which the process may raise the soft one.
    pub hard: Option<u64>,
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |limit: Option<u64>| limit.map_or("infinity".to_owned(), |limit| limit.to_string());
        write!(f, "{}:{}", side(self.soft), side(self.hard))
    }
}

/// What setrlimit(2) bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "setrlimit(2) describes each")]
pub enum Rlimit {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl Rlimit {
    /// All sixteen, with their names in /proc/PID/limits and their numbers (asm-generic/resource.h).
    pub const ALL: [(Self, &'static str, u32); 16] = [
        (Self::As, "Max address space", 9),
        (Self::Core, "Max core file size", 4),
        (Self::Cpu, "Max cpu time", 0),
        (Self::Data, "Max data size", 2),
        (Self::Fsize, "Max file size", 1),
        (Self::Locks, "Max file locks", 10),
        (Self::Memlock, "Max locked memory", 8),
        (Self::Msgqueue, "Max msgqueue size", 12),
        (Self::Nice, "Max nice priority", 13),
        (Self::Nofile, "Max open files", 7),
        (Self::Nproc, "Max processes", 6),
        (Self::Rss, "Max resident set", 5),
        (Self::Rtprio, "Max realtime priority", 14),
        (Self::Rttime, "Max realtime timeout", 15),
        (Self::Sigpending, "Max pending signals", 11),
        (Self::Stack, "Max stack size", 3),
    ];

    /// As a service file spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::As => "as",
            Self::Core => "core",
            Self::Cpu => "cpu",
            Self::Data => "data",
            Self::Fsize => "fsize",
            Self::Locks => "locks",
            Self::Memlock => "memlock",
            Self::Msgqueue => "msgqueue",
            Self::Nice => "nice",
            Self::Nofile => "nofile",
            Self::Nproc => "nproc",
            Self::Rss => "rss",
            Self::Rtprio => "rtprio",
            Self::Rttime => "rttime",
            Self::Sigpending => "sigpending",
            Self::Stack => "stack",
        }
    }

    /// The kernel's number.
    pub fn number(self) -> u32 {
        Self::ALL.iter().find(|(limit, ..)| *limit == self).map_or(0, |(.., number)| *number)
    }
}

/// What the host can enforce. The default knows no bound at all: a host that has everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostLimits {
    /// Bytes of memory; 0: not known.
    pub memory: u64,
    /// Controllers of cgroup v2 that a service's group cannot have, and what to do about it.
    pub missing: BTreeMap<String, String>,
    /// CPUs that are there; empty: not known.
    pub cpus: CpuSet,
    /// Palisade's own limits; what is not here has no bound.
    pub rlimits: BTreeMap<Rlimit, Bounds>,
    /// Palisade may raise limits beyond its own (CAP_SYS_RESOURCE).
    pub can_raise: bool,
    /// The kernel's bound of `nofile` (/proc/sys/fs/nr_open); 0: not known.
    pub nr_open: u64,
}

/// One file of a control group and what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knob {
    /// Its name.
    pub file: &'static str,
    /// What is written.
    pub value: Value,
}

/// What a [`Knob`] is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// This text.
    Text(String),
    /// A bound for one disk, whose number is to be found out.
    Disk {
        /// As the file names it.
        device: PathBuf,
        /// `rbps=… wbps=…`.
        bounds: String,
    },
}

/// The files that [`Limits::knobs`] may set, and what a group has where nothing was ever written.
pub const KNOBS: [(&str, &str); 11] = [
    ("memory.max", "max"),
    ("memory.high", "max"),
    ("memory.low", "0"),
    ("memory.swap.max", "max"),
    ("memory.oom.group", "0"),
    ("cpu.max", "max 100000"),
    ("cpu.weight", "100"),
    ("cpuset.cpus", ""),
    ("io.weight", "default 100"),
    ("io.max", ""),
    ("pids.max", "max"),
];

impl Limits {
    /// Everything that is written into the control group, in order.
    pub fn knobs(&self) -> Vec<Knob> {
        let mut all = Vec::new();
        let mut put = |file, value: Option<String>| {
            all.extend(value.map(|value| Knob { file, value: Value::Text(value) }));
        };
        let bytes = |value: Option<u64>| value.map(|value| value.to_string());
        put("memory.max", bytes(self.memory.max));
        put("memory.high", bytes(self.memory.high));
        put("memory.low", bytes(self.memory.low));
        put("memory.swap.max", bytes(self.memory.swap_max));
        let group = self.oom == Oom::KillGroup && !self.lacks("limits.oom");
        put("memory.oom.group", group.then(|| "1".to_owned()));
        put("cpu.max", self.cpu.max.map(|quota| format!("{quota} {CPU_PERIOD}")));
        put("cpu.weight", bytes(self.cpu.weight));
        put("cpuset.cpus", self.cpu.pin.as_ref().map(ToString::to_string));
        put("io.weight", self.io.weight.map(|weight| format!("default {weight}")));
        put("pids.max", bytes(self.pids));
        all.extend(self.io.max.iter().map(|max| Knob {
            file: "io.max",
            value: Value::Disk { device: max.device.clone(), bounds: max.bounds() },
        }));
        all
    }

    /// Whether this key is not enforced at all.
    fn lacks(&self, key: &str) -> bool {
        self.bent.iter().any(|bent| bent.key == key && bent.enforced.is_none())
    }
}

impl IoMax {
    fn bounds(&self) -> String {
        let bound = |name: &str, value: Option<u64>| {
            format!("{name}={}", value.map_or("max".to_owned(), |value| value.to_string()))
        };
        let all = [("rbps", self.rbps), ("wbps", self.wbps), ("riops", self.riops), ("wiops", self.wiops)];
        all.map(|(name, value)| bound(name, value)).join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_cpus_is_written_as_the_kernel_does() {
        for (text, same) in
            [("0", "0"), ("0-3,5", "0-3,5"), ("3,1,2", "1-3"), ("0-1,1-2", "0-2"), ("7-7", "7")]
        {
            assert_eq!(CpuSet::parse(text).unwrap().to_string(), same);
        }
        for text in ["", "a", "1-", "-1", "3-1", "1,,2", "1, 2", "+1", "9999999999", "0-100000"] {
            assert_eq!(CpuSet::parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_rlimit_has_a_number_of_its_own() {
        let numbers: BTreeSet<u32> = Rlimit::ALL.iter().map(|(limit, ..)| limit.number()).collect();
        assert_eq!(numbers, (0..16).collect());
        assert_eq!(Rlimit::Nofile.number(), 7);
    }
}
