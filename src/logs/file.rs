//! One file of a log, as the text that it holds: read from any place of it, compressed or not.
//!
//! A compressed file is gzip (RFC 1952), which `zcat` and `zgrep` read: members of at most [`PIECE`] bytes of text each, with
//! their own lengths in an extra field `BC`, the way of BGZF (the SAM specification, section 4.1). So a place in it is found
//! by going from head to head, and one member is all that has to be decompressed for it. Of the file that was compressed it
//! has the inode, in a field `PL` of the first member: whoever has that open knows where he is.

use std::{
    cell::{OnceCell, RefCell},
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use flate2::{Compression, GzBuilder, bufread::GzDecoder};

use super::path;

/// Text of one member, at most: what cannot be compressed has to fit with its frame into the 64K of its length field.
pub(super) const PIECE: usize = 0xff00;
/// A level more takes twice the time for a few hundredths.
const LEVEL: Compression = Compression::new(4);
/// Bytes before the extra fields; their length is the last two.
const HEAD: usize = 12;
/// Head, and field `BC`.
const HEAD_BC: usize = HEAD + 6;
/// The same, and field `PL`.
const HEAD_PL: usize = HEAD_BC + 12;

/// A rotated file that is compressed.
pub(super) fn compressed_path(dir: &Path, name: &str, age: u32) -> PathBuf {
    dir.join(format!("{name}.log.{age}.gz"))
}

/// Both names that the file of an age may have. Where there are both, compressing was not over: the first one counts.
pub(super) fn paths(dir: &Path, name: &str, age: u32) -> [PathBuf; 2] {
    [path(dir, name, age), compressed_path(dir, name, age)]
}

/// One member of a compressed file; the first one says of which file (inode).
pub(super) fn compress(text: &[u8], of: Option<u64>) -> io::Result<Vec<u8>> {
    let mut extra = vec![b'B', b'C', 2, 0, 0, 0];
    if let Some(inode) = of {
        extra.extend_from_slice(&[b'P', b'L', 8, 0]);
        extra.extend_from_slice(&inode.to_le_bytes());
    }
    let mut encoder = GzBuilder::new().extra(extra).write(Vec::new(), LEVEL);
    encoder.write_all(text)?;
    let mut member = encoder.finish()?;
    let length = u16::try_from(member.len() - 1).map_err(|_| io::ErrorKind::FileTooLarge)?;
    member[HEAD_BC - 2..HEAD_BC].copy_from_slice(&length.to_le_bytes());
    Ok(member)
}

/// A file of a log.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    inode: (u64, u64),
    /// None: it is text.
    members: Option<Members>,
}

/// A compressed file.
#[derive(Debug)]
struct Members {
    /// Where each one begins in the text, and in the file; and the end of all. Looked up when it is first asked for.
    starts: OnceCell<Vec<(u64, u64)>>,
    /// Of which file, if it says so.
    of: Option<u64>,
    /// The one that was decompressed last, and its text.
    last: RefCell<(usize, Vec<u8>)>,
}

impl LogFile {
    /// None: there is none of this age.
    pub(super) fn open(dir: &Path, name: &str, age: u32) -> io::Result<Option<Self>> {
        if let Some(file) = open(&path(dir, name, age))? {
            return Self::new(file, false).map(Some);
        }
        match if age > 0 { open(&compressed_path(dir, name, age))? } else { None } {
            Some(file) => Self::new(file, true).map(Some),
            None => Ok(None),
        }
    }

    fn new(file: File, is_compressed: bool) -> io::Result<Self> {
        let status = file.metadata()?;
        let members = is_compressed.then(|| Members::new(&file)).transpose()?;
        Ok(Self { inode: (status.dev(), status.ino()), members, file })
    }

