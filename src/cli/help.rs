//! What `--help` shows beside what clap makes of the command line: the verbs in groups, in the order in which somebody new
//! needs them, and examples.

use std::fmt::Write;

use clap::{CommandFactory, builder::Styles};

use super::Cli;

/// The verbs by what they are for. One that stands nowhere here is shown behind these.
const GROUPS: [(&str, &[&str]); 6] = [
    ("Write service files", &["new", "edit", "check", "plan", "score", "cat", "show"]),
    (
        "Have them run",
        &[
            "apply",
            "confirm",
            "revert",
            "start",
            "stop",
            "restart",
            "reload",
            "kill",
            "reset-failed",
            "enable",
            "disable",
            "mask",
            "unmask",
        ],
    ),
    ("See what they do", &["list", "status", "top", "logs", "why", "events", "metrics"]),
    ("Go inside", &["exec", "shell"]),
    ("Without files in place, and the supervisor itself", &["run", "supervise", "daemon-reload", "upgrade"]),
    ("For other programs", &["ingress", "schema", "completions", "man", "version"]),
];

/// Below the list of verbs.
const FIRST_STEPS: &str = "  palisade new hello -- /usr/bin/python3 -m http.server 8000
  palisade check hello      what is wrong with its file, by line and column
  palisade apply            starts what is new, restarts what has changed
  palisade status hello     and `logs hello`, `why hello`, `exec hello -- ls -l /`

`palisade help VERB` says more of each, palisade.services(5) has every key of a service file,
palisade(1) the exit codes.
";

/// What is typed, by verb.
const EXAMPLES: [(&str, &str); 9] = [
    (
        "new",
        "  palisade new hello -- /usr/bin/python3 -m http.server 8000
  palisade new --stdout hello           only shows it

Then `palisade edit hello`, `palisade check hello`, `palisade apply`.",
    ),
    (
        "run",
        "  palisade run ./hello.toml             its output comes here; Ctrl-C ends it
  palisade plan ./hello.toml            what that does, step by step

Two lines are a service file: `[service]` and `command = [\"/usr/bin/env\"]`.",
    ),
    (
        "check",
        "  palisade check                        all files of the host
  palisade check ./hello.toml           one, wherever it is
  palisade check --services ./files     those of a directory",
    ),
    (
        "plan",
        "  palisade plan                         what `palisade apply` will change
  palisade plan hello                   how the service hello is launched, step by step",
    ),
    (
        "apply",
        "  palisade plan                         shows it before
  palisade apply --confirm 60s          and back again after a minute, unless
  palisade confirm                      says that all is well",
    ),
    (
        "logs",
        "  palisade logs -f hello
  palisade logs --since -1h -p err 'app@*'",
    ),
    (
        "exec",
        "  palisade exec hello -- ls -l /
  palisade exec -t hello -- sh          as `palisade shell hello`",
    ),
    ("kill", "  palisade kill -s USR1 hello"),
    (
        "supervise",
        "\
palisade.service starts it so on a host with systemd. Several live side by side, each with `--run`, `--state` and `--log`
of its own, and a palisade.toml (`--config`) that has it call its links, ids and control groups otherwise.",
    ),
];

/// The command line with all that is shown of it.
pub(super) fn command() -> clap::Command {
    let mut command = Cli::command();
    for (verb, text) in EXAMPLES {
        let title = if text.starts_with("  ") { "Examples:\n" } else { "" };
        command = command.mut_subcommand(verb, |verb| verb.after_help(format!("{title}{text}")));
    }
    let styles = Styles::styled();
    let (header, end) = (styles.get_header(), styles.get_header().render_reset());
    let template = format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{}\n{header}Options:{end}\n{{options}}\n\n{header}First steps:{end}\n{FIRST_STEPS}",
        list(&command, &styles)
    );
    command.help_template(template)
}

/// The verbs, a line each.
fn list(command: &clap::Command, styles: &Styles) -> String {
    let is_shown = |verb: &&clap::Command| !verb.is_hide_set();
    let width = command.get_subcommands().map(|verb| verb.get_name().len()).max().unwrap_or_default();
    let others = command.get_subcommands().filter(is_shown).map(clap::Command::get_name);
    let others: Vec<&str> =
        others.filter(|name| !GROUPS.iter().any(|(_, names)| names.contains(name))).collect();
    let groups = GROUPS.iter().map(|(title, names)| (*title, *names)).chain([("Others", &others[..])]);
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let mut text = String::new();
    for (title, names) in groups.filter(|(_, names)| !names.is_empty()) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "\n{header}{title}:{}", header.render_reset());
        for name in names {
            let Some(verb) = command.find_subcommand(name) else { continue };
            let pad = width - name.len();
            let _ =
                writeln!(text, "  {literal}{name}{}{:pad$}  {}", literal.render_reset(), "", in_short(verb));
        }
    }
    text
}

/// What stands before the first semicolon or colon; the rest is for the verb's own page.
fn in_short(verb: &clap::Command) -> String {
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let short = about.split([';', ':']).next().unwrap_or_default();
    let aliases: Vec<&str> = verb.get_visible_aliases().collect();
    if aliases.is_empty() { short.to_owned() } else { format!("{short} (also {})", aliases.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_verb_once_and_fits_a_terminal() {
        let mut command = command();
        let help = command.render_help().to_string();
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let is_line = |line: &&str| line.split_whitespace().next() == Some(verb.get_name());
            let lines = help.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
            assert_eq!(lines.filter(is_line).count(), 1, "{}: {help}", verb.get_name());
        }
        // Options are clap's to wrap.
        for line in help.lines().filter(|line| !line.contains("  -")) {
            assert!(line.len() <= 100, "{line}");
        }
        for name in GROUPS.iter().flat_map(|(_, names)| *names) {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }

    #[test]
    fn options_of_a_verb_come_before_those_of_all() {
        let mut command = command();
        command.build();
        for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
            let help = verb.render_help().to_string();
            let (own, every) = help.split_once("Options of every verb:\n").expect("the heading");
            assert!(every.contains("--config") && every.contains("--json"), "{help}");
            assert!(own.contains("--help") && !own.contains("--config <FILE>  "), "{help}");
        }
    }
}
