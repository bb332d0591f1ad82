//! The mount calls as Palisade uses them: by descriptor. What rustix has is rustix's; mount_setattr(2) is ours.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::SysError;

/// Attributes to set on a mount.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    /// Nothing can be written.
    pub read_only: bool,
    /// Programs cannot be executed.
    pub no_exec: bool,
    /// Device nodes do not open.
    pub no_dev: bool,
    /// Ids are shifted as this user namespace maps them (Linux 5.12).
    pub id_map: Option<BorrowedFd<'a>>,
    /// Also on every mount below.
    pub recursive: bool,
}

/// Sets attributes, nosuid always among them, and makes the mount private.
///
/// # Errors
/// mount_setattr(2): EINVAL for an id map means that the file system cannot be id-mapped, or is already.
pub fn set_attributes(tree: BorrowedFd<'_>, attributes: &Attributes<'_>) -> Result<(), SysError> {
    // SAFETY: a struct of integers.
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = libc::MOUNT_ATTR_NOSUID;
    let flags = [
        (attributes.read_only, libc::MOUNT_ATTR_RDONLY),
        (attributes.no_exec, libc::MOUNT_ATTR_NOEXEC),
        (attributes.no_dev, libc::MOUNT_ATTR_NODEV),
        (attributes.id_map.is_some(), libc::MOUNT_ATTR_IDMAP),
    ];
    for (_, flag) in flags.into_iter().filter(|(set, _)| *set) {
        attr.attr_set |= flag;
    }
    if let Some(fd) = attributes.id_map {
        attr.userns_fd = u64::try_from(fd.as_raw_fd()).unwrap_or_default();
    }
    attr.propagation = libc::MS_PRIVATE;
    let recursive = if attributes.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a literal, `attr` is a struct of the size that is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 {
        let args = format!("set {:#x}", attr.attr_set);
        return Err(SysError::new("mount_setattr", args, std::io::Error::last_os_error()));
    }
    Ok(())
}

/// A new file system that is mounted nowhere yet. An option without a value is a flag.
///
/// # Errors
/// fsopen(2), fsconfig(2), fsmount(2); the arguments name the file system and its options.
pub fn new_filesystem(
    kind: &'static str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, SysError> {
    let args = || {
        let options: Vec<String> = options.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!("{kind} {}", options.join(","))
    };
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| SysError::new("fsopen", args(), errno))?;
    for (key, value) in options {
        let set = match *value {
            "" => rustix::mount::fsconfig_set_flag(fs.as_fd(), *key),
            value => rustix::mount::fsconfig_set_string(fs.as_fd(), *key, value),
        };
        set.map_err(|errno| SysError::new("fsconfig", format!("{kind} {key}={value}"), errno))?;
    }
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|errno| SysError::new("fsconfig", args(), errno))?;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|errno| SysError::new("fsmount", args(), errno))
}

/// A copy of the mount that holds what `path` is below `at`, not attached anywhere.
///
/// # Errors
/// open_tree(2).
pub fn clone_tree(at: BorrowedFd<'_>, path: &str, recursive: bool) -> Result<OwnedFd, SysError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(at, path, flags).map_err(|errno| SysError::new("open_tree", path, errno))
}

/// Attaches a mount on the directory or file that a descriptor names; no path is walked.
///
/// # Errors
/// move_mount(2).
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), SysError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
        .map_err(|errno| SysError::new("move_mount", "", errno))
}