    /// Whether it is the file that `other` is, or is compressed from.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        let (device, inode) = other.inode;
        let of = self.members.as_ref().and_then(|members| members.of);
        // An inode number that is free is given to another file, but not while `other` is open. What a compressed file was
        // made of may be gone: of those it says nothing.
        self.inode == other.inode || (self.inode.0 == device && of == Some(inode) && other.members.is_none())
    }

    /// The inode of what was written to, whatever has become of it.
    pub(super) fn origin(&self) -> u64 {
        self.members.as_ref().and_then(|members| members.of).unwrap_or(self.inode.1)
    }

    /// Bytes of text.
    pub(super) fn len(&self) -> io::Result<u64> {
        match &self.members {
            Some(members) => Ok(members.starts(&self.file).last().map_or(0, |(text, _)| *text)),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    /// Reads text from `offset` on; less than `into` takes only at the end.
    pub(super) fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(members) = &self.members else { return self.file.read_at(into, offset) };
        let mut count = 0;
        while count < into.len() {
            let read = members.read_at(&self.file, &mut into[count..], offset + count as u64);
            if read == 0 {
                break;
            }
            count += read;
        }
        Ok(count)
    }

    /// Reads text that is there.
    pub(super) fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        match self.read_at(into, offset)? {
            count if count == into.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Members {
    fn new(file: &File) -> io::Result<Self> {
        let mut head = [0; HEAD_PL];
        let count = file.read_at(&mut head, 0)?;
        let of = read_head(&head[..count]).and_then(|(_, of)| of);
        Ok(Self { starts: OnceCell::new(), of, last: RefCell::new((usize::MAX, Vec::new())) })
    }

    /// What is no member, such as all of a file that somebody else has compressed, is no text.
    fn starts(&self, file: &File) -> &[(u64, u64)] {
        self.starts.get_or_init(|| {
            let (mut starts, mut text, mut at) = (vec![(0, 0)], 0, 0);
            while let Some((size, length)) = member(file, at) {
                (text, at) = (text + size, at + length);
                starts.push((text, at));
            }
            starts
        })
    }

    /// Reads from one of them.
    fn read_at(&self, file: &File, into: &mut [u8], offset: u64) -> usize {
        let starts = self.starts(file);
        let number = starts.partition_point(|(text, _)| *text <= offset).saturating_sub(1);
        let Some([(begin, at), (end, next)]) = starts.get(number..number + 2) else { return 0 };
        let mut last = self.last.borrow_mut();
        if last.0 != number {
            let size = usize::try_from(end - begin).unwrap_or_default();
            // What is broken is passed over as a line that is no record.
            let text = decompress(file, *at, next - at, size).unwrap_or_else(|_| vec![b'\n'; size]);
            *last = (number, text);
        }
        let from = usize::try_from(offset - begin).unwrap_or(usize::MAX);
        let text = last.1.get(from..).unwrap_or_default();
        let count = text.len().min(into.len());
        into[..count].copy_from_slice(&text[..count]);
        count
    }
}

/// Bytes of text of the member there, and its own.
fn member(file: &File, at: u64) -> Option<(u64, u64)> {
    let mut head = [0; HEAD_PL];
    let count = file.read_at(&mut head, at).ok()?;
    let (length, _) = read_head(&head[..count])?;
    let mut size = [0; 4];
    file.read_exact_at(&mut size, at + length - 4).ok()?;
    let size = u64::from(u32::from_le_bytes(size));
    (1..=PIECE as u64).contains(&size).then_some((size, length))
}

/// The length of a member, and of which file it is the first.
fn read_head(head: &[u8]) -> Option<(u64, Option<u64>)> {
    let (fixed, fields) = head.split_at_checked(HEAD)?;
    // gzip, deflate, with extra fields.
    let has_fields = fixed[..3] == [0x1f, 0x8b, 8] && fixed[3] & 4 != 0;
    let fields = fields.strip_prefix(b"BC\x02\0").filter(|_| has_fields)?;
    let (length, fields) = fields.split_first_chunk::<2>()?;
    let has_inode = fixed[10..] == [18, 0];
    let of = fields.strip_prefix(b"PL\x08\0").filter(|_| has_inode);
    let of = of.and_then(|inode| inode.first_chunk().map(|inode| u64::from_le_bytes(*inode)));
    Some((u64::from(u16::from_le_bytes(*length)) + 1, of)).filter(|(length, _)| *length > HEAD_BC as u64 + 8)
}

fn decompress(file: &File, at: u64, length: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut member = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?];
    file.read_exact_at(&mut member, at)?;
    let mut text = Vec::with_capacity(size);
    // No more than it says, whatever comes out of it.
    GzDecoder::new(&member[..]).take(size as u64 + 1).read_to_end(&mut text)?;
    if text.len() != size {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(text)
}

/// None: there is none.
pub(super) fn open(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
