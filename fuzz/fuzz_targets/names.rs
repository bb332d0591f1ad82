//! What services ask about names, and what servers answer: whatever it is, what goes back can be read, fits, and is no question.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use palisade::{
    names::{Beyond, Question, Unread, Verdict, View, decide, wire},
    net::addr::NetworkSettings,
    spec::{Door, Named, UnitName},
};

fuzz_target!(init: seeds(), |bytes: &[u8]| {
    let asked = wire::read(&question(b"\x01a\x07example\x03org\x00")).expect("a question");
    // As an answer.
    let is_ours = asked.is_answered_by(bytes, 0x0102);
    let addresses = asked.addresses(bytes);
    let handed = asked.handed_back(bytes.to_vec(), 60, 512);
    assert!(handed.len() <= bytes.len().max(64), "{is_ours} {addresses:?}");
    // As a question.
    match wire::read(bytes) {
        Ok(question) => answered(&question),
        Err(Unread::Answer(answer)) => is_answer(&answer),
        Err(Unread::Nothing) => {}
    }
});

fn answered(question: &Question) {
    let view = view();
    for room in [question.room(), wire::MESSAGE_MAX] {
        match decide(question, &view, 1, room) {
            Verdict::Answer(answer) => {
                assert!(answer.len() <= room);
                is_answer(&answer);
            }
            Verdict::PassOn(doors) => assert_eq!(doors, [Door::Any], "{}", question.name),
        }
    }
    is_answer(&question.unanswered());
    let passed = wire::read(&question.passed_on(7)).expect("it is passed on as it was understood");
    assert_eq!((&passed.name, passed.kind), (&question.name, question.kind));
}

/// Nobody answers an answer.
fn is_answer(bytes: &[u8]) {
    assert_eq!(wire::read(bytes).err(), Some(Unread::Nothing));
}

fn view() -> View {
    let name = |text: &str| UnitName::new(text).expect("a name");
    let address = |last| IpAddr::from([10, 83, 0, last]);
    let mut view = View::of(&name("app"), "alpha", &[address(2)], &NetworkSettings::default());
    for last in 3..100 {
        view.add_service(&name(&format!("web@{last}")), &[address(last)], true);
    }
    view.set_beyond(Beyond::Only(vec![Named { name: "*.example.org".to_owned(), door: Door::Any }]));
    view
}

fn question(name: &[u8]) -> Vec<u8> {
    [b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00", name, b"\x00\x01\x00\x01"].concat()
}

fn seeds() {
    let names: [(&str, &[u8]); 4] = [
        ("service", b"\x03web\x08palisade\x00"),
        ("outside", b"\x01a\x07example\x03org\x00"),
        ("pointer", b"\x013\x010\x0283\x0210\x07in-addr\x04arpa\x00"),
        ("compressed", b"\xc0\x0c"),
    ];
    for (name, bytes) in names {
        palisade_fuzz::seed("names", name, &question(bytes));
    }
    // With EDNS; and an answer by way of another name.
    let mut large = question(b"\x03web\x00");
    large[11] = 1;
    large.extend(b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00");
    palisade_fuzz::seed("names", "large", &large);
    let mut answer = question(b"\x01a\x07example\x03org\x00");
    answer[2] = 0x81;
    answer[7] = 2;
    answer.extend(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x04\x01b\xc0\x0e");
    answer.extend(b"\xc0\x2b\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01");
    palisade_fuzz::seed("names", "answer", &answer);
}
