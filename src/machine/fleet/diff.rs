//! What a new file changes about a service.

use serde::Serialize;

use crate::spec::{
    Dns, Hooks, Limits, Namespaces, Network, NetworkMode, Ready, Rootfs, Security, Service, Unit,
};

/// What it takes to make a new file true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Nothing: the files say the same.
    None,
    /// Nothing more: the new values are read when they are needed.
    Live,
    /// Another sandbox.
    Restart,
}

/// The difference between two files of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The strongest of all.
    pub change: Change,
    /// The keys that differ, as a service file spells them.
    pub keys: Vec<&'static str>,
}

impl Diff {
    fn note(&mut self, change: Change, key: &'static str) {
        self.change = self.change.max(change);
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
    }
}

/// Compares two structs field by field, and says which key of the file each field is and what it takes.
///
/// The pattern names every field, so that a new one does not compile before this is said of it.
macro_rules! compare {
    ($diff:expr, $old:expr, $new:expr, $of:ident but for [$($other:ident),*] {
        $($change:ident: $($field:ident => $key:literal),+;)*
    }) => {{
        let (old, new, diff) = ($old, $new, $diff);
        let $of { $($($field: _,)+)* $($other: _,)* } = old;
        $($(if old.$field != new.$field {
            diff.note(Change::$change, $key);
        })+)*
    }};
}

