//! Kernel settings of the network namespace that the calling thread is in, by `/proc/sys/net`.
//!
//! The kernel resolves `/proc/sys/net` against the namespace of whoever opens it, so the same functions serve the host
//! and, inside [`super::netns::NetNs::within`], a service.

use std::{fs, path::Path};

use crate::sys::SysError;

/// Sets `net/KEY`, with slashes: an interface's name may hold a dot.
///
/// # Errors
/// From open(2) and write(2); EROFS where `/proc/sys` is mounted read-only.
pub fn set(key: &str, value: &str) -> Result<(), SysError> {
    let path = format!("/proc/sys/net/{key}");
    fs::write(&path, value).map_err(|error| SysError::new("write", format!("{path:?}, {value:?}"), error))
}

/// Reads `net/KEY`, without the newline.
///
/// # Errors
/// From open(2) and read(2).
pub fn get(key: &str) -> Result<String, SysError> {
    let path = format!("/proc/sys/net/{key}");
    let text =
        fs::read_to_string(&path).map_err(|error| SysError::new("read", format!("{path:?}"), error))?;
    Ok(text.trim_end().to_owned())
}

/// As [`set`], for what a kernel without IPv6 (or booted with `ipv6.disable=1`) does not have and does not need.
///
/// # Errors
/// As [`set`].
pub fn set_ipv6(key: &str, value: &str) -> Result<(), SysError> {
    match set(&format!("ipv6/{key}"), value) {
        Err(error) if error.errno == libc::ENOENT && !has_ipv6() => Ok(()),
        done => done,
    }
}

/// Whether the kernel speaks IPv6.
pub fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6/conf").exists()
}
