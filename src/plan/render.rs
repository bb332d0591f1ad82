//! A plan as text, one step a line: what `palisade plan` prints, what reviewers read, what messages name.

use std::{collections::BTreeSet, fmt::Write};

use super::{ChildStep, Credentials, HostStep, LaunchPlan, Module, Question, User};
use crate::spec::{
    AttachedKind, Capability, Credential, Egress, Hook, HookUser, IdRange, IdSpec, Mount, Named, Stage,
    Stdin, UserSpec, Writable,
    limits::{Bounds, Rlimit, Value},
};

/// The whole plan.
pub fn text(plan: &LaunchPlan) -> String {
    let mut out = format!("plan {}\n", plan.name);
    let mut line = |side: &str, number: usize, (name, object): (&str, String)| {
        let _ = writeln!(out, "{}", format!("  {side} {number:>2} {name:<16} {object}").trim_end());
    };
    for (n, step) in plan.host.iter().enumerate() {
        line("host ", n + 1, host(step));
    }
    for (n, step) in plan.child().enumerate() {
        line("child", n + 1, child(step));
    }
    for (n, (stage, hook)) in plan.hooks.iter().enumerate() {
        line("hook ", n + 1, command(*stage, hook));
    }
    out
}

/// Name and object of a command around the service.
fn command(stage: Stage, hook: &Hook) -> (&'static str, String) {
    let whom = match &hook.user {
        _ if hook.privileged => " on the host, as root".to_owned(),
        Some(HookUser { user: UserSpec::Dynamic, .. }) => " as dynamic".to_owned(),
        Some(HookUser { user: UserSpec::Named(IdSpec::Number(id)), .. }) => format!(" as {id}"),
        Some(HookUser { user: UserSpec::Named(IdSpec::Name(name)), .. }) => format!(" as {name}"),
        None => String::new(),
    };
    let timeout = hook.timeout.map(|timeout| format!(" within {}", humantime::format_duration(timeout)));
    let ignored = flag(hook.ignore_failure, ", whatever comes of it");
    let key = stage.key().trim_start_matches("service.");
    (key, format!("{:?}{whom}{}{ignored}", hook.to_string(), timeout.unwrap_or_default()))
}

/// The whole plan for programs: `{name, steps: [{side, number, step, object}]}`.
pub fn json(plan: &LaunchPlan) -> serde_json::Value {
    let step = |side: &str, number: usize, (step, object): (&str, String)| serde_json::json!({ "side": side, "number": number, "step": step, "object": object });
    let on_host = plan.host.iter().enumerate().map(|(n, host_step)| step("host", n + 1, host(host_step)));
    let inside = plan.child().enumerate().map(|(n, child_step)| step("child", n + 1, child(child_step)));
    let hooks = plan.hooks.iter().enumerate();
    let around = hooks.map(|(n, (stage, hook))| step("hook", n + 1, command(*stage, hook)));
    let steps: Vec<serde_json::Value> = on_host.chain(inside).chain(around).collect();
    serde_json::json!({ "name": plan.name, "steps": steps })
}

