//! The verbs that other modules carry out: one call each.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    CheckOptions, Exit, Global, PlanOptions, RUN_DIR, RunOptions, STATE_DIR, ScoreOptions, SuperviseOptions,
    absent, output, score, trace,
};
use crate::{
    config::{self, Around, Diagnostic, Loaded, Opened, Settings, Sources, settings},
    launch::{
        run::{self, Ended},
        unprivileged,
    },
    net::{
        link::LinkPlan,
        others::{Obstacle, Others},
        sysctl,
    },
    plan, report,
    spec::{HostFacts, NetworkMode, Unit, UnitName, exposure::Standing},
    supervisor, sys,
};

pub(super) fn supervise(options: &SuperviseOptions) -> Exit {
    trace::init();
    if !rustix::process::geteuid().is_root() {
        output::error("supervise is for root; an ordinary user runs one service with `palisade run FILE`");
        return Exit::Failed;
    }
    let settings = match settings(&options.global.config) {
        Ok(settings) => settings,
        Err(found) => return refuse(&found, options.global.json),
    };
    let places = &options.places;
    let options = supervisor::Options {
        run: options.global.run.clone(),
        state: places.state.clone(),
        log: places.log.clone(),
        sources: sources(options.services.as_deref(), &options.global),
        fail_at: options.fail_at.clone(),
        die_at: options.die_at.clone(),
        inherit: options.inherit,
    };
    match supervisor::main(options, settings) {
        Ok(()) => Exit::Done,
        Err(error) => {
            output::error(&error.to_string());
            Exit::Failed
        }
    }
}

pub(super) fn run(options: &RunOptions) -> Exit {
    trace::init();
    let loaded = settings(&options.global.config).and_then(|settings| {
        let facts = sys::facts::gather(settings.cgroup.as_deref());
        let around = Around::of(&options.global.config);
        let (unit, _, places) = config::load_file_opened(&options.file, &around, &facts)?;
        Ok((settings, facts, unit, places))
    });
    let (settings, facts, unit, places_of_keys) = match loaded {
        Ok(loaded) => loaded,
        Err(found) => return refuse(&found, options.global.json),
    };
    let (dir, state) = match places(options) {
        Ok(places) => places,
        Err(error) => {
            output::error(&error.to_string());
            return Exit::Broken;
        }
    };
    match run::run(&unit, &facts, &settings, &dir, &state) {
        Ok(Ended::Code(code)) => Exit::Payload(code),
        Ok(Ended::TimedOut) => {
            output::error(&format!("{}: its time was up", unit.name));
            Exit::TimedOut
        }
        Ok(Ended::Fault(fault)) => {
            let step = fault.step.rsplit(' ').next().unwrap_or_default();
            let place = plan::key_of(step).and_then(|key| Some((key, places_of_keys.get(key)?)));
            let decides = place.map(|(key, at)| format!("\n  {key} of {at} decides it")).unwrap_or_default();
            output::error(&format!("{}: {fault}{decides}", unit.name));
            match fault.exit_code() {
                126 => Exit::CannotExecute,
                127 => Exit::NotFound,
                _ => Exit::Broken,
            }
        }
        Err(error) => {
            output::error(&format!("{}: {error}", unit.name));
            Exit::Broken
        }
    }
}

/// Where a run keeps its things: root's places are not an ordinary user's, who has his own unless he names others.
fn places(options: &RunOptions) -> Result<(PathBuf, PathBuf), sys::SysError> {
    let (run, state) = (options.global.run.clone(), options.places.state.clone());
    let is_users = unprivileged::is_unprivileged()?;
    let run = if is_users && run == Path::new(RUN_DIR) { unprivileged::run_dir()? } else { run };
    let state = if is_users && state == Path::new(STATE_DIR) { unprivileged::state_dir() } else { state };
    Ok((run, state))
}

