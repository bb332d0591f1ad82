//! Launches in which one system call fails: the service is refused, or it is exactly as confined as ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use nix::{errno::Errno, libc};
use serde_json::{Value, json};

use crate::{
    raw::{call, number},
    support::{World, probe, scaled, snapshot::Snapshot, world::describe},
};

/// What a process can measure of its confinement, without what differs from run to run.
pub fn measure() {
    let mut report = probe::report();
    let keyring = call(libc::SYS_keyctl, &[0, number(-3), 0]);
    let found = call(
        libc::SYS_keyctl,
        &[10, number(-3), crate::raw::at(c"user"), crate::raw::at(c"palisade-canary"), 0],
    );
    report["keyring"] = json!(format!("{:?} {found:?}", keyring.map(|_| ())));
    report["personality"] = json!(fs::read_to_string("/proc/self/personality").unwrap_or_default());
    // At once: where the init dies of its call meanwhile, there is all of it or nothing.
    let text = format!("{report}\n");
    std::io::stdout().write_all(text.as_bytes()).expect("somebody reads");
}

/// The part of a report that has to be the same in every run.
fn confinement(report: &Value, outside: &Value) -> Value {
    // Ids differ where a run before it was still there; that they are a range of its own does not.
    let base =
        report["uid_map"][0].as_str().and_then(|map| map.split_whitespace().nth(1)).unwrap_or_default();
    let mut text = report.to_string();
    if let Some(base) = base.parse().ok().filter(|base: &u64| *base >= 65536) {
        // Its root, and the group of its terminals.
        for id in [0, 5] {
            text = text.replace(&(base + id).to_string(), &format!("BASE+{id}"));
        }
    }
    let mut same: Value = serde_json::from_str(&text).expect("it was JSON");
    same["namespaces"] = json!({});
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let is_own = report["namespaces"][kind] != outside["namespaces"][kind];
        same["namespaces"][kind] = json!(is_own);
    }
    let kept = [
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "Uid",
        "Gid",
        "Groups",
        "Umask",
        "SigBlk",
        "SigIgn",
    ];
    let status: BTreeMap<&str, Value> =
        kept.into_iter().map(|key| (key, report["status"][key].clone())).collect();
    same["status"] = json!(status);
    // A fresh process is not called what it will be.
    for process in same["processes"].as_array_mut().into_iter().flatten() {
        process[1] = Value::Null;
    }
    // Nor is the address that of a run whose lock, which cannot be looked at, may be held.
    for address in same["addresses"].as_array_mut().into_iter().flatten() {
        if address.as_str().is_some_and(|text| text.starts_with("10.83.")) {
            *address = json!("10.83");
        }
    }
    // Pipes have numbers.
    for fd in same["fds"].as_object_mut().into_iter().flatten() {
        let kind = fd.1.as_str().unwrap_or_default().split(':').next().unwrap_or_default().to_owned();
        *fd.1 = json!(kind);
    }
    // Sizes of what the kernel rounds differ, its options do not; of the source of a mount only the type counts.
    for mount in same["mounts"].as_array_mut().into_iter().flatten() {
        mount["source"] = Value::Null;
        // What is only read shows its owners where its file system can tell them, and nobody otherwise.
        let options = mount["options"].as_array_mut().expect("a list");
        let is_read_only = options.iter().any(|option| option == "ro");
        options.retain(|option| !(is_read_only && option == "idmapped"));
    }
    same
}

/// Calls whose failure is none of a launch: memory, which only aborts; ends; restarts by the kernel; and close(2), which
/// frees its descriptor whatever it answers, where one that is not made does not.
const NOT_TRIED: [libc::c_long; 8] = [
    libc::SYS_close,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
];

/// Calls that cannot fail as the supervisor makes them: its libraries know that, and end the program.
const NEVER_FAILS: [libc::c_long; 7] = [
    libc::SYS_geteuid,
    libc::SYS_getuid,
    libc::SYS_getegid,
    libc::SYS_getgid,
    libc::SYS_umask,
    libc::SYS_mprotect,
    libc::SYS_prlimit64,
];

/// One call: whose, the how manieth, which.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    nr: i64,
    is_child: bool,
}

impl Call {
    /// 0 is the supervisor, 1 its children, 2 theirs.
    fn depth(&self) -> usize {
        self.name.split(' ').next().unwrap_or_default().matches('.').count()
    }
}

