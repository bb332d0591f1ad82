//! `[http]` and `[ingress]`: host names of the web, whose requests they are, and who passes them on.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Mount, UnitName};

/// Where an ingress finds what is made for it, inside.
pub const INGRESS_DIR: &str = "/run/ingress";

/// `[http]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// The names by which it is asked; not empty.
    pub hosts: Vec<Host>,
    /// Its own port.
    pub port: u16,
    /// What the paths begin with that are its own.
    pub path: WebPath,
}

impl Http {
    /// What it is asked by, for people: host and path, and the port that answers.
    pub fn shown(&self) -> Vec<String> {
        let path = if self.path.is_whole() { "" } else { self.path.as_str() };
        self.hosts.iter().map(|host| format!("{host}{path}->{}", self.port)).collect()
    }
}

/// The name of a host of the web, or `*.` and a name for every one that has one label more: letters, digits and hyphens in
/// lower case, up to 253 characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(String);

impl Host {
    /// Checks `text` against the grammar above. A number at the end is an address.
    ///
    /// # Errors
    /// It is none.
    pub fn new(text: &str) -> Result<Self, String> {
        let label = |label: &str| {
            let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(good)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
        let last = name.rsplit('.').next().unwrap_or_default();
        match name.len() <= 253 && name.split('.').all(label) && !is_number(last) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("{text:?} is not a host name")),
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Behind the `*.`, where it stands for several.
    pub fn suffix(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }
}

impl TryFrom<String> for Host {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> String {
        host.0
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the paths of a site begin with: `/` for all of them, or segments of letters, digits, `.`, `_`, `~` and `-`, without
/// a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebPath(String);

impl WebPath {
    /// Checks `text` against the grammar above; a slash at the end is left out.
    ///
    /// # Errors
    /// It is none.
    pub fn new(text: &str) -> Result<Self, String> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
        let segment = |segment: &str| {
            !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(good)
        };
        let plain = text.strip_suffix('/').unwrap_or(text);
        // In whatever case: some who pass requests on do not tell.
        let first = plain.split('/').nth(1).unwrap_or_default();
        if first.eq_ignore_ascii_case(".well-known") {
            return Err(format!("{text:?} speaks for the whole host, to those who certify it among others"));
        }
        let is_whole = text == "/";
        match is_whole
            || text.len() <= 255 && plain.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment))
        {
            true => Ok(Self(if is_whole { text } else { plain }.to_owned())),
            false => Err(format!("{text:?} is not the beginning of paths")),
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether every path is meant.
    pub fn is_whole(&self) -> bool {
        self.0 == "/"
    }
}

impl TryFrom<String> for WebPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text)
    }
}

impl From<WebPath> for String {
    fn from(path: WebPath) -> String {
        path.0
    }
}

impl fmt::Display for WebPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `[ingress]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    /// Whose configuration is made.
    pub format: Format,
    /// How it is asked.
    pub tls: Tls,
}

/// The program that passes requests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// nginx(8): a part of the block `http`.
    Nginx,
    /// Caddy: a part of a Caddyfile.
    Caddy,
}

impl Format {
    /// Every one, by its name in a service file.
    pub const ALL: &[(&str, Self)] = &[("nginx", Format::Nginx), ("caddy", Format::Caddy)];

    /// The name of the file that is made.
    pub fn file_name(self) -> &'static str {
        match self {
            Format::Nginx => "nginx.conf",
            Format::Caddy => "Caddyfile",
        }
    }
}

/// `ingress.tls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// In the clear.
    Off,
    /// With certificates that it gets by itself.
    Auto,
    /// With those of a directory, inside.
    Dir(CertDir),
}

/// A directory of certificates: an absolute path of letters, digits, `.`, `_` and `-`, so that it needs no quotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CertDir(String);

impl CertDir {
    /// Checks `text` against the grammar above.
    ///
    /// # Errors
    /// It is none.
    pub fn new(text: &str) -> Result<Self, String> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
        let is_up = text.split('/').any(|part| part == "..");
        let plain = text.trim_end_matches('/');
        match plain.starts_with('/') && text.len() < 4096 && text.bytes().all(good) && !is_up {
            true => Ok(Self(plain.to_owned())),
            false => Err(format!("{text:?} is not a directory of certificates")),
        }
    }

    /// As it is written, without a slash at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CertDir {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text)
    }
}

impl From<CertDir> for String {
    fn from(dir: CertDir) -> String {
        dir.0
    }
}

impl Ingress {
    /// The directory of the host that has what is made for the service `name` of the supervisor whose `--run` is `run`.
    pub fn dir(run: &Path, name: &UnitName) -> PathBuf {
        run.join("ingress").join(name.as_str())
    }

    /// The file there.
    pub fn file(&self, run: &Path, name: &UnitName) -> PathBuf {
        Self::dir(run, name).join(self.format.file_name())
    }

    /// How the service is shown it.
    pub fn mount(run: &Path, name: &UnitName) -> Mount {
        Mount {
            src: Self::dir(run, name),
            dst: INGRESS_DIR.into(),
            ro: true,
            idmap: false,
            exec: false,
            optional: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_a_browser_asks_for_in_lower_case() {
        let long = format!("{}.example", "a".repeat(63));
        for good in
            ["blog.example.org", "intranet", "*.example.org", "xn--bcher-kva.example", "1.example", &long]
        {
            assert_eq!(Host::new(good).map(String::from).as_deref(), Ok(good));
        }
        let (label, name) = (format!("{}.example", "a".repeat(64)), ["abcdefg"; 40].join("."));
        for bad in [
            "",
            "*",
            "*.",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a.b",
            "a-.b",
            "a.*.b",
            "*a.b",
            "A.b",
            "a_b.c",
            "a b",
            "a;b",
            "a{b",
            "a\n",
            "192.0.2.1",
            "[::1]",
            "a:80",
            "http://a",
            "a/b",
            "b\u{fc}cher.example",
            &label,
            &name,
        ] {
            assert!(Host::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_made_of_plain_segments() {
        for (text, path) in [("/", "/"), ("/blog", "/blog"), ("/a/b.c/~x_y-z/", "/a/b.c/~x_y-z")] {
            assert_eq!(WebPath::new(text).map(String::from).as_deref(), Ok(path));
        }
        for bad in
            ["", "blog", "//", "/a//b", "/./a", "/..", "/a b", "/a%20", "/a;", "/a{", "/*", "/a\"", "/\u{fc}"]
        {
            assert!(WebPath::new(bad).is_err(), "{bad}");
        }
        assert!(WebPath::new(&format!("/{}", "a".repeat(255))).is_err());
        for all in ["/.well-known", "/.well-known/", "/.well-known/acme-challenge", "/.Well-Known/a"] {
            assert!(WebPath::new(all).unwrap_err().contains("the whole host"), "{all}");
        }
        assert!(WebPath::new("/a/.well-known").is_ok() && WebPath::new("/.well-knowns").is_ok());
    }

    #[test]
    fn a_directory_needs_no_quotes() {
        assert_eq!(CertDir::new("/etc/certs/").map(String::from).as_deref(), Ok("/etc/certs"));
        for bad in ["", "certs", "/", "/a b", "/a;", "/$a", "/a/../b", "/a\"", "/a\n"] {
            assert!(CertDir::new(bad).is_err(), "{bad}");
        }
    }
}
