//! What is said about names, by the rules and for whatever comes in.

use proptest::prelude::*;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE, rdata};

use super::*;
use crate::spec::Proto;

fn name(text: &str) -> UnitName {
    UnitName::new(text).unwrap()
}

fn v4(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An address in the range of services.
fn six(last: u32) -> IpAddr {
    Prefix6::of("palisade").address(last - 2).into()
}

/// The name that an address has for those who want to know what it is called.
fn reversed_six(address: IpAddr) -> String {
    let IpAddr::V6(address) = address else { panic!("no IPv6") };
    let digits = format!("{:032x}", address.to_bits());
    digits.chars().rev().map(|digit| format!("{digit}.")).collect::<String>() + "ip6.arpa"
}

/// app, which reaches db and two of web's instances, one of which has no network.
fn view() -> View {
    let mut view =
        View::of(&name("App"), "alpha.example", &[v4("10.83.0.2"), six(2)], &NetworkSettings::default());
    view.add_service(&name("db"), &[v4("10.83.0.3"), six(3)], false);
    view.add_service(&name("web@1"), &[v4("10.83.0.4")], true);
    view.add_service(&name("web@2"), &[v4("10.83.0.5")], false);
    view.add_service(&name("web@3"), &[v4("10.83.0.6")], true);
    view.add_service(&name("db@1"), &[v4("10.83.0.7")], true);
    view.add_hosts(&[("Printer.example".to_owned(), v4("192.0.2.7"))].into());
    view
}

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(77);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new_unchecked(name);
    packet.questions.push(simple_dns::Question::new(name, kind.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().unwrap()
}

fn question(name: &str, kind: TYPE) -> Question {
    wire::read(&query(name, kind)).unwrap()
}

/// What is answered: the code, the addresses and names, and whether there is a word about what is not there.
fn told(view: &View, name: &str, kind: TYPE) -> String {
    let question = question(name, kind);
    match decide(&question, view, 0, 512) {
        Verdict::PassOn(doors) => format!("others {doors:?}"),
        Verdict::Answer(bytes) => {
            let packet = Packet::parse(&bytes).unwrap();
            assert_eq!((packet.id(), packet.questions.len()), (77, 1));
            assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
            let data = |record: &ResourceRecord<'_>| match &record.rdata {
                rdata::RData::A(one) => Ipv4Addr::from(one.address).to_string(),
                rdata::RData::AAAA(one) => Ipv6Addr::from(one.address).to_string(),
                rdata::RData::PTR(name) => name.0.to_string(),
                other => format!("{:?}", other.type_code()),
            };
            let all: Vec<String> = packet.answers.iter().map(data).collect();
            let zone = packet.name_servers.first().map(|one| format!(" of {:?}", one.name.to_string()));
            format!("{:?} {}{}", packet.rcode(), all.join(" "), zone.unwrap_or_default())
        }
    }
}

#[test]
fn what_may_be_reached_has_a_name() {
    let view = view();
    for (name, kind, wanted) in [
        ("db", TYPE::A, "NoError 10.83.0.3"),
        ("DB.Palisade", TYPE::A, "NoError 10.83.0.3"),
        ("app", TYPE::A, "NoError 10.83.0.2"),
        ("alpha.example", TYPE::A, "NoError 10.83.0.2"),
        ("web", TYPE::A, "NoError 10.83.0.4 10.83.0.6"),
        ("alpha.example.palisade", TYPE::A, "NoError 10.83.0.2"),
        ("web@2.palisade", TYPE::A, "NoError 10.83.0.5"),
        ("printer.example", TYPE::A, "NoError 192.0.2.7"),
        ("localhost", TYPE::AAAA, "NoError ::1"),
        ("x.localhost", TYPE::A, "NoError 127.0.0.1"),
        ("3.0.83.10.in-addr.arpa", TYPE::PTR, "NoError db.palisade"),
        ("7.2.0.192.in-addr.arpa", TYPE::PTR, "NoError Printer.example"),
        ("1.0.0.127.in-addr.arpa", TYPE::PTR, "NoError localhost"),
        ("db", TYPE::AAAA, &format!("NoError {}", six(3))),
        ("db.palisade", TYPE::AAAA, &format!("NoError {}", six(3))),
        (&reversed_six(six(3)), TYPE::PTR, "NoError db.palisade"),
        ("web@1", TYPE::AAAA, "NoError  of \"\""),
        ("db.palisade", TYPE::TXT, "NoError  of \"palisade\""),
        ("palisade", TYPE::A, "NoError  of \"palisade\""),
        ("3.0.83.10.in-addr.arpa", TYPE::A, "NoError  of \"in-addr.arpa\""),
    ] {
        assert_eq!(told(&view, name, kind), wanted, "{name} {kind:?}");
    }
}

#[test]
fn a_service_is_found_before_what_somebody_calls_himself() {
    let mut view = View::of(&name("app"), "db", &[v4("10.83.0.2")], &NetworkSettings::default());
    assert_eq!(told(&view, "db", TYPE::A), "NoError 10.83.0.2");
    view.add_service(&name("db@1"), &[v4("10.83.0.4")], true);
    assert_eq!(told(&view, "db", TYPE::A), "NoError 10.83.0.4");
    view.add_service(&name("db"), &[v4("10.83.0.3")], false);
    assert_eq!(told(&view, "db", TYPE::A), "NoError 10.83.0.3");
}

#[test]
fn what_may_not_be_reached_is_as_if_it_were_not_there() {
    let mut view = view();
    for beyond in [Beyond::Nothing, Beyond::Everything] {
        view.set_beyond(beyond);
        assert_eq!(told(&view, "cache", TYPE::A), "NameError  of \"\"");
        assert_eq!(told(&view, "cache.palisade", TYPE::A), "NameError  of \"palisade\"");
        assert_eq!(told(&view, "x.db.palisade", TYPE::A), "NameError  of \"palisade\"");
        assert_eq!(told(&view, &reversed_six(six(9)), TYPE::PTR), "NameError  of \"ip6.arpa\"");
        assert_eq!(told(&view, "9.0.83.10.in-addr.arpa", TYPE::PTR), "NameError  of \"in-addr.arpa\"");
    }
}

#[test]
fn others_are_asked_for_whom_the_file_lets_out() {
    let mut view = view();
    let named = |name: &str, port| Named { name: name.to_owned(), door: Door::One(port, Proto::Tcp) };
    assert_eq!(told(&view, "example.org", TYPE::A), "Refused ");
    view.set_beyond(Beyond::Everything);
    for name in ["example.org", "palisade.example", "notpalisade.x", "1.2.0.192.in-addr.arpa", "."] {
        assert_eq!(told(&view, name, TYPE::A), "others []", "{name}");
    }
    view.set_beyond(Beyond::Only(vec![named("a.example.org", 443), named("*.example.org", 80)]));
    assert_eq!(told(&view, "A.example.org", TYPE::A), "others [One(80, Tcp), One(443, Tcp)]");
    assert_eq!(told(&view, "b.c.example.org", TYPE::A), "others [One(80, Tcp)]");
    for name in ["example.org", "badexample.org", "a.example.org.evil.test", "org"] {
        assert!(!told(&view, name, TYPE::A).starts_with("others"), "{name}");
    }
    // A dot within a label is none between two.
    let mut bytes = query("x.example.org", TYPE::A);
    assert_eq!(bytes[12..15], [1, b'x', 7]);
    bytes[12] = 9;
    bytes[14] = b'.';
    let question = wire::read(&bytes).unwrap();
    assert_eq!(question.name, r"x\.example.org");
    assert_eq!(decide(&question, &view, 0, 512), Verdict::Answer(question.refused()));
}

#[test]
fn only_plain_questions_are_answered() {
    let header = |edit: fn(&mut Vec<u8>)| {
        let mut bytes = query("db", TYPE::A);
        edit(&mut bytes);
        match wire::read(&bytes) {
            Ok(question) => told_code(&question),
            Err(Unread::Nothing) => "nothing".to_owned(),
            Err(Unread::Answer(answer)) => format!("{:?}", Packet::parse(&answer).unwrap().rcode()),
        }
    };
    assert_eq!(header(|_| ()), "NoError");
    assert_eq!(header(|bytes| bytes[2] |= 0x80), "nothing", "an answer");
    assert_eq!(header(|bytes| bytes.truncate(11)), "nothing");
    assert_eq!(header(|bytes| bytes[2] |= 0x10), "NotImplemented");
    assert_eq!(header(|bytes| bytes[5] = 2), "FormatError", "two questions");
    assert_eq!(header(|bytes| bytes[6] = 0xff), "FormatError", "a question with answers");
    assert_eq!(header(|bytes| bytes.truncate(16)), "FormatError");
    assert_eq!(header(|bytes| bytes[3] |= 0x40), "NoError", "ignored, as it must be");
    assert_eq!(header(|bytes| *bytes.last_mut().unwrap() = 3), "Refused", "another class");
    let kinds =
        [(QTYPE::AXFR, "Refused"), (QTYPE::TYPE(TYPE::Unknown(65_280)), "NoError"), (QTYPE::ANY, "NoError")];
    for (kind, wanted) in kinds {
        let mut bytes = query("db", TYPE::A);
        let at = bytes.len() - 4;
        bytes[at..at + 2].copy_from_slice(&u16::from(kind).to_be_bytes());
        assert_eq!(told_code(&wire::read(&bytes).unwrap()), wanted, "{kind:?}");
    }
}

fn told_code(question: &Question) -> String {
    match decide(question, &view(), 0, 512) {
        // The library reads no question for a type that it does not know.
        Verdict::Answer(bytes) => format!("{:?}", RCODE::from(u16::from(bytes[3] & 15))),
        Verdict::PassOn(_) => "others".to_owned(),
    }
}

#[test]
fn what_does_not_fit_is_left_out_and_said() {
    let mut view = view();
    for n in 0..200 {
        view.add_service(&name(&format!("many@{n}")), &[IpAddr::from([10, 83, 1, n])], true);
    }
    let question = question("many", TYPE::A);
    let first = |turn, room| match decide(&question, &view, turn, room) {
        Verdict::Answer(bytes) => {
            assert!(bytes.len() <= room);
            let packet = Packet::parse(&bytes).unwrap();
            let rdata::RData::A(first) = &packet.answers[0].rdata else { panic!("no address") };
            (packet.answers.len(), packet.has_flags(PacketFlag::TRUNCATION), Ipv4Addr::from(first.address))
        }
        Verdict::PassOn(_) => panic!("passed on"),
    };
    let (count, is_cut, address) = first(0, 512);
    assert!((20..32).contains(&count) && is_cut, "{count}");
    assert_eq!(address, Ipv4Addr::new(10, 83, 1, 0));
    assert_eq!(first(1, 65_535), (200, false, Ipv4Addr::new(10, 83, 1, 1)), "each in its turn");
}

/// An answer to `question`, with these records.
fn answer(question: &[u8], records: Vec<ResourceRecord<'_>>) -> Vec<u8> {
    let mut packet = Packet::parse(question).unwrap().into_reply();
    packet.answers = records;
    packet.build_bytes_vec_compressed().unwrap()
}

fn record<'a>(name: &'a str, ttl: u32, data: rdata::RData<'a>) -> ResourceRecord<'a> {
    ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, ttl, data)
}