/// Runs a service file under the tracer.
fn traced(world: &World, target: &str, errno: Errno) -> (Output, String) {
    let file = world.dir().join("single/once.toml");
    let inner = world.command(&["run"]);
    let out = world.dir().join("trace");
    let me = std::env::current_exe().expect("own path");
    let seconds = scaled(std::time::Duration::from_secs(20)).as_secs().to_string();
    let mut command = Command::new(me);
    command.arg("__inject").arg(&out).arg(target).arg((errno as i32).to_string()).arg(seconds);
    command.arg(inner.get_program()).args(inner.get_args()).args(world.places()).arg(file);
    // To name every line of a back trace takes a traced debug build longer than it has.
    command.env("RUST_BACKTRACE", "0");
    let output = command.stdin(Stdio::null()).output().expect("it is this program");
    (output, fs::read_to_string(out).unwrap_or_default())
}

/// The calls from the reading of the service file until the service runs.
fn calls(trace: &str) -> Vec<Call> {
    let mut all = Vec::new();
    let mut service = None;
    // What comes before its alternate stack is the beginning of any Rust program.
    let stack = format!(" call {}", libc::SYS_sigaltstack);
    let from =
        trace.lines().position(|line| line.starts_with("0 ") && line.ends_with(&stack)).unwrap_or_default();
    for line in trace.lines().skip(from) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            [process, "exec", program] if program.ends_with("/probe") => service = Some(process),
            [process, nth, "call", nr] if service.is_none_or(|service| service != process) => {
                let nr = nr.parse().expect("a number");
                all.push(Call { name: format!("{process} {nth}"), nr, is_child: process != "0" });
            }
            _ => {}
        }
        if service.is_some() {
            break;
        }
    }
    assert!(service.is_some(), "the service was not executed:\n{trace}");
    all.retain(|call| !NOT_TRIED.contains(&call.nr) && (call.is_child || !NEVER_FAILS.contains(&call.nr)));
    all
}

/// The number of the call that was let fail.
fn failed(trace: &str) -> Option<i64> {
    trace.lines().find_map(|line| line.split_once(" fails ")?.1.parse().ok())
}

