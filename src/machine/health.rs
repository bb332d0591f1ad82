//! Whether a service is well: what the answers to its checks add up to, and when it is asked next. Pure.
//!
//! A run begins `unknown`. The first success makes it `healthy`; `retries` failures in a row make it `unhealthy`, and the
//! next success healthy again. Until the first success, failures within `start_period` do not count. It is asked at
//! once when it is up, and again `interval` after each answer, or `start_interval` for as long as failures do not count.
//! A check that could not be made for want of something on the supervisor's side is no answer.

use serde::{Deserialize, Serialize};

use super::{Mono, RunId};
use crate::spec::HealthCheck;

/// What is known of a run's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// No check has succeeded, and not enough have failed.
    Unknown,
    /// The last check succeeded, or not enough have failed since one did.
    Healthy,
    /// Too many have failed in a row.
    Unhealthy,
}

impl HealthState {
    /// The word, as in the JSON form.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthState::Unknown => "unknown",
            HealthState::Healthy => "healthy",
            HealthState::Unhealthy => "unhealthy",
        }
    }
}

/// The answer to one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// It is well.
    pub ok: bool,
    /// What the check had to say, in one line; comes from the service.
    pub text: String,
}

/// The checks of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Which.
    pub run: RunId,
    /// What they add up to.
    pub verdict: HealthState,
    /// Since when.
    pub since: Mono,
    /// How many that count have failed in a row.
    pub failures: u32,
    /// The last answer, and when it came.
    pub last: Option<(Mono, Answer)>,
}

impl Health {
    /// Nothing is known yet of a run that has just come up.
    pub fn new(run: RunId, now: Mono) -> Self {
        Self { run, verdict: HealthState::Unknown, since: now, failures: 0, last: None }
    }

    /// Takes an answer in; `began` is when the run was up. Returns what it has become, where that is another verdict.
    pub fn note(
        &mut self,
        check: &HealthCheck,
        began: Mono,
        now: Mono,
        answer: Answer,
    ) -> Option<HealthState> {
        let verdict = match answer.ok {
            true => {
                self.failures = 0;
                HealthState::Healthy
            }
            false if self.is_excused(check, began, now) => self.verdict,
            false => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= check.retries { HealthState::Unhealthy } else { self.verdict }
            }
        };
        self.last = Some((now, answer));
        let changed = verdict != self.verdict;
        if changed {
            (self.verdict, self.since) = (verdict, now);
        }
        changed.then_some(verdict)
    }

    /// Whether a failure at `at` would not count.
    fn is_excused(&self, check: &HealthCheck, began: Mono, at: Mono) -> bool {
        self.verdict == HealthState::Unknown && self.failures == 0 && at < began.after(check.start_period)
    }
}

/// When a run that was up at `began` is asked next.
pub fn due(health: Option<&Health>, check: &HealthCheck, began: Mono) -> Mono {
    match health.and_then(|health| Some((health, health.last.as_ref()?))) {
        None => began,
        Some((health, (at, _))) if health.is_excused(check, began, *at) => {
            // The last one that counts is not later than the others would be.
            at.after(check.start_interval.min(check.interval))
        }
        Some((_, (at, _))) => at.after(check.interval),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spec::{OnFail, Test};

    const RUN: RunId = RunId(7);
    const BEGAN: Mono = Mono(1_000);

    fn check(start_period: u64) -> HealthCheck {
        HealthCheck {
            test: Test::Tcp(([127, 0, 0, 1], 80).into()),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            retries: 3,
            start_period: Duration::from_secs(start_period),
            start_interval: Duration::from_secs(1),
            on_fail: OnFail::Restart,
        }
    }

    fn answer(ok: bool) -> Answer {
        Answer { ok, text: String::new() }
    }

    /// Gives the answers at these seconds after `BEGAN`; what each has changed.
    fn played(health: &mut Health, start_period: u64, answers: &[(u64, bool)]) -> Vec<Option<HealthState>> {
        let note = |(at, ok): &(u64, bool)| {
            health.note(&check(start_period), BEGAN, BEGAN.after(Duration::from_secs(*at)), answer(*ok))
        };
        answers.iter().map(note).collect()
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let mut health = Health::new(RUN, BEGAN);
        let told = played(&mut health, 0, &[(0, false), (30, false), (60, false), (90, false), (120, true)]);
        assert_eq!(told, [None, None, Some(HealthState::Unhealthy), None, Some(HealthState::Healthy)]);
        assert_eq!((health.failures, health.since), (0, Mono(121_000)));
        let told =
            played(&mut health, 0, &[(150, false), (180, false), (210, true), (240, false), (270, false)]);
        assert_eq!(told, [None; 5], "never three in a row");
        assert_eq!((health.verdict, health.failures), (HealthState::Healthy, 2));
    }

    #[test]
    fn in_the_start_period_no_failure_counts_and_the_first_success_ends_it() {
        let mut health = Health::new(RUN, BEGAN);
        let told = played(&mut health, 10, &[(0, false), (1, false), (2, false), (3, false), (9, false)]);
        assert_eq!((told, health.failures, health.verdict), (vec![None; 5], 0, HealthState::Unknown));
        let told = played(&mut health, 10, &[(10, false), (40, false), (70, false)]);
        assert_eq!(told, [None, None, Some(HealthState::Unhealthy)], "it is over");
        let mut health = Health::new(RUN, BEGAN);
        let told = played(&mut health, 100, &[(0, true), (1, false), (2, false), (3, false)]);
        assert_eq!(
            told,
            [Some(HealthState::Healthy), None, None, Some(HealthState::Unhealthy)],
            "ended by a success"
        );
    }

    #[test]
    fn it_is_asked_at_once_then_often_then_seldom() {
        let check = check(10);
        let mut health = Health::new(RUN, BEGAN);
        assert_eq!(due(None, &check, BEGAN), BEGAN);
        assert_eq!(due(Some(&health), &check, BEGAN), BEGAN);
        played(&mut health, 10, &[(2, false)]);
        assert_eq!(due(Some(&health), &check, BEGAN), Mono(4_000), "start_interval after the answer");
        played(&mut health, 10, &[(3, true)]);
        assert_eq!(due(Some(&health), &check, BEGAN), Mono(34_000));
        let hasty = HealthCheck { interval: Duration::from_millis(100), ..check };
        let mut health = Health::new(RUN, BEGAN);
        played(&mut health, 10, &[(2, false)]);
        assert_eq!(due(Some(&health), &hasty, BEGAN), Mono(3_100), "never less often than later on");
    }
}