/// Name and object of a host step.
pub fn host(step: &HostStep) -> (&'static str, String) {
    let path = |path: &std::path::Path| path.display().to_string();
    match step {
        HostStep::Cgroup(group) => ("cgroup.create", path(group)),
        HostStep::Limit(knob) => ("cgroup.limit", format!("{} {}", knob.file, value(&knob.value))),
        HostStep::Join { kind, of } => ("ns.join", format!("{}:{of}", kind.name())),
        HostStep::NetNs => ("netns.create", "lo up".into()),
        HostStep::NetNsOwn => ("netns.own", "of the service's user namespace, lo up".into()),
        HostStep::NetNsJoin(of) => ("netns.join", of.to_string()),
        HostStep::NetNsKept => ("netns.keep", String::new()),
        HostStep::Unprivileged(made) => {
            let missing: String = made.missing.iter().map(|missing| format!("; {missing}")).collect();
            ("user.enter", format!("{}{missing}", ranges(&made.uids)))
        }
        HostStep::UserLink(link) => {
            let publish: String = link.publish.iter().map(|publish| format!(" {publish}")).collect();
            ("user.link", format!("{}{publish}{}", link.carrier.name(), flag(link.egress, " egress")))
        }
        HostStep::Veth(link) => {
            let mtu = link.mtu.map(|mtu| format!(" mtu={mtu}")).unwrap_or_default();
            let v6 = link.v6.map(|pair| format!(", {}/128 via {}", pair.address, pair.gateway));
            let v4 = format!("{}/32 via {}", link.address, link.gateway);
            let ends = format!("{} <-> {}", link.host_if, link.guest_if);
            let bridge = link.bridge.as_ref().map(|name| format!(", port of {name}")).unwrap_or_default();
            ("veth.create", format!("{ends} {v4}{}{bridge}{mtu}", v6.unwrap_or_default()))
        }
        HostStep::Attach(plan) => {
            let mtu = plan.mtu.map(|mtu| format!(" mtu={mtu}")).unwrap_or_default();
            let step = match plan.to.kind {
                AttachedKind::Macvlan => "macvlan.create",
                AttachedKind::Ipvlan => "ipvlan.create",
            };
            (step, format!("{} {}{mtu}", plan.guest_if, plan.to))
        }
        HostStep::Publish(publish) => ("publish", publish.to_string()),
        HostStep::Bandwidth(bandwidth) => ("bandwidth", bandwidth.to_string()),
        HostStep::Egress(egress, names) => ("egress", egress_text(egress, names)),
        HostStep::Talk(talk) => ("talk", talk.to_string()),
        HostStep::Firewall(prefix) => {
            ("firewall.insert", format!("{prefix}* accepted by other tables that drop it"))
        }
        HostStep::IdMap(base) => ("idmap.create", format!("0..65536 -> {base}")),
        HostStep::RootMemory => ("root.memory", "/".into()),
        HostStep::RootDir { src, idmap, writable, upper } => {
            let writable = match writable {
                Writable::No => "ro".to_owned(),
                Writable::Ephemeral => "rw in memory".to_owned(),
                Writable::Persistent => {
                    format!("rw in {}", upper.as_deref().map(path).unwrap_or_default())
                }
            };
            ("root.dir", format!("{} -> / {writable},nosuid,nodev{}", path(src), flag(*idmap, ",idmap")))
        }
        HostStep::RootHost => ("root.host", "/usr and the libraries ro,nosuid,nodev".into()),
        HostStep::File { dst, content, over } => {
            let over = flag(*over, " where there is one");
            ("root.file", format!("{} {} bytes{over}", path(dst), content.len()))
        }
        HostStep::Bind(mount) => ("root.bind", bind(mount)),
        HostStep::Tmpfs(tmpfs) => {
            let exec = flag(!tmpfs.exec, ",noexec");
            let (dst, size, mode) = (path(&tmpfs.dst), tmpfs.size, tmpfs.mode);
            ("root.tmpfs", format!("{dst} size={size},mode={mode:04o},nosuid,nodev{exec}"))
        }
        HostStep::DevMinimal { shown, given } => {
            let shown: String = shown.iter().map(|node| format!(" {}", node.display())).collect();
            let given: String = given.iter().map(|device| format!(", given {device}")).collect();
            ("root.dev", format!("null zero full random urandom tty pts shm{shown}{given}"))
        }
        HostStep::DevHost => ("root.dev", "the host's".into()),
        HostStep::ProcPoint => ("root.proc", "/proc".into()),
        HostStep::ProcOf(Some(of)) => ("root.proc", format!("/proc of {of} nosuid,nodev,noexec")),
        HostStep::ProcOf(None) => ("root.proc", "/proc of the host nosuid,nodev,noexec".into()),
        HostStep::SysPoint => ("root.sysfs", "/sys".into()),
        HostStep::Sysfs => ("root.sysfs", "/sys ro,nosuid,nodev,noexec".into()),
        HostStep::Credentials { dst, files } => {
            let one = |file: &Credential| {
                let owner = file.owner.map(|owner| format!(" {owner}")).unwrap_or_default();
                format!("{} {:04o}{owner} from {}", file.name, file.mode, file.source)
            };
            let files: Vec<String> = files.iter().map(one).collect();
            ("root.credentials", format!("{} ro,nosuid,nodev,noexec: {}", path(dst), files.join(", ")))
        }
        HostStep::Notify => ("root.notify", crate::notify::SOCKET.into()),
        HostStep::Hide(dst) => ("root.hide", path(dst)),
        HostStep::ReadOnly(dst) => ("root.read_only", path(dst)),
        HostStep::RootSeal => ("root.seal", "/ ro".into()),
        HostStep::Stdio(stdin) => {
            let from = match stdin {
                Stdin::Null => "/dev/null".into(),
                Stdin::Inherit => "inherited".into(),
                Stdin::File(file) => path(file),
                Stdin::Socket => "connection".into(),
            };
            let to = if *stdin == Stdin::Socket { "connection" } else { "pipe" };
            ("stdio", format!("stdin={from} stdout={to} stderr=pipe"))
        }
        HostStep::Listen(socket) if socket.accept.is_some() => {
            ("accept", format!("{socket} {}", socket.name))
        }
        HostStep::Listen(socket) => ("listen", format!("{socket} {}", socket.name)),
        HostStep::Stored(names) => ("stored", names.join(" ")),
        HostStep::Ready(fd) => ("ready.pipe", format!("fd {fd}")),
        HostStep::Channel => ("channel", String::new()),
        HostStep::Clone(namespaces) => ("clone", namespaces.join(" ")),
        HostStep::Ids(uids, _) => ("ids", ranges(uids)),
        HostStep::Raise(limits) => ("rlimits.raise", rlimits(limits)),
        HostStep::Sched { nice, oom_score_adj, sched, ioprio } => {
            let all = [
                nice.map(|nice| format!("nice={nice}")),
                oom_score_adj.map(|score| format!("oom_score_adj={score}")),
                sched.map(|sched| format!("sched={sched}")),
                ioprio.map(|ioprio| format!("ioprio={ioprio}")),
            ];
            ("sched", all.into_iter().flatten().collect::<Vec<_>>().join(" "))
        }
        HostStep::Go => ("go", String::new()),
    }
}

