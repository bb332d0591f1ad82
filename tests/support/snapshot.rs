//! The leak guard: what a world consists of before a test, compared with what is left of it afterwards.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use super::{LONG, need, scaled, wait_until, world::World};

/// How long a world may take to become what it was: the kernel needs some 20 ms to take the links of a closed network
/// namespace down, an emulated one more. The self-tests, which leak on purpose, wait less.
fn settle() -> Duration {
    let own = std::env::var("PALISADE_TEST_SETTLE_MS").ok().and_then(|ms| ms.parse().ok());
    own.map_or_else(|| scaled(Duration::from_secs(60)), Duration::from_millis)
}

/// Everything that a test could leave behind, one line each, so that a difference reads as a sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at the world through programs and files that are not ours.
    pub fn take(world: &World) -> Self {
        let mut all = BTreeSet::new();
        let mut put =
            |kind: &str, items: Vec<String>| all.extend(items.iter().map(|i| format!("{kind} {i}")));
        put("link", links());
        put("mount", mounts());
        put("nft table", nft_tables());
        put("cgroup", cgroups(world.name()));
        put("process", processes());
        put("file", files(&world.run_dir()));
        put("network namespace", files(Path::new("/run/netns")));
        put("descriptor of the test", descriptors(std::process::id()));
        Self(all)
    }

    /// As [`Self::take`], of a world in which services with a network have been: once the kernel has taken their links.
    pub fn take_after(world: &World) -> Self {
        let is_of_service = |link: &String| link.starts_with("ps") && link.contains('-');
        wait_until("the links of closed networks are gone", LONG, || {
            world.reap();
            !links().iter().any(is_of_service)
        });
        Self::take(world)
    }

    /// What `later` has that this one has not, and the other way round.
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let new = later.0.difference(&self.0).map(|line| format!("new: {line}"));
        let gone = self.0.difference(&later.0).map(|line| format!("gone: {line}"));
        new.chain(gone).collect()
    }

    /// Waits until the world is as it was in `self`. Returns the differences that stayed; none is good.
    pub fn wait_until_again(&self, world: &World) -> Vec<String> {
        self.wait_until_again_but(world, |_| false)
    }

    /// As [`Self::wait_until_again`], but for what may have stayed or gone.
    pub fn wait_until_again_but(&self, world: &World, may_differ: impl Fn(&str) -> bool) -> Vec<String> {
        let start = Instant::now();
        loop {
            world.reap();
            let mut differences = self.differences(&Self::take(world));
            differences.retain(|line| !may_differ(line));
            if differences.is_empty() || start.elapsed() > settle() {
                return differences;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Names of the links in the world's network namespace.
fn links() -> Vec<String> {
    let json = json("ip", &["-j", "link"]);
    let name = |link: &serde_json::Value| link["ifname"].as_str().unwrap_or("?").to_owned();
    json.as_array().map(|links| links.iter().map(name).collect()).unwrap_or_default()
}

/// Mount points with their file systems; the ids of mounts grow for ever and are left out.
fn mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    let line = |l: &str| {
        let (fields, rest) = l.split_once(" - ").expect("proc_pid_mountinfo(5)");
        let fields: Vec<&str> = fields.split(' ').collect();
        let fs = rest.split(' ').next().unwrap_or("?");
        format!("{} {} {fs}", fields[4], fields[5])
    };
    // Two mounts on one point are two lines in the file and would be one in a set: number them.
    let mut lines: Vec<String> = text.lines().map(line).collect();
    lines.sort();
    lines
        .iter()
        .enumerate()
        .map(|(i, l)| format!("{l} #{}", lines[..i].iter().filter(|o| *o == l).count()))
        .collect()
}

/// Families and names of the nft tables in the world's network namespace.
fn nft_tables() -> Vec<String> {
    if need::program("nft").is_none() {
        return Vec::new();
    }
    let json = json("nft", &["-j", "list", "tables"]);
    let tables = json["nftables"].as_array().cloned().unwrap_or_default();
    let table = |t: &serde_json::Value| t.get("table").map(|t| format!("{} {}", t["family"], t["name"]));
    tables.iter().filter_map(table).collect()
}

/// The cgroups of the world of this name, innermost included.
fn cgroups(world: &str) -> Vec<String> {
    let Some(root) = need::cgroup2_mount() else { return Vec::new() };
    let top = Path::new(&root).join(world);
    if top.exists() {
        files(&top).into_iter().filter(|p| Path::new(p).is_dir()).collect()
    } else {
        Vec::new()
    }
}

/// Every process of the world but the test itself, PID 1, and those that look at it.
pub fn processes() -> Vec<String> {
    let mut all = Vec::new();
    for pid in super::world::pids() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some((head, tail)) = stat.rsplit_once(") ") else { continue };
        let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args = String::from_utf8_lossy(&args).replace('\0', " ");
        all.push(format!("{head}) {} {args}", &tail[..1]));
    }
    all
}

/// What the descriptors of a process point to. The one that lists them is left out: it is gone by then.
pub fn descriptors(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let target = |e: fs::DirEntry| {
        let target = fs::read_link(e.path()).ok()?;
        Some(format!("{} {}", e.file_name().display(), target.display()))
    };
    let all = entries.flatten().filter_map(target);
    all.filter(|t| !t.ends_with("/fd")).collect()
}

/// Every path below `dir` and itself; nothing when there is no such directory.
fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut all = vec![dir.display().to_string()];
    for entry in entries.flatten() {
        match entry.file_type().is_ok_and(|t| t.is_dir()) {
            true => all.extend(files(&entry.path())),
            false => all.push(entry.path().display().to_string()),
        }
    }
    all
}

/// What a program prints as JSON.
fn json(program: &str, args: &[&str]) -> serde_json::Value {
    let output = Command::new(program).args(args).output().expect("program of the base system");
    // `ip -j` prints nothing at all where there is nothing to list.
    serde_json::from_slice(&output.stdout).unwrap_or(serde_json::Value::Null)
}
