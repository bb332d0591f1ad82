//! Takes a byte stream apart into messages, and keeps passed descriptors with the message that they came with.
//!
//! Pure: nothing here reads or writes. `varlink::sansio` has such a state machine too, but it has no limit on the size
//! of a message, looks at every byte again with each read, and knows nothing of descriptors.

use std::{collections::VecDeque, os::fd::OwnedFd};

/// The longest request that is taken, its NUL included: 1 MiB.
pub const MESSAGE_MAX: usize = 1 << 20;

/// How many descriptors may wait in one connection.
const FDS_MAX: usize = 12;

/// The other side does not keep to the protocol; there is no way to go on with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// More bytes without a NUL than a message may have.
    #[error("a message is too long")]
    TooLong,
    /// Descriptors that came in the middle of a message, or too many of them.
    #[error("descriptors that belong to no message")]
    StrayDescriptors,
}

/// A message without its NUL, and the descriptors that were sent with its first byte.
#[derive(Debug, Default)]
pub struct Message {
    /// The JSON text.
    pub text: Vec<u8>,
    /// What came with it.
    pub fds: Vec<OwnedFd>,
}

/// The bytes of one connection that are not consumed yet.
#[derive(Debug)]
pub struct Frames {
    /// The longest message, its NUL included.
    max: usize,
    bytes: Vec<u8>,
    /// Where the first message that was not taken begins in `bytes`.
    head: usize,
    /// Up to here `bytes` were searched for a NUL; after `head` only when no message is complete.
    searched: usize,
    /// Where the last message that is known of begins; `bytes.len()` when none has begun.
    last: usize,
    /// Where, in `bytes`, the message of these descriptors begins.
    fds: VecDeque<(usize, Vec<OwnedFd>)>,
}

impl Default for Frames {
    fn default() -> Self {
        Self::with_max(MESSAGE_MAX)
    }
}

impl Frames {
    /// For messages of at most `max` bytes, the NUL included.
    pub fn with_max(max: usize) -> Self {
        Self { max, bytes: Vec::new(), head: 0, searched: 0, last: 0, fds: VecDeque::new() }
    }

