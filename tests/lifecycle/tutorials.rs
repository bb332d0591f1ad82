//! The tutorials of docs/: what is written there is done, in the order of the page, by a shell.

use std::{fs, path::Path};

use crate::support::{World, home::Home, world::describe};

/// What a page has people type: its blocks of `sh`.
fn typed(page: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = fs::read_to_string(&path).expect("the page is there");
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap_or_default().to_owned()).collect()
}

pub fn what_tutorials_have_people_type_works(world: &mut World) {
    let home = Home::enter(world);
    // An outside to be kept from.
    let outside = home.shell(
        "ip link add up0 type veth peer name up1 && ip link set up1 up && ip link set up0 up
        ip addr add 192.0.2.1/24 dev up0",
    );
    assert!(outside.status.success(), "{}", describe(&outside));
    for block in ["first-steps.md", "from-systemd.md", "tutorial-web-apps.md"].into_iter().flat_map(typed) {
        let output = home.shell(&block);
        assert!(output.status.success(), "{block}\n{}\n{}", describe(&output), world.supervisor_log());
    }
    assert!(home.shell("ip link del up0").status.success());
    home.leave(world);
}
