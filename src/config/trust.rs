//! Reading a file of the configuration, and only one that nobody else could have written.
//!
//! The file is opened once, without following a link in its place; what is checked is what is read. Refused: a file,
//! or its directory, that group or others may write, sticky or not, or whose owner is not root, the running user or
//! the user behind sudo. Under /etc, /run and /usr every component of the path must be root's.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::File,
    io::Read,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::value::Refusal;
use crate::sys::SysError;

/// Largest file that is read, bytes.
pub(super) const MAX_FILE: u64 = 1024 * 1024;

/// Where every component of the path must be root's.
const SYSTEM: [&str; 3] = ["/etc", "/run", "/usr"];

/// The users whose files are believed.
#[derive(Clone, Debug)]
pub(super) struct Owners(BTreeSet<u32>);

impl Owners {
    /// root, the running user, and the user who called sudo(8).
    pub(super) fn of_this_process() -> Self {
        let uid = rustix::process::geteuid();
        let mut owners = BTreeSet::from([0, uid.as_raw()]);
        // Only root's environment is believed: anybody else could name whom they like.
        if uid.is_root() {
            owners.extend(std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse::<u32>().ok()));
        }
        Self(owners)
    }
}

/// What stands at a path.
#[derive(Debug)]
pub(super) enum Found {
    /// A file and its text.
    Text(String),
    /// A link to /dev/null.
    Mask,
    /// Nothing.
    Missing,
}

/// Reads the file at `path`.
///
/// # Errors
/// What is wrong with it, and what to do.
pub(super) fn read(path: &Path, owners: &Owners) -> Result<Found, Refusal> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Refusal::new("this path names no file"));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let Some((dir, owners)) = open_dir(parent, owners)? else {
        return Ok(Found::Missing);
    };
    if let Some(found) = look(&dir, name)? {
        return Ok(found);
    }
    // O_NONBLOCK: a FIFO put in the file's place between the two calls must not hold us up.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd =
        rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(|errno| failed("open", path, errno))?;
    let stat = rustix::fs::fstat(&fd).map_err(|errno| failed("fstat", path, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Refusal::new("this is not a regular file"));
    }
    check(stat.st_uid, stat.st_mode, &owners, path, "the file")?;
    read_text(fd, path).map(Found::Text)
}

/// How many links a secret may lead through: Let's Encrypt keeps one to the newest key.
const LINKS: usize = 8;

/// Reads a secret of the host: what holds for a file of the configuration, and that others cannot read it. A link leads
/// where it says, for each of the directories on its way is checked like the first.
///
/// # Errors
/// What is wrong with the file, and what to do.
pub(super) fn read_secret(path: &Path, owners: &Owners, limit: usize) -> Result<Option<Vec<u8>>, Refusal> {
    let mut path = path.to_owned();
    for _ in 0..=LINKS {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Refusal::new("this path names no file"));
        };
        let Some((dir, owners)) = open_dir(parent, owners)? else { return Ok(None) };
        match rustix::fs::readlinkat(&dir, name, Vec::new()) {
            Ok(target) => {
                // A relative link begins where it lies.
                path = parent.join(OsStr::from_bytes(target.to_bytes()));
                continue;
            }
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(failed("readlinkat", &path, errno)),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, name, flags, Mode::empty())
            .map_err(|errno| failed("open", &path, errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| failed("fstat", &path, errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Refusal::new("this is not a regular file"));
        }
        check(stat.st_uid, stat.st_mode, &owners, &path, "the file")?;
        if stat.st_mode & 0o004 != 0 {
            let shown = path.display();
            let hint = format!("chmod o-r {shown}, or show it with `rootfs.mounts`");
            return Err(Refusal::new("anybody may read it: that is no secret").hint(hint));
        }
        return read_bytes(fd, &path, limit).map(Some);
    }
    Err(Refusal::new(format!("more than {LINKS} links")))
}

