use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    control::types::*,
    machine::{Cause, Usage, health::HealthState},
};

fn parse(text: &str) -> Parsed {
    parse_call(text.as_bytes()).unwrap()
}

fn all_methods() -> Vec<Method> {
    let names = || Names { names: vec!["web*".into()] };
    let exec = Exec {
        name: "web".into(),
        command: vec!["ls".into()],
        tty: true,
        cols: Some(80),
        rows: Some(25),
        env: vec!["A=b=c".into()],
        user: Some("www".into()),
    };
    vec![
        Method::Ping,
        Method::List,
        Method::Status(names()),
        Method::Start(names()),
        Method::Stop(names()),
        Method::Restart(names()),
        Method::Reload(names()),
        Method::ResetFailed(names()),
        Method::Kill(Kill { names: vec!["web".into()], signal: 15 }),
        Method::Logs(Logs {
            names: vec!["web".into()],
            lines: Some(10),
            follow: true,
            since: Some(1),
            until: Some(2),
        }),
        Method::Events(super::Events { names: vec!["web".into()], past: Some(9), follow: Some(false) }),
        Method::Exec(exec),
        Method::DaemonReload,
        Method::Plan,
        Method::Sites,
        Method::Metrics,
        Method::Samples(names()),
        Method::Apply(Apply { confirm: Some(60_000) }),
        Method::Settle(names()),
        Method::Confirm,
        Method::Revert,
        Method::Upgrade(Upgrade { binary: "/usr/bin/palisade".into(), state: 1 }),
    ]
}

/// The words of the interface between `type NAME (` and its closing parenthesis that stand before a colon.
fn fields_of(opening: &str) -> BTreeSet<String> {
    let text: String = INTERFACE.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let body = text.split_once(opening).unwrap_or_else(|| panic!("{opening} is not in the interface")).1;
    let mut depth = 1;
    let end = body.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    let words = body[..end.unwrap()].split([',', '(', '\n']);
    words.filter_map(|word| Some(word.split_once(':')?.0.trim().to_owned())).collect()
}

fn keys(value: impl serde::Serialize) -> BTreeSet<String> {
    match serde_json::to_value(value).unwrap() {
        Value::Object(map) => map.keys().cloned().collect(),
        other => panic!("{other} is no object"),
    }
}

#[test]
fn every_method_survives_the_wire() {
    for method in all_methods() {
        let message = method.to_message();
        let (nul, text) = message.split_last().unwrap();
        assert_eq!(*nul, 0);
        let parsed = parse_call(text).unwrap();
        assert_eq!(parsed.call, Ok(Call::Palisade(method.clone())));
        assert_eq!(parsed.more, method.needs_more());
    }
}

#[test]
fn the_interface_has_exactly_the_methods_that_are_built() {
    let built: BTreeSet<&str> = all_methods().iter().map(Method::name).collect();
    let said: BTreeSet<&str> = INTERFACE
        .lines()
        .filter_map(|line| line.strip_prefix("method ")?.split_once('('))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(built, said);
    for method in all_methods() {
        let message = method.to_message();
        let request: Value = serde_json::from_slice(message.strip_suffix(b"\0").unwrap()).unwrap();
        assert_eq!(
            keys(&request["parameters"]),
            fields_of(&format!("method {}(", method.name())),
            "{}",
            method.name()
        );
    }
}

