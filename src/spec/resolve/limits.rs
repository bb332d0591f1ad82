//! `[limits]`: what the file asks for, what the host can do, and how far the two are apart.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use toml::Spanned;

use super::Reader;
use crate::{
    config::{
        schema::{IoMaxTable, Scalar},
        value::{self, Refusal},
    },
    spec::{
        UserNamespace, defaults,
        limits::{
            Bent, Bounds, CPU_PERIOD, CpuLimits, CpuSet, IoLimits, IoMax, Limits, MemoryLimits, Oom, Rlimit,
        },
    },
};

const OOMS: &[(&str, Oom)] = &[("kill-group", Oom::KillGroup), ("kill-one", Oom::KillOne)];

pub(super) fn limits(reader: &mut Reader<'_>, user: &UserNamespace) -> Limits {
    let table = &reader.file.tables.limits;
    let best_effort = table.best_effort.unwrap_or(false);
    let mut host = Host { best_effort, bent: Vec::new() };
    let memory = memory(reader, &mut host);
    let cpu = cpu(reader, &mut host);
    let io = io(reader, &mut host);
    let mut rlimits = rlimits(reader, &mut host);
    let pids = pids(reader, &mut host, user, &mut rlimits);
    let oom = reader.word("limits.oom", &table.oom, OOMS);
    if oom.unwrap_or(defaults::OOM) == Oom::KillGroup {
        let span = table.oom.as_ref().map(Spanned::span);
        host.has(reader, "limits.oom", "memory", span, "kill-group".to_owned());
    }
    Limits { memory, cpu, io, pids, rlimits, oom: oom.unwrap_or(defaults::OOM), best_effort, bent: host.bent }
}

/// What the host makes of what is asked.
struct Host {
    best_effort: bool,
    bent: Vec<Bent>,
}

impl Host {
    /// Whether `key` can be enforced by this controller. `span` is where the file asks for it; none: it is a default.
    fn has(
        &mut self,
        reader: &mut Reader<'_>,
        key: &str,
        controller: &str,
        span: Option<Range<usize>>,
        asked: String,
    ) -> bool {
        let Some(remedy) = reader.host.limits.missing.get(controller) else { return true };
        let why = format!("services here have no {controller} controller of cgroup v2");
        let remedy = remedy.clone();
        self.lack(reader, key, span, asked, (why, remedy));
        false
    }

    /// Something cannot be enforced: a mistake where the file asks for it, unless it may bend.
    fn lack(
        &mut self,
        reader: &mut Reader<'_>,
        key: &str,
        span: Option<Range<usize>>,
        asked: String,
        (why, remedy): (String, String),
    ) {
        match span {
            Some(span) if !self.best_effort => {
                let refusal = Refusal::new(format!("`{key}` cannot be enforced: {why}"));
                let hint = format!("{remedy}; or go without it here: `best_effort = true` in [limits]");
                reader.refuse(span, refusal.hint(hint));
            }
            _ => self.bent.push(Bent { key: key.to_owned(), asked, enforced: None, why }),
        }
    }
}

/// A size, or a share of the host's memory; the outer none stands for a key that is not there or wrong, the inner one for
/// `infinity`.
fn size(reader: &mut Reader<'_>, value: &Option<Spanned<Scalar>>) -> Option<Option<u64>> {
    let ram = Some(reader.host.limits.memory).filter(|ram| *ram > 0);
    reader.checked(value.as_ref()?, |value| match is_infinite(value) {
        true => Ok(None),
        false => value::parse_size(value, ram).map(Some),
    })
}

fn is_infinite(value: &Scalar) -> bool {
    matches!(value, Scalar::Text(text) if text.trim() == "infinity")
}

fn span<T>(value: &Option<Spanned<T>>) -> Option<Range<usize>> {
    value.as_ref().map(Spanned::span)
}

