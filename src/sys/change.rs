//! Whether a file or directory of the host is another than it was, and being told when that may be so (inotify(7)).
//!
//! Nothing is opened but directories, and no link of /proc into a process is followed: part of a path may be a service's to
//! change.

use std::{
    collections::VecDeque,
    ffi::{CStr, OsStr, OsString},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, OFlags, Statx, StatxFlags, inotify},
    io::Errno,
};

use super::{
    SysError,
    present::{facts, look, names},
};

/// Names of a directory that count; of one that has more, only when it was last changed does.
const MOST_NAMES: usize = 1024;
/// As the kernel has it, for one path: path_resolution(7).
const MOST_LINKS: usize = 40;
/// What is told of a directory. A file that is written counts when it is closed.
const TOLD: inotify::WatchFlags = inotify::WatchFlags::CREATE
    .union(inotify::WatchFlags::CLOSE_WRITE)
    .union(inotify::WatchFlags::MOVED_TO)
    .union(inotify::WatchFlags::MOVED_FROM)
    .union(inotify::WatchFlags::DELETE)
    .union(inotify::WatchFlags::ATTRIB)
    .union(inotify::WatchFlags::DELETE_SELF)
    .union(inotify::WatchFlags::MOVE_SELF)
    .union(inotify::WatchFlags::ONLYDIR)
    .union(inotify::WatchFlags::EXCL_UNLINK);

/// A number that stays as long as nobody touches what is at a path: of a file which one it is, whose, how large and when
/// it was last written; of a directory that of each name in it. Links are followed.
pub fn mark(path: &Path) -> u64 {
    let mut sum = Sum::new();
    let Ok(fd) = look(path, OFlags::empty()) else { return sum.0 };
    let Ok(found) = facts(&fd) else { return sum.0 };
    if !is(&found, FileType::Directory) {
        sum.file(&found);
        return sum.0;
    }
    sum.number(found.stx_ino);
    sum.number(found.stx_mode.into());
    let mut names = names(&fd, MOST_NAMES).unwrap_or_default();
    if names.len() >= MOST_NAMES {
        sum.file(&found);
        return sum.0;
    }
    names.retain(|name| counts(OsStr::from_bytes(name.to_bytes())));
    names.sort();
    for name in names {
        sum.bytes(name.to_bytes());
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
        if let Ok(found) = rustix::fs::statx(&fd, &name, flags, StatxFlags::BASIC_STATS) {
            sum.file(&found);
            if is(&found, FileType::Symlink)
                && let Ok(target) = look(&path.join(OsStr::from_bytes(name.to_bytes())), OFlags::empty())
                && let Ok(found) = facts(&target)
            {
                sum.file(&found);
            }
        }
    }
    sum.0
}

/// Whether a name in a directory means anything: not what editors leave beside a file while they write it.
pub fn counts(name: &OsStr) -> bool {
    let name = name.as_bytes();
    !name.starts_with(b".") && !name.ends_with(b"~")
}

fn is(found: &Statx, kind: FileType) -> bool {
    FileType::from_raw_mode(found.stx_mode.into()) == kind
}

/// FNV-1a: it goes into the state, so that it must be the same in every version.
struct Sum(u64);

impl Sum {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // No end of one is the beginning of another.
        self.0 = (self.0 ^ 0x100).wrapping_mul(0x0100_0000_01b3);
    }

    fn number(&mut self, number: u64) {
        self.bytes(&number.to_le_bytes());
    }

    fn file(&mut self, found: &Statx) {
        self.bytes(&found.stx_mtime.tv_sec.to_le_bytes());
        for number in
            [found.stx_mtime.tv_nsec, found.stx_uid, found.stx_gid, found.stx_dev_major, found.stx_dev_minor]
        {
            self.number(number.into());
        }
        for number in [found.stx_ino, found.stx_size, found.stx_mode.into()] {
            self.number(number);
        }
    }
}

