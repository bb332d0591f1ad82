//! What a service file says about starting, stopping and restarting, as the machine reads it, and how an end
//! is judged.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    backoff,
    state::{End, ExitKind, Failure, Retry, Then, Why},
};
use crate::spec::{ExitMatch, Kind, OnFail, StopMode, Unit};

/// `[restart]`: what happens when a run ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Which ends are followed by another run.
    pub on: RestartOn,
    /// Before the first restart.
    pub delay: Duration,
    /// By which each further delay grows.
    pub factor: f64,
    /// Upper bound of the delay, before jitter.
    pub max_delay: Duration,
    /// Share of the delay, 0.0 to 1.0, by which it is varied in both directions.
    pub jitter: f64,
    /// A run that lived so long starts the count of failures again.
    pub reset_after: Duration,
    /// How many restarts are allowed within how long; none is no bound.
    pub max: Option<(u32, Duration)>,
    /// Exit statuses and signals after which there is no restart; stronger than `force_exit`.
    pub prevent_exit: Vec<ExitMatch>,
    /// Exit statuses and signals after which there always is one.
    pub force_exit: Vec<ExitMatch>,
    /// Whether the sandbox is made anew.
    pub mode: RestartMode,
}

/// `restart.policy`, named as systemd's `Restart=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartOn {
    /// After every end.
    Always,
    /// After an end that is no success.
    OnFailure,
    /// After a signal, a core dump or a time-out.
    OnAbnormal,
    /// After a success.
    OnSuccess,
    /// Not at all.
    Never,
}

/// `restart.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartMode {
    /// A new sandbox on the kept network namespace.
    Fresh,
    /// The same sandbox: its PID 1 starts the program again.
    InPlace,
}

/// The part of a [`Unit`] that [`step`](super::step) reads.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// `[restart]`.
    pub restart: &'a Policy,
    /// When the service counts as started.
    pub kind: Kind,
    /// What counts as success beside exit status 0.
    pub success_exit: &'a [ExitMatch],
    /// An end with success leaves the service active.
    pub remain_after_exit: bool,
    /// A daemon that has started once it is ready, not once its program was executed.
    pub reports_ready: bool,
    /// What becomes of it when its checks have failed.
    pub on_unhealthy: OnFail,
    /// Commands follow when it is ready.
    pub post_start: bool,
    /// Commands follow when its main process has ended.
    pub post_stop: bool,
    /// From launch to started; none waits for ever.
    pub start_timeout: Option<Duration>,
    /// From started to the end; none is no bound.
    pub run_timeout: Option<Duration>,
    /// From the request to stop to SIGKILL for all; none waits for ever.
    pub stop_timeout: Option<Duration>,
    /// Who is asked to stop.
    pub stop_mode: StopMode,
    /// The service's own seed, see [`backoff::seed`].
    pub seed: u64,
}

impl<'a> Rules<'a> {
    /// Reads `unit`; `fleet_seed` is the same for all services of one supervisor.
    pub fn of(unit: &'a Unit, fleet_seed: u64) -> Self {
        let service = &unit.service;
        Self {
            restart: &unit.restart,
            kind: service.kind,
            success_exit: &service.success_exit,
            remain_after_exit: service.remain_after_exit,
            reports_ready: service.reports_ready(),
            on_unhealthy: unit.health.as_ref().map_or(OnFail::Restart, |check| check.on_fail),
            post_start: !service.hooks.post_start.is_empty(),
            post_stop: !service.hooks.post_stop.is_empty(),
            start_timeout: service.start_timeout,
            run_timeout: service.run_timeout,
            stop_timeout: service.stop.timeout,
            stop_mode: service.stop.mode,
            seed: backoff::seed(fleet_seed, unit.name.as_str()),
        }
    }

    /// Whether `exit` is a success: status 0, what the file lists, and for daemons SIGHUP, SIGINT, SIGTERM, SIGPIPE.
    ///
    /// A core dump never is, and neither is an end that nobody saw. As systemd's `SuccessExitStatus=`.
    pub fn is_success(&self, exit: ExitKind) -> bool {
        // Numbers of signal(7), the same on x86-64 and aarch64.
        const POLITE: [i32; 4] = [1, 2, 13, 15];
        match exit {
            ExitKind::Code(0) => true,
            ExitKind::Code(code) => self.success_exit.contains(&ExitMatch::Code(code)),
            ExitKind::Signal(signal) => {
                let polite = self.kind != Kind::Oneshot && POLITE.contains(&signal);
                polite || self.success_exit.contains(&ExitMatch::Signal(signal))
            }
            ExitKind::Core(_) | ExitKind::Unknown => false,
        }
    }

    /// Whether another run follows `end`, as far as the policy goes; the budget is asked afterwards.
    pub fn restarts_after(&self, end: End) -> bool {
        if let End::Exit(exit) = end {
            if listed(&self.restart.prevent_exit, exit) {
                return false;
            }
            if listed(&self.restart.force_exit, exit) {
                return true;
            }
        }
        match (self.restart.on, self.class(end)) {
            // What to do about it is said where the checks are, not here.
            _ if end == End::Unhealthy => true,
            (_, Class::Hopeless) | (RestartOn::Never, _) => false,
            // systemd.service(5): a oneshot that has done its work is not run again, whatever the policy.
            (_, Class::Success) if self.kind == Kind::Oneshot => false,
            (RestartOn::Always, _) => true,
            (RestartOn::OnSuccess, class) => class == Class::Success,
            (RestartOn::OnFailure, class) => class != Class::Success,
            (RestartOn::OnAbnormal, class) => class == Class::Abnormal,
        }
    }

    /// Where a service comes to rest when no restart follows `end`.
    pub(super) fn rest_after(&self, end: End) -> Then {
        match end {
            End::Exit(exit) if self.is_success(exit) => match self.remain_after_exit {
                true => Then::Done,
                false => Then::Rest(Why::Ended(exit)),
            },
            End::Exit(_)
            | End::Launch(_)
            | End::StartTimeout(_)
            | End::RunTimeout(_)
            | End::NotReady(_)
            | End::Hook
            | End::Watchdog
            | End::Unhealthy => Then::Fail(Failure::Ended(end)),
        }
    }

    fn class(&self, end: End) -> Class {
        match end {
            End::Exit(exit) if self.is_success(exit) => Class::Success,
            End::Exit(ExitKind::Code(_)) => Class::Failure,
            End::Exit(ExitKind::Signal(_) | ExitKind::Core(_) | ExitKind::Unknown) => Class::Abnormal,
            End::StartTimeout(_)
            | End::RunTimeout(_)
            | End::Watchdog
            | End::Unhealthy
            | End::Launch(Retry::Later) => Class::Abnormal,
            End::NotReady(_) | End::Hook => Class::Failure,
            End::Launch(Retry::Never) => Class::Hopeless,
        }
    }
}

/// The classes of ends that `restart.policy` tells apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Success,
    Failure,
    Abnormal,
    /// Would fail again in the same way.
    Hopeless,
}

/// Whether a list of the file names this end; a core dump counts as its signal.
fn listed(list: &[ExitMatch], exit: ExitKind) -> bool {
    match exit {
        ExitKind::Code(code) => list.contains(&ExitMatch::Code(code)),
        ExitKind::Signal(signal) | ExitKind::Core(signal) => list.contains(&ExitMatch::Signal(signal)),
        ExitKind::Unknown => false,
    }
}
