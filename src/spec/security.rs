//! `[security]`: what a service may ask of the kernel.

use serde::{Deserialize, Serialize};

/// `[security]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Nothing that is executed gains privileges: `PR_SET_NO_NEW_PRIVS(2const)`.
    pub no_new_privs: bool,
}
