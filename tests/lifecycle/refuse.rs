//! What is wrong is said: which file, which line, which step, which object.

use std::{net::TcpListener, time::Duration};

use crate::support::{
    World, wait_until,
    world::{describe, wait_http},
};

const NONE: &str = "network.mode = \"none\"";

/// Waits for the launch of `name` to have failed, and returns what `status` says.
fn fault(world: &World, name: &str) -> String {
    wait_until("the launch has failed", Duration::from_secs(20), || !world.status(name)["fault"].is_null());
    let output = world.palisade(&["status", name]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `check` says about the services directory; it must find something.
fn check(world: &World) -> String {
    let output = world.palisade(&["check", "--services", &world.services_dir().display().to_string()]);
    assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

pub fn three_mistakes_are_three_messages_and_the_others_go_on(world: &mut World) {
    let bad = "[service]\ncommand = \"/bin/true\"\nnicee = 3\n[restart]\ndelay = \"5 parsecs\"\n[log]\nfiles = \"many\"\n";
    world.write_service("bad", bad);
    world.write_service("good", &world.probe_toml(&["http", "80"], "network.publish = [\"8081:80\"]"));
    let said = check(world);
    for place in ["bad.toml:3:1", "bad.toml:5:9", "bad.toml:7:9"] {
        assert!(said.contains(place), "{place}: {said}");
    }
    assert!(said.matches('^').count() >= 3, "a caret each: {said}");
    assert!(said.contains("`nice`"), "the nearest key: {said}");
    world.start();
    assert_eq!(wait_http("127.0.0.1:8081", "/"), "good");
    assert_eq!(world.state("bad"), "broken");
}

pub fn a_missing_program_is_named(world: &mut World) {
    world.write_service("lost", &format!("service.command = \"/usr/bin/no-such-program\"\n{NONE}\n"));
    world.start();
    let said = fault(world, "lost");
    assert!(
        said.contains("exec") && said.contains("/usr/bin/no-such-program") && said.contains("ENOENT"),
        "{said}"
    );
}

pub fn a_missing_rootfs_is_named(world: &mut World) {
    let keys = format!("rootfs.base = \"dir\"\nrootfs.dir = \"/no/such/root\"\n{NONE}");
    world.write_service("lost", &world.probe_toml(&["wait"], &keys));
    world.start();
    let said = fault(world, "lost");
    assert!(said.contains("/no/such/root") && said.contains("ENOENT"), "{said}");
}

pub fn a_taken_port_is_named_with_who_has_it(world: &mut World) {
    let _taken = TcpListener::bind("127.0.0.1:8081").expect("the world's own loopback");
    world.write_service("web", &world.probe_toml(&["http", "80"], "network.publish = [\"8081:80\"]"));
    world.start();
    let said = fault(world, "web");
    assert!(said.contains("127.0.0.1:8081/tcp is taken by") && said.contains("pid 1"), "{said}");
}

pub fn two_services_with_one_address_are_named(world: &mut World) {
    for name in ["one", "two"] {
        world.write_service(name, &world.probe_toml(&["wait"], "network.address = \"10.83.0.77\""));
    }
    let said = check(world);
    assert!(said.contains("10.83.0.77") && said.contains("one") && said.contains("two"), "{said}");
}

pub fn a_dependency_cycle_is_named(world: &mut World) {
    for (name, other) in [("a", "b"), ("b", "c"), ("c", "a")] {
        let keys = format!("unit.requires = [\"{other}\"]\nunit.after = [\"{other}\"]");
        world.write_service(name, &world.probe_toml(&["wait"], &keys));
    }
    let said = check(world);
    assert!(said.contains("a -> b -> c -> a"), "{said}");
}

pub fn an_unknown_user_is_named(world: &mut World) {
    world.write_service("who", &world.probe_toml(&["wait"], "service.user = \"nobody-knows\""));
    let said = check(world);
    assert!(said.contains("nobody-knows") && said.contains("who.toml:"), "{said}");
}

pub fn unknown_names_and_absent_supervisors_have_their_exit_codes(world: &mut World) {
    assert_eq!(world.palisade(&["status", "web"]).status.code(), Some(5), "no supervisor");
    world.start();
    assert_eq!(world.palisade(&["status", "web"]).status.code(), Some(4), "no such service");
    assert_eq!(world.palisade(&["no-such-verb"]).status.code(), Some(2), "usage");
}