fn memory(reader: &mut Reader<'_>, host: &mut Host) -> MemoryLimits {
    let table = &reader.file.tables.limits.memory;
    let share = |of: u64, percent: u64| u64::try_from(u128::from(of) * u128::from(percent) / 100).ok();
    let ram = Some(reader.host.limits.memory).filter(|ram| *ram > 0);
    let max = size(reader, &table.max);
    if let (Some(key), Some(Some(0..PAGE))) = (&table.max, max) {
        let refusal = Refusal::new("no process fits into less than a page of memory");
        reader.refuse(key.span(), refusal.hint("write a size, such as \"512M\""));
    }
    let max = max.unwrap_or_else(|| ram.and_then(|ram| share(ram, defaults::MEMORY_MAX)));
    let high = size(reader, &table.high);
    if let (Some(key), Some(Some(high)), Some(max)) = (&table.high, high, max)
        && high > max
    {
        let refusal = Refusal::new(format!("`high` ({high} bytes) is more than `max` ({max} bytes)"));
        reader.refuse(key.span(), refusal.hint("lower it, or raise `max`"));
    }
    let high = high.unwrap_or_else(|| max.and_then(|max| share(max, defaults::MEMORY_HIGH)));
    let low = size(reader, &table.low).flatten();
    let swap_max = size(reader, &table.swap_max).flatten();
    let mut keep = |key: &str, value: Option<u64>, given: &Option<Spanned<Scalar>>| {
        let kept = host.has(reader, key, "memory", span(given), value?.to_string());
        value.filter(|_| kept)
    };
    MemoryLimits {
        max: keep("limits.memory.max", max, &table.max),
        high: keep("limits.memory.high", high, &table.high),
        low: keep("limits.memory.low", low, &table.low),
        swap_max: keep("limits.memory.swap_max", swap_max, &table.swap_max),
    }
}

/// Less than this the kernel rounds to nothing.
const PAGE: u64 = 4096;

fn cpu(reader: &mut Reader<'_>, host: &mut Host) -> CpuLimits {
    let table = &reader.file.tables.limits.cpu;
    let max = table.max.as_ref().and_then(|max| reader.checked(max, quota)).flatten();
    let weight = weight(reader, &table.weight);
    let pin = table.pin.as_ref().and_then(|text| {
        let set = reader.text(text)?;
        let there = &reader.host.limits.cpus;
        let checked = match CpuSet::parse(&set) {
            None => Err(Refusal::new(format!("{set:?} is not a list of CPUs"))
                .hint("write numbers and ranges, such as \"0-3,5\"")),
            Some(set) if !there.0.is_empty() && !set.0.is_subset(&there.0) => {
                let gone = CpuSet(set.0.difference(&there.0).copied().collect());
                Err(Refusal::new(format!("this host has no CPU {gone} online"))
                    .hint(format!("it has {there}")))
            }
            Some(set) => Ok(set),
        };
        reader.take(text.span(), checked)
    });
    let max = max.filter(|max| {
        host.has(reader, "limits.cpu.max", "cpu", span(&table.max), format!("{}%", max * 100 / CPU_PERIOD))
    });
    let weight = weight.filter(|weight| {
        host.has(reader, "limits.cpu.weight", "cpu", span(&table.weight), weight.to_string())
    });
    let pin =
        pin.filter(|pin| host.has(reader, "limits.cpu.pin", "cpuset", span(&table.pin), pin.to_string()));
    CpuLimits { max, weight, pin }
}

