use jiff::tz::TimeZone;

use super::*;
use crate::{
    control::types::{
        EndKind, Event, ExitRecord, Fault, LogEntry, Moment, Port, Process, ServiceState, ServiceStatus,
        Stream, TimerStatus,
    },
    spec::Proto,
};

const NOW: i64 = 1_795_468_370;

fn utc() -> show::Clock {
    show::Clock { now: NOW, zone: TimeZone::UTC }
}

fn moment(unix: i64) -> Moment {
    Moment { unix, mono: 0 }
}

fn service(name: &str, state: ServiceState) -> ServiceStatus {
    ServiceStatus {
        name: name.into(),
        state,
        reason: String::new(),
        description: String::new(),
        enabled: true,
        run: 0,
        restarts: 0,
        failures: 0,
        pid: None,
        kind: None,
        says: None,
        init_pid: None,
        attested: Vec::new(),
        addresses: vec![],
        ports: vec![],
        hosts: Vec::new(),
        sockets: vec![],
        firewall: vec![],
        denials: vec![],
        refusals: vec![],
        restart_needed: vec![],
        health: None,
        since: None,
        until: None,
        timer: None,
        exits: vec![],
        usage: None,
        processes: Vec::new(),
        limits: Vec::new(),
        fault: None,
        cgroup: None,
        log: None,
        config: None,
    }
}

fn web() -> ServiceStatus {
    let port = |host_port, proto| Port { address: [127, 0, 0, 1].into(), host_port, port: 80, proto };
    ServiceStatus {
        run: 7,
        restarts: 6,
        pid: Some(4242),
        kind: Some("notify".into()),
        says: Some("3 of 4 workers\u{1b}[2J".into()),
        init_pid: Some(4240),
        attested: vec!["namespaces mnt pid".into(), "user".into()],
        description: "Front\u{1b}[2Jpage".into(),
        addresses: vec![[10, 99, 0, 2].into()],
        ports: vec![port(8080, Proto::Tcp), port(8081, Proto::Udp)],
        since: Some(moment(NOW - 3 * 3600 - 120)),
        config: Some("/etc/palisade/services.d/web.toml".into()),
        ..service("web", ServiceState::Active)
    }
}

fn crashing() -> ServiceStatus {
    let exit = |run, kind, code, signal, ended| ExitRecord {
        run,
        kind,
        code,
        signal,
        started: None,
        ended: moment(ended),
        cause: None,
        why: None,
        usage: None,
    };
    ServiceStatus {
        run: 12,
        failures: 2,
        reason: "exited with 1".into(),
        since: Some(moment(NOW - 1)),
        until: Some(moment(NOW + 5)),
        exits: vec![
            exit(11, EndKind::Dumped, None, Some(11), NOW - 90),
            exit(12, EndKind::Exited, Some(1), None, NOW - 1),
        ],
        fault: Some(Fault {
            step: "child step 9 pivot_root".into(),
            object: "\".\"".into(),
            error: "EINVAL (invalid argument)".into(),
            hint: Some("the new root must be a mount point".into()),
        }),
        ..service("crash-loop", ServiceState::Backoff)
    }
}

/// Without the colours that this program puts in.
fn plain(text: &str) -> String {
    let text = anstream::adapter::strip_str(text).to_string();
    assert!(!text.contains('\u{1b}'));
    text
}

#[test]
fn processes_stand_below_those_that_they_are_children_of() {
    let process = |pid, parent, inside, name: &str| Process {
        pid,
        parent,
        inside: Some(inside),
        name: name.into(),
        memory: 3 << 20,
    };
    let processes = vec![
        process(40, 7, 1, "palisade-init"),
        process(41, 40, 2, "web"),
        process(42, 41, 3, "worker"),
        process(43, 40, 9, "exec\u{1b}[2J"),
        process(44, 41, 4, "worker"),
    ];
    let shown = plain(&show::status(&ServiceStatus { processes, ..web() }, show::Detail::All, &utc()));
    let lines: Vec<&str> = shown.lines().skip_while(|line| !line.contains("Processes")).take(5).collect();
    assert_eq!(
        lines,
        [
            " Processes: palisade-init 40 (inside 1), 3.0M",
            "              web 41 (inside 2), 3.0M",
            "                worker 42 (inside 3), 3.0M",
            "                worker 44 (inside 4), 3.0M",
            "              exec\\x1b[2J 43 (inside 9), 3.0M",
        ]
    );
}

#[test]
fn the_definition_of_the_command_line_is_sound() {
    help::command().debug_assert();
}

#[test]
fn a_command_after_the_name_is_taken_as_it_is() {
    let cli = Cli::try_parse_from(["palisade", "exec", "-t", "web", "--", "ls", "-t", "--json"]).unwrap();
    assert!(!cli.global.json);
    let Verb::Exec { tty: true, name, command, .. } = cli.verb else { panic!() };
    assert_eq!((name.as_str(), command), ("web", ["ls", "-t", "--json"].map(str::to_owned).to_vec()));
    let cli = Cli::try_parse_from(["palisade", "exec", "web", "ls", "-l"]).unwrap();
    assert!(matches!(cli.verb, Verb::Exec { command, .. } if command == ["ls", "-l"]));
    assert!(Cli::try_parse_from(["palisade", "exec", "web"]).is_err());
}

