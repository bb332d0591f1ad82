//! `service.ready` and `[health]`: what is asked, and how often.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use toml::Spanned;

use super::Reader;
use crate::{
    config::{
        schema::{HealthTable, Scalar, Text, WordOrList},
        value::Refusal,
    },
    spec::{HealthCheck, HttpTarget, Kind, OnFail, Ready, Test, defaults, probe::PATTERN_SIZE},
};

const ON_FAIL: &[(&str, OnFail)] =
    &[("restart", OnFail::Restart), ("kill", OnFail::Kill), ("stop", OnFail::Stop), ("none", OnFail::None)];

/// sun_path of unix(7), without its NUL.
const SOCKET_PATH_MAX: usize = 107;

/// What is asked from outside; what a service says itself is `super::ready`'s.
pub(super) fn parse_ready(word: &str) -> Result<Ready, Refusal> {
    match word.split_once(':') {
        Some(("tcp", rest)) => endpoint(rest).map(Ready::Tcp),
        Some(("http" | "https", _)) => http(word).map(Ready::Http),
        Some(("file", path)) => super::absolute(path).map(Ready::File),
        Some(("log", pattern)) => pattern_of(pattern).map(Ready::Log),
        _ => Err(Refusal::new(format!("{word:?} is not a value of `service.ready`")).hint(
            "write \"notify\", \"fd:N\", \"tcp:PORT\", \"http:PORT/path\", \"file:/path\" or \"log:REGEX\"",
        )),
    }
}

/// A regular expression that finds what it is to find in time that grows with the line alone.
fn pattern_of(pattern: &str) -> Result<String, Refusal> {
    if pattern.is_empty() {
        return Err(Refusal::new("an empty pattern matches every line").hint("write \"log:listening on\""));
    }
    match regex_lite::RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).build() {
        Ok(_) => Ok(pattern.to_owned()),
        Err(error) => Err(Refusal::new(format!("{pattern:?} is not a regular expression: {error}"))
            .hint("a backslash before one of .+*?()|[]{}^$ takes its meaning away; in TOML write it in single quotes")),
    }
}

/// `PORT`, `ADDRESS:PORT` or `[ADDRESS]:PORT`; the address is this machine's, as the service sees it.
fn endpoint(text: &str) -> Result<SocketAddr, Refusal> {
    let refusal = || {
        Refusal::new(format!("{text:?} is not a port of the service"))
            .hint("write the port, or the address and the port: \"8080\", \"10.0.0.1:8080\", \"[::1]:8080\"")
    };
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let at = match is_number {
        true => text.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        false => text.strip_prefix("localhost:").map_or_else(
            || text.parse().ok(),
            |port| port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        ),
    };
    at.filter(|at: &SocketAddr| at.port() != 0).ok_or_else(refusal)
}

