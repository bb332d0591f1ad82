use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    config::parse_str,
    init::wire::{self, Head, NOWHERE, Op},
    net::addr::NetworkSettings,
    spec::NetworkMode,
};

/// Files that between them reach every step.
const FILES: [&str; 8] = [
    "",
    "rootfs.base = 'none'\nrootfs.proc = 'none'\nrootfs.sys = 'none'\nnetwork.mode = 'none'",
    "rootfs.base = 'dir'\nrootfs.dir = '/srv/root'\nrootfs.writable = 'persistent'\nservice.user = 'web'\n\
     service.group = 'web'\nservice.extra_groups = ['mail', 12]\nrestart.mode = 'in-place'\nrootfs.hide = ['/root']\n\
     rootfs.read_only = ['/etc']\nnamespaces.time = true\nnamespaces.clock_offset = 3600\n\
     namespaces.domainname = 'example'\nservice.nice = 5\nnetwork.egress = 'any'\nnetwork.publish = ['8080:80']",
    "namespaces.user = 'off'\nservice.user = 33\nnamespaces.pid = 'host'\nnetwork.mode = 'host'\nrootfs.dev = 'host'",
    "service.tty = true\nservice.user = 'root'",
    "rootfs.mounts = [{ src = '/srv/a', dst = '/a', ro = false }]\nrootfs.dev = ['/dev/fuse']\nservice.stdin = 'file:/srv/in'\n\
     security.credentials = [{ name = 'token', file = '/srv/token' }]",
    "limits = { memory = { max = '64M', low = '1M' }, cpu = { max = 1.5, weight = 50, pin = '0-1' }, io = { weight = 50, \
     max = [{ device = '/dev/vda', rbps = '1MB/s' }] }, pids = { max = 10 }, rlimits = { nofile = 100 } }",
    "namespaces.nested = true\nsecurity.apparmor = 'web'",
];

fn unit(keys: &str) -> Unit {
    let facts = HostFacts { cgroup_kill: true, apparmor: true, ..HostFacts::default() };
    let text = format!("service.command = ['web', '--name', 'a b']\n{keys}\n");
    parse_str("web", &text, &facts).unwrap_or_else(|found| panic!("{keys}: {found:?}"))
}

fn plan(keys: &str) -> LaunchPlan {
    let unit = unit(keys);
    let veth = unit.network.mode == NetworkMode::Veth;
    let link = veth.then(|| LinkPlan::new(&NetworkSettings::default(), (1, 0), None, &[]).unwrap());
    let assigned = Assigned {
        run: 1,
        id_base: 1 << 30,
        cgroup: Some("palisade/web.1".into()),
        root: "/run/palisade/init/root".into(),
        state: "/var/lib/palisade".into(),
        link,
        talk: BTreeSet::new(),
        peers: Vec::new(),
        stored: Vec::new(),
        netns_kept: false,
        machine_id: machine_id("alpha", "web"),
        ends_with_launcher: false,
        unprivileged: None,
    };
    build(&unit, &assigned, &HostFacts { landlock: 7, ..HostFacts::default() })
}

/// The names of the steps, in order.
fn names(plan: &LaunchPlan) -> (Vec<&'static str>, Vec<&'static str>) {
    let host = plan.host.iter().map(|step| render::host(step).0).collect();
    (host, plan.child().map(|step| render::child(step).0).collect())
}

/// `first` stands before `second` wherever both stand.
#[track_caller]
fn ordered(names: &[&str], first: &str, second: &str) {
    let last_first = names.iter().rposition(|name| *name == first);
    let first_second = names.iter().position(|name| *name == second);
    if let (Some(a), Some(b)) = (last_first, first_second) {
        assert!(a < b, "{first} after {second}: {names:?}");
    }
}

#[test]
fn host_steps_stand_in_the_order_that_the_kernel_demands() {
    for file in FILES {
        let (host, _) = names(&plan(file));
        // The root is copied by the clone, and locked by it: nothing is attached afterwards.
        for step in host.iter().filter(|name| name.starts_with("root.")) {
            ordered(&host, step, "clone");
        }
        for (first, second) in [
            ("cgroup.create", "cgroup.limit"),
            // There is no moment without a bound.
            ("cgroup.limit", "clone"),
            ("clone", "rlimits.raise"),
            ("rlimits.raise", "go"),
            ("netns.create", "publish"),
            ("publish", "veth.create"),
            ("veth.create", "egress"),
            ("veth.create", "clone"),
            ("netns.create", "root.sysfs"),
            ("idmap.create", "root.dir"),
            ("idmap.create", "root.bind"),
            ("root.file", "root.seal"),
            ("root.bind", "root.hide"),
            ("root.hide", "root.read_only"),
            ("stdio", "clone"),
            ("channel", "clone"),
            ("clone", "ids"),
            ("ids", "go"),
            ("sched", "go"),
        ] {
            ordered(&host, first, second);
        }
        for once in ["channel", "clone", "go"] {
            assert_eq!(host.iter().filter(|name| **name == once).count(), 1, "{once}: {host:?}");
        }
        assert_eq!(host.last(), Some(&"go"));
    }
}

