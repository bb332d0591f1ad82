//! The rules of the house that a compiler does not know: who may import whom, what the pure modules must not touch, where
//! unsafe code and system calls may stand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The modules that decide, and whom they may use of this crate. All others act.
const PURE: [(&str, &[&str]); 17] = [
    ("calendar", &[]),
    ("config::schema", &["spec"]),
    ("config::value", &["config::diagnostic", "config::schema", "spec"]),
    ("control::proto", &["control::types"]),
    ("control::types", &["ingress", "machine", "spec"]),
    ("ingress", &["spec"]),
    // The layout of the init's plans is constants and structures alone.
    ("init::wire", &[]),
    ("machine", &["calendar", "spec"]),
    ("metrics", &[]),
    ("names", &["net::addr", "spec"]),
    ("net::addr", &["spec"]),
    ("notify", &[]),
    // Of `net` it has the values that a link and its rules are made of.
    ("plan", &["init", "init::wire", "machine", "names", "net", "net::addr", "notify", "seccomp", "spec"]),
    ("seccomp", &[]),
    // Of `config` it has the diagnostic's other name.
    (
        "spec",
        &[
            "calendar",
            "config",
            "config::diagnostic",
            "config::schema",
            "config::value",
            "machine",
            "metrics",
            "net::addr",
            "seccomp",
        ],
    ),
    ("config::diagnostic", &[]),
    ("config::reference", &[]),
];

/// What acts, from the top down: each may use those below it and the pure ones.
const LAYERS: [&[&str]; 9] = [
    &["main"],
    &["cli"],
    &["supervisor"],
    &["control::client", "control::scrape", "control::server", "launch", "logs"],
    &["control::frame", "report", "rootfs"],
    &["control::wire"],
    &["config", "sys::facts"],
    &["cgroup", "init", "net"],
    &["sys"],
];

/// A source file: its module, and its text without comments and tests.
struct Source {
    path: String,
    module: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut dirs = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let is_test =
                name.ends_with("tests.rs") || name.contains("/tests/") || name.ends_with("sample.rs");
            if !name.ends_with(".rs") || is_test {
                continue;
            }
            let module = name.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            sources.push(Source { path: name, module, code: lines.collect::<Vec<_>>().join("\n") });
        }
    }
    sources
}

/// The paths that a tree of `use` names, as `a::b` of at most two parts. The text begins after `crate::`.
fn paths(text: &str) -> Vec<String> {
    let end = |c: char| !(c.is_alphanumeric() || c == '_');
    let Some(group) = text.strip_prefix('{') else {
        let first = &text[..text.find(end).unwrap_or(text.len())];
        let Some(rest) = text[first.len()..].strip_prefix("::") else { return vec![first.to_owned()] };
        if let Some(group) = rest.strip_prefix('{') {
            return members(group)
                .iter()
                .map(|m| format!("{first}::{}", paths(m)[0].split("::").next().unwrap()))
                .collect();
        }
        return vec![format!("{first}::{}", &rest[..rest.find(end).unwrap_or(rest.len())])];
    };
    members(group).iter().flat_map(|member| paths(member)).collect()
}

/// The members of a group in braces, which begins after the opening one.
fn members(text: &str) -> Vec<String> {
    let (mut depth, mut member, mut all) = (0, String::new(), Vec::new());
    for c in text.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(std::mem::take(&mut member).trim().to_owned());
                continue;
            }
            _ => {}
        }
        member.push(c);
    }
    all.push(member.trim().to_owned());
    all.retain(|member| !member.is_empty());
    all
}

/// The name under which the tables know a path or module: the longest that they have.
fn known(path: &str) -> Option<String> {
    let names: BTreeSet<&str> = PURE
        .iter()
        .map(|(name, _)| *name)
        .chain(LAYERS.iter().flat_map(|layer| layer.iter().copied()))
        .collect();
    let parts: Vec<&str> = path.split("::").collect();
    (1..=parts.len()).rev().map(|n| parts[..n].join("::")).find(|name| names.contains(&**name))
}

/// Who uses whom, with one file for each.
fn edges() -> BTreeMap<(String, String), String> {
    let mut edges = BTreeMap::new();
    for source in sources().iter().filter(|source| source.module != "lib" && source.module != "control") {
        let Some(from) = known(&source.module) else { panic!("src/{} is in no table", source.path) };
        for (at, _) in source.code.match_indices("crate::") {
            for path in paths(&source.code[at + "crate::".len()..]) {
                if let Some(to) = known(&path)
                    && to != from
                {
                    edges.insert((from.clone(), to), source.path.clone());
                }
            }
        }
    }
    edges
}

