//! A host whose controllers belong to cgroup v1: nothing pretends to bound what is not bounded.

use crate::{
    control::{QUIET, detail, says},
    support::{World, world::describe},
};

pub fn what_the_host_cannot_do_is_refused_by_line(world: &mut World) {
    let keys = format!(
        "{QUIET}limits.memory.max = \"64M\"\nlimits.cpu.weight = 20\nlimits.io.max = [{{ device = \"/\", wbps = 1 }}]\n"
    );
    let path = world.write_service("web", &world.probe_toml(&["wait"], &keys));
    let output = world.palisade(&["check", path.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for key in ["limits.memory.max", "limits.cpu.weight", "limits.io.max"] {
        assert!(said.contains(&format!("`{key}` cannot be enforced")), "{said}");
    }
    assert!(said.contains("web.toml:5:21"), "{said}");
    assert!(said.contains("best_effort = true"), "{said}");
    let output = world.run(&world.probe_toml(&["print", "started"], &keys));
    assert_eq!(output.status.code(), Some(2), "{}", describe(&output));
    assert_eq!(output.stdout, b"", "nothing was started");
}

pub fn what_may_bend_is_told(world: &mut World) {
    let keys = format!("{QUIET}limits.memory.max = \"64M\"\nlimits.best_effort = true\n");
    world.write_service("web", &world.probe_toml(&["wait"], &keys));
    world.write_service("empty", &world.probe_toml(&["wait"], QUIET));
    world.start();
    for (name, asked) in [("web", Some("67108864")), ("empty", None)] {
        world.wait_state(name, "active");
        let detail = detail(world, name);
        let limits = detail["limits"].as_array().expect("a list");
        let max = limits.iter().find(|limit| limit["key"] == "limits.memory.max").expect("it is told");
        assert!(max["enforced"].is_null() && max["why"].is_string(), "{max}");
        assert!(asked.is_none_or(|asked| max["asked"] == asked), "{max}");
        let said = world.ok(&["status", name]);
        assert!(said.contains("limits.memory.max") && said.contains("not enforced"), "{said}");
    }
    assert!(
        detail(world, "web")["usage"]["cpu_user_usec"].is_u64(),
        "CPU time is counted without a controller"
    );
}

pub fn rlimit_nproc_stands_in_for_pids_max(world: &mut World) {
    world.write_service(
        "bomb",
        &world.probe_toml(&["fork", "100"], &format!("{QUIET}limits.pids.max = 20\n")),
    );
    world.start();
    let said = says(world, "bomb", "forked");
    assert!(said.contains("forked 19 stopped by EAGAIN"), "{said}");
    assert!(world.ok(&["status", "bomb"]).contains("RLIMIT_NPROC 20"));
}
