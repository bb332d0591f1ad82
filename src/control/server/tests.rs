use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
};

use rustix::event::{PollFd, PollFlags, poll};
use std::ops::ControlFlow;

use serde_json::{Value, json};
use varlink::MethodCall;

use super::*;
use crate::control::{
    client::{CallError, Client},
    proto::{Exec, Logs, Names},
    types::{Pong, Session},
};

fn bound() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::bind(dir.path(), None).unwrap();
    (dir, server)
}

/// One turn of a supervisor's loop, which waits until something is ready; true when that was `also`.
fn turn(server: &mut Server, also: BorrowedFd<'_>, answer: &mut impl FnMut(&mut Server, Incoming)) -> bool {
    let interests: Vec<Interest<'_>> = server.interests().collect();
    let mut fds: Vec<PollFd<'_>> = interests
        .iter()
        .map(|interest| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, interest.read);
            flags.set(PollFlags::OUT, interest.write);
            PollFd::from_borrowed_fd(interest.fd, flags)
        })
        .collect();
    fds.push(PollFd::from_borrowed_fd(also, PollFlags::IN));
    poll(&mut fds, None).unwrap();
    let ready: Vec<(Source, PollFlags)> =
        interests.iter().zip(&fds).map(|(interest, fd)| (interest.source, fd.revents())).collect();
    let is_over = !fds[fds.len() - 1].revents().is_empty();
    for (source, flags) in ready.into_iter().filter(|(_, flags)| !flags.is_empty()) {
        let readiness = Readiness {
            readable: flags.contains(PollFlags::IN),
            writable: flags.contains(PollFlags::OUT),
            hangup: flags.intersects(PollFlags::HUP | PollFlags::ERR),
        };
        server.ready(source, readiness);
    }
    while let Some(incoming) = server.next() {
        answer(server, incoming);
    }
    is_over
}

/// Runs `client` beside a supervisor's loop, and gives what it gives.
fn beside<T: Send>(
    server: &mut Server,
    client: impl FnOnce() -> T + Send,
    mut answer: impl FnMut(&mut Server, Incoming),
) -> T {
    let (over, alive) = std::io::pipe().unwrap();
    thread::scope(|scope| {
        let client = scope.spawn(move || {
            let result = client();
            drop(alive);
            result
        });
        while !turn(server, over.as_fd(), &mut answer) {}
        client.join().unwrap()
    })
}

fn pong(server: &mut Server, incoming: Incoming) {
    if let Incoming::Request(request) = incoming {
        assert_eq!(request.method, Method::Ping);
        server.reply(request.client, &Pong { version: "1".into(), pid: 1 }, false);
    }
}

fn ping(dir: &Path) -> Result<Pong, CallError> {
    Client::connect(dir)?.call(&Method::Ping)
}

fn raw(dir: &Path) -> UnixStream {
    UnixStream::connect(dir.join(SOCKET_NAME)).unwrap()
}

