//! When a process gets a CPU and its disk: sched_setscheduler(2), ioprio_set(2).

#![allow(unsafe_code)]

use libc::{c_int, pid_t};

use super::SysError;

/// linux/ioprio.h
const IOPRIO_WHO_PROCESS: c_int = 1;

/// Puts a process under a policy of the scheduler; what it forks is born there.
///
/// # Errors
/// sched_setscheduler(2): EPERM without the right to realtime.
pub fn set_scheduler(pid: u32, policy: c_int, priority: c_int) -> Result<(), SysError> {
    let fault = |errno: c_int| SysError::new("sched_setscheduler", format!("{policy}, {priority}"), errno);
    let pid = pid_t::try_from(pid).map_err(|_| fault(libc::ESRCH))?;
    // SAFETY: a structure of integers.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = priority;
    // SAFETY: sched_setscheduler(2) reads the parameters, which live until it returns.
    match unsafe { libc::sched_setscheduler(pid, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(fault(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))),
    }
}

/// Gives a process an I/O class and level; what it forks inherits them.
///
/// # Errors
/// ioprio_set(2): EPERM without the right to the class.
pub fn set_io_priority(pid: u32, value: c_int) -> Result<(), SysError> {
    let fault = |errno: c_int| SysError::new("ioprio_set", value.to_string(), errno);
    let pid = pid_t::try_from(pid).map_err(|_| fault(libc::ESRCH))?;
    // SAFETY: ioprio_set(2) takes numbers.
    match unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, pid, value) } {
        0 => Ok(()),
        _ => Err(fault(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))),
    }
}
