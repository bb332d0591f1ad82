//! Control groups, version 2: one for every run, so that its processes can be found, killed and bounded together.
//!
//! A group that hands controllers down to those below it must hold no process itself (cgroups(7), "no internal
//! processes"), and the group that a service manager has delegated holds the supervisor. So the supervisor moves into a
//! group of its own beside those of the runs, and back when it is done:
//! ```text
//! HOME                     delegated, or the root of the tree, which may hold processes all the same
//! ├─ supervisor            the supervisor and its keeper
//! └─ palisade              the base: `[cgroup] path`, or this, or one beside HOME in Palisade's own slice
//!    ├─ web.7              one run
//!    └─ db.2
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::{Mode, OFlags},
};

use crate::{
    machine::Usage,
    sys::{SysError, ids},
};

/// Where the cgroup2 file system is mounted; on a hybrid host that is a tree without controllers.
///
/// # Errors
/// Not to know is not to have none: nobody would start services without their groups and limits for that.
pub fn mount_point() -> Result<Option<PathBuf>, SysError> {
    let path = "/proc/self/mountinfo";
    let mounts = fs::read_to_string(path).map_err(|error| SysError::new("read", path, error))?;
    Ok(mounts.lines().find_map(|line| {
        // proc_pid_mountinfo(5): the file system type follows the separator.
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut mount = mount.split(' ');
        let (root, point) = (mount.nth(3)?, mount.next()?);
        (root == "/" && filesystem.starts_with("cgroup2 ")).then(|| PathBuf::from(point))
    }))
}

/// The control group of this process, relative to the mount.
pub fn own() -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    PathBuf::from(path)
}

/// The controllers that limits need.
pub const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// Where a supervisor goes that has to leave the group that was delegated to it.
const LEAF: &str = "supervisor";

/// The tree that one supervisor makes its groups in.
#[derive(Clone, Debug)]
pub struct Tree {
    mount: PathBuf,
    base: PathBuf,
    /// The group that this process was in before it went aside.
    home: PathBuf,
}

/// Controllers that services cannot have below `base`, each with what to do about it.
pub fn missing(base: Option<&Path>) -> BTreeMap<String, String> {
    let tree = Tree::find(base).unwrap_or_default();
    let may = tree.as_ref().is_some_and(Tree::is_usable);
    let has = tree.as_ref().filter(|_| may).map(Tree::handed_down).unwrap_or_default();
    let all = tree.as_ref().map(|tree| tree.list(Path::new(""), "cgroup.controllers")).unwrap_or_default();
    let first = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let remedy = |controller: &str| {
        let in_first =
            |line: &str| line.split(':').nth(1).is_some_and(|c| c.split(',').any(|c| c == controller));
        if all.contains(controller) && tree.is_some() && !may {
            "run it as root, or in a group that was given to you: `systemd-run --user --scope -p Delegate=yes palisade \
             run FILE`"
        } else if all.contains(controller) {
            "hand it down to Palisade's group: `Delegate=yes` in its unit, `systemd-run --scope -p Delegate=yes` for \
             `palisade run`, or a group of its own as `[cgroup] path`"
        } else if first.lines().any(in_first) {
            "boot the host with `systemd.unified_cgroup_hierarchy=1`, so that it is not given to cgroup v1"
        } else if tree.is_none() {
            "mount cgroup2 at /sys/fs/cgroup"
        } else {
            "the kernel has none, or was started with `cgroup_disable=`"
        }
    };
    let missing = CONTROLLERS.iter().filter(|controller| !has.contains(**controller));
    missing.map(|controller| ((*controller).to_owned(), remedy(controller).to_owned())).collect()
}

/// The bytes of memory and the CPUs that a group below `base` can have at most; none where only the host bounds them.
pub fn bounds(base: Option<&Path>) -> (Option<u64>, Option<String>) {
    let Ok(Some(tree)) = Tree::find(base) else { return (None, None) };
    let read = |file: &str| fs::read_to_string(tree.path(&tree.top()).join(file)).ok();
    let memory = read("memory.max").and_then(|text| text.trim().parse().ok());
    (memory, read("cpuset.cpus.effective").map(|text| text.trim().to_owned()))
}

