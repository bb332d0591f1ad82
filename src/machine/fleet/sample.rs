//! A service for tests. Included by `tests/machine_laws.rs` too, so that a new field has one place to be filled in.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use crate::{
    machine::{Policy, RestartMode, RestartOn},
    spec::{
        Activation, After, Bandwidth, Base, Denial, Dev, Dns, Egress, Families, Firewall, Full, Hooks, Kind,
        Landlock, Limits, LogPolicy, Milestone, Namespace, Namespaces, Network, NetworkMode, Rollout, Rootfs,
        Seccomp, Security, Service, Stdin, StopMode, StopPolicy, Unit, UnitName, UserNamespace, UserSpec,
        Writable,
        limits::{CpuLimits, IoLimits, MemoryLimits, Oom},
    },
};

pub(crate) fn name(text: &str) -> UnitName {
    UnitName::new(text).expect("tests use good names")
}

pub(crate) fn after(text: &str) -> After {
    After { name: name(text), milestone: Milestone::Ready }
}

/// Restarts after each failure, a second later at first, twice as long each time, a minute at most.
pub(crate) fn policy() -> Policy {
    Policy {
        on: RestartOn::OnFailure,
        delay: Duration::from_secs(1),
        factor: 2.0,
        max_delay: Duration::from_secs(60),
        jitter: 0.0,
        reset_after: Duration::from_secs(60),
        max: None,
        prevent_exit: Vec::new(),
        force_exit: Vec::new(),
        mode: RestartMode::Fresh,
    }
}

/// An enabled daemon that requires `requires`, is restarted as [`policy`] says, and has 10 s to stop.
pub(crate) fn unit(text: &str, requires: &[&str]) -> Unit {
    Unit {
        name: name(text),
        description: String::new(),
        condition: Vec::new(),
        assert: Vec::new(),
        documentation: Vec::new(),
        profile: None,
        owners: Vec::new(),
        enabled: true,
        requires: requires.iter().map(|text| name(text)).collect(),
        wants: Vec::new(),
        binds_to: Vec::new(),
        part_of: Vec::new(),
        upholds: Vec::new(),
        conflicts: Vec::new(),
        after: Vec::new(),
        before: Vec::new(),
        on_failure: Vec::new(),
        on_success: Vec::new(),
        service: service(),
        restart: policy(),
        namespaces: Namespaces {
            pid: Namespace::Own,
            uts: Namespace::Own,
            ipc: Namespace::Own,
            cgroup: Namespace::Own,
            user: UserNamespace::Auto,
            nested: false,
            clock_offset: None,
            hostname: text.to_owned(),
            domainname: String::new(),
            machine_id: None,
        },
        rootfs: Rootfs {
            base: Base::Host,
            writable: Writable::No,
            mounts: Vec::new(),
            tmpfs: Vec::new(),
            hide: Vec::new(),
            read_only: Vec::new(),
            dev: Dev::Minimal(Vec::new()),
            proc: true,
            sys: true,
        },
        network: Network {
            mode: NetworkMode::Veth,
            address: None,
            mac: None,
            interface: None,
            bridge: None,
            mtu: None,
            publish: Vec::new(),
            egress: Egress::None,
            egress_names: Vec::new(),
            allow_to: Vec::new(),
            allow_from: Vec::new(),
            bandwidth: Bandwidth::default(),
            dns: Dns::Host,
            hosts: BTreeMap::new(),
            address_families: Families::Default,
            firewall: Firewall::Detect,
        },
        sockets: Vec::new(),
        activation: Activation::Boot,
        security: Security {
            no_new_privs: true,
            capabilities: BTreeSet::new(),
            ambient: BTreeSet::new(),
            devices: Vec::new(),
            credentials: Vec::new(),
            seccomp: Seccomp {
                allow: vec!["@service".to_owned()],
                kill: Vec::new(),
                log: Vec::new(),
                action: Denial::Eperm,
            },
            native_abi_only: true,
            lock_personality: true,
            no_realtime: true,
            no_suid: true,
            no_namespaces: true,
            no_wx: false,
            landlock: Landlock::Auto,
            apparmor: None,
            selinux: None,
        },
        limits: Limits {
            memory: MemoryLimits::default(),
            cpu: CpuLimits::default(),
            io: IoLimits::default(),
            pids: Some(512),
            rlimits: BTreeMap::new(),
            oom: Oom::KillGroup,
            best_effort: false,
            bent: Vec::new(),
        },
        health: None,
        log: LogPolicy::default(),
        labels: BTreeMap::new(),
        timer: None,
        log_full: Full::Drop,
        http: None,
        ingress: None,
    }
}

fn service() -> Service {
    Service {
        command: vec!["/bin/true".to_owned()],
        kind: Kind::Exec,
        ready: None,
        pid_file: None,
        watchdog: None,
        env: BTreeMap::new(),
        working_dir: PathBuf::from("/"),
        umask: 0o077,
        user: UserSpec::Dynamic,
        group: None,
        extra_groups: Vec::new(),
        stdin: Stdin::Null,
        tty: false,
        stop: StopPolicy {
            signal: 15,
            command: None,
            timeout: Some(Duration::from_secs(10)),
            mode: StopMode::Mixed,
        },
        reload: None,
        reload_watch: Vec::new(),
        start_timeout: Some(Duration::from_secs(90)),
        run_timeout: None,
        hooks: Hooks::default(),
        success_exit: Vec::new(),
        remain_after_exit: false,
        nice: None,
        oom_score_adj: None,
        sched: None,
        ioprio: None,
        fd_store_max: 0,
        rollout: Rollout::Restart,
    }
}