/// A name in a directory, or, without one, all names that [count](counts).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// The directory.
    pub dir: PathBuf,
    /// The name.
    pub name: Option<OsString>,
}

/// Where something has to happen for a path to lead to something else: every directory on the way there, through every
/// link, and the one that it leads to.
pub fn spots(path: &Path) -> Vec<Spot> {
    let (mut spots, end) = trail(path);
    if let Some(dir) = end.filter(|end| look(end, OFlags::DIRECTORY).is_ok()) {
        let entries = look(&dir, OFlags::DIRECTORY).and_then(|fd| names(&fd, MOST_NAMES)).unwrap_or_default();
        let links = entries.iter().map(|name| dir.join(OsStr::from_bytes(name.to_bytes())));
        let links: Vec<Spot> = links.filter(|path| is_link(path)).flat_map(|path| trail(&path).0).collect();
        spots.extend(links);
        spots.push(Spot { dir, name: None });
    }
    spots.sort();
    spots.dedup();
    spots
}

fn is_link(path: &Path) -> bool {
    look(path, OFlags::NOFOLLOW).and_then(|fd| facts(&fd)).is_ok_and(|found| is(&found, FileType::Symlink))
}

/// The way to what is at a path, and where that is without links; none where there is nothing.
fn trail(path: &Path) -> (Vec<Spot>, Option<PathBuf>) {
    let parts =
        |path: &Path| path.components().map(|part| part.as_os_str().to_owned()).collect::<VecDeque<_>>();
    let (mut left, mut at, mut spots, mut links) = (parts(path), PathBuf::from("/"), Vec::new(), 0);
    while let Some(part) = left.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::Normal(_)) => {}
            Some(Component::RootDir) => {
                at = PathBuf::from("/");
                continue;
            }
            Some(Component::ParentDir) => {
                at.pop();
                continue;
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => continue,
        }
        let next = at.join(&part);
        spots.push(Spot { dir: at.clone(), name: Some(part) });
        let Ok(fd) = look(&next, OFlags::NOFOLLOW) else { return (spots, None) };
        let Ok(found) = facts(&fd) else { return (spots, None) };
        if !is(&found, FileType::Symlink) {
            at = next;
            continue;
        }
        links += 1;
        let Ok(target) = rustix::fs::readlinkat(&fd, "", Vec::new()) else { return (spots, None) };
        if links > MOST_LINKS {
            return (spots, None);
        }
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        for part in parts(&target).into_iter().rev() {
            left.push_front(part);
        }
    }
    (spots, Some(at))
}

/// Something that happened in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Which, as [`Inotify::watch`] has said; none: more has happened than could be told.
    pub watch: Option<i32>,
    /// The name; none: it is about the directory itself.
    pub name: Option<OsString>,
    /// The directory is not watched any more.
    pub is_last: bool,
}

/// The kernel's word about directories.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