impl Tree {
    /// The tree below `base`, a path relative to the mount; by default a group below that of this process, which is
    /// the one that a service manager has delegated to it. None where the host has no cgroup2 mount.
    ///
    /// # Errors
    /// Of [`mount_point`].
    pub fn find(base: Option<&Path>) -> Result<Option<Self>, SysError> {
        let Some(mount) = mount_point()? else { return Ok(None) };
        let mut home = own();
        if home.file_name().is_some_and(|name| name == LEAF) {
            home.pop();
        }
        let base =
            base.map_or_else(|| default_base(&home), |base| base.strip_prefix("/").unwrap_or(base).into());
        Ok(Some(Self { mount, base, home }))
    }

    /// The group from which on controllers are ours to hand down; it exists.
    fn top(&self) -> PathBuf {
        if self.base.starts_with(&self.home) {
            return self.home.clone();
        }
        let mut top = self.base.clone();
        while top.pop() && !self.path(&top).is_dir() {}
        top
    }

    /// Whether we may say what the group of [`Tree::top`] hands down: it is the one that we are in, and nobody else is.
    fn is_ours(&self, top: &Path) -> bool {
        let me = std::process::id();
        let is_root = top.as_os_str().is_empty();
        top == self.home
            && (is_root || self.members(top).into_iter().all(|pid| pid == me || parent(pid) == Some(me)))
    }

