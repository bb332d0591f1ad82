//! `[security]`.

use super::{Reader, defaults};
use crate::{config::schema::SecurityTable, spec::Security};

pub(super) fn security(reader: &mut Reader<'_>) -> Security {
    let SecurityTable { no_new_privs } = &reader.file.tables.security;
    Security { no_new_privs: no_new_privs.unwrap_or(defaults::NO_NEW_PRIVS) }
}
