//! What becomes of a service's output.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    process::Command,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use palisade::supervisor::Way;

use crate::support::{LONG, World, scaled, snapshot, wait_until};

/// A service that writes `first` at once and `then` when there is a file `go` in its directory, which is given.
fn speaker(world: &World, name: &str, rate: &str, [first, then]: [&str; 2]) -> std::path::PathBuf {
    let gate = world.dir().join(format!("gate-{name}"));
    fs::create_dir(&gate).expect("a new name");
    // One write each: the supervisor reads it as one piece.
    let script = format!(
        "printf \"{first}\"; until test -e /gate/go; do sleep 0.05; done; printf \"{then}\"; exec sleep 4716"
    );
    let toml = format!(
        "service.command = [\"/bin/sh\", \"-c\", '{script}']\nlog.rate = \"{rate}\"\nnetwork.mode = \"none\"\n\
         rootfs = {{ base = \"host\", mounts = [{{ src = \"{}\", dst = \"/gate\" }}] }}\n",
        gate.display()
    );
    world.write_service(name, &toml);
    gate
}

/// The texts of its log file.
fn log(world: &World, name: &str) -> Vec<String> {
    let log = fs::read_to_string(world.dir().join(format!("log/{name}.log"))).unwrap_or_default();
    log.lines().filter_map(|line| Some(line.splitn(4, ' ').nth(3)?.to_owned())).collect()
}

pub fn lines_beyond_the_rate_are_told_when_the_time_is_over(world: &mut World) {
    let gate = speaker(world, "app", "2/s", ["1\\n2\\n3\\n4\\n5\\n", "6\\n"]);
    world.start();
    // Nothing more is written: it is the time that does it.
    let told = "[palisade: 3 lines were dropped here: more than 2 in 1s]";
    wait_until("it is told", LONG, || log(world, "app").len() >= 3);
    assert_eq!(log(world, "app"), ["1", "2", told]);
    fs::write(gate.join("go"), "").expect("our own directory");
    wait_until("what comes later is taken", LONG, || log(world, "app").len() >= 4);
    assert_eq!(log(world, "app"), ["1", "2", told, "6"]);
    let says = "3 lines of its output were dropped: more than 2 in 1s (log.rate)";
    assert_eq!(world.supervisor_log().matches(says).count(), 1);
    // Without a rate everything is.
    let file = world.services_dir().join("app.toml");
    let toml = fs::read_to_string(&file).expect("our own file").replace("2/s", "off");
    world.write_service("app", &toml);
    world.ok(&["daemon-reload"]);
    world.ok(&["restart", "app"]);
    wait_until("all of it", LONG, || log(world, "app").len() >= 10);
    assert_eq!(log(world, "app")[4..], ["1", "2", "3", "4", "5", "6"]);
}

pub fn what_is_dropped_is_counted_once_wherever_the_supervisor_dies(world: &mut World) {
    let of_output =
        palisade::supervisor::points().filter(|point| matches!(point.way, Way::Output | Way::Rate));
    for (n, point) in of_output.map(|point| point.name).enumerate() {
        let name = format!("app{n}");
        let gate = speaker(world, &name, "1/1d", ["the first\\nlost\\n", "lost\\nlost\\nlost\\n"]);
        let write_the_rest = || {
            fs::write(gate.join("go"), "").expect("our own directory");
            wait_until("it has said the rest", LONG, || {
                let is_it = |line: &String| line.contains("sleep 4716") && !line.contains("printf");
                snapshot::processes().iter().any(is_it)
            });
        };
        let mut command = world.supervise();
        command.arg("--die-at").arg(format!("{name}:at:{point}"));
        world.start_to_die(command);
        if point.starts_with("dropped") {
            wait_until("what may be written", LONG, || !log(world, &name).is_empty());
            write_the_rest();
        }
        if point == "dropped-told" {
            world.palisade(&["stop", &name]);
        }
        wait_until(&format!("its end at {point}"), LONG, || world.has_died());
        if !point.starts_with("dropped") {
            write_the_rest();
        }
        world.start();
        world.palisade(&["stop", &name]);
        world.wait_state(&name, "stopped");
        let told = "[palisade: 4 lines were dropped here: more than 1 in 86400s]";
        assert_eq!(log(world, &name), ["the first", told], "{point}");
        assert_eq!(world.stop(), Ok(()));
        world.reap();
        fs::remove_file(world.services_dir().join(format!("{name}.toml"))).expect("our own file");
    }
}