pub(super) fn check(options: &CheckOptions) -> Exit {
    let group = settings(&options.global.config).ok().and_then(|settings| settings.cgroup);
    let facts = sys::facts::gather(group.as_deref());
    let json = options.global.json;
    let around = Around::of(&options.global.config);
    let mut found = Vec::new();
    let (mut opened, mut absent) = (Vec::new(), Vec::new());
    let mut checked = 0;
    let (files, names): (Vec<_>, Vec<_>) = options.targets.iter().partition(|target| is_path(target));
    for file in &files {
        checked += 1;
        match config::load_file_opened(Path::new(file), &around, &facts) {
            Ok((unit, all, places)) => {
                absent.extend(absent::notes(&unit, &places));
                opened.push((unit.name, all));
            }
            Err(mistakes) => found.extend(mistakes),
        }
    }
    if files.is_empty() || !names.is_empty() {
        found.extend(settings(&options.global.config).err().unwrap_or_default());
        let sources = sources(options.services.as_deref(), &options.global);
        let mut loaded = config::load_with(&sources, &facts, &instances(&names));
        for (name, unit) in loaded
            .units
            .iter()
            .filter(|(name, _)| names.is_empty() || names.iter().any(|asked| name.as_str() == asked.as_str()))
        {
            absent.extend(
                loaded.deciding_places.get(name).into_iter().flat_map(|places| absent::notes(unit, places)),
            );
        }
        if names.is_empty() {
            checked += loaded.files.len();
            found.extend(loaded.diagnostics().cloned());
            opened.extend(std::mem::take(&mut loaded.opened));
        }
        for name in names {
            checked += 1;
            let known = UnitName::new(name).ok().filter(|name| loaded.files.contains_key(name));
            let Some(known) = known else {
                return no_such_service(name, &loaded, &sources);
            };
            found.extend(loaded.broken.get(&known).cloned().unwrap_or_default());
            opened.extend(loaded.opened.remove_entry(&known));
        }
    }
    if !found.is_empty() {
        // A file whose `[defaults]` are wrong is read as settings and as that.
        found.dedup_by(|a, b| a == b);
        return refuse(&found, json);
    }
    let mut notes = score::notes(&opened);
    notes.extend(absent);
    if let Ok(settings) = settings(&options.global.config) {
        notes.extend(in_the_way(&settings, &opened));
    }
    printed(match json {
        true => output::json(&report::to_json(&notes)),
        false => {
            let lines: String = notes.iter().map(score::note_line).collect();
            let good = match checked {
                0 => "there are no service files yet; `palisade new NAME` writes one".to_owned(),
                1 => "1 service file is good".to_owned(),
                _ => format!("{checked} service files are good"),
            };
            output::print(&format!("{lines}{good}\n"))
        }
    })
}

/// What of the host's other tables drops what these services send or receive, at the first key that needs it. Root alone
/// can read them.
fn in_the_way(settings: &Settings, opened: &[(UnitName, Vec<Opened>)]) -> Vec<Diagnostic> {
    let is_forwarded = |opened: &&Opened| match opened.row.name {
        "network.publish" => opened.opening.standing == Standing::Loosening,
        name => {
            ["network.egress", "network.allow_to", "network.allow_from", "ingress.format"].contains(&name)
        }
    };
    let asks = |(_, all): &&(UnitName, Vec<Opened>)| !all.iter().any(|o| o.row.name == "network.firewall");
    let concerned = opened.iter().filter(asks).flat_map(|(_, all)| all.iter().find(is_forwarded));
    let Some(at) = concerned.filter_map(|opened| opened.at.clone()).next() else { return Vec::new() };
    let read = Others::open(&settings.network).and_then(|mut others| others.obstacles());
    let note = |obstacle: Obstacle| Diagnostic::at(at.clone(), obstacle.to_string()).noted();
    read.unwrap_or_default().into_iter().map(note).collect()
}

/// Those of the names that a template may stand behind.
fn instances(names: &[&String]) -> BTreeSet<UnitName> {
    let names = names.iter().filter_map(|name| UnitName::new(name).ok());
    names.filter(UnitName::is_instance).collect()
}

/// `palisade score`.
pub(super) fn score(options: &ScoreOptions) -> Exit {
    let group = settings(&options.global.config).ok().and_then(|settings| settings.cgroup);
    let facts = sys::facts::gather(group.as_deref());
    let json = options.global.json;
    let (files, names): (Vec<_>, Vec<_>) = options.targets.iter().partition(|target| is_path(target));
    let around = Around::of(&options.global.config);
    let (mut found, mut scored): (Vec<Diagnostic>, Vec<(UnitName, Vec<Opened>)>) = Default::default();
    for file in files {
        match config::load_file_opened(Path::new(file), &around, &facts) {
            Ok((unit, opened, _)) => scored.push((unit.name, opened)),
            Err(mistakes) => found.extend(mistakes),
        }
    }
    if options.targets.is_empty() || !names.is_empty() {
        let sources = sources(options.services.as_deref(), &options.global);
        let mut loaded = config::load_with(&sources, &facts, &instances(&names));
        if names.is_empty() {
            found.extend(loaded.diagnostics().cloned());
            scored.extend(std::mem::take(&mut loaded.opened));
        }
        for name in names {
            let known = UnitName::new(name).ok();
            let entry = known.as_ref().and_then(|name| loaded.opened.remove_entry(name));
            let broken = known.as_ref().and_then(|name| loaded.broken.remove(name));
            match (entry, broken) {
                (Some(entry), _) => scored.push(entry),
                (None, Some(mistakes)) => found.extend(mistakes),
                (None, None) => return no_such_service(name, &loaded, &sources),
            }
        }
    }
    if !found.is_empty() {
        return refuse(&found, json || options.sarif);
    }
    let is_above = scored.iter().any(|(_, opened)| score::tenths(opened) > options.threshold);
    let shown = printed(match (options.sarif, json) {
        (true, _) => output::json(&score::sarif(&scored)),
        (false, true) => output::json(&score::json(&scored)),
        (false, false) => output::print(&score::text(&scored, options.targets.is_empty())),
    });
    match is_above {
        true => Exit::Failed,
        false => shown,
    }
}