/// `"150%"` or 1.5: microseconds of a period; none for `infinity`.
fn quota(value: &Scalar) -> Result<Option<u64>, Refusal> {
    if is_infinite(value) {
        return Ok(None);
    }
    let bad = || {
        Refusal::new(format!("{value} is not an amount of CPU"))
            .hint("write a number of CPUs, such as 1.5, or a percentage of one, such as \"150%\"")
    };
    // Exact: in hundredths of a percent of a CPU.
    let (number, scale) = match value {
        Scalar::Text(text) => match text.trim().strip_suffix('%') {
            Some(number) => (number.trim_end().to_owned(), 100),
            None => (text.trim().to_owned(), 1),
        },
        number => (number.to_string(), 1),
    };
    let quota = value::parse_decimal(&number, CPU_PERIOD / scale).ok_or_else(bad)?;
    match quota {
        // The kernel's own bound: a quota of less than a millisecond.
        ..1000 => Err(Refusal::new(format!("{value} is less CPU than the kernel can deal out"))
            .hint("write at least 1%")),
        1000..=LARGEST_QUOTA => Ok(Some(quota)),
        _ => Err(Refusal::new(format!("{value} is more CPUs than any machine has"))
            .hint("leave `max` out for no bound")),
    }
}

const LARGEST_QUOTA: u64 = 8192 * CPU_PERIOD;

fn weight(reader: &mut Reader<'_>, value: &Option<Spanned<i64>>) -> Option<u64> {
    let weight = reader.number(value.as_ref()?, 1..=10_000)?;
    u64::try_from(weight).ok()
}

fn io(reader: &mut Reader<'_>, host: &mut Host) -> IoLimits {
    let table = &reader.file.tables.limits.io;
    let weight = weight(reader, &table.weight)
        .filter(|weight| host.has(reader, "limits.io.weight", "io", span(&table.weight), weight.to_string()));
    let mut max: Vec<IoMax> = Vec::new();
    for entry in table.max.iter().flatten() {
        let Some(bound) = io_max(reader, entry) else { continue };
        if max.iter().any(|other| other.device == bound.device) {
            let message = format!("{:?} has two entries", bound.device);
            reader.refuse(entry.span(), Refusal::new(message).hint("write one with all bounds"));
        }
        if host.has(reader, "limits.io.max", "io", Some(entry.span()), bound.device.display().to_string()) {
            max.push(bound);
        }
    }
    IoLimits { weight, max }
}

fn io_max(reader: &mut Reader<'_>, entry: &Spanned<IoMaxTable>) -> Option<IoMax> {
    let IoMaxTable { device, rbps, wbps, riops, wiops } = entry.get_ref();
    let Some(device) = device else {
        let refusal = Refusal::new("the bound has no `device`");
        reader.refuse(entry.span(), refusal.hint("add a block device, or a path on the disk that is meant"));
        return None;
    };
    if rbps.is_none() && wbps.is_none() && riops.is_none() && wiops.is_none() {
        let refusal = Refusal::new("the entry bounds nothing");
        reader.refuse(entry.span(), refusal.hint("add `rbps`, `wbps`, `riops` or `wiops`"));
    }
    let device = reader.path(device);
    let rate = |reader: &mut Reader<'_>, value: &Option<Spanned<Scalar>>| {
        value.as_ref().and_then(|value| reader.checked(value, value::parse_rate))
    };
    let count = |reader: &mut Reader<'_>, value: &Option<Spanned<i64>>| {
        let number = value.as_ref().and_then(|value| reader.number(value, 1..=i64::from(u32::MAX) - 1));
        number.and_then(|number| u64::try_from(number).ok())
    };
    let (rbps, wbps) = (rate(reader, rbps), rate(reader, wbps));
    let (riops, wiops) = (count(reader, riops), count(reader, wiops));
    Some(IoMax { device: device?, rbps, wbps, riops, wiops })
}

/// A whole number, or none for `infinity`.
fn count(value: &Scalar) -> Result<Option<u64>, Refusal> {
    let number = match value {
        _ if is_infinite(value) => return Ok(None),
        Scalar::Int(number) => u64::try_from(*number).ok(),
        Scalar::Text(text) => Some(text.trim())
            .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok()),
        Scalar::Float(_) => None,
    };
    number.filter(|number| i64::try_from(*number).is_ok()).map(Some).ok_or_else(|| {
        Refusal::new(format!("{value} is not a whole number")).hint("write one, or \"infinity\" for no bound")
    })
}

