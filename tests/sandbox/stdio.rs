//! Where a service reads from and writes to.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use nix::sys::signal::{Signal, kill};

use crate::support::{
    LONG, World, wait_until,
    world::{describe, raw},
};

const NO_NETWORK: &str = "network.mode = \"none\"";

/// A service file that runs a shell script.
fn script(script: &str, keys: &str) -> String {
    format!("service.command = {:?}\n{keys}\n{NO_NETWORK}\n", ["sh", "-c", script])
}

/// Runs a service in the foreground with this on its standard input.
fn fed(world: &World, toml: &str, input: &[u8]) -> Output {
    let file = world.write("single/once.toml", toml);
    let state = world.dir().join("state");
    let mut command = world.command(&["run", "--state", &state.display().to_string()]);
    command.arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program under test starts");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        // Dropped at once: that is the end of the input.
        scope.spawn(move || stdin.write_all(input).expect("it is read"));
        child.wait_with_output().expect("it is our child")
    })
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", describe(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn standard_input_is_inherited_by_name(world: &mut World) {
    let cat = "service.command = \"cat\"";
    let input = b"x".repeat(300_000);
    let output = fed(world, &format!("{cat}\nservice.stdin = \"inherit\"\n{NO_NETWORK}\n"), &input);
    assert_eq!(text(&output).len(), input.len());
    let output = world.run(&format!("{cat}\n{NO_NETWORK}\n"));
    assert_eq!(text(&output), "", "without a word it is null");
}

pub fn a_file_is_standard_input(world: &mut World) {
    let file = world.write("input", "from the host\n");
    let keys = format!("service.stdin = \"file:{}\"", file.display());
    assert_eq!(
        text(&world.run(&script("cat; echo x 2>/dev/null >&0 || echo read-only", &keys))),
        "from the host\nread-only\n"
    );
    let missing = keys.replace("/input\"", "/missing\"");
    let output = world.run(&script("cat", &missing));
    assert_eq!(output.status.code(), Some(125), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(" stdio: ") && said.contains("/missing") && said.contains("ENOENT"), "{said}");
}

pub fn a_fifo_without_a_writer_holds_nobody_up(world: &mut World) {
    let fifo = world.dir().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o644)).expect("a new name");
    let keys = format!("service.stdin = \"file:{}\"", fifo.display());
    assert_eq!(text(&world.run(&script("cat; echo over", &keys))), "over\n");
}

pub fn a_terminal_of_its_own_is_relayed_by_run(world: &mut World) {
    let shell = "tty; stty size; ls -l $(tty) | cut -d' ' -f1,3; read line; echo got $line; exit 7";
    let output = fed(world, &script(shell, "service.tty = true\nservice.user = 77"), b"hello\n");
    assert_eq!(output.status.code(), Some(7), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n");
    for line in ["/dev/pts/0\n", "24 80\n", "crw--w---- 77\n", "got hello\n"] {
        assert!(said.contains(line), "{said}");
    }
}

pub fn the_operators_terminal_is_mirrored_and_put_in_order(world: &mut World) {
    // Interactive programs read keys, not lines; the size arrives a moment after the start.
    let inner =
        "until [ \"$(stty size)\" = '33 99' ]; do sleep 0.05; done; echo sized; read line; echo got $line";
    let file = world.write("single/once.toml", &script(inner, "service.tty = true"));
    let state = world.dir().join("state");
    let command =
        world.command(&["run", "--state", &state.display().to_string(), &file.display().to_string()]);
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let outer = format!("stty rows 33 cols 99; {}; stty -a", words.join(" "));
    let mut operator = Command::new("script");
    operator.args(["-qec", &outer, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut operator = operator.spawn().expect("util-linux is installed");
    let mut keys = operator.stdin.take().expect("piped");
    keys.write_all(b"keys\r").expect("it is read");
    let output = operator.wait_with_output().expect("it is our child");
    drop(keys);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["sized", "got keys", " icanon", " echo "] {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
}

pub fn a_terminal_outlives_the_supervisor(world: &mut World) {
    let shell = "trap 'echo still here' USR1; tty; while :; do sleep infinity & wait $!; done";
    world.write_service("term", &script(shell, "service.tty = true"));
    world.start();
    wait_until("its terminal is logged", LONG, || world.logs("term").contains("/dev/pts/0"));
    let pid = world.pid("term");
    world.kill_supervisor();
    world.start();
    assert_eq!((world.pid("term"), world.state("term")), (pid, "active".to_owned()));
    kill(raw(pid), Signal::SIGUSR1).expect("it lives");
    wait_until("it still writes", LONG, || world.logs("term").contains("still here"));
    assert!(!world.logs("term").contains("\\x0d"), "lines end as lines do: {}", world.logs("term"));
    assert_eq!(world.pid("term"), pid);
}

pub fn the_supervisor_has_no_standard_input_to_give(world: &mut World) {
    let keys = "service.stdin = \"inherit\"\nservice.type = \"oneshot\"\nservice.remain_after_exit = true";
    world.write_service("reader", &script("cat; echo over", keys));
    world.start();
    world.wait_state("reader", "done");
    assert!(world.logs("reader").contains("over"));
}
