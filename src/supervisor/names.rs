//! Answers what services ask about names: those of services itself, others by asking on.
//!
//! Each service that has something to ask has a socket of ours within its own network namespace, so that nobody can ask in
//! another's name. Whoever asks without end is not read for a while; how many questions are on their way is bounded, for
//! each service and for all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    os::{fd::BorrowedFd, unix::fs::MetadataExt},
    time::Duration,
};

use rustix::event::PollFlags;

use super::{Supervisor, now};
use crate::{
    launch::Net,
    machine::Mono,
    names::{
        Beyond, Question, Unread, Verdict, View, decide, holds, is_outside, servers,
        wire::{self, MESSAGE_MAX, QUESTION_MAX},
    },
    net::dns::{Asking, Desk, Step, Stream},
    spec::{Dns, Door, Egress, NetworkMode, Unit, UnitName},
};

/// So many datagrams of one service are read before others have their turn.
const ROUND: usize = 16;
/// So many questions of a service are read within [`WINDOW`]; the others wait, or are lost where they do not fit.
const QUESTIONS: u32 = 200;
const WINDOW: Duration = Duration::from_millis(100);
/// Connections of a service at a time, and how long one may be quiet.
const CLIENTS: usize = 8;
const IDLE: Duration = Duration::from_secs(10);
/// Questions that are passed on at a time, of one service and of all.
const PASSED: usize = 64;
const PASSED_OF_ALL: usize = 1024;
/// How long a server is waited for, and how many times one is asked: together less than the five seconds after which a
/// client asks again.
const PATIENCE: Duration = Duration::from_millis(1500);
const TRIES: usize = 3;
/// A place for more than one answer to one question would only be a help to forgers.
const STRAYS: usize = 8;

/// Where something has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    /// Datagrams.
    Datagrams,
    /// Connections.
    Door,
    /// One of them.
    Client(u32),
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Datagram(SocketAddr),
    Client(u32),
}

/// What becomes of a question.
enum Heard {
    Answer(Vec<u8>),
    Later,
    Nothing,
}

/// A connection of a service.
#[derive(Debug)]
struct Client {
    stream: Stream,
    until: Mono,
    /// One question after the other.
    is_waiting: bool,
}

/// What there is for one service.
#[derive(Debug)]
struct Counter {
    desk: Desk,
    clients: BTreeMap<u32, Client>,
    next: u32,
    /// Questions since then.
    heard: (u32, Mono),
    /// It is not read before then.
    rests: Option<Mono>,
    /// Questions for IPv4 addresses and whatever else, and for IPv6 addresses.
    turns: [usize; 2],
    /// What it may know, where nothing has changed since it was asked for.
    view: Option<View>,
}

impl Counter {
    /// Counts a question. Whether it is heard now.
    fn admits(&mut self, now: Mono) -> bool {
        if self.rests.is_some() {
            return false;
        }
        if self.heard.1.after(WINDOW) <= now {
            self.heard = (0, now);
        }
        self.heard.0 += 1;
        if self.heard.0 > QUESTIONS {
            self.rests = Some(self.heard.1.after(WINDOW));
        }
        self.rests.is_none()
    }
}

/// A question that others have been asked.
#[derive(Debug)]
struct Passed {
    name: UnitName,
    asker: Asker,
    question: Question,
    /// Where its service may then go.
    doors: Vec<Door>,
    servers: Vec<SocketAddr>,
    tries: usize,
    strays: usize,
    /// Under which it was asked.
    id: u16,
    way: Option<Way>,
    until: Mono,
}

#[derive(Debug)]
enum Way {
    Datagram(Asking),
    Connection(Stream),
}

/// /etc/resolv.conf as it was when it was read.
#[derive(Debug, Default)]
struct Resolv {
    /// Device, inode, size, time of its last change.
    stamp: Option<(u64, u64, u64, i64, i64)>,
    servers: Vec<IpAddr>,
}

impl Resolv {
    const PATH: &str = "/etc/resolv.conf";