pub(super) fn plan(options: &PlanOptions) -> Exit {
    let json = options.global.json;
    let settings = match settings(&options.global.config) {
        Ok(settings) => settings,
        Err(found) => return refuse(&found, json),
    };
    let facts = sys::facts::gather(settings.cgroup.as_deref());
    let unit = match is_path(&options.target) {
        true => config::load_file(Path::new(&options.target), &Around::of(&options.global.config), &facts),
        false => {
            let sources = sources(options.services.as_deref(), &options.global);
            let mut loaded = config::load_with(&sources, &facts, &instances(&[&options.target]));
            let name = UnitName::new(&options.target).ok();
            match name
                .and_then(|name| loaded.units.remove(&name).map(Ok).or(loaded.broken.remove(&name).map(Err)))
            {
                Some(unit) => unit,
                None => return no_such_service(&options.target, &loaded, &sources),
            }
        }
    };
    match unit {
        Ok(mut unit) => {
            unit.show_ingress(&options.global.run);
            let mut assigned = assumed(&unit, &settings, &facts);
            // What a user runs is a file of his own; the services by name are those of root's supervisor.
            if is_path(&options.target) && unprivileged::is_unprivileged().unwrap_or_default() {
                assigned = match as_user(&unit, &facts, &settings, assigned) {
                    Ok(assigned) => assigned,
                    Err(refused) => {
                        output::error(&format!("{}: {}: {}", unit.name, refused.key, refused.reason));
                        return Exit::Failed;
                    }
                };
            }
            let plan = plan::build(&unit, &assigned, &facts);
            printed(match json {
                true => output::json(&plan::render::json(&plan)),
                false => output::print(&plan::render::text(&plan)),
            })
        }
        Err(found) => refuse(&found, json),
    }
}

/// What a first launch would be given, on a host where nothing was given away yet.
fn assumed(unit: &Unit, settings: &Settings, facts: &HostFacts) -> plan::Assigned {
    let network = &settings.network;
    let position = match unit.network.address {
        Some(address) => network.prefix4.slot(address).unwrap_or_default(),
        None => network.places(unit.network.bridge.as_deref()).iter().next().unwrap_or_default(),
    };
    let link = match &unit.network.mode {
        NetworkMode::Veth => LinkPlan::of(network, (position, 0), &unit.network),
        NetworkMode::None | NetworkMode::Attached(_) | NetworkMode::Join(_) | NetworkMode::Host => None,
    };
    let group = settings.cgroup.clone().unwrap_or_else(|| "palisade".into());
    plan::Assigned {
        run: 1,
        id_base: settings.id_base,
        cgroup: facts.cgroup_kill.then(|| group.join(format!("{}.1", unit.name))),
        root: "/run/palisade/init/root".into(),
        state: "/var/lib/palisade".into(),
        link,
        netns_kept: false,
        talk: BTreeSet::new(),
        peers: Vec::new(),
        stored: Vec::new(),
        machine_id: plan::machine_id(&facts.hostname, unit.name.as_str()),
        ends_with_launcher: false,
        unprivileged: None,
    }
}

/// The same for who runs it without root.
fn as_user(
    unit: &Unit,
    facts: &HostFacts,
    settings: &Settings,
    assigned: plan::Assigned,
) -> Result<plan::Assigned, plan::unprivileged::Refused> {
    // What is shown is no run: that one would say so.
    let tree = unprivileged::tree(settings).unwrap_or_default();
    let made = plan::unprivileged::decide(unit, &unprivileged::caller(facts, tree.as_ref()), facts)?;
    Ok(plan::Assigned {
        cgroup: tree.map(|tree| tree.group(unit.name.as_str(), 1)),
        root: unprivileged::run_dir().map_or(assigned.root, |dir| dir.join("run-0/init/root")),
        state: unprivileged::state_dir(),
        link: None,
        unprivileged: Some(made),
        ..assigned
    })
}

fn no_such_service(name: &str, loaded: &Loaded, sources: &Sources) -> Exit {
    output::no_such_service(name, loaded.files.keys().map(UnitName::as_str), &sources.dirs);
    Exit::NoSuchService
}

/// A target with a slash or an ending is a file, anything else a service.
fn is_path(target: &str) -> bool {
    target.contains('/') || target.ends_with(".toml")
}

pub(super) fn sources(only: Option<&Path>, global: &Global) -> Sources {
    only.map_or_else(Sources::system, Sources::only).around(&global.config)
}

/// The default file may be missing; one that was named may not. Where the kernel has no IPv6, services have none.
pub(super) fn settings(path: &Path) -> Result<Settings, Vec<Diagnostic>> {
    let mut settings = Settings::load((path != Path::new(settings::DEFAULT_PATH)).then_some(path))?;
    settings.network.prefix6 = settings.network.prefix6.filter(|_| sysctl::has_ipv6());
    Ok(settings)
}

pub(super) fn refuse(found: &[Diagnostic], json: bool) -> Exit {
    match json {
        true => {
            let _ = output::json(&report::to_json(found));
        }
        false => output::diagnostics(&report::render(found, output::is_coloured())),
    }
    Exit::Usage
}

/// A reader who has gone away has read what he wanted.
fn printed(result: std::io::Result<()>) -> Exit {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Exit::Failed,
        _ => Exit::Done,
    }
}
