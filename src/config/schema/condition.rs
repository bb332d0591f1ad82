//! `[unit.condition]` and `[unit.assert]` as they are typed.

use std::fmt;

use serde::{
    Deserialize,
    de::{self, SeqAccess, Visitor},
};
use toml::Spanned;

use super::Scalar;

/// `[unit.condition]` and `[unit.assert]`; what the host must be like for the service to be started. It is looked at before
/// every start, automatic ones included, on the host; `palisade check` does not look. Where something of `condition` does
/// not hold the service is skipped: it counts as stopped, the reason is shown, and services that require it go on. Where
/// something of `assert` does not hold the start has failed, is not repeated, and services that require it fail as well. A
/// value that begins with `!` is to hold the other way round; of a list, and of several keys, all are to hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
pub struct ConditionTable {
    /// There is something at this path. Links are followed. Default: none.
    pub path_exists: Option<Spanned<Wanted>>,
    /// There is a directory. Default: none.
    pub path_is_directory: Option<Spanned<Wanted>>,
    /// There is a symbolic link. Default: none.
    pub path_is_symbolic_link: Option<Spanned<Wanted>>,
    /// Something is mounted there. Default: none.
    pub path_is_mount_point: Option<Spanned<Wanted>>,
    /// It lies on a file system that is mounted writable. Default: none.
    pub path_is_read_write: Option<Spanned<Wanted>>,
    /// There is a directory with something in it. Default: none.
    pub directory_not_empty: Option<Spanned<Wanted>>,
    /// There is a file with something in it. Default: none.
    pub file_not_empty: Option<Spanned<Wanted>>,
    /// There is a file that somebody may execute. Default: none.
    pub file_is_executable: Option<Spanned<Wanted>>,
    /// What the host runs on: `true` or `false`, `vm`, `container`, or a name as systemd-detect-virt(1) has it, such as `kvm`
    /// or `docker`. Default: none.
    pub virtualization: Option<Spanned<Wanted>>,
    /// The kernel's release, as `uname -r` says it: a comparison of versions with `<`, `<=`, `=`, `!=`, `>=` or `>`, as in
    /// `">=6.6"`, or a pattern, as in `"*-amd64"`. Default: none.
    pub kernel: Option<Spanned<Wanted>>,
    /// A word of the kernel's command line: `quiet`, `root` (whatever follows its `=`) or `root=/dev/vda1`. Default: none.
    pub kernel_command_line: Option<Spanned<Wanted>>,
    /// The host's name, a pattern, or its machine id. Default: none.
    pub host: Option<Spanned<Wanted>>,
    /// How much memory the host has: a size, which is the least, or a comparison, as in `"<4G"`. Default: none.
    pub memory: Option<Spanned<Wanted>>,
    /// How many CPUs the supervisor may run on: a number, which is the least, or a comparison, as in `">=4"`. Default: none.
    pub cpus: Option<Spanned<Wanted>>,
    /// The host's architecture: `x86-64` or `arm64`, as `uname -m` or as systemd.unit(5) has it. Default: none.
    pub architecture: Option<Spanned<Wanted>>,
    /// A variable of the supervisor's environment: its name, or the name, `=` and its value. Default: none.
    pub environment: Option<Spanned<Wanted>>,
}

/// One value, or a list of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// One.
    One(Scalar),
    /// A list.
    All(Vec<Spanned<Scalar>>),
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Wanted;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of them")
            }
            fn visit_bool<E: de::Error>(self, is_so: bool) -> Result<Wanted, E> {
                Ok(Wanted::One(Scalar::Text(is_so.to_string())))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Wanted, E> {
                Ok(Wanted::One(Scalar::Int(number)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Wanted, E> {
                Ok(Wanted::One(Scalar::Text(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Wanted, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                Ok(Wanted::All(all))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}
