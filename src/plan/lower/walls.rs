//! The steps that make walls inside walls, and those that look whether the walls stand.

use std::path::Path;

use super::{AT_FDCWD, Arg, CONFIGURATION, FILE, GID, Lowering, MOUNTED, TARGET, UID};
use crate::{
    init::{
        OpenHow,
        wire::{self, ITEM_SHIFT},
    },
    plan::{Attested, Fd, Landlock, Module, MountFlags},
};

/// Where struct statx has what is asked for: statx(2). The same on every architecture.
const STATX_SIZE: usize = 256;
const STATX_INO: u64 = 32;
const STATX_DEV: u64 = 136;
const STATX_INO_MASK: u64 = 0x100;

/// Where struct statfs has its flags, behind ten longs: statfs(2).
const STATFS_FLAGS: u64 = 80;

/// linux/keyctl.h
const KEYCTL_DESCRIBE: u64 = 6;
const KEY_SPEC_SESSION_KEYRING: u64 = (-3i64).cast_unsigned();

/// linux/landlock.h
const LANDLOCK_RULE_PATH_BENEATH: u64 = 1;
/// linux/mount.h
const FSCONFIG_CMD_CREATE: u64 = 6;

/// These errors are no failure of the call.
fn go_on(op: &mut wire::Op, errors: &[i32]) {
    op.flags |= wire::ON_ERRORS_GO_ON;
    op.want = errors.iter().map(|errno| 1 << errno).sum();
}

impl Lowering {
    /// Opens a procfs, and looks that it is one: in a root that somebody on the host may write to, the name may by now lead
    /// to something else than what was mounted there (CVE-2019-16884 and its kind).
    pub(super) fn open_proc(&mut self, path: &str) {
        // Not openat2(2), which a filter cannot look into and may deny by now: of one component O_NOFOLLOW says as much.
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let args = [Arg::Value(AT_FDCWD), Arg::Text(path), Arg::Value(u64::from(flags.cast_unsigned()))];
        self.call_into(MOUNTED, libc::SYS_openat, &args);
        let answer = self.put(&[0; size_of::<libc::statfs>()]);
        self.call(libc::SYS_fstatfs, &[Arg::Register(MOUNTED), Arg::At(answer)]);
        // struct statfs begins with the type, a long: statfs(2).
        let magic = libc::PROC_SUPER_MAGIC.to_ne_bytes();
        self.op(wire::OP_EXPECT, 0, &[Arg::At(answer), Arg::Bytes(&magic), Arg::Value(magic.len() as u64)]);
    }

    /// Writes to a file below the procfs that is open. One write: none of these files takes its text in parts.
    fn write_proc(&mut self, path: &str, bytes: &[u8]) {
        let flags = Arg::Value((libc::O_WRONLY | libc::O_CLOEXEC) as u64);
        self.call_into(FILE, libc::SYS_openat, &[Arg::Register(MOUNTED), Arg::Text(path), flags]);
        let length = i64::try_from(bytes.len()).expect("a label is short");
        let args = [Arg::Register(FILE), Arg::Bytes(bytes), Arg::Value(bytes.len() as u64)];
        self.call_exactly(length, libc::SYS_write, &args);
        self.close(FILE);
    }

    pub(super) fn no_user_namespaces(&mut self, own: bool) {
        self.open_proc(if own { "proc" } else { "/proc" });
        const BUDGET: &str = "sys/user/max_user_namespaces";
        self.write_proc(BUDGET, b"0");
        let flags = Arg::Value((libc::O_RDONLY | libc::O_CLOEXEC) as u64);
        self.call_into(FILE, libc::SYS_openat, &[Arg::Register(MOUNTED), Arg::Text(BUDGET), flags]);
        let answer = self.put(&[0; 16]);
        self.call(libc::SYS_read, &[Arg::Register(FILE), Arg::At(answer), Arg::Value(16)]);
        self.expect(answer, b"0\n");
        for register in [FILE, MOUNTED] {
            self.close(register);
        }
    }

    pub(super) fn label(&mut self, module: Module, label: &str) {
        self.open_proc("/proc");
        match module {
            Module::AppArmor => {
                self.write_proc("self/attr/apparmor/exec", format!("exec {label}").as_bytes());
            }
            Module::SeLinux => self.write_proc("self/attr/exec", format!("{label}\0").as_bytes()),
        }
        self.close(MOUNTED);
    }

