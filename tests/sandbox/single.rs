//! One service in the foreground: `palisade run FILE`.
