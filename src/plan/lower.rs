//! From child steps to the operations that the init carries out.
//!
//! The init maps the bytes that come out of here at [`wire::PLAN_AT`] and runs them as they stand: every argument is a
//! number, a pointer into those bytes, or a register. The numbers of the system calls are those of the architecture that
//! this is compiled for, which is that of the init.

mod ask;
mod walls;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use libc::c_long;

use super::{
    ChildStep, Credentials, FailAt, Fd, LaunchPlan, Question, SYS_HIDDEN_DIRS, SYS_HIDDEN_FILES, Session,
    User,
};
use crate::{
    init::{
        self,
        wire::{self, Head, NOWHERE, Op},
    },
    seccomp::{Filter, Program},
    spec::{
        Capability, IdSpec,
        limits::{Bounds, Rlimit},
        security::mask,
    },
};

// The first registers hold the descriptors that came with the plan; results go here.
const TARGET: u8 = 200;
const CONFIGURATION: u8 = 201;
const MOUNTED: u8 = 202;
const MASTER: u8 = 203;
const SLAVE: u8 = 204;
const FILE: u8 = 205;
const UID: u8 = 206;
const GID: u8 = 207;
const KEYRING: u8 = 208;

/// Above every number that a service is given a descriptor under.
const BEYOND: u64 = 256;

const AT_FDCWD: u64 = (libc::AT_FDCWD as i64).cast_unsigned();

/// What is known only once the init stands before us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its namespaces: the kernel's name of each kind, and the number that is the namespace's identity.
    pub namespaces: Vec<(&'static str, u64)>,
    /// Device (major, minor) and inode of the directory that becomes `/`.
    pub root: Option<([u32; 2], u64)>,
    /// Optional mounts that there was no source for.
    pub absent: Vec<PathBuf>,
}

/// The bytes of the plan for the init, to be sent in a sealed memfd.
pub fn lower(plan: &LaunchPlan, seen: &Seen) -> Vec<u8> {
    let mut out = Lowering::new(plan.fds(), seen.clone());
    out.drops = plan.flags & wire::DROP != 0;
    out.inject(plan.fail_at);
    for step in &plan.init {
        out.step(step);
    }
    match plan.is_deferred() {
        true => out.skip(1 + plan.service.len()),
        false => [ChildStep::Fork].iter().chain(&plan.service).for_each(|step| out.step(step)),
    }
    let after = out.ops.len();
    for step in &plan.waiting {
        out.step(step);
    }
    out.finish(plan.flags, after)
}

/// The bytes of what [`lower`] leaves out of a plan where commands go before the service: its own process.
pub fn lower_deferred(plan: &LaunchPlan, seen: &Seen) -> Vec<u8> {
    let mut out = Lowering::new(plan.deferred_fds(), seen.clone());
    out.outlives_us = true;
    out.skip(plan.init.len());
    out.inject(plan.fail_at);
    for step in [ChildStep::Fork].iter().chain(&plan.service) {
        out.step(step);
    }
    let after = out.ops.len();
    out.finish(plan.flags, after)
}

/// The bytes of the plan of a further process, which an init that waits is to fork.
pub fn lower_session(session: &Session, seen: &Seen) -> Vec<u8> {
    let mut out = Lowering::new(session.fds(), seen.clone());
    out.session = session.number;
    out.outlives_us = session.number == 0 || session.number & wire::AWAITED != 0;
    out.drops = session.flags & wire::DROP != 0;
    for step in [ChildStep::Fork].iter().chain(&session.steps) {
        out.step(step);
    }
    let after = out.ops.len();
    for step in &session.after {
        out.step(step);
    }
    out.finish(session.flags, after)
}

/// The plan of the keeper: nothing to do but to wait.
pub fn keeper() -> Vec<u8> {
    let mut out = Lowering::new(vec![Fd::Listen], Seen::default());
    out.step(&ChildStep::Keep(vec![Fd::Listen]));
    out.name_process("palisade-keep");
    let after = out.ops.len();
    out.finish(wire::KEEPER, after)
}

/// An argument of a call.
enum Arg<'a> {
    Value(u64),
    Register(u8),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// What was put into the blob before.
    At(u64),
}

struct Lowering {
    fds: Vec<Fd>,
    ops: Vec<Op>,
    /// What the operations point to; behind them in the plan, so pointers are relocated when their number is known.
    blob: Vec<u8>,
    /// (operation, argument) that are offsets into the blob.
    pointers: Vec<(usize, usize)>,
    /// Offsets in the blob of words that are offsets into the blob.
    inner: Vec<usize>,
    step: u16,
    session: u32,
    /// Whoever asked for the process may have died: a successor knows of it, and finds it by itself.
    outlives_us: bool,
    /// The step that begins with a call that no kernel has.
    fail_at: Option<u16>,
    /// The step that begins with a wait for the end of the supervisor.
    wait_at: Option<u16>,
    /// Output that is full loses what is oldest.
    drops: bool,
    /// The change of user has been told to leave the capabilities alone.
    keeps_capabilities: bool,
    /// The step and the item whose expectation is wrong.
    wrong_at: Option<(u16, usize)>,
    seen: Seen,
    /// Which item of the step it is about, where the operations have their flags.
    item: u16,
    /// The text `LISTEN_PID=`, whose number is written by the process that it is about.
    listen_pid: Option<u64>,
}

