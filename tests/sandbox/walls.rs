//! The judge: what is wrong with the surroundings that a probe reports.

use std::collections::BTreeSet;

use serde_json::Value;

/// `/dev` of a service that asked for no device.
const MINIMAL_DEV: [&str; 13] = [
    "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
    "urandom",
];

/// No filter.
pub const UNFILTERED: &str = "system calls are not filtered";

/// Every hole in the walls around the process that made `inside`, given what the host looks like from `outside`.
/// None is good.
pub fn holes(inside: &Value, outside: &Value) -> Vec<String> {
    let all = [
        namespaces(inside, outside),
        ids(inside),
        privileges(inside),
        leftovers(inside),
        mounts(inside),
        company(inside),
    ];
    all.concat()
}

/// Namespaces shared with the host.
fn namespaces(inside: &Value, outside: &Value) -> Vec<String> {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let same = |kind: &&&str| {
        let own = &inside["namespaces"][**kind];
        own.is_null() || own == "" || own == &outside["namespaces"][**kind]
    };
    kinds.iter().filter(same).map(|kind| format!("the {kind} namespace is the host's")).collect()
}

/// Host ids that the process could act as.
fn ids(inside: &Value) -> Vec<String> {
    let mut holes = Vec::new();
    for map in ["uid_map", "gid_map"] {
        for line in texts(&inside[map]) {
            let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            match numbers[..] {
                // Below 65536 are the host's own users.
                [_, host, _] if host >= 65536 => {}
                _ => holes.push(format!("{map}: {line}")),
            }
        }
    }
    let groups = field(inside, "Groups");
    if !groups.is_empty() {
        holes.push(format!("supplementary groups {groups}"));
    }
    holes
}

/// Capabilities, and ways to get some.
fn privileges(inside: &Value) -> Vec<String> {
    let mut holes = Vec::new();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let caps = field(inside, set);
        if u64::from_str_radix(&caps, 16) != Ok(0) {
            holes.push(format!("{set} is {caps}"));
        }
    }
    if field(inside, "NoNewPrivs") != "1" {
        holes.push("no_new_privs is off".to_owned());
    }
    if field(inside, "Seccomp") != "2" {
        holes.push(UNFILTERED.to_owned());
    }
    holes
}

/// What was handed down by whoever started it.
fn leftovers(inside: &Value) -> Vec<String> {
    let mut holes = Vec::new();
    for (fd, target) in inside["fds"].as_object().into_iter().flatten() {
        let target = target.as_str().unwrap_or_default();
        match (fd.as_str(), target) {
            ("0", "/dev/null") => {}
            ("1" | "2", _) if !target.starts_with("/dev/pts/") && !target.starts_with("/dev/tty") => {}
            // The probe's own look at the directory; gone when it is read.
            (_, _) if target.ends_with("/fd") => {}
            _ => holes.push(format!("descriptor {fd} is {target}")),
        }
    }
    // Bit 12 is SIGPIPE, which the probe's own run-time library ignores.
    for (mask, own) in [("SigBlk", 0), ("SigIgn", 1 << 12), ("SigPnd", 0)] {
        let signals = field(inside, mask);
        if u64::from_str_radix(&signals, 16).is_ok_and(|bits| bits & !own == 0) {
            continue;
        }
        holes.push(format!("{mask} is {signals}"));
    }
    if inside["cwd"] != "/" {
        holes.push(format!("the working directory is {}", inside["cwd"]));
    }
    holes
}

/// Mounts through which the host could be reached, and devices.
fn mounts(inside: &Value) -> Vec<String> {
    let mut holes = Vec::new();
    for mount in inside["mounts"].as_array().into_iter().flatten() {
        let (point, options) = (mount["point"].as_str().unwrap_or("?"), texts(&mount["options"]));
        let has = |option: &str| options.iter().any(|o| o == option);
        if !has("nosuid") {
            holes.push(format!("set-user-id programs on {point}"));
        }
        // A node that was passed in is a mount of its own and has to work; devpts is made of nodes.
        if !has("nodev") && !point.starts_with("/dev") {
            holes.push(format!("device nodes on {point}"));
        }
        if point == "/" && !has("ro") {
            holes.push("the root is writable".to_owned());
        }
        for peer in texts(&mount["propagation"]) {
            holes.push(format!("{point} shares mounts with the host: {peer}"));
        }
    }
    if inside["mounts"].as_array().is_none_or(Vec::is_empty) {
        holes.push("no mounts were reported".to_owned());
    }
    let known: BTreeSet<&str> = MINIMAL_DEV.into_iter().chain(["zero"]).collect();
    let more = |name: &String| !known.contains(name.as_str());
    holes.extend(texts(&inside["dev"]).into_iter().filter(more).map(|name| format!("device {name}")));
    holes
}

/// Who and what else is visible.
fn company(inside: &Value) -> Vec<String> {
    let mut holes = Vec::new();
    for process in inside["processes"].as_array().into_iter().flatten() {
        if process[0] != 1 && process[0] != inside["pid"] {
            holes.push(format!("another process is visible: {process}"));
        }
    }
    for link in texts(&inside["interfaces"]) {
        if link != "lo" && link != "eth0" {
            holes.push(format!("another link is visible: {link}"));
        }
    }
    for line in texts(&inside["cgroup"]) {
        if line.strip_prefix("0::").is_some_and(|path| path != "/") {
            holes.push(format!("the cgroup's path is visible: {line}"));
        }
    }
    holes
}

/// One line of `/proc/self/status`.
pub fn field(report: &Value, name: &str) -> String {
    report["status"][name].as_str().unwrap_or("missing").to_owned()
}

/// An array of strings.
pub fn texts(value: &Value) -> Vec<String> {
    let all = value.as_array().into_iter().flatten();
    all.filter_map(|v| v.as_str().map(str::to_owned)).collect()
}
