//! What the benchmarks share: worlds of their own as the tests have them, and figures with their spread.
//!
//! A benchmark is a function that is handed a world (`tests/support`): namespaces, a control group and a supervisor of its
//! own, of which nothing is left. What it prints is a table for people, and a line of JSON for programs.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::{
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{self, Test, need};

/// Time-outs of the tests, which these take longer than.
const SCALE: &str = "20";

/// Runs the benchmarks that are named on the command line, or all, one after another; or what the program was started as.
pub fn main(all: &[Test]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| ["__probe", "__keep", "__test"].contains(&arg.as_str())) {
        return support::main(all);
    }
    // What cargo adds, and what this program does not know.
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |test: &&Test| wanted.is_empty() || wanted.iter().any(|name| test.name.contains(*name));
    let mut ended = ExitCode::SUCCESS;
    for test in all.iter().filter(is_wanted) {
        let missing: Vec<String> =
            test.needs.iter().filter(|need| !need::Need::is_met(need)).map(ToString::to_string).collect();
        if !missing.is_empty() {
            println!("{}: not run: needs {}", test.name, missing.join(", "));
            ended = ExitCode::FAILURE;
            continue;
        }
        let me = std::env::current_exe().expect("own path");
        let status = Command::new(me)
            .args(["__keep", test.name])
            .env("PALISADE_TEST_SCALE", SCALE)
            .stdin(Stdio::null())
            .status()
            .expect("own path");
        if !status.success() {
            println!("{}: {status}", test.name);
            ended = ExitCode::FAILURE;
        }
    }
    ended
}

/// How often what is compared is measured, one after another, so that what else the machine does hits all alike.
pub fn rounds(default: usize) -> usize {
    std::env::var("BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Figures of one kind.
#[derive(Clone, Debug, Default)]
pub struct Figures(pub Vec<f64>);

impl Figures {
    /// The one of which so great a share is smaller.
    pub fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1) as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of the list")]
        let index = (last * share).round() as usize;
        sorted.get(index).copied().unwrap_or(f64::NAN)
    }

    /// Half of them are smaller.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// Each divided by the one of the same round.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect())
    }

    /// The median, and the quarters below and above.
    pub fn text(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}..{:.digits$})", self.median(), self.at(0.25), self.at(0.75))
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let short = |figure: f64| (figure * 1e3).round() / 1e3;
        let (median, lower, upper) = (short(self.median()), short(self.at(0.25)), short(self.at(0.75)));
        json!({ "median": median, "lower": lower, "upper": upper, "rounds": self.0.len() })
    }
}

/// Seconds.
pub fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Prints rows in columns, the first of them the titles.
pub fn table(rows: &[Vec<String>]) {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<0$}", width(column)),
            _ => format!("{cell:>0$}", width(column)),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  "));
    }
}