/// What the other side answers until it hangs up.
fn rest(mut stream: &UnixStream) -> Vec<u8> {
    let mut answer = Vec::new();
    // A reset is a hang-up, too: there was something that the server had not read.
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// How many descriptors of this process are of that file.
fn open_count(path: &Path) -> usize {
    let fds = fs::read_dir("/proc/self/fd").unwrap();
    fds.filter(|fd| fs::read_link(fd.as_ref().unwrap().path()).is_ok_and(|target| target == path)).count()
}

#[test]
fn the_socket_is_for_root_and_one_group_and_goes_with_the_server() {
    let (dir, server) = bound();
    let metadata = fs::metadata(dir.path().join(SOCKET_NAME)).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o660);
    drop(server);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_live_socket_is_refused_and_a_dead_one_replaced() {
    let (dir, server) = bound();
    assert!(matches!(Server::bind(dir.path(), None), Err(BindError::Live(_))));
    drop(server);
    drop(std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap());
    let server = Server::bind(dir.path(), None).unwrap();
    drop(server);
    let foreign = std::os::unix::net::UnixListener::bind(dir.path().join(SOCKET_NAME)).unwrap();
    assert!(matches!(Server::bind(dir.path(), None), Err(BindError::Live(_))));
    drop(foreign);
    fs::remove_file(dir.path().join(SOCKET_NAME)).unwrap();
    fs::write(dir.path().join(SOCKET_NAME), "").unwrap();
    let error = Server::bind(dir.path(), None).unwrap_err().to_string();
    assert!(error.ends_with("control.sock: is not a socket"), "{error}");
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let error = Server::bind(dir.path(), None).unwrap_err().to_string();
    assert!(error.ends_with("others than its owner may write to it; chmod go-w"), "{error}");
}

#[test]
fn another_implementation_of_varlink_can_talk_to_it() {
    let (dir, mut server) = bound();
    let address = format!("unix:{}", dir.path().join(SOCKET_NAME).display());
    let (info, description, pong, error) = beside(
        &mut server,
        move || {
            let connection = varlink::Connection::with_address(&address).unwrap();
            let mut service = varlink::OrgVarlinkServiceClient::new(connection.clone());
            use varlink::OrgVarlinkServiceInterface;
            let info = service.get_info().unwrap();
            let description = service.get_interface_description("io.palisade").unwrap().description;
            let call = |method: &'static str| {
                MethodCall::<Value, Value, varlink::Error>::new(connection.clone(), method, json!({})).call()
            };
            (info, description, call("io.palisade.Ping"), call("io.palisade.Fly"))
        },
        self::pong,
    );
    assert_eq!(info.interfaces, ["org.varlink.service", "io.palisade"]);
    assert_eq!(description.as_deref(), Some(proto::INTERFACE));
    assert_eq!(pong.unwrap(), json!({ "version": "1", "pid": 1 }));
    assert!(
        matches!(error.unwrap_err().kind(), varlink::ErrorKind::MethodNotFound(name) if name == "io.palisade.Fly")
    );
}

#[test]
fn the_peer_is_who_the_kernel_says() {
    let (dir, mut server) = bound();
    let path = dir.path().to_owned();
    let mut seen = None;
    beside(
        &mut server,
        move || ping(&path).unwrap(),
        |server, incoming| {
            if let Incoming::Request(request) = &incoming {
                seen = Some(request.peer.clone());
            }
            pong(server, incoming);
        },
    );
    let own = Peer {
        uid: rustix::process::getuid().as_raw(),
        gids: std::iter::once(rustix::process::getgid())
            .chain(rustix::process::getgroups().unwrap())
            .map(rustix::fs::Gid::as_raw)
            .collect(),
        pid: std::process::id().try_into().unwrap(),
    };
    assert_eq!(seen, Some(own));
}

#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    let (dir, mut server) = bound();
    let path = dir.path().to_owned();
    let answers = beside(
        &mut server,
        move || {
            let garbage: [&[u8]; 5] =
                [b"\0", b"GET / HTTP/1.1\r\n\r\n\0", b"\xff\xfe\0", b"{\"method\":7}\0", b"[[[[[[\0"];
            let answers: Vec<Vec<u8>> = garbage
                .iter()
                .map(|bytes| {
                    let mut stream = raw(&path);
                    stream.write_all(bytes).unwrap();
                    rest(&stream)
                })
                .collect();
            assert_eq!(ping(&path).unwrap().pid, 1);
            answers
        },
        pong,
    );
    assert_eq!(answers, vec![Vec::<u8>::new(); 5]);
}

#[test]
fn a_request_without_end_is_cut_off_at_a_mebibyte() {
    let (dir, mut server) = bound();
    let path = dir.path().to_owned();
    let written = beside(
        &mut server,
        move || {
            let mut stream = raw(&path);
            let piece = [b'x'; 4096];
            let written = (0..100_000).take_while(|_| stream.write_all(&piece).is_ok()).count();
            assert_eq!(ping(&path).unwrap().pid, 1);
            written * piece.len()
        },
        pong,
    );
    // Beside the mebibyte there is what the socket buffers hold.
    assert!(written < 3 << 20, "{written}");
}

#[test]
fn half_a_request_is_given_up_after_ten_seconds() {
    let (dir, mut server) = bound();
    let mut slow = raw(dir.path());
    let idle = raw(dir.path());
    slow.write_all(b"{\"method\"").unwrap();
    while server.clients.values().filter(|client| client.frames.is_mid_message()).count() == 0 {
        turn(&mut server, idle.as_fd(), &mut pong);
    }
    assert_eq!(server.tick(Mono(5_000)), Some(Mono(15_000)));
    slow.write_all(b":").unwrap();
    turn(&mut server, idle.as_fd(), &mut pong);
    // A byte now and then does not buy time.
    assert_eq!(server.tick(Mono(14_999)), Some(Mono(15_000)));
    assert_eq!(server.clients.len(), 2);
    assert_eq!(server.tick(Mono(15_000)), None);
    assert_eq!(server.clients.len(), 1);
    assert_eq!(rest(&slow), b"");
}

