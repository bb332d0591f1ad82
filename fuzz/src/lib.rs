//! What several targets have in common: a host, and what a supervisor would assign.

use palisade::{
    net::{addr::NetworkSettings, link::LinkPlan},
    plan::{self, Assigned, LaunchPlan, Session, lower},
    spec::{HostFacts, HostUser, NetworkMode, Unit},
};

/// A host on which most things exist that a service file may name.
pub fn host() -> HostFacts {
    let user = |id| HostUser { uid: id, gid: id, home: "/home/someone".into(), shell: "/bin/sh".into() };
    let ids = [("root", 0), ("www-data", 33), ("redis", 107), ("postgres", 108)];
    HostFacts {
        users: ids.iter().map(|(name, id)| ((*name).to_owned(), user(*id))).collect(),
        groups: ids.iter().map(|(name, id)| ((*name).to_owned(), (*id, vec!["redis".to_owned()]))).collect(),
        env: [("TOKEN".to_owned(), "secret".to_owned()), ("LANG".to_owned(), "C".to_owned())].into(),
        hostname: "alpha".to_owned(),
        resolv_conf: vec!["nameserver 192.0.2.53\n".to_owned()],
        cgroup_kill: true,
        ..HostFacts::default()
    }
}

/// What a supervisor would give this service.
pub fn assigned(unit: &Unit, facts: &HostFacts) -> Assigned {
    let network = NetworkSettings::default();
    let position = unit.network.address.and_then(|address| network.prefix4.slot(address).ok()).unwrap_or(7);
    let link = (unit.network.mode == NetworkMode::Veth)
        .then(|| LinkPlan::new(&network, (position, 3), unit.network.mtu, &unit.network.publish))
        .flatten();
    Assigned {
        run: 3,
        id_base: 1 << 30,
        cgroup: Some(format!("palisade/{}.3", unit.name).into()),
        root: "/run/palisade/init/root".into(),
        state: "/var/lib/palisade".into(),
        link,
        netns_kept: false,
        machine_id: plan::machine_id(&facts.hostname, unit.name.as_str()),
        ends_with_launcher: false,
        unprivileged: None,
        talk: std::collections::BTreeSet::new(),
        peers: Vec::new(),
        stored: Vec::new(),
    }
}

/// Whatever is a unit can be planned, shown, and lowered to what the init understands.
pub fn plan(unit: &Unit, facts: &HostFacts) -> LaunchPlan {
    let plan = plan::build(unit, &assigned(unit, facts), facts);
    plan::render::text(&plan);
    plan::render::json(&plan);
    check_lowered(&lower::lower(&plan, &lower::Seen::default()));
    session(unit, &unit.service.command);
    plan
}

/// As an `exec` session of the service is asked for.
pub fn session(unit: &Unit, command: &[String]) {
    for stdio in [plan::ChildStep::Stdio, plan::ChildStep::Terminal { columns: 80, rows: 24 }] {
        let steps = plan::session(unit, command, stdio);
        check_lowered(&lower::lower_session(
            &Session { number: 9, steps, after: Vec::new(), flags: 0 },
            &lower::Seen::default(),
        ));
    }
}

/// What the init takes for granted: its plan fits into an address range of its own, and no text in it ends early.
fn check_lowered(bytes: &[u8]) {
    assert!(bytes.len() < 64 << 20, "a plan of {} bytes", bytes.len());
}

/// The service files that we hand out, and those of the tests: `fuzz/run` has put them there.
pub fn examples() -> Vec<String> {
    let files = std::fs::read_dir("target/seeds").into_iter().flatten().flatten();
    let mut paths: Vec<_> = files.map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

/// Adds to the inputs that a target begins with. They are made anew for each run: of today's form, whatever has changed.
pub fn seed(target: &str, name: &str, bytes: &[u8]) {
    let dir = std::path::Path::new("target/made").join(target);
    if dir.is_dir() {
        std::fs::write(dir.join(name), bytes).expect("a directory of our own");
    }
}

/// How many descriptors this process has open: a target that leaks one on each input would be out of them soon.
pub fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("/proc is mounted").count()
}