impl Inotify {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// Of inotify_init1(2).
    pub fn open() -> Result<Self, SysError> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK);
        fd.map(Self).map_err(|errno| SysError::new("inotify_init1", "", errno))
    }

    /// Readable when something has happened.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// From now on what happens in a directory is told; one and the same directory has one number.
    ///
    /// # Errors
    /// Of openat2(2) and inotify_add_watch(2).
    pub fn watch(&self, dir: &Path) -> Result<i32, SysError> {
        let failed = |errno: Errno| SysError::new("inotify_add_watch", dir.display().to_string(), errno);
        let fd = look(dir, OFlags::DIRECTORY).map_err(failed)?;
        // The very directory that was found, whatever has its name by now.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        inotify::add_watch(&self.0, path, TOLD).map_err(failed)
    }

    /// Not any more.
    pub fn forget(&self, watch: i32) {
        // It may have gone by itself.
        let _ = inotify::remove_watch(&self.0, watch);
    }

    /// What has happened, as much as is told at once; the rest stays readable.
    pub fn read(&self) -> Vec<Happened> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 16384];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut all = Vec::new();
        while let Ok(event) = reader.next() {
            let flags = event.events();
            let name = event.file_name().map(CStr::to_bytes).map(|name| OsStr::from_bytes(name).to_owned());
            let is_lost = flags.contains(inotify::ReadFlags::QUEUE_OVERFLOW);
            all.push(Happened {
                watch: (!is_lost).then_some(event.wd()),
                name,
                is_last: flags.contains(inotify::ReadFlags::IGNORED),
            });
            if reader.is_buffer_empty() {
                break;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn names(spots: &[Spot], below: &Path) -> Vec<String> {
        let inside = spots.iter().filter(|spot| spot.dir.starts_with(below));
        let text = |spot: &Spot| {
            let name = spot.name.as_ref().map_or("*".into(), |name| name.to_string_lossy().into_owned());
            format!("{}/{name}", spot.dir.strip_prefix(below).expect("below").display())
        };
        inside.map(text).collect()
    }

    #[test]
    fn the_way_to_a_file_goes_through_every_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = fs::canonicalize(dir.path()).expect("it is there");
        fs::create_dir(root.join("v1")).expect("a directory");
        fs::write(root.join("v1/app.conf"), "one").expect("a file");
        symlink("v1", root.join("..data")).expect("a link");
        symlink("..data/app.conf", root.join("app.conf")).expect("a link");
        let file = spots(&root.join("app.conf"));
        assert_eq!(names(&file, &root), ["/..data", "/app.conf", "/v1", "v1/app.conf"]);
        assert!(file.contains(&Spot { dir: "/".into(), name: root.iter().nth(1).map(OsStr::to_owned) }));
        assert_eq!(names(&spots(&root), &root), ["/*", "/..data", "/app.conf", "/v1", "v1/app.conf"]);
        assert_eq!(names(&spots(&root.join("none/file")), &root), ["/none"]);
        symlink("loop", root.join("loop")).expect("a link");
        assert_eq!(names(&spots(&root.join("loop")), &root), ["/loop"]);
    }

    #[test]
    fn a_mark_changes_with_what_it_is_of() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        symlink("file", &link).expect("a link");
        let marks = || [mark(&file), mark(&link), mark(dir.path())];
        let mut seen = vec![marks()];
        let mut differs = |all: bool| {
            let (now, before) = (marks(), *seen.last().expect("the first"));
            let count = now.iter().zip(before).filter(|(now, before)| *now != before).count();
            assert_eq!(count, if all { 3 } else { 0 });
            seen.push(now);
        };
        differs(false);
        fs::write(&file, "one").expect("a file");
        differs(true);
        fs::write(dir.path().join("other"), "two").expect("a file");
        fs::rename(dir.path().join("other"), &file).expect("the same file system");
        differs(true);
        fs::write(dir.path().join(".file.swp"), "").expect("a file");
        fs::write(dir.path().join("file~"), "").expect("a file");
        differs(false);
        fs::remove_file(&file).expect("it is there");
        differs(true);
        assert_eq!(
            mark(Path::new("/proc/self/root/etc/passwd")),
            mark(Path::new("/no/such")),
            "not into a process"
        );
    }

    #[test]
    fn the_kernel_tells_of_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let inotify = Inotify::open().expect("inotify");
        let watch = inotify.watch(dir.path()).expect("a directory");
        assert!(inotify.read().is_empty());
        fs::write(dir.path().join("file"), "x").expect("a file");
        let told = inotify.read();
        assert!(
            told.iter().all(|one| one.watch == Some(watch) && one.name.as_deref() == Some("file".as_ref()))
        );
        assert!(!told.is_empty());
        inotify.forget(watch);
        assert!(inotify.read().iter().any(|one| one.is_last));
        assert_eq!(inotify.watch(Path::new("/etc/passwd")).expect_err("no directory").errno, libc::ENOTDIR);
    }
}