    /// The servers of the host, read again if the file has changed.
    fn servers(&mut self) -> &[IpAddr] {
        let stamp = std::fs::metadata(Self::PATH)
            .ok()
            .map(|of| (of.dev(), of.ino(), of.size(), of.mtime(), of.mtime_nsec()));
        if stamp.is_none() || stamp != self.stamp {
            let text = std::fs::read_to_string(Self::PATH).unwrap_or_default();
            (self.stamp, self.servers) = (stamp, servers(&text));
        }
        &self.servers
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Names {
    counters: BTreeMap<UnitName, Counter>,
    passed: BTreeMap<u64, Passed>,
    next: u64,
    resolv: Resolv,
}

impl Names {
    /// What there is to wait for at services.
    pub(super) fn interests(&self) -> impl Iterator<Item = (&UnitName, Seat, BorrowedFd<'_>, PollFlags)> {
        let open = self.counters.iter().filter(|(_, counter)| counter.rests.is_none());
        open.flat_map(|(name, counter)| {
            let mut all = vec![(name, Seat::Datagrams, counter.desk.udp(), PollFlags::IN)];
            if counter.clients.len() < CLIENTS {
                all.push((name, Seat::Door, counter.desk.tcp(), PollFlags::IN));
            }
            let clients = counter.clients.iter();
            all.extend(clients.filter(|(_, one)| !one.is_waiting || one.stream.is_saying()).map(
                |(number, one)| {
                    let (fd, flags) = one.stream.interest();
                    (name, Seat::Client(*number), fd, flags)
                },
            ));
            all
        })
    }

    /// What there is to wait for at servers.
    pub(super) fn passed(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>, PollFlags)> {
        self.passed.iter().filter_map(|(number, passed)| {
            let (fd, flags) = match passed.way.as_ref()? {
                Way::Datagram(asking) => (asking.fd(), PollFlags::IN),
                Way::Connection(stream) => stream.interest(),
            };
            Some((*number, fd, flags))
        })
    }

    /// When something is to be given up, or gone on with.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let counters = self.counters.values();
        let clients =
            counters.flat_map(|one| one.clients.values().map(|client| client.until).chain(one.rests));
        clients.chain(self.passed.values().map(|passed| passed.until)).min()
    }

    /// Who may know what may have changed.
    pub(super) fn forget_views(&mut self) {
        for counter in self.counters.values_mut() {
            counter.view = None;
        }
    }

    /// A service has no network any more.
    pub(super) fn close(&mut self, name: &UnitName) {
        if self.counters.remove(name).is_some() {
            self.passed.retain(|_, passed| passed.name != *name);
        }
    }
}

impl Supervisor {
    /// Opens what a service asks at, or closes it, as it has something to ask or has not. It runs, or is about to.
    pub(super) fn settle_names(&mut self, name: &UnitName, net: &Net) {
        let Some(unit) = self.fleet.entry(name).map(|entry| &entry.unit) else { return };
        match (self.has_names(unit, net), self.names.counters.contains_key(name)) {
            (true, false) => match Desk::open(&net.netns) {
                Ok(desk) => {
                    let counter = Counter {
                        desk,
                        clients: BTreeMap::new(),
                        next: 0,
                        heard: (0, now()),
                        rests: None,
                        turns: [0; 2],
                        view: None,
                    };
                    self.names.counters.insert(name.clone(), counter);
                }
                Err(error) => tracing::warn!(unit = %name, "nobody answers its questions for names: {error}"),
            },
            (false, true) => self.names.close(name),
            (true, true) | (false, false) => {}
        }
    }

    /// As [`Supervisor::settle_names`], of services that run.
    pub(super) fn settle_names_of<'a>(&mut self, names: impl IntoIterator<Item = &'a UnitName>) {
        let nets = std::mem::take(&mut self.nets);
        for name in names {
            if let Some(net) = nets.get(name) {
                self.settle_names(name, net);
            }
        }
        self.nets = nets;
    }

    /// Whether a service has anything to ask: somebody that it may talk to, or somebody outside.
    fn has_names(&self, unit: &Unit, net: &Net) -> bool {
        let network = &unit.network;
        let Some(link) = net.link.as_ref().filter(|_| network.mode == NetworkMode::Veth) else {
            return false;
        };
        let mut own = link.addresses();
        let mut is_known = || own.any(|own| self.launcher.network.reached_from(own).next().is_some());
        let has_some = !network.hosts.is_empty() || beyond(net) != Beyond::Nothing || is_known();
        network.dns != Dns::None && has_some
    }

