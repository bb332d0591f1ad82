//! One test's own corner of the machine: process ids, mounts, network, a cgroup name and directories.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::{
        fd::AsRawFd,
        unix::{fs::DirBuilderExt, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

use nix::{
    mount::MsFlags,
    sched::CloneFlags,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use serde_json::Value;

use super::{LONG, need, scaled, wait_for, wait_until};

/// The program under test.
pub const PALISADE: &str = env!("CARGO_BIN_EXE_palisade");
/// Where services that mount [`World::probe_mount`] find the probe.
pub const PROBE: &str = "/probe/probe";

/// How long an answer may take to a question that is asked once.
const PATIENCE: Duration = Duration::from_secs(30);

/// The network namespace that tests are started in, where alone the kernel tells of some things.
static FIRST_NETWORK: OnceLock<fs::File> = OnceLock::new();

/// Keeps the world of the test `name`: makes its directory and pid namespace, and clears up whatever became of it.
pub fn keep(name: &str) -> ExitCode {
    let dir = tempfile::Builder::new().prefix("palisade-test-").tempdir().expect("a temporary directory");
    let world = dir.path().file_name().expect("it has a name").to_string_lossy().into_owned();
    let me = std::env::current_exe().expect("own path");
    // unshare(2): the caller stays where it is, its next child is PID 1 of the new pid namespace.
    nix::sched::unshare(CloneFlags::CLONE_NEWPID).expect("the test needs root");
    let status = Command::new(me).args(["__test", name]).arg(dir.path()).status().expect("the test starts");
    if !status.success() {
        let log = fs::read_to_string(dir.path().join("supervisor.log")).unwrap_or_default();
        eprintln!("the test ended with {status}; the supervisor said:\n{log}");
    }
    // Every process of the world is dead, so nothing holds them; only a failed test has any.
    if let Some(root) = need::cgroup2_mount() {
        remove_cgroup(&Path::new(&root).join(world));
    }
    match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Removes a cgroup and those in it; their files go with them.
fn remove_cgroup(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // Absent is as good as removed; anything else shows up in the closing check of the whole suite.
    let _ = fs::remove_dir(dir);
}

/// Called as PID 1 of the world, before there is a second thread: leaves the machine's mounts and links.
pub fn enter() {
    let first = fs::File::open("/proc/self/ns/net").expect("the network namespace that it is started in");
    FIRST_NETWORK.set(first).expect("a world is entered once");
    let killed = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(killed).expect("prctl(PR_SET_PDEATHSIG)");
    nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("the test needs root");
    let none: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(none, "/", none, private, none).expect("mounts become private");
    // The process ids in the old one are not ours.
    nix::mount::mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
        .expect("proc of the world");
    let lo = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("iproute2 is installed");
    assert!(lo.success(), "loopback comes up");
}

/// Every process id of the world but PID 1.
pub fn pids() -> Vec<i32> {
    let all = fs::read_dir("/proc").expect("proc is mounted").flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(|&pid| pid != 1).collect()
}

/// One test's world. Made for it, handed to it, and compared with its beginning when the test has returned.
pub struct World {
    name: String,
    dir: PathBuf,
    supervisor: Option<Child>,
}

impl World {
    /// Lays out the directories and the supervisor's configuration in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let name = dir.file_name().expect("it has a name").to_string_lossy().into_owned();
        // mkdtemp(3) makes it 0700; services run as nobody known here and look at files in it.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("our own directory");
        for sub in ["services", "state", "log", "probe"] {
            fs::create_dir(dir.join(sub)).expect("a new directory is empty");
        }
        let me = std::env::current_exe().expect("own path");
        let probe = dir.join("probe/probe");
        // A link where the file systems are one, else a copy.
        fs::hard_link(&me, &probe).or_else(|_| fs::copy(&me, &probe).map(drop)).expect("the probe");
        let world = Self { name, dir, supervisor: None };
        // It outlives every supervisor, as /run/palisade does: a lock whose directory may vanish would lock nothing.
        fs::DirBuilder::new().mode(0o755).create(world.run_dir()).expect("our own directory");
        let config = format!(
            "[cgroup]\npath = \"{}\"\n[network]\nname = \"ptest\"\nprefix4 = \"10.83.0.0/16\"\nprefix6 = \"fd50:5300:83::/64\"\n\
             [ids]\nbase = 1879048192\ncount = 64\n",
            world.name
        );
        world.write("palisade.toml", &config);
        world
    }

    /// The name of the world and of its top cgroup.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory for whatever the test wants to keep, mode 0755, gone afterwards.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the supervisor gets as `--run`.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// What the supervisor gets as `--services`.
    pub fn services_dir(&self) -> PathBuf {
        self.dir.join("services")
    }

    /// The control group directory that this world's supervisor owns.
    pub fn cgroup(&self) -> PathBuf {
        Path::new(&need::cgroup2_mount().expect("declared as a need")).join(&self.name)
    }

    /// Writes `text` to `path` below [`World::dir`], mode 0644, making directories on the way.
    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.dir.join(path);
        fs::create_dir_all(path.parent().expect("it is below the directory")).expect("our own directory");
        fs::write(&path, text).expect("our own directory");
        path
    }

    /// Puts a service file into the services directory.
    pub fn write_service(&self, name: &str, toml: &str) -> PathBuf {
        self.write(&format!("services/{name}.toml"), toml)
    }

    /// The entry of `rootfs.mounts` that shows the probe to a service as [`PROBE`].
    pub fn probe_mount(&self) -> String {
        format!("{{ src = \"{}\", dst = \"/probe\", exec = true }}", self.dir.join("probe").display())
    }

    /// A service file that runs the probe with `args`. Further keys are given in dotted form (`service.umask = …`),
    /// because TOML lets a table be opened only once.
    pub fn probe_toml(&self, args: &[&str], keys: &str) -> String {
        let argv: Vec<&str> = [PROBE, "__probe"].into_iter().chain(args.iter().copied()).collect();
        format!("service.command = {argv:?}\nrootfs.mounts = [{}]\n{keys}\n", self.probe_mount())
    }

    /// Runs the palisade program against this world's supervisor.
    pub fn palisade(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program under test starts")
    }

    /// As [`World::palisade`], not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PALISADE);
        command.arg("--config").arg(self.dir.join("palisade.toml")).arg("--run").arg(self.run_dir());
        command.args(args).stdin(Stdio::null());
        command
    }

    /// As [`World::palisade`], for a command that must succeed. Returns what it printed.
    ///
    /// # Panics
    /// When it does not exit with 0: with all that it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.palisade(args);
        assert!(output.status.success(), "palisade {args:?}: {}", describe(&output));
        String::from_utf8(output.stdout).expect("palisade prints UTF-8")
    }

    /// As [`World::ok`] with `--json`, parsed.
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["--json"]).collect();
        let text = self.ok(&args);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("palisade {args:?}: {e} in {text:?}"))
    }

    /// The options that keep state and logs within the world.
    pub fn places(&self) -> [PathBuf; 4] {
        ["--state".into(), self.dir.join("state"), "--log".into(), self.dir.join("log")]
    }

    /// Runs one service file in the foreground, as `palisade run FILE` does.
    pub fn run(&self, toml: &str) -> Output {
        let file = self.write("single/once.toml", toml);
        self.command(&["run"]).args(self.places()).arg(file).output().expect("the program under test starts")
    }

    /// What starts the supervisor, with its words going to [`World::supervisor_log`].
    pub fn supervise(&self) -> Command {
        let mut command = self.command(&["supervise", "--services"]);
        command.arg(self.services_dir()).args(self.places());
        self.join_supervisor_log(&mut command);
        command
    }

    /// As [`World::supervise`], in the network namespace that the tests are started in: for services without a network.
    pub fn supervise_in_first_network(&self) -> Command {
        let supervise = self.supervise();
        // A descriptor of ours, who are pid 1 of the world.
        let first = FIRST_NETWORK.get().expect("the world was entered").as_raw_fd();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/1/fd/{first}"));
        command.arg(supervise.get_program()).args(supervise.get_args());
        self.join_supervisor_log(&mut command);
        command
    }

    /// Does something in that namespace, in a thread that ends with it.
    pub fn in_first_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let first = FIRST_NETWORK.get().expect("the world was entered");
        let there = || {
            nix::sched::setns(first, CloneFlags::CLONE_NEWNET).expect("root may");
            work()
        };
        std::thread::scope(|scope| scope.spawn(there).join().expect("it says what is wrong"))
    }

    /// Sends what `command` prints to [`World::supervisor_log`].
    pub fn join_supervisor_log(&self, command: &mut Command) {
        let log = fs::File::options().create(true).append(true).open(self.dir.join("supervisor.log"));
        let log = log.expect("our own directory");
        command.stdout(log.try_clone().expect("dup")).stderr(log);
    }

    /// Starts the supervisor and waits until it answers.
    pub fn start(&mut self) {
        self.start_by(self.supervise());
    }

    /// As [`World::start`], by a command that [`World::supervise`] began.
    pub fn start_by(&mut self, mut command: Command) {
        assert!(self.supervisor.is_none(), "one supervisor at a time");
        self.supervisor = Some(command.spawn().expect("the program under test starts"));
        wait_until("the supervisor answers", LONG, || {
            if let Some(status) = self.supervisor_ended() {
                panic!("the supervisor ended at once: {status}\n{}", self.supervisor_log());
            }
            self.palisade(&["list"]).status.success()
        });
    }

    /// Starts a supervisor that is to kill itself. False: it has done so before it answered.
    ///
    /// # Panics
    /// When it ends in another way.
    pub fn start_to_die(&mut self, mut command: Command) -> bool {
        assert!(self.supervisor.is_none(), "one supervisor at a time");
        self.supervisor = Some(command.spawn().expect("the program under test starts"));
        wait_for("the supervisor answers or dies", LONG, || match self.has_died() {
            true => Some(false),
            false => self.palisade(&["list"]).status.success().then_some(true),
        })
    }

    /// Whether the supervisor has been killed by SIGKILL; then it is forgotten.
    ///
    /// # Panics
    /// When it has ended in another way.
    pub fn has_died(&mut self) -> bool {
        let Some(status) = self.supervisor_ended() else { return self.supervisor.is_none() };
        let log = self.supervisor_log();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "the supervisor ended: {status}\n{log}");
        self.supervisor = None;
        true
    }

    /// The supervisor's process id.
    pub fn supervisor_pid(&self) -> u32 {
        self.supervisor.as_ref().expect("the supervisor was started").id()
    }

    /// What the supervisor has written to its standard error.
    pub fn supervisor_log(&self) -> String {
        fs::read_to_string(self.dir.join("supervisor.log")).unwrap_or_default()
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: Signal) {
        kill(raw(self.supervisor_pid()), signal).expect("the supervisor lives");
    }

    /// Kills the supervisor with SIGKILL; its services are to live on.
    pub fn kill_supervisor(&mut self) {
        let mut supervisor = self.supervisor.take().expect("the supervisor was started");
        supervisor.kill().expect("it is our child");
        let status = supervisor.wait().expect("it is our child");
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "it was alive until then");
    }

    /// Ends the supervisor with SIGTERM, if it runs. Returns what was wrong with the way it ended.
    pub fn stop(&mut self) -> Result<(), String> {
        let Some(mut supervisor) = self.supervisor.take() else { return Ok(()) };
        kill(raw(supervisor.id()), Signal::SIGTERM).map_err(|e| format!("cannot be signalled: {e}"))?;
        let start = std::time::Instant::now();
        loop {
            match supervisor.try_wait().map_err(|e| e.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("ended with {status} after SIGTERM")),
                None if start.elapsed() > scaled(LONG) => break,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        supervisor.kill().and_then(|()| supervisor.wait()).map_err(|e| e.to_string())?;
        Err(format!("still there {:?} after SIGTERM", scaled(LONG)))
    }

    /// How the supervisor ended, if it did.
    pub fn supervisor_ended(&mut self) -> Option<ExitStatus> {
        self.supervisor.as_mut()?.try_wait().expect("it is our child")
    }

    /// The duty of PID 1: buries orphans of the world that have died, but no child that somebody here waits for.
    pub fn reap(&self) {
        let supervisor = self.supervisor.as_ref().map(Child::id);
        for pid in pids() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let dead = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with("Z 1 "));
            if dead && supervisor != pid.try_into().ok() {
                // Somebody else's wait in between is no harm: then there is nothing to bury.
                let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
            }
        }
    }

    /// The status of one service, as `status --json` has it.
    pub fn status(&self, name: &str) -> Value {
        let all = self.json(&["list"]);
        let list = all["services"].as_array().unwrap_or_else(|| panic!("list --json has no list: {all}"));
        let found = list.iter().find(|s| s["name"] == name);
        found.cloned().unwrap_or_else(|| panic!("no {name} in {all}"))
    }

    /// The service's state, such as `active`.
    pub fn state(&self, name: &str) -> String {
        self.status(name)["state"].as_str().expect("a state is text").to_owned()
    }

    /// The main process of the service as this world sees it.
    pub fn pid(&self, name: &str) -> u32 {
        let status = self.status(name);
        let pid = status["pid"].as_u64().unwrap_or_else(|| panic!("{name} has no pid: {status}"));
        pid.try_into().expect("a pid has 22 bits")
    }

    /// The number of the service's run.
    pub fn run_id(&self, name: &str) -> u64 {
        self.status(name)["run"].as_u64().expect("a run is a number")
    }

    /// The service's first address.
    pub fn address(&self, name: &str) -> String {
        let status = self.status(name);
        status["addresses"][0]
            .as_str()
            .unwrap_or_else(|| panic!("{name} has no address: {status}"))
            .to_owned()
    }

    /// Waits until the service is in `state`.
    pub fn wait_state(&self, name: &str, state: &str) {
        let what = format!("{name} is {state}");
        wait_until(&what, LONG, || self.state(name) == state);
    }

    /// The lines that the service has written.
    pub fn logs(&self, name: &str) -> String {
        self.ok(&["logs", name])
    }
}

