//! The plan of every service file that we hand out, and of a few that show the rest: one snapshot each. A change of a sandbox
//! shows here as a difference that somebody reads.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::{collections::BTreeMap, fs, path::Path};

use palisade::{
    config,
    net::{addr::NetworkSettings, link::LinkPlan},
    plan::{
        self, Assigned, LaunchPlan,
        unprivileged::{self, Caller, Carrier},
    },
    spec::{HostFacts, HostUser, NetworkMode, Unit, limits},
};

fn host() -> HostFacts {
    let user = |id| HostUser { uid: id, gid: id, home: "/nonexistent".into(), shell: "/bin/false".into() };
    let ids = [("www-data", 33), ("redis", 107), ("postgres", 108), ("somebody", 1000)];
    HostFacts {
        resolv_conf: vec!["nameserver 192.0.2.53".to_owned()],
        users: ids.iter().map(|(name, id)| ((*name).to_owned(), user(*id))).collect(),
        groups: ids.iter().map(|(name, id)| ((*name).to_owned(), (*id, Vec::new()))).collect(),
        env: BTreeMap::new(),
        hostname: "alpha".to_owned(),
        cgroup_kill: true,
        limits: limits::HostLimits { memory: 8 << 30, ..limits::HostLimits::default() },
        landlock: 7,
        apparmor: true,
        ipv6: true,
        selinux: false,
        zone_exists: None,
    }
}

fn unit(path: &Path) -> (Unit, Assigned) {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let facts = host();
    let mut unit = config::parse_str(name, &fs::read_to_string(path).unwrap(), &facts)
        .unwrap_or_else(|found| panic!("{}: {found:?}", path.display()));
    unit.show_ingress(Path::new("/run/palisade"));
    let network = NetworkSettings::default();
    let position = unit.network.address.map_or(0, |address| network.prefix4.slot(address).unwrap());
    let link = (unit.network.mode == NetworkMode::Veth)
        .then(|| LinkPlan::of(&network, (position, 0), &unit.network).unwrap());
    let assigned = Assigned {
        run: 1,
        id_base: 1 << 30,
        cgroup: Some(format!("palisade/{name}.1").into()),
        root: "/run/palisade/init/root".into(),
        state: "/var/lib/palisade".into(),
        link,
        talk: std::collections::BTreeSet::new(),
        peers: Vec::new(),
        stored: Vec::new(),
        netns_kept: false,
        machine_id: plan::machine_id(&facts.hostname, name),
        ends_with_launcher: false,
        unprivileged: None,
    };
    (unit, assigned)
}

fn build(path: &Path) -> (Unit, LaunchPlan) {
    let (unit, assigned) = unit(path);
    let plan = plan::build(&unit, &assigned, &host());
    (unit, plan)
}

/// The same file, run by an ordinary user.
fn build_for(caller: &Caller, path: &Path) -> LaunchPlan {
    let (unit, assigned) = unit(path);
    let made = unprivileged::decide(&unit, caller, &host()).unwrap();
    let assigned = Assigned { link: None, unprivileged: Some(made), ..assigned };
    plan::build(&unit, &assigned, &host())
}

#[test]
fn an_ordinary_users_plans_are_as_they_were_reviewed() {
    let single = Caller { uid: 1000, gid: 1000, first_port: 1024, has_cgroup: true, ..Caller::default() };
    let carrier = Some((Carrier::Pasta, "/usr/bin/pasta".into()));
    let range = Caller { subordinate: Some((100_000, 100_000)), carrier, ..single.clone() };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, caller, file) in [
        ("single", single, "tests/data/plans/empty.toml"),
        ("range", range.clone(), "tests/data/plans/empty.toml"),
        ("link", range, "services.d/web.toml"),
    ] {
        let plan = build_for(&caller, &here.join(file));
        plan::lower::lower(&plan, &plan::Seen::default());
        insta::assert_snapshot!(format!("unprivileged__{name}"), plan::render::text(&plan));
    }
}

#[test]
fn every_plan_is_as_it_was_reviewed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for dir in ["tests/data/plans", "examples", "examples/ingress", "services.d"] {
        let mut files: Vec<_> = fs::read_dir(here.join(dir)).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for file in files.into_iter().filter(|file| file.extension().is_some_and(|e| e == "toml")) {
            let (unit, plan) = build(&file);
            // What the init understands can be made of each.
            plan::lower::lower(&plan, &plan::Seen::default());
            let name = format!("{}__{}", dir.rsplit('/').next().unwrap().replace('.', "_"), unit.name);
            insta::assert_snapshot!(name, plan::render::text(&plan));
            seen += 1;
        }
    }
    assert!(seen >= 14, "{seen} files were found");
}

#[test]
fn the_json_form_has_the_same_steps() {
    let (_, plan) = build(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/plans/directory.toml"));
    let json = plan::render::json(&plan);
    let steps = json["steps"].as_array().unwrap();
    let text = plan::render::text(&plan);
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(steps.len(), lines.len());
    for (step, line) in steps.iter().zip(lines) {
        for part in ["side", "step", "object"] {
            assert!(line.contains(step[part].as_str().unwrap()), "{step} {line}");
        }
    }
}

#[test]
fn every_file_that_we_hand_out_is_all_but_closed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for dir in ["examples", "examples/ingress", "services.d"] {
        for file in fs::read_dir(here.join(dir)).unwrap().map(|e| e.unwrap().path()) {
            if file.extension().is_some_and(|e| e == "toml") {
                let score = palisade::spec::exposure::score_of(&build(&file).0);
                assert!(score <= 20, "{} scores {score} tenths", file.display());
            }
        }
    }
}
