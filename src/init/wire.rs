//! What the supervisor and the init say to each other. Compiled into both: into this library as a module, and into the
//! freestanding program `pid1.rs`, so it uses nothing but `core` and its layout is C's.
//!
//! ```text
//! supervisor                                    init
//!   clone3, exec                                  reads descriptor 3
//!   uid_map, gid_map
//!   Setup + plan, descriptors       ------->      maps the plan, runs its operations
//!                                   <-------      Hello    (from the service's process: its pid, by SCM_CREDENTIALS)
//!                                   <-------      Started  (the service's program was executed)
//!                                   <-------  or  Fault    (operation, step, errno), and the init ends
//!   Signal, Status, Spawn, Keep ... ------->      at any time, on descriptor 3 or on a new connection
//!                                   <-------      Exited   (a session, or the service where the sandbox stays)
//! ```

/// Where the init maps a plan: an address that no kernel gives to anything else of so small a program, so that the
/// supervisor can write finished pointers into it.
pub const PLAN_AT: u64 = 0x10_0000_0000;

/// First word of a plan and of every message; changes with their layout.
pub const MAGIC: u32 = 0x5041_4c31;

/// Registers of the interpreter. The received descriptors come first, results are saved behind them.
pub const REGISTERS: usize = 256;
/// The register that holds the channel on which the request came.
pub const CHANNEL: u8 = 254;
/// Descriptors that one message may carry; the kernel takes 253.
pub const MAX_FDS: usize = 192;
/// Bytes of a label.
pub const LABEL: usize = 80;

/// First bytes of a plan.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// [`MAGIC`].
    pub magic: u32,
    /// `STAY`, `NOT_PID1`.
    pub flags: u32,
    /// How many operations follow.
    pub ops: u32,
    /// Index of the first operation that the init runs after its `Fork`.
    pub after: u32,
}

/// A session whose number has this bit is awaited: how it ended is kept until the next such session, and told to whoever
/// takes over.
pub const AWAITED: u32 = 1 << 31;

/// The sandbox outlives the main process: it is started again by `Spawn` with session 0.
pub const STAY: u32 = 1;
/// The init shares its pid namespace: it must not signal every process that it can see.
pub const NOT_PID1: u32 = 2;
/// No service at all: the init only keeps descriptors.
pub const KEEPER: u32 = 4;
/// The end of the first connection ends the sandbox.
pub const ENDS_WITH_LAUNCHER: u32 = 8;
/// A main process that ends well leaves a daemon behind, which is the main process from then on.
pub const FOLLOWS: u32 = 16;

/// The wait status of a followed process whose parent was somebody else.
pub const UNSEEN: i32 = -1;
/// Bytes of the path of a pid file, with its NUL.
pub const PID_FILE: usize = 256;
/// While nobody is connected, output that is full loses what is oldest.
pub const DROP: u32 = 32;

/// One operation of a plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Op {
    /// What to do: the `OP_` constants.
    pub kind: u16,
    /// The step of the plan that this belongs to, counted from 1; named when it fails.
    pub step: u16,
    /// The `ON_` constants.
    pub flags: u16,
    /// Bit n: argument n is the number of a register, not a value.
    pub registers: u8,
    /// The register that the result goes to, or `NOWHERE`.
    pub save: u8,
    /// Number of the system call.
    pub nr: u64,
    /// Its arguments.
    pub args: [u64; 6],
    /// The result that `flags` speak of.
    pub want: i64,
}

/// The result is not kept.
pub const NOWHERE: u8 = 0xff;

/// A system call.
pub const OP_CALL: u16 = 0;
/// Fork: the child goes on with the next operation, the init with `Head::after`.
pub const OP_FORK: u16 = 1;
/// Sends the descriptor args\[0\] over the channel, labelled args\[1\].
pub const OP_SEND_FD: u16 = 2;
/// Looks user args\[0\] up in /etc/passwd: uid to register args\[1\], gid to the next one.
pub const OP_USER: u16 = 3;
/// Looks group args\[0\] up in /etc/group: gid to register args\[1\].
pub const OP_GROUP: u16 = 4;
/// Adds the groups that list user args\[0\] as a member.
pub const OP_MEMBER: u16 = 5;
/// Adds the group args\[0\].
pub const OP_ADD_GROUP: u16 = 6;
/// setgroups(2) with what was added.
pub const OP_SET_GROUPS: u16 = 7;
/// The descriptor args\[0\] is the listening end of the channel.
pub const OP_LISTEN: u16 = 8;
/// The descriptor args\[0\] is where the last words go.
pub const OP_WORDS: u16 = 9;
/// The descriptor args\[0\] is kept under the label args\[1\].
pub const OP_KEEP: u16 = 10;
/// args\[2\] bytes at args\[0\] must equal those at args\[1\].
pub const OP_EXPECT: u16 = 11;

/// The result is args\[0\].
pub const OP_LOAD: u16 = 12;
/// The lower half of args\[1\] goes to the four bytes at args\[0\].
pub const OP_STORE: u16 = 13;
/// Of the word at args\[0\] those bits that args\[1\] has must equal args\[2\].
pub const OP_MASKED: u16 = 14;
/// The supplementary groups must be those that were added.
pub const OP_HAS_GROUPS: u16 = 15;
/// The system call, with 0 to 63 in turn as argument args\[5\], must give the bits of args\[4\]; EINVAL counts as 0.
pub const OP_HAS_BITS: u16 = 16;

/// Where faults are reported moves to descriptor args\[0\] or above: what lies below is about to be given away.
pub const OP_REPORT_ABOVE: u16 = 17;
/// Writes the own pid, as the own pid namespace counts, in decimal and with a NUL to args\[0\].
pub const OP_PID: u16 = 18;
/// The daemon that is to be followed writes its pid to the file args\[0\].
pub const OP_PID_FILE: u16 = 19;

