//! The link of an ordinary user's service: a program of his own that has sockets out here and a device in there.
//!
//! Both confine themselves (pasta by namespaces of its own and seccomp, slirp4netns by seccomp alone), run as the user, and are killed by the kernel should we die.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::fs::{Access, AtFlags, CWD};

use super::LaunchFault;
use crate::{
    net::reserve,
    plan::unprivileged::{Carrier, UserLink},
    spec::{Proto, Publish},
    sys::{SysError, clone},
};

/// How long it has to come up.
const TIME: Duration = Duration::from_secs(10);
/// The network of the link, below the prefix of root's services.
const NETWORK: &str = "10.83.0.0/24";
/// Of the service's end; locally administered, and nobody else is on the link.
const MAC: &str = "02:00:00:00:00:02";
/// pasta's: of the service, and of itself.
const ADDRESS: &str = "10.83.0.2";
const GATEWAY: &str = "10.83.0.1";
/// slirp4netns(1): the service has the 100th address of its network.
const SLIRP_ADDRESS: &str = "10.83.0.100";

/// The program that runs; it ends with this.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    /// The ends of its output that we hold: without them its next word would be its last.
    said: Vec<OwnedFd>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; then there is only its status left to take.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// What it has said, once it has ended.
    fn last_words(&mut self) -> String {
        let mut text = String::new();
        if let Some(said) = self.said.pop() {
            let _ = std::fs::File::from(said).read_to_string(&mut text);
        }
        text.lines().filter(|line| !line.contains("syslog")).collect::<Vec<_>>().join("; ")
    }
}

/// Starts it on the namespaces of `pid`, and waits until its ports are bound. `dir` is ours to put files in.
pub(super) fn start(link: &UserLink, pid: u32, dir: &Path) -> Result<Running, Box<LaunchFault>> {
    try_start(link, pid, dir).map_err(|reason| LaunchFault::refused("user.link", &reason))
}

fn try_start(link: &UserLink, pid: u32, dir: &Path) -> Result<Running, String> {
    let tun = rustix::fs::accessat(CWD, "/dev/net/tun", Access::READ_OK | Access::WRITE_OK, AtFlags::empty());
    tun.map_err(|errno| {
        format!("/dev/net/tun: {errno}: have root load the module tun, or let you read and write the node")
    })?;
    for publish in &link.publish {
        // For a message that names who has the port; the program binds it a moment later.
        reserve::reserve(publish).map_err(|error| error.to_string())?;
    }
    std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    match link.carrier {
        Carrier::Pasta => pasta(link, pid, dir),
        Carrier::Slirp4netns => slirp4netns(link, pid, dir),
    }
}

fn pasta(link: &UserLink, pid: u32, dir: &Path) -> Result<Running, String> {
    let pid_file = dir.join("pasta.pid");
    let mut command = Command::new(&link.program);
    command.args(pasta_arguments(link, pid)).arg("--pid").arg(&pid_file).stdout(Stdio::null());
    let running = spawn(command)?;
    // It writes the file when everything is bound.
    wait(running, link, || std::fs::read(&pid_file).is_ok_and(|text| !text.is_empty()))
}

fn pasta_arguments(link: &UserLink, pid: u32) -> Vec<String> {
    let mut arguments = vec!["--foreground".to_owned(), "--quiet".into(), "--ipv4-only".into()];
    let mut push = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
    push("--userns", &format!("/proc/{pid}/ns/user"));
    push("--netns", &format!("/proc/{pid}/ns/net"));
    push("--ns-ifname", "eth0");
    // Said, or pasta broadcasts what it has for the service until that has sent something, and a kernel drops TCP that
    // comes by broadcast: the first clients would not be answered.
    push("--ns-mac-addr", MAC);
    // An address of its own: with the host's, the host would be out of reach by accident instead of by rule.
    push("--address", ADDRESS);
    push("--netmask", "24");
    push("--gateway", GATEWAY);
    if let Some(mtu) = link.mtu {
        push("--mtu", &mtu.to_string());
    }
    // Never the other way: what listens on the host's loopback is none of the service's business.
    push("--tcp-ns", "none");
    push("--udp-ns", "none");
    for (name, proto) in [("--tcp-ports", Proto::Tcp), ("--udp-ports", Proto::Udp)] {
        let mut ports = link.publish.iter().filter(|publish| publish.proto == proto).peekable();
        if ports.peek().is_none() {
            push(name, "none");
        }
        for publish in ports {
            let Publish { address, host_port, port, .. } = publish;
            let address = if address.is_unspecified() { String::new() } else { format!("{address}/") };
            push(name, &format!("{address}{host_port}:{port}"));
        }
    }
    for flag in ["--no-map-gw", "--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra"] {
        arguments.push(flag.to_owned());
    }
    if link.has_address() {
        arguments.push("--config-net".to_owned());
    }
    arguments
}

