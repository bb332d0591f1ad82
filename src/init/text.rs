//! The files of the sandbox that `pid1.rs` reads, /etc/passwd and /etc/group, and the texts of a plan.

use crate::{
    EINVAL, ENOENT, EPERM, O_CLOEXEC, byte_at, close,
    raw::{AT_FDCWD, Call, O_NOFOLLOW, call},
};

/// An id as /etc/passwd and /etc/group have it; none for anything else.
pub(crate) fn decimal(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    let mut value = 0u32;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u32::from(digit))?;
    }
    // 4294967295 is "no id" to every system call that takes one.
    (value != u32::MAX).then_some(value)
}

/// The id of a group of /etc/group.
pub(crate) fn group_id(name: u64) -> Result<u32, i64> {
    let file = Text::open(c"/etc/group").map_err(|_| -ENOENT)?;
    let name = Text::at(name);
    let line = file.lines().find(|line| line.split(|b| *b == b':').next() == Some(name)).ok_or(-ENOENT)?;
    line.split(|b| *b == b':').nth(2).and_then(decimal).ok_or(-EINVAL)
}

/// The ids of a user of /etc/passwd. It is the root's to say which: but that somebody else is root it may not say.
pub(crate) fn user_ids(name: u64) -> Result<(u32, u32), i64> {
    let file = Text::open(c"/etc/passwd").map_err(|_| -ENOENT)?;
    let name = Text::at(name);
    let line = file.lines().find(|line| line.split(|b| *b == b':').next() == Some(name)).ok_or(-ENOENT)?;
    let mut fields = line.split(|b| *b == b':').skip(2);
    match (fields.next().and_then(decimal), fields.next().and_then(decimal)) {
        (Some(0), Some(_)) if name != b"root" => Err(-EPERM),
        (Some(uid), Some(gid)) => Ok((uid, gid)),
        _ => Err(-EINVAL),
    }
}

/// Gives `add` every group of /etc/group that lists the user as a member, until it refuses one.
pub(crate) fn memberships(user: u64, mut add: impl FnMut(u32) -> i64) -> i64 {
    // A root without /etc/group has no memberships to give.
    let Ok(file) = Text::open(c"/etc/group") else { return 0 };
    let user = Text::at(user);
    for line in file.lines() {
        let mut fields = line.split(|b| *b == b':').skip(2);
        let (Some(gid), Some(members)) = (fields.next().and_then(decimal), fields.next()) else { continue };
        if members.split(|b| *b == b',').any(|member| member == user) {
            let added = add(gid);
            if added < 0 {
                return added;
            }
        }
    }
    0
}

/// A file of the sandbox, mapped. It may be anything: a fifo, endless, full of NULs.
pub(crate) struct Text {
    at: u64,
    length: u64,
}

impl Text {
    const LARGEST: u64 = 1 << 20;

    pub(crate) fn open(path: &core::ffi::CStr) -> Result<Self, i64> {
        // O_NONBLOCK: a fifo must not stop us. O_NOFOLLOW: a link might lead into /proc.
        let flags = O_CLOEXEC | 0o4000 | O_NOFOLLOW;
        let fd = call(Call::OpenAt, [AT_FDCWD, path.as_ptr() as u64, flags, 0, 0, 0]);
        if fd < 0 {
            return Err(fd);
        }
        let end = call(Call::LSeek, [fd as u64, 0, 2, 0, 0, 0]);
        let length = if end < 0 { 0 } else { (end as u64).min(Self::LARGEST) };
        // Only a regular file can be mapped privately here: a fifo or a directory fails, a device is not on this file system.
        let at = call(Call::Mmap, [0, length, 1, 2, fd as u64, 0]);
        close(fd);
        if at < 0 { Err(at) } else { Ok(Self { at: at as u64, length }) }
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: mapped by `open`, unmapped by `drop`, and the file is bounded by its length at that time.
        let bytes = unsafe { core::slice::from_raw_parts(self.at as *const u8, self.length as usize) };
        bytes.split(|b| *b == b'\n')
    }

    /// The NUL-terminated text at an address of the plan.
    pub(crate) fn at(address: u64) -> &'static [u8] {
        let mut length = 0;
        while byte_at(address + length) != 0 {
            length += 1;
        }
        // SAFETY: just walked.
        unsafe { core::slice::from_raw_parts(address as *const u8, length as usize) }
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        call(Call::Munmap, [self.at, self.length, 0, 0, 0, 0]);
    }
}
