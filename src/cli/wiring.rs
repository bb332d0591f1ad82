//! The verbs that other modules carry out: one call each.

use super::{CheckOptions, Exit, PlanOptions, RunOptions, SuperviseOptions, output};

pub(super) fn supervise(_options: &SuperviseOptions) -> Exit {
    not_built("supervise")
}

pub(super) fn run(_options: &RunOptions) -> Exit {
    not_built("run")
}

pub(super) fn check(_options: &CheckOptions) -> Exit {
    not_built("check")
}

pub(super) fn plan(_options: &PlanOptions) -> Exit {
    not_built("plan")
}

fn not_built(verb: &str) -> Exit {
    output::error(&format!("{verb}: not built yet"));
    Exit::Broken
}