/// A log file of one line of that time, last changed at another one.
fn put(world: &World, file: &str, line: SystemTime, change: SystemTime) {
    let time = Timestamp::try_from(line).expect("no time that far away");
    let path = world.write(&format!("log/{file}"), &format!("{time:.6} stdout F {file}\n"));
    let file = fs::File::options().write(true).open(path).expect("our own file");
    file.set_modified(change).expect("our own file");
}

pub fn old_lines_go_whether_or_not_their_service_runs(world: &mut World) {
    let now = SystemTime::now();
    let ago = |seconds: u64| now - Duration::from_secs(seconds);
    let day = 86_400;
    let resting = "service.command = [\"/bin/true\"]\nunit.enabled = false\n";
    // At once: what is there from before.
    world.write_service("past", resting);
    put(world, "past.log", ago(9 * day), ago(1));
    put(world, "past.log.1", ago(32 * day), ago(29 * day));
    put(world, "past.log.2", ago(34 * day), ago(31 * day));
    put(world, "past.log.3", ago(36 * day), ago(33 * day));
    // When the time has come, without anything else that happens.
    world.write_service("soon", &format!("{resting}log = {{ max_age = \"1h\", files = 2 }}\n"));
    let due = ago(3597) + Duration::from_secs(3600);
    put(world, "soon.log", ago(3597), ago(1));
    put(world, "soon.log.1", ago(9000), ago(3597));
    world.start();
    let lines = |name: &str| world.ok(&["logs", "-n", "all", "-o", "cat", name]);
    let is_there = |file: &str| world.dir().join("log").join(file).exists();
    wait_until("the old ones are gone", LONG, || lines("past") == "past.log.1\npast.log\n");
    assert!(!is_there("past.log.3"));
    let size = fs::metadata(world.dir().join("log/past.log")).expect("a new one was begun").len();
    assert_eq!(size, 0, "it was rotated, and is past.log.2's place now");
    wait_until("so are those that were not old enough", LONG, || lines("soon") == "soon.log\n");
    assert!(SystemTime::now() >= due);
    wait_until("it is rotated as well", LONG, || is_there("soon.log.1"));
}

pub fn rotated_files_are_compressed_and_read_as_before(world: &mut World) {
    let resting = "service.command = [\"/bin/true\"]\nunit.enabled = false\n";
    world.write_service("squeezed", resting);
    world.write_service("plain", &format!("{resting}log.compress = false\n"));
    // A line in each second of the last days, over four files of 700K.
    let begin = Timestamp::now().as_second() - 40_000;
    let text = |lines: std::ops::Range<i64>| -> String {
        let time = |n: i64| Timestamp::from_second(begin + n).expect("no time that far away");
        lines.map(|n| format!("{:.6} stdout F {n:-<40}\n", time(n))).collect()
    };
    for name in ["squeezed", "plain"] {
        for age in 0..4 {
            let suffix = if age == 0 { String::new() } else { format!(".{age}") };
            let first = 10_000 * (3 - age);
            world.write(&format!("log/{name}.log{suffix}"), &text(first..first + 10_000));
        }
    }
    // What a supervisor was killed at.
    world.write("log/.plain.log.gz.new", "half");
    world.start();
    let file = |name: &str| world.dir().join("log").join(name);
    wait_until("both are compressed", LONG, || {
        !file("squeezed.log.2").exists() && !file("squeezed.log.3").exists()
    });
    for (age, first) in [(2, 10_000), (3, 0)] {
        let gzip = Command::new("gzip").arg("-dc").arg(file(&format!("squeezed.log.{age}.gz"))).output();
        let gzip = gzip.expect("gzip is there");
        assert!(gzip.status.success(), "{}", String::from_utf8_lossy(&gzip.stderr));
        assert!(gzip.stdout == text(first..first + 10_000).as_bytes(), "{age}");
    }
    assert!(
        file("squeezed.log.1").exists() && file("plain.log.2").exists() && !file("plain.log.2.gz").exists()
    );
    wait_until("what was begun is gone", LONG, || !file(".plain.log.gz.new").exists());
    assert!(!file(".squeezed.log.gz.new").exists());
    let (since, until) = (format!("@{}", begin + 7000), format!("@{}", begin + 12_000));
    for args in [
        &["-n", "all"][..],
        &["-n", "25000"],
        &["--since", &since, "--until", &until],
        &["--grep", "^123-"],
        &["-n", "3", "--until", &since],
    ] {
        let shown = |name| world.ok(&[&["logs", "-o", "cat", name], args].concat());
        let plain = shown("plain");
        assert!(!plain.is_empty() && shown("squeezed") == plain, "{args:?}");
    }
}

