//! Kernel settings of the network namespace that the calling thread is in, by `/proc/sys/net`.
//!
//! The kernel resolves `/proc/sys/net` against the namespace of whoever opens it, so the same functions serve the host
//! and, inside [`super::netns::NetNs::within`], a service.

use std::{cell::RefCell, fs, os::fd::OwnedFd, path::Path, rc::Rc};

use rustix::{
    fs::{Access, AtFlags, Mode, OFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use crate::sys::SysError;

const ROOT: &str = "/proc/sys/net";

/// Sets `net/KEY`, with slashes: an interface's name may hold a dot.
///
/// # Errors
/// From open(2) and write(2); EROFS where `/proc/sys` is mounted read-only.
pub fn set(key: &str, value: &str) -> Result<(), SysError> {
    let path = format!("{ROOT}/{key}");
    fs::write(&path, value).map_err(|error| SysError::new("write", format!("{path:?}, {value:?}"), error))
}

/// Reads `net/KEY`, without the newline.
///
/// # Errors
/// From open(2) and read(2).
pub fn get(key: &str) -> Result<String, SysError> {
    let path = format!("{ROOT}/{key}");
    let text =
        fs::read_to_string(&path).map_err(|error| SysError::new("read", format!("{path:?}"), error))?;
    Ok(text.trim_end().to_owned())
}

/// The settings of one protocol, of the namespace that the calling thread was in when they were opened.
///
/// In a procfs those of all namespaces have one name, and whoever looks it up passes all of them (`proc_sys_compare`): with
/// a thousand services that takes longer than all else that is done for a link. So it is looked up once, and in a procfs
/// that has not seen many namespaces (`procfs`).
pub struct Protocol(OwnedFd, &'static str);

impl Protocol {
    /// IPv4's.
    ///
    /// # Errors
    /// From open(2).
    pub fn ipv4() -> Result<Self, SysError> {
        Self::open("ipv4").map_err(|errno| SysError::new("open", format!("{ROOT}/ipv4"), errno))
    }

    /// IPv6's; none: the kernel has none, or was booted with `ipv6.disable=1`.
    ///
    /// # Errors
    /// As of [`Protocol::ipv4`].
    pub fn ipv6() -> Result<Option<Self>, SysError> {
        match Self::open("ipv6") {
            Ok(all) => {
                let conf = rustix::fs::accessat(&all.0, "conf", Access::EXISTS, AtFlags::empty());
                Ok(conf.is_ok().then_some(all))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(SysError::new("open", format!("{ROOT}/ipv6"), errno)),
        }
    }

    fn open(name: &'static str) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match procfs() {
            Ok(own) => rustix::fs::openat(&*own, format!("sys/net/{name}"), flags, Mode::empty()),
            // A user without power over the machine, who has not a thousand of them.
            Err(_) => rustix::fs::open(format!("{ROOT}/{name}"), flags, Mode::empty()),
        };
        opened.map(|fd| Self(fd, name))
    }

    /// As the function [`set`], below these.
    ///
    /// # Errors
    /// As there.
    pub fn set(&self, key: &str, value: &str) -> Result<(), SysError> {
        let args = || format!("{ROOT}/{}/{key}, {value:?}", self.1);
        let file = rustix::fs::openat(&self.0, key, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| SysError::new("open", args(), errno))?;
        // One write is one value: what is left over of it would be taken for another.
        rustix::io::write(&file, value.as_bytes())
            .map(drop)
            .map_err(|errno| SysError::new("write", args(), errno))
    }
}

/// So many look-ups are not noticed; a procfs takes as long as some hundred of them.
const FEW: u32 = 64;

thread_local! {
    static OWN: RefCell<Option<(Rc<OwnedFd>, u32)>> = const { RefCell::new(None) };
}

/// A procfs of the calling thread's own that is mounted nowhere: another one each time that this one has been asked for
/// [`FEW`] times.
fn procfs() -> Result<Rc<OwnedFd>, Errno> {
    OWN.with_borrow_mut(|own| {
        if let Some((mount, uses)) = own.as_mut().filter(|(_, uses)| *uses < FEW) {
            *uses += 1;
            return Ok(Rc::clone(mount));
        }
        let fs = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(&fs)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = Rc::new(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?);
        *own = Some((Rc::clone(&mount), 1));
        Ok(mount)
    })
}

/// Whether the kernel speaks IPv6.
pub fn has_ipv6() -> bool {
    Path::new(ROOT).join("ipv6/conf").exists()
}