fn pids(
    reader: &mut Reader<'_>,
    host: &mut Host,
    user: &UserNamespace,
    rlimits: &mut BTreeMap<Rlimit, Bounds>,
) -> Option<u64> {
    let table = &reader.file.tables.limits.pids;
    let given = table.max.as_ref().and_then(|max| {
        reader.checked(max, |max| match count(max)? {
            // The init itself is one, the service another.
            Some(0..=2) => Err(Refusal::new("the sandbox's init and the service take two themselves")
                .hint("write 3 or more, or \"infinity\"")),
            count => Ok(count),
        })
    });
    let max = given.unwrap_or(Some(defaults::PIDS_MAX))?;
    if !reader.host.limits.missing.contains_key("pids") {
        return Some(max);
    }
    if *user == UserNamespace::Off {
        // Counted with everything else that this user runs on the host: no bound of the service.
        host.has(reader, "limits.pids.max", "pids", span(&table.max), max.to_string());
        return None;
    }
    // RLIMIT_NPROC counts what a user has in one user namespace: here, the service's own.
    let own = rlimits.get(&Rlimit::Nproc).copied().unwrap_or(Bounds { soft: None, hard: None });
    let least = |limit: Option<u64>| Some(limit.map_or(max, |limit| limit.min(max)));
    rlimits.insert(Rlimit::Nproc, Bounds { soft: least(own.soft), hard: least(own.hard) });
    host.bent.push(Bent {
        key: "limits.pids.max".to_owned(),
        asked: max.to_string(),
        enforced: Some(format!("RLIMIT_NPROC {max}, for each user inside")),
        why: "services here have no pids controller of cgroup v2".to_owned(),
    });
    None
}