fn four(address: [u8; 4]) -> rdata::RData<'static> {
    rdata::RData::A(rdata::A::from(Ipv4Addr::from(address)))
}

#[test]
fn an_answer_is_one_to_the_question_that_was_asked() {
    let asked = question("A.example.org", TYPE::A);
    let passed = asked.passed_on(9);
    let right = answer(&passed, vec![record("a.example.org", 60, four([192, 0, 2, 1]))]);
    assert!(asked.is_answered_by(&right, 9));
    assert!(!asked.is_answered_by(&right, 8), "another id");
    assert!(!asked.is_answered_by(&passed, 9), "a question");
    let other = |name, kind| question(name, kind).passed_on(9);
    assert!(!asked.is_answered_by(&answer(&other("b.example.org", TYPE::A), Vec::new()), 9));
    assert!(!asked.is_answered_by(&answer(&other("a.example.org", TYPE::AAAA), Vec::new()), 9));
    let handed = asked.handed_back(right.clone(), 30, 512);
    let packet = Packet::parse(&handed).unwrap();
    assert_eq!((packet.id(), packet.answers[0].ttl), (77, 30));
    let cut = asked.handed_back(right, 30, 20);
    assert!(Packet::parse(&cut).unwrap().has_flags(PacketFlag::TRUNCATION));
}