    /// A path that leads nowhere by a link, opened to name it and nothing more.
    fn open_place(&mut self, path: &Path) -> &mut wire::Op {
        let how = OpenHow {
            flags: (libc::O_PATH | libc::O_CLOEXEC) as u64,
            mode: 0,
            resolve: libc::RESOLVE_NO_SYMLINKS,
        };
        let (how, path) = (how.bytes(), path.to_str().expect("the loader takes only text"));
        let args = [Arg::Value(AT_FDCWD), Arg::Text(path), Arg::Bytes(&how), Arg::Value(how.len() as u64)];
        let op = self.call(libc::SYS_openat2, &args);
        op.save = TARGET;
        op
    }

    /// Makes the domain from the paths as they are inside, and enters it.
    pub(super) fn landlock(&mut self, landlock: &Landlock) {
        let Landlock { handled, scoped, rules, stdin, logged, queues, .. } = landlock;
        // struct landlock_ruleset_attr: file rights, network rights, scopes. An older kernel takes the longer one where
        // what it does not know is 0.
        let attributes: Vec<u8> = [*handled, 0, *scoped].iter().flat_map(|word| word.to_ne_bytes()).collect();
        let args = [Arg::Bytes(&attributes), Arg::Value(attributes.len() as u64), Arg::Value(0)];
        self.call_into(FILE, libc::SYS_landlock_create_ruleset, &args);
        for rule in rules {
            // What is not there, or a link, gets no rule, and what lies behind it no right.
            go_on(self.open_place(&rule.path), &[libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::EACCES]);
            // For a directory everything, for anything else what a file may have: the kernel takes no more (EINVAL).
            let of_files = rule.may_be_file.then_some(rule.of_files());
            for access in of_files.into_iter().chain([rule.access]) {
                go_on(self.landlock_rule(access, Arg::Register(TARGET)), &[libc::EBADF, libc::EINVAL]);
            }
            let place = [Arg::Register(TARGET)];
            self.call_unless(libc::EBADF, libc::SYS_close, &place);
        }
        if *stdin {
            // A pipe is nowhere and needs no rule (EBADFD).
            let stdin = self.register(Fd::Stdin);
            let rule = self.landlock_rule(Landlock::STDIN & handled, stdin);
            rule.flags |= wire::ON_ERROR_GO_ON;
            rule.want = -i64::from(libc::EBADFD);
        }
        if *queues {
            self.landlock_queues(Landlock::QUEUES & handled);
        }
        self.call(libc::SYS_landlock_restrict_self, &[Arg::Register(FILE), Arg::Value((*logged).into())]);
        self.close(FILE);
        // There is no call that tells of one's domain, but there is one that it forbids and that would change nothing. That
        // the init has the capability for it was seen by the mounts before.
        let op = self.mount(None, "/", None, libc::MS_PRIVATE, None);
        op.flags |= wire::ON_EXACTLY;
        op.want = -i64::from(libc::EPERM);
    }

    /// Allows something at and below what a descriptor names.
    fn landlock_rule(&mut self, access: u64, place: Arg<'_>) -> &mut wire::Op {
        // struct landlock_path_beneath_attr, packed: the rights, the descriptor.
        let mut rule = access.to_ne_bytes().to_vec();
        rule.extend_from_slice(&[0; 4]);
        let at = self.put(&rule);
        self.op(wire::OP_STORE, 0, &[Arg::At(at + 8), place]);
        let kind = Arg::Value(LANDLOCK_RULE_PATH_BENEATH);
        self.call(libc::SYS_landlock_add_rule, &[Arg::Register(FILE), kind, Arg::At(at), Arg::Value(0)])
    }

    /// Allows the message queues of this IPC namespace. mq_open(2) goes by no path, and asks the domain all the same: for
    /// the root of their file system, of which every mount is the same.
    fn landlock_queues(&mut self, access: u64) {
        let op = self.call(libc::SYS_fsopen, &[Arg::Text("mqueue"), Arg::Value(1)]);
        op.save = CONFIGURATION;
        // A kernel that was built without them, and then what would be done with what is not there.
        go_on(op, &[libc::ENODEV]);
        let none = || Arg::Value(0);
        let create = [Arg::Register(CONFIGURATION), Arg::Value(FSCONFIG_CMD_CREATE), none(), none(), none()];
        go_on(self.call(libc::SYS_fsconfig, &create), &[libc::EBADF]);
        let op = self.call(libc::SYS_fsmount, &[Arg::Register(CONFIGURATION), Arg::Value(1), none()]);
        op.save = TARGET;
        go_on(op, &[libc::EBADF]);
        go_on(self.landlock_rule(access, Arg::Register(TARGET)), &[libc::EBADF]);
        for register in [TARGET, CONFIGURATION] {
            self.call_unless(libc::EBADF, libc::SYS_close, &[Arg::Register(register)]);
        }
    }