impl Lowering {
    fn new(fds: Vec<Fd>, seen: Seen) -> Self {
        let (ops, blob, pointers, inner) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self {
            fds,
            ops,
            blob,
            pointers,
            inner,
            step: 0,
            session: 0,
            outlives_us: false,
            fail_at: None,
            wait_at: None,
            drops: false,
            keeps_capabilities: false,
            wrong_at: None,
            seen,
            item: 0,
            listen_pid: None,
        }
    }

    fn inject(&mut self, fail_at: Option<FailAt>) {
        match fail_at {
            Some(FailAt::Child(number)) => self.fail_at = u16::try_from(number).ok(),
            Some(FailAt::Attested(number, item)) => {
                self.wrong_at = u16::try_from(number).ok().map(|number| (number, item));
            }
            Some(FailAt::WaitAtChild(number)) => self.wait_at = u16::try_from(number).ok(),
            Some(FailAt::Host(_) | FailAt::DieAtHost(_)) | None => {}
        }
    }

    /// Leaves out so many steps, whose numbers nobody else gets.
    fn skip(&mut self, count: usize) {
        self.step += u16::try_from(count).expect("a plan has a few dozen steps");
    }

    fn finish(mut self, flags: u32, after: usize) -> Vec<u8> {
        let blob_at = wire::PLAN_AT + (size_of::<Head>() + self.ops.len() * size_of::<Op>()) as u64;
        for (op, arg) in &self.pointers {
            self.ops[*op].args[*arg] += blob_at;
        }
        for at in &self.inner {
            let word = &mut self.blob[*at..*at + 8];
            let offset = u64::from_ne_bytes(word.try_into().expect("a word is 8 bytes"));
            word.copy_from_slice(&(offset + blob_at).to_ne_bytes());
        }
        let count = |n: usize| u32::try_from(n).expect("a plan has a few hundred operations");
        let head = Head { magic: wire::MAGIC, flags, ops: count(self.ops.len()), after: count(after) };
        let mut bytes = init::head_bytes(&head).to_vec();
        for op in &self.ops {
            bytes.extend_from_slice(&init::op_bytes(op));
        }
        bytes.extend_from_slice(&self.blob);
        bytes
    }

