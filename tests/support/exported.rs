//! What is exported, as Prometheus' own parser for Python (of Debian's) reads it.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
};

use serde::Deserialize;

/// Prints every value that the text on standard input has.
const PARSER: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families
found = []
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation and family.type in ("counter", "gauge"), family
    for sample in family.samples:
        found.append({"kind": family.type, "name": sample.name, "labels": sample.labels, "value": sample.value})
print(json.dumps(found))
"#;

/// One value.
#[derive(Debug, Deserialize)]
pub struct Sample {
    pub kind: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// All values of one text.
#[derive(Debug)]
pub struct Exported(pub Vec<Sample>);

impl Exported {
    /// Reads a text.
    ///
    /// # Panics
    /// When it is none that Prometheus understands, or has a value twice.
    pub fn parse(text: &str) -> Self {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", PARSER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut python = python.spawn().expect("declared as a need");
        python.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
        let out = python.wait_with_output().expect("it ends");
        assert!(out.status.success(), "{}\n{text}", String::from_utf8_lossy(&out.stderr));
        let all: Vec<Sample> = serde_json::from_slice(&out.stdout).expect("the parser prints JSON");
        let series: std::collections::BTreeSet<_> = all.iter().map(|one| (&one.name, &one.labels)).collect();
        assert_eq!(series.len(), all.len(), "a series twice:\n{text}");
        Self(all)
    }

    /// The value of this name that has these labels, among others.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |one: &Sample, (label, value): &(&str, &str)| {
            one.labels.get(*label).is_some_and(|found| found == value)
        };
        let mut all =
            self.0.iter().filter(|one| one.name == name && labels.iter().all(|label| has(one, label)));
        let found = all.next()?;
        assert!(all.next().is_none(), "{name} {labels:?} is not one alone");
        Some(found.value)
    }

    /// As [`Exported::get`], of one that must be there.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in {:#?}", self.0))
    }
}

/// What a request on the Unix socket is answered with: the head and the body.
pub fn ask(socket: &Path, request: &str) -> (String, String) {
    let mut stream = UnixStream::connect(socket).expect("it is listened there");
    stream.set_read_timeout(Some(super::scaled(super::LONG))).expect("a socket");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    (head.to_owned(), body.to_owned())
}
