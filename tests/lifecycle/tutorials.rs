//! The tutorials of docs/: what is written there is done, in the order of the page, by a shell.

use std::{fs, path::Path, process::Command, time::Duration};

use nix::{
    mount::{MsFlags, mount, umount},
    sys::signal::{Signal, kill},
};

use crate::support::{
    World, wait_until,
    world::{PALISADE, describe, raw},
};

/// Where the pages have people write.
const COVERED: [&str; 5] = ["/etc", "/run", "/srv", "/var/lib", "/var/log"];

/// What a page has people type: its blocks of `sh`.
fn typed(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = fs::read_to_string(&path).expect("the page is there");
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default().to_owned()).collect()
}

pub fn what_tutorials_have_people_type_works(world: &mut World) {
    // What is written there goes with the world.
    for dir in COVERED {
        let (upper, work) = (world.dir().join(format!("up{dir}")), world.dir().join(format!("work{dir}")));
        fs::create_dir_all(&upper).expect("our own directory");
        fs::create_dir_all(&work).expect("our own directory");
        let options = format!("lowerdir={dir},upperdir={},workdir={}", upper.display(), work.display());
        mount(Some("overlay"), dir, Some("overlay"), MsFlags::empty(), Some(options.as_str())).expect(dir);
    }
    fs::create_dir_all("/etc/palisade/services.d").expect("it is ours");
    let config = fs::read_to_string(world.dir().join("palisade.toml")).expect("the world has one");
    fs::write("/etc/palisade/palisade.toml", config).expect("it is ours");
    let bin = Path::new(PALISADE).parent().expect("a directory").display().to_string();
    let path = format!("{bin}:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut supervise = Command::new(PALISADE);
    supervise.arg("supervise");
    world.join_supervisor_log(&mut supervise);
    let mut supervisor = supervise.spawn().expect("it starts");
    let shell = |text: &str| {
        let mut shell = Command::new("timeout");
        shell.args(["120", "sh", "-e", "-c", text]).env_clear().env("PATH", &path).current_dir("/");
        shell.output().expect("sh")
    };
    wait_until("the supervisor answers", Duration::from_secs(20), || shell("palisade list").status.success());
    // An outside to be kept from.
    let outside = shell(
        "ip link add up0 type veth peer name up1 && ip link set up1 up && ip link set up0 up
        ip addr add 192.0.2.1/24 dev up0",
    );
    assert!(outside.status.success(), "{}", describe(&outside));
    for block in ["first-steps.md", "from-systemd.md", "tutorial-web-apps.md"].into_iter().flat_map(typed) {
        let output = shell(&block);
        assert!(output.status.success(), "{block}\n{}\n{}", describe(&output), world.supervisor_log());
    }
    kill(raw(supervisor.id()), Signal::SIGTERM).expect("it lives");
    assert!(supervisor.wait().expect("our child").success(), "{}", world.supervisor_log());
    assert!(shell("ip link del up0").status.success());
    for dir in COVERED {
        umount(dir).expect(dir);
    }
}
