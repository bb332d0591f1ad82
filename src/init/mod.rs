//! The init as the supervisor sees it: the program that is embedded, and the messages that it understands.
//!
//! The program itself is `pid1.rs`, compiled by `build.rs` without the standard library.

pub mod wire;

/// The init's executable: a static ELF file of a few kilobytes.
pub static PID1: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pid1"));

use wire::{Head, LABEL, MAGIC, Message, Op, Words};

/// A value laid out as the init reads it.
macro_rules! layout {
    ($bytes:expr, $($value:expr),*) => {{ $($bytes.extend_from_slice(&$value.to_ne_bytes());)* }};
}

/// The first bytes of a plan.
pub fn head_bytes(head: &Head) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<Head>());
    layout!(bytes, head.magic, head.flags, head.ops, head.after);
    bytes
}

/// One operation of a plan.
pub fn op_bytes(op: &Op) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<Op>());
    layout!(bytes, op.kind, op.step, op.flags, op.registers, op.save, op.nr);
    op.args.iter().for_each(|arg| layout!(bytes, arg));
    layout!(bytes, op.want);
    bytes
}

/// A message as it goes over the channel.
pub fn message_bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<Message>());
    layout!(bytes, message.magic, message.verb, message.session, message.zero, message.a, message.b);
    bytes.extend_from_slice(&message.label);
    bytes
}

/// A message as it came over the channel; none for anything else.
pub fn message_from(bytes: &[u8]) -> Option<Message> {
    if bytes.len() != size_of::<Message>() {
        return None;
    }
    let mut words = bytes.chunks_exact(4).map(|word| word.try_into().map(u32::from_ne_bytes));
    let mut word = || words.next().and_then(Result::ok);
    let (magic, verb, session, zero) = (word()?, word()?, word()?, word()?);
    let long = |at: usize| bytes[at..at + 8].try_into().map(i64::from_ne_bytes).ok();
    let label: [u8; LABEL] = bytes[32..].try_into().ok()?;
    (magic == MAGIC).then_some(Message { magic, verb, session, zero, a: long(16)?, b: long(24)?, label })
}

/// The last words of an init; none where it had no time for any.
pub fn words_from(bytes: &[u8]) -> Option<Words> {
    if bytes.len() < size_of::<Words>() {
        return None;
    }
    let long = |at: usize| bytes[at..at + 8].try_into().map(u64::from_ne_bytes).ok();
    let magic = u32::from_ne_bytes(bytes[0..4].try_into().ok()?);
    let status = i32::from_ne_bytes(bytes[4..8].try_into().ok()?);
    (magic == MAGIC).then_some(Words {
        magic,
        status,
        at: long(8)?,
        user_us: long(16)?,
        system_us: long(24)?,
        max_rss_kib: long(32)?,
    })
}

/// A label as the init keeps it.
///
/// # Panics
/// When the text is longer than [`LABEL`] less one: labels are ours, none is.
pub fn label(text: &str) -> [u8; LABEL] {
    let mut label = [0; LABEL];
    assert!(text.len() < LABEL, "label {text:?} is too long");
    label[..text.len()].copy_from_slice(text.as_bytes());
    label
}

/// The text of a label.
pub fn label_text(label: &[u8; LABEL]) -> String {
    let end = label.iter().position(|byte| *byte == 0).unwrap_or(LABEL);
    String::from_utf8_lossy(&label[..end]).into_owned()
}

/// struct open_how of openat2(2).
#[derive(Clone, Copy, Debug)]
pub struct OpenHow {
    /// O_ flags.
    pub flags: u64,
    /// Of a file that is made.
    pub mode: u64,
    /// RESOLVE_ flags.
    pub resolve: u64,
}

impl OpenHow {
    /// As the kernel reads it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(24);
        layout!(bytes, self.flags, self.mode, self.resolve);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codec_agrees_with_the_layout_of_the_structures() {
        let op = Op { kind: 1, step: 2, flags: 3, registers: 4, save: 5, nr: 6, args: [7; 6], want: 8 };
        assert_eq!(op_bytes(&op).len(), size_of::<Op>());
        let head = Head { magic: MAGIC, flags: 0, ops: 0, after: 0 };
        assert_eq!(head_bytes(&head).len(), size_of::<Head>());
        let message = Message { label: label("stdout"), ..Message::new(wire::SAY_KEEP, 7, -1, 1 << 40) };
        assert_eq!(message_bytes(&message).len(), size_of::<Message>());
        assert_eq!(message_from(&message_bytes(&message)), Some(message));
        assert_eq!(label_text(&message.label), "stdout");
        assert_eq!(message_from(b"nonsense"), None);
    }

    #[test]
    fn the_init_is_small_and_static() {
        assert_eq!(&PID1[..4], b"\x7fELF");
        assert!(PID1.len() < 16 * 1024, "{} bytes", PID1.len());
        let interpreter = PID1.windows(3).any(|window| window == b"ld-");
        assert!(!interpreter);
    }
}