#[test]
fn the_interface_has_exactly_the_fields_that_are_sent() {
    let moment = Moment { unix: 1, mono: 2 };
    let usage =
        Usage { memory_peak: Some(1), io_read_bytes: Some(1), io_written_bytes: Some(1), ..Usage::default() };
    let limit = Limit {
        key: "pids.max".into(),
        asked: "512".into(),
        enforced: Some("512".into()),
        used: Some("3".into()),
        why: Some("w".into()),
    };
    let process = Process { pid: 7, parent: 6, inside: Some(2), name: "web".into(), memory: 1 };
    let exit = ExitRecord {
        run: 1,
        kind: EndKind::Exited,
        code: Some(0),
        signal: Some(9),
        started: Some(moment),
        ended: moment,
        cause: Some(Cause::MemoryMax),
        why: Some(crate::machine::Reason::Stop),
        usage: Some(usage),
    };
    let port =
        Port { address: [127, 0, 0, 1].into(), host_port: 8080, port: 80, proto: crate::spec::Proto::Tcp };
    let health = Health {
        state: HealthState::Unhealthy,
        since: Some(moment),
        failures: 3,
        checked: Some(moment),
        ok: Some(false),
        output: "no".into(),
    };
    let fault = Fault { step: "s".into(), object: "o".into(), error: "e".into(), hint: Some("h".into()) };
    let timer =
        TimerStatus { next: Some(moment), last: Some(moment), late_ms: 0, queued: false, in_force: true };
    let denial = Denial {
        reason: "no_egress".into(),
        proto: "tcp".into(),
        from: Some([10, 83, 0, 2].into()),
        to: Some([192, 0, 2, 7].into()),
        port: Some(443),
        count: 1,
        last: moment,
        verdict: Verdict {
            why: "w".into(),
            key: Some("network.egress".into()),
            at: Some("f:1".into()),
            add: Some("192.0.2.7:443".into()),
        },
    };
    let refusal = Refusal {
        layer: Layer::Seccomp,
        what: "swapoff by /bin/sh".into(),
        count: 2,
        last: Some(moment),
        verdict: Verdict {
            why: "w".into(),
            key: Some("security.seccomp".into()),
            at: Some("f:1".into()),
            add: Some("swapoff".into()),
        },
    };
    let obstacle = Obstacle {
        table: "ip filter".into(),
        chain: "FORWARD".into(),
        why: "policy drop".into(),
        allow: vec!["nft".into()],
    };
    let status = ServiceStatus {
        name: "web".into(),
        state: ServiceState::Active,
        reason: String::new(),
        description: String::new(),
        enabled: true,
        run: 1,
        restarts: 0,
        failures: 0,
        pid: Some(7),
        kind: Some("notify".into()),
        says: Some("half way".into()),
        init_pid: Some(6),
        attested: vec!["root".to_owned()],
        addresses: vec![],
        ports: vec![port.clone()],
        hosts: Vec::new(),
        sockets: vec!["127.0.0.1:80/tcp".to_owned()],
        firewall: vec![obstacle.clone()],
        denials: vec![denial.clone()],
        refusals: vec![refusal],
        restart_needed: vec!["r".to_owned()],
        health: Some(health.clone()),
        since: Some(moment),
        until: Some(moment),
        timer: Some(timer),
        exits: vec![exit],
        usage: Some(usage),
        processes: vec![process.clone()],
        limits: vec![limit.clone()],
        fault: Some(fault.clone()),
        cgroup: Some("c".into()),
        log: Some("l".into()),
        config: Some("f".into()),
    };
    let event = Event {
        time: moment,
        name: "web".into(),
        kind: "backoff".into(),
        state: ServiceState::Backoff,
        run: 1,
        failures: 1,
        until: Some(moment),
        exit: Some(exit),
        text: String::new(),
    };
    let entry = LogEntry {
        name: "web".into(),
        time: String::new(),
        stream: Stream::Stderr,
        partial: false,
        text: String::new(),
    };
    let change = Change { name: "web".into(), what: "started".into(), ok: true };
    let session = Session { pid: Some(1), code: Some(0), signal: Some(1) };
    assert_eq!(keys(moment), fields_of("type Moment ("));
    assert_eq!(keys(exit), fields_of("type ExitRecord ("));
    assert_eq!(keys(port), fields_of("type Port ("));
    assert_eq!(keys(usage), fields_of("type Usage ("));
    assert_eq!(keys(limit), fields_of("type Limit ("));
    assert_eq!(keys(process), fields_of("type Process ("));
    assert_eq!(keys(health), fields_of("type Health ("));
    assert_eq!(keys(fault), fields_of("type Fault ("));
    assert_eq!(keys(denial), fields_of("type Denial ("));
    assert_eq!(keys(obstacle), fields_of("type Obstacle ("));
    assert_eq!(keys(timer), fields_of("type Timer ("));
    assert_eq!(keys(status), fields_of("type ServiceStatus ("));
    assert_eq!(keys(event), fields_of("type Event ("));
    assert_eq!(keys(entry), fields_of("type LogEntry ("));
    assert_eq!(keys(change), fields_of("type Change ("));
    assert_eq!(keys(session), fields_of("\n) -> ("));
    let entries = LogEntries { entries: vec![], is_past_over: true };
    assert_eq!(keys(entries), fields_of("\n  -> ("));
}

#[test]
fn every_error_survives_the_wire_and_is_in_the_interface() {
    let errors = [
        Error::NoSuchService { names: vec!["a".into(), "b".into()] },
        Error::Refused { reason: "no".into() },
        Error::NotAllowed,
        Error::NotRunning { name: "web".into() },
        Error::Failed { reason: "it broke".into() },
        Error::InvalidParameter { parameter: "signal".into() },
        Error::MethodNotFound { method: "io.palisade.Fly".into() },
        Error::InterfaceNotFound { interface: "io.other".into() },
        Error::ExpectedMore,
    ];
    for error in errors {
        let message = error_message(&error);
        let reply: varlink::Reply = serde_json::from_slice(message.strip_suffix(b"\0").unwrap()).unwrap();
        let name = reply.error.unwrap();
        let declared = format!("error {} (", name.rsplit_once('.').unwrap().1);
        assert!(INTERFACE.contains(&declared) || SERVICE_INTERFACE.contains(&declared), "{declared}");
        assert_eq!(Error::from_wire(&name, &reply.parameters.unwrap()), error);
    }
}

