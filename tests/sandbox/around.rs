//! Commands around the main program of `palisade run FILE`.

use std::{fs, process::Stdio, time::Duration};

use nix::sys::signal::{Signal, kill};

use crate::support::{
    LONG, World, scaled, span, wait_until,
    world::{describe, raw},
};

const NONE: &str = "network.mode = \"none\"";

fn sh(line: &str) -> String {
    format!("[\"/bin/sh\", \"-c\", '{line}']")
}

fn all(main: &str, restart: &str) -> String {
    format!(
        "service.command = {}\nservice.condition = [{}]\nservice.pre_start = [{}, {}]\nservice.pre_stop = [{}]\n\
         service.post_stop = [{}]\n{restart}\n{NONE}\n",
        sh(main),
        sh("echo condition"),
        sh("echo first > /tmp/word; sleep 300 &"),
        sh("echo second $(cat /tmp/word) $(pgrep sleep)"),
        sh("echo before stop $MAINPID"),
        sh("echo end $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS")
    )
}

pub fn commands_go_before_and_after_and_the_exit_is_the_services(world: &mut World) {
    // In place the sandbox stays for another run, which nobody here would start.
    for restart in ["", "restart.mode = \"in-place\""] {
        let output = world.run(&all("cat /tmp/word; exit 7", restart));
        assert_eq!(output.status.code(), Some(7), "{}", describe(&output));
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "condition\nsecond first\nfirst\nend exit-code exited 7\n");
    }
}

pub fn what_a_command_left_behind_is_gone_before_the_next(world: &mut World) {
    // It has the lock until the kernel has taken back all of its memory.
    let big =
        r#"python3 -c "import time; held = bytes([1]) * (200 << 20); print(flush=True); time.sleep(300)""#;
    let holder = format!(
        "exec 9> /tmp/lock; flock 9; {big} > /tmp/held & until test -s /tmp/held; do sleep 0.02; done; rm /tmp/held"
    );
    let next = "exec 9> /tmp/lock; flock -n 9 && echo free || echo taken";
    for restart in ["", "restart.mode = \"in-place\""] {
        let output = world.run(&format!(
            "service.command = {}\nservice.pre_start = [{}, {}, {}]\n{restart}\n{NONE}\n",
            sh(next),
            sh(&holder),
            sh(next),
            sh(&holder)
        ));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "free\nfree\n", "{}", describe(&output));
    }
}

pub fn a_command_that_says_no_or_fails_keeps_the_service_from_running(world: &mut World) {
    let no =
        format!("service.command = {}\nservice.condition = [{}]\n{NONE}\n", sh("echo main"), sh("exit 1"));
    let output = world.run(&no);
    assert_eq!(output.status.code(), Some(0), "{}", describe(&output));
    assert!(output.stdout.is_empty(), "{}", describe(&output));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("service.condition said no"),
        "{}",
        describe(&output)
    );
    for (table, code, words) in [
        ("condition", 0, "not run: path_exists = \"/no/such\" does not hold"),
        ("assert", 125, "unit.assert: path_exists = \"/no/such\" does not hold"),
    ] {
        let keys = format!("unit.{table}.path_exists = [\"/\", \"/no/such\"]");
        let output = world.run(&format!("{keys}\nservice.command = {}\n{NONE}\n", sh("echo main")));
        assert_eq!(output.status.code(), Some(code), "{}", describe(&output));
        assert!(output.stdout.is_empty(), "{}", describe(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{}", describe(&output));
    }
    let fails = format!(
        "service.command = {}\nservice.pre_start = [{}]\nservice.post_stop = [{}]\n{NONE}\n",
        sh("echo main"),
        sh("exit 3"),
        sh("echo end")
    );
    let output = world.run(&fails);
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "end\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("service.pre_start") && said.contains("exit status 3"), "{said}");
}

pub fn a_signal_ends_it_in_order(world: &mut World) {
    let nap = format!("while :; do sleep {}; done", scaled(Duration::from_millis(20)).as_secs_f64());
    let main = format!("trap \"echo main stops; exit 0\" TERM; echo main; {nap}");
    let deaf = format!("trap \"\" TERM; echo main; {nap}");
    // The commands have that time as well.
    let time = format!("service.stop.timeout = \"{}\"", span(Duration::from_secs(3)));
    let cases = [
        (&main, "", "main stops\nend success exited 0\n", Some(0)),
        (&deaf, time.as_str(), "end signal killed KILL\n", Some(137)),
    ];
    for (main, keys, rest, code) in cases {
        let file = world.write("single/once.toml", &all(main, keys));
        let out = world.dir().join("out");
        let to = fs::File::create(&out).expect("our own directory");
        let mut command = world.command(&["run"]);
        command.args(world.places()).arg(file).stdout(to).stderr(Stdio::null());
        let mut run = command.spawn().expect("palisade runs");
        let said = || fs::read_to_string(&out).expect("our own");
        wait_until("it runs", LONG, || said().ends_with("main\n"));
        kill(raw(run.id()), Signal::SIGTERM).expect("it lives");
        let status = run.wait().expect("our child");
        assert_eq!(status.code(), code, "{}", said());
        let said = said();
        let (before, after) = said.split_once("before stop ").expect("pre_stop ran");
        assert_eq!(before, "condition\nsecond first\nmain\n");
        assert_eq!(after.split_once('\n').map(|(_, rest)| rest), Some(rest), "{said}");
    }
    // Before the main program is there.
    let keys = format!(
        "service.command = {}\nservice.pre_start = [{}]\nservice.post_stop = [{}]\n{NONE}\n",
        sh("echo never"),
        sh("echo begins; exec sleep 300"),
        sh("echo end")
    );
    let file = world.write("single/once.toml", &keys);
    let out = world.dir().join("out");
    let to = fs::File::create(&out).expect("our own directory");
    let mut command = world.command(&["run"]);
    command.args(world.places()).arg(file).stdout(to).stderr(Stdio::null());
    let mut run = command.spawn().expect("palisade runs");
    wait_until("it begins", LONG, || fs::read_to_string(&out).expect("our own") == "begins\n");
    kill(raw(run.id()), Signal::SIGTERM).expect("it lives");
    run.wait().expect("our child");
    assert_eq!(fs::read_to_string(&out).expect("our own"), "begins\nend\n");
}

pub fn a_privileged_command_of_a_run_is_outside(world: &mut World) {
    let trace = world.dir().join("trace");
    let tell = |word: &str| {
        let line = sh(&format!("echo {word} $(id -u) $MAINPID >> {}", trace.display()));
        format!("[{{ command = {line}, privileged = true }}]")
    };
    let keys = format!(
        "service.command = {}\nservice.pre_start = {}\nservice.post_stop = {}\n{NONE}\n",
        sh(&format!("test ! -e {}", trace.display())),
        tell("before"),
        tell("after")
    );
    let output = world.run(&keys);
    assert!(output.status.success(), "{}", describe(&output));
    assert_eq!(fs::read_to_string(&trace).expect("it was written to"), "before 0\nafter 0\n");
}
