//! Whose ids this process has.

use super::SysError;

/// Whether we are root of the host: by id, and in its user namespace.
///
/// # Errors
/// For root, read(2): a root who takes himself for a user would map the host's root into the sandbox.
pub fn is_hosts_root() -> Result<bool, SysError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    let path = "/proc/self/uid_map";
    let map = std::fs::read_to_string(path).map_err(|error| SysError::new("read", path, error))?;
    Ok(map.split_whitespace().eq(["0", "0", "4294967295"]))
}