#[test]
fn the_question_decides_whose_addresses_an_answer_has() {
    let asked = question("a.example.org", TYPE::A);
    let alias = |name| rdata::RData::CNAME(rdata::CNAME(Name::new_unchecked(name)));
    let bytes = answer(
        &asked.passed_on(9),
        vec![
            record("c.example.net", 7, four([192, 0, 2, 3])),
            record("b.example.net", 60, alias("C.example.net")),
            record("a.example.org", 60, alias("b.example.net")),
            record("d.example.net", 60, four([192, 0, 2, 4])),
            // Round and round.
            record("c.example.net", 60, alias("a.example.org")),
        ],
    );
    assert_eq!(asked.addresses(&bytes), Some(vec![(v4("192.0.2.3"), 7)]));
    let mut lying = bytes;
    lying[6..8].copy_from_slice(&[255, 255]);
    assert_eq!(asked.addresses(&lying), None, "no room is made for what is not there");
    assert_eq!([0, 30, 600, 86_400].map(|ttl| holds(ttl).as_secs()), [30, 30, 600, 3600]);
    for never in [
        "127.0.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "::ffff:10.83.0.3",
        "255.255.255.255",
    ] {
        assert!(!is_outside(never.parse().unwrap()), "{never}");
    }
    assert!(is_outside(v4("192.0.2.1")));
}