/// How many calls of one process are let fail, evenly spread.
fn points() -> usize {
    std::env::var("PALISADE_TEST_POINTS").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

pub fn a_failing_call_of_the_supervisor_weakens_nothing(world: &mut World) {
    fail_each(
        world,
        "none",
        |call| call.name.starts_with("0 "),
        &[Errno::EPERM, Errno::ENOMEM, Errno::EINVAL],
    );
}

pub fn a_failing_call_for_the_network_weakens_nothing(world: &mut World) {
    fail_each(world, "veth", |call| call.name.starts_with("0 "), &[Errno::EPERM, Errno::ENOBUFS]);
}

pub fn a_failing_call_of_the_init_weakens_nothing(world: &mut World) {
    fail_each(world, "none", |call| call.is_child && call.depth() == 1, &[Errno::EPERM]);
}

pub fn a_failing_call_of_the_service_weakens_nothing(world: &mut World) {
    fail_each(world, "none", |call| call.depth() > 1, &[Errno::EPERM]);
}

/// Of many of the same call in a row, such as one for each signal, the first and the last.
fn without_repetitions(calls: &[Call]) -> Vec<Call> {
    let is_same = |n: usize, m: usize| calls.get(n).zip(calls.get(m)).is_some_and(|(a, b)| a.nr == b.nr);
    let inner = |n: usize| n > 1 && is_same(n - 2, n) && is_same(n - 1, n) && is_same(n + 1, n);
    (0..calls.len()).filter(|n| !inner(*n)).map(|n| calls[n].clone()).collect()
}

fn fail_each(world: &mut World, network: &str, which: fn(&Call) -> bool, errnos: &[Errno]) {
    // A key that a sandbox without a keyring of its own would possess.
    call(libc::SYS_keyctl, &[1, 0]).expect("keyrings");
    let key =
        [crate::raw::at(c"user"), crate::raw::at(c"palisade-canary"), crate::raw::at(c"x"), 1, number(-3)];
    call(libc::SYS_add_key, &key).expect("keyrings");
    let toml = format!(
        "service.command = [\"/probe/probe\", \"__measure\"]\nrootfs.mounts = [{}]\nrootfs.hide = [\"/usr/share\"]\n\
         service.oom_score_adj = 500\nnetwork.mode = \"{network}\"\nrootfs.read_only = [\"/tmp\"]\n",
        world.probe_mount()
    );
    world.write("single/once.toml", &toml);
    let outside = probe::report();
    // Once so that what only the first run makes is there.
    let (output, _) = traced(world, "none", Errno::EPERM);
    assert!(output.status.success(), "{}", describe(&output));
    let before = Snapshot::take_after(world);
    let (output, trace) = traced(world, "none", Errno::EPERM);
    assert!(output.status.success(), "{}", describe(&output));
    let whole = confinement(&serde_json::from_slice(&output.stdout).expect("JSON"), &outside);
    let all: Vec<Call> = calls(&trace).into_iter().filter(which).collect();
    let all = without_repetitions(&all);
    let step = (all.len() / points()).max(1);
    let chosen: Vec<&Call> = all.iter().step_by(step).collect();
    println!("{} calls, {} let fail", all.len(), chosen.len());
    let (mut refused, mut same) = (0, 0);
    let mut wrong = Vec::new();
    for (n, call) in chosen.iter().enumerate() {
        let errno = errnos[n % errnos.len()];
        let (output, trace) = traced(world, &call.name, errno);
        // Of a process that is not alone the last calls come in another order now and then: it was this one.
        let nr = failed(&trace).unwrap_or(call.nr);
        let what = format!("{} ({}) {errno:?}", call.name, syscall_name(nr));
        let mut trouble = |text: String| {
            eprintln!("{what}: {text}");
            wrong.push(what.clone());
        };
        match judge(&output, &whole, &outside, call) {
            Ok(true) => refused += 1,
            Ok(false) => same += 1,
            Err(text) => trouble(text),
        }
        // As if killed: the standard library ends the process where it cannot hear of its own child (nft), who cannot come
        // back from another network namespace ends at once, and who cannot wait for nft(8) does not know whether it has
        // loaded the table.
        let is_cut = String::from_utf8_lossy(&output.stderr).contains(DEAF)
            || [libc::SYS_setns, libc::SYS_wait4, libc::SYS_waitid].contains(&nr);
        if !is_cut {
            // A lock that could not be taken, or not be looked at, may be somebody else's: it is not removed, and the next
            // run takes it.
            let is_locks = [libc::SYS_flock, libc::SYS_statx].contains(&nr);
            let left = before.wait_until_again_but(world, |line| is_locks && line.ends_with(".lock"));
            if left.is_empty() {
                continue;
            }
            trouble(format!("left behind {left:?}"));
        }
        // The next one begins with what this one left, as it would on a real host.
        let _ = traced(world, "none", Errno::EPERM);
        let still = before.wait_until_again(world);
        assert_eq!(still, Vec::<String>::new(), "{what}: the next run did not clear it");
    }
    println!("{refused} refused, {same} as confined as ever");
    assert!(wrong.is_empty(), "{} of {}: {}", wrong.len(), chosen.len(), wrong.join(", "));
}

/// What std::process says where the socket on which its child tells whether it was executed fails: it panics.
const DEAF: &str = "the CLOEXEC pipe failed";

/// Whether it was refused; else it has to be whole.
fn judge(output: &Output, whole: &Value, outside: &Value, call: &Call) -> Result<bool, String> {
    use std::os::unix::process::ExitStatusExt;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.signal() == Some(libc::SIGALRM) {
        return Err("it hung".to_owned());
    }
    if output.stdout.is_empty() {
        return match output.status.code() {
            Some(0) => Err("it succeeded without having run".to_owned()),
            _ if said.trim().is_empty() => Err(format!("{}: it said nothing", output.status)),
            _ if said.contains("panicked") && !said.contains(DEAF) => Err(format!("it panicked: {said}")),
            // The supervisor's step that makes the child, one of the child's own, or all of them before it has its plan.
            _ if call.is_child && !said.contains("host step ") && !said.contains("child step") => {
                Err(format!("no step is named: {said}"))
            }
            _ => Ok(true),
        };
    }
    let report: Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("{e}: {}", describe(output)))?;
    let now = confinement(&report, outside);
    let keys: BTreeSet<&String> = whole.as_object().into_iter().flatten().map(|(key, _)| key).collect();
    let is_weaker = |key: &&String| {
        now[*key] != whole[*key] && !(*key == "limits" && are_no_higher(&now[*key], &whole[*key]))
    };
    let other = keys.into_iter().filter(is_weaker);
    let differences: Vec<String> = other.map(|key| difference(key, &now[key], &whole[key])).collect();
    match differences.is_empty() {
        true => Ok(false),
        false => Err(format!("another sandbox: {}", differences.join("; "))),
    }
}

