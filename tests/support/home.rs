//! A host whose Palisade is where the packages put it: for what is written for people, who name no directory.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output},
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount, umount},
    sys::signal::{Signal, kill},
};

use super::{
    LONG, World, scaled, wait_until,
    world::{PALISADE, describe, raw},
};

/// Where things are written; in this world only, and gone with it.
const COVERED: [&str; 5] = ["/etc", "/run", "/srv", "/var/lib", "/var/log"];

/// A supervisor of `/etc/palisade`.
#[derive(Debug)]
pub struct Home {
    supervisor: Child,
    path: String,
}

impl Home {
    /// # Panics
    /// If it does not come up.
    pub fn enter(world: &World) -> Self {
        for dir in COVERED {
            let (upper, work) =
                (world.dir().join(format!("up{dir}")), world.dir().join(format!("work{dir}")));
            fs::create_dir_all(&upper).expect("our own directory");
            fs::create_dir_all(&work).expect("our own directory");
            let options = format!("lowerdir={dir},upperdir={},workdir={}", upper.display(), work.display());
            mount(Some("overlay"), dir, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
                .expect(dir);
        }
        fs::create_dir_all("/etc/palisade/services.d").expect("it is ours");
        let config = fs::read_to_string(world.dir().join("palisade.toml")).expect("the world has one");
        fs::write("/etc/palisade/palisade.toml", config).expect("it is ours");
        let bin = Path::new(PALISADE).parent().expect("a directory").display();
        let path = format!("{bin}:/usr/sbin:/usr/bin:/sbin:/bin");
        let home = Self { supervisor: Self::supervise(world), path };
        home.wait();
        home
    }

    fn supervise(world: &World) -> Child {
        let mut supervise = Command::new(PALISADE);
        supervise.arg("supervise");
        world.join_supervisor_log(&mut supervise);
        supervise.spawn().expect("it starts")
    }

    fn wait(&self) {
        wait_until("the supervisor answers", LONG, || self.shell("palisade list").status.success());
    }

    /// The search path that has the program under test.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Puts a service file where the packages want it.
    pub fn write_service(&self, name: &str, text: &str) {
        fs::write(format!("/etc/palisade/services.d/{name}.toml"), text).expect("it is ours");
    }

    /// What a shell makes of it, in two minutes (scaled) at most.
    pub fn shell(&self, text: &str) -> Output {
        let mut shell = Command::new("timeout");
        let time = scaled(Duration::from_secs(120)).as_secs().to_string();
        shell.args([&time, "sh", "-e", "-c", text]).env_clear().env("PATH", &self.path).current_dir("/");
        shell.output().expect("sh")
    }

    /// As [`Home::shell`], for what must succeed.
    pub fn ok(&self, text: &str) -> String {
        let output = self.shell(text);
        assert!(output.status.success(), "{text}\n{}", describe(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Kills the supervisor, which another one follows when `between` is over.
    pub fn replace_supervisor(&mut self, world: &World, between: impl FnOnce()) {
        kill(raw(self.supervisor.id()), Signal::SIGKILL).expect("it lives");
        self.supervisor.wait().expect("our child");
        between();
        self.supervisor = Self::supervise(world);
        self.wait();
    }

    /// Has the supervisor stop everything, and goes away.
    pub fn leave(mut self, world: &World) {
        kill(raw(self.supervisor.id()), Signal::SIGTERM).expect("it lives");
        assert!(self.supervisor.wait().expect("our child").success(), "{}", world.supervisor_log());
        for dir in COVERED {
            umount(dir).expect(dir);
        }
    }
}