#[test]
fn three_hundred_idle_connections_keep_nobody_out() {
    let (dir, mut server) = bound();
    let path = dir.path().to_owned();
    beside(
        &mut server,
        move || {
            let idle: Vec<UnixStream> = (0..300)
                .map(|_| {
                    let mut stream = raw(&path);
                    stream.write_all(b"{").unwrap();
                    stream
                })
                .collect();
            assert_eq!(ping(&path).unwrap().pid, 1);
            drop(idle);
        },
        |server, incoming| {
            assert!(server.clients.len() <= CLIENTS_MAX);
            pong(server, incoming);
        },
    );
}

#[test]
fn passed_descriptors_are_closed_again() {
    let (dir, mut server) = bound();
    let path = dir.path().to_owned();
    let passed = tempfile::NamedTempFile::new().unwrap();
    let file = passed.path().to_owned();
    let most = beside(
        &mut server,
        move || {
            let fds: [OwnedFd; 3] = [0; 3].map(|_| File::open(&file).unwrap().into());
            let mut most = 0;
            for message in [b"x".as_slice(), b"{\"method\":\"io.palisade.Ping\"}\0"] {
                let stream = raw(&path);
                // Until the server has had enough of it.
                let _ = (0..500)
                    .try_for_each(|_| wire::send(&stream, message, &fds, SendFlags::empty()).map(drop));
                most = most.max(open_count(&file));
            }
            ping(&path).unwrap();
            most
        },
        pong,
    );
    // Ours, the one in `passed`, and what one connection may hold while it is looked at.
    assert!(most <= 3 + 1 + 2 * 12, "{most}");
    let waker = File::open("/dev/null").unwrap();
    while !server.clients.is_empty() {
        turn(&mut server, waker.as_fd(), &mut pong);
    }
    assert_eq!(open_count(passed.path()), 1);
}