/// What `new` changes about a service that was started from `old`.
pub fn diff(old: &Unit, new: &Unit) -> Diff {
    let mut diff = Diff { change: Change::None, keys: Vec::new() };
    compare!(&mut diff, old, new, Unit but for [name, service, namespaces, rootfs, network, sockets, security, limits, ingress] {
        Live: description => "unit.description", documentation => "unit.documentation",
            profile => "unit.profile", owners => "unit.owners",
            enabled => "unit.enabled", requires => "unit.requires", wants => "unit.wants",
            binds_to => "unit.binds_to", part_of => "unit.part_of", upholds => "unit.upholds",
            conflicts => "unit.conflicts", after => "unit.after", before => "unit.before",
            on_failure => "unit.on_failure", on_success => "unit.on_success",
            condition => "unit.condition", assert => "unit.assert", timer => "timer",
            restart => "restart", health => "health", log => "log", labels => "metrics.labels", activation => "socket.activation",
            http => "http";
        Restart: log_full => "log.full";
    });
    // What is made for it is shown to its runs from their start; what stands there is not.
    if old.ingress != new.ingress {
        let is_shown = old.ingress.is_some() && new.ingress.is_some();
        diff.note(if is_shown { Change::Live } else { Change::Restart }, "ingress");
    }
    // What a run was given stays as it is; what else there is to a socket is the supervisor's to change.
    let given = |unit: &Unit| -> Vec<_> {
        let all = unit.sockets.iter();
        all.map(|socket| (socket.listen.clone(), socket.kind, socket.name.clone(), socket.accept.is_some()))
            .collect()
    };
    match given(old) == given(new) {
        false => diff.note(Change::Restart, "socket"),
        true if old.sockets != new.sockets => diff.note(Change::Live, "socket"),
        true => {}
    }
    // Who says so himself is given the way to it when he is started.
    let says = |unit: &Unit| matches!(unit.service.ready, Some(Ready::Notify | Ready::Fd(_)));
    match says(old) || says(new) {
        _ if old.service.ready == new.service.ready => {}
        true => diff.note(Change::Restart, "service.ready"),
        false => diff.note(Change::Live, "service.ready"),
    }
    compare!(&mut diff, &old.service, &new.service, Service but for [hooks, ready] {
        Restart: command => "service.command", kind => "service.type",
            pid_file => "service.pid_file", watchdog => "service.watchdog", env => "service.env",
            working_dir => "service.working_dir", umask => "service.umask", user => "service.user",
            group => "service.group", extra_groups => "service.extra_groups", stdin => "service.stdin",
            tty => "service.tty", nice => "service.nice", oom_score_adj => "service.oom_score_adj",
            sched => "service.sched", ioprio => "service.ioprio";
        Live: stop => "service.stop", reload => "service.reload",
            reload_watch => "service.reload", start_timeout => "service.timeout",
            run_timeout => "service.timeout", success_exit => "service.success_exit",
            remain_after_exit => "service.remain_after_exit", fd_store_max => "service.fd_store_max",
            rollout => "service.rollout";
    });
    compare!(&mut diff, &old.service.hooks, &new.service.hooks, Hooks but for [] {
        Live: condition => "service.condition", pre_start => "service.pre_start",
            post_start => "service.post_start", pre_stop => "service.pre_stop",
            post_stop => "service.post_stop";
    });
    compare!(&mut diff, &old.namespaces, &new.namespaces, Namespaces but for [] {
        Restart: pid => "namespaces.pid", uts => "namespaces.uts", ipc => "namespaces.ipc",
            cgroup => "namespaces.cgroup", user => "namespaces.user", nested => "namespaces.nested",
            clock_offset => "namespaces.clock_offset", hostname => "namespaces.hostname",
            domainname => "namespaces.domainname", machine_id => "namespaces.machine_id";
    });
    compare!(&mut diff, &old.rootfs, &new.rootfs, Rootfs but for [] {
        Restart: base => "rootfs.base", writable => "rootfs.writable", mounts => "rootfs.mounts",
            tmpfs => "rootfs.tmpfs", hide => "rootfs.hide", read_only => "rootfs.read_only",
            dev => "rootfs.dev", proc => "rootfs.proc", sys => "rootfs.sys";
    });
    compare!(&mut diff, &old.network, &new.network, Network but for [dns, hosts] {
        Restart: mode => "network.mode", address => "network.address", mac => "network.mac",
            interface => "network.interface", bridge => "network.bridge", mtu => "network.mtu",
            publish => "network.publish", egress => "network.egress",
            egress_names => "network.egress",
            address_families => "network.address_families";
        Live: allow_to => "network.allow_to", allow_from => "network.allow_from",
            firewall => "network.firewall", bandwidth => "network.bandwidth";
    });
    let may_ask = new.network.mode == NetworkMode::Veth && new.network.dns != Dns::None;
    // Where to ask is in a file of the sandbox; who is asked in turn is the supervisor's to change, where it is asked.
    match [old, new].map(|unit| unit.network.dns == Dns::None) {
        _ if old.network.dns == new.network.dns => {}
        [false, false] if may_ask => diff.note(Change::Live, "network.dns"),
        _ => diff.note(Change::Restart, "network.dns"),
    }
    // The run has what there was in a file of its own, and may ask for more.
    let (hosts, others) = (&old.network.hosts, &new.network.hosts);
    let is_kept = hosts.iter().all(|(name, address)| others.get(name) == Some(address));
    match is_kept && may_ask {
        _ if hosts == others => {}
        true => diff.note(Change::Live, "network.hosts"),
        false => diff.note(Change::Restart, "network.hosts"),
    }
    compare!(&mut diff, &old.security, &new.security, Security but for [] {
        Restart: no_new_privs => "security.no_new_privs", capabilities => "security.capabilities",
            ambient => "security.ambient", devices => "security.devices",
            credentials => "security.credentials", seccomp => "security.seccomp",
            native_abi_only => "security.native_abi_only", lock_personality => "security.lock_personality",
            no_realtime => "security.no_realtime", no_suid => "security.no_suid",
            no_namespaces => "security.no_namespaces", no_wx => "security.no_wx",
            landlock => "security.landlock", apparmor => "security.apparmor", selinux => "security.selinux";
    });
    compare!(&mut diff, &old.limits, &new.limits, Limits but for [bent] {
        Restart: rlimits => "limits.rlimits";
        Live: memory => "limits.memory", cpu => "limits.cpu", io => "limits.io", pids => "limits.pids",
            oom => "limits.oom", best_effort => "limits.best_effort";
    });
    diff
}
