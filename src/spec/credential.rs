//! `security.credentials`: secrets that a service reads from files in memory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{IdSpec, UnitName};

/// Where the credentials of all services are, each seeing its own alone. As with systemd, whose services look there.
pub const CREDENTIALS: &str = "/run/credentials";
/// Largest credential, bytes.
pub const LARGEST: usize = 1024 * 1024;
/// How many one service may have.
pub const MOST_CREDENTIALS: usize = 64;

/// Where the credentials of one service are: what `CREDENTIALS_DIRECTORY` says.
pub fn directory(name: &UnitName) -> PathBuf {
    PathBuf::from(CREDENTIALS).join(name.as_str())
}

/// One entry. What it holds is nowhere but in the file inside: it is read when a sandbox is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The name of the file.
    pub name: String,
    /// Where its content comes from.
    pub source: Source,
    /// 0400 and its like: nothing there can be written.
    pub mode: u32,
    /// Whose it is; none: the service's user's. A number inside the sandbox.
    pub owner: Option<u32>,
}

/// Where the content of a credential comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A file of the host that nobody but its trusted owner can write and others cannot read.
    File(PathBuf),
    /// What a program of the host prints, run as Palisade's own user.
    Command(Vec<String>),
    /// A variable of Palisade's own environment.
    Env(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::File(path) => write!(f, "{}", path.display()),
            // Arguments may be telling.
            Source::Command(argv) => write!(f, "output of {}", argv[0]),
            Source::Env(name) => write!(f, "${name}"),
        }
    }
}

/// The number that an owner is written as, where it is one.
pub(super) fn number(id: &IdSpec) -> Option<u32> {
    match id {
        IdSpec::Number(id) => Some(*id),
        IdSpec::Name(_) => None,
    }
}