    /// Adds what one recvmsg(2) gave.
    ///
    /// The kernel ends a read of a stream at the first piece that carries descriptors, so they belong to the last message
    /// that begins in `bytes`.
    ///
    /// # Errors
    /// See [`FrameError`]; the connection is beyond repair then.
    pub fn push(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(), FrameError> {
        self.compact();
        let start = self.bytes.len();
        let had_begun = self.last < start;
        self.bytes.extend_from_slice(bytes);
        let before_last = bytes.len().saturating_sub(1);
        let begins = bytes[..before_last].iter().rposition(|&byte| byte == 0).map(|at| start + at + 1);
        if !fds.is_empty() {
            let owner = match begins {
                Some(at) => at,
                None if had_begun || bytes.is_empty() => return Err(FrameError::StrayDescriptors),
                None => start,
            };
            self.fds.push_back((owner, fds));
            if self.fds.iter().map(|(_, fds)| fds.len()).sum::<usize>() > FDS_MAX {
                return Err(FrameError::StrayDescriptors);
            }
        }
        self.last = match (bytes.last(), begins) {
            (Some(0), _) => self.bytes.len(),
            (_, Some(at)) => at,
            (_, None) => self.last,
        };
        match self.bytes.len() - self.last > self.max {
            true => Err(FrameError::TooLong),
            false => Ok(()),
        }
    }

    /// Takes the next complete message.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] when it is longer than it may be.
    pub fn take(&mut self) -> Result<Option<Message>, FrameError> {
        let from = self.searched.max(self.head);
        let Some(length) = self.bytes[from..].iter().position(|&byte| byte == 0) else {
            self.searched = self.bytes.len();
            return Ok(None);
        };
        let end = from + length;
        if end + 1 - self.head > self.max {
            return Err(FrameError::TooLong);
        }
        let text = self.bytes[self.head..end].to_vec();
        let fds = match self.fds.front() {
            Some((at, _)) if *at == self.head => self.fds.pop_front().map(|(_, fds)| fds).unwrap_or_default(),
            _ => Vec::new(),
        };
        self.head = end + 1;
        self.searched = self.head;
        Ok(Some(Message { text, fds }))
    }

    /// The longest message, its NUL included.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Whether a message is complete.
    pub fn has_message(&self) -> bool {
        self.head < self.last
    }

    /// Whether a message has begun that is not complete.
    pub fn is_mid_message(&self) -> bool {
        self.last < self.bytes.len()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops consumed bytes, once they are the larger part: each byte is moved a bounded number of times.
    fn compact(&mut self) {
        if self.head == 0 || self.head * 2 < self.bytes.len() {
            return;
        }
        self.bytes.drain(..self.head);
        self.searched = self.searched.saturating_sub(self.head);
        self.last -= self.head;
        for (at, _) in &mut self.fds {
            *at -= self.head;
        }
        self.head = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > 1 << 16 {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn texts(frames: &mut Frames) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| frames.take().unwrap()).map(|message| message.text).collect()
    }

    #[test]
    fn a_message_is_whole_only_with_its_nul() {
        let mut frames = Frames::default();
        frames.push(b"{\"a\"", vec![]).unwrap();
        assert!(frames.take().unwrap().is_none());
        assert!(frames.is_mid_message());
        frames.push(b":1}\0", vec![]).unwrap();
        assert!(!frames.is_mid_message());
        assert_eq!(texts(&mut frames), [b"{\"a\":1}".to_vec()]);
        assert!(frames.is_empty());
    }

    #[test]
    fn descriptors_stay_with_the_message_whose_first_byte_they_came_with() {
        let mut frames = Frames::default();
        frames.push(b"one\0tw", vec![]).unwrap();
        frames.push(b"o\0three\0", vec![null(), null()]).unwrap();
        let fds: Vec<usize> = std::iter::from_fn(|| frames.take().unwrap()).map(|m| m.fds.len()).collect();
        assert_eq!(fds, [0, 0, 2]);
        frames.push(b"four", vec![null()]).unwrap();
        frames.push(b"\0", vec![]).unwrap();
        assert_eq!(frames.take().unwrap().unwrap().fds.len(), 1);
    }

    #[test]
    fn descriptors_in_the_middle_of_a_message_are_refused() {
        let mut frames = Frames::default();
        frames.push(b"on", vec![]).unwrap();
        assert_eq!(frames.push(b"e\0", vec![null()]), Err(FrameError::StrayDescriptors));
    }

    #[test]
    fn descriptors_do_not_pile_up() {
        let mut frames = Frames::default();
        let flood = (0..100).find_map(|_| frames.push(b"x\0", vec![null(), null(), null()]).err());
        assert_eq!(flood, Some(FrameError::StrayDescriptors));
    }

    #[test]
    fn the_limit_is_one_mebibyte_to_the_byte() {
        let mut frames = Frames::default();
        let mut whole = vec![b' '; MESSAGE_MAX - 1];
        whole.push(0);
        frames.push(&whole, vec![]).unwrap();
        assert_eq!(frames.take().unwrap().unwrap().text.len(), MESSAGE_MAX - 1);
        whole.insert(0, b' ');
        let mut frames = Frames::default();
        let long = frames.push(&whole, vec![]).and_then(|()| frames.take().map(|_| ()));
        assert_eq!(long, Err(FrameError::TooLong));
        let mut frames = Frames::default();
        let endless = (0..1025).find_map(|_| frames.push(&[b' '; 1024], vec![]).err());
        assert_eq!(endless, Some(FrameError::TooLong));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_messages_are_the_same(
            messages in prop::collection::vec(prop::collection::vec(1u8.., 0..40), 0..12),
            cuts in prop::collection::vec(1usize..30, 1..40),
            taken in any::<bool>(),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|m| m.iter().copied().chain([0])).collect();
            let (mut frames, mut found, mut rest) = (Frames::default(), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                frames.push(piece, vec![]).unwrap();
                if taken {
                    found.extend(texts(&mut frames));
                }
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            found.extend(texts(&mut frames));
            prop_assert_eq!(found, messages);
        }
    }
}