#[test]
fn what_holds_for_everything_may_stand_anywhere() {
    for arguments in
        [["palisade", "--json", "--run", "/r", "list"], ["palisade", "ps", "--run", "/r", "--json"]]
    {
        let cli = Cli::try_parse_from(arguments).unwrap();
        assert!(cli.global.json);
        assert_eq!(cli.global.run, PathBuf::from("/r"));
        assert!(matches!(cli.verb, Verb::List { quiet: false, restart_needed: false }));
    }
}

#[test]
fn signals_are_named_as_kill_names_them() {
    for text in ["TERM", "term", "SIGTERM", "15"] {
        assert_eq!(verbs::signal(text), Ok(15), "{text}");
    }
    for text in ["0", "65", "-1", "FOO", "", "SIG"] {
        assert!(verbs::signal(text).is_err(), "{text}");
    }
}

#[test]
fn exit_codes_are_those_of_the_manual() {
    let all = [
        (Exit::Done, 0),
        (Exit::Failed, 1),
        (Exit::Usage, 2),
        (Exit::NotRunning, 3),
        (Exit::NoSuchService, 4),
        (Exit::NoSupervisor, 5),
        (Exit::TimedOut, 124),
        (Exit::Broken, 125),
        (Exit::CannotExecute, 126),
        (Exit::NotFound, 127),
        (Exit::Payload(42), 42),
        (Exit::Signal(9), 137),
    ];
    for (exit, code) in all {
        assert_eq!(exit.code(), code);
    }
}

#[test]
fn lengths_of_time_have_two_units() {
    let said = [
        (-5, "0s"),
        (59, "59s"),
        (60, "1min"),
        (61, "1min 1s"),
        (3600, "1h"),
        (3 * 3600 + 120, "3h 2min"),
        (86_399, "23h 59min"),
        (90_000, "1d 1h"),
    ];
    for (seconds, text) in said {
        assert_eq!(show::span(seconds), text);
    }
}

#[test]
fn the_table_is_aligned_and_carries_no_escapes_of_a_service() {
    let services = [crashing(), service("masked", ServiceState::Masked), web()];
    let expected = "\
NAME        STATE    RUN  PID   WHEN       ADDRESS    PORTS
crash-loop  backoff  12   -     in 5s      -          -
masked      masked   0    -     -          -          -
web         active   7    4242  up 3h 2min 10.99.0.2  127.0.0.1:8080->80/tcp,127.0.0.1:8081->80/udp
";
    let table = plain(&show::table(&services, NOW));
    let squeezed = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(squeezed(&table), squeezed(expected));
    let at = |line: &str, word: &str| line.find(word).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(at(lines[0], "WHEN"), at(lines[3], "up 3h"));
    assert_eq!(at(lines[0], "PID"), at(lines[3], "4242"));
}