#[test]
fn child_steps_stand_in_the_order_that_the_kernel_demands() {
    for file in FILES {
        let (_, child) = names(&plan(file));
        for (first, second) in [
            // pivot_root(2): EINVAL while the parent of the new root is shared.
            ("mount.private", "root.enter"),
            // The host's root may pass the directories above it, nobody of the sandbox.
            ("root.enter", "ids.root"),
            ("ids.root", "keyring"),
            // No new procfs once the full one is out of sight.
            ("proc", "pivot_root"),
            ("pivot_root", "devpts"),
            ("pivot_root", "cgroup2"),
            ("proc", "proc.mask"),
            ("pivot_root", "proc.mask"),
            ("subreaper", "fork"),
            // While the /proc of the host is there, or a new one that is whole.
            ("user_namespaces", "pivot_root"),
            // Whoever is in a domain mounts nothing; whoever is forked after it is in it.
            ("proc.mask", "landlock"),
            ("cgroup2", "landlock"),
            ("landlock", "fork"),
            ("no_new_privs", "apparmor"),
            ("apparmor", "exec"),
            // What is read back stands behind everything that changes it.
            ("attest", "exec"),
            ("clock_offset", "fork"),
            ("session", "terminal"),
            ("stdio", "close_fds"),
            ("close_fds", "hello"),
            // Each takes away the right to do the one before it.
            ("bounding_set", "user"),
            ("user", "rlimits"),
            ("rlimits", "capabilities"),
            ("capabilities", "no_new_privs"),
            // With the rights of the user alone.
            ("capabilities", "working_dir"),
            ("signals", "exec"),
            ("no_new_privs", "exec"),
            ("exec", "init.keep"),
            ("init.keep", "init.recede"),
        ] {
            ordered(&child, first, second);
        }
        for once in [
            "pivot_root",
            "fork",
            "close_fds",
            "bounding_set",
            "user",
            "capabilities",
            "no_new_privs",
            "exec",
        ] {
            assert_eq!(child.iter().filter(|name| **name == once).count(), 1, "{once}: {child:?}");
        }
        assert_eq!(child.last(), Some(&"init.recede"));
        let mounting =
            ["mount.private", "root.enter", "proc", "pivot_root", "devpts", "cgroup2", "proc.mask"];
        let fork = child.iter().position(|name| *name == "fork").unwrap();
        assert!(child[fork..].iter().all(|name| !mounting.contains(name)), "{child:?}");
    }
}

#[test]
fn the_service_executes_last_and_a_session_is_as_confined() {
    for file in FILES {
        let service = plan(file).service;
        assert!(matches!(service.last(), Some(ChildStep::Exec { .. })));
        let unit = unit(file);
        let stdio = match unit.service.tty {
            true => ChildStep::Terminal { columns: 80, rows: 24 },
            false => ChildStep::Stdio,
        };
        let session = session(&unit, &unit.service.command, stdio);
        assert_eq!(session, service, "a session differs from the service");
    }
}

#[test]
fn without_a_user_namespace_nothing_is_said_about_ids() {
    let (host, child) = names(&plan(FILES[3]));
    assert!(!host.contains(&"ids") && !host.contains(&"idmap.create"), "{host:?}");
    assert!(!child.contains(&"ids.root"), "{child:?}");
    assert_eq!(
        plan(FILES[3]).waiting.last(),
        Some(&ChildStep::Recede { id: None, capabilities: [].into() }),
        "65535 would be the host's"
    );
    let clone = plan(FILES[3]).host.into_iter().find_map(|step| match step {
        HostStep::Clone(namespaces) => Some(namespaces),
        _ => None,
    });
    assert_eq!(clone, Some(vec!["mnt", "uts", "ipc", "cgroup"]));
}

#[test]
fn the_descriptors_of_a_plan_are_those_that_its_steps_use() {
    for file in FILES {
        let plan = plan(file);
        let used: BTreeSet<Fd> = plan.child().flat_map(ChildStep::fds).collect();
        assert_eq!(plan.fds(), used.into_iter().collect::<Vec<_>>());
        assert!(plan.fds().len() < wire::MAX_FDS, "the plan itself is one more");
    }
}

/// A lowered plan, read back as the init reads it.
struct Lowered {
    bytes: Vec<u8>,
    head: Head,
    ops: Vec<Op>,
}

