//! Where a supervisor can be made to kill itself: how the tests reach every moment of a launch, a stop, a reload and a
//! takeover without guessing at times. Without `--die-at` none of it does anything.

use super::Supervisor;
use crate::{
    machine::Action,
    plan::FailAt,
    spec::{Stage, UnitName},
};

/// What brings a supervisor to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A service is started.
    Start,
    /// A service is stopped.
    Stop,
    /// The files are read again.
    Files,
    /// There are services of a predecessor. Of a service: of one that runs.
    Takeover,
    /// As `Takeover`, and one has ended while nobody supervised.
    TakeoverOfDead,
    /// A service with commands around it is started and stopped.
    Hooks,
    /// The main process of a service that is restarted in place is killed.
    Crash,
    /// A service fails for good.
    Failure,
    /// A oneshot that counts as active afterwards ends with success.
    Success,
    /// A service with a rollout is restarted.
    Rollout,
    /// A service says that it is ready: on the notify socket.
    Notice,
    /// On a descriptor.
    Line,
    /// It is asked over the network, which it is for its health as well.
    Probe,
    /// A service that says when it has reloaded is told to.
    ReloadSignal,
    /// A service whose reload is a command is told to.
    ReloadCommand,
    /// A service hands over a descriptor to be kept.
    Store,
    /// Somebody connects to a service on demand, which ends after each connection.
    Demand,
    /// A persistent timer elapses.
    Timer,
    /// A service writes: it is put into the log, and then taken out of the pipe.
    Output,
    /// A service writes more lines than it may.
    Rate,
    /// Files are applied for a trial.
    Apply,
    /// They are confirmed.
    Confirm,
    /// They are taken back.
    Revert,
    /// Another program takes our place.
    Upgrade,
}

/// A moment with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// What it is called.
    pub name: &'static str,
    /// What leads to it.
    pub way: Way,
}

/// The moments on these ways.
const ON_WAYS: [(Way, &[&str]); 24] = [
    (
        Way::Start,
        &[
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
        ],
    ),
    (
        Way::Stop,
        &[
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
        ],
    ),
    (Way::Files, &["reload-read", "reload-applied"]),
    (
        Way::Takeover,
        &[
            "adopt-records",
            "adopt-run",
            "adopt-net",
            "adopt-runs",
            "adopt-networks",
            "adopt-swept",
            "adopt-read",
            "adopt-reloaded",
            "adopt-owed",
            "adopt-booted",
            "heard-kept",
            "heard-state",
        ],
    ),
    (Way::TakeoverOfDead, &["adopt-dead"]),
    (
        Way::Hooks,
        &[
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
        ],
    ),
    (
        Way::Crash,
        &["record-backoff", "recorded-backoff", "before-relaunch", "relaunch-sent", "after-relaunch"],
    ),
    (Way::Failure, &["record-failed", "recorded-failed"]),
    (Way::Success, &["record-done", "recorded-done"]),
    (Way::Rollout, &["places-changed", "twin-forgotten"]),
    (Way::Notice, &["notice-heard", "notice-noted"]),
    (Way::Line, &["line-heard", "line-noted"]),
    (Way::Probe, &["probe-asked", "probe-answered"]),
    (Way::ReloadSignal, &["reload-asked", "reload-signalled", "reload-begun", "reload-done"]),
    (Way::ReloadCommand, &["reload-command-sent", "reload-command-ended"]),
    (Way::Store, &["descriptor-kept", "descriptor-noted"]),
    (Way::Demand, &["socket-opened", "socket-noted", "demand-heard"]),
    (Way::Timer, &["timer-elapsed", "stamp-written"]),
    (Way::Output, &["output-written", "output-taken"]),
    (Way::Rate, &["dropped-noted", "dropped-told"]),
    (Way::Apply, &["trial-noted"]),
    (Way::Confirm, &["trial-confirmed"]),
    (Way::Revert, &["trial-reverted"]),
    (Way::Upgrade, &["upgrade-asked", "upgrade-adopted"]),
];

/// All moments that have a name, those of the machine, `record-STATE` and `recorded-STATE` around the writing of a record and
/// `before-ACTION` and `after-ACTION` around what it asks for, among them. All but those of [`Point::is_of_all`] are of one
/// service. Whoever makes a supervisor die at all of them needs no list of his own.
pub fn points() -> impl Iterator<Item = Point> {
    ON_WAYS.iter().flat_map(|(way, names)| names.iter().map(|name| Point { name, way: *way }))
}

impl Point {
    /// Whether it is of no service.
    pub fn is_of_all(&self) -> bool {
        let is_of_one = ["adopt-run", "adopt-net", "heard-kept", "heard-state"].contains(&self.name);
        match self.way {
            Way::Files | Way::Apply | Way::Confirm | Way::Revert | Way::Upgrade | Way::TakeoverOfDead => true,
            Way::Takeover => !is_of_one,
            Way::Start
            | Way::Stop
            | Way::Hooks
            | Way::Crash
            | Way::Failure
            | Way::Success
            | Way::Rollout
            | Way::Notice
            | Way::Line
            | Way::Probe
            | Way::ReloadSignal
            | Way::ReloadCommand
            | Way::Store
            | Way::Demand
            | Way::Timer
            | Way::Output
            | Way::Rate => false,
        }
    }
}

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
    /// One of [`points`].
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;
    use crate::machine::RunId;

    /// Every moment of the code has a way that leads to it, and every way leads somewhere.
    #[test]
    fn the_moments_of_the_code_are_those_of_the_list() {
        let mut found: BTreeSet<String> = BTreeSet::new();
        let sources = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/supervisor")).unwrap();
        for path in sources.map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("points.rs")) {
            let text = fs::read_to_string(&path).unwrap();
            let calls = [".point(", ".point_of_all("].into_iter().flat_map(|call| text.split(call).skip(1));
            let names = calls.map(|rest| rest.split('"').nth(1).expect("a literal").to_owned());
            found.extend(names);
        }
        let known: BTreeSet<String> = points().map(|point| point.name.to_owned()).collect();
        let stray: Vec<&String> = found.difference(&known).collect();
        assert_eq!(stray, Vec::<&String>::new(), "no way leads there");
        let states = ["starting", "active", "stopping", "stopped", "backoff", "failed", "done"];
        let around =
            ["record-", "recorded-"].iter().flat_map(|when| states.map(|state| format!("{when}{state}")));
        let run = RunId(1);
        let actions = [
            Action::Launch(run),
            Action::RelaunchInPlace { run, sandbox: run },
            Action::Terminate(run),
            Action::KillTree(run),
            Action::Teardown(run),
            Action::Release,
        ];
        let actions = actions.iter().map(named);
        let actions = actions.flat_map(|action| [format!("before-{action}"), format!("after-{action}")]);
        let stages = [Stage::Condition, Stage::PreStart, Stage::PostStart, Stage::PreStop, Stage::PostStop];
        let staged = stages.map(staged).into_iter();
        let staged = staged.flat_map(|stage| ["noted", "sent", "heard"].map(|what| format!("{stage}{what}")));
        found.extend(around.chain(actions).chain(staged));
        let lost: Vec<&String> = known.difference(&found).collect();
        assert_eq!(lost, Vec::<&String>::new(), "nothing comes by there");
        assert_eq!(points().count(), known.len(), "a name is of one moment");
    }
}
