//! The command line: what can be asked, and what each exit code means.
//!
//! Parsing is clap's; everything that prints is in `output`. A verb is one call to the supervisor of `--run DIR`, or
//! one function of another module.

mod absent;
mod apply;
mod files;
mod help;
mod ingress;
mod libraries;
mod logs;
mod man;
mod output;
mod progress;
mod put;
mod schema;
mod score;
mod session;
mod show;
#[cfg(feature = "top")]
mod top;
mod trace;
mod verbs;
mod wiring;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{FromArgMatches, Parser, Subcommand};

use crate::{
    plan::FailAt,
    spec::{Format, Tls},
    supervisor::{DieAt, Inherit, Place, points},
};

/// What the exit code of `palisade` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: it was tried and failed, or it was refused.
    Failed,
    /// 2: the command line or a service file is wrong.
    Usage,
    /// 3: `status` of a service that is not running.
    NotRunning,
    /// 4: no service has that name.
    NoSuchService,
    /// 5: no supervisor answers.
    NoSupervisor,
    /// 124: `run`: the service was ended because its time was up.
    TimedOut,
    /// 125: `run`, `exec`, `shell`: Palisade failed, not the program.
    Broken,
    /// 126: `run`, `exec`, `shell`: the program cannot be executed.
    CannotExecute,
    /// 127: `run`, `exec`, `shell`: there is no such program.
    NotFound,
    /// The program's own exit status.
    Payload(u8),
    /// 128 + N: the program was ended by signal N.
    Signal(i32),
}

impl Exit {
    /// The number that wait(2) will give.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotRunning => 3,
            Exit::NoSuchService => 4,
            Exit::NoSupervisor => 5,
            Exit::TimedOut => 124,
            Exit::Broken => 125,
            Exit::CannotExecute => 126,
            Exit::NotFound => 127,
            Exit::Payload(code) => code,
            // Signals end at 64.
            Exit::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Runs services behind walls of their own, one TOML file each.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, max_term_width = 110)]
pub struct Cli {
    /// What holds for everything.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The run-time directory of root's Palisade.
const RUN_DIR: &str = "/run/palisade";
/// Its persistent state.
const STATE_DIR: &str = "/var/lib/palisade";

/// The heading of [`Global`] in the help of a verb, below its own options.
const EVERYWHERE: &str = "Options of every verb";

/// Options of every verb.
#[derive(Clone, Debug, clap::Args)]
pub struct Global {
    /// Palisade's own configuration
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE", default_value = "/etc/palisade/palisade.toml")]
    pub config: PathBuf,
    /// Run-time directory: which supervisor is meant
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "DIR", default_value = RUN_DIR)]
    pub run: PathBuf,
    /// Answer in JSON
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
}

/// Where things are that outlive a supervisor.
#[derive(Clone, Debug, clap::Args)]
pub struct Places {
    /// Persistent state
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state: PathBuf,
    /// Output of the services
    #[arg(long, value_name = "DIR", default_value = "/var/log/palisade")]
    pub log: PathBuf,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Keep the services running, in the foreground
    Supervise {
        /// Read the service files of this directory alone
        #[arg(long, value_name = "DIR")]
        services: Option<PathBuf>,
        /// See there.
        #[command(flatten)]
        places: Places,
        /// Have a step of a service's launch fail, to see what becomes of it (for tests)
        #[arg(long, value_name = "NAME:SIDE:STEP", hide = true, value_parser = fail_at)]
        fail_at: Option<(String, FailAt)>,
        /// Kill this supervisor at a moment of a service's life, to see what becomes of it (for tests)
        #[arg(long, value_name = "NAME:SIDE:STEP|NAME:at:POINT", hide = true, value_parser = die_at)]
        die_at: Option<DieAt>,
        /// What a predecessor in this very process has left open (for `upgrade`)
        #[arg(long, value_name = "LISTENER,LOCK,CLIENT", hide = true, value_parser = Inherit::parse)]
        inherit: Option<Inherit>,
    },
    /// Run one service in the foreground; the exit code is its own
    Run {
        /// A service file
        file: PathBuf,
        /// See there.
        #[command(flatten)]
        places: Places,
    },
    /// Check service files; all, if none is named
    Check {
        /// Files, or names of services
        #[arg(value_name = "FILE|NAME")]
        targets: Vec<String>,
        /// Read the service files of this directory alone
        #[arg(long, value_name = "DIR")]
        services: Option<PathBuf>,
    },
    /// Show what the files will change, or how one service is launched; exit code 2 if they change anything
    Plan {
        /// A file, or the name of a service; none: what the files as they are now will change
        #[arg(value_name = "FILE|NAME")]
        target: Option<String>,
        /// Read the service files of this directory alone
        #[arg(long, value_name = "DIR", requires = "target")]
        services: Option<PathBuf>,
    },
    /// Show what services open, and how far; all, if none is named
    Score {
        /// Files, or names of services
        #[arg(value_name = "FILE|NAME")]
        targets: Vec<String>,
        /// Exit code 1 if one scores more than this, 0 to 10
        #[arg(long, value_name = "N", default_value = "10", value_parser = score::threshold)]
        threshold: u32,
        /// Answer in SARIF 2.1.0
        #[arg(long, conflicts_with = "json")]
        sarif: bool,
        /// Read the service files of this directory alone
        #[arg(long, value_name = "DIR")]
        services: Option<PathBuf>,
    },
    /// Print what a proxy of HTTP has to be told: which host is whose; with `--json` for any program
    Ingress {
        /// Whose configuration
        #[arg(long, value_name = "nginx|caddy", required_unless_present = "json", value_parser = ingress::format)]
        format: Option<Format>,
        /// `off`, `auto` (caddy alone), or the directory of the certificates, as `ingress.tls` of a service file
        #[arg(long, value_name = "off|auto|DIR", default_value = "off", value_parser = ingress::tls)]
        tls: Tls,
        /// Write it to this file, in one piece, where it has changed
        #[arg(long, value_name = "FILE", conflicts_with = "json")]
        out: Option<PathBuf>,
    },
    /// What reads and writes service files.
    #[command(flatten)]
    Files(files::FileVerb),
    /// Print measurements of the services and the supervisor: in Prometheus' text format
    Metrics,
    /// Show the version
    Version,
    /// Watch what services take; keys restart, stop and start them, and show their logs
    #[cfg(feature = "top")]
    Top {
        /// How often it is measured
        #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = verbs::span)]
        delay: u64,
        /// See there.
        #[command(flatten)]
        times: Times,
        /// Names or patterns; none: all
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// List the services
    #[command(visible_alias = "ps")]
    List {
        /// Names alone, one on a line
        #[arg(short, long, conflicts_with = "json")]
        quiet: bool,
        /// Those alone that run something else than would be started now, and why: a program or, as far as the caller may
        /// look (root), a library was replaced on the disk, or another version of Palisade made the sandbox
        #[arg(long)]
        restart_needed: bool,
    },
    /// Show what services are doing; exit code 3 if one is not running
    Status {
        /// Names or patterns; none: all
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// See there.
        #[command(flatten)]
        times: Times,
    },
    /// Show what has gone wrong with services: failed launches and runs, chains of the host's other firewalls in their way,
    /// and what was refused (packets, system calls, limits, missing files), with the key and the line that decide it
    Why {
        /// See there.
        #[command(flatten)]
        names: Names,
        /// See there.
        #[command(flatten)]
        times: Times,
    },
    /// Start services
    Start(Names),
    /// Stop services
    Stop(Names),
    /// Stop and start services
    Restart(Names),
    /// Have services read their configuration again
    Reload(Names),
    /// Send a signal to the main process of services
    Kill {
        /// A name such as TERM, or a number
        #[arg(short, long, value_name = "SIG", default_value = "TERM", value_parser = verbs::signal)]
        signal: i32,
        /// See there.
        #[command(flatten)]
        names: Names,
    },
    /// Have services that have failed count as stopped; how often services were restarted is forgotten
    ResetFailed {
        /// Names or patterns; none: all
        #[arg(value_name = "NAME", default_value = "*", hide_default_value = true)]
        names: Vec<String>,
    },
    /// Show the output of services; that of several in the order of time
    Logs(LogOptions),
    /// Show what has happened to services: starts, ends and why, health, reloads, refused packets
    Events {
        /// Go on with what happens
        #[arg(short, long)]
        follow: bool,
        /// How many of the past, or `all`
        #[arg(short = 'n', long, value_name = "N", default_value = "100", value_parser = logs::lines)]
        lines: logs::Lines,
        /// Names or patterns, also of services that are gone; none: all
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// See there.
        #[command(flatten)]
        times: Times,
    },
    /// Run a command inside the sandbox of a running service; the exit code is its own
    Exec {
        /// With a terminal of its own
        #[arg(short, long)]
        tty: bool,
        /// As this user of the sandbox
        #[arg(short, long)]
        user: Option<String>,
        /// Another variable in its environment
        #[arg(short, long, value_name = "NAME=VALUE")]
        env: Vec<String>,
        /// The service
        name: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Run a shell inside the sandbox of a running service
    Shell {
        /// As this user of the sandbox
        #[arg(short, long)]
        user: Option<String>,
        /// The service
        name: String,
    },
    /// Have the supervisor read the service files again; it applies the difference
    DaemonReload,
    /// Read the service files again and apply the difference
    Apply {
        /// Go back by itself unless `palisade confirm` is called within this time, and at once when a service that was
        /// changed fails
        #[arg(long, value_name = "TIME", value_parser = verbs::span)]
        confirm: Option<u64>,
        /// Wait until all that starts, restarts or stops because of it has done so, for so long at most; exit code 1 if one
        /// fails, is to be started again, or is not that far by then
        #[arg(long, value_name = "TIME", num_args = 0..=1, value_parser = verbs::span)]
        wait: Option<Option<u64>>,
    },
    /// Say that what was applied is right
    Confirm,
    /// Go back from what was applied
    Revert,
    /// Have the supervisor go on as another program: services and the control socket stay
    Upgrade {
        /// The program; default: this one
        #[arg(value_name = "BINARY")]
        binary: Option<PathBuf>,
    },
    /// Print completions for a shell
    Completions {
        /// Which
        shell: clap_complete::Shell,
    },
    /// Print a JSON Schema of files, for editors
    Schema {
        /// Of services, of drop-ins and profiles, which need not be whole, or of palisade.toml
        #[arg(
            value_name = "service|drop-in|settings",
            hide_possible_values = true,
            default_value = "service"
        )]
        files: schema::Kind,
    },
    /// Write the manual pages, for packages
    Man {
        /// Below this directory, as /usr/share/man has them
        dir: PathBuf,
    },
}

/// What `logs` shows, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct LogOptions {
    /// Go on with what they are writing
    #[arg(short, long, conflicts_with = "until")]
    pub follow: bool,
    /// How many lines of the past, of each service, or `all`; default: 100, and all with --since, --until or --grep
    #[arg(short = 'n', long, value_name = "N", value_parser = logs::lines)]
    pub lines: Option<logs::Lines>,
    /// From this time on: "2026-11-29 07:00", "07:00", "-1h", "2h ago", "today", "yesterday", RFC 3339 or @SECONDS; local
    /// time, if it names no zone
    #[arg(short = 'S', long, value_name = "TIME", value_parser = logs::time, allow_hyphen_values = true)]
    pub since: Option<i64>,
    /// Before this time
    #[arg(short = 'U', long, value_name = "TIME", value_parser = logs::time, allow_hyphen_values = true)]
    pub until: Option<i64>,
    /// Lines in which this regular expression is found; in any case, if it has no capital letter
    #[arg(short, long, value_name = "REGEX", value_parser = logs::pattern)]
    pub grep: Option<regex_lite::Regex>,
    /// Lines of this level (emerg, alert, crit, err, warning, notice, info, debug or 0 to 7) and more urgent ones, or of
    /// FROM..TO; a line says its own as "<3>" at its beginning, others are of level info
    #[arg(short, long, value_name = "LEVEL", value_parser = logs::levels)]
    pub priority: Option<std::ops::RangeInclusive<u8>>,
    /// How: with the time and in the colour of its level, the text alone, or JSON as with --json
    #[arg(short, long, value_name = "short|cat|json", hide_possible_values = true, default_value = "short")]
    pub output: Output,
    /// See there.
    #[command(flatten)]
    pub times: Times,
    /// As it was written: without the time, with its "<3>", and with everything that a terminal would obey
    #[arg(long, conflicts_with_all = ["json", "output"])]
    pub raw: bool,
    /// See there.
    #[command(flatten)]
    pub names: Names,
}

/// How the verbs tell times that show any; to programs, with `--json`, it is all the same.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Times {
    /// Show times in UTC instead of local ones
    #[arg(long)]
    pub utc: bool,
}

impl Times {
    /// The zone that they are told in.
    fn zone(self) -> jiff::tz::TimeZone {
        if self.utc { jiff::tz::TimeZone::UTC } else { jiff::tz::TimeZone::system() }
    }
}

/// How `logs` shows a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Time, name where there are several, text.
    Short,
    /// Text alone.
    Cat,
    /// An object each, on a line of its own.
    Json,
}