    /// What a service may know.
    fn view(&self, name: &UnitName) -> Option<View> {
        let (unit, net) = (&self.fleet.entry(name)?.unit, self.nets.get(name)?);
        let own: Vec<IpAddr> = net.link.as_ref()?.addresses().collect();
        let (network, addresses) = (&self.launcher.network, &self.assigned.addresses);
        let mut view = View::of(name, &unit.namespaces.hostname, &own, &network.settings);
        let reached: BTreeSet<IpAddr> = own.iter().flat_map(|own| network.reached_from(*own)).collect();
        let others = self.fleet.entries().keys().filter(|other| *other != name && other.is_service());
        for other in others {
            let mut known =
                addresses.slot(other).map(|slot| network.settings.addresses(slot)).unwrap_or_default();
            known.retain(|address| reached.contains(address));
            if !known.is_empty() {
                view.add_service(other, &known, self.nets.contains_key(other));
            }
        }
        view.add_hosts(&unit.network.hosts);
        view.set_beyond(beyond(net));
        Some(view)
    }

    /// Something has come from a service.
    pub(super) fn names_asked(&mut self, name: &UnitName, seat: Seat) {
        match seat {
            Seat::Datagrams => self.datagrams_ready(name),
            Seat::Door => {
                let Some(counter) = self.names.counters.get_mut(name) else { return };
                let stream = match counter.desk.accept() {
                    Ok(Some(stream)) => stream,
                    Ok(None) => return,
                    // Of descriptors or memory there will be some again.
                    Err(error)
                        if [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM]
                            .contains(&error.errno) =>
                    {
                        counter.rests = Some(now().after(WINDOW));
                        return;
                    }
                    Err(error) => {
                        tracing::error!(unit = %name, "it is not answered about names any more: {error}");
                        return self.names.close(name);
                    }
                };
                let number = counter.next;
                counter.next = number.wrapping_add(1);
                let client = Client { stream, until: now().after(IDLE), is_waiting: false };
                counter.clients.insert(number, client);
                self.client_asks(name, number);
            }
            Seat::Client(number) => self.client_asks(name, number),
        }
    }

    fn datagrams_ready(&mut self, name: &UnitName) {
        let mut buffer = [0; QUESTION_MAX];
        for _ in 0..ROUND {
            let Some(counter) = self.names.counters.get_mut(name).filter(|one| one.rests.is_none()) else {
                return;
            };
            let Some((bytes, from)) = counter.desk.receive(&mut buffer) else { return };
            counter.admits(now());
            if let Heard::Answer(answer) = self.question_heard(name, bytes, Asker::Datagram(from)) {
                self.answer_to(name, Asker::Datagram(from), &answer);
            }
        }
    }

    /// A connection can go on.
    fn client_asks(&mut self, name: &UnitName, number: u32) {
        loop {
            let Some(counter) = self.names.counters.get_mut(name).filter(|one| one.rests.is_none()) else {
                return;
            };
            let Some(client) = counter.clients.get_mut(&number) else { return };
            if client.is_waiting && !client.stream.is_saying() {
                return;
            }
            let message = match client.stream.go_on(QUESTION_MAX) {
                Step::Wait => return,
                Step::Over => return drop(counter.clients.remove(&number)),
                Step::Message(message) => message,
            };
            client.until = now().after(IDLE);
            counter.admits(now());
            let heard = self.question_heard(name, &message, Asker::Client(number));
            let Some(counter) = self.names.counters.get_mut(name) else { return };
            let Some(client) = counter.clients.get_mut(&number) else { return };
            match heard {
                Heard::Answer(answer) => client.stream.say(&answer),
                Heard::Later => client.is_waiting = true,
                Heard::Nothing => return drop(counter.clients.remove(&number)),
            }
        }
    }

    /// A question has come in.
    fn question_heard(&mut self, name: &UnitName, bytes: &[u8], asker: Asker) -> Heard {
        let question = match wire::read(bytes) {
            Ok(question) => question,
            Err(Unread::Nothing) => return Heard::Nothing,
            Err(Unread::Answer(answer)) => return Heard::Answer(answer),
        };
        let room = asker.room(&question);
        let known = self.names.counters.get_mut(name).and_then(|counter| counter.view.take());
        let Some(view) = known.or_else(|| self.view(name)) else {
            return Heard::Answer(question.unanswered());
        };
        let Some(counter) = self.names.counters.get_mut(name) else { return Heard::Nothing };
        let turn = &mut counter.turns[usize::from(question.is_for_ipv6())];
        *turn = turn.wrapping_add(1);
        let verdict = decide(&question, &view, *turn, room);
        counter.view = Some(view);
        match verdict {
            Verdict::Answer(answer) => Heard::Answer(answer),
            Verdict::PassOn(doors) => self.ask_servers(name, (question, asker), doors),
        }
    }