fn rlimits(reader: &mut Reader<'_>, host: &mut Host) -> BTreeMap<Rlimit, Bounds> {
    let table = &reader.file.tables.limits.rlimits;
    let given = [
        (Rlimit::As, &table.r#as),
        (Rlimit::Core, &table.core),
        (Rlimit::Cpu, &table.cpu),
        (Rlimit::Data, &table.data),
        (Rlimit::Fsize, &table.fsize),
        (Rlimit::Locks, &table.locks),
        (Rlimit::Memlock, &table.memlock),
        (Rlimit::Msgqueue, &table.msgqueue),
        (Rlimit::Nice, &table.nice),
        (Rlimit::Nofile, &table.nofile),
        (Rlimit::Nproc, &table.nproc),
        (Rlimit::Rss, &table.rss),
        (Rlimit::Rtprio, &table.rtprio),
        (Rlimit::Rttime, &table.rttime),
        (Rlimit::Sigpending, &table.sigpending),
        (Rlimit::Stack, &table.stack),
    ];
    let mut all = BTreeMap::new();
    for (limit, value) in given {
        let key = format!("limits.rlimits.{}", limit.name());
        let own = reader.host.limits.rlimits.get(&limit).and_then(|own| own.hard);
        let default = defaults::RLIMITS.iter().find(|(of, ..)| *of == limit);
        let asked = value.as_ref().map(|value| reader.checked(value, |value| bounds(limit, value)));
        match (asked, value) {
            (Some(Some(asked)), Some(value)) => {
                let most = ceiling(reader, limit, own);
                let kept = at_most(asked, most);
                if kept == asked {
                    all.insert(limit, asked);
                    continue;
                }
                let most = most.map_or_else(String::new, |most| most.to_string());
                let why = format!("Palisade itself may have no more than {most}");
                let remedy =
                    "raise the limit of whoever starts Palisade (systemd: Limit…= of its unit)".to_owned();
                host.lack(reader, &key, Some(value.span()), asked.to_string(), (why, remedy));
                if host.best_effort {
                    if let Some(bent) = host.bent.last_mut() {
                        bent.enforced = Some(kept.to_string());
                    }
                    all.insert(limit, kept);
                }
            }
            (_, _) => {
                let Some((_, soft, hard)) = default.copied() else { continue };
                let asked = Bounds { soft, hard };
                let own = ceiling(reader, limit, own);
                let kept = at_most(asked, own);
                if kept != asked {
                    let most = own.map_or_else(String::new, |own| own.to_string());
                    host.bent.push(Bent {
                        key,
                        asked: asked.to_string(),
                        enforced: Some(kept.to_string()),
                        why: format!("Palisade itself may have no more than {most}"),
                    });
                }
                all.insert(limit, kept);
            }
        }
    }
    all
}

/// The highest limit that we can give; none is no bound.
fn ceiling(reader: &Reader<'_>, limit: Rlimit, own: Option<u64>) -> Option<u64> {
    let host = &reader.host.limits;
    match limit {
        Rlimit::Nofile if host.can_raise => Some(host.nr_open).filter(|open| *open > 0),
        _ if host.can_raise => None,
        _ => own,
    }
}

fn at_most(bounds: Bounds, most: Option<u64>) -> Bounds {
    let least = |limit: Option<u64>| match (limit, most) {
        (Some(limit), Some(most)) => Some(limit.min(most)),
        (limit, most) => limit.or(most),
    };
    Bounds { soft: least(bounds.soft), hard: least(bounds.hard) }
}

/// A limit of one process: a value for both, or `soft:hard`.
fn bounds(limit: Rlimit, value: &Scalar) -> Result<Bounds, Refusal> {
    let one = |value: &Scalar| one_bound(limit, value);
    let bounds = match value {
        Scalar::Text(text) if text.contains(':') => {
            let (soft, hard) = text.split_once(':').unwrap_or_default();
            let side = |text: &str| one(&Scalar::Text(text.trim().to_owned()));
            Bounds { soft: side(soft)?, hard: side(hard)? }
        }
        both => {
            let both = one(both)?;
            Bounds { soft: both, hard: both }
        }
    };
    let most = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    if most(bounds.soft) > most(bounds.hard) {
        let message = format!("the soft limit of {bounds} is higher than the hard one");
        return Err(Refusal::new(message).hint("write \"soft:hard\""));
    }
    // See `defaults::RLIMITS`.
    let no_core = |bound: Option<u64>| if bound == Some(0) { Some(1) } else { bound };
    match limit {
        Rlimit::Core => Ok(Bounds { soft: no_core(bounds.soft), hard: no_core(bounds.hard) }),
        _ => Ok(bounds),
    }
}

fn one_bound(limit: Rlimit, value: &Scalar) -> Result<Option<u64>, Refusal> {
    if is_infinite(value) {
        return Ok(None);
    }
    let within =
        |most: u64| match count(value)? {
            Some(number) if number <= most => Ok(Some(number)),
            _ => Err(Refusal::new(format!("{value} is out of range"))
                .hint(format!("write a number from 0 to {most}"))),
        };
    // A bare number is the unit of setrlimit(2).
    let time = |unit: Duration| match value {
        Scalar::Int(_) => count(value),
        _ => {
            let time = value::parse_duration(value)?.map(|time| time.as_micros() / unit.as_micros());
            Ok(time.map(|units| u64::try_from(units).unwrap_or(u64::MAX)))
        }
    };
    match limit {
        Rlimit::As
        | Rlimit::Core
        | Rlimit::Data
        | Rlimit::Fsize
        | Rlimit::Memlock
        | Rlimit::Msgqueue
        | Rlimit::Rss
        | Rlimit::Stack => value::parse_size(value, None).map(Some),
        Rlimit::Cpu => time(Duration::from_secs(1)),
        Rlimit::Rttime => time(Duration::from_micros(1)),
        Rlimit::Nice => within(40),
        Rlimit::Rtprio => within(99),
        Rlimit::Locks | Rlimit::Nofile | Rlimit::Nproc | Rlimit::Sigpending => count(value),
    }
}
