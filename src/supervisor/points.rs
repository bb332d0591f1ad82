//! Where a supervisor can be made to kill itself: how the tests reach every moment of a launch, a stop, a reload and a
//! takeover without guessing at times. Without `--die-at` none of it does anything.

use super::Supervisor;
use crate::{
    machine::Action,
    plan::FailAt,
    spec::{Stage, UnitName},
};

/// The moments that have a name. Those of the machine, `record-STATE` and `recorded-STATE` around the writing of a record
/// and `before-ACTION` and `after-ACTION` around what it asks for, come first. All but those that begin with `adopt` or
/// `reload` are of one service.
pub const POINTS: &[&str] = &[
    "record-starting",
    "recorded-starting",
    "before-launch",
    "launch-prepared",
    "launch-kept",
    "launch-noted",
    "launch-sent",
    "after-launch",
    "heard-hello",
    "heard-started",
    "record-active",
    "recorded-active",
    "record-stopping",
    "recorded-stopping",
    "before-terminate",
    "after-terminate",
    "before-kill-tree",
    "after-kill-tree",
    "init-ended",
    "init-told",
    "before-teardown",
    "torn-down",
    "after-teardown",
    "record-stopped",
    "recorded-stopped",
    "before-release",
    "released-keeper",
    "after-release",
    "reload-read",
    "reload-applied",
    "adopt-records",
    "adopt-run",
    "adopt-net",
    "adopt-runs",
    "adopt-networks",
    "adopt-swept",
    "adopt-read",
    "adopt-reloaded",
    "adopt-dead",
    "adopt-owed",
    "adopt-booted",
    "heard-kept",
    "heard-state",
];

/// Those of the commands around a service: what is to be run was written down, sent, and heard of.
pub const HOOK_POINTS: &[&str] = &[
    "condition-noted",
    "condition-sent",
    "condition-heard",
    "pre-start-noted",
    "pre-start-sent",
    "pre-start-heard",
    "service-noted",
    "service-sent",
    "post-start-noted",
    "post-start-sent",
    "post-start-heard",
    "pre-stop-noted",
    "pre-stop-sent",
    "pre-stop-heard",
    "post-stop-noted",
    "post-stop-sent",
    "post-stop-heard",
];

/// Those of a service's output: it was written to the log, and taken out of the pipe.
pub const OUTPUT_POINTS: &[&str] = &["output-written", "output-taken"];

/// The first half of the names of a stage's points.
pub(super) fn staged(stage: Stage) -> &'static str {
    match stage {
        Stage::Condition => "condition-",
        Stage::PreStart => "pre-start-",
        Stage::PostStart => "post-start-",
        Stage::PreStop => "pre-stop-",
        Stage::PostStop => "post-stop-",
    }
}

/// The moment at which the supervisor kills itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DieAt {
    /// Of which service; any, where the moment is of none.
    pub name: String,
    /// When.
    pub place: Place,
}

/// A moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before this host step of its plan.
    Host(usize),
    /// When its sandbox is at this child step, where it waits for that.
    Child(usize),
    /// One of [`POINTS`], [`HOOK_POINTS`] or [`OUTPUT_POINTS`].
    Point(String),
}

impl Supervisor {
    /// The step that is made to fail in a launch of this service, or before which there is an end of us.
    pub(super) fn fail_at(&self, name: &UnitName) -> Option<FailAt> {
        let die_at = self.options.die_at.as_ref().filter(|at| at.name == name.as_str());
        match (die_at.map(|at| &at.place), &self.options.fail_at) {
            (Some(Place::Host(step)), _) => Some(FailAt::DieAtHost(*step)),
            (Some(Place::Child(step)), _) => Some(FailAt::WaitAtChild(*step)),
            (_, Some((service, step))) if service == name.as_str() => Some(*step),
            _ => None,
        }
    }

    /// The end, if this is the moment: `what` of `name`.
    pub(super) fn point(&self, name: &UnitName, what: &str) {
        self.moment(name, "", what);
    }

    /// As [`Supervisor::point`], where the first half of the moment's name is always the same.
    pub(super) fn moment(&self, name: &UnitName, when: &str, what: &str) {
        let Some(DieAt { name: wanted, place: Place::Point(point) }) = &self.options.die_at else { return };
        if wanted == name.as_str() && point.strip_prefix(when) == Some(what) {
            crate::sys::die();
        }
    }

    /// The end, if this is the moment, which is of no service.
    pub(super) fn point_of_all(&self, what: &str) {
        if let Some(DieAt { place: Place::Point(point), .. }) = &self.options.die_at
            && point == what
        {
            crate::sys::die();
        }
    }

    /// A plan for the sandbox was sent: the sandbox waits in it for our end.
    pub(super) fn point_in_sandbox(&self, name: &UnitName) {
        if let Some(DieAt { name: wanted, place: Place::Child(_) }) = &self.options.die_at
            && wanted == name.as_str()
        {
            crate::sys::die();
        }
    }
}

/// An action as the points are named.
pub(super) fn named(action: &Action) -> &'static str {
    match action {
        Action::Launch(_) => "launch",
        Action::RelaunchInPlace { .. } => "relaunch",
        Action::PostStart(_) => "post-start",
        Action::Terminate(_) => "terminate",
        Action::Abort(_) => "abort",
        Action::KillAll(_) => "kill-all",
        Action::PostStop(_) => "post-stop",
        Action::KillTree(_) => "kill-tree",
        Action::Teardown(_) => "teardown",
        Action::Release => "release",
    }
}