#[test]
fn servers_are_read_from_the_hosts_file() {
    let text = "# nameserver 192.0.2.9\nsearch x\nnameserver 192.0.2.1\nnameserver\nnameserver fe80::1%eth0\n\
                nameserver 2001:db8::1\nnameserver 127.0.0.53\nnameserver 192.0.2.2\n";
    let wanted: Vec<IpAddr> =
        ["192.0.2.1", "2001:db8::1", "127.0.0.53"].map(|text| text.parse().unwrap()).into();
    assert_eq!(servers(text), wanted);
}

proptest! {
    #[test]
    fn whatever_comes_in_has_a_readable_answer_or_none(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), plain: bool) {
        if plain && bytes.len() >= 12 {
            bytes[2] &= 1;
            bytes[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        }
        match wire::read(&bytes) {
            Err(Unread::Nothing) => {}
            Err(Unread::Answer(answer)) => prop_assert!(Packet::parse(&answer).is_ok()),
            Ok(question) => {
                for room in [512, 65_535] {
                    match decide(&question, &view(), 1, room) {
                        Verdict::Answer(answer) => {
                            prop_assert!(answer.len() <= room.max(300));
                            prop_assert_eq!(wire::read(&answer).err(), Some(Unread::Nothing));
                        }
                        Verdict::PassOn(_) => {}
                    }
                }
                // Read again it is the same.
                let passed = wire::read(&question.passed_on(7)).unwrap();
                prop_assert_eq!((passed.name, passed.kind), (question.name, question.kind));
            }
        }
    }

    #[test]
    fn whatever_a_server_says_is_read_or_not(tail in proptest::collection::vec(any::<u8>(), 0..200), counts: [u8; 3]) {
        let asked = question("a.example.org", TYPE::A);
        let mut bytes = answer(&asked.passed_on(9), Vec::new());
        for (at, count) in [7, 9, 11].into_iter().zip(counts) {
            bytes[at] = count;
        }
        bytes.extend(&tail);
        prop_assert!(asked.is_answered_by(&bytes, 9));
        let _ = asked.addresses(&bytes);
        let length = bytes.len();
        prop_assert!(asked.handed_back(bytes, 60, 512).len() <= length.max(64));
    }

    #[test]
    fn no_length_is_believed(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let asked = question("a.example.org", TYPE::A);
        let _ = asked.is_answered_by(&bytes, 9);
        let _ = asked.addresses(&bytes);
        let _ = (wire::is_cut(&bytes), wire::is_failure(&bytes));
        let _ = asked.handed_back(bytes, 60, 512);
    }
}

#[test]
fn a_question_is_failed_with_what_it_asked() {
    let asked = question("db", TYPE::A);
    let packet = asked.unanswered();
    assert_eq!(Packet::parse(&packet).unwrap().rcode(), RCODE::ServerFailure);
}

#[test]
fn an_answer_that_ends_in_its_header_has_no_addresses() {
    let asked =
        wire::read(b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01").unwrap();
    for length in 0..=12 {
        assert_eq!(asked.addresses(&[0; 12][..length]), None, "{length}");
    }
}
