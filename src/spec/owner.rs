//! Who, beside root, may operate a service.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One entry of `unit.owners`. The ids are the host's; the kernel tells those of whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// A user.
    User(u32),
    /// Everybody in a group.
    Group(u32),
}

impl Owner {
    /// The number of the user or group.
    pub fn id(&self) -> u32 {
        match self {
            Owner::User(id) | Owner::Group(id) => *id,
        }
    }

    /// Whether this is who has the user id `uid` and the group ids `gids`.
    pub fn is(self: &Owner, uid: u32, gids: &[u32]) -> bool {
        match self {
            Owner::User(owner) => *owner == uid,
            Owner::Group(owner) => gids.contains(owner),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::User(uid) => write!(f, "{uid}"),
            Owner::Group(gid) => write!(f, "group:{gid}"),
        }
    }
}
