//! The host as it is at this moment, for conditions: asked anew each time, for it may be another by the next start.

use std::{fs, os::fd::OwnedFd, path::Path};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags};

use crate::spec::condition::{At, Host};

/// See above.
#[derive(Clone, Copy, Debug)]
pub struct Present;

/// Refers to what is at a path, without opening it: no FIFO, device or automount is waited for. Links are followed, but for
/// those of /proc that lead into processes, and so, of a sandbox, to file systems that its service may have made.
///
/// # Errors
/// Of openat2(2).
pub fn look(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | flags;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

/// What is known of it without asking a server.
///
/// # Errors
/// Of statx(2).
pub fn facts(fd: &OwnedFd) -> rustix::io::Result<Statx> {
    // linux/stat.h AT_STATX_DONT_SYNC
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(fd, "", flags, StatxFlags::BASIC_STATS)
}

/// The names in a directory that `fd` refers to, at most `most` of them.
///
/// # Errors
/// Of openat(2), where it is none or must not be read, and of getdents(2).
pub fn names(fd: &OwnedFd, most: usize) -> rustix::io::Result<Vec<std::ffi::CString>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(fd, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(dir)? {
        let name = entry?.file_name().to_owned();
        if ![&b"."[..], b".."].contains(&name.to_bytes()) {
            names.push(name);
        }
        if names.len() >= most {
            break;
        }
    }
    Ok(names)
}

fn read(path: &str) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default()
}

impl Host for Present {
    fn is_at(&self, at: At, path: &Path) -> bool {
        let follow = if at == At::Link { OFlags::NOFOLLOW } else { OFlags::empty() };
        let Ok(fd) = look(path, follow) else { return false };
        let Ok(facts) = facts(&fd) else { return false };
        let kind = FileType::from_raw_mode(facts.stx_mode.into());
        match at {
            At::Exists => true,
            At::Directory => kind == FileType::Directory,
            At::Link => kind == FileType::Symlink,
            At::MountPoint => facts.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
            At::ReadWrite => rustix::fs::fstatvfs(&fd)
                .is_ok_and(|found| !found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)),
            At::FullDirectory => names(&fd, 1).is_ok_and(|names| !names.is_empty()),
            At::FullFile => kind == FileType::RegularFile && facts.stx_size > 0,
            At::Executable => kind == FileType::RegularFile && facts.stx_mode & 0o111 != 0,
        }
    }

    fn virtualization(&self) -> Option<(String, bool)> {
        container().map(|name| (name, true)).or_else(|| machine().map(|name| (name, false)))
    }

    fn kernel(&self) -> String {
        read("/proc/sys/kernel/osrelease")
    }

    fn command_line(&self) -> String {
        read("/proc/cmdline")
    }

    fn names(&self) -> [String; 2] {
        [read("/proc/sys/kernel/hostname"), read("/etc/machine-id")]
    }

    fn memory(&self) -> u64 {
        let text = read("/proc/meminfo");
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kilobytes = total.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok());
        kilobytes.unwrap_or_default() * 1024
    }

    fn cpus(&self) -> u64 {
        rustix::thread::sched_getaffinity(None).map_or(1, |cpus| u64::from(cpus.count()))
    }

    fn architecture(&self) -> String {
        std::env::consts::ARCH.to_owned()
    }

    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// The container that we are in, as whoever made it says.
fn container() -> Option<String> {
    let said = read("/run/systemd/container");
    let environment = fs::read("/proc/1/environ").unwrap_or_default();
    let variable = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"container="))
        .map(|name| String::from_utf8_lossy(name).into_owned());
    let marks = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    let mark = marks.into_iter().find(|(path, _)| Path::new(path).exists()).map(|(_, name)| name.to_owned());
    Some(said).filter(|said| !said.is_empty()).or(variable.filter(|name| !name.is_empty())).or(mark)
}

/// The virtual machine that we are in, as its firmware says, or the processor.
fn machine() -> Option<String> {
    const VENDORS: [(&str, &str); 10] = [
        ("KVM", "kvm"),
        ("Amazon EC2", "amazon"),
        ("QEMU", "qemu"),
        ("OpenStack", "kvm"),
        ("Google", "google"),
        ("VMware", "vmware"),
        ("innotek GmbH", "oracle"),
        ("VirtualBox", "oracle"),
        ("Xen", "xen"),
        ("Microsoft Corporation", "microsoft"),
    ];
    // Without the processor's word a machine of these makers may be made of metal.
    let is_virtual = read("/proc/cpuinfo").lines().any(|line| {
        line.starts_with("flags") && line.split_ascii_whitespace().any(|flag| flag == "hypervisor")
    });
    let files = ["product_name", "sys_vendor", "board_vendor", "bios_vendor"];
    let texts = files.map(|file| read(&format!("/sys/class/dmi/id/{file}")));
    let known = VENDORS.iter().find(|(mark, _)| texts.iter().any(|text| text.contains(mark)));
    let known = known.filter(|(mark, _)| is_virtual || matches!(*mark, "KVM" | "QEMU" | "VirtualBox"));
    known.map(|(_, name)| (*name).to_owned()).or_else(|| is_virtual.then(|| "vm-other".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_what_is_at_a_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("dir")).expect("a directory");
        fs::create_dir(at("full")).expect("a directory");
        fs::write(at("full/file"), "x").expect("a file");
        fs::write(at("empty"), "").expect("a file");
        std::os::unix::fs::symlink(at("full"), at("link")).expect("a link");
        std::os::unix::fs::symlink(at("nowhere"), at("dangling")).expect("a link");
        for (what, name, holds) in [
            (At::Exists, "empty", true),
            (At::Exists, "dangling", false),
            (At::Link, "dangling", true),
            (At::Link, "full", false),
            (At::Directory, "link", true),
            (At::Directory, "empty", false),
            (At::FullDirectory, "link", true),
            (At::FullDirectory, "dir", false),
            (At::FullDirectory, "empty", false),
            (At::FullFile, "link/file", true),
            (At::FullFile, "empty", false),
            (At::FullFile, "full", false),
            (At::MountPoint, "dir", false),
            (At::Executable, "empty", false),
            (At::ReadWrite, "dir", true),
        ] {
            assert_eq!(Present.is_at(what, &at(name)), holds, "{what:?} {name}");
        }
        for (what, path) in [(At::MountPoint, "/"), (At::MountPoint, "/proc"), (At::Executable, "/bin/sh")] {
            assert!(Present.is_at(what, Path::new(path)), "{what:?} {path}");
        }
        assert!(!Present.is_at(At::Exists, Path::new("/proc/self/root/etc")), "into a process");
    }

    #[test]
    fn the_host_is_what_uname_says() {
        let uname = rustix::system::uname();
        assert_eq!(Present.kernel(), uname.release().to_string_lossy());
        assert_eq!(Present.architecture(), uname.machine().to_string_lossy());
        assert_eq!(Present.names()[0], uname.nodename().to_string_lossy());
        assert!(Present.memory() > 1 << 20);
        assert!(Present.cpus() >= 1);
    }
}
