//! What a service sees as `/`, put together by the supervisor in a mount namespace of its own.
//!
//! Everything is attached here before the init is cloned. The clone copies it, and because the copy belongs to another user
//! namespace the kernel locks it: nobody inside can take a read-only flag away or uncover what a mount hides, whatever
//! capabilities he has (mount_namespaces(7)). Paths inside a root are resolved without following a link and mounted
//! by descriptor, because the root may be hostile.

mod socket;

use std::{
    collections::BTreeMap,
    io::Write,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid},
    mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags},
};

pub use crate::spec::IdRange;
use crate::{
    plan::{SYS_HIDDEN_DIRS, SYS_HIDDEN_FILES},
    spec::{Device, Mount, Tmpfs, Writable},
    sys::{
        SysError,
        clone::{self, Spawn},
        file,
        mount::{self, Attributes},
    },
};

/// Directories of the host that make up `base = "host"`; most are links into /usr.
const HOST_DIRS: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Parts of the host's /etc that programs of a distribution need and that hold no secret.
const HOST_ETC: [&str; 12] = [
    "alternatives",
    "ca-certificates",
    "debian_version",
    "ld.so.cache",
    "localtime",
    "mime.types",
    "os-release",
    "protocols",
    "services",
    "ssl",
    "pki",
    "timezone",
];
/// What an ephemeral root takes at most; a tmpfs without a size takes half of the memory.
const EPHEMERAL_SIZE: &str = "512M";
/// Directories that every root in memory has.
const EMPTY_DIRS: [&str; 5] = ["tmp", "run", "var", "etc", "root"];
const DEV_NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const DEV_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// A file of [`Workshop::secrets`].
pub struct SecretFile<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it holds.
    pub content: &'a [u8],
    /// Mode.
    pub mode: u32,
    /// User and group, as the host counts.
    pub owner: (u32, u32),
}

/// Where roots are put together.
#[derive(Debug)]
pub struct Workshop {
    /// The mount namespace that it was opened from.
    outside: OwnedFd,
    /// Mount point of the root that is being made.
    root: PathBuf,
    /// A memory file system with the files and device nodes that are bound into roots.
    files: PathBuf,
    /// Two more mount points, for the layers of an overlay.
    layers: [PathBuf; 2],
    /// The init's executable, to hold user namespaces open while they are being made.
    program: OwnedFd,
    id_maps: BTreeMap<(IdRange, IdRange), OwnedFd>,
    /// An ordinary user's: device nodes are the host's own, ids are not shifted.
    is_users: bool,
    /// Root of the sandbox whose root is being made, as the host counts: whose the files and directories are that are
    /// made in it.
    owner: u32,
}

