//! What people see who sit at a terminal, of the usual size and of a large one: the screen is read, and keys are pressed.

use crate::support::{
    LONG, World,
    home::Home,
    terminal::{PROMPT, Terminal},
    wait_until,
};

const SIZES: [(u16, u16); 2] = [(80, 24), (200, 50)];

/// A host with something to look at.
fn home(world: &World) -> Home {
    let home = Home::enter(world);
    home.write_service(
        "cache",
        r#"[unit]
description = "What the shop remembers"
[service]
command = ["/usr/bin/redis-server", "--port", "6379", "--save", ""]
ready = "tcp:6379"
"#,
    );
    home.write_service(
        "shop",
        r#"[unit]
description = "The shop"
[service]
command = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/usr/share/common-licenses"]
ready = "tcp:80"
[network]
publish = ["127.0.0.1:8080:80"]
"#,
    );
    home.write_service(
        "worker",
        r#"[service]
command = ["/bin/sh", "-c", """
    echo "<5>waiting for orders"
    while :; do
        i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done
        n=$((n + 1)); echo "order $n is packed"
        [ $((n %% 5)) != 0 ] || echo "<4>order $n: the printer is slow"
        [ $((n %% 7)) != 0 ] || echo "<3>order $n: no such address"
        sleep 0.3
    done"""]
"#,
    );
    home.write_service(
        "mail",
        "service.command = [\"/usr/bin/no-such-program\"]\nrestart.policy = \"never\"\n",
    );
    home.shell("palisade apply");
    home.ok("until palisade status cache shop worker > /dev/null; do sleep 0.1; done");
    home
}

/// The pid of a service, which the kernel knows.
fn pid(home: &Home, name: &str) -> u32 {
    let pid = home.ok(&format!("palisade status --json {name} | jq '.services[0].pid'"));
    let pid = pid.trim().parse().expect("it runs");
    assert!(lives(pid));
    pid
}

