//! Limits as they are set: in the files of a control group, and on the init before it begins.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Rlimit as Limit},
};

use crate::{
    cgroup::{self, Tree},
    spec::{
        Limits,
        limits::{Bounds, KNOBS, Knob, Rlimit, Value},
    },
    sys::{SysError, facts},
};

/// Sets one file of a group.
///
/// # Errors
/// [`Tree::set`], [`cgroup::disk`]; EINVAL where the kernel took the value and does not do it.
pub fn set(group: BorrowedFd<'_>, knob: &Knob) -> Result<(), SysError> {
    let text = text(knob)?;
    Tree::set(group, knob.file, &text)?;
    match knob.file {
        // The kernel takes CPUs that the groups above do not have, and leaves them out.
        "cpuset.cpus" if read(group, "cpuset.cpus.effective").as_deref() != Some(&*text) => {
            Err(SysError::new("cpuset.cpus.effective", text, libc::EINVAL))
        }
        _ => Ok(()),
    }
}

/// As [`set`], in the group of this directory.
///
/// # Errors
/// open(2), and those of [`set`].
pub fn set_at(group: &Path, knob: &Knob) -> Result<(), SysError> {
    set(open(group)?.as_fd(), knob)
}

fn open(group: &Path) -> Result<std::os::fd::OwnedFd, SysError> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    rustix::fs::open(group, flags, Mode::empty())
        .map_err(|errno| SysError::new("open", group.display().to_string(), errno))
}

/// What a file of a group says; none where there is no such file.
pub fn read_at(group: &Path, file: &str) -> Option<String> {
    read(open(group).ok()?.as_fd(), file)
}

/// What is found where a limit was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The limit.
    AsItShouldBe,
    /// Something else, as the file says it.
    Other(String),
}

/// Looks whether a limit is still what it was set to.
///
/// # Errors
/// open(2): the file or the group is not there; [`cgroup::disk`].
pub fn verify(group: &Path, knob: &Knob) -> Result<Found, SysError> {
    let wanted = text(knob)?;
    let found = read(open(group)?.as_fd(), knob.file)
        .ok_or_else(|| SysError::new("open", format!("{}/{}", group.display(), knob.file), libc::ENOENT))?;
    let is_same = match (found.parse::<u64>(), wanted.parse::<u64>()) {
        // The kernel counts memory in pages, and rounds down.
        (Ok(found), Ok(wanted)) if wanted >= page() && knob.file.starts_with("memory.") => {
            found == wanted - wanted % page()
        }
        _ => found.lines().any(|line| line == wanted),
    };
    Ok(if is_same { Found::AsItShouldBe } else { Found::Other(found) })
}

fn page() -> u64 {
    rustix::param::page_size().try_into().unwrap_or(4096)
}

/// What has to be written so that a group with the limits `old` has those of `new`.
pub fn difference(old: &Limits, new: &Limits) -> Vec<Knob> {
    let (before, after) = (old.knobs(), new.knobs());
    let mut all = Vec::new();
    for knob in before.iter().filter(|knob| !after.contains(knob)) {
        let is_set = |other: &&Knob| match (&other.value, &knob.value) {
            (Value::Disk { device: a, .. }, Value::Disk { device: b, .. }) => a == b,
            _ => other.file == knob.file,
        };
        if after.iter().any(|other| is_set(&other)) {
            continue;
        }
        let value = match &knob.value {
            Value::Disk { device, .. } => {
                let bounds = "rbps=max wbps=max riops=max wiops=max".to_owned();
                Value::Disk { device: device.clone(), bounds }
            }
            Value::Text(_) => {
                let kernels = KNOBS.iter().find(|(file, _)| *file == knob.file);
                Value::Text(kernels.map_or_else(String::new, |(_, value)| (*value).to_owned()))
            }
        };
        all.push(Knob { file: knob.file, value });
    }
    all.extend(after.into_iter().filter(|knob| !before.contains(knob)));
    // `memory.high` above `memory.max` for a moment is no harm: the kernel takes each for itself.
    all
}

/// What is written into the file.
fn text(knob: &Knob) -> Result<String, SysError> {
    match &knob.value {
        Value::Text(text) => Ok(text.clone()),
        Value::Disk { device, bounds } => Ok(format!("{} {bounds}", cgroup::disk(device)?)),
    }
}

fn read(group: BorrowedFd<'_>, file: &str) -> Option<String> {
    let opened = rustix::fs::openat(group, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = vec![0; 4096];
    let read = rustix::io::read(&opened, &mut *bytes).ok()?;
    bytes.truncate(read);
    String::from_utf8(bytes).ok().map(|text| text.trim_end().to_owned())
}

/// Raises the hard limits of a process; the soft ones stay, so that the process itself lives as before.
///
/// # Errors
/// prlimit(2): EPERM without CAP_SYS_RESOURCE.
pub(super) fn raise(pid: u32, limits: &[(Rlimit, Bounds)]) -> Result<(), SysError> {
    let process = Pid::from_raw(i32::try_from(pid).unwrap_or_default());
    for (limit, bounds) in limits {
        let resource = facts::resource(*limit);
        let fault = |errno| SysError::new("prlimit", format!("{}={bounds}", limit.name()), errno);
        let current = rustix::process::getrlimit(resource).current;
        let most = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        let current = if most(current) > most(bounds.hard) { bounds.hard } else { current };
        let limit = Limit { current, maximum: bounds.hard };
        rustix::process::prlimit(process, resource, limit).map_err(fault)?;
    }
    Ok(())
}
