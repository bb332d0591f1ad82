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
        Err(error) if error.errno == libc::ENOENT && !Path::new("/proc/sys/net/ipv6/conf").exists() => Ok(()),
        done => done,
    }
}

/// Whether packets that arrive on `host_if` are forwarded (IPv4).
///
/// # Errors
/// As [`get`]; ENOENT: there is no such interface.
pub fn forwarding(host_if: &str) -> Result<bool, SysError> {
    Ok(get(&format!("ipv4/conf/{host_if}/forwarding"))? != "0")
}

/// Switches forwarding for packets that arrive on `host_if` and returns what it was, for putting it back.
///
/// Where it was off, the caller adds [`super::nft::Element::Opened`] too, or the host becomes a router between its own
/// networks; and to put it back is the caller's, who keeps it in its state.
///
/// # Errors
/// As [`get`] and [`set`].
pub fn set_forwarding(host_if: &str, on: bool) -> Result<bool, SysError> {
    let before = forwarding(host_if)?;
    if before != on {
        set(&format!("ipv4/conf/{host_if}/forwarding"), if on { "1" } else { "0" })?;
    }
    Ok(before)
}