    /// Puts bytes into the blob, aligned for any use.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        self.blob.resize(self.blob.len().next_multiple_of(8), 0);
        let at = self.blob.len() as u64;
        self.blob.extend_from_slice(bytes);
        at
    }

    fn put_text(&mut self, text: &str) -> u64 {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(&bytes)
    }

    fn op(&mut self, kind: u16, nr: c_long, args: &[Arg<'_>]) -> &mut Op {
        let nr = u64::try_from(nr).expect("system call numbers are positive");
        let (step, flags) = (self.step, self.item);
        let mut op = Op { kind, step, flags, registers: 0, save: NOWHERE, nr, args: [0; 6], want: 0 };
        for (n, arg) in args.iter().enumerate() {
            let offset = match arg {
                Arg::Value(value) => {
                    op.args[n] = *value;
                    continue;
                }
                Arg::Register(register) => {
                    op.args[n] = u64::from(*register);
                    op.registers |= 1 << n;
                    continue;
                }
                Arg::Text(text) => self.put_text(text),
                Arg::Bytes(bytes) => self.put(bytes),
                Arg::At(offset) => *offset,
            };
            op.args[n] = offset;
            self.pointers.push((self.ops.len(), n));
        }
        self.ops.push(op);
        self.ops.last_mut().expect("just pushed")
    }

    /// A vector of pointers to texts, with a null at the end.
    fn put_texts(&mut self, texts: &[String]) -> u64 {
        let offsets: Vec<u64> = texts.iter().map(|text| self.put_text(text)).collect();
        self.put_pointers(&offsets)
    }

    /// A vector of pointers into the blob, with a null at the end.
    fn put_pointers(&mut self, offsets: &[u64]) -> u64 {
        let at = self.put(&vec![0; (offsets.len() + 1) * 8]);
        for (n, offset) in offsets.iter().enumerate() {
            let word = usize::try_from(at).expect("a blob fits into memory") + n * 8;
            self.blob[word..word + 8].copy_from_slice(&offset.to_ne_bytes());
            self.inner.push(word);
        }
        at
    }

    fn call(&mut self, nr: c_long, args: &[Arg<'_>]) -> &mut Op {
        self.op(wire::OP_CALL, nr, args)
    }

    /// A call whose result is wanted later.
    fn call_into(&mut self, register: u8, nr: c_long, args: &[Arg<'_>]) {
        self.call(nr, args).save = register;
    }

    /// A call whose result is known in advance.
    fn call_exactly(&mut self, want: i64, nr: c_long, args: &[Arg<'_>]) {
        let op = self.call(nr, args);
        op.flags |= wire::ON_EXACTLY;
        op.want = want;
    }

    /// A call that one error, or with 0 any, does not make fail.
    fn call_unless(&mut self, errno: i32, nr: c_long, args: &[Arg<'_>]) {
        let op = self.call(nr, args);
        op.flags |= wire::ON_ERROR_GO_ON;
        op.want = -i64::from(errno);
    }

    /// Waits until the supervisor at the other end of the channel has ended. Where the channel is closed already, or the
    /// filter denies it, there is no wait.
    fn wait_for_hangup(&mut self) {
        // struct pollfd with no event: a hang-up is told all the same.
        let channel = self.put(&[0; 8]);
        self.op(wire::OP_STORE, 0, &[Arg::At(channel), Arg::Register(wire::CHANNEL)]);
        let zero = || Arg::Value(0);
        self.call_unless(0, libc::SYS_ppoll, &[Arg::At(channel), Arg::Value(1), zero(), zero(), zero()]);
    }

    fn close(&mut self, register: u8) {
        self.call(libc::SYS_close, &[Arg::Register(register)]);
    }

    fn register(&self, fd: Fd) -> Arg<'static> {
        let at = self.fds.iter().position(|known| *known == fd).expect("the plan lists what its steps use");
        // The plan itself is the first descriptor.
        Arg::Register(u8::try_from(at + 1).expect("a plan has a few descriptors"))
    }

    fn step(&mut self, step: &ChildStep) {
        self.step += 1;
        if self.fail_at == Some(self.step) {
            // Without the bit that makes it a call of x32, which the filter would kill.
            self.call(0x3fff_ffff, &[]);
        }
        if self.wait_at == Some(self.step) {
            self.wait_for_hangup();
        }
        match step {
            ChildStep::IdsRoot => self.ids_root(),
            ChildStep::Keyring => {
                let join = libc::KEYCTL_JOIN_SESSION_KEYRING;
                let args = [Arg::Value(u64::from(join)), Arg::Value(0)];
                let op = self.call(libc::SYS_keyctl, &args);
                (op.flags, op.save) = (wire::ON_DENIED_GO_ON, KEYRING);
                // Where keyctl(2) is denied altogether, as by the filter of somebody's container, it is denied to the service
                // too. A denial of that one call is none of those: then the answer, which is no keyring's number, is looked up in
                // vain.
                let get = Arg::Value(u64::from(libc::KEYCTL_GET_KEYRING_ID));
                let op = self.call(libc::SYS_keyctl, &[get, Arg::Register(KEYRING), Arg::Value(0)]);
                op.flags = wire::ON_DENIED_GO_ON;
            }
            ChildStep::Subreaper => self.prctl(libc::PR_SET_CHILD_SUBREAPER, 1),
            ChildStep::MountPrivate => {
                self.mount(None, "/", None, libc::MS_REC | libc::MS_PRIVATE, None);
            }
            ChildStep::RootEnter(path) => self.root_enter(path),
            ChildStep::Proc => {
                self.mount_in_root("proc", "proc", 0);
                self.close(MOUNTED);
            }
            ChildStep::Sysfs => self.sysfs(),
            ChildStep::NoUserNamespaces { own } => self.no_user_namespaces(*own),
            ChildStep::Attest(items) => self.attest(items),
            ChildStep::Landlock(landlock) => self.landlock(landlock),
            ChildStep::Label(module, label) => self.label(*module, label),
            ChildStep::PivotRoot => self.pivot_root(),
            ChildStep::DevPts(group) => {
                let group = group.map(|gid| format!(",gid={gid}")).unwrap_or_default();
                // A bound of its own: the 4096 of the kernel are those of the whole machine.
                let options = format!("newinstance,ptmxmode=0666,mode=0620{group},max=256");
                let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
                self.mount(Some("devpts"), "/dev/pts", Some("devpts"), flags, Some(&options));
            }
            ChildStep::CgroupFs => {
                let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
                self.mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), flags, None);
            }
            ChildStep::ProcMask => self.proc_mask(),
            ChildStep::Hostname(name) => {
                self.call(libc::SYS_sethostname, &[Arg::Text(name), Arg::Value(name.len() as u64)]);
            }
            ChildStep::Domainname(name) => {
                self.call(libc::SYS_setdomainname, &[Arg::Text(name), Arg::Value(name.len() as u64)]);
            }
            ChildStep::ClockOffset(seconds) => self.clock_offset(*seconds),
            ChildStep::Fork => {
                self.op(wire::OP_FORK, 0, &[]);
            }
            ChildStep::Session => {
                self.call(libc::SYS_setsid, &[]);
            }
            ChildStep::Stdio => {
                for (to, fd) in [Fd::Stdin, Fd::Stdout, Fd::Stderr].into_iter().enumerate() {
                    let from = self.register(fd);
                    self.call(libc::SYS_dup3, &[from, Arg::Value(to as u64), Arg::Value(0)]);
                }
            }
            ChildStep::Terminal { columns, rows } => self.terminal(*columns, *rows),
            ChildStep::CloseFds => {
                let all = Arg::Value(u64::from(u32::MAX));
                let cloexec = Arg::Value(u64::from(libc::CLOSE_RANGE_CLOEXEC));
                self.call(libc::SYS_close_range, &[Arg::Value(3), all, cloexec]);
            }
            ChildStep::Given(names) => self.give(names.len()),
            ChildStep::Hello => self.hello(),
            ChildStep::BoundingSet(kept) => self.bounding_set(kept),
            ChildStep::Credentials(credentials) => self.credentials(credentials),
            ChildStep::Rlimits(limits) => self.rlimits(limits),
            ChildStep::Capabilities { held, ambient } => self.service_capabilities(held, ambient),
            ChildStep::Umask(mask) => {
                self.call(libc::SYS_umask, &[Arg::Value(u64::from(*mask))]);
            }
            ChildStep::WorkingDir(path) => self.working_dir(path),
            ChildStep::Signals => self.signals(),
            ChildStep::Alarm(time) => self.alarm(*time),
            ChildStep::ReadyFd(fd) => self.ready_fd(*fd),
            ChildStep::NoNewPrivs => {
                self.prctl(libc::PR_SET_NO_NEW_PRIVS, 1);
                let read = Arg::Value(libc::PR_GET_NO_NEW_PRIVS as u64);
                self.call_exactly(1, libc::SYS_prctl, &[read]);
            }
            ChildStep::Seccomp(filter) => self.seccomp(filter),
            ChildStep::Exec { command, env, path } => self.exec(command, env, path),
            ChildStep::Ask(question) => self.ask(question),
            ChildStep::PidFile(path) => {
                let path = path.to_str().expect("the loader takes only text");
                self.op(wire::OP_PID_FILE, 0, &[Arg::Text(path)]);
            }
            ChildStep::Keep(fds) => self.keep(fds),
            ChildStep::Recede { id, capabilities } => self.recede(*id, capabilities),
        }
    }

    fn prctl(&mut self, option: i32, value: u64) {
        self.call(libc::SYS_prctl, &[Arg::Value(i64::from(option).cast_unsigned()), Arg::Value(value)]);
    }

    /// What `ps` shows in place of the name of a memfd.
    fn name_process(&mut self, name: &str) {
        self.call(libc::SYS_prctl, &[Arg::Value(libc::PR_SET_NAME as u64), Arg::Text(name)]);
    }

    fn mount(
        &mut self,
        source: Option<&str>,
        target: &str,
        kind: Option<&str>,
        flags: u64,
        options: Option<&str>,
    ) -> &mut Op {
        let text = |text| match text {
            Some(text) => Arg::Text(text),
            None => Arg::Value(0),
        };
        let args = [text(source), Arg::Text(target), text(kind), Arg::Value(flags), text(options)];
        self.call(libc::SYS_mount, &args)
    }

    fn ids_root(&mut self) {
        self.call(libc::SYS_setgroups, &[Arg::Value(0), Arg::Value(0)]);
        let zero = || [Arg::Value(0), Arg::Value(0), Arg::Value(0)];
        self.call(libc::SYS_setresgid, &zero());
        self.call(libc::SYS_setresuid, &zero());
    }

    fn root_enter(&mut self, path: &Path) {
        let path = path.to_str().expect("paths of our own are text");
        // A mount of our own on top: what came with the clone is locked, and pivot_root(2) refuses a locked mount.
        self.mount(Some(path), path, None, libc::MS_BIND | libc::MS_REC, None);
        self.call(libc::SYS_chdir, &[Arg::Text(path)]);
    }

    /// Mounts a file system of this name on the directory of this name in the root that was entered; the mount stays in its
    /// register.
    fn mount_in_root(&mut self, kind: &str, point: &str, more: u64) {
        let root = init::OpenHow {
            flags: (libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64,
            mode: 0,
            resolve: libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS,
        };
        let how = root.bytes();
        let args = [Arg::Value(AT_FDCWD), Arg::Text(point), Arg::Bytes(&how), Arg::Value(how.len() as u64)];
        self.call_into(TARGET, libc::SYS_openat2, &args);
        self.call_into(CONFIGURATION, libc::SYS_fsopen, &[Arg::Text(kind), Arg::Value(1)]);
        let create = Arg::Value(u64::from(6u8)); // FSCONFIG_CMD_CREATE
        let args = [Arg::Register(CONFIGURATION), create, Arg::Value(0), Arg::Value(0), Arg::Value(0)];
        self.call(libc::SYS_fsconfig, &args);
        let attributes = more | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        let args = [Arg::Register(CONFIGURATION), Arg::Value(1), Arg::Value(attributes)];
        self.call_into(MOUNTED, libc::SYS_fsmount, &args);
        // MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH: both ends are descriptors, no name is walked twice.
        let flags = Arg::Value(0x44);
        let args = [Arg::Register(MOUNTED), Arg::Text(""), Arg::Register(TARGET), Arg::Text(""), flags];
        self.call(libc::SYS_move_mount, &args);
        for register in [TARGET, CONFIGURATION] {
            self.close(register);
        }
    }

    /// As `Workshop::sysfs` does it on the host's side.
    fn sysfs(&mut self) {
        self.mount_in_root("sysfs", "sys", libc::MOUNT_ATTR_RDONLY);
        // By the descriptor of what was mounted: the name may by now lead elsewhere.
        let flags = Arg::Value((libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64);
        self.call_into(FILE, libc::SYS_openat, &[Arg::Value(AT_FDCWD), Arg::Text("."), flags]);
        self.call(libc::SYS_fchdir, &[Arg::Register(MOUNTED)]);
        let closed = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        for path in SYS_HIDDEN_DIRS {
            let args = [
                Arg::Text("tmpfs"),
                Arg::Text(path),
                Arg::Text("tmpfs"),
                Arg::Value(closed),
                Arg::Text("mode=0,nr_inodes=2"),
            ];
            self.call_unless(libc::ENOENT, libc::SYS_mount, &args);
        }
        self.hide_files(&SYS_HIDDEN_FILES);
        self.call(libc::SYS_fchdir, &[Arg::Register(FILE)]);
        for register in [FILE, MOUNTED] {
            self.close(register);
        }
    }

    fn pivot_root(&mut self) {
        // The new root stacks under the old one, so no directory for the old one is needed: pivot_root(2), NOTES.
        self.call(libc::SYS_pivot_root, &[Arg::Text("."), Arg::Text(".")]);
        self.call(libc::SYS_umount2, &[Arg::Text("."), Arg::Value(libc::MNT_DETACH as u64)]);
        self.call(libc::SYS_chdir, &[Arg::Text("/")]);
    }

    /// Below one descriptor, which is looked at: in a root that somebody on the host may write to, the name /proc may by
    /// now lead to something else than what was mounted there.
    fn proc_mask(&mut self) {
        self.open_proc("/proc");
        self.call(libc::SYS_fchdir, &[Arg::Register(MOUNTED)]);
        let closed = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let remount = libc::MS_REMOUNT | libc::MS_BIND | closed;
        for path in PROC_READ_ONLY {
            let args = [
                Arg::Text(path),
                Arg::Text(path),
                Arg::Value(0),
                Arg::Value(libc::MS_BIND | libc::MS_REC),
                Arg::Value(0),
            ];
            self.call_unless(libc::ENOENT, libc::SYS_mount, &args);
            let args = [Arg::Value(0), Arg::Text(path), Arg::Value(0), Arg::Value(remount), Arg::Value(0)];
            self.call_unless(libc::ENOENT, libc::SYS_mount, &args);
        }
        for path in PROC_MASKED_DIRS {
            let args = [
                Arg::Text("tmpfs"),
                Arg::Text(path),
                Arg::Text("tmpfs"),
                Arg::Value(closed),
                Arg::Text("size=0"),
            ];
            self.call_unless(libc::ENOENT, libc::SYS_mount, &args);
        }
        self.hide_files(&PROC_MASKED_FILES);
        self.close(MOUNTED);
        self.call(libc::SYS_chdir, &[Arg::Text("/")]);
    }

    /// Lays an unreadable file over each of these that there is, below the working directory, which is the mount in `MOUNTED`.
    fn hide_files(&mut self, paths: &[&str]) {
        // What a mask below fails with when the kernel lacks the file must not be its want of a source.
        self.call(libc::SYS_faccessat, &[Arg::Value(AT_FDCWD), Arg::Text("/dev/null"), Arg::Value(0)]);
        for path in paths {
            let args = [
                Arg::Text("/dev/null"),
                Arg::Text(path),
                Arg::Value(0),
                Arg::Value(libc::MS_BIND),
                Arg::Value(0),
            ];
            self.call_unless(libc::ENOENT, libc::SYS_mount, &args);
        }
        // And for all of them at once that no device is opened: what is masked cannot be read.
        let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
        // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
        let attributes: Vec<u8> = [attributes, 0, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let flags = Arg::Value(u64::from((libc::AT_EMPTY_PATH | libc::AT_RECURSIVE).cast_unsigned()));
        let (length, attributes) = (Arg::Value(attributes.len() as u64), Arg::Bytes(&attributes));
        let args = [Arg::Register(MOUNTED), Arg::Text(""), flags, attributes, length];
        self.call(libc::SYS_mount_setattr, &args);
    }

    fn clock_offset(&mut self, seconds: i64) {
        self.call(libc::SYS_unshare, &[Arg::Value(libc::CLONE_NEWTIME as u64)]);
        let flags = Arg::Value((libc::O_WRONLY | libc::O_CLOEXEC) as u64);
        let path = Arg::Text("/proc/self/timens_offsets");
        self.call_into(FILE, libc::SYS_openat, &[Arg::Value(AT_FDCWD), path, flags]);
        // One write: the kernel takes both lines or none (time_namespaces(7)).
        let text = format!("monotonic {seconds} 0\nboottime {seconds} 0\n");
        let length = text.len() as u64;
        let args = [Arg::Register(FILE), Arg::Text(&text), Arg::Value(length)];
        self.call_exactly(text.len() as i64, libc::SYS_write, &args);
        self.close(FILE);
    }

    fn terminal(&mut self, columns: u16, rows: u16) {
        let flags = Arg::Value((libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) as u64);
        let args = [Arg::Value(AT_FDCWD), Arg::Text("/dev/ptmx"), flags];
        self.call_into(MASTER, libc::SYS_openat, &args);
        let unlock = Arg::Bytes(&[0; 4]);
        let master = || Arg::Register(MASTER);
        self.call(libc::SYS_ioctl, &[master(), Arg::Value(libc::TIOCSPTLCK), unlock]);
        let mut size = Vec::new();
        for word in [rows, columns, 0, 0] {
            size.extend_from_slice(&word.to_ne_bytes());
        }
        self.call(libc::SYS_ioctl, &[master(), Arg::Value(libc::TIOCSWINSZ), Arg::Bytes(&size)]);
        let peer = [master(), Arg::Value(TIOCGPTPEER), Arg::Value((libc::O_RDWR | libc::O_NOCTTY) as u64)];
        self.call_into(SLAVE, libc::SYS_ioctl, &peer);
        self.call(libc::SYS_ioctl, &[Arg::Register(SLAVE), Arg::Value(libc::TIOCSCTTY), Arg::Value(0)]);
        for to in 0..3 {
            self.call(libc::SYS_dup3, &[Arg::Register(SLAVE), Arg::Value(to), Arg::Value(0)]);
        }
        self.close(SLAVE);
        self.op(wire::OP_SEND_FD, 0, &[master(), Arg::Text("terminal")]);
        self.close(MASTER);
    }

    /// Descriptors 3 and up. Any of those numbers may be that of another one that is still needed, so all of them, and where
    /// faults are reported, first go where no number is given away. The channel is not needed any more.
    fn give(&mut self, count: usize) {
        let registers: Vec<u8> = (0..count)
            .map(|n| match self.register(Fd::Given(u8::try_from(n).expect("a service is given few"))) {
                Arg::Register(register) => register,
                _ => unreachable!("a descriptor is in a register"),
            })
            .collect();
        self.op(wire::OP_REPORT_ABOVE, 0, &[Arg::Value(BEYOND)]);
        let above = || [Arg::Value(libc::F_DUPFD_CLOEXEC as u64), Arg::Value(BEYOND)];
        for register in &registers {
            let [command, least] = above();
            self.call_into(*register, libc::SYS_fcntl, &[Arg::Register(*register), command, least]);
        }
        for (n, register) in registers.iter().enumerate() {
            let to = 3 + n as u64;
            let args = [Arg::Register(*register), Arg::Value(to), Arg::Value(0)];
            self.call_exactly(to.cast_signed(), libc::SYS_dup3, &args);
        }
        const NAME: &str = "LISTEN_PID=";
        let mut text = NAME.as_bytes().to_vec();
        // pid_max is below 2^22.
        text.extend([0; 16]);
        let at = self.put(&text);
        self.op(wire::OP_PID, 0, &[Arg::At(at + NAME.len() as u64)]);
        self.listen_pid = Some(at);
    }

    fn hello(&mut self) {
        let message = wire::Message::new(wire::SAY_HELLO, self.session, 0, 0);
        let bytes = init::message_bytes(&message);
        let length = Arg::Value(bytes.len() as u64);
        let flags = Arg::Value(libc::MSG_NOSIGNAL as u64);
        let args = [Arg::Register(wire::CHANNEL), Arg::Bytes(&bytes), length, flags];
        match self.outlives_us {
            true => self.call_unless(0, libc::SYS_sendto, &args),
            false => self.call_exactly(bytes.len() as i64, libc::SYS_sendto, &args),
        }
    }

    fn bounding_set(&mut self, kept: &BTreeSet<Capability>) {
        let kept = mask(kept);
        for capability in (0..64).filter(|n| kept & 1 << n == 0) {
            // EINVAL: the kernel does not have so many.
            let args = [Arg::Value(libc::PR_CAPBSET_DROP as u64), Arg::Value(capability)];
            self.call_unless(libc::EINVAL, libc::SYS_prctl, &args);
        }
        for capability in Capability::all().map(|capability| u64::from(capability.number())) {
            let args = [Arg::Value(libc::PR_CAPBSET_READ as u64), Arg::Value(capability)];
            self.call_exactly(i64::from(kept & 1 << capability != 0), libc::SYS_prctl, &args);
        }
    }

    fn credentials(&mut self, credentials: &Credentials) {
        match &credentials.user {
            User::Name(name) => {
                self.op(wire::OP_USER, 0, &[Arg::Text(name), Arg::Value(u64::from(UID))]);
            }
            User::Id(id) => {
                for register in [UID, GID] {
                    self.op(wire::OP_LOAD, 0, &[Arg::Value(u64::from(*id))]).save = register;
                }
            }
        }
        if let Some(group) = &credentials.group {
            self.load_group(group);
        }
        if let User::Name(name) = &credentials.user {
            self.op(wire::OP_MEMBER, 0, &[Arg::Text(name)]);
        }
        for group in &credentials.extra {
            let at = FILE;
            match group {
                IdSpec::Number(gid) => {
                    self.op(wire::OP_ADD_GROUP, 0, &[Arg::Value(u64::from(*gid))]);
                }
                IdSpec::Name(name) => {
                    self.op(wire::OP_GROUP, 0, &[Arg::Text(name), Arg::Value(u64::from(at))]);
                    self.op(wire::OP_ADD_GROUP, 0, &[Arg::Register(at)]);
                }
            }
        }
        // So that the service may open /dev/stdout. What is no pipe of ours belongs to somebody that is not mapped, and
        // stays his.
        for fd in [1, 2].into_iter().filter(|_| credentials.takes_output) {
            let args = [Arg::Value(fd), Arg::Register(UID), Arg::Register(GID)];
            self.call_unless(0, libc::SYS_fchown, &args);
        }
        if !credentials.keep_groups {
            self.op(wire::OP_SET_GROUPS, 0, &[]);
        }
        let three = |register| [Arg::Register(register), Arg::Register(register), Arg::Register(register)];
        self.call(libc::SYS_setresgid, &three(GID));
        if credentials.keep_capabilities {
            // Or the change of user would take them along: PR_SET_KEEPCAPS(2const).
            self.prctl(libc::PR_SET_KEEPCAPS, 1);
            self.keeps_capabilities = true;
        }
        self.call(libc::SYS_setresuid, &three(UID));
    }

    fn load_group(&mut self, group: &IdSpec) {
        match group {
            IdSpec::Number(gid) => self.op(wire::OP_LOAD, 0, &[Arg::Value(u64::from(*gid))]).save = GID,
            IdSpec::Name(name) => {
                self.op(wire::OP_GROUP, 0, &[Arg::Text(name), Arg::Value(u64::from(GID))]);
            }
        }
    }

    /// Sets the limits of this process and reads them back.
    fn rlimits(&mut self, limits: &[(Rlimit, Bounds)]) {
        // struct rlimit64 of prlimit(2); RLIM64_INFINITY is all ones.
        let word = |limit: Option<u64>| limit.unwrap_or(u64::MAX).to_ne_bytes();
        for (limit, bounds) in limits {
            let wanted = [word(bounds.soft), word(bounds.hard)].concat();
            let resource = || Arg::Value(u64::from(limit.number()));
            let set = [Arg::Value(0), resource(), Arg::Bytes(&wanted), Arg::Value(0)];
            self.call(libc::SYS_prlimit64, &set);
            let answer = self.put(&[0; 16]);
            let get = [Arg::Value(0), resource(), Arg::Value(0), Arg::At(answer)];
            self.call(libc::SYS_prlimit64, &get);
            self.op(wire::OP_EXPECT, 0, &[Arg::At(answer), Arg::Bytes(&wanted), Arg::Value(16)]);
        }
    }

    fn service_capabilities(&mut self, held: &BTreeSet<Capability>, ambient: &BTreeSet<Capability>) {
        // The kernel bounds what may be inheritable by what is: nothing of the init's may stay in between.
        self.capabilities(mask(held), mask(ambient));
        let option = |option: i32| Arg::Value(i64::from(option).cast_unsigned());
        for capability in ambient {
            let number = || Arg::Value(u64::from(capability.number()));
            let raise = [option(libc::PR_CAP_AMBIENT), option(libc::PR_CAP_AMBIENT_RAISE), number()];
            self.call(libc::SYS_prctl, &raise);
            let read = [option(libc::PR_CAP_AMBIENT), option(libc::PR_CAP_AMBIENT_IS_SET), number()];
            self.call_exactly(1, libc::SYS_prctl, &read);
        }
        if std::mem::take(&mut self.keeps_capabilities) {
            self.prctl(libc::PR_SET_KEEPCAPS, 0);
        }
    }

    /// Sets permitted and effective to `held`, and inheritable, to which the kernel holds the ambient set, and reads them
    /// back; the ambient set is empty afterwards.
    fn capabilities(&mut self, held: u64, inheritable: u64) {
        let ambient = libc::PR_CAP_AMBIENT as u64;
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as u64;
        self.call(libc::SYS_prctl, &[Arg::Value(ambient), Arg::Value(clear)]);
        let (head, data) = capability_sets(held, inheritable);
        self.call(libc::SYS_capset, &[Arg::Bytes(&head), Arg::Bytes(&data)]);
        self.expect_capabilities(held, inheritable);
    }

    fn expect_capabilities(&mut self, held: u64, inheritable: u64) {
        let (head, data) = capability_sets(held, inheritable);
        let answer = self.put(&[0; 24]);
        self.call(libc::SYS_capget, &[Arg::Bytes(&head), Arg::At(answer)]);
        self.op(wire::OP_EXPECT, 0, &[Arg::At(answer), Arg::Bytes(&data), Arg::Value(24)]);
    }

    fn working_dir(&mut self, path: &Path) {
        let path = path.to_str().expect("the loader takes only text");
        self.call(libc::SYS_chdir, &[Arg::Text(path)]);
        // A directory outside the root would be "(unreachable)": CVE-2024-21626.
        let answer = self.put(&[0; libc::PATH_MAX as usize]);
        self.call(libc::SYS_getcwd, &[Arg::At(answer), Arg::Value(libc::PATH_MAX as u64)]);
        self.op(wire::OP_EXPECT, 0, &[Arg::At(answer), Arg::Bytes(b"/"), Arg::Value(1)]);
    }

    fn signals(&mut self) {
        // Every signal has been at its default since the init began.
        let none = [0; 8];
        let set = Arg::Value(libc::SIG_SETMASK as u64);
        let args = [set, Arg::Bytes(&none), Arg::Value(0), Arg::Value(8)];
        self.call(libc::SYS_rt_sigprocmask, &args);
    }

    /// By way of a number that is not given away: the descriptor may have come as `fd` itself, which dup3(2) refuses.
    fn ready_fd(&mut self, fd: i32) {
        self.op(wire::OP_REPORT_ABOVE, 0, &[Arg::Value(BEYOND)]);
        let from = self.register(Fd::Ready);
        let number = |n: i32| Arg::Value(i64::from(n).cast_unsigned());
        self.call_into(FILE, libc::SYS_fcntl, &[from, number(libc::F_DUPFD_CLOEXEC), Arg::Value(BEYOND)]);
        self.call_exactly(i64::from(fd), libc::SYS_dup3, &[Arg::Register(FILE), number(fd), Arg::Value(0)]);
        self.close(FILE);
    }

    fn seccomp(&mut self, filter: &Filter) {
        self.filter(&filter.main, libc::SECCOMP_FILTER_FLAG_LOG);
        self.filter(&filter.quiet, 0);
        let filtered = i64::from(libc::SECCOMP_MODE_FILTER);
        self.call_exactly(filtered, libc::SYS_prctl, &[Arg::Value(libc::PR_GET_SECCOMP as u64)]);
    }

    fn filter(&mut self, program: &Program, flags: u64) {
        let code = self.put(program.bytes());
        // struct sock_fprog: the count, and behind six bytes of padding the pointer.
        let count = u64::try_from(program.len()).expect("a program has a few thousand instructions");
        let head = [count.to_ne_bytes(), code.to_ne_bytes()].concat();
        let at = self.put(&head);
        self.inner.push(usize::try_from(at).expect("a blob fits into memory") + 8);
        let mode = Arg::Value(u64::from(libc::SECCOMP_SET_MODE_FILTER));
        self.call_exactly(0, libc::SYS_seccomp, &[mode, Arg::Value(flags), Arg::At(at)]);
    }

    fn exec(&mut self, command: &[String], env: &[String], path: &[String]) {
        let program = &command[0];
        let candidates: Vec<String> = if program.contains('/') {
            vec![program.clone()]
        } else {
            path.iter().map(|dir| format!("{dir}/{program}")).collect()
        };
        let argv = self.put_texts(command);
        let mut env: Vec<u64> = env.iter().map(|text| self.put_text(text)).collect();
        env.extend(self.listen_pid);
        let envp = self.put_pointers(&env);
        let last = candidates.len().saturating_sub(1);
        for (n, candidate) in candidates.iter().enumerate() {
            let op = self.call(libc::SYS_execve, &[Arg::Text(candidate), Arg::At(argv), Arg::At(envp)]);
            if n < last {
                // As execvp(3): what is not there, or not allowed, is looked for in the next directory.
                op.flags |= wire::ON_ERROR_GO_ON;
            }
        }
    }

    /// With an output that is to lose bytes when it is full goes its write end.
    fn writer_of(&mut self, kept: Fd) {
        let (writer, n) = match kept {
            Fd::KeepStdout => (Fd::Stdout, 0),
            Fd::KeepStderr => (Fd::Stderr, 1),
            Fd::Listen
            | Fd::Words
            | Fd::Stdin
            | Fd::Stdout
            | Fd::Stderr
            | Fd::Notify
            | Fd::Ready
            | Fd::KeepReady
            | Fd::Kill
            | Fd::Given(_) => return,
        };
        // A plan without a main process has none yet.
        if self.drops && self.fds.contains(&writer) {
            let register = self.register(writer);
            self.op(wire::OP_WRITER, 0, &[register, Arg::Value(n)]);
        }
    }

    fn keep(&mut self, fds: &[Fd]) {
        for fd in fds {
            let register = self.register(*fd);
            self.writer_of(*fd);
            match fd {
                Fd::Listen => self.op(wire::OP_LISTEN, 0, &[register]),
                Fd::Words => self.op(wire::OP_WORDS, 0, &[register]),
                Fd::Stdin
                | Fd::Stdout
                | Fd::Stderr
                | Fd::KeepStdout
                | Fd::KeepStderr
                | Fd::Kill
                | Fd::Notify
                | Fd::Ready
                | Fd::KeepReady
                | Fd::Given(_) => self.op(wire::OP_KEEP, 0, &[register, Arg::Text(fd.label())]),
            };
        }
    }

    fn recede(&mut self, id: Option<u32>, capabilities: &BTreeSet<Capability>) {
        if let Some(id) = id {
            // Or the change of user would take the capabilities along: PR_SET_KEEPCAPS(2const).
            self.prctl(libc::PR_SET_KEEPCAPS, 1);
            let three = || [Arg::Value(u64::from(id)), Arg::Value(u64::from(id)), Arg::Value(u64::from(id))];
            self.call(libc::SYS_setresgid, &three());
            self.call(libc::SYS_setresuid, &three());
            self.prctl(libc::PR_SET_KEEPCAPS, 0);
        }
        let kept = [CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP];
        let kept = kept.iter().fold(mask(capabilities), |kept, capability| kept | 1 << capability);
        self.capabilities(kept, 0);
        self.name_process("palisade-init");
        self.prctl(libc::PR_SET_DUMPABLE, 0);
        self.prctl(libc::PR_SET_NO_NEW_PRIVS, 1);
        for (option, wanted) in [(libc::PR_GET_DUMPABLE, 0), (libc::PR_GET_NO_NEW_PRIVS, 1)] {
            self.call_exactly(wanted, libc::SYS_prctl, &[Arg::Value(i64::from(option).cast_unsigned())]);
        }
    }
}

/// struct __user_cap_header_struct for the caller, and the two struct __user_cap_data_struct of capset(2): effective and
/// permitted are the same.
fn capability_sets(held: u64, inheritable: u64) -> (Vec<u8>, Vec<u8>) {
    let half = |mask: u64, shift: u32| u32::try_from(mask >> shift & u64::from(u32::MAX)).expect("masked");
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let set = |shift| [half(held, shift), half(held, shift), half(inheritable, shift)];
    (bytes(&[CAPABILITY_VERSION_3, 0]), bytes(&[set(0), set(32)].concat()))
}

// linux/capability.h
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_CHOWN: u32 = 0;
const CAP_KILL: u32 = 5;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SETPCAP: u32 = 8;

/// asm-generic/ioctls.h: `_IO('T', 0x41)`, Linux 4.13.
const TIOCGPTPEER: u64 = 0x5441;

/// Kernel knobs of the whole machine, below /proc.
const PROC_READ_ONLY: [&str; 6] = ["sys", "irq", "bus", "fs", "sysrq-trigger", "1"];
/// What the machine does, has and knows beyond the sandbox: its memory, its devices and how busy they are, how it was booted.
const PROC_MASKED_FILES: [&str; 34] = [
    "bootconfig",
    "buddyinfo",
    "cmdline",
    "config.gz",
    "consoles",
    "diskstats",
    "dma",
    "interrupts",
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "locks",
    "mdstat",
    "modules",
    "mtrr",
    "pagetypeinfo",
    "partitions",
    "sched_debug",
    "schedstat",
    "slabinfo",
    "softirqs",
    "swaps",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
    "zoneinfo",
];
/// As above, directories; a trigger written below `pressure` is work for the kernel as well.
const PROC_MASKED_DIRS: [&str; 6] = ["acpi", "asound", "driver", "dynamic_debug", "pressure", "scsi"];