/// A process id in nix's form.
pub fn raw(pid: u32) -> Pid {
    Pid::from_raw(pid.try_into().expect("a pid has 22 bits"))
}

/// What a program printed and how it ended, for messages.
pub fn describe(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\nstdout: {}\nstderr: {}", output.status, text(&output.stdout), text(&output.stderr))
}

/// One HTTP/1.0 request on a connection of its own. Returns the body of a 200 answer.
///
/// # Errors
/// Whatever a client of flesh and blood would see: refused, reset, timed out, another status.
pub fn http_get(address: &str, path: &str) -> Result<String, String> {
    http_within(address, path, scaled(PATIENCE))
}

/// As [`http_get`], for one who asks until there is an answer: whoever connects to a server that is going away may hear
/// nothing at all, and is as well off asking again where all takes its time.
///
/// # Errors
/// As for [`http_get`].
pub fn http_soon(address: &str, path: &str) -> Result<String, String> {
    http_within(address, path, scaled(Duration::from_secs(1)).min(Duration::from_secs(3)))
}

fn http_within(address: &str, path: &str, time: Duration) -> Result<String, String> {
    let answer = tcp_within(address, time, format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes())?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(format!("no HTTP: {answer:?}"))?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(head.lines().next().unwrap_or_default().to_owned()),
    }
}

/// Sends `request`, says that there is no more, and returns everything that comes back.
///
/// # Errors
/// As for [`http_get`].
pub fn tcp(address: &str, request: &[u8]) -> Result<Vec<u8>, String> {
    tcp_within(address, scaled(PATIENCE), request)
}

fn tcp_within(address: &str, time: Duration, request: &[u8]) -> Result<Vec<u8>, String> {
    let address: SocketAddr = address.parse().map_err(|e| format!("{address}: {e}"))?;
    let mut stream = TcpStream::connect_timeout(&address, time).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(time)).map_err(|e| e.to_string())?;
    stream.write_all(request).map_err(|e| format!("write: {e}"))?;
    stream.shutdown(std::net::Shutdown::Write).map_err(|e| format!("shutdown: {e}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|e| format!("read: {e}"))?;
    Ok(answer)
}

/// Waits until `address` answers a GET of `path`, and returns the body.
pub fn wait_http(address: &str, path: &str) -> String {
    wait_for(&format!("http://{address}{path} answers"), LONG, || http_soon(address, path).ok())
}