    /// Asks others.
    fn ask_servers(
        &mut self,
        name: &UnitName,
        (question, asker): (Question, Asker),
        doors: Vec<Door>,
    ) -> Heard {
        let all = &self.names.passed;
        let own = all.values().filter(|passed| passed.name == *name).count();
        let dns = self.fleet.entry(name).map(|entry| entry.unit.network.dns.clone());
        let servers = match dns {
            Some(Dns::Servers(servers)) => servers,
            Some(Dns::Host) => self.names.resolv.servers().to_vec(),
            Some(Dns::None) | None => Vec::new(),
        };
        if servers.is_empty() || own >= PASSED || self.names.passed.len() >= PASSED_OF_ALL {
            return Heard::Answer(question.unanswered());
        }
        let servers = servers.into_iter().map(|server| SocketAddr::new(server, 53)).collect();
        let (name, until) = (name.clone(), now());
        let mut passed =
            Passed { name, asker, question, doors, servers, tries: 0, strays: 0, id: 0, way: None, until };
        if !passed.begin() {
            return Heard::Answer(passed.question.unanswered());
        }
        self.names.passed.insert(self.names.next, passed);
        self.names.next += 1;
        Heard::Later
    }

    /// A server has answered, or can be asked.
    pub(super) fn passed_ready(&mut self, number: u64) {
        let Some(passed) = self.names.passed.get_mut(&number) else { return };
        match passed.go_on() {
            Some(answer) => self.server_answered(number, answer),
            None if passed.way.is_none() => self.nobody_answered(number),
            None => {}
        }
    }

    /// What a server has said goes to whom has asked; where it says where a name leads its service may go there, from before
    /// it knows on.
    fn server_answered(&mut self, number: u64, bytes: Vec<u8>) {
        let Some(Passed { name, asker, question, doors, .. }) = self.names.passed.remove(&number) else {
            return;
        };
        let room = asker.room(&question);
        let answer = match self.let_to(&name, &question, (&bytes, &doors)) {
            Ok(()) => {
                let ttl = if doors.is_empty() { u32::MAX } else { crate::names::MOST };
                question.handed_back(bytes, ttl, room)
            }
            Err(error) => {
                // The name is whatever the service has asked for.
                tracing::error!(unit = %name, "it may not go where {:?} leads: {error}", question.name);
                question.unanswered()
            }
        };
        self.answer_to(&name, asker, &answer);
    }

    fn let_to(
        &mut self,
        name: &UnitName,
        question: &Question,
        answer: (&[u8], &[Door]),
    ) -> Result<(), String> {
        let (bytes, doors) = answer;
        if doors.is_empty() {
            return Ok(());
        }
        let found = question.addresses(bytes).ok_or("the answer cannot be read")?;
        let outside = found.into_iter().filter(|(address, _)| is_outside(*address));
        let places: Vec<(IpAddr, Duration)> = outside.map(|(address, ttl)| (address, holds(ttl))).collect();
        let Some(net) = self.nets.get_mut(name) else { return Ok(()) };
        self.launcher.network.let_to(net, (&places, doors), now()).map_err(|error| error.to_string())
    }

    fn nobody_answered(&mut self, number: u64) {
        if let Some(Passed { name, asker, question, .. }) = self.names.passed.remove(&number) {
            self.answer_to(&name, asker, &question.unanswered());
        }
    }

    fn answer_to(&mut self, name: &UnitName, asker: Asker, answer: &[u8]) {
        let Some(counter) = self.names.counters.get_mut(name) else { return };
        match asker {
            Asker::Datagram(from) => counter.desk.send(answer, from),
            Asker::Client(number) => {
                let Some(client) = counter.clients.get_mut(&number) else { return };
                client.stream.say(answer);
                (client.is_waiting, client.until) = (false, now().after(IDLE));
                self.client_asks(name, number);
            }
        }
    }