    /// The words in a file of a group.
    fn list(&self, group: &Path, file: &str) -> BTreeSet<String> {
        let text = fs::read_to_string(self.path(group).join(file)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn members(&self, group: &Path) -> Vec<u32> {
        let text = fs::read_to_string(self.path(group).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The controllers that runs have, or will have once [`Tree::prepare`] was called.
    fn handed_down(&self) -> BTreeSet<String> {
        let top = self.top();
        match self.is_ours(&top) {
            true => self.list(&top, "cgroup.controllers"),
            false => self.list(&top, "cgroup.subtree_control"),
        }
    }

    /// Makes the base group and hands down to it, and on to the runs, what limits need. What cannot be handed down is
    /// missed by the step that wants to use it.
    ///
    /// # Errors
    /// mkdir(2).
    pub fn prepare(&self) -> Result<(), SysError> {
        let top = self.top();
        let has = self.handed_down();
        let wanted: BTreeSet<&str> = CONTROLLERS.into_iter().filter(|c| has.contains(*c)).collect();
        let there = self.list(&self.base, "cgroup.subtree_control");
        if wanted.iter().all(|controller| there.contains(*controller)) {
            return Ok(());
        }
        let path = self.path(&self.base);
        fs::create_dir_all(&path).map_err(|e| SysError::new("mkdir", path.display().to_string(), e))?;
        if self.is_ours(&top) {
            self.step_aside(&top);
            self.hand_down(&top, &wanted);
        }
        let below: Vec<&Path> = self.base.ancestors().take_while(|group| **group != top).collect();
        for group in below.into_iter().rev() {
            self.hand_down(group, &wanted);
        }
        Ok(())
    }

    fn hand_down(&self, group: &Path, controllers: &BTreeSet<&str>) {
        let there = self.list(group, "cgroup.subtree_control");
        for controller in controllers.iter().filter(|controller| !there.contains(**controller)) {
            let file = self.path(group).join("cgroup.subtree_control");
            if let Err(error) = fs::write(&file, format!("+{controller}")) {
                tracing::warn!("{}: +{controller}: {error}", file.display());
            }
        }
    }

    /// Leaves the group that is to hand controllers down. The root of the tree may hold processes all the same.
    fn step_aside(&self, top: &Path) {
        let members = self.members(top);
        if top.as_os_str().is_empty() || members.is_empty() {
            return;
        }
        let leaf = top.join(LEAF);
        if let Err(error) = fs::create_dir_all(self.path(&leaf)) {
            tracing::warn!("{}: {error}", leaf.display());
        }
        for pid in members {
            if let Err(error) = self.attach(&leaf, pid) {
                tracing::warn!("{error}");
            }
        }
    }

    /// Takes back what [`Tree::prepare`] did above the base group, as far as nobody else makes use of it.
    fn step_back(&self) {
        if own() != self.home.join(LEAF) || !self.base.starts_with(&self.home) {
            return;
        }
        // EBUSY where groups below hand it on: another supervisor's.
        let control = self.path(&self.home).join("cgroup.subtree_control");
        for controller in self.list(&self.home, "cgroup.subtree_control") {
            let _ = fs::write(&control, format!("-{controller}"));
        }
        if self.attach(&self.home, std::process::id()).is_ok() {
            let _ = fs::remove_dir(self.path(&self.home.join(LEAF)));
        }
    }

    /// Whether this process may make groups in it at all.
    pub fn is_usable(&self) -> bool {
        ids::is_hosts_root().unwrap_or(false) || self.is_delegated()
    }

    /// Whether an ordinary user may make groups in it: the group that he is in was given to him, with the right to move
    /// processes (cgroups(7), delegation).
    pub fn is_delegated(&self) -> bool {
        let own = self.path(&own());
        let may = |path: &Path| {
            rustix::fs::accessat(
                rustix::fs::CWD,
                path,
                rustix::fs::Access::WRITE_OK,
                rustix::fs::AtFlags::empty(),
            )
            .is_ok()
        };
        self.base.starts_with(crate::cgroup::own()) && may(&own) && may(&own.join("cgroup.procs"))
    }

    /// The group of what runs outside for a run; no service is called so.
    pub fn outside(&self, service: &str, run: u64) -> PathBuf {
        self.group(&format!("{service}.hooks"), run)
    }

    /// The group of a run, relative to the mount.
    pub fn group(&self, service: &str, run: u64) -> PathBuf {
        self.base.join(format!("{service}.{run}"))
    }

    /// Where a group is in the file system.
    pub fn path(&self, group: &Path) -> PathBuf {
        self.mount.join(group)
    }

    /// Makes a group and those above it.
    ///
    /// # Errors
    /// mkdir(2), open(2).
    pub fn create(&self, group: &Path) -> Result<OwnedFd, SysError> {
        self.prepare()?;
        let path = self.path(group);
        let fault = |call, error: std::io::Error| SysError::new(call, path.display().to_string(), error);
        fs::create_dir_all(&path).map_err(|error| fault("mkdir", error))?;
        // Nobody knows of it yet who would take it away.
        self.open(group).inspect_err(|_| {
            let _ = fs::remove_dir(&path);
        })
    }

    /// Writes `value` to a file of a group that is held open.
    ///
    /// # Errors
    /// openat(2): ENOENT where its controller was not handed down; write(2).
    pub fn set(group: BorrowedFd<'_>, file: &str, value: &str) -> Result<(), SysError> {
        let fault = |call, errno: rustix::io::Errno| SysError::new(call, format!("{file}: {value}"), errno);
        let opened = rustix::fs::openat(group, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| fault("open", errno))?;
        // One write: the kernel takes it whole or not at all.
        rustix::io::write(&opened, value.as_bytes()).map(drop).map_err(|errno| fault("write", errno))
    }

    /// What a file of a group says; none where there is no such file.
    pub fn get(&self, group: &Path, file: &str) -> Option<String> {
        fs::read_to_string(self.path(group).join(file)).ok().map(|text| text.trim_end().to_owned())
    }

    /// What a group's processes, those that have ended included, have taken. CPU time is told without a controller.
    pub fn usage(&self, group: &Path) -> Usage {
        let cpu = self.numbers(group, "cpu.stat");
        let number = |name: &str| cpu.get(name).copied().unwrap_or_default();
        let io = self.get(group, "io.stat").map(|text| (sum(&text, "rbytes="), sum(&text, "wbytes=")));
        Usage {
            cpu_user_usec: number("user_usec"),
            cpu_system_usec: number("system_usec"),
            // memory.peak is of Linux 5.19, and not there without the controller.
            memory_peak: self.get(group, "memory.peak").and_then(|text| text.parse().ok()),
            io_read_bytes: io.map(|(read, _)| read),
            io_written_bytes: io.map(|(_, written)| written),
            oom_kills: self.numbers(group, "memory.events").get("oom_kill").copied().unwrap_or_default(),
        }
    }

    /// What a group takes at the moment, may take, and has had to wait for.
    pub fn measure(&self, group: &Path) -> Measured {
        let number = |file: &str| self.get(group, file).and_then(|text| text.parse::<u64>().ok());
        let cpu = self.numbers(group, "cpu.stat");
        let io = self.get(group, "io.stat").map(|text| (sum(&text, "rbytes="), sum(&text, "wbytes=")));
        let resources = ["cpu", "memory", "io"].into_iter();
        let pressure = resources
            .filter_map(|resource| Some((resource, self.get(group, &format!("{resource}.pressure"))?)));
        Measured {
            cpu_usec: cpu.get("user_usec").copied().zip(cpu.get("system_usec").copied()),
            throttled_usec: cpu.get("throttled_usec").copied(),
            cpus: self.get(group, "cpu.max").as_deref().and_then(cpus),
            memory: number("memory.current"),
            memory_peak: number("memory.peak"),
            memory_max: number("memory.max"),
            oom_kills: self.numbers(group, "memory.events").get("oom_kill").copied(),
            pids: number("pids.current"),
            pids_max: number("pids.max"),
            io_bytes: io,
            pressure: pressure.flat_map(|(resource, text)| stalls(resource, &text)).collect(),
        }
    }

    /// Whether the group has come to its own `memory.max`, and found nothing that could be given back.
    pub fn is_out_of_memory(&self, group: &Path) -> bool {
        self.numbers(group, "memory.events").get("oom").is_some_and(|count| *count > 0)
    }

    /// A file of lines `name number`.
    fn numbers(&self, group: &Path, file: &str) -> BTreeMap<String, u64> {
        let text = self.get(group, file).unwrap_or_default();
        let line = |line: &str| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.parse().ok()?))
        };
        text.lines().filter_map(line).collect()
    }

    /// A group that exists.
    ///
    /// # Errors
    /// open(2).
    pub fn open(&self, group: &Path) -> Result<OwnedFd, SysError> {
        let path = self.path(group);
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|errno| SysError::new("open", path.display().to_string(), errno))
    }