fn level(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

#[test]
fn modules_import_downwards_only() {
    let edges = edges();
    for (from, to) in
        [("plan", "spec"), ("rootfs", "sys"), ("supervisor", "launch"), ("spec", "config::schema")]
    {
        assert!(edges.contains_key(&(from.to_owned(), to.to_owned())), "the search finds {from} to {to}");
    }
    let wrong: Vec<String> = edges
        .into_iter()
        .filter(|((from, to), _)| match PURE.iter().find(|(name, _)| name == from) {
            Some((_, allowed)) => !allowed.contains(&&**to),
            // A module and what is within it are one.
            None if from.split("::").next() == to.split("::").next() => false,
            None => level(to).is_some_and(|to| to <= level(from).unwrap()),
        })
        .map(|((from, to), path)| format!("{from} uses {to} (src/{path})"))
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn pure_modules_touch_nothing() {
    let forbidden = [
        "std::fs",
        "std::env",
        "std::process",
        "std::thread",
        "std::net::Tcp",
        "std::net::Udp",
        "std::os::unix::fs",
        "Instant",
        "SystemTime",
        "rustix::",
        "nix::",
        "unsafe",
        "getrandom",
        "static mut",
    ];
    let pure = |source: &Source| {
        let name = known(&source.module);
        PURE.iter().any(|(pure, _)| name.as_deref() == Some(pure)) && source.module != "lib"
    };
    for source in sources().iter().filter(|source| pure(source)) {
        // A list of names and numbers, of the kind that libc's constants are.
        let mut code = source.code.replace("nix::sys::signal::Signal", "");
        if source.path == "seccomp/groups.rs" {
            // The name of a system call there.
            code = code.replace("getrandom", "");
        }
        for word in forbidden {
            assert!(!code.contains(word), "src/{} is pure and names {word}", source.path);
        }
    }
}

#[test]
fn unsafe_code_stands_in_sys_and_in_the_freestanding_init_alone() {
    let word = |code: &str| {
        let unsafe_code = ["unsafe {", "unsafe fn", "unsafe extern", "unsafe impl", "unsafe_code"];
        unsafe_code.iter().any(|form| code.contains(form))
    };
    let with: BTreeSet<String> =
        sources().into_iter().filter(|source| word(&source.code)).map(|source| source.path).collect();
    let freestanding = ["init/follow.rs", "init/pid1.rs", "init/raw.rs", "init/text.rs"];
    let allowed = |path: &String| path.starts_with("sys/") || freestanding.contains(&path.as_str());
    let others: Vec<&String> = with.iter().filter(|path| !allowed(path)).collect();
    assert_eq!(others, Vec::<&String>::new());
    assert!(with.contains("sys/clone.rs") && with.contains("init/pid1.rs"), "the search finds what there is");
}

#[test]
fn system_calls_are_named_in_sys_and_in_the_lowering_alone() {
    for source in sources() {
        let may = source.path.starts_with("sys/") || source.path.starts_with("plan/lower");
        for (at, _) in source.code.match_indices("libc::") {
            let rest = &source.code[at + "libc::".len()..];
            let name = &rest[..rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())];
            let is_function = rest[name.len()..].starts_with('(') && name.starts_with(char::is_lowercase);
            assert!(may || !is_function, "src/{} calls libc::{name}", source.path);
            assert!(may || !name.starts_with("SYS_"), "src/{} names libc::{name}", source.path);
        }
    }
}

#[test]
fn the_freestanding_init_numbers_its_calls_as_the_kernel_does() {
    let raw = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/init/raw.rs")).unwrap();
    let table = raw.split("calls! {\n").nth(1).unwrap().split("\n}").next().unwrap();
    let mut seen = 0;
    for line in table.lines() {
        let (name, numbers) = line.trim().trim_end_matches(';').split_once(" = ").unwrap();
        let (x86_64, aarch64) = numbers.split_once(", ").unwrap();
        let number: libc::c_long =
            if cfg!(target_arch = "x86_64") { x86_64 } else { aarch64 }.parse().unwrap();
        let wanted = match name {
            "Read" => libc::SYS_read,
            "Write" => libc::SYS_write,
            "Close" => libc::SYS_close,
            "LSeek" => libc::SYS_lseek,
            "Mmap" => libc::SYS_mmap,
            "Munmap" => libc::SYS_munmap,
            "SigAction" => libc::SYS_rt_sigaction,
            "SigProcMask" => libc::SYS_rt_sigprocmask,
            "PRead64" => libc::SYS_pread64,
            "PWrite64" => libc::SYS_pwrite64,
            "SendTo" => libc::SYS_sendto,
            "SendMsg" => libc::SYS_sendmsg,
            "RecvMsg" => libc::SYS_recvmsg,
            "Clone" => libc::SYS_clone,
            "Wait4" => libc::SYS_wait4,
            "Kill" => libc::SYS_kill,
            "Fcntl" => libc::SYS_fcntl,
            "GetPid" => libc::SYS_getpid,
            "SetSid" => libc::SYS_setsid,
            "GetGroups" => libc::SYS_getgroups,
            "SetGroups" => libc::SYS_setgroups,
            "Personality" => libc::SYS_personality,
            "PrCtl" => libc::SYS_prctl,
            "ClockGetTime" => libc::SYS_clock_gettime,
            "ExitGroup" => libc::SYS_exit_group,
            "WaitId" => libc::SYS_waitid,
            "InotifyAddWatch" => libc::SYS_inotify_add_watch,
            "OpenAt" => libc::SYS_openat,
            "PPoll" => libc::SYS_ppoll,
            "Accept4" => libc::SYS_accept4,
            "SignalFd4" => libc::SYS_signalfd4,
            "Dup3" => libc::SYS_dup3,
            "Pipe2" => libc::SYS_pipe2,
            "InotifyInit1" => libc::SYS_inotify_init1,
            "PidFdSendSignal" => libc::SYS_pidfd_send_signal,
            "PidFdOpen" => libc::SYS_pidfd_open,
            other => panic!("{other} is a new call: add it here"),
        };
        assert_eq!(number, wanted, "{name}");
        seen += 1;
    }
    assert!(seen > 20);
}