#[test]
fn exec_gets_its_three_descriptors_and_gives_one_back() {
    let (dir, mut server) = bound();
    let path = dir.path().to_owned();
    let exec = |tty| {
        Method::Exec(Exec {
            name: "web".into(),
            command: vec!["cat".into()],
            tty,
            cols: None,
            rows: None,
            env: vec![],
            user: None,
        })
    };
    let (read, ended) = beside(
        &mut server,
        move || {
            let mut client = Client::connect(&path).unwrap();
            let error = client.call::<Session>(&exec(false)).unwrap_err().to_string();
            assert_eq!(error, "invalid parameter: three descriptors go with this call");
            let (mut output, into) = std::io::pipe().unwrap();
            let fds: [OwnedFd; 3] =
                [into.try_clone().unwrap().into(), into.try_clone().unwrap().into(), into.into()];
            client.send(&exec(false), &fds).unwrap();
            drop(fds);
            let reply = client.receive::<Session>().unwrap();
            assert!(reply.continues);
            let mut text = String::new();
            File::from(reply.fds.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
            output.read_to_string(&mut text).unwrap();
            (text, client.receive::<Session>().unwrap())
        },
        |server, incoming| {
            let Incoming::Request(request) = incoming else { return };
            let stdout = request.fds.into_iter().nth(1).unwrap();
            File::from(stdout).write_all(b" and through the passed one").unwrap();
            let (given, mut into) = std::io::pipe().unwrap();
            into.write_all(b"through the given one").unwrap();
            let session = Session { pid: Some(7), ..Session::default() };
            server.reply_with(request.client, &session, true, vec![given.into()]);
            server.reply(request.client, &Session { code: Some(3), ..session }, false);
        },
    );
    assert_eq!(read, "through the given one and through the passed one");
    assert_eq!((ended.value.code, ended.continues), (Some(3), false));
}

#[test]
fn pipelined_calls_are_answered_one_after_the_other() {
    let (dir, mut server) = bound();
    let path = dir.path().to_owned();
    let mut order = Vec::new();
    let answers = beside(
        &mut server,
        move || {
            let mut stream = raw(&path);
            let calls: Vec<u8> = ["a", "b", "c"]
                .iter()
                .flat_map(|name| Method::Start(Names { names: vec![(*name).into()] }).to_message())
                .collect();
            stream.write_all(&calls).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            rest(&stream)
        },
        |server, incoming| {
            let Incoming::Request(request) = incoming else { return };
            assert!(server.next().is_none(), "a second call came before the first was answered");
            let Method::Start(Names { names }) = request.method else { panic!() };
            server.reply(request.client, &json!({ "said": names[0] }), false);
            order.extend(names);
        },
    );
    assert_eq!(order, ["a", "b", "c"]);
    let said: Vec<Value> = answers
        .split(|byte| *byte == 0)
        .filter(|text| !text.is_empty())
        .map(|text| serde_json::from_slice::<Value>(text).unwrap()["parameters"]["said"].clone())
        .collect();
    assert_eq!(said, ["a", "b", "c"]);
}

#[test]
fn who_hangs_up_is_gone_but_what_was_asked_is_done() {
    let (dir, mut server) = bound();
    let path = dir.path().to_owned();
    let mut seen = Vec::new();
    let (mut told, tell) = std::io::pipe().unwrap();
    let mut tell = Some(tell);
    beside(
        &mut server,
        move || {
            raw(&path).write_all(&Method::Start(Names { names: vec!["a".into()] }).to_message()).unwrap();
            // Until the server has noticed: its end of the pipe is closed.
            told.read_to_end(&mut Vec::new()).unwrap();
        },
        |server, incoming| match incoming {
            Incoming::Request(request) => seen.push(("asked", request.client)),
            Incoming::Gone(client) => {
                seen.push(("gone", client));
                server.reply(client, &json!({}), false);
                assert_eq!(server.backlog(client), None);
                tell = None;
            }
            Incoming::Drained(_) => {}
        },
    );
    let client = seen[0].1;
    assert_eq!(seen, [("asked", client), ("gone", client)]);
}

#[test]
fn who_does_not_read_is_disconnected_and_who_reads_slowly_is_told_of() {
    let (dir, mut server) = bound();
    let path = dir.path().to_owned();
    let logs = || {
        Method::Logs(Logs { names: vec!["a".into()], lines: Some(1), follow: true, since: None, until: None })
    };
    let entry = json!({ "entries": ["x".repeat(60_000)] });
    let (read, lost) = beside(
        &mut server,
        move || {
            let mut client = Client::connect(&path).unwrap();
            let mut read = 0;
            client.call_more::<Value>(&logs(), |_| {
                read += 1;
                ControlFlow::Continue(())
            })?;
            let stuck = raw(&path);
            (&stuck).write_all(&Method::Events(proto::Events::default()).to_message()).unwrap();
            // Reads nothing, and waits until it is disconnected.
            poll(&mut [PollFd::new(&stuck, PollFlags::empty())], None).unwrap();
            let mut last = Client::connect(&path).unwrap();
            let lost: bool = last.call(&Method::Ping)?;
            Ok::<_, CallError>((read, lost))
        },
        {
            let mut sent = 0;
            let mut is_lost = false;
            move |server: &mut Server, incoming| match incoming {
                Incoming::Request(Request { client, method: Method::Logs(_), .. })
                | Incoming::Drained(client) => {
                    while sent < 500 && server.backlog(client) == Some(0) {
                        sent += 1;
                        server.reply(client, &entry, sent < 500);
                    }
                }
                Incoming::Request(Request { client, method: Method::Events(_), .. }) => {
                    for _ in 0..200 {
                        server.reply(client, &entry, true);
                    }
                }
                Incoming::Request(request) => {
                    server.reply(request.client, &is_lost, false);
                }
                Incoming::Gone(_) => is_lost = true,
            }
        },
    )
    .unwrap();
    assert_eq!((read, lost), (500, true));
}

#[test]
fn the_kernels_word_decides_how_far_somebody_may_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::bind(dir.path(), Some(rustix::process::getgid().as_raw())).unwrap();
    (server.owner, server.group) = (1000, Some(50));
    let owners = BTreeSet::from([Owner::User(4242), Owner::Group(60)]);
    // Not every file system has access lists; whoever comes by another way is known all the same.
    let _ = server.set_owners(owners);
    let access = |uid, gids: &[u32]| {
        let Access { all, looks, owns } = server.access(&Peer { uid, gids: gids.to_vec(), pid: 1 });
        (all, looks, owns)
    };
    assert_eq!(access(0, &[0]), (true, false, false));
    assert_eq!(access(1000, &[7]), (true, false, false));
    assert_eq!(access(7, &[7, 50]), (false, true, false));
    assert_eq!(access(4242, &[50]), (false, true, true));
    assert_eq!(access(7, &[7, 60]), (false, false, true));
    assert_eq!(access(60, &[4242]), (false, false, false));
}