fn ranges(ranges: &[IdRange]) -> String {
    let range = |range: &IdRange| match range.count {
        1 => format!("{} -> {}", range.inside, range.outside),
        count => format!("{}..{} -> {}", range.inside, range.inside + count, range.outside),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(", ")
}

/// What a file of a control group is set to.
pub fn value(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Disk { device, bounds } => format!("{} {bounds}", device.display()),
    }
}

fn rlimits(limits: &[(Rlimit, Bounds)]) -> String {
    let one = |(limit, bounds): &(Rlimit, Bounds)| match bounds.soft == bounds.hard {
        true => format!("{}={}", limit.name(), bounds.to_string().split(':').next().unwrap_or_default()),
        false => format!("{}={bounds}", limit.name()),
    };
    // What has no bound would fill the line.
    let bounded = limits.iter().filter(|(_, bounds)| bounds.soft.is_some() || bounds.hard.is_some());
    bounded.map(one).collect::<Vec<_>>().join(" ")
}

fn bind(mount: &Mount) -> String {
    let Mount { src, dst, ro, idmap, exec, optional } = mount;
    let access = if *ro { "ro" } else { "rw" };
    let (exec, idmap, optional) =
        (flag(!exec, ",noexec"), flag(*idmap, ",idmap"), flag(*optional, " optional"));
    format!("{} -> {} {access},nosuid,nodev{exec}{idmap}{optional}", src.display(), dst.display())
}

fn flag(set: bool, text: &str) -> &str {
    if set { text } else { "" }
}