fn slirp4netns(link: &UserLink, pid: u32, dir: &Path) -> Result<Running, String> {
    let socket = dir.join("slirp4netns.sock");
    let mut command = Command::new(&link.program);
    command.args(["--configure", "--disable-host-loopback", "--disable-dns"]);
    command.args(["--enable-seccomp", "--netns-type=path", "--ready-fd=1"]);
    // Without --enable-sandbox: that begins with setegid(0) in the namespace of `--userns-path`, EPERM [1.2.0].
    command.arg(format!("--mtu={}", link.mtu.unwrap_or(65520))).arg(format!("--cidr={NETWORK}"));
    command.arg(format!("--userns-path=/proc/{pid}/ns/user"));
    command.arg("--api-socket").arg(&socket).arg(format!("/proc/{pid}/ns/net")).arg("eth0");
    // A word on it says that the device is configured.
    command.stdout(Stdio::piped());
    let mut running = spawn(command)?;
    let stdout = running.child.stdout.take().ok_or("it has no output")?;
    rustix::io::ioctl_fionbio(&stdout, true).map_err(|errno| errno.to_string())?;
    let mut ready = std::fs::File::from(OwnedFd::from(stdout));
    // Its socket comes a moment after the word.
    let mut is_configured = false;
    let mut running = wait(running, link, || {
        is_configured |= ready.read(&mut [0; 8]).is_ok_and(|read| read > 0);
        is_configured && UnixStream::connect(&socket).is_ok()
    })?;
    running.said.push(ready.into());
    for publish in &link.publish {
        forward(&socket, publish).map_err(|reason| format!("slirp4netns: {publish}: {reason}"))?;
    }
    Ok(running)
}

/// Asks slirp4netns for a port.
fn forward(socket: &Path, publish: &Publish) -> Result<(), String> {
    let request = serde_json::json!({
        "execute": "add_hostfwd",
        "arguments": {
            "proto": publish.proto.to_string(),
            "host_addr": publish.address.to_string(),
            "host_port": publish.host_port,
            "guest_addr": SLIRP_ADDRESS,
            "guest_port": publish.port,
        },
    });
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIME))?;
        stream.write_all(request.to_string().as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.take(65536).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| error.to_string())?;
    let value: serde_json::Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
    match value.get("return") {
        Some(_) => Ok(()),
        None => Err(value["error"]["desc"].as_str().unwrap_or("no answer").to_owned()),
    }
}

/// Starts it, with nothing of our environment; its words go to the pipe that comes back.
fn spawn(mut command: Command) -> Result<Running, String> {
    // Never to wait for a reader: one who does not read what it says must not hold up the network.
    let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
    let (said, stderr) =
        rustix::pipe::pipe_with(flags).map_err(|errno| SysError::new("pipe2", "", errno).to_string())?;
    command.env_clear().stdin(Stdio::null()).stderr(stderr);
    let child = clone::spawn_bound(&mut command)
        .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    // Our copy of the write end goes with the command: what was said can be read to its end.
    Ok(Running { child, said: vec![said] })
}

/// Waits until it is ready; else says what it said.
fn wait(
    mut running: Running,
    link: &UserLink,
    mut is_ready: impl FnMut() -> bool,
) -> Result<Running, String> {
    let deadline = Instant::now() + TIME;
    loop {
        if is_ready() {
            return Ok(running);
        }
        let ended = running.child.try_wait().map_err(|error| error.to_string())?;
        if ended.is_none() && Instant::now() < deadline {
            // The pace of asking: none of them has a descriptor to wait for that also tells of its end.
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let _ = running.child.kill();
        let _ = running.child.wait();
        let how = ended.map_or("did not come up".to_owned(), |status| status.to_string());
        return Err(format!("{} {how}: {}", link.program.display(), running.last_words()));
    }
}