/// A tmpfs over a directory of this world alone, for as long as it lives.
struct Over(&'static str);

impl Over {
    fn new(place: &'static str) -> Self {
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some("mode=0755")).expect("root may");
        Self(place)
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// The next datagram, as text.
fn heard(socket: &UnixDatagram) -> String {
    let mut bytes = vec![0; 1 << 16];
    let count = socket.recv(&mut bytes).expect("a line within its time");
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

fn listen(path: &str) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("a new name");
    socket.set_read_timeout(Some(scaled(LONG))).expect("a time");
    socket
}

/// The fields of a journal entry: lines of `NAME=VALUE`, or of `NAME`, a length in 8 bytes and so many bytes.
fn fields(socket: &UnixDatagram) -> Vec<(String, String)> {
    let mut bytes = vec![0; 1 << 16];
    let count = socket.recv(&mut bytes).expect("a line within its time");
    let (mut rest, mut fields) = (&bytes[..count], Vec::new());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    while !rest.is_empty() {
        let end = rest.iter().position(|&byte| byte == b'\n').expect("each field ends");
        let line = text(&rest[..end]);
        rest = &rest[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.push((name.to_owned(), value.to_owned()));
            continue;
        }
        let length = u64::from_le_bytes(rest[..8].try_into().expect("8 bytes"));
        let length = usize::try_from(length).expect("it fits");
        fields.push((line, text(&rest[8..8 + length])));
        assert_eq!(rest[8 + length], b'\n');
        rest = &rest[9 + length..];
    }
    fields
}

/// Of an entry: what is told apart.
fn said(socket: &UnixDatagram) -> [String; 3] {
    let fields = fields(socket);
    let field = |wanted: &str| {
        let mut all = fields.iter().filter(|(name, _)| name == wanted);
        all.next().unwrap_or_else(|| panic!("no {wanted}: {fields:?}")).1.clone()
    };
    assert_eq!(field("SYSLOG_IDENTIFIER"), field("PALISADE_SERVICE"));
    [field("PALISADE_SERVICE"), field("PRIORITY"), field("MESSAGE")]
}

pub fn journald_gets_every_line_once_whoever_is_away(world: &mut World) {
    let run = Over::new("/run");
    let gate = speaker(world, "app", "off", ["one\\n<3>two\\n", "three\\n"]);
    let toml = fs::read_to_string(world.services_dir().join("app.toml")).expect("our own file");
    world.write_service("app", &format!("{toml}log.target = \"journald\"\n"));
    world.start();
    // Nobody listens, and it is not started.
    world.wait_state("app", "failed");
    let why = String::from_utf8(world.palisade(&["status", "app"]).stdout).expect("text");
    assert!(why.contains("there is no /run/systemd/journal/socket on this host"), "{why}");
    fs::create_dir_all("/run/systemd/journal").expect("a place of our own");
    let path = "/run/systemd/journal/socket";
    let journald = listen(path);
    world.ok(&["start", "app"]);
    let line = |level: &str, text: &str| ["app", level, text].map(str::to_owned);
    assert_eq!([said(&journald), said(&journald)], [line("6", "one"), line("3", "two")]);
    // Away, and back: what was said meanwhile comes then.
    drop(journald);
    fs::remove_file(path).expect("our own file");
    fs::write(gate.join("go"), "").expect("our own directory");
    wait_until("its log has it", LONG, || log(world, "app").len() == 3);
    let away = "journald does not take its log, which keeps it";
    wait_until("that is told", LONG, || world.supervisor_log().contains(away));
    let journald = listen(path);
    assert_eq!(said(&journald), line("6", "three"));
    wait_until("that, too", LONG, || world.supervisor_log().contains("journald takes its log again"));
    // Another supervisor goes on where this one ended.
    world.kill_supervisor();
    world.start();
    fs::remove_file(gate.join("go")).expect("our own file");
    world.ok(&["restart", "app"]);
    assert_eq!([said(&journald), said(&journald)], [line("6", "one"), line("3", "two")]);
    // Nobody reads for a while: the service waits for nothing.
    let flood = "service.command = [\"/usr/bin/seq\", \"20000\"]\nservice.type = \"oneshot\"\n\
                 network.mode = \"none\"\nlog.target = \"journald\"\n";
    world.write_service("flood", flood);
    world.ok(&["daemon-reload"]);
    world.ok(&["start", "flood"]);
    // A line may be in two parts there.
    let is_last = |line: &String| line.ends_with("20000");
    wait_until("all of it is in its log", LONG, || log(world, "flood").last().is_some_and(is_last));
    for number in 1..=20_000 {
        assert_eq!(said(&journald), ["flood", "6", &number.to_string()].map(str::to_owned));
    }
    assert_eq!(world.stop(), Ok(()));
    drop(run);
}

pub fn syslog_gets_what_its_library_would_send(world: &mut World) {
    let dev = Over::new("/dev");
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        let device = nix::sys::stat::makedev(1, minor);
        let path = format!("/dev/{name}");
        nix::sys::stat::mknod(path.as_str(), nix::sys::stat::SFlag::S_IFCHR, mode, device).expect("root may");
    }
    let syslog = listen("/dev/log");
    speaker(world, "app", "off", ["<4>careful\\n", ""]);
    let toml = fs::read_to_string(world.services_dir().join("app.toml")).expect("our own file");
    world.write_service("app", &format!("{toml}log.target = \"syslog\"\n"));
    let quiet = toml.replace("careful", "nobody is told");
    world.write_service("quiet", &format!("{quiet}log.target = \"none\"\n"));
    world.start();
    let line = heard(&syslog);
    assert!(line.starts_with("<28>") && line.ends_with(" app: careful"), "{line}");
    world.wait_state("quiet", "active");
    assert_eq!(world.stop(), Ok(()));
    assert!(!world.dir().join("log/quiet.log").exists());
    drop(dev);
}

pub fn the_journal_shows_what_a_service_has_said(world: &mut World) {
    let places = [Over::new("/run"), Over::new("/var/log")];
    fs::create_dir_all("/run/systemd/journal").expect("a place of our own");
    let mut journald = Command::new("/lib/systemd/systemd-journald").spawn().expect("it comes with systemd");
    wait_until("it listens", LONG, || fs::exists("/run/systemd/journal/socket").unwrap_or(false));
    let script = "echo plain; echo \"<3>broken\"; head -c 20000 /dev/zero | tr \"\\\\0\" x; echo; seq 3000; exec sleep 4717";
    let toml = format!(
        "service.command = [\"/bin/sh\", \"-c\", '{script}']\nrootfs.base = \"host\"\nnetwork.mode = \"none\"\n\
         log.target = \"journald\"\n"
    );
    world.write_service("app", &toml);
    world.start();
    let entries = || -> Vec<(String, String)> {
        let args =
            ["--directory=/run/log/journal", "--no-pager", "--all", "-o", "json", "PALISADE_SERVICE=app"];
        let shown = Command::new("journalctl").args(args).output().expect("it comes with systemd");
        let shown = String::from_utf8(shown.stdout).expect("JSON");
        let entry = |line: &str| {
            let entry: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(entry["SYSLOG_IDENTIFIER"], "app", "{entry}");
            let field =
                |name: &str| entry[name].as_str().unwrap_or_else(|| panic!("{name}: {entry}")).to_owned();
            (field("PRIORITY"), field("MESSAGE"))
        };
        shown.lines().map(entry).collect()
    };
    wait_until("all of it is there", LONG, || entries().last().is_some_and(|(_, text)| text == "3000"));
    let numbers = (1..=3000).map(|n| ("6".to_owned(), n.to_string()));
    let long = [16 << 10, 20_000 - (16 << 10)].map(|length| ("6".to_owned(), "x".repeat(length)));
    let first = [("6", "plain"), ("3", "broken")].map(|(level, text)| (level.to_owned(), text.to_owned()));
    let expected: Vec<_> = first.into_iter().chain(long).chain(numbers).collect();
    let seen = entries();
    let odd = seen.iter().zip(&expected).find(|(one, other)| one != other);
    assert!(seen.len() == expected.len() && odd.is_none(), "{} entries, {odd:?}", seen.len());
    assert_eq!(world.stop(), Ok(()));
    journald.kill().expect("our own process");
    journald.wait().expect("our own process");
    drop(places);
}
