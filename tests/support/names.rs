//! Both sides of the domain name system, for tests: one that asks and one that answers.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use simple_dns::{
    CLASS, Name, Packet, PacketFlag, Question, RCODE, ResourceRecord, TYPE,
    rdata::{A, AAAA, CNAME, RData},
};

use super::scaled;

/// Where services ask.
const SERVER: &str = "127.0.0.53:53";
/// Where the tests' server is, on the host.
pub const UPSTREAM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// Asks for the records of a name, and says what came back: `NoError [A 192.0.2.1 5]`, or why nothing did.
pub fn ask(name: &str, kind: &str, way: &str) -> String {
    let kind = match kind {
        "A" => TYPE::A,
        "AAAA" => TYPE::AAAA,
        "PTR" => TYPE::PTR,
        _ => TYPE::TXT,
    };
    let mut packet = Packet::new_query(4711);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(Name::new_unchecked(name), kind.into(), CLASS::IN.into(), false));
    let question = packet.build_bytes_vec().expect("a question");
    let answer = match way {
        "tcp" => by_tcp(&question),
        _ => by_udp(&question),
    };
    match answer {
        Ok(bytes) => described(&bytes),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn by_udp(question: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(SERVER)?;
    socket.set_read_timeout(Some(scaled(Duration::from_secs(8))))?;
    socket.send(question)?;
    let mut bytes = vec![0; 65_535];
    let length = socket.recv(&mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

fn by_tcp(question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(SERVER)?;
    stream.set_read_timeout(Some(scaled(Duration::from_secs(8))))?;
    // In two pieces.
    let length = u16::try_from(question.len()).expect("a short one").to_be_bytes();
    stream.write_all(&length)?;
    stream.write_all(question)?;
    receive(&mut stream)
}

fn receive(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn described(bytes: &[u8]) -> String {
    let Ok(packet) = Packet::parse(bytes) else { return "garbage".to_owned() };
    let records = packet.answers.iter().map(|record| {
        let data = match &record.rdata {
            RData::A(one) => format!("A {}", Ipv4Addr::from(one.address)),
            RData::AAAA(one) => format!("AAAA {}", std::net::Ipv6Addr::from(one.address)),
            RData::PTR(name) => format!("PTR {}", name.0),
            RData::CNAME(name) => format!("CNAME {}", name.0),
            other => format!("{:?}", other.type_code()),
        };
        format!("{data} {}", record.ttl)
    });
    let records: Vec<String> = records.collect();
    let cut = if packet.has_flags(PacketFlag::TRUNCATION) { " cut" } else { "" };
    let authority = if packet.name_servers.is_empty() { "" } else { " soa" };
    format!("{:?} [{}]{cut}{authority}", packet.rcode(), records.join(", "))
}

/// Asks as fast as it can, and never listens, until it is killed.
pub fn flood() {
    let mut packet = Packet::new_query(1);
    packet.questions.push(Question::new(Name::new_unchecked("db"), TYPE::A.into(), CLASS::IN.into(), false));
    let question = packet.build_bytes_vec().expect("a question");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    socket.connect(SERVER).expect("loopback");
    loop {
        let _ = socket.send(&question);
    }
}

/// A server of the host's. Under `NAME.example.org` it has: the addresses that it was given, each for the time that it was
/// given with; `alias` of `target.example.net`; many addresses as `long`, which fit into no datagram. It is silent about
/// `mute`, fails for `broken`, has three wrong answers for `forged` before the right one, and knows nothing else.
pub struct Upstream {
    known: Arc<Mutex<Known>>,
    at: SocketAddr,
    threads: Vec<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Known {
    addresses: BTreeMap<String, (IpAddr, u32)>,
    asked: Vec<String>,
    is_over: bool,
}

impl Upstream {
    /// Begins to answer at an address of the host.
    pub fn start(at: IpAddr) -> Self {
        let known = Arc::new(Mutex::new(Known::default()));
        let at = SocketAddr::new(at, 53);
        let (udp, tcp) =
            (UdpSocket::bind(at).expect("the port is free"), TcpListener::bind(at).expect("free"));
        let of_udp = Arc::clone(&known);
        let datagrams = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut bytes) {
                if is_over(&of_udp) {
                    return;
                }
                for answer in answers(&bytes[..length], &of_udp, true) {
                    let _ = udp.send_to(&answer, from);
                }
            }
        });
        let of_tcp = Arc::clone(&known);
        let connections = thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                if is_over(&of_tcp) {
                    return;
                }
                // Who neither asks nor goes keeps nobody from being waited for.
                let patience = stream.set_read_timeout(Some(super::scaled(Duration::from_secs(1))));
                let Ok(question) = patience.and_then(|()| receive(&mut stream)) else { continue };
                for answer in answers(&question, &of_tcp, false) {
                    let length = u16::try_from(answer.len()).expect("fits").to_be_bytes();
                    let _ = stream.write_all(&length).and_then(|()| stream.write_all(&answer));
                }
            }
        });
        Self { known, at, threads: vec![datagrams, connections] }
    }

    /// Says where `NAME.example.org` is from now on, and for how many seconds that holds.
    pub fn set(&self, name: &str, address: &str, ttl: u32) {
        let address = address.parse().expect("an address");
        self.known.lock().expect("nobody panics").addresses.insert(name.to_owned(), (address, ttl));
    }

    /// How often it was asked for a name, in lower case.
    pub fn asked(&self, name: &str) -> usize {
        self.known.lock().expect("nobody panics").asked.iter().filter(|one| *one == name).count()
    }

    /// Everything that it was asked for.
    pub fn all_asked(&self) -> Vec<String> {
        self.known.lock().expect("nobody panics").asked.clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // A failed test may have left it locked; then nothing is waited for.
        if let Ok(mut known) = self.known.lock() {
            known.is_over = true;
        }
        let at = self.at;
        let own = SocketAddr::new(at.ip(), 0);
        let knocked = UdpSocket::bind(own).and_then(|socket| socket.send_to(b"", at));
        if knocked.is_ok() && TcpStream::connect(at).is_ok() {
            self.threads.drain(..).for_each(|thread| drop(thread.join()));
        }
    }
}