#[test]
fn an_access_list_is_in_the_order_that_the_kernel_takes() {
    let owners = BTreeSet::from([Owner::Group(9), Owner::User(4242), Owner::User(7)]);
    let list = access_list(&owners);
    let entries: Vec<(u16, u16, u32)> = list[4..]
        .chunks(8)
        .map(|entry| {
            let short = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            (short(0), short(2), u32::from_le_bytes(entry[4..8].try_into().unwrap()))
        })
        .collect();
    let none = u32::MAX;
    assert_eq!(list[..4], [2, 0, 0, 0]);
    assert_eq!(
        entries,
        [(1, 6, none), (2, 6, 7), (2, 6, 4242), (4, 6, none), (8, 6, 9), (16, 6, none), (32, 0, none)]
    );
}

#[test]
fn a_user_has_so_many_requests_a_second_and_no_more() {
    let (_dir, mut server) = bound();
    server.tick(Mono(1_000));
    assert_eq!((0..1000).filter(|_| server.spend(4242)).count(), 100);
    // Others have their own.
    assert!(server.spend(4243));
    server.tick(Mono(1_059));
    assert_eq!((0..1000).filter(|_| server.spend(4242)).count(), 2);
    server.tick(Mono(1_060));
    assert_eq!((0..1000).filter(|_| server.spend(4242)).count(), 1);
    server.tick(Mono(1_000_000));
    assert!(server.budgets.is_empty(), "who has been silent is forgotten");
}

#[test]
fn what_is_too_much_for_now_waits_and_is_answered_later() {
    let (dir, mut server) = bound();
    let stream = raw(dir.path());
    let waker = File::open("/dev/null").unwrap();
    while server.clients.is_empty() {
        turn(&mut server, waker.as_fd(), &mut pong);
    }
    for client in server.clients.values_mut() {
        client.access = Access { looks: true, ..Access::default() };
    }
    let calls: Vec<u8> = (0..103).flat_map(|_| Method::Ping.to_message()).collect();
    (&stream).write_all(&calls).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let is_throttled = |server: &Server| server.clients.values().any(|client| client.is_throttled);
    while !is_throttled(&server) {
        turn(&mut server, waker.as_fd(), &mut pong);
    }
    assert_eq!(server.tick(Mono(5)), Some(Mono(20)));
    assert!(is_throttled(&server), "no token yet");
    let mut now = 0;
    while !server.clients.is_empty() {
        now += 20;
        server.tick(Mono(now));
        while let Some(incoming) = server.next() {
            pong(&mut server, incoming);
        }
        // For the end of the stream.
        turn(&mut server, waker.as_fd(), &mut pong);
    }
    let answers = rest(&stream);
    assert_eq!(answers.iter().filter(|byte| **byte == 0).count(), 103);
    assert_eq!(now, 60, "three were too many");
}

#[test]
fn a_directory_is_no_standard_input() {
    let (dir, mut server) = bound();
    let path = dir.path().to_owned();
    let exec = Method::Exec(Exec {
        name: "web".into(),
        command: vec!["cat".into()],
        tty: false,
        cols: None,
        rows: None,
        env: vec![],
        user: None,
    });
    let errors = beside(
        &mut server,
        move || {
            let null = || OwnedFd::from(File::open("/dev/null").unwrap());
            let path_only = |of: &str| {
                rustix::fs::open(of, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap()
            };
            let bad = [File::open("/").unwrap().into(), path_only("/"), path_only("/dev/null")];
            bad.map(|bad| {
                let mut client = Client::connect(&path).unwrap();
                client.send(&exec, &[null(), bad, null()]).unwrap();
                client.receive::<Session>().unwrap_err().to_string()
            })
        },
        |_, incoming| assert!(!matches!(incoming, Incoming::Request(_)), "{incoming:?}"),
    );
    for error in errors {
        assert_eq!(error, format!("invalid parameter: {NO_STREAM}"));
    }
}