fn lives(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn soon(what: &str, is_so: impl FnMut() -> bool) {
    wait_until(what, LONG, is_so);
}

/// Nothing sticks out of the screen, and no line of it is another's rest.
fn assert_fits(lines: &[String], width: u16) {
    let widest = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    assert!(widest <= usize::from(width), "{lines:#?}");
}

pub fn top_shows_what_services_take_and_does_what_keys_say(world: &mut World) {
    let mut home = home(world);
    for size in SIZES {
        let terminal = Terminal::open(world, size, home.path(), &[]);
        terminal.type_line("echo before; palisade top -d 300ms");
        // The one that is busy comes first.
        terminal.wait("busy worker", |lines| lines.get(3).is_some_and(|line| line.starts_with("worker ")));
        let bars = |line: &str| line.chars().rev().take_while(|c| ('▁'..='█').contains(c)).count();
        let lines = terminal.wait("graph", |lines| lines[3].starts_with("worker ") && bars(&lines[3]) >= 8);
        assert_fits(&lines, size.0);
        assert!(lines[0].contains("4 services: 3 active, 1 failed"), "{lines:#?}");
        assert!(lines[2].contains("PRESSURE") && lines[2].contains("RESTARTS"), "{lines:#?}");
        assert_eq!(lines[2].contains("PIDS"), size.0 == 200, "{lines:#?}");
        let worker = lines[3].split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let cpu: f64 = worker[2].parse().expect("a rate");
        assert!(cpu > 0.0, "{lines:#?}");
        // By name, and the last but one is chosen: the shop.
        terminal.press(&["o", "o", "o", "o", "o"]);
        terminal.wait("order by name", |lines| lines[lines.len() - 1].ends_with("order: name"));
        terminal.press(&["Home", "Down", "Down"]);
        terminal.wait("graph of the shop", |lines| lines.iter().any(|line| line.contains(" shop: cpu ")));
        // Somebody is served: the host's end of the link counts it.
        soon("bytes", || {
            home.ok("i=0; while [ $i -lt 40 ]; do i=$((i + 1)); curl -sf 127.0.0.1:8080/GPL-3 > /dev/null || exit 1; done");
            let lines = terminal.lines();
            let end = lines.get(2).and_then(|line| line.find("OUT/s")).map(|begin| begin + "OUT/s".len());
            let shop = lines.iter().find(|line| line.starts_with("shop "));
            let row = shop.zip(end).and_then(|(shop, end)| shop.get(..end));
            row.is_some_and(|row| row.ends_with(['K', 'M']))
        });
        terminal.picture(&format!("top-{}x{}", size.0, size.1));

        // A question is asked, and another key than y is no.
        let shop = pid(&home, "shop");
        terminal.press(&["r"]);
        terminal.wait_line(&["restart shop?"]);
        terminal.press(&["n"]);
        terminal.wait_line(&["q quit"]);
        assert_eq!(pid(&home, "shop"), shop);
        terminal.press(&["r", "y"]);
        terminal.wait_line(&["shop: restarted (run "]);
        assert!(!lives(shop));
        let shop = pid(&home, "shop");
        terminal.press(&["s", "y"]);
        terminal.wait_line(&["shop: stopped (run "]);
        assert!(!lives(shop));
        terminal.wait_line(&["shop ", " stopped "]);
        terminal.press(&["a"]);
        terminal.wait_line(&["shop: started (run "]);
        pid(&home, "shop");

        // What it writes goes on being shown.
        terminal.press(&["End", "l"]);
        terminal.wait_line(&["log of worker"]);
        let last = |lines: &[String]| {
            let orders = lines.iter().rev().filter(|line| line.ends_with(" is packed"));
            orders.filter_map(|line| line.split(' ').nth(2)?.parse::<u32>().ok()).next()
        };
        let first = terminal.wait("order", |lines| last(lines).is_some());
        terminal.wait("order that comes later", |lines| last(lines) > last(&first));
        assert_fits(&terminal.lines(), size.0);
        terminal.press(&["q"]);
        terminal.wait_line(&["NAME"]);

        // It goes on without a supervisor, and with the next one.
        home.replace_supervisor(world, || {
            terminal.wait("word that nobody answers", |lines| lines[0].contains("no supervisor answers"));
            terminal.wait_line(&["worker ", " active "]);
        });
        terminal.wait_line(&["palisade top", "4 services"]);
        terminal.press(&["q"]);
        // What was there before is there again, and the terminal echoes.
        terminal.wait("old screen", |lines| lines.iter().any(|line| line == "before"));
        terminal.type_line("echo after");
        terminal.wait("echo", |lines| lines.iter().any(|line| *line == format!("{PROMPT}echo after")));
        terminal.close();
    }
    home.leave(world);
}

pub fn top_gives_the_terminal_back_however_it_ends(world: &mut World) {
    let home = home(world);
    let terminal = Terminal::open(world, (80, 24), home.path(), &["NO_COLOR=1"]);
    let modes = || home.ok(&format!("stty -a -F {}", terminal.tty()));
    let before = modes();
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        terminal.type_line("clear; palisade top 'sh*' mail; echo \"ended: $?\"");
        terminal.wait_line(&["2 services: 1 active, 1 failed"]);
        let shown = terminal.coloured();
        // Not one of the sixteen, in front or behind; 39 and 49 are what a terminal has by itself.
        let has = |code: u32| shown.contains(&format!("\u{1b}[{code}m"));
        assert!(
            ![30..=37, 40..=47, 90..=97, 100..=107].into_iter().flatten().any(has),
            "NO_COLOR: {shown:?}"
        );
        assert_ne!(modes(), before);
        home.ok(&format!("pkill -{signal} -x palisade -t {}", terminal.tty().trim_start_matches("/dev/")));
        terminal.wait("end", |lines| lines.iter().any(|line| *line == format!("ended: {code}")));
        soon("the terminal is as it was", || modes() == before);
    }
    // In a pipe it is told once, and nothing is drawn.
    assert!(!home.shell("palisade top").status.success());
    assert_eq!(home.ok("palisade top --json cache | jq -r '.services[].name'"), "cache\n");
    assert_eq!(home.shell("palisade top --json nobody").status.code(), Some(4));
    terminal.close();
    home.leave(world);
}