fn is_over(known: &Mutex<Known>) -> bool {
    known.lock().is_ok_and(|known| known.is_over)
}

fn answers(question: &[u8], known: &Mutex<Known>, is_datagram: bool) -> Vec<Vec<u8>> {
    let Ok(asked) = Packet::parse(question) else { return Vec::new() };
    let Some(one) = asked.questions.first() else { return Vec::new() };
    let text = one.qname.to_string().to_lowercase();
    let mut known = known.lock().expect("nobody panics");
    known.asked.push(text.clone());
    let wants = |address: IpAddr| {
        let kind = if address.is_ipv6() { TYPE::AAAA } else { TYPE::A };
        u16::from(one.qtype) == u16::from(kind)
    };
    let record =
        |name: &'static str, ttl, data| ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, ttl, data);
    let mut answer = Packet::new_reply(asked.id());
    answer.questions.push(one.clone());
    let data = |address: IpAddr| match address {
        IpAddr::V4(four) => RData::A(A::from(four)),
        IpAddr::V6(six) => RData::AAAA(AAAA::from(six)),
    };
    let of_it = |address: IpAddr, ttl| ResourceRecord::new(one.qname.clone(), CLASS::IN, ttl, data(address));
    let four = |octets: [u8; 4]| IpAddr::from(octets);
    match text.strip_suffix(".example.org") {
        Some("mute") => return Vec::new(),
        Some("broken") => *answer.rcode_mut() = RCODE::ServerFailure,
        Some("alias") => {
            let target = CNAME(Name::new_unchecked("target.example.net"));
            answer.answers.push(ResourceRecord::new(one.qname.clone(), CLASS::IN, 60, RData::CNAME(target)));
            let (address, ttl) = known.addresses.get("alias").copied().unwrap_or((four([127, 0, 0, 1]), 60));
            answer.answers.push(record("target.example.net", ttl, data(address)));
            // Nobody has asked for that one.
            answer.answers.push(record("other.example.net", ttl, data(four([192, 0, 2, 253]))));
        }
        Some("long") if is_datagram => answer.set_flags(PacketFlag::TRUNCATION),
        Some("long") => {
            answer.answers.extend((1..=200).map(|n| of_it(four([198, 51, 100, n]), 60)));
        }
        Some("forged") if is_datagram => {
            let right = of_it(four([192, 0, 2, 7]), 60);
            let bytes = |packet: &Packet<'_>| packet.build_bytes_vec().expect("an answer");
            let mut other = answer.clone();
            other.set_id(asked.id().wrapping_add(1));
            other.answers.push(of_it(four([192, 0, 2, 66]), 60));
            let mut wrong = answer.clone();
            wrong.questions = vec![Question::new(
                Name::new_unchecked("else.example.org"),
                TYPE::A.into(),
                CLASS::IN.into(),
                false,
            )];
            answer.answers.push(right);
            return vec![bytes(&other), bytes(&wrong), vec![0; 5], bytes(&answer)];
        }
        Some(name) if known.addresses.contains_key(name) => {
            let (address, ttl) = known.addresses[name];
            answer.answers.extend(wants(address).then(|| of_it(address, ttl)));
        }
        Some(_) | None => *answer.rcode_mut() = RCODE::NameError,
    }
    vec![answer.build_bytes_vec_compressed().expect("an answer")]
}