/// All of a file at once: growing would leave copies of a secret behind.
fn read_bytes(fd: OwnedFd, path: &Path, limit: usize) -> Result<Vec<u8>, Refusal> {
    let file = File::from(fd);
    let mut bytes = Vec::with_capacity(limit + 1);
    let read = file.take(limit as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| failed("read", path, error))?;
    match bytes.len() <= limit {
        true => Ok(bytes),
        false => Err(Refusal::new(format!("the file is larger than {limit} bytes"))),
    }
}

/// Opens the directory of a file and checks it; none: there is no such directory.
fn open_dir(parent: &Path, owners: &Owners) -> Result<Option<(OwnedFd, Owners)>, Refusal> {
    // From here on the path has no link in it: NOFOLLOW and the checks below speak of the same directory.
    let real = match std::fs::canonicalize(parent) {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("realpath", parent, error)),
    };
    let absolute = std::path::absolute(parent).unwrap_or_else(|_| real.clone());
    let mut owners = owners.clone();
    for path in [&real, &absolute] {
        if SYSTEM.iter().any(|system| path.starts_with(system)) {
            owners = Owners(BTreeSet::from([0]));
            check_components(path, &owners)?;
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(&real, flags, Mode::empty()).map_err(|errno| failed("open", &real, errno))?;
    let stat = rustix::fs::fstat(&dir).map_err(|errno| failed("fstat", &real, errno))?;
    check(stat.st_uid, stat.st_mode, &owners, parent, "the directory")?;
    Ok(Some((dir, owners)))
}

/// Checks every component of a path under /etc, /run or /usr, from the root down.
fn check_components(path: &Path, owners: &Owners) -> Result<(), Refusal> {
    let mut components: Vec<&Path> = path.ancestors().collect();
    components.reverse();
    for component in components {
        let stat = rustix::fs::lstat(component).map_err(|errno| failed("lstat", component, errno))?;
        // A link has no permissions of its own; its directory, just checked, says who could replace it.
        let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let mode = if link { 0 } else { stat.st_mode };
        check(stat.st_uid, mode, owners, component, "the directory")?;
    }
    Ok(())
}

fn check(uid: u32, mode: u32, owners: &Owners, path: &Path, what: &str) -> Result<(), Refusal> {
    let shown = path.display();
    if !owners.0.contains(&uid) {
        let hint = match owners.0.iter().eq(&[0]) {
            true => format!("under /etc, /run and /usr everything must be root's: chown root {shown}"),
            false => format!("it must belong to root or to who runs this: chown root {shown}"),
        };
        return Err(
            Refusal::new(format!("{what} {shown} belongs to user {uid}, who could change it")).hint(hint)
        );
    }
    let by = match mode & 0o022 {
        0 => return Ok(()),
        0o020 => "its group",
        _ => "anybody",
    };
    Err(Refusal::new(format!("{what} {shown} can be written by {by}")).hint(format!("chmod go-w {shown}")))
}

/// What can be told about `name` without opening it; none: it is to be opened.
fn look(dir: &OwnedFd, name: &OsStr) -> Result<Option<Found>, Refusal> {
    let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Some(Found::Missing)),
        Err(errno) => return Err(failed("fstatat", Path::new(name), errno)),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(None),
        FileType::Symlink => {
            match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) if target.to_bytes() == b"/dev/null" => Ok(Some(Found::Mask)),
                Ok(_) => Err(Refusal::new("this is a link")
                    .hint("put the file itself here; a link to /dev/null masks")),
                Err(errno) => Err(failed("readlinkat", Path::new(name), errno)),
            }
        }
        FileType::Directory => Err(Refusal::new("this is a directory, not a file")),
        // Opening a device can have effects.
        _ => Err(Refusal::new("this is not a regular file")),
    }
}

fn read_text(fd: OwnedFd, path: &Path) -> Result<String, Refusal> {
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| failed("read", path, error))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Refusal::new("the file is larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|b| **b == b'\n').count() + 1;
        Refusal::new(format!("line {line} is not UTF-8")).hint("this file has to be text")
    })
}

fn failed(call: &'static str, path: &Path, errno: impl Into<crate::sys::Errno>) -> Refusal {
    Refusal::new(SysError::new(call, format!("{:?}", path), errno).to_string())
}