    pub(super) fn attest(&mut self, items: &[Attested]) {
        let reads_proc = |item: &Attested| matches!(item, Attested::Namespace(_));
        if items.iter().any(reads_proc) {
            self.open_proc("/proc");
        }
        for (n, item) in items.iter().enumerate() {
            // So many are told apart; of more mounts than that the last ones have one number.
            let number = u16::try_from(n + 1).unwrap_or(u16::MAX).min(u16::from(u8::MAX));
            self.item = number << ITEM_SHIFT;
            // What is expected is turned into what cannot be: how the tests see that each of these looks.
            let twist = u64::from(self.wrong_at == Some((self.step, n + 1)));
            self.attest_one(item, twist);
        }
        self.item = 0;
        if items.iter().any(reads_proc) {
            self.close(MOUNTED);
        }
    }

    fn attest_one(&mut self, item: &Attested, twist: u64) {
        match item {
            Attested::Namespace(kind) => {
                let known = self.seen.namespaces.iter().find(|(known, _)| known == kind);
                // No namespace has the number 0: what was not seen is never right.
                let inode = known.map_or(0, |(_, inode)| *inode);
                let answer = self.put(&[0; STATX_SIZE]);
                let path = format!("self/ns/{kind}");
                let args = [
                    Arg::Register(MOUNTED),
                    Arg::Text(&path),
                    Arg::Value(0),
                    Arg::Value(STATX_INO_MASK),
                    Arg::At(answer),
                ];
                self.call(libc::SYS_statx, &args);
                self.expect(answer + STATX_INO, &(inode ^ twist).to_ne_bytes());
            }
            Attested::Root => {
                let (device, inode) = self.seen.root.unwrap_or_default();
                let answer = self.put(&[0; STATX_SIZE]);
                let args = [
                    Arg::Value(AT_FDCWD),
                    Arg::Text("/"),
                    Arg::Value(0),
                    Arg::Value(STATX_INO_MASK),
                    Arg::At(answer),
                ];
                self.call(libc::SYS_statx, &args);
                self.expect(answer + STATX_INO, &(inode ^ twist).to_ne_bytes());
                let device: Vec<u8> = device.iter().flat_map(|half| half.to_ne_bytes()).collect();
                self.expect(answer + STATX_DEV, &device);
            }
            Attested::Mount(path, flags) => {
                if !self.seen.absent.contains(path) {
                    self.attest_mount(path, *flags, twist);
                }
            }
            Attested::User => self.attest_ids(UID, libc::SYS_getresuid, libc::SYS_setfsuid, twist),
            Attested::Group => self.attest_ids(GID, libc::SYS_getresgid, libc::SYS_setfsgid, twist),
            Attested::Groups => {
                if twist != 0 {
                    self.op(wire::OP_ADD_GROUP, 0, &[Arg::Value(u64::from(u32::MAX - 1))]);
                }
                self.op(wire::OP_HAS_GROUPS, 0, &[]);
            }
            Attested::Capabilities { held, inheritable } => {
                self.expect_capabilities(held ^ twist, *inheritable);
            }
            Attested::Bounding(wanted) => self.has_bits(wanted ^ twist, libc::PR_CAPBSET_READ, None),
            Attested::Ambient(wanted) => {
                self.has_bits(wanted ^ twist, libc::PR_CAP_AMBIENT, Some(libc::PR_CAP_AMBIENT_IS_SET));
            }
            Attested::NoNewPrivs => {
                let read = Arg::Value(libc::PR_GET_NO_NEW_PRIVS as u64);
                self.call_exactly(1 ^ twist.cast_signed(), libc::SYS_prctl, &[read]);
            }
            Attested::Scheduler(sched) => {
                self.call_exactly(i64::from(sched.policy()), libc::SYS_sched_getscheduler, &[Arg::Value(0)]);
                // struct sched_param: one number.
                let answer = self.put(&[0; 8]);
                self.call(libc::SYS_sched_getparam, &[Arg::Value(0), Arg::At(answer)]);
                let twisted = sched.priority() ^ i32::from(twist != 0);
                self.expect(answer, &twisted.to_ne_bytes());
            }
            Attested::IoPriority(ioprio) => {
                // IOPRIO_WHO_PROCESS, of the caller.
                let args = [Arg::Value(1), Arg::Value(0)];
                let value = i64::from(ioprio.value()) ^ twist.cast_signed();
                self.call_exactly(value, libc::SYS_ioprio_get, &args);
            }
            Attested::Keyring => self.attest_keyring(twist),
        }
    }