/// Lines of /proc/PID/limits: a default gives way to what the host seems to have, so a fact that cannot be read makes
/// it lower. Never higher.
fn are_no_higher(now: &Value, whole: &Value) -> bool {
    let bounds = |value: &Value| -> Vec<(String, Vec<u64>)> {
        let line = |line: &Value| {
            let line = line.as_str().unwrap_or_default();
            let (name, rest) = line.split_at(line.len().min(26));
            let bound = |word: &str| word.parse().unwrap_or(u64::MAX);
            (name.to_owned(), rest.split_whitespace().take(2).map(bound).collect())
        };
        value.as_array().into_iter().flatten().map(line).collect()
    };
    let (now, whole) = (bounds(now), bounds(whole));
    now.len() == whole.len()
        && now.iter().zip(&whole).all(|((name, now), (other, whole))| {
            name == other && now.len() == 2 && now.iter().zip(whole).all(|(now, whole)| now <= whole)
        })
}

/// What two values of one key have apart.
fn difference(key: &str, now: &Value, whole: &Value) -> String {
    let lines = |value: &Value| -> BTreeSet<String> {
        match value {
            Value::Array(all) => all.iter().map(ToString::to_string).collect(),
            Value::Object(all) => all.iter().map(|(key, value)| format!("{key} {value}")).collect(),
            other => BTreeSet::from([other.to_string()]),
        }
    };
    let (now, whole) = (lines(now), lines(whole));
    let apart =
        |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>().join(", ");
    format!("{key}: {} instead of {}", apart(&now, &whole), apart(&whole, &now))
}

/// Names for the numbers that a launch uses; a number is enough for the others.
fn syscall_name(nr: i64) -> String {
    let names = [
        (libc::SYS_mount, "mount"),
        (libc::SYS_umount2, "umount2"),
        (libc::SYS_openat, "openat"),
        (libc::SYS_openat2, "openat2"),
        (libc::SYS_close, "close"),
        (libc::SYS_read, "read"),
        (libc::SYS_write, "write"),
        (libc::SYS_prctl, "prctl"),
        (libc::SYS_keyctl, "keyctl"),
        (libc::SYS_setgroups, "setgroups"),
        (libc::SYS_setresuid, "setresuid"),
        (libc::SYS_setresgid, "setresgid"),
        (libc::SYS_capset, "capset"),
        (libc::SYS_close_range, "close_range"),
        (libc::SYS_dup3, "dup3"),
        (libc::SYS_umask, "umask"),
        (libc::SYS_rt_sigaction, "rt_sigaction"),
        (libc::SYS_rt_sigprocmask, "rt_sigprocmask"),
        (libc::SYS_signalfd4, "signalfd4"),
        (libc::SYS_setsid, "setsid"),
        (libc::SYS_chdir, "chdir"),
        (libc::SYS_pivot_root, "pivot_root"),
        (libc::SYS_execve, "execve"),
        (libc::SYS_recvmsg, "recvmsg"),
        (libc::SYS_sendto, "sendto"),
        (libc::SYS_sendmsg, "sendmsg"),
        (libc::SYS_ppoll, "ppoll"),
        (libc::SYS_fcntl, "fcntl"),
        (libc::SYS_personality, "personality"),
        (libc::SYS_clone, "clone"),
        (libc::SYS_clone3, "clone3"),
        (libc::SYS_pipe2, "pipe2"),
        (libc::SYS_fsopen, "fsopen"),
        (libc::SYS_fsconfig, "fsconfig"),
        (libc::SYS_fsmount, "fsmount"),
        (libc::SYS_move_mount, "move_mount"),
        (libc::SYS_open_tree, "open_tree"),
        (libc::SYS_mount_setattr, "mount_setattr"),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_unlink, "unlink"),
        (libc::SYS_unlinkat, "unlinkat"),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_rmdir, "rmdir"),
        (libc::SYS_wait4, "wait4"),
        (libc::SYS_seccomp, "seccomp"),
        (libc::SYS_sethostname, "sethostname"),
        (libc::SYS_fchown, "fchown"),
        (libc::SYS_fchmod, "fchmod"),
        (libc::SYS_ftruncate, "ftruncate"),
        (libc::SYS_getcwd, "getcwd"),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_readlink, "readlink"),
        (libc::SYS_fstatfs, "fstatfs"),
        (libc::SYS_landlock_restrict_self, "landlock_restrict_self"),
    ];
    names
        .iter()
        .find(|(known, _)| *known == nr)
        .map_or_else(|| nr.to_string(), |(_, name)| (*name).to_owned())
}