/// The names in a directory of the configuration that end in `suffix`, sorted; hidden ones are not looked at.
///
/// # Errors
/// The directory cannot be listed; a missing one is empty unless it is `required`.
pub(super) fn list(dir: &Path, suffix: &str, required: bool) -> Result<Vec<String>, Refusal> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(Vec::new()),
        Err(error) => return Err(failed("opendir", dir, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| failed("readdir", dir, error))?.file_name();
        // A name that is not UTF-8 is no service name; the replacement characters make it refused as one.
        let name = name.to_string_lossy().into_owned();
        if name.ends_with(suffix) && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// `path` with `.d` added: where its drop-ins live.
pub(super) fn drop_in_dir(path: &Path) -> PathBuf {
    let mut dir = path.as_os_str().to_owned();
    dir.push(".d");
    dir.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn owners() -> Owners {
        Owners(BTreeSet::from([0, rustix::process::geteuid().as_raw()]))
    }

    fn place() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("web.toml"), "x = 1").unwrap();
        chmod(&dir.path().join("web.toml"), 0o644);
        dir
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(path: &Path) -> String {
        read(path, &owners()).unwrap_err().message
    }

    #[test]
    fn a_private_file_is_read() {
        let dir = place();
        assert!(
            matches!(read(&dir.path().join("web.toml"), &owners()), Ok(Found::Text(text)) if text == "x = 1")
        );
        assert!(matches!(read(&dir.path().join("none.toml"), &owners()), Ok(Found::Missing)));
        assert!(matches!(read(&dir.path().join("none/web.toml"), &owners()), Ok(Found::Missing)));
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let dir = place();
        let file = dir.path().join("web.toml");
        chmod(&file, 0o666);
        assert!(refusal(&file).ends_with("can be written by anybody"));
        chmod(&file, 0o664);
        assert!(refusal(&file).ends_with("can be written by its group"));
        chmod(&file, 0o644);
        // A sticky directory keeps others from removing the file, not from being there first.
        chmod(dir.path(), 0o1777);
        assert!(refusal(&file).starts_with("the directory"));
    }

    #[test]
    fn what_a_stranger_owns_is_refused() {
        let dir = place();
        let file = dir.path().join("web.toml");
        let strangers = Owners(BTreeSet::from([4_000_000_000]));
        assert!(read(&file, &strangers).unwrap_err().message.contains("belongs to user"));
    }

    #[test]
    fn a_link_masks_or_is_refused() {
        let dir = place();
        symlink("/dev/null", dir.path().join("mask.toml")).unwrap();
        symlink("web.toml", dir.path().join("link.toml")).unwrap();
        assert!(matches!(read(&dir.path().join("mask.toml"), &owners()), Ok(Found::Mask)));
        assert_eq!(refusal(&dir.path().join("link.toml")), "this is a link");
    }

    #[test]
    fn a_fifo_or_a_directory_is_no_file() {
        let dir = place();
        nix::unistd::mkfifo(&dir.path().join("fifo.toml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        std::fs::create_dir(dir.path().join("dir.toml")).unwrap();
        assert_eq!(refusal(&dir.path().join("fifo.toml")), "this is not a regular file");
        assert_eq!(refusal(&dir.path().join("dir.toml")), "this is a directory, not a file");
    }

    #[test]
    fn a_file_that_is_too_large_or_no_text_is_refused() {
        let dir = place();
        let file = dir.path().join("web.toml");
        std::fs::write(&file, vec![b'#'; 1024 * 1024 + 1]).unwrap();
        assert_eq!(refusal(&file), "the file is larger than 1 MiB");
        std::fs::write(&file, b"a = 1\n\xff").unwrap();
        assert_eq!(refusal(&file), "line 2 is not UTF-8");
    }

    #[test]
    fn system_directories_are_roots_from_the_top() {
        // The machine's own /etc and /usr are the oracle: whoever runs this, they are root's.
        let root = Owners(BTreeSet::from([0]));
        assert_eq!(check_components(Path::new("/usr/lib"), &root), Ok(()));
        let nobody = Owners(BTreeSet::from([65_534]));
        assert!(check_components(Path::new("/usr/lib"), &nobody).is_err());
    }
}