impl Lowered {
    fn read(bytes: Vec<u8>) -> Self {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let half = |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap());
        let head = Head { magic: word(0), flags: word(4), ops: word(8), after: word(12) };
        let op = |n: usize| {
            let at = size_of::<Head>() + n * size_of::<Op>();
            Op {
                kind: half(at),
                step: half(at + 2),
                flags: half(at + 4),
                registers: bytes[at + 6],
                save: bytes[at + 7],
                nr: long(at + 8),
                args: std::array::from_fn(|arg| long(at + 16 + arg * 8)),
                want: long(at + 64).cast_signed(),
            }
        };
        let ops = (0..head.ops as usize).map(op).collect();
        Self { head, ops, bytes }
    }

    /// Where a pointer leads, as an offset; none for what is no pointer.
    fn offset(&self, pointer: u64) -> Option<usize> {
        // No number in a plan is so large: sizes, flags and ids end at 32 bits, -100 is far above.
        let is_pointer = (wire::PLAN_AT..wire::PLAN_AT << 1).contains(&pointer);
        is_pointer.then(|| usize::try_from(pointer - wire::PLAN_AT).unwrap())
    }

    fn text(&self, pointer: u64) -> String {
        let at = self.offset(pointer).expect("a pointer");
        let length = self.bytes[at..].iter().position(|byte| *byte == 0).expect("a text ends with NUL");
        String::from_utf8(self.bytes[at..at + length].to_vec()).unwrap()
    }

    fn texts(&self, pointer: u64) -> Vec<String> {
        let mut at = self.offset(pointer).expect("a pointer");
        assert_eq!(at % 8, 0, "a vector of pointers is aligned");
        let mut texts = Vec::new();
        loop {
            let word = u64::from_ne_bytes(self.bytes[at..at + 8].try_into().unwrap());
            if word == 0 {
                return texts;
            }
            texts.push(self.text(word));
            at += 8;
        }
    }

    fn calls(&self, nr: libc::c_long) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(move |op| op.kind == wire::OP_CALL && op.nr == nr.cast_unsigned())
    }
}

#[test]
fn a_lowered_plan_points_only_into_itself() {
    for file in FILES {
        let plan = plan(file);
        let lowered = Lowered::read(lower::lower(&plan, &Seen::default()));
        let blob = size_of::<Head>() + lowered.ops.len() * size_of::<Op>();
        assert_eq!(lowered.head.magic, wire::MAGIC);
        assert_eq!(lowered.head.flags, plan.flags);
        assert!(lowered.head.after <= lowered.head.ops);
        let mut pointers = 0;
        for op in &lowered.ops {
            for (n, arg) in op.args.iter().enumerate() {
                if op.registers & (1 << n) != 0 {
                    assert!(*arg < wire::REGISTERS as u64, "{op:?}");
                } else if let Some(at) = lowered.offset(*arg) {
                    assert!((blob..lowered.bytes.len()).contains(&at), "{op:?}");
                    // The members of an answer are words of four bytes, everything else begins at eight.
                    assert_eq!(at % 4, 0, "{op:?}");
                    pointers += 1;
                }
            }
            assert!(op.save == NOWHERE || usize::from(op.save) < wire::REGISTERS, "{op:?}");
            assert!(
                op.save == NOWHERE || usize::from(op.save) > plan.fds().len(),
                "over a descriptor: {op:?}"
            );
        }
        assert!(pointers > 20);
    }
}

#[test]
fn a_lowered_plan_numbers_its_operations_as_the_plan_numbers_its_steps() {
    for file in FILES {
        let plan = plan(file);
        let lowered = Lowered::read(lower::lower(&plan, &Seen::default()));
        let steps: BTreeSet<usize> = lowered.ops.iter().map(|op| usize::from(op.step)).collect();
        assert_eq!(steps, (1..=plan.child().count()).collect(), "every step does something");
        let fork = lowered.ops.iter().find(|op| op.kind == wire::OP_FORK).unwrap();
        assert_eq!(plan.child_step(usize::from(fork.step)), Some(&ChildStep::Fork));
        let after = lowered.ops.get(lowered.head.after as usize).unwrap();
        assert_eq!(plan.child_step(usize::from(after.step)), plan.waiting.first());
        let before = &lowered.ops[lowered.head.after as usize - 1];
        assert_eq!(before.nr, libc::SYS_execve.cast_unsigned(), "nothing follows the exec");
    }
}

#[test]
fn the_program_gets_its_arguments_and_its_environment() {
    let plan = plan("service.env = { GREETING = 'a=b c' }");
    let lowered = Lowered::read(lower::lower(&plan, &Seen::default()));
    let execs: Vec<&Op> = lowered.calls(libc::SYS_execve).collect();
    let programs: Vec<String> = execs.iter().map(|op| lowered.text(op.args[0])).collect();
    assert!(programs.contains(&"/usr/bin/web".to_owned()), "{programs:?}");
    for op in &execs {
        assert_eq!(lowered.texts(op.args[1]), ["web", "--name", "a b"]);
        assert!(lowered.texts(op.args[2]).contains(&"GREETING=a=b c".to_owned()));
    }
    // All but the last may fail.
    let (last, others) = execs.split_last().unwrap();
    assert_eq!(last.flags, 0);
    assert!(others.iter().all(|op| op.flags == wire::ON_ERROR_GO_ON));
}