#[test]
fn the_status_of_a_running_service_fits_on_a_screen() {
    let expected = r"● web - Front\x1b[2Jpage
     State: active since 2026-11-23T18:10:50Z; 3h 2min ago
       Run: 7, 6 restarts, 0 failures in a row; enabled
      Type: notify
      Says: 3 of 4 workers\x1b[2J
       PID: 4242 (init 4240)
   Address: 10.99.0.2
      Port: 127.0.0.1:8080->80/tcp
      Port: 127.0.0.1:8081->80/udp
      File: /etc/palisade/services.d/web.toml
  Attested: namespaces mnt pid; user
";
    assert_eq!(plain(&show::status(&web(), show::Detail::All, &utc())), expected);
}

#[test]
fn why_a_restart_is_needed_is_told_in_yellow_and_safely() {
    let reasons = ["program /usr/sbin/web\u{1b}[2J was replaced", "its sandbox was made by Palisade 0.0.1"];
    let web = ServiceStatus { restart_needed: reasons.map(str::to_owned).to_vec(), ..web() };
    let shown = show::status(&web, show::Detail::Some, &utc());
    assert!(shown.contains("\u{1b}[33mneeded: program"), "{shown:?}");
    let lines = "   Restart: needed: program /usr/sbin/web\\x1b[2J was replaced
   Restart: needed: its sandbox was made by Palisade 0.0.1
";
    assert!(plain(&shown).contains(lines), "{shown:?}");
    assert_eq!(
        show::reasons(&[web]),
        "web: program /usr/sbin/web\\x1b[2J was replaced; its sandbox was made by Palisade 0.0.1\n"
    );
}

#[test]
fn the_status_of_a_failed_launch_says_step_object_error_and_hint() {
    let expected = r#"● crash-loop
     State: backoff (exited with 1) since 2026-11-23T21:12:49Z; 1s ago
     Fault: child step 9 pivot_root ".": EINVAL (invalid argument)
      Hint: the new root must be a mount point
Next start: in 5s, at 2026-11-23T21:12:55Z
       Run: 12, 0 restarts, 2 failures in a row; enabled
     Ended: run 12 exited with 1, 1s ago (2026-11-23T21:12:49Z)
     Ended: run 11 was killed by SIGSEGV and dumped core, 1min 30s ago (2026-11-23T21:11:20Z)
"#;
    assert_eq!(plain(&show::status(&crashing(), show::Detail::All, &utc())), expected);
}

#[test]
fn times_are_local_and_say_how_far_from_utc() {
    let zone = TimeZone::fixed(jiff::tz::offset(1));
    let east = show::Clock { zone, ..utc() };
    for (shown, shown_in_utc) in [
        (
            show::status(&crashing(), show::Detail::All, &east),
            show::status(&crashing(), show::Detail::All, &utc()),
        ),
        (show::why(&crashing(), &east), show::why(&crashing(), &utc())),
    ] {
        let moved = shown_in_utc.replace("T21:", "T22:").replace('Z', "+01:00");
        assert!(plain(&shown) == plain(&moved) && shown != shown_in_utc, "{shown}");
    }
}

#[test]
fn a_timer_says_when_it_is_next() {
    let timer = |next: Option<i64>, late_ms| TimerStatus {
        next: next.map(moment),
        last: Some(moment(NOW - 60)),
        late_ms,
        queued: late_ms > 0,
        in_force: true,
    };
    let with = |timer| ServiceStatus { timer: Some(timer), ..service("job", ServiceState::Stopped) };
    let shown = |timer| {
        let status = plain(&show::status(&with(timer), show::Detail::All, &utc()));
        status.lines().find_map(|line| line.split_once("Timer: ")).unwrap().1.to_owned()
    };
    assert_eq!(shown(timer(Some(NOW + 90), 0)), "in 1min 30s, at 2026-11-23T21:14:20Z; last 1min ago");
    let late = "nothing to come, 2min late by its jitter; last 1min ago; waits for the run to end";
    assert_eq!(shown(timer(None, 120_000)), late);
    let off = TimerStatus { in_force: false, last: None, ..timer(None, 0) };
    assert_eq!(shown(off), "not in force: the service is not enabled");
    assert!(plain(&show::table(&[with(timer(Some(NOW + 90), 0))], NOW)).contains("next in 1min 30s"));
}

#[test]
fn output_and_events_are_one_safe_line_each() {
    let entry = LogEntry {
        name: "web".into(),
        time: "2026-11-23T21:12:50.123456Z".into(),
        stream: Stream::Stdout,
        partial: false,
        text: "\u{1b}[31mred\rover".into(),
    };
    let line = "2026-11-23T21:12:50.123456Z web: \\x1b[31mred\\x0dover\n";
    let shown = |with_name, level| show::log_line(&entry, with_name, level, &TimeZone::UTC);
    assert_eq!(plain(&shown(true, 6)), line);
    assert_eq!(plain(&shown(false, 6)), line.replace("web: ", ""));
    assert_eq!(plain(&shown(true, 3)), line, "a level is a colour");
    assert!(shown(true, 3).contains("\u{1b}[31m\\x1b[31mred") && !shown(true, 6).contains("\u{1b}[31m"));
    let zone = TimeZone::fixed(jiff::tz::offset(1));
    let local = line.replace("21:12:50.123456Z", "22:12:50.123456+01:00");
    assert_eq!(plain(&show::log_line(&entry, true, 6, &zone)), local);
    let event = Event {
        time: moment(NOW),
        name: "web".into(),
        kind: "ended".into(),
        state: ServiceState::Backoff,
        run: 7,
        failures: 1,
        until: None,
        exit: None,
        text: "exited with 1\u{7}".into(),
    };
    let line = "2026-11-23T21:12:50Z web: ended (exited with 1\\x07)\n";
    assert_eq!(plain(&show::event_line(&event, &utc())), line);
    let event = Event { kind: "added".into(), text: String::new(), ..event };
    assert_eq!(plain(&show::event_line(&event, &utc())), "2026-11-23T21:12:50Z web: added\n");
}

#[test]
fn why_points_to_the_log_and_tells_of_packets_only_where_there_can_be_some() {
    let told = plain(&show::why(&crashing(), &utc()));
    assert!(told.contains("\n  run 12 exited with 1, 1s ago (2026-11-23T21:12:49Z)\n"), "{told}");
    assert!(told.contains("\n  what it has written: `palisade logs crash-loop`\n"), "{told}");
    assert!(!told.contains("packet"), "it has not come up: {told}");
    let told = plain(&show::why(&web(), &utc()));
    assert!(told.ends_with(
        "no packet of it, or to it, is known to have been refused since the supervisor came up\n"
    ));
    assert!(!told.contains("palisade logs"), "{told}");
    let reason = "web.toml:2:1: unknown key `comand` in `service` (did you mean `command`?)";
    let broken = ServiceStatus { reason: reason.into(), ..service("web", ServiceState::Broken) };
    assert_eq!(plain(&show::why(&broken, &utc())), format!("web: broken ({reason})\n"));
}