/// The descriptor args\[0\] is the write end of output args\[1\] (0, 1), by which it is seen whether that is full.
pub const OP_WRITER: u16 = 20;

/// The upper half of an operation's flags: which of the things that its step looks at, counted from 1. A fault has it in
/// the bits above those of the step.
pub const ITEM_SHIFT: u16 = 8;
/// Where a fault has the item.
pub const FAULT_ITEM_SHIFT: u16 = 16;

/// The error `want` of the call, or any where that is 0, is no failure.
pub const ON_ERROR_GO_ON: u16 = 1;
/// Any result but `want` is a failure (reported as EPROTO where it is no error).
pub const ON_EXACTLY: u16 = 2;

/// EPERM and ENOSYS are no failure: a kernel without the call, or a filter above us that denies it to everybody below.
pub const ON_DENIED_GO_ON: u16 = 4;
/// No error whose number is a bit of `want` is a failure.
pub const ON_ERRORS_GO_ON: u16 = 8;

/// A message, in either direction; descriptors travel beside it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// [`MAGIC`].
    pub magic: u32,
    /// The `SAY_` constants.
    pub verb: u32,
    /// The session that this is about; 0 is the service itself.
    pub session: u32,
    /// 0.
    pub zero: u32,
    /// By verb.
    pub a: i64,
    /// By verb.
    pub b: i64,
    /// A name for a descriptor, padded with NUL.
    pub label: [u8; LABEL],
}

/// To the init: the plan (first descriptor) of `a` bytes, and the descriptors that it refers to.
pub const SAY_SETUP: u32 = 1;
/// To the init: signal `a` to the main process (`b` = 0) or to every process but the init (`b` = 1); with a session, to its
/// process group.
pub const SAY_SIGNAL: u32 = 2;
/// To the init: run a plan of `a` bytes as `session`.
pub const SAY_SPAWN: u32 = 3;
/// To the init: who are you? Answered by `SAY_STATE`.
pub const SAY_STATUS: u32 = 4;
/// To the init: send every kept descriptor (`SAY_KEPT`, one each), then of every awaited session `SAY_STARTED` or how it
/// ended, then `SAY_STATE`. What is still to be said of those sessions goes there from now on.
pub const SAY_HAND_OVER: u32 = 5;
/// To the init: keep this descriptor under `label`, in place of the one that had it.
pub const SAY_KEEP: u32 = 6;
/// To the init: close what is kept under `label`.
pub const SAY_DROP: u32 = 7;
/// To the keeper: end.
pub const SAY_END: u32 = 8;
/// To the init: process `a` of its pid namespace is the main process from now on. Answered by `SAY_MAIN`.
pub const SAY_FOLLOW: u32 = 9;

/// From the service's process, before it executes its program.
#[allow(dead_code, reason = "sent from the plan, not from the init itself")]
pub const SAY_HELLO: u32 = 16;
/// The program of `session` was executed as process `a`, as its pid namespace counts.
pub const SAY_STARTED: u32 = 17;
/// Step `a` of the plan of `session` failed with error `b`.
pub const SAY_FAULT: u32 = 18;
/// `session` ended with wait status `a`.
pub const SAY_EXITED: u32 = 19;
/// The main process is `a` (0: none; -1: its starter has ended, and it is yet to be known), `b` descriptors are kept.
pub const SAY_STATE: u32 = 20;
/// A kept descriptor with its label.
pub const SAY_KEPT: u32 = 21;
/// A descriptor that a session made for whoever asked for it.
pub const SAY_FD: u32 = 22;
/// There is no room for what was asked.
pub const SAY_FULL: u32 = 23;
/// Process `a` is the main process from now on, and its pidfd comes along; 0: some are left, none of which is the main
/// one. With an error `b`: it is not, and nothing has changed.
pub const SAY_MAIN: u32 = 24;

impl Message {
    /// A message without a label.
    pub const fn new(verb: u32, session: u32, a: i64, b: i64) -> Self {
        Self { magic: MAGIC, verb, session, zero: 0, a, b, label: [0; LABEL] }
    }
}

/// What the init writes when the main process has ended: the only witness when no supervisor lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// [`MAGIC`].
    pub magic: u32,
    /// As wait4(2) gave it.
    pub status: i32,
    /// CLOCK_MONOTONIC, in milliseconds.
    pub at: u64,
    /// User and system time in microseconds, of the main process and its waited-for children.
    pub user_us: u64,
    /// As `user_us`.
    pub system_us: u64,
    /// Largest resident set, in KiB.
    pub max_rss_kib: u64,
}

/// Bytes behind the words for each of the two outputs: what the supervisor has under way from it into the log.
pub const OUTPUT_NOTE: usize = 24;
/// Where, behind those, the init counts the bytes of each output that it has dropped, and the supervisor those of them
/// that it has told of: four numbers of 8 bytes.
pub const DROPPED_AT: usize = size_of::<Words>() + 2 * OUTPUT_NOTE;
/// Where, behind those, the supervisor has how many lines went into the log lately: as it is, and as it is once what is
/// under way from each output is there.
#[allow(dead_code, reason = "the supervisor's alone")]
pub const RATE_AT: usize = DROPPED_AT + 4 * 8;
/// Bytes of each of the three.
#[allow(dead_code, reason = "the supervisor's alone")]
pub const RATE_NOTE: usize = 40;
/// Bytes of the whole file of last words.
#[allow(dead_code, reason = "the supervisor makes the room")]
pub const WORDS_FILE: usize = RATE_AT + 3 * RATE_NOTE;
