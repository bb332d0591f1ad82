//! Programs for the kernel's packet filter (BPF_PROG_TYPE_SOCKET_FILTER's ancestor, linux/filter.h): a tree of ranges of
//! call numbers with a verdict at each leaf.

/// What a filter says about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Whatever the arguments.
    Plain(Action),
    /// The first check whose tests all hold decides; the action where none does.
    Checked(Vec<Check>, Action),
}

/// What becomes of a call: linux/seccomp.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Log,
    Errno(i32),
    Kill,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) tests: Vec<Test>,
    pub(super) then: Action,
}

/// A test of the low 32 bits of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// `arg & mask == value`
    Equal { arg: u8, mask: u32, value: u32 },
    /// `arg & bits != 0`
    AnyOf { arg: u8, bits: u32 },
}

/// The part of a filter for one architecture: from which number on which verdict holds. The first range begins at 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// AUDIT_ARCH of linux/audit.h.
    pub(super) arch: u32,
    pub(super) ranges: Vec<(u32, Verdict)>,
}

/// A finished program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// `struct sock_filter`, one behind the other.
    bytes: Vec<u8>,
}

/// The most that the kernel takes: BPF_MAXINSNS.
pub const MAX_INSTRUCTIONS: usize = 4096;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// struct seccomp_data: linux/seccomp.h
const AT_NUMBER: u32 = 0;
const AT_ARCH: u32 = 4;
const AT_ARGS: u32 = 16;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

impl Action {
    fn value(self) -> u32 {
        match self {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Log => libc::SECCOMP_RET_LOG,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | errno.cast_unsigned(),
            Action::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }

    /// Whether the call is made.
    pub(super) fn lets_through(self) -> bool {
        matches!(self, Action::Allow | Action::Log)
    }
}

impl Program {
    /// For each architecture its section, `other` for the rest.
    pub(super) fn new(sections: &[Section], other: Action) -> Self {
        let mut code = Assembly::default();
        let mut start = code.give(other);
        for section in sections.iter().rev() {
            let body = code.tree(&section.ranges);
            let number = code.load(AT_NUMBER, body);
            start = code.branch(IF_EQUAL, section.arch, number, start);
        }
        code.load(AT_ARCH, start);
        let word = |i: &Instruction| {
            let [a, b] = i.code.to_ne_bytes();
            let [k0, k1, k2, k3] = i.value.to_ne_bytes();
            [a, b, i.if_true, i.if_false, k0, k1, k2, k3]
        };
        Self { bytes: code.reversed.iter().rev().flat_map(word).collect() }
    }

    /// As the kernel reads it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.bytes.len() / 8
    }

    /// Whether it has none, which does not happen.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A place in a program: how many instructions there are from it to the end.
type Label = usize;

/// A program that is written from its end, because every jump leads forward: where it leads to is there already.
#[derive(Default)]
struct Assembly {
    reversed: Vec<Instruction>,
    /// The nearest return of each action.
    returns: Vec<(Action, Label)>,
}

/// The beginning of a check: before the argument is loaded, and behind that with what is loaded then.
struct Entry {
    whole: Label,
    loaded: Option<(Label, u8, u32)>,
}

impl Assembly {
    fn push(&mut self, code: u16, value: u32) -> Label {
        self.reversed.push(Instruction { code, if_true: 0, if_false: 0, value });
        self.reversed.len()
    }

    /// How many instructions a jump written now would pass over.
    fn distance(&self, to: Label) -> usize {
        self.reversed.len() - to
    }

    /// A return, shared by all that are near enough for a conditional jump and a few instructions more.
    fn give(&mut self, action: Action) -> Label {
        let near = self.returns.iter().find(|(known, at)| *known == action && self.distance(*at) < 240);
        if let Some((_, at)) = near {
            return *at;
        }
        let at = self.push(RETURN, action.value());
        self.returns.retain(|(known, _)| *known != action);
        self.returns.push((action, at));
        at
    }

    /// Goes on at `to`, which need not be what was written last.
    fn lead(&mut self, to: Label) {
        let over = self.distance(to);
        if over > 0 {
            self.push(JUMP, u32::try_from(over).expect("a program has a few thousand instructions"));
        }
    }

    fn load(&mut self, at: u32, then: Label) -> Label {
        self.lead(then);
        self.push(LOAD, at)
    }

    /// Leads on where a conditional jump does not reach, with what may stand between.
    fn within_reach(&mut self, to: Label) -> Label {
        if self.distance(to) < 250 {
            return to;
        }
        self.lead(to);
        self.reversed.len()
    }

    fn branch(&mut self, code: u16, value: u32, if_true: Label, if_false: Label) -> Label {
        let (if_true, if_false) = (self.within_reach(if_true), self.within_reach(if_false));
        let over = |to| u8::try_from(self.distance(to)).expect("brought within reach");
        let (if_true, if_false) = (over(if_true), over(if_false));
        self.reversed.push(Instruction { code, if_true, if_false, value });
        self.reversed.len()
    }

    /// A binary search for the range that the number is in; a linear list costs ten times as much to load, for the kernel
    /// runs it once for every call there is.
    fn tree(&mut self, ranges: &[(u32, Verdict)]) -> Label {
        if let [(_, verdict)] = ranges {
            return match verdict {
                Verdict::Plain(action) => self.give(*action),
                Verdict::Checked(checks, otherwise) => self.checks(checks, *otherwise),
            };
        }
        let (below, above) = ranges.split_at(ranges.len() / 2);
        let high = self.tree(above);
        let low = self.tree(below);
        self.branch(IF_AT_LEAST, above[0].0, high, low)
    }

    fn checks(&mut self, checks: &[Check], otherwise: Action) -> Label {
        let mut next = Entry { whole: self.give(otherwise), loaded: None };
        for check in checks.iter().rev() {
            let mut entry = Entry { whole: self.give(check.then), loaded: None };
            for test in check.tests.iter().rev() {
                let (code, arg, mask, value) = match *test {
                    Test::Equal { arg, mask, value } => (IF_EQUAL, arg, mask, value),
                    Test::AnyOf { arg, bits } => (IF_ANY_BIT, arg, u32::MAX, bits),
                };
                let otherwise = match next.loaded {
                    // What the next check loads is there already.
                    Some((label, loaded, masked)) if (loaded, masked) == (arg, mask) => label,
                    _ => next.whole,
                };
                let tested = self.branch(code, value, entry.whole, otherwise);
                if mask != u32::MAX {
                    self.push(AND, mask);
                }
                let whole = self.push(LOAD, AT_ARGS + 8 * u32::from(arg) + LOW_WORD);
                entry = Entry { whole, loaded: Some((tested, arg, mask)) };
            }
            next = entry;
        }
        next.whole
    }
}

const LOW_WORD: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };
