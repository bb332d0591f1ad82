//! Compresses rotated files (`log.compress`), a piece at a time: whoever does it has services to serve in between.
//!
//! ```text
//! .NAME.log.gz.new    killed here: it is begun anew, or removed
//! NAME.log.2.gz       killed here: NAME.log.2 is there as well, which counts; it is done again
//! NAME.log.2 is gone
//! ```
//! The newest rotated file stays as it is, as with logrotate's delaycompress: whoever follows logs by their names may still
//! be reading it.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    file::{PIECE, compress, compressed_path, open, paths},
    path,
};
use crate::sys::SysError;

/// Pieces after which what was written has to be on the disk: the wait for it at the end is no longer than for so many.
const SETTLE: u64 = 64;
/// The first age that is compressed.
const YOUNGEST: u32 = 2;

/// A file that is being compressed.
#[derive(Debug)]
pub struct Squeeze {
    dir: PathBuf,
    name: String,
    from: File,
    inode: (u64, u64),
    into: File,
    offset: u64,
}

/// Where the compressed text goes until it is whole.
fn new_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!(".{name}.log.gz.new"))
}

impl Squeeze {
    /// Begins with a rotated file that is not compressed; none: there is none.
    ///
    /// # Errors
    /// `SysError` of open(2).
    pub fn begin(dir: &Path, name: &str, files: u32) -> Result<Option<Self>, SysError> {
        let new = new_path(dir, name);
        let begun = (|| {
            for age in YOUNGEST..files {
                let Some(from) = open(&path(dir, name, age))? else {
                    match fs::exists(compressed_path(dir, name, age))? {
                        true => continue,
                        false => break,
                    }
                };
                let status = from.metadata()?;
                let into = OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o640)
                    .custom_flags(libc::O_NOFOLLOW)
                    .open(&new)?;
                into.set_permissions(Permissions::from_mode(status.mode() & 0o777))?;
                let inode = (status.dev(), status.ino());
                return Ok(Some(Self {
                    dir: dir.to_owned(),
                    name: name.to_owned(),
                    from,
                    inode,
                    into,
                    offset: 0,
                }));
            }
            // What somebody was killed at, and nobody goes on with.
            let _ = fs::remove_file(&new);
            io::Result::Ok(None)
        })();
        begun.map_err(|error| SysError::new("open", format!("{:?}", new.display()), error))
    }

    /// Compresses a piece. True: it was the last one, and the file has taken the place of the other.
    ///
    /// # Errors
    /// `SysError` of read(2), write(2), fsync(2) or rename(2): it is over then, and the file stays as it was.
    pub fn step(&mut self) -> Result<bool, SysError> {
        self.piece().map_err(|error| {
            let new = new_path(&self.dir, &self.name);
            let _ = fs::remove_file(&new);
            SysError::new("write", format!("{:?}", new.display()), error)
        })
    }

    /// Leaves the file as it is.
    pub fn give_up(self) {
        let _ = fs::remove_file(new_path(&self.dir, &self.name));
    }

    fn piece(&mut self) -> io::Result<bool> {
        let mut text = vec![0; PIECE];
        let count = self.from.read_at(&mut text, self.offset)?;
        if count == 0 {
            return self.finish().map(|()| true);
        }
        let of = (self.offset == 0).then_some(self.inode.1);
        self.into.write_all(&compress(&text[..count], of)?)?;
        self.offset += count as u64;
        if (self.offset / PIECE as u64).is_multiple_of(SETTLE) {
            self.into.sync_data()?;
        }
        Ok(false)
    }

    /// Puts it in the place of the other, which may have another age by now, or be gone.
    fn finish(&mut self) -> io::Result<()> {
        let new = new_path(&self.dir, &self.name);
        let is_it = |age: &u32| {
            fs::symlink_metadata(path(&self.dir, &self.name, *age))
                .is_ok_and(|file| (file.dev(), file.ino()) == self.inode)
        };
        let Some(age) = (YOUNGEST..=super::AGES).find(is_it) else { return fs::remove_file(&new) };
        // How old its last line is.
        self.into.set_modified(self.from.metadata()?.modified()?)?;
        // Before the other one goes: a host may lose its power.
        self.into.sync_all()?;
        fs::rename(&new, compressed_path(&self.dir, &self.name, age))?;
        fs::remove_file(path(&self.dir, &self.name, age))
    }
}

/// Moves the files of an age to another one, where there is none.
pub(super) fn move_age(dir: &Path, name: &str, from: u32, to: u32) {
    for (from, to) in paths(dir, name, from).iter().zip(paths(dir, name, to)) {
        // A gap in the row is nothing to complain about.
        let _ = fs::rename(from, to);
    }
}

/// Removes the file of an age; whether there was one.
///
/// # Errors
/// Of unlink(2), but for a file that is not there.
pub(super) fn remove_age(dir: &Path, name: &str, age: u32) -> io::Result<bool> {
    let mut was_there = false;
    for path in paths(dir, name, age) {
        match fs::remove_file(path) {
            Ok(()) => was_there = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(was_there)
}