/// `http:PORT/path`, or `http://ADDRESS[:PORT]/path`.
fn http(text: &str) -> Result<HttpTarget, Refusal> {
    let Some(rest) = text.strip_prefix("http:") else {
        return Err(Refusal::new("a check speaks plain HTTP, no TLS").hint(
            "ask a port that answers without TLS, or use a command such as `[\"curl\", \"-fsk\", …]`",
        ));
    };
    let (authority, is_url) = match rest.strip_prefix("//") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let (authority, path) = match authority.find(['/', '?']) {
        Some(at) if authority[at..].starts_with('?') => (&authority[..at], format!("/{}", &authority[at..])),
        Some(at) => (&authority[..at], authority[at..].to_owned()),
        None => (authority, "/".to_owned()),
    };
    // A line end or a space would make another request of it.
    if path.bytes().any(|byte| !(b'!'..=b'~').contains(&byte)) || path.contains('#') {
        return Err(Refusal::new(format!("{path:?} is not the path of a request"))
            .hint("write anything but printable ASCII as %%XX, and no \"#\""));
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let written = match is_url && !has_port {
        true => format!("{authority}:80"),
        false => authority.to_owned(),
    };
    let at = endpoint(&written)?;
    let host = match written.split_once(':') {
        None => format!("localhost:{}", at.port()),
        Some(_) => written,
    };
    Ok(HttpTarget { at, host, path })
}

pub(super) fn health(
    reader: &mut Reader<'_>,
    env: &BTreeMap<String, String>,
    kind: Kind,
) -> Option<HealthCheck> {
    let entry = reader.file.tables.health.as_ref()?;
    let table = entry.get_ref();
    if kind == Kind::Oneshot {
        let refusal = Refusal::new("a oneshot is not checked: how it ends says how it is");
        reader.refuse(entry.span(), refusal.hint("leave `[health]` out"));
        return None;
    }
    let HealthTable { test, interval, timeout, retries, start_period, start_interval, on_fail } = table;
    let tested = match test {
        Some(test) => self::test(reader, test, env),
        None => {
            let refusal = Refusal::new("`[health]` does not say what to ask");
            reader.refuse(entry.span(), refusal.hint("add `test = \"http:8080/health\"`, or a command"));
            None
        }
    };
    let retries = retries.as_ref().and_then(|retries| reader.number(retries, 1..=1000));
    let check = HealthCheck {
        // A stand-in: with a refused test there is no unit.
        test: tested.unwrap_or_else(|| Test::Exec(Vec::new())),
        interval: positive(reader, interval).unwrap_or(defaults::HEALTH_INTERVAL),
        timeout: positive(reader, timeout).unwrap_or(defaults::HEALTH_TIMEOUT),
        retries: retries.and_then(|n| u32::try_from(n).ok()).unwrap_or(defaults::HEALTH_RETRIES),
        start_period: reader.bounded(start_period).unwrap_or(defaults::HEALTH_START_PERIOD),
        start_interval: positive(reader, start_interval).unwrap_or(defaults::HEALTH_START_INTERVAL),
        on_fail: reader.word("health.on_fail", on_fail, ON_FAIL).unwrap_or(defaults::HEALTH_ON_FAIL),
    };
    Some(check)
}

/// A duration of which there is no end of rounds in a second.
fn positive(reader: &mut Reader<'_>, value: &Option<Spanned<Scalar>>) -> Option<Duration> {
    let duration = reader.bounded(value)?;
    let span = value.as_ref()?.span();
    let least = Duration::from_millis(10);
    let refusal =
        || Refusal::new("checks in so short a time would keep the host busy").hint("write 10ms or more");
    reader.take(span, if duration >= least { Ok(duration) } else { Err(refusal()) })
}

fn test(reader: &mut Reader<'_>, test: &Spanned<WordOrList>, env: &BTreeMap<String, String>) -> Option<Test> {
    let word = match test.get_ref() {
        WordOrList::Word(word) => word,
        WordOrList::List(list) => {
            let first = list.first().map(|text| text.get_ref().as_str());
            if let Some(first @ ("CMD" | "CMD-SHELL" | "NONE")) = first {
                let refusal = Refusal::new(format!("{first:?} is a word of Docker's, not a program"));
                let hint = "write the command alone: `[\"curl\", \"-f\", \"http://localhost\"]`";
                reader.refuse(test.span(), refusal.hint(hint));
                return None;
            }
            return reader.command(test, env).map(Test::Exec);
        }
    };
    let parsed = match word.split_once(':') {
        Some(("tcp" | "http" | "https" | "unix", _)) => {
            let text = Text::new(test.span(), word.clone());
            parse_test(&reader.text(&text)?)
        }
        _ => return reader.command(test, env).map(Test::Exec),
    };
    reader.take(test.span(), parsed)
}

fn parse_test(word: &str) -> Result<Test, Refusal> {
    match word.split_once(':') {
        Some(("tcp", rest)) => endpoint(rest).map(Test::Tcp),
        Some(("unix", path)) => socket_path(path).map(Test::Unix),
        _ => http(word).map(Test::Http),
    }
}

fn socket_path(path: &str) -> Result<PathBuf, Refusal> {
    let path = super::absolute(path)?;
    match path.as_os_str().len() {
        0..=SOCKET_PATH_MAX => Ok(path),
        _ => Err(Refusal::new(format!("the path of a socket has {SOCKET_PATH_MAX} bytes at most"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_asked_on_the_loopback_unless_an_address_is_written() {
        let good = [
            ("8080", "127.0.0.1:8080"),
            ("localhost:80", "127.0.0.1:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
        ];
        for (text, at) in good {
            assert_eq!(endpoint(text).ok().map(|at| at.to_string()).as_deref(), Some(at));
        }
        for bad in ["", "0", "65536", "+80", " 80", "web:80", "::1:80", "10.0.0.1", "localhost:", "80/tcp"] {
            assert!(endpoint(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_request_has_a_host_and_a_path() {
        let good = [
            ("http:8080", "127.0.0.1:8080", "localhost:8080", "/"),
            ("http:8080/health?full=1", "127.0.0.1:8080", "localhost:8080", "/health?full=1"),
            ("http://localhost/up", "127.0.0.1:80", "localhost:80", "/up"),
            ("http://127.0.0.1:9000", "127.0.0.1:9000", "127.0.0.1:9000", "/"),
            ("http://[::1]/x", "[::1]:80", "[::1]:80", "/x"),
            ("http://[::1]:81?y", "[::1]:81", "[::1]:81", "/?y"),
        ];
        for (text, at, host, path) in good {
            let target = HttpTarget { at: at.parse().expect("good"), host: host.into(), path: path.into() };
            assert_eq!(http(text).ok(), Some(target), "{text}");
        }
        for bad in
            ["http:", "http:/x", "http://", "http:80/a b", "http:80/a\r\nHost: x", "http:80/#a", "https:443/"]
        {
            assert!(http(bad).is_err(), "{bad:?}");
        }
    }
}