    /// Gives up what takes too long, and goes on with those who have rested.
    pub(super) fn names_overdue(&mut self) {
        let now = now();
        if self.names.deadline().is_none_or(|at| at > now) {
            return;
        }
        let mut rested = Vec::new();
        for (name, counter) in &mut self.names.counters {
            counter.clients.retain(|_, client| client.until > now);
            if counter.rests.is_some_and(|until| until <= now) {
                counter.rests = None;
                // What they have sent already nobody tells of again.
                rested.extend(counter.clients.keys().map(|number| (name.clone(), *number)));
            }
        }
        for (name, number) in rested {
            self.client_asks(&name, number);
        }
        let late = self.names.passed.iter().filter(|(_, passed)| passed.until <= now);
        for number in late.map(|(number, _)| *number).collect::<Vec<_>>() {
            let Some(passed) = self.names.passed.get_mut(&number) else { continue };
            if !passed.begin() {
                self.nobody_answered(number);
            }
        }
    }
}

impl Asker {
    /// How long an answer may be.
    fn room(self, question: &Question) -> usize {
        match self {
            Asker::Datagram(_) => question.room(),
            Asker::Client(_) => MESSAGE_MAX,
        }
    }
}

impl Passed {
    /// Asks the next server. False: all have been asked often enough.
    fn begin(&mut self) -> bool {
        while self.tries < TRIES {
            let to = self.servers[self.tries % self.servers.len()];
            self.tries += 1;
            self.until = now().after(PATIENCE);
            // The only one is asked again from where it was asked, so that it may take its time.
            if let Some(Way::Datagram(asking)) = self.way.as_ref().filter(|_| self.servers.len() == 1)
                && asking.send(&self.question.passed_on(self.id)).is_ok()
            {
                return true;
            }
            self.way = None;
            if self.ask(to) {
                return true;
            }
        }
        self.way = None;
        false
    }

    fn ask(&mut self, to: SocketAddr) -> bool {
        let mut id = [0; 2];
        if rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty()).is_err() {
            return false;
        }
        self.id = u16::from_ne_bytes(id);
        self.way = match self.asker {
            Asker::Datagram(_) => Asking::open(to).ok().and_then(|asking| {
                asking.send(&self.question.passed_on(self.id)).is_ok().then_some(Way::Datagram(asking))
            }),
            Asker::Client(_) => self.connect(to),
        };
        self.way.is_some()
    }

    fn connect(&self, to: SocketAddr) -> Option<Way> {
        let mut stream = Stream::connect(to).ok()?;
        stream.say(&self.question.passed_on(self.id));
        Some(Way::Connection(stream))
    }

    /// Goes on as far as that is possible without waiting. None with no way left: nobody answers.
    fn go_on(&mut self) -> Option<Vec<u8>> {
        let answer = match self.way.as_mut()? {
            Way::Datagram(asking) => match asking.receive() {
                Ok(Some(bytes)) if self.question.is_answered_by(&bytes, self.id) => bytes,
                // Something else, from who has guessed where we ask from.
                Ok(Some(_)) if self.strays < STRAYS => {
                    self.strays += 1;
                    return None;
                }
                Ok(None) => return None,
                Ok(Some(_)) | Err(_) => return self.give_up(),
            },
            Way::Connection(stream) => match stream.go_on(MESSAGE_MAX) {
                Step::Message(bytes) if self.question.is_answered_by(&bytes, self.id) => bytes,
                Step::Wait => return None,
                Step::Message(_) | Step::Over => return self.give_up(),
            },
        };
        if wire::is_cut(&answer) && matches!(self.way, Some(Way::Datagram(_))) {
            let to = self.servers[(self.tries - 1) % self.servers.len()];
            self.until = now().after(PATIENCE);
            self.way = self.connect(to);
            return if self.way.is_some() { None } else { Some(answer) };
        }
        if wire::is_failure(&answer) && self.tries < self.servers.len() {
            return self.give_up();
        }
        Some(answer)
    }

    /// This server does not answer.
    fn give_up(&mut self) -> Option<Vec<u8>> {
        self.way = None;
        self.begin();
        None
    }
}

/// Whose names a service may ask for.
fn beyond(net: &Net) -> Beyond {
    match &net.egress {
        Egress::Any => Beyond::Everything,
        Egress::Only(_) if !net.names.is_empty() => Beyond::Only(net.names.clone()),
        Egress::Only(_) | Egress::None => Beyond::Nothing,
    }
}