impl Workshop {
    /// Takes this process into a mount namespace of its own, which still sees what the host mounts later, and lays out
    /// the workshop in `dir`.
    ///
    /// # Errors
    /// unshare(2), mount(2), mkdir(2), mknod(2).
    pub fn open(dir: &Path, program: OwnedFd, is_users: bool) -> Result<Self, SysError> {
        let outside = own_namespace()?;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
            .map_err(|errno| SysError::new("unshare", "CLONE_NEWNS", errno))?;
        // Directories of a root are for the service to pass, whatever the umask of whoever started us.
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", slave)
            .map_err(|errno| SysError::new("mount", "/, MS_SLAVE", errno))?;
        let workshop = Self {
            outside,
            root: dir.join("root"),
            files: dir.join("files"),
            layers: [dir.join("lower"), dir.join("upper")],
            program,
            id_maps: BTreeMap::new(),
            is_users,
            owner: 0,
        };
        for dir in [&workshop.root, &workshop.files].into_iter().chain(&workshop.layers) {
            std::fs::create_dir_all(dir)
                .map_err(|error| SysError::new("mkdir", dir.display().to_string(), error))?;
        }
        let files =
            mount::new_filesystem("tmpfs", &[("mode", "0755"), ("size", "16M")], MountAttrFlags::empty())?;
        mount::attach(files.as_fd(), open_path(&workshop.files)?.as_fd())?;
        if !is_users {
            workshop.make_dev()?;
        }
        // What is laid over whatever is hidden: a directory that is closed, a file with nothing in it.
        let (empty, nothing) = (workshop.files.join("empty"), workshop.files.join("nothing"));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0)
            .create(&empty)
            .and_then(|()| std::fs::write(&nothing, ""))
            .map_err(|error| SysError::new("mkdir", empty.display().to_string(), error))?;
        Ok(workshop)
    }

    /// Does `what` in the mount namespace that the workshop was opened from, and comes back.
    ///
    /// # Errors
    /// getcwd(3), setns(2), chdir(2).
    pub fn outside<T>(&self, what: impl FnOnce() -> T) -> Result<T, SysError> {
        let place = std::env::current_dir().map_err(|error| SysError::new("getcwd", "", error))?;
        let enter = |namespace: &OwnedFd| {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNS)
                .map_err(|errno| SysError::new("setns", "CLONE_NEWNS", errno))?;
            // setns(2) leads to the root of that namespace.
            std::env::set_current_dir(&place)
                .map_err(|error| SysError::new("chdir", place.display().to_string(), error))
        };
        let inside = own_namespace()?;
        enter(&self.outside)?;
        let result = what();
        enter(&inside)?;
        Ok(result)
    }

    /// Where the root is, for the init.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The device nodes and links that every minimal /dev shares. A user namespace may not make a node, and one in a
    /// file system of the host's opens all the same.
    fn make_dev(&self) -> Result<(), SysError> {
        let dev = self.files.join("dev");
        let fault = |call: &'static str, name: &str, errno: rustix::io::Errno| {
            SysError::new(call, format!("/dev/{name}"), errno)
        };
        for dir in [dev.clone(), dev.join("pts"), dev.join("shm")] {
            std::fs::create_dir(&dir)
                .map_err(|error| SysError::new("mkdir", dir.display().to_string(), error))?;
        }
        for (name, major, minor) in DEV_NODES {
            let (kind, number) = (FileType::CharacterDevice, rustix::fs::makedev(major, minor));
            let path = dev.join(name);
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, Mode::from_raw_mode(0o666), number)
                .and_then(|()| rustix::fs::chmod(&path, Mode::from_raw_mode(0o666)))
                .map_err(|errno| fault("mknod", name, errno))?;
        }
        for (name, target) in DEV_LINKS {
            rustix::fs::symlink(target, dev.join(name)).map_err(|errno| fault("symlink", name, errno))?;
        }
        Ok(())
    }

    /// A user namespace with these maps, kept for the next time.
    ///
    /// # Errors
    /// clone3(2), write(2) of a map.
    pub fn id_map(&mut self, uids: IdRange, gids: IdRange) -> Result<BorrowedFd<'_>, SysError> {
        if !self.id_maps.contains_key(&(uids, gids)) {
            let made = self.make_id_map(uids, gids)?;
            self.id_maps.insert((uids, gids), made);
        }
        Ok(self.id_maps[&(uids, gids)].as_fd())
    }

    fn make_id_map(&self, uids: IdRange, gids: IdRange) -> Result<OwnedFd, SysError> {
        let (ours, theirs) = crate::sys::socket::channel()?;
        let holder = clone::spawn(&Spawn {
            namespaces: libc::CLONE_NEWUSER as u64,
            cgroup: None,
            program: self.program.as_fd(),
            channel: theirs.as_fd(),
        })?;
        drop(theirs);
        let opened = write_id_maps(holder.pid, &[uids], &[gids]).and_then(|()| {
            let path = format!("/proc/{}/ns/user", holder.pid);
            rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| SysError::new("open", path, errno))
        });
        // The init ends when its channel closes before it was sent a plan.
        drop(ours);
        clone::reap(&holder.pidfd);
        opened
    }

    /// Begins a root in memory.
    ///
    /// # Errors
    /// Of the mount calls.
    pub fn begin_memory(&mut self, owner: u32) -> Result<(), SysError> {
        self.owner = owner;
        let id = owner.to_string();
        // A bound on inodes as well, as everywhere: an empty file costs memory too.
        let options = [
            ("mode", "0755"),
            ("size", "16M"),
            ("nr_inodes", "8k"),
            ("uid", id.as_str()),
            ("gid", id.as_str()),
        ];
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let root = mount::new_filesystem("tmpfs", &options, attributes)?;
        self.attach_root(root.as_fd())?;
        let root = self.root_fd()?;
        for dir in EMPTY_DIRS {
            file::make_dirs_inside(root.as_fd(), Path::new(dir), self.owner)?;
        }
        Ok(())
    }

    /// Begins with a directory tree.
    ///
    /// # Errors
    /// Of the mount calls; EINVAL from mount_setattr(2) where its file system cannot be id-mapped.
    pub fn begin_dir(
        &mut self,
        src: &Path,
        ids: Option<IdRange>,
        (writable, upper): (Writable, Option<&Path>),
        owner: u32,
    ) -> Result<(), SysError> {
        let source = file::open_host(src, OFlags::PATH | OFlags::DIRECTORY)?;
        // Not recursive: what the host has mounted below is not part of the tree that the file names.
        let tree = mount::clone_tree(source.as_fd(), "", false)?;
        let id_map = match ids {
            Some(ids) => Some(self.id_map(ids, ids)?),
            None => None,
        };
        let attributes = Attributes { read_only: true, no_dev: true, id_map, ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), &attributes)
            .map_err(|error| SysError { args: format!("{}: {}", src.display(), error.args), ..error })?;
        self.owner = owner;
        match (writable, upper) {
            (Writable::No, _) => self.attach_root(tree.as_fd()),
            (Writable::Ephemeral, _) => {
                let options = [("mode", "0700"), ("size", EPHEMERAL_SIZE), ("nr_inodes", "128k")];
                let layer = mount::new_filesystem("tmpfs", &options, MountAttrFlags::empty())?;
                mount::attach(layer.as_fd(), open_path(&self.layers[1])?.as_fd())?;
                let made = self.overlay(tree.as_fd(), &self.layers[1], owner);
                self.unmount(&self.layers[1]);
                made
            }
            (Writable::Persistent, upper) => {
                let upper = upper.expect("the plan names the upper layer of a persistent root");
                make_private_dir(upper)?;
                self.overlay(tree.as_fd(), upper, owner)
            }
        }
    }

    /// An overlay of `lower` under `dir`/upper. Layers are named by path: a descriptor of a mount that is attached
    /// nowhere is no layer for Linux 6.1.
    fn overlay(&self, lower: BorrowedFd<'_>, dir: &Path, owner: u32) -> Result<(), SysError> {
        mount::attach(lower, open_path(&self.layers[0])?.as_fd())?;
        let (upper, work) = (dir.join("upper"), dir.join("work"));
        let made = make_layer(&upper, owner).and_then(|()| make_layer(&work, owner)).and_then(|()| {
            let text = |path: &Path| path.display().to_string();
            let (lower, upper, work) = (text(&self.layers[0]), text(&upper), text(&work));
            let mut options = vec![("lowerdir", &*lower), ("upperdir", &*upper), ("workdir", &*work)];
            // The attributes of `trusted.` are root's: overlayfs.rst, Linux 5.11.
            options.extend(self.is_users.then_some(("userxattr", "")));
            let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
            mount::new_filesystem("overlay", &options[..], attributes)
        });
        self.unmount(&self.layers[0]);
        self.attach_root(made?.as_fd())
    }

    fn attach_root(&self, mount: BorrowedFd<'_>) -> Result<(), SysError> {
        mount::attach(mount, open_path(&self.root)?.as_fd())
    }

    fn root_fd(&self) -> Result<OwnedFd, SysError> {
        open_path(&self.root)
    }

    /// Which directory became the root: its device (major, minor) and its inode.
    ///
    /// # Errors
    /// fstat(2).
    pub fn identity(&self) -> Result<([u32; 2], u64), SysError> {
        let stat =
            rustix::fs::fstat(self.root_fd()?).map_err(|errno| SysError::new("fstat", "root", errno))?;
        Ok(([rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)], stat.st_ino))
    }

    /// The host's programs: /usr, the directories beside it, and the harmless part of /etc.
    ///
    /// # Errors
    /// Of the mount calls.
    pub fn host(&self) -> Result<(), SysError> {
        let root = self.root_fd()?;
        self.bind_host(root.as_fd(), "usr")?;
        for name in HOST_DIRS {
            match host_entry(&Path::new("/").join(name))? {
                Entry::Link(target) => rustix::fs::symlinkat(&target, &root, name)
                    .map_err(|errno| SysError::new("symlink", name, errno))?,
                Entry::Other => self.bind_host(root.as_fd(), name)?,
                Entry::None => {}
            }
        }
        for name in HOST_ETC {
            let name = format!("etc/{name}");
            match host_entry(&Path::new("/").join(&name))? {
                // Into /usr, all of them; a link that leads elsewhere leads nowhere inside.
                Entry::Link(target) => rustix::fs::symlinkat(&target, &root, &*name)
                    .map_err(|errno| SysError::new("symlink", name, errno))?,
                Entry::Other => self.bind_host(root.as_fd(), &name)?,
                Entry::None => {}
            }
        }
        Ok(())
    }

    fn bind_host(&self, root: BorrowedFd<'_>, name: &str) -> Result<(), SysError> {
        let source = file::open_host(&Path::new("/").join(name), OFlags::PATH)?;
        let tree = mount::clone_tree(source.as_fd(), "", true)?;
        let attributes =
            Attributes { read_only: true, no_dev: true, recursive: true, ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), &attributes)?;
        let target = mount_point(root, Path::new(name), source.as_fd(), self.owner)?;
        mount::attach(tree.as_fd(), target.as_fd())
    }

    /// Writes a file of ours, or, `over` a root that is somebody's, binds it onto the file that is there.
    ///
    /// # Errors
    /// Of the file and mount calls. A root without such a file is none.
    pub fn file(&self, dst: &Path, content: &str, over: bool) -> Result<(), SysError> {
        let root = self.root_fd()?;
        if !over {
            if let Some(parent) = dst.parent() {
                file::make_dirs_inside(root.as_fd(), parent, self.owner)?;
            }
            return write_inside(root.as_fd(), dst, content, self.owner);
        }
        let target = match file::open_inside(root.as_fd(), dst, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(target) => target,
            Err(error) if [libc::ENOENT, libc::ELOOP, libc::ENOTDIR].contains(&error.errno) => return Ok(()),
            Err(error) => return Err(error),
        };
        let kind = rustix::fs::fstat(&target).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind != Ok(FileType::RegularFile) {
            return Ok(());
        }
        let files = open_path(&self.files)?;
        write_inside(files.as_fd(), Path::new("file"), content, self.owner)?;
        let tree = mount::clone_tree(files.as_fd(), "file", false)?;
        let attributes = Attributes { read_only: true, no_dev: true, no_exec: true, ..Attributes::default() };
        let attached = mount::set_attributes(tree.as_fd(), &attributes)
            .and_then(|()| mount::attach(tree.as_fd(), target.as_fd()));
        // The mount keeps the file; its name is free for the next one. Not before: a file without a name is not
        // attached any more (ENOENT).
        rustix::fs::unlinkat(&files, "file", rustix::fs::AtFlags::empty())
            .map_err(|errno| SysError::new("unlink", dst.display().to_string(), errno))?;
        attached
    }

    /// A file or directory of the host; false where an optional one is not there. `service` is the service's own ids on
    /// the host, for a writable mount.
    ///
    /// # Errors
    /// Of the file and mount calls.
    pub fn bind(
        &mut self,
        wanted: &Mount,
        range: Option<IdRange>,
        service: Option<(u32, u32)>,
    ) -> Result<bool, SysError> {
        let source = match file::open_host(&wanted.src, OFlags::PATH) {
            Err(error) if error.errno == libc::ENOENT && wanted.optional => return Ok(false),
            other => other?,
        };
        let tree = mount::clone_tree(source.as_fd(), "", true)?;
        let name = wanted.src.display().to_string();
        let id_map = match range.filter(|_| wanted.idmap) {
            None => None,
            Some(range) if wanted.ro => Some(self.id_map(range, range)?),
            Some(_) => Some(self.owner_map(source.as_fd(), service, &name)?),
        };
        let attributes =
            Attributes { read_only: wanted.ro, no_exec: !wanted.exec, no_dev: true, id_map, recursive: true };
        let mut set = mount::set_attributes(tree.as_fd(), &attributes);
        if wanted.ro && set.as_ref().is_err_and(|error| error.errno == libc::EINVAL) {
            // A file system that knows no id maps (virtiofs, NFS, an overlay on Linux 6.1): to be read its files need none,
            // they show as nobody's.
            set = mount::set_attributes(tree.as_fd(), &Attributes { id_map: None, ..attributes });
        }
        set.map_err(|error| SysError { args: format!("{name}: {}", error.args), ..error })?;
        let root = self.root_fd()?;
        let target = mount_point(root.as_fd(), &wanted.dst, source.as_fd(), self.owner)?;
        mount::attach(tree.as_fd(), target.as_fd()).map(|()| true)
    }

    /// For a writable mount: the owner of the source is the service inside, and nobody else is anybody. So what the service
    /// writes belongs to that owner, never to the host's root, whatever it does inside.
    fn owner_map(
        &mut self,
        source: BorrowedFd<'_>,
        service: Option<(u32, u32)>,
        name: &str,
    ) -> Result<BorrowedFd<'_>, SysError> {
        let stat = rustix::fs::fstat(source).map_err(|errno| SysError::new("fstat", name, errno))?;
        let Some((uid, gid)) = service else {
            let args = format!("{name}: the user's number is only known inside");
            return Err(SysError::new("id map of a writable mount", args, libc::EINVAL));
        };
        // Nor to the host's group root, which many a directory has only because nobody chose another: a set-group-ID file
        // of the service's would hand that group to whoever runs it outside. Mapped to nobody it would keep everybody from
        // writing there (inode_permission()), and the service would be told no more than "Permission denied".
        let of_root = match (stat.st_uid, stat.st_gid) {
            (0, _) => Some("belongs to root"),
            (_, 0) => Some("belongs to the group of root"),
            _ => None,
        };
        if let Some(of_root) = of_root {
            let args = format!("{name} {of_root}");
            return Err(SysError::new("id map of a writable mount", args, libc::EPERM));
        }
        let uids = IdRange { inside: stat.st_uid, outside: uid, count: 1 };
        let gids = IdRange { inside: stat.st_gid, outside: gid, count: 1 };
        self.id_map(uids, gids)
    }

    /// A memory file system, owned by root of the sandbox.
    ///
    /// # Errors
    /// Of the file and mount calls.
    pub fn tmpfs(&self, tmpfs: &Tmpfs, owner: u32) -> Result<(), SysError> {
        let (size, mode, id) = (tmpfs.size.to_string(), format!("{:o}", tmpfs.mode), owner.to_string());
        // A bound on inodes as well: an empty file costs memory too.
        let inodes = (tmpfs.size / 4096).max(1024).to_string();
        let options =
            [("size", &*size), ("mode", &*mode), ("nr_inodes", &*inodes), ("uid", &*id), ("gid", &*id)];
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        if !tmpfs.exec {
            attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC;
        }
        let made = mount::new_filesystem("tmpfs", &options, attributes)?;
        let target = file::make_dirs_inside(self.root_fd()?.as_fd(), &tmpfs.dst, self.owner)?;
        mount::attach(made.as_fd(), target.as_fd())
    }

    /// Secrets, in a read-only file system of their own that is never swapped. It is filled before it is attached: nobody
    /// sees half of it.
    ///
    /// # Errors
    /// Of the file and mount calls.
    pub fn secrets(&self, dst: &Path, files: &[SecretFile<'_>]) -> Result<(), SysError> {
        let made = secret_filesystem(files)?;
        file::give(made.as_fd(), self.owner)?;
        for secret in files {
            let fault = |call, error: std::io::Error| SysError::new(call, secret.name, error);
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let fd = rustix::fs::openat(&made, secret.name, flags, Mode::from_raw_mode(0o600))
                .map_err(|errno| fault("openat", errno.into()))?;
            let mut content = std::fs::File::from(fd);
            content.write_all(secret.content).map_err(|error| fault("write", error))?;
            let (uid, gid) = (Uid::from_raw(secret.owner.0), Gid::from_raw(secret.owner.1));
            rustix::fs::fchown(&content, Some(uid), Some(gid))
                .and_then(|()| rustix::fs::fchmod(&content, Mode::from_raw_mode(secret.mode)))
                .map_err(|errno| fault("fchown", errno.into()))?;
        }
        let attributes = Attributes { read_only: true, no_exec: true, no_dev: true, ..Attributes::default() };
        mount::set_attributes(made.as_fd(), &attributes)?;
        let target = file::make_dirs_inside(self.root_fd()?.as_fd(), dst, self.owner)?;
        mount::attach(made.as_fd(), target.as_fd())
    }

    /// /dev with the usual nodes, and those `extra` ones of the host. The `given` ones are made anew, for the service's user
    /// alone: the host's belong to somebody who is nobody inside.
    ///
    /// # Errors
    /// Of the file and mount calls; ENOTBLK for a path that is no device node.
    pub fn dev(
        &self,
        extra: &[PathBuf],
        (given, service): (&[Device], Option<(u32, u32)>),
        owner: u32,
    ) -> Result<(), SysError> {
        let root = self.root_fd()?;
        let target = file::make_dirs_inside(root.as_fd(), Path::new("/dev"), self.owner)?;
        if extra.is_empty() && given.is_empty() && !self.is_users {
            let files = open_path(&self.files)?;
            let tree = mount::clone_tree(files.as_fd(), "dev", false)?;
            let attributes = Attributes { read_only: true, no_exec: true, ..Attributes::default() };
            mount::set_attributes(tree.as_fd(), &attributes)?;
            return mount::attach(tree.as_fd(), target.as_fd());
        }
        // Nodes of one service only: a /dev of its own, with every node bound from where it is.
        let id = owner.to_string();
        let options = [("mode", "0755"), ("size", "64K"), ("nr_inodes", "1k"), ("uid", &*id), ("gid", &*id)];
        let made = mount::new_filesystem("tmpfs", &options, MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        mount::attach(made.as_fd(), target.as_fd())?;
        // From here on by the descriptor of what was mounted: whoever owns the tree may have renamed its `dev` meanwhile
        // and put a link of that name in its place.
        for dir in ["pts", "shm"] {
            file::make_dirs_inside(made.as_fd(), Path::new(dir), self.owner)?;
        }
        for (name, link) in DEV_LINKS {
            rustix::fs::symlinkat(link, &made, name)
                .map_err(|errno| SysError::new("symlink", name, errno))?;
        }
        let usual = DEV_NODES.iter().map(|(name, ..)| self.nodes().join(name));
        for node in usual.chain(extra.iter().cloned()) {
            self.bind_node(made.as_fd(), &node)?;
        }
        for device in given {
            match self.is_users {
                // Who can make no node has the host's with its mode, which is all that he could give.
                true => self.bind_node(made.as_fd(), &device.path)?,
                false => self.make_node(made.as_fd(), device, service)?,
            }
        }
        // The nodes are mounts of their own and stay what they are.
        let attributes = Attributes { read_only: true, no_exec: true, ..Attributes::default() };
        mount::set_attributes(made.as_fd(), &attributes)
    }

    /// Where the usual device nodes are. An ordinary user can make none.
    fn nodes(&self) -> PathBuf {
        if self.is_users { PathBuf::from("/dev") } else { self.files.join("dev") }
    }

    /// Only a file system that the host has mounted lets a node be opened inside: every other mount is `nodev`, and that is
    /// the wall (cgroup v2 has no list of devices but a BPF program).
    fn make_node(
        &self,
        dev: BorrowedFd<'_>,
        device: &Device,
        service: Option<(u32, u32)>,
    ) -> Result<(), SysError> {
        let name = device.path.display().to_string();
        let stat = device_node(&device.path)?;
        let Some((uid, gid)) = service else {
            let args = format!("{name}: the user's number is only known inside");
            return Err(SysError::new("device node", args, libc::EINVAL));
        };
        let inside = device.path.strip_prefix("/dev").unwrap_or(&device.path);
        let fault = |call, errno: rustix::io::Errno| SysError::new(call, name.clone(), errno);
        let parent = file::make_dirs_inside(dev, inside.parent().unwrap_or(Path::new("")), self.owner)?;
        let leaf = inside.file_name().ok_or_else(|| fault("mknod", rustix::io::Errno::INVAL))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        rustix::fs::mknodat(&parent, leaf, kind, Mode::empty(), stat.st_rdev)
            .map_err(|errno| fault("mknod", errno))?;
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(&parent, leaf, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| fault("chown", errno))?;
        let mode = if device.read { 0o400 } else { 0 } | if device.write { 0o200 } else { 0 };
        rustix::fs::chmodat(&parent, leaf, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(|errno| fault("chmod", errno))
    }

    fn bind_node(&self, dev: BorrowedFd<'_>, node: &Path) -> Result<(), SysError> {
        let source = file::open_host(node, OFlags::PATH)?;
        let name = node.display().to_string();
        refuse_no_device(source.as_fd(), &name)?;
        let tree = mount::clone_tree(source.as_fd(), "", false)?;
        // Of the host's mount it has what that has: nothing on it is to be executed, nor to give anybody's ids.
        mount::set_attributes(tree.as_fd(), &Attributes { no_exec: true, ..Attributes::default() })?;
        let inside = node.strip_prefix(self.nodes()).or_else(|_| node.strip_prefix("/dev"));
        let inside = inside.map_err(|_| SysError::new("device node outside /dev", name, libc::EINVAL))?;
        let target = mount_point(dev, inside, source.as_fd(), self.owner)?;
        mount::attach(tree.as_fd(), target.as_fd())
    }

    /// The host's /dev.
    ///
    /// # Errors
    /// Of the file and mount calls.
    pub fn dev_host(&self) -> Result<(), SysError> {
        let root = self.root_fd()?;
        let source = file::open_host(Path::new("/dev"), OFlags::PATH)?;
        let tree = mount::clone_tree(source.as_fd(), "", true)?;
        let target = file::make_dirs_inside(root.as_fd(), Path::new("/dev"), self.owner)?;
        mount::attach(tree.as_fd(), target.as_fd())
    }

    /// A mount point for what the sandbox mounts itself: a real directory.
    ///
    /// # Errors
    /// Of the file calls.
    pub fn point(&self, dst: &Path) -> Result<(), SysError> {
        file::make_dirs_inside(self.root_fd()?.as_fd(), dst, self.owner).map(drop)
    }

    /// Attaches a procfs. Copied into another user namespace with the rest of the root, it is locked there.
    ///
    /// # Errors
    /// Of the file and mount calls.
    pub fn proc(&self, procfs: BorrowedFd<'_>) -> Result<(), SysError> {
        let target = file::make_dirs_inside(self.root_fd()?.as_fd(), Path::new("/proc"), self.owner)?;
        mount::attach(procfs, target.as_fd())
    }

    /// sysfs, of the network namespace that the caller is in.
    ///
    /// # Errors
    /// Of the file and mount calls.
    pub fn sysfs(&self) -> Result<(), SysError> {
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let made = mount::new_filesystem("sysfs", &[], attributes)?;
        let root = self.root_fd()?;
        let target = file::make_dirs_inside(root.as_fd(), Path::new("/sys"), self.owner)?;
        mount::attach(made.as_fd(), target.as_fd())?;
        for path in SYS_HIDDEN_DIRS.into_iter().chain(SYS_HIDDEN_FILES) {
            match self.hide_below(made.as_fd(), Path::new(path)) {
                Err(error) if error.errno == libc::ENOENT => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Lays something empty over a path.
    ///
    /// # Errors
    /// Of the file and mount calls.
    pub fn hide(&self, dst: &Path) -> Result<(), SysError> {
        self.hide_below(self.root_fd()?.as_fd(), dst)
    }

    fn hide_below(&self, root: BorrowedFd<'_>, dst: &Path) -> Result<(), SysError> {
        let target = file::open_inside(root, dst, OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&target)
            .map_err(|errno| SysError::new("fstat", dst.display().to_string(), errno))?;
        let empty =
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory { "empty" } else { "nothing" };
        let tree = mount::clone_tree(open_path(&self.files)?.as_fd(), empty, false)?;
        let attributes = Attributes { read_only: true, no_exec: true, no_dev: true, ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), &attributes)?;
        mount::attach(tree.as_fd(), target.as_fd())
    }

    /// Makes a path and what is mounted below it read-only.
    ///
    /// # Errors
    /// Of the file and mount calls.
    pub fn read_only(&self, dst: &Path) -> Result<(), SysError> {
        let root = self.root_fd()?;
        let target = file::open_inside(root.as_fd(), dst, OFlags::PATH | OFlags::NOFOLLOW)?;
        let tree = mount::clone_tree(target.as_fd(), "", true)?;
        let attributes =
            Attributes { read_only: true, no_dev: true, recursive: true, ..Attributes::default() };
        mount::set_attributes(tree.as_fd(), &attributes)?;
        mount::attach(tree.as_fd(), target.as_fd())
    }

    /// Makes the root itself read-only; what is mounted in it keeps what it has.
    ///
    /// # Errors
    /// mount_setattr(2).
    pub fn seal(&self) -> Result<(), SysError> {
        let attributes = Attributes { read_only: true, no_dev: true, ..Attributes::default() };
        mount::set_attributes(self.root_fd()?.as_fd(), &attributes)
    }

    /// Takes the root away again; the init has its copy by then. Nothing is there when nothing was begun.
    pub fn clear(&self) {
        self.unmount(&self.root);
    }

    fn unmount(&self, path: &Path) {
        // EINVAL: nothing is mounted here.
        let _ = rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        // The mounts would go with the namespace; the directories can be removed only without them.
        self.clear();
        self.unmount(&self.files);
    }
}

/// tmpfs where it can be kept from being swapped (`noswap`, Linux 6.4, for the host's root alone), else ramfs, which never
/// is. That one has no bound of its own, and needs none: nobody but us ever writes there, and we know how much.
fn secret_filesystem(files: &[SecretFile<'_>]) -> Result<OwnedFd, SysError> {
    let pages: usize = files.iter().map(|file| file.content.len().div_ceil(4096) + 1).sum();
    let (size, inodes) = (((pages + 1) * 4096).to_string(), (files.len() + 2).to_string());
    let options = [("mode", "0555"), ("size", &*size), ("nr_inodes", &*inodes), ("noswap", "")];
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount::new_filesystem("tmpfs", &options, attributes)
        .or_else(|_| mount::new_filesystem("ramfs", &[("mode", "0555")], attributes))
}

/// What the host's kernel says of a device node.
fn device_node(path: &Path) -> Result<rustix::fs::Stat, SysError> {
    let name = path.display().to_string();
    refuse_no_device(file::open_host(path, OFlags::PATH)?.as_fd(), &name)
}

fn refuse_no_device(node: BorrowedFd<'_>, name: &str) -> Result<rustix::fs::Stat, SysError> {
    let stat = rustix::fs::fstat(node).map_err(|errno| SysError::new("fstat", name, errno))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice | FileType::BlockDevice => Ok(stat),
        _ => Err(SysError::new("device node", name, libc::ENOTBLK)),
    }
}

/// procfs of the pid namespace that the caller is in.
///
/// # Errors
/// Of the mount calls.
pub fn procfs() -> Result<OwnedFd, SysError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    mount::new_filesystem("proc", &[], attributes)
}

/// Writes both maps of a user namespace whose first process is `pid`, a child that was not waited for.
///
/// # Errors
/// write(2), user_namespaces(7).
pub fn write_id_maps(pid: u32, uids: &[IdRange], gids: &[IdRange]) -> Result<(), SysError> {
    for (name, map) in [("uid_map", uids), ("gid_map", gids)] {
        let path = format!("/proc/{pid}/{name}");
        // One write: the kernel takes a map once.
        let line = |range: &IdRange| format!("{} {} {}", range.inside, range.outside, range.count);
        let text = map.iter().map(line).collect::<Vec<_>>().join("\n");
        std::fs::write(&path, &text).map_err(|error| {
            SysError::new("write", format!("{path}: {}", text.replace('\n', ", ")), error)
        })?;
    }
    Ok(())
}

/// The mount point for a source: a directory for a directory, a file for anything else; made where the root allows it.
fn mount_point(
    root: BorrowedFd<'_>,
    dst: &Path,
    source: BorrowedFd<'_>,
    owner: u32,
) -> Result<OwnedFd, SysError> {
    let stat = rustix::fs::fstat(source)
        .map_err(|errno| SysError::new("fstat", dst.display().to_string(), errno))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return file::make_dirs_inside(root, dst, owner);
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    match file::open_inside(root, dst, flags) {
        Err(error) if error.errno == libc::ENOENT => {
            if let Some(parent) = dst.parent() {
                file::make_dirs_inside(root, parent, owner)?;
            }
            write_inside(root, dst, "", owner)?;
            file::open_inside(root, dst, flags)
        }
        other => other,
    }
}

fn write_inside(root: BorrowedFd<'_>, dst: &Path, content: &str, owner: u32) -> Result<(), SysError> {
    let fault = |call, error: std::io::Error| SysError::new(call, dst.display().to_string(), error);
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // A fifo that somebody has put here since we looked must not stop us.
    let flags = flags | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let relative = dst.strip_prefix("/").unwrap_or(dst);
    let file = rustix::fs::openat2(root, relative, flags, Mode::from_raw_mode(0o644), resolve)
        .map_err(|errno| fault("openat2", errno.into()))?;
    let mut file = std::fs::File::from(file);
    file.write_all(content.as_bytes()).map_err(|error| fault("write", error))?;
    file::give(file.as_fd(), owner)?;
    // Whatever the umask of whoever started us.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).map_err(|errno| fault("fchmod", errno.into()))
}

/// A directory of the workshop, which is ours and has no links.
fn own_namespace() -> Result<OwnedFd, SysError> {
    let path = "/proc/self/ns/mnt";
    std::fs::File::open(path).map(OwnedFd::from).map_err(|error| SysError::new("open", path, error))
}

fn open_path(path: &Path) -> Result<OwnedFd, SysError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|errno| SysError::new("open", path.display().to_string(), errno))
}

/// Layers lie in a directory that only the host's root may enter: files in them carry modes that the sandbox chose.
fn make_private_dir(path: &Path) -> Result<(), SysError> {
    std::fs::create_dir_all(path)
        .and_then(|()| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)))
        .map_err(|error| SysError::new("mkdir", path.display().to_string(), error))
}

fn make_layer(path: &Path, owner: u32) -> Result<(), SysError> {
    let fault = |call, error: std::io::Error| SysError::new(call, path.display().to_string(), error);
    if let Err(error) = std::fs::create_dir(path)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        return Err(fault("mkdir", error));
    }
    rustix::fs::chown(path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
        .map_err(|errno| fault("chown", errno.into()))?;
    rustix::fs::chmod(path, Mode::from_raw_mode(0o755)).map_err(|errno| fault("chmod", errno.into()))
}

/// What stands at a path of the host.
enum Entry {
    None,
    Link(PathBuf),
    Other,
}

/// Only what is not there is passed over: a path that cannot be looked at is no reason for another root than usual.
fn host_entry(path: &Path) -> Result<Entry, SysError> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(Entry::Link(target)),
        // readlink(2): what is no link.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Entry::Other),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Entry::None),
        Err(error) => Err(SysError::new("readlink", path.display().to_string(), error)),
    }
}
