//! Writing files of the operator's, each in one piece: whoever reads one meanwhile, or after a crash, has the old text or the
//! new one.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Writes a file with owner and mode of the one that it replaces, 0644 where there is none, and only where it says something else.
/// Whether it did.
///
/// # Errors
/// Nothing has changed.
pub(super) fn put(path: &Path, text: &str) -> io::Result<bool> {
    let before = fs::File::open(path).ok();
    if before.is_some() && fs::read(path)? == text.as_bytes() {
        return Ok(false);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = new_in(dir)?;
    let before = before.and_then(|file| file.metadata().ok());
    let mode = before.as_ref().map_or(0o644, |meta| meta.mode() & 0o777);
    let written = new.1.write_all(text.as_bytes()).and_then(|()| {
        // Before the mode: what a group may read is not for any other.
        if let Some(meta) = &before {
            std::os::unix::fs::fchown(&new.1, Some(meta.uid()), Some(meta.gid()))?;
        }
        new.1.set_permissions(fs::Permissions::from_mode(mode))?;
        new.1.sync_all()?;
        fs::rename(&new.0, path)
    });
    written.inspect_err(|_| drop(fs::remove_file(&new.0))).map(|()| true)
}

/// Of a name that ends as no service file does, and that nobody else can have made before.
fn new_in(dir: &Path) -> io::Result<(PathBuf, fs::File)> {
    let path = dir.join(format!(".palisade-new.{}", std::process::id()));
    let file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((path, file))
}