#[test]
fn what_is_unknown_is_refused_by_name() {
    let wrong = [
        (r#"{"method":"io.palisade.Fly"}"#, "no such method: io.palisade.Fly"),
        (r#"{"method":"io.systemd.Ping"}"#, "no such interface: io.systemd"),
        (r#"{"method":"Ping"}"#, "no such method: Ping"),
        (r#"{"method":"io.palisade.Start","parameters":{"names":["a"],"force":true}}"#, "force"),
        (r#"{"method":"io.palisade.Ping","parameters":{"x":1}}"#, "x"),
        (r#"{"method":"io.palisade.Start","parameters":{"names":"a"}}"#, "names"),
        (r#"{"method":"io.palisade.Start","parameters":{}}"#, "missing field `names`"),
        (r#"{"method":"io.palisade.Start","parameters":{"names":[]}}"#, "names"),
        (r#"{"method":"io.palisade.Start","parameters":{"names":["a\u0000"]}}"#, "names"),
        (r#"{"method":"io.palisade.Start","parameters":[]}"#, "invalid parameter"),
        (r#"{"method":"io.palisade.Kill","parameters":{"names":["a"],"signal":65}}"#, "signal"),
        (r#"{"method":"io.palisade.Kill","parameters":{"names":["a"],"signal":0}}"#, "signal"),
        (r#"{"method":"io.palisade.Kill","parameters":{"names":["a"],"signal":1e99}}"#, "signal"),
        (r#"{"method":"io.palisade.Exec","more":true,"parameters":{"name":"a","command":[]}}"#, "command"),
        (
            r#"{"method":"io.palisade.Exec","more":true,"parameters":{"name":"a","command":["x"],"env":["=b"]}}"#,
            "env",
        ),
        (r#"{"method":"io.palisade.Events"}"#, "the call needs `more`"),
        (r#"{"method":"io.palisade.Ping","upgrade":true}"#, "invalid parameter: upgrade"),
    ];
    for (text, expected) in wrong {
        let error = parse(text).call.unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

/// Many names are what a shell makes of a pattern; many patterns are work for everybody else to wait for.
#[test]
fn patterns_are_few() {
    let parsed = |names: Vec<String>| {
        let message = Method::Status(Names { names }).to_message();
        parse_call(&message[..message.len() - 1]).unwrap().call
    };
    assert!(parsed(vec!["web".to_owned(); NAMES_MAX]).is_ok());
    assert!(parsed(vec!["w?b".to_owned(); PATTERNS_MAX]).is_ok());
    assert!(parsed(vec!["w[e]b".to_owned(); PATTERNS_MAX + 1]).is_err());
    assert!(parsed(vec!["web".to_owned(); NAMES_MAX + 1]).is_err());
}

#[test]
fn what_is_no_call_is_told_apart() {
    for text in ["", "{", "[]", "{}", "null", "GET / HTTP/1.1", "\u{1}", "{\"method\":1}"] {
        assert_eq!(parse_call(text.as_bytes()), Err(NotVarlink), "{text}");
    }
    let deep = [b"{\"method\":\"a.b\",\"parameters\":".as_slice(), &vec![b'['; 500_000]].concat();
    assert_eq!(parse_call(&deep), Err(NotVarlink));
}

#[test]
fn those_who_may_look_may_not_touch() {
    let allowed = |access: Access| -> Vec<&str> {
        all_methods().iter().filter(|method| method.is_allowed(access)).map(Method::name).collect()
    };
    let none = Access::default();
    assert_eq!(allowed(none), [""; 0]);
    assert_eq!(
        allowed(Access { looks: true, ..none }),
        ["Ping", "List", "Status", "Logs", "Events", "Plan", "Sites", "Metrics", "Samples"]
    );
    assert!(!allowed(Access { looks: true, owns: true, ..none }).contains(&"DaemonReload"));
    assert_eq!(allowed(Access { owns: true, ..none }).len(), all_methods().len() - 9);
    assert_eq!(allowed(Access { all: true, ..none }).len(), all_methods().len());
}

proptest! {
    #[test]
    fn bytes_from_anybody_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_call(&bytes);
    }

    #[test]
    fn json_from_anybody_does_no_harm(
        method in "(io\\.palisade\\.)?(Kill|Exec|Logs|Status|org|\\.)?.{0,8}",
        key in "(names|signal|command|.{0,4})",
        value in prop_oneof![any::<i64>().prop_map(Value::from), ".{0,9}".prop_map(Value::from),
            prop::collection::vec(".{0,9}", 0..4).prop_map(Value::from), Just(Value::Null)],
        more in any::<bool>(),
    ) {
        let text = json!({ "method": method, "more": more, "parameters": { key: value } }).to_string();
        prop_assert_eq!(parse_call(text.as_bytes()).unwrap().more, more);
    }
}
