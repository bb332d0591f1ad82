//! Limits as they are set: in the files of a control group, and on the init before it begins.

use std::os::fd::BorrowedFd;

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Rlimit as Limit},
};

use crate::{
    cgroup::{self, Tree},
    spec::limits::{Bounds, Knob, Rlimit, Value},
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