/// Name and object of a child step.
pub fn child(step: &ChildStep) -> (&'static str, String) {
    match step {
        ChildStep::IdsRoot => ("ids.root", "0:0".into()),
        ChildStep::Keyring => ("keyring", "session, empty".into()),
        ChildStep::Subreaper => ("subreaper", String::new()),
        ChildStep::MountPrivate => ("mount.private", "/".into()),
        ChildStep::RootEnter(root) => ("root.enter", root.display().to_string()),
        ChildStep::Proc => ("proc", "/proc nosuid,nodev,noexec".into()),
        ChildStep::NoUserNamespaces { .. } => ("user_namespaces", "0".into()),
        ChildStep::Attest(items) => {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            ("attest", items.join(" "))
        }
        ChildStep::Landlock(landlock) => ("landlock", super::child::landlock_text(landlock)),
        ChildStep::Label(Module::AppArmor, label) => ("apparmor", label.clone()),
        ChildStep::Label(Module::SeLinux, label) => ("selinux", label.clone()),
        ChildStep::Sysfs => ("sysfs", "/sys ro,nosuid,nodev,noexec".into()),
        ChildStep::PivotRoot => ("pivot_root", ".".into()),
        ChildStep::DevPts(_) => ("devpts", "/dev/pts".into()),
        ChildStep::CgroupFs => ("cgroup2", "/sys/fs/cgroup ro".into()),
        ChildStep::ProcMask => ("proc.mask", "/proc/sys /proc/kcore ...".into()),
        ChildStep::Hostname(name) => ("hostname", name.clone()),
        ChildStep::Domainname(name) => ("domainname", name.clone()),
        ChildStep::ClockOffset(seconds) => ("clock_offset", format!("{seconds}s")),
        ChildStep::Fork => ("fork", String::new()),
        ChildStep::Session => ("session", String::new()),
        ChildStep::Stdio => ("stdio", String::new()),
        ChildStep::Terminal { columns, rows } => ("terminal", format!("{columns}x{rows}")),
        ChildStep::CloseFds => ("close_fds", "3.. cloexec".into()),
        ChildStep::Given(names) => ("listen_fds", format!("3.. {}", names.join(" "))),
        ChildStep::Hello => ("hello", String::new()),
        ChildStep::BoundingSet(kept) => ("bounding_set", capabilities(kept)),
        ChildStep::Credentials(credentials) => ("user", whom(credentials)),
        ChildStep::Rlimits(limits) => ("rlimits", rlimits(limits)),
        ChildStep::Capabilities { held, ambient } => {
            let ambient = match ambient.is_empty() {
                true => String::new(),
                false => format!(" ambient={}", capabilities(ambient)),
            };
            ("capabilities", format!("{}{ambient}", capabilities(held)))
        }
        ChildStep::Umask(mask) => ("umask", format!("{mask:04o}")),
        ChildStep::WorkingDir(path) => ("working_dir", path.display().to_string()),
        ChildStep::ReadyFd(fd) => ("ready_fd", fd.to_string()),
        ChildStep::Signals => ("signals", "none blocked".into()),
        ChildStep::Alarm(time) => ("alarm", humantime::format_duration(*time).to_string()),
        ChildStep::NoNewPrivs => ("no_new_privs", "1".into()),
        ChildStep::Seccomp(filter) => ("seccomp", filter.to_string()),
        ChildStep::Exec { command, .. } => ("exec", command.join(" ")),
        ChildStep::Ask(Question::Exists(path)) => ("exists", path.display().to_string()),
        ChildStep::Ask(Question::Connect(path)) => ("connect", path.display().to_string()),
        ChildStep::PidFile(path) => ("init.pid_file", path.display().to_string()),
        ChildStep::Keep(fds) => {
            let labels: Vec<&str> = fds.iter().map(|fd| fd.label()).collect();
            ("init.keep", labels.join(" "))
        }
        ChildStep::Recede { id, capabilities: more } => {
            let id = id.map(|id| format!("{id}:{id} ")).unwrap_or_default();
            let more = if more.is_empty() { String::new() } else { format!(" {}", capabilities(more)) };
            ("init.recede", format!("{id}chown kill setgid setuid setpcap{more}"))
        }
    }
}

fn egress_text(egress: &Egress, names: &[Named]) -> String {
    let names = names.iter().map(Named::to_string);
    let places = Some(egress.to_string()).filter(|text| !text.is_empty());
    places.into_iter().chain(names).collect::<Vec<_>>().join(" ")
}

fn capabilities(set: &BTreeSet<Capability>) -> String {
    let names: Vec<String> =
        set.iter().map(|capability| capability.name()["CAP_".len()..].to_lowercase()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

fn whom(credentials: &Credentials) -> String {
    let id = |id: &IdSpec| match id {
        IdSpec::Number(number) => number.to_string(),
        IdSpec::Name(name) => name.clone(),
    };
    let mut text = match &credentials.user {
        User::Name(name) => name.clone(),
        User::Id(number) => number.to_string(),
    };
    if let Some(group) = &credentials.group {
        let _ = write!(text, ":{}", id(group));
    }
    for group in &credentials.extra {
        let _ = write!(text, " +{}", id(group));
    }
    text
}