    /// Moves a process into a group.
    ///
    /// # Errors
    /// open(2), write(2).
    pub fn attach(&self, group: &Path, pid: u32) -> Result<(), SysError> {
        fs::write(self.path(group).join("cgroup.procs"), pid.to_string()).map_err(|error| {
            SysError::new("write", format!("{}/cgroup.procs: {pid}", group.display()), error)
        })
    }

    /// `cgroup.procs` of a group, for whoever is to enter it.
    ///
    /// # Errors
    /// open(2).
    pub fn open_procs(&self, group: &Path) -> Result<OwnedFd, SysError> {
        let path = self.path(group).join("cgroup.procs");
        rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| SysError::new("open", path.display().to_string(), errno))
    }

    /// Kills every process of a group at once (`cgroup.kill`, Linux 5.14). A group that is gone has none.
    ///
    /// # Errors
    /// open(2), write(2).
    pub fn kill(&self, group: &Path) -> Result<(), SysError> {
        match fs::write(self.path(group).join("cgroup.kill"), "1") {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(SysError::new("write", format!("{}/cgroup.kill", group.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// `cgroup.kill` of a group, for whoever is to end it from within.
    ///
    /// # Errors
    /// open(2).
    pub fn open_kill(&self, group: &Path) -> Result<OwnedFd, SysError> {
        let path = self.path(group).join("cgroup.kill");
        rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| SysError::new("open", path.display().to_string(), errno))
    }

    /// Sends a signal to every process of a group but one.
    pub fn signal(&self, group: &Path, signal: nix::sys::signal::Signal, but: Option<u32>) {
        for pid in self.processes(group).into_iter().filter(|pid| Some(*pid) != but) {
            if let Ok(pid) = i32::try_from(pid) {
                // The process may have ended since: then there is nothing to signal.
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
            }
        }
    }

    /// The processes of a group and of those below it, as this pid namespace counts.
    pub fn processes(&self, group: &Path) -> Vec<u32> {
        let mut found = Vec::new();
        walk(&self.path(group), &mut |dir| {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        });
        found
    }

    /// Removes a group with those below it (a service in a cgroup namespace may have made some).
    ///
    /// # Errors
    /// rmdir(2): EBUSY while a process is left.
    pub fn remove(&self, group: &Path) -> Result<(), SysError> {
        let mut dirs = Vec::new();
        walk(&self.path(group), &mut |dir| dirs.push(dir.to_path_buf()));
        for dir in dirs.iter().rev() {
            match fs::remove_dir(dir) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(SysError::new("rmdir", dir.display().to_string(), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Kills every process of a group, waits for their end, and removes it.
    ///
    /// # Errors
    /// As [`Tree::kill`] and [`Tree::remove`].
    pub fn clear(&self, group: &Path) -> Result<(), SysError> {
        self.kill(group)?;
        wait_until_empty(&self.path(group));
        self.remove(group)
    }

    /// Removes the base group once nothing is left in it.
    pub fn remove_base(&self) {
        // Another supervisor may share an upper group: what is not empty stays.
        let mut base = self.base.clone();
        while base.components().next().is_some() && base != self.home {
            if fs::remove_dir(self.path(&base)).is_err() || !base.pop() {
                break;
            }
        }
        self.step_back();
    }

    /// The runs that have a group: service and run.
    pub fn runs(&self) -> Vec<(String, u64)> {
        let entries = fs::read_dir(self.path(&self.base)).into_iter().flatten().flatten();
        let run = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let (service, run) = name.rsplit_once('.')?;
            Some((service.to_owned(), run.parse().ok()?))
        };
        entries.filter_map(run).collect()
    }
}

/// What a group takes at the moment. None: the kernel does not measure it there, or there is no bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Microseconds of CPU in programs and in the kernel.
    pub cpu_usec: Option<(u64, u64)>,
    /// Microseconds that it had to wait because `cpu.max` was used up.
    pub throttled_usec: Option<u64>,
    /// `cpu.max`, in CPUs.
    pub cpus: Option<f64>,
    /// Bytes.
    pub memory: Option<u64>,
    /// Bytes, at the worst moment.
    pub memory_peak: Option<u64>,
    /// Bytes.
    pub memory_max: Option<u64>,
    /// Processes that were killed because memory was used up.
    pub oom_kills: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// How many of them there may be.
    pub pids_max: Option<u64>,
    /// Bytes read from disks and written to them.
    pub io_bytes: Option<(u64, u64)>,
    /// Microseconds that some or all (`full`) processes waited for something, with its name.
    pub pressure: Vec<(&'static str, &'static str, u64)>,
}

/// The sum of the numbers behind a key, over all disks of an `io.stat`.
fn sum(text: &str, key: &str) -> u64 {
    let values = text.split_whitespace().filter_map(|word| word.strip_prefix(key));
    values.filter_map(|value| value.parse::<u64>().ok()).sum()
}

/// How many CPUs a `cpu.max` lets be used at the same time; none: no bound.
fn cpus(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (u32, u32) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| f64::from(quota) / f64::from(period))
}

/// The totals of a pressure file (accounting/psi.rst): `some avg10=0.00 avg60=0.00 avg300=0.00 total=12`.
fn stalls(resource: &'static str, text: &str) -> Vec<(&'static str, &'static str, u64)> {
    let line = |line: &str| {
        let share = ["some", "full"].into_iter().find(|share| line.starts_with(share))?;
        let total = line.split(' ').find_map(|word| word.strip_prefix("total="))?;
        Some((resource, share, total.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

/// Where runs go when nobody says where.
///
/// Once a group hands controllers down, nothing can be put into it any more, by a service manager neither: systemd before
/// 254 (`DelegateSubgroup=`) could start no second supervisor in the unit whose services the first one has left behind.
/// Beside the unit, in a slice that is Palisade's alone (packaging/palisade.service), nobody is in the way.
fn default_base(home: &Path) -> PathBuf {
    match (home.parent(), home.file_name().and_then(|unit| unit.to_str())) {
        (Some(slice), Some(unit)) if slice.file_name().is_some_and(|name| name == SLICE) => {
            slice.join(format!("{unit}.runs"))
        }
        _ => home.join("palisade"),
    }
}

/// See [`default_base`].
const SLICE: &str = "palisade.slice";

/// The process that a process is a child of.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The number of the disk that is meant by a block device, or by a file that lies on it, `MAJOR:MINOR` as `io.max` has it.
///
/// # Errors
/// stat(2); ENOTBLK where the file system has no disk.
pub fn disk(device: &Path) -> Result<String, SysError> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let shown = || device.display().to_string();
    let data = fs::metadata(device).map_err(|error| SysError::new("stat", shown(), error))?;
    let number = if data.file_type().is_block_device() { data.rdev() } else { data.dev() };
    let number = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let known = PathBuf::from("/sys/dev/block").join(&number);
    // The kernel bounds whole disks alone: a partition's disk is the directory above it.
    let read = |path: PathBuf| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let disk = match known.join("partition").exists() {
        true => fs::canonicalize(&known).ok().and_then(|path| read(path.parent()?.join("dev"))),
        false => read(known.join("dev")),
    };
    disk.ok_or_else(|| SysError::new("stat", shown(), libc::ENOTBLK))
}

/// Whether processes are left in the group of this `cgroup.events`.
pub fn is_populated(events: &OwnedFd) -> bool {
    let mut bytes = [0; 256];
    let read = rustix::io::pread(events, &mut bytes, 0).unwrap_or_default();
    bytes[..read].split(|byte| *byte == b'\n').any(|line| line == b"populated 1")
}

/// Waits until the processes of a group that was killed have ended. Bounded: one in an uninterruptible sleep may never.
pub fn wait_until_empty(group: &Path) {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(events) = rustix::fs::open(group.join("cgroup.events"), flags, Mode::empty()) else { return };
    let patience = rustix::time::Timespec { tv_sec: 5, tv_nsec: 0 };
    while is_populated(&events) {
        let mut poll = [PollFd::new(&events, PollFlags::PRI)];
        if rustix::event::poll(&mut poll, Some(&patience)) == Ok(0) {
            return;
        }
    }
}

/// Visits a directory and those below it, upper ones first. Depth is bounded by the kernel's `cgroup.max.depth`
/// and by the directories there are.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    let mut left = vec![dir.to_path_buf()];
    while let Some(dir) = left.pop() {
        visit(&dir);
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        left.extend(dirs.map(|entry| entry.path()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_group_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpus("50000 100000"), Some(0.5));
        assert_eq!((cpus("max 100000"), cpus(""), cpus("1 0")), (None, None, None));
        let io = "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=0 rios=1\n";
        assert_eq!((sum(io, "rbytes="), sum(io, "wbytes=")), (4097, 8192));
        let text = "some avg10=0.12 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        assert_eq!(stalls("io", text), [("io", "some", 1234), ("io", "full", 5)]);
        assert_eq!(stalls("io", ""), []);
    }
}