/// Some services.
#[derive(Clone, Debug, clap::Args)]
pub struct Names {
    /// Names, or patterns of `*`, `?` and `[..]`
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    run(std::env::args_os()).into()
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let parsed = help::command().try_get_matches_from(arguments);
    let Cli { global, verb } = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no mistakes, but come this way as well.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // Nobody may be reading.
            let _ = error.print();
            return exit;
        }
    };
    match verb {
        Verb::Supervise { services, places, fail_at, die_at, inherit } => {
            wiring::supervise(&SuperviseOptions { global, services, places, fail_at, die_at, inherit })
        }
        Verb::Run { file, places } => wiring::run(&RunOptions { global, file, places }),
        Verb::Check { targets, services } => wiring::check(&CheckOptions { global, targets, services }),
        Verb::Plan { target: Some(target), services } => {
            wiring::plan(&PlanOptions { global, target, services })
        }
        Verb::Score { targets, threshold, sarif, services } => {
            wiring::score(&ScoreOptions { global, targets, threshold, sarif, services })
        }
        Verb::Version => verbs::version(global.json),
        Verb::Completions { shell } => {
            output::completions(shell, &mut help::command().disable_help_subcommand(true))
        }
        Verb::Schema { files } => schema::print(files),
        Verb::Man { dir } => man::write(&dir, help::command().disable_help_subcommand(true)),
        Verb::Files(verb) => files::files(&global, verb),
        verb => verbs::ask(&global, verb),
    }
}

/// `web:host:3`: the third host step of web. `web:child:9.2`: the second thing that the ninth child step reads back.
fn fail_at(text: &str) -> Result<(String, FailAt), String> {
    let mut parts = text.rsplitn(3, ':');
    let number = parts.next().unwrap_or_default();
    let (number, item) = number.split_once('.').map_or((number, None), |(number, item)| (number, Some(item)));
    let (number, item) = (number.parse().ok(), item.map(str::parse));
    match (number, parts.next(), parts.next()) {
        (Some(number), Some("child"), Some(name)) if item.is_some() => match item {
            Some(Ok(item)) => Ok((name.to_owned(), FailAt::Attested(number, item))),
            _ => Err("NAME:child:STEP.ITEM is wanted".to_owned()),
        },
        (Some(number), Some("host"), Some(name)) => Ok((name.to_owned(), FailAt::Host(number))),
        (Some(number), Some("child"), Some(name)) => Ok((name.to_owned(), FailAt::Child(number))),
        _ => Err("NAME:host:STEP or NAME:child:STEP is wanted".to_owned()),
    }
}

/// `web:host:3`: before the third host step of web. `web:at:after-launch`: a moment of `supervisor::points`.
fn die_at(text: &str) -> Result<DieAt, String> {
    let parts: Vec<&str> = text.rsplitn(3, ':').collect();
    let place = match parts[..] {
        [point, "at", _] if points().any(|known| known.name == point) => Some(Place::Point(point.to_owned())),
        [number, "host", _] => number.parse().ok().map(Place::Host),
        [number, "child", _] => number.parse().ok().map(Place::Child),
        _ => None,
    };
    let die_at = place.map(|place| DieAt { name: parts[2].to_owned(), place });
    die_at.ok_or_else(|| {
        let names: Vec<&str> = points().map(|point| point.name).collect();
        format!("NAME:host:STEP, NAME:child:STEP or NAME:at:POINT is wanted, a point of {names:?}")
    })
}

/// What `palisade supervise` was told.
#[derive(Clone, Debug)]
pub struct SuperviseOptions {
    /// `--config`, `--run`, `--json`.
    pub global: Global,
    /// The only directory of service files; none: the three of the system.
    pub services: Option<PathBuf>,
    /// `--state`, `--log`.
    pub places: Places,
    /// `--fail-at`.
    pub fail_at: Option<(String, FailAt)>,
    /// `--die-at`.
    pub die_at: Option<DieAt>,
    /// `--inherit`.
    pub inherit: Option<Inherit>,
}

/// What `palisade run` was told.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// `--config`, `--run`, `--json`.
    pub global: Global,
    /// The service file.
    pub file: PathBuf,
    /// `--state`, `--log`.
    pub places: Places,
}

/// What `palisade check` was told.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// `--config`, `--run`, `--json`.
    pub global: Global,
    /// Paths of files, or names of services; none: all services.
    pub targets: Vec<String>,
    /// The only directory of service files; none: the three of the system.
    pub services: Option<PathBuf>,
}

/// What `palisade score` was told.
#[derive(Clone, Debug)]
pub struct ScoreOptions {
    /// `--config`, `--run`, `--json`.
    pub global: Global,
    /// Paths of files, or names of services; none: all services.
    pub targets: Vec<String>,
    /// In tenths of a point.
    pub threshold: u32,
    /// `--sarif`.
    pub sarif: bool,
    /// The only directory of service files; none: the three of the system.
    pub services: Option<PathBuf>,
}

/// What `palisade plan` was told.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// `--config`, `--run`, `--json`.
    pub global: Global,
    /// Path of a file, or name of a service.
    pub target: String,
    /// The only directory of service files; none: the three of the system.
    pub services: Option<PathBuf>,
}

#[cfg(test)]
mod tests;