pub fn status_and_logs_are_read_on_a_terminal(world: &mut World) {
    let home = home(world);
    home.write_service(
        "rude",
        r#"service.command = ["/bin/sh", "-c", "printf '\\033]0;owned\\007\\033[2Jgone\\n'; exec sleep 1000"]"#,
    );
    home.ok("palisade apply; until palisade logs rude | grep -q gone; do sleep 0.1; done");
    for size in SIZES {
        let terminal = Terminal::open(world, size, home.path(), &[]);
        terminal.type_line("clear; palisade status shop; echo \"ended: $?\"");
        terminal.wait_line(&["ended: 0"]);
        // All of it is longer than the screen, and what is longer than a line goes on below its beginning.
        let lines = terminal.history();
        assert_fits(&lines, size.0);
        let begin = lines.iter().position(|line| line.starts_with("● shop - The shop")).expect("its name");
        let end = lines.iter().position(|line| line == "ended: 0").expect("it was waited for");
        for line in &lines[begin + 1..end] {
            assert!(
                line.get(10..11) == Some(":") || line.starts_with("            "),
                "{line:?} of {lines:#?}"
            );
        }
        let shop = pid(&home, "shop");
        for (title, value) in
            [("State", "active since "), ("PID", &shop.to_string()), ("Port", "127.0.0.1:8080")]
        {
            let is_it =
                |line: &String| line.trim_start().starts_with(&format!("{title}: ")) && line.contains(value);
            assert!(lines.iter().any(is_it), "{title} {value}: {lines:#?}");
        }
        // The line at the end is of this screen, where the others are of the one before as well.
        terminal.type_line("clear; palisade status shop | head -n 18; echo \"piped: $?\"");
        terminal.wait_line(&["piped: 0"]);
        terminal.wait_line(&["File: /etc/palisade/services.d/shop.toml"]);
        assert!(
            !terminal.coloured().contains("\u{1b}[3"),
            "a pipe has no colours: {:?}",
            terminal.coloured()
        );
        // What fits the smaller one stands on it as it is; the larger one has room for all of it.
        terminal.type_line(match size {
            (80, _) => "clear; palisade list; palisade status mail",
            _ => "clear; palisade list; palisade status shop",
        });
        terminal.wait_line(&["worker", " active ", " up "]);
        terminal.wait_line(&["File: /etc/palisade/services.d/"]);
        assert!(terminal.coloured().contains("\u{1b}[32mactive"), "{:?}", terminal.coloured());
        terminal.picture(&format!("status-{}x{}", size.0, size.1));

        let title = terminal.title();
        terminal.type_line("clear; palisade logs rude; palisade logs -f -n 5 worker");
        terminal.wait_line(&["\\x1b]0;owned\\x07\\x1b[2Jgone"]);
        let count = |lines: &[String]| lines.iter().filter(|line| line.contains(" is packed")).count();
        let first = count(&terminal.lines());
        terminal.wait("more lines", |lines| count(lines) > first + 3);
        assert_eq!(terminal.title(), title, "a service has set it");
        if size == SIZES[0] {
            terminal.picture("logs-80x24");
        }
        terminal.press(&["C-c"]);
        terminal.wait("prompt", |lines| {
            lines.iter().rev().find(|line| !line.is_empty()).is_some_and(|line| *line == PROMPT.trim())
        });
        terminal.close();
    }
    home.leave(world);
}

pub fn a_shell_has_the_terminal_that_it_is_called_from(world: &mut World) {
    let home = home(world);
    for size in SIZES {
        let other = SIZES.into_iter().find(|other| *other != size).expect("there are two");
        let rows = |(width, height): (u16, u16)| format!("{height} {width}");
        let terminal = Terminal::open(world, size, home.path(), &[]);
        let modes = || home.ok(&format!("stty -a -F {} | tail -n +2", terminal.tty()));
        let before = modes();
        terminal.type_line("clear; palisade shell shop; echo \"ended: $?\"");
        terminal.wait("prompt inside", |lines| {
            lines.first().is_some_and(|line| line.starts_with(['#', '$', '/']) && !line.contains("palisade"))
        });
        terminal.type_line("stty size; ps -A -o pid,comm");
        terminal.wait("its size", |lines| lines.iter().any(|line| *line == rows(size)));
        // Nobody but the service, the shell, and what it runs.
        let lines = terminal.wait("ps", |lines| lines.iter().any(|line| line.ends_with(" ps")));
        assert!(lines.iter().any(|line| line.ends_with(" busybox")), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("redis")), "{lines:#?}");
        assert_fits(&lines, size.0);
        if size == SIZES[0] {
            terminal.picture("shell-80x24");
        }
        // The window is made another size under it.
        terminal.resize(other);
        soon("the shell learns the new size", || {
            terminal.type_line("clear; stty size");
            terminal.lines().iter().any(|line| *line == rows(other))
        });
        // The key is for what runs inside.
        terminal.type_line("sleep 1000");
        soon("sleep runs", || home.shell("pgrep -x sleep -a | grep -q 1000").status.success());
        terminal.press(&["C-c"]);
        soon("sleep was interrupted", || !home.shell("pgrep -x sleep -a | grep -q 1000").status.success());
        terminal.type_line("exit 7");
        terminal.wait("end", |lines| lines.iter().any(|line| line == "ended: 7"));
        soon("the terminal is as it was", || modes() == before);
        terminal.close();
    }
    home.leave(world);
}