#[test]
fn every_capability_set_is_emptied_and_read_back() {
    let lowered = Lowered::read(lower::lower(&plan(""), &Seen::default()));
    let dropped: BTreeSet<u64> = lowered
        .calls(libc::SYS_prctl)
        .filter(|op| op.args[0] == libc::PR_CAPBSET_DROP as u64)
        .map(|op| op.args[1])
        .collect();
    assert_eq!(dropped, (0..64).collect(), "the bounding set");
    let data = |op: &Op| {
        let at = lowered.offset(op.args[1]).unwrap();
        lowered.bytes[at..at + 24].to_vec()
    };
    let sets: Vec<Vec<u8>> = lowered.calls(libc::SYS_capset).map(data).collect();
    assert_eq!(sets[0], [0; 24], "the service");
    let kept: [u32; 6] = [0x1e1, 0x1e1, 0, 0, 0, 0];
    assert_eq!(sets[1], kept.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>(), "the init");
    assert_eq!(lowered.ops.iter().filter(|op| op.kind == wire::OP_EXPECT && op.args[2] == 24).count(), 3);
}

#[test]
fn a_session_lists_its_fork_first() {
    let unit = unit("");
    let steps = session(&unit, &["/bin/sh".to_owned()], ChildStep::Stdio);
    let session = Session { number: 9, steps, after: Vec::new(), flags: 0 };
    let lowered = Lowered::read(lower::lower_session(&session, &Seen::default()));
    assert_eq!(lowered.ops[0].kind, wire::OP_FORK);
    assert_eq!(session.step(1), Some(&ChildStep::Fork));
    assert_eq!(lowered.head.after, lowered.head.ops, "the init has nothing to do");
    assert_eq!(session.fds(), [Fd::Stdin, Fd::Stdout, Fd::Stderr]);
    let hello = lowered.calls(libc::SYS_sendto).next().unwrap();
    let at = lowered.offset(hello.args[1]).unwrap();
    let message = crate::init::message_from(&lowered.bytes[at..at + size_of::<wire::Message>()]).unwrap();
    assert_eq!((message.verb, message.session), (wire::SAY_HELLO, 9));
}

#[test]
fn what_is_read_back_is_what_lies_on_top() {
    let mounts = |keys: &str| -> BTreeMap<String, String> {
        let plan = plan(keys);
        let items = plan.child().filter_map(|step| match step {
            ChildStep::Attest(items) => Some(items.clone()),
            _ => None,
        });
        let place = |item: Attested| match item {
            Attested::Mount(dst, flags) => Some((dst.display().to_string(), flags.to_string())),
            _ => None,
        };
        items.flatten().filter_map(place).collect()
    };
    let plain = mounts("");
    assert_eq!(plain["/"], "ro,nosuid,nodev");
    assert_eq!(plain["/tmp"], "nosuid,nodev,noexec");
    assert_eq!(plain["/proc/sys"], "ro,nosuid,nodev,noexec");
    let keys = "rootfs.mounts = [{ src = '/a', dst = '/dev/shm', ro = false, exec = true }, { src = '/b', dst = '/b' }, \
                { src = '/c', dst = '/b/c', ro = false }]\nrootfs.read_only = ['/tmp', '/b']\n\
                rootfs.hide = ['/run', '/usr/share']";
    let layered = mounts(keys);
    assert_eq!(layered["/dev/shm"], "nosuid,nodev", "over the default one");
    assert_eq!(layered["/b/c"], "ro,nosuid,nodev,noexec", "below what is read-only");
    assert_eq!(layered["/tmp"], "ro,nosuid,nodev,noexec");
    for hidden in ["/run", "/usr/share"] {
        assert_eq!(layered[hidden], "ro,nosuid,nodev,noexec");
    }
    let over = mounts("rootfs.mounts = [{ src = '/a', dst = '/dev', ro = false }]");
    assert!(!over.contains_key("/dev/shm"), "{over:?}");
    assert!(!mounts("rootfs.proc = 'none'\nrootfs.base = 'none'").contains_key("/proc/sys"));
    assert!(!mounts("namespaces.nested = true").contains_key("/proc/sys"));
}

#[test]
fn a_fault_names_the_step_and_the_thing_in_it() {
    assert_eq!(place(9), (9, 0));
    assert_eq!(place(9 | 2 << 16), (9, 2));
    let plan = plan("");
    assert_eq!(plan.child_step(9 | 2 << 16), plan.child_step(9));
}