    /// `count` bytes of an answer must be these.
    fn expect(&mut self, at: u64, bytes: &[u8]) {
        self.op(wire::OP_EXPECT, 0, &[Arg::At(at), Arg::Bytes(bytes), Arg::Value(bytes.len() as u64)]);
    }

    fn attest_mount(&mut self, path: &Path, flags: MountFlags, twist: u64) {
        self.open_place(path);
        let answer = self.put(&[0; size_of::<libc::statfs>()]);
        self.call(libc::SYS_fstatfs, &[Arg::Register(TARGET), Arg::At(answer)]);
        let at = answer + STATFS_FLAGS;
        let bits = [
            (flags.ro, libc::ST_RDONLY),
            (flags.nosuid, libc::ST_NOSUID),
            (flags.nodev, libc::ST_NODEV),
            (flags.noexec, libc::ST_NOEXEC),
        ];
        let mask = bits.into_iter().filter(|(set, _)| *set).fold(0, |mask, (_, bit)| mask | bit);
        self.op(wire::OP_MASKED, 0, &[Arg::At(at), Arg::Value(mask), Arg::Value(mask ^ twist)]);
        self.close(TARGET);
    }

    /// The four ids of one kind: the three that have a name, and the one that files are opened with.
    fn attest_ids(&mut self, wanted: u8, get: libc::c_long, set_fs: libc::c_long, twist: u64) {
        let (answer, expected) = (self.put(&[0; 16]), self.put(&[0; 16]));
        self.call(get, &[Arg::At(answer), Arg::At(answer + 4), Arg::At(answer + 8)]);
        // setfsuid(2) of what is no id changes nothing and tells what it is.
        self.call_into(FILE, set_fs, &[Arg::Value(u64::from(u32::MAX))]);
        self.op(wire::OP_STORE, 0, &[Arg::At(answer + 12), Arg::Register(FILE)]);
        for n in 0..4 {
            let id = if twist == 0 { Arg::Register(wanted) } else { Arg::Value(u64::from(u32::MAX)) };
            self.op(wire::OP_STORE, 0, &[Arg::At(expected + 4 * n), id]);
        }
        self.op(wire::OP_EXPECT, 0, &[Arg::At(answer), Arg::At(expected), Arg::Value(16)]);
    }

    /// A prctl(2) that tells of one capability.
    fn has_bits(&mut self, wanted: u64, option: i32, what: Option<i32>) {
        let number = |option: i32| Arg::Value(i64::from(option).cast_unsigned());
        let (second, at) = match what {
            None => (Arg::Value(0), 1),
            Some(what) => (number(what), 2),
        };
        let (none, wanted) = (Arg::Value(0), Arg::Value(wanted));
        let args = [number(option), second, none, Arg::Value(0), wanted, Arg::Value(at)];
        self.op(wire::OP_HAS_BITS, libc::SYS_prctl, &args);
    }

    /// `keyring;UID;GID;PERMISSIONS;NAME`: keyctl(2), KEYCTL_DESCRIBE.
    fn attest_keyring(&mut self, twist: u64) {
        const OWNER: &[u8] = b"keyring;0;0;";
        const NAME: &[u8] = b";_ses\0";
        // As it has to be, for a kernel without keyrings, which leaves it so.
        let mut answer = OWNER.to_vec();
        answer.extend_from_slice(b"00000000");
        let name_at = answer.len() as u64;
        answer.extend_from_slice(NAME);
        answer.resize(128, 0);
        let length = answer.len() as u64;
        let answer = self.put(&answer);
        let args = [
            Arg::Value(KEYCTL_DESCRIBE),
            Arg::Value(KEY_SPEC_SESSION_KEYRING),
            Arg::At(answer),
            Arg::Value(length),
        ];
        self.call(libc::SYS_keyctl, &args).flags |= wire::ON_DENIED_GO_ON;
        self.expect(answer, if twist == 0 { OWNER } else { b"key;" });
        self.expect(answer + name_at, NAME);
    }
}
