//! PID 1 of a sandbox, and the keeper: a freestanding program of its own, built by `build.rs` and embedded.
//!
//! It knows no configuration and decides nothing. It carries out a plan, a list of system calls whose arguments the
//! supervisor has already worked out, forks the service, and then waits: it reaps, relays signals, writes last words, keeps
//! descriptors, and runs further plans for sessions. One program is both stages of PID 1, because the steps
//! are system calls over descriptors and constants: an interpreter for them is smaller than anything linked with a
//! standard library, and a start executes one program less.
//!
//! Freestanding: no allocation, no standard library, no thread, no panic that prints. Its only input is the channel,
//! whose other end only the supervisor has, and /etc/passwd and /etc/group of the sandbox, which are hostile.

#![no_std]
#![no_main]

#[path = "follow.rs"]
mod follow;
#[path = "raw.rs"]
mod raw;
#[path = "text.rs"]
mod text;
#[path = "wire.rs"]
mod wire;

use core::mem::{size_of, zeroed};

use raw::{Call, call};
use text::{Text, group_id, memberships, user_ids};
use wire::*;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(125)
}

fn exit(code: u64) -> ! {
    loop {
        call(Call::ExitGroup, [code, 0, 0, 0, 0, 0]);
    }
}

/// Keeps the first error for when there is somebody to tell.
fn note(first: &mut i64, result: i64) -> i64 {
    if result < 0 && *first == 0 {
        *first = -result;
    }
    result
}

const SESSIONS: usize = 32;
const CONNECTIONS: usize = 8;
const KEPT: usize = 4096;
const GROUPS: usize = 64;
const OUTPUTS: usize = 2;

/// The descriptor that the supervisor leaves open at exec.
const SETUP: i64 = 3;

#[derive(Clone, Copy)]
struct Session {
    pid: i64,
    id: u32,
    connection: i64,
    /// Where its process reports that a step failed, until it has executed its program; then -1.
    report: i64,
    /// With the pid `ENDED`: what was said of its end.
    said: (u32, i64, i64),
}

/// In place of a pid: an awaited session that has ended.
const ENDED: i64 = -1;

#[derive(Clone, Copy)]
struct Kept {
    fd: i64,
    label: [u8; LABEL],
}

/// Everything that the waiting stage knows. Lives in `.bss`, so that what is not used costs no memory.
struct Init {
    flags: u32,
    main: i64,
    /// Everybody was killed, and somebody is yet to be reaped. Nothing is begun meanwhile: it may need what those hold, a port
    /// or a lock, until they are gone.
    is_clearing: bool,
    daemon: follow::Daemon,
    signals: i64,
    listen: i64,
    words: i64,
    connections: [i64; CONNECTIONS],
    sessions: [Session; SESSIONS],
    kept: [Kept; KEPT],
    kept_count: usize,
    groups: [u32; GROUPS],
    group_count: usize,
    registers: [i64; REGISTERS],
    /// Whose plan is being carried out.
    session: u32,
    /// Write ends of the service's output, with `DROP`: whether it is full shows there alone.
    writers: [i64; OUTPUTS],
    /// Bytes of each that were dropped.
    dropped: [u64; OUTPUTS],
}

/// Why a plan was not carried out.
#[derive(Clone, Copy)]
#[repr(C)]
struct Fault {
    step: i64,
    errno: i64,
}

const EPERM: i64 = 1;
const ENOENT: i64 = 2;
const ESRCH: i64 = 3;
const EINTR: i64 = 4;
const ECHILD: i64 = 10;
const ENOSYS: i64 = 38;
const EPROTO: i64 = 71;
const EUSERS: i64 = 87;
const EINVAL: i64 = 22;

const SIGKILL: i64 = 9;
const SIGCHLD: i64 = 17;
const SIGIO: i64 = 29;
const F_SETFL: u64 = 4;
const F_SETOWN: u64 = 8;
const O_NONBLOCK: u64 = 0o4000;
const O_ASYNC: u64 = 0o20000;
const POLLOUT: i16 = 4;
const PR_SET_TIMERSLACK: u64 = 29;
const F_DUPFD_CLOEXEC: u64 = 1030;
const O_CLOEXEC: u64 = 0o2000000;
const MSG_NOSIGNAL: u64 = 0x4000;
const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
const MSG_CTRUNC: u32 = 0x8;

static mut INIT: Init = Init {
    flags: 0,
    main: 0,
    is_clearing: false,
    daemon: follow::Daemon::none(),
    signals: 0,
    listen: 0,
    words: 0,
    connections: [0; CONNECTIONS],
    sessions: [Session { pid: 0, id: 0, connection: 0, report: 0, said: (0, 0, 0) }; SESSIONS],
    kept: [Kept { fd: 0, label: [0; LABEL] }; KEPT],
    kept_count: 0,
    groups: [0; GROUPS],
    group_count: 0,
    registers: [0; REGISTERS],
    session: 0,
    writers: [0; OUTPUTS],
    dropped: [0; OUTPUTS],
};

/// Entered from the assembly of `raw.rs`, once.
#[unsafe(no_mangle)]
extern "C" fn start() -> ! {
    // SAFETY: there is one thread, and this function, which never returns, is the only one that takes the reference.
    let init = unsafe { &mut *core::ptr::addr_of_mut!(INIT) };
    let all = u64::MAX;
    let mut wrong = 0;
    // Every signal is blocked and read from a descriptor; the service's own process gets an empty mask from its plan.
    note(&mut wrong, call(Call::SigProcMask, [0, (&raw const all) as u64, 0, 8, 0, 0]));
    // And at its default: what whoever started the supervisor ignored (nohup does, a Rust program ignores SIGPIPE) stays so
    // across clone3's CLONE_CLEAR_SIGHAND and exec, and would be the service's; with SIGCHLD ignored nothing is ever reaped.
    let default = [0u64; 4];
    // SIGKILL and SIGSTOP are nobody's to change.
    for signal in (1..=64).filter(|signal| *signal != 9 && *signal != 19) {
        note(&mut wrong, call(Call::SigAction, [signal, default.as_ptr() as u64, 0, 8, 0, 0]));
    }
    // A terminal that the supervisor was started from speaks to everybody of its session: its hang-up, when a supervisor
    // that leads the session dies, and a Control-C would reach this process, and be relayed to the service.
    note(&mut wrong, call(Call::SetSid, [0; 6]));
    // Passed on by fork and exec as well: an execution domain in which addresses are not random, and timers that are late.
    note(&mut wrong, call(Call::Personality, [0; 6]));
    note(&mut wrong, call(Call::PrCtl, [PR_SET_TIMERSLACK, 50_000, 0, 0, 0, 0]));
    init.signals = note(&mut wrong, call(Call::SignalFd4, [u64::MAX, (&raw const all) as u64, 8, O_CLOEXEC, 0, 0]));
    note(&mut wrong, call(Call::Fcntl, [SETUP as u64, 2, 1, 0, 0, 0]));
    // Zero is a descriptor like any other.
    (init.listen, init.words) = (-1, -1);
    (init.daemon.pidfd, init.daemon.watch) = (-1, -1);
    init.writers = [-1; OUTPUTS];
    init.connections = [-1; CONNECTIONS];
    init.connections[0] = SETUP;
    let mut fds = Descriptors::none();
    match receive(SETUP, &mut fds) {
        Some(message) if message.verb == SAY_SETUP && wrong == 0 => init.set_up(&message, &fds),
        Some(message) => {
            send(SETUP, &Message::new(SAY_FAULT, message.session, 0, wrong));
            exit(125)
        }
        None => exit(125),
    }
    init.wait()
}

/// Descriptors that came with a message.
struct Descriptors {
    fds: [i32; MAX_FDS],
    count: usize,
}

impl Descriptors {
    fn none() -> Self {
        Self { fds: [-1; MAX_FDS], count: 0 }
    }

    fn close(&self) {
        for fd in &self.fds[..self.count] {
            close(i64::from(*fd));
        }
    }
}

impl Init {
    /// Runs the plan that makes the sandbox. The service's process leaves by exec, the init returns.
    fn set_up(&mut self, message: &Message, fds: &Descriptors) {
        if let Err(fault) = self.run_plan(message, fds, SETUP) {
            send(SETUP, &Message::new(SAY_FAULT, message.session, fault.step, fault.errno));
            exit(125);
        }
        // 0, 1 and 2 stay taken, or a plan of a later session would put its standard streams over its own descriptors;
        // but not by the channel, whose end must show when it is closed.
        for fd in 0..3 {
            call(Call::Dup3, [self.signals as u64, fd, O_CLOEXEC, 0, 0, 0]);
        }
    }

    /// Maps the plan, runs it, forgets it. What the plan does not keep of the descriptors is closed.
    fn run_plan(&mut self, message: &Message, fds: &Descriptors, channel: i64) -> Result<(), Fault> {
        let length = message.a as u64;
        let plan = fds.fds[0] as u64;
        // PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED_NOREPLACE: calls write their answers into the private copy.
        let at = call(Call::Mmap, [PLAN_AT, length, 3, 0x10_0002, plan, 0]);
        if at as u64 != PLAN_AT {
            fds.close();
            return Err(Fault { step: 0, errno: if at < 0 { -at } else { EINVAL } });
        }
        self.registers = [-1; REGISTERS];
        for (register, fd) in self.registers.iter_mut().zip(&fds.fds[..fds.count]) {
            *register = i64::from(*fd);
        }
        self.registers[CHANNEL as usize] = channel;
        self.group_count = 0;
        self.session = message.session;
        // SAFETY: the supervisor mapped at least a Head and `ops` operations; the mapping is page aligned.
        let head = unsafe { *(PLAN_AT as *const Head) };
        let first = (PLAN_AT as usize + size_of::<Head>()) as *const Op;
        // SAFETY: as above.
        let ops = unsafe { core::slice::from_raw_parts(first, head.ops as usize) };
        if message.session == 0 {
            self.flags = head.flags;
        }
        let result = self.run_ops(ops, head.after as usize, message.session, channel);
        for register in &self.registers[..fds.count] {
            if *register >= 0 {
                close(*register);
            }
        }
        call(Call::Munmap, [PLAN_AT, length, 0, 0, 0, 0]);
        result
    }

    fn run_ops(&mut self, ops: &[Op], after: usize, session: u32, channel: i64) -> Result<(), Fault> {
        let mut at = 0;
        let mut report = -1;
        while let Some(op) = ops.get(at) {
            at += 1;
            if op.kind == OP_FORK {
                if let Some(to_parent) = self.fork(session, channel, i64::from(op.step))? {
                    report = to_parent;
                } else {
                    at = after;
                }
                continue;
            }
            let result = match op.kind {
                OP_REPORT_ABOVE => {
                    let above = call(Call::Fcntl, [report as u64, F_DUPFD_CLOEXEC, op.args[0], 0, 0, 0]);
                    if above >= 0 {
                        close(report);
                        report = above;
                    }
                    above
                }
                _ => self.run_op(op, channel),
            };
            if op.save != NOWHERE {
                self.registers[op.save as usize % REGISTERS] = result;
            }
            let wrong = if op.flags & ON_EXACTLY != 0 { result != op.want } else { result < 0 };
            let allowed = op.flags & ON_ERROR_GO_ON != 0 && (op.want == 0 || op.want == result);
            let denied = op.flags & ON_DENIED_GO_ON != 0 && (result == -EPERM || result == -ENOSYS);
            let listed = op.flags & ON_ERRORS_GO_ON != 0
                && (-63..0).contains(&result)
                && op.want >> -result & 1 != 0;
            if wrong && !allowed && !denied && !listed {
                let item = i64::from(op.flags >> ITEM_SHIFT) << FAULT_ITEM_SHIFT;
                let step = i64::from(op.step) | item;
                let fault = Fault { step, errno: if result < 0 { -result } else { EPROTO } };
                if report >= 0 {
                    // In the forked process: the init reads this and tells the supervisor.
                    write(report, &fault);
                    exit(127);
                }
                return Err(fault);
            }
        }
        if report >= 0 {
            exit(127);
        }
        Ok(())
    }

    /// Forks. In the child: where to report a fault. In the init: none, for the service itself once the child has
    /// executed its program. A session is not waited for: between its change of user and its exec other processes
    /// of that user may stop it, and the init with it.
    fn fork(&mut self, session: u32, channel: i64, step: i64) -> Result<Option<i64>, Fault> {
        let mut pipe = [-1i32; 2];
        let made = call(Call::Pipe2, [pipe.as_mut_ptr() as u64, O_CLOEXEC, 0, 0, 0, 0]);
        if made < 0 {
            return Err(Fault { step, errno: -made });
        }
        let (read_end, write_end) = (i64::from(pipe[0]), i64::from(pipe[1]));
        let pid = call(Call::Clone, [SIGCHLD as u64, 0, 0, 0, 0, 0]);
        if pid == 0 {
            close(read_end);
            return Ok(Some(write_end));
        }
        close(write_end);
        if pid < 0 {
            close(read_end);
            return Err(Fault { step, errno: -pid });
        }
        if session != 0 {
            // There is a free slot: `spawn` has looked.
            if let Some(slot) = self.sessions.iter_mut().find(|s| s.pid == 0) {
                *slot = Session { pid, id: session, connection: channel, report: read_end, said: (0, 0, 0) };
            }
            return Ok(None);
        }
        match read_fault(read_end) {
            Some(fault) => Err(fault),
            None => {
                self.begin(pid);
                send(channel, &Message::new(SAY_STARTED, session, pid, 0));
                Ok(None)
            }
        }
    }

    /// The process of a session has executed its program, or failed to, or died on the way.
    fn session_reports(&mut self, n: usize) {
        let Session { pid, id, connection, report, .. } = self.sessions[n];
        if report < 0 {
            return;
        }
        self.sessions[n].report = -1;
        match read_fault(report) {
            // What there was to say of this session is said; its process is reaped as any orphan.
            Some(fault) => self.session_ended(n, (SAY_FAULT, fault.step, fault.errno)),
            None if connection >= 0 => send(connection, &Message::new(SAY_STARTED, id, pid, 0)),
            None => {}
        }
    }

    /// Tells how a session ended, and keeps it for a successor where it is awaited.
    fn session_ended(&mut self, n: usize, said: (u32, i64, i64)) {
        let session = &mut self.sessions[n];
        session.said = said;
        session.pid = if session.id & AWAITED == 0 { 0 } else { ENDED };
        let Session { id, connection, .. } = *session;
        if connection >= 0 {
            send(connection, &Message::new(said.0, id, said.1, said.2));
        }
    }

    /// Tells a successor of the awaited sessions.
    fn hand_over_sessions(&mut self, to: i64) {
        for session in &mut self.sessions {
            let Session { pid, id, said, .. } = *session;
            if pid == 0 || id & AWAITED == 0 {
                continue;
            }
            session.connection = to;
            let said = if pid == ENDED { said } else { (SAY_STARTED, pid, 0) };
            send(to, &Message::new(said.0, id, said.1, said.2));
        }
    }

    fn run_op(&mut self, op: &Op, channel: i64) -> i64 {
        let mut args = op.args;
        for (n, arg) in args.iter_mut().enumerate() {
            if op.registers & (1 << n) != 0 {
                *arg = self.registers[*arg as usize % REGISTERS] as u64;
            }
        }
        match op.kind {
            OP_CALL => raw::numbered(op.nr, args),
            OP_SEND_FD => {
                let message = Message { session: self.session, ..labelled(SAY_FD, args[1]) };
                send_fd(channel, &message, args[0] as i32)
            }
            OP_USER => self.find_user(args[0], args[1] as usize),
            OP_GROUP => match group_id(args[0]) {
                Ok(gid) => {
                    self.registers[args[1] as usize % REGISTERS] = i64::from(gid);
                    0
                }
                Err(error) => error,
            },
            OP_MEMBER => memberships(args[0], |gid| self.add_group(gid)),
            OP_ADD_GROUP => self.add_group(args[0] as u32),
            OP_SET_GROUPS => {
                call(Call::SetGroups, [self.group_count as u64, self.groups.as_ptr() as u64, 0, 0, 0, 0])
            }
            OP_LISTEN => {
                self.listen = self.take_register(args[0]);
                0
            }
            OP_WORDS => {
                self.words = self.take_register(args[0]);
                0
            }
            OP_KEEP => {
                let label = labelled(SAY_KEPT, args[1]).label;
                let fd = self.take_register(args[0]);
                self.keep(fd, label)
            }
            OP_WRITER => {
                let fd = self.take_register(args[0]);
                let writer = &mut self.writers[args[1] as usize % OUTPUTS];
                if *writer >= 0 {
                    close(*writer);
                }
                *writer = fd;
                0
            }
            OP_EXPECT => {
                let same = (0..args[2]).all(|n| byte_at(args[0] + n) == byte_at(args[1] + n));
                if same { 0 } else { -EPROTO }
            }
            OP_LOAD => args[0] as i64,
            OP_STORE => {
                // SAFETY: addresses in a plan point into the mapped plan, which is ours to write to.
                unsafe { (args[0] as *mut u32).write_unaligned(args[1] as u32) };
                0
            }
            OP_MASKED => {
                // SAFETY: as above.
                let word = unsafe { (args[0] as *const u64).read_unaligned() };
                if word & args[1] == args[2] { 0 } else { -EPROTO }
            }
            OP_HAS_GROUPS => self.has_groups(),
            OP_PID => {
                write_number(args[0], call(Call::GetPid, [0; 6]) as u64);
                0
            }
            OP_HAS_BITS => has_bits(op.nr, args),
            OP_PID_FILE => self.set_pid_file(Text::at(args[0])),
            _ => -EINVAL,
        }
    }

    /// Takes a descriptor out of the registers, so that it is not closed with the others at the end of the plan.
    fn take_register(&mut self, fd: u64) -> i64 {
        for register in &mut self.registers {
            if *register == fd as i64 {
                *register = -1;
            }
        }
        fd as i64
    }

    fn keep(&mut self, fd: i64, label: [u8; LABEL]) -> i64 {
        self.drop_kept(&label);
        if self.kept_count == KEPT {
            close(fd);
            return -EUSERS;
        }
        self.kept[self.kept_count] = Kept { fd, label };
        self.kept_count += 1;
        0
    }

    fn drop_kept(&mut self, label: &[u8; LABEL]) {
        if let Some(at) = self.kept[..self.kept_count].iter().position(|kept| same(&kept.label, label)) {
            close(self.kept[at].fd);
            self.kept_count -= 1;
            self.kept[at] = self.kept[self.kept_count];
        }
    }

    fn add_group(&mut self, gid: u32) -> i64 {
        if self.groups[..self.group_count].contains(&gid) {
            return 0;
        }
        if self.group_count == GROUPS {
            return -EUSERS;
        }
        self.groups[self.group_count] = gid;
        self.group_count += 1;
        0
    }

    /// Whether the kernel has the groups that were added: no other, and none of them missing.
    fn has_groups(&self) -> i64 {
        let mut held = [0u32; GROUPS];
        let count = call(Call::GetGroups, [GROUPS as u64, held.as_mut_ptr() as u64, 0, 0, 0, 0]);
        let wanted = &self.groups[..self.group_count];
        let same = count == wanted.len() as i64 && wanted.iter().all(|gid| held[..wanted.len()].contains(gid));
        // Of two lists of one length without repetitions.
        if same { 0 } else { -EPROTO }
    }

    fn find_user(&mut self, name: u64, register: usize) -> i64 {
        match user_ids(name) {
            Ok((uid, gid)) => {
                self.registers[register % REGISTERS] = i64::from(uid);
                self.registers[(register + 1) % REGISTERS] = i64::from(gid);
                0
            }
            Err(error) => error,
        }
    }

    /// The waiting stage: until the service has ended, or, for the keeper, until it is told to end.
    fn wait(&mut self) -> ! {
        loop {
            if self.is_clearing {
                self.reap();
            }
            // signals, listening end, connections, sessions that have not begun, the daemon and its pid file
            let mut poll = [PollFd { fd: -1, events: 1, revents: 0 }; 2 + CONNECTIONS + SESSIONS + 2];
            const DAEMON: usize = 2 + CONNECTIONS + SESSIONS;
            poll[DAEMON].fd = self.daemon.pidfd as i32;
            poll[DAEMON + 1].fd = self.daemon.watch as i32;
            poll[0].fd = self.signals as i32;
            poll[1].fd = self.listen as i32;
            for (slot, fd) in poll[2..].iter_mut().zip(&self.connections) {
                slot.fd = if self.is_clearing { -1 } else { *fd as i32 };
            }
            for (slot, session) in poll[2 + CONNECTIONS..].iter_mut().zip(&self.sessions) {
                slot.fd = if session.pid > 0 { session.report as i32 } else { -1 };
            }
            let ready = call(Call::PPoll, [poll.as_mut_ptr() as u64, poll.len() as u64, 0, 0, 0, 0]);
            if ready < 0 {
                continue;
            }
            // Requests first: a signal that was asked for reaches the service before its death is looked at.
            for slot in &poll[2..2 + CONNECTIONS] {
                if slot.revents != 0 {
                    self.answer(i64::from(slot.fd));
                }
            }
            for n in 0..SESSIONS {
                if poll[2 + CONNECTIONS + n].revents != 0 {
                    self.session_reports(n);
                }
            }
            if poll[1].revents != 0 {
                self.accept();
            }
            if poll[0].revents != 0 {
                self.signalled();
            }
            if poll[DAEMON].revents != 0 {
                self.daemon_ended(i64::from(poll[DAEMON].fd));
            }
            if poll[DAEMON + 1].revents != 0 {
                self.look_again();
            }
        }
    }

    fn accept(&mut self) {
        let fd = call(Call::Accept4, [self.listen as u64, 0, 0, O_CLOEXEC, 0, 0]);
        if fd < 0 {
            return;
        }
        match self.connections.iter_mut().find(|slot| **slot < 0) {
            Some(slot) => *slot = fd,
            None => close(fd),
        }
        self.mind_output(false);
    }

    fn is_alone(&self) -> bool {
        self.connections.iter().all(|fd| *fd < 0)
    }

    /// Has the kernel tell, by SIGIO, of every write to the output, or no longer. It is told also of one that is about to
    /// wait for room, where poll(2) is not woken.
    fn mind_output(&mut self, minds: bool) {
        if self.flags & DROP == 0 {
            return;
        }
        let flags = if minds { O_NONBLOCK | O_ASYNC } else { O_NONBLOCK };
        for n in 0..OUTPUTS {
            let reader = self.reader(n) as u64;
            for (what, value) in [(F_SETOWN, call(Call::GetPid, [0; 6]) as u64), (F_SETFL, flags)] {
                call(Call::Fcntl, [reader, what, value, 0, 0, 0]);
            }
        }
        if minds {
            self.make_room();
        }
    }

    /// Our read end of an output; -1 where there is none.
    fn reader(&self, n: usize) -> i64 {
        let label: &[u8; 7] = if n == 0 { b"stdout\0" } else { b"stderr\0" };
        let kept = self.kept[..self.kept_count].iter().find(|kept| same(&kept.label[..7], label));
        kept.map_or(-1, |kept| kept.fd)
    }

    /// Drops the oldest bytes of output that is full, and counts them where the next supervisor looks.
    fn make_room(&mut self) {
        for n in 0..OUTPUTS {
            let (reader, writer) = (self.reader(n), self.writers[n]);
            if reader < 0 || writer < 0 {
                continue;
            }
            let before = self.dropped[n];
            // Bounded, for there are others to listen to: of what is written meanwhile we are told again.
            for _ in 0..16 {
                let mut poll = PollFd { fd: writer as i32, events: POLLOUT, revents: 0 };
                let now = [0u64; 2];
                call(Call::PPoll, [(&raw mut poll) as u64, 1, now.as_ptr() as u64, 0, 0, 0]);
                if poll.revents != 0 {
                    break;
                }
                let mut bytes = [0u8; 4096];
                for _ in 0..4 {
                    let read = call(Call::Read, [reader as u64, bytes.as_mut_ptr() as u64, 4096, 0, 0, 0]);
                    self.dropped[n] += if read > 0 { read as u64 } else { 0 };
                }
            }
            let count = self.dropped[n];
            if count != before {
                let at = (DROPPED_AT + n * 8) as u64;
                call(Call::PWrite64, [self.words as u64, (&raw const count) as u64, 8, at, 0, 0]);
            }
        }
    }

    fn hang_up(&mut self, connection: i64) {
        if connection == SETUP && self.flags & ENDS_WITH_LAUNCHER != 0 {
            // Where this is PID 1, ending is enough. Elsewhere the whole control group goes, this process with it.
            let kill = self.kept[..self.kept_count].iter().find(|kept| same(&kept.label[..5], b"kill\0"));
            if let Some(kill) = kill {
                write(kill.fd, b"1");
            }
            exit(0);
        }
        close(connection);
        for slot in &mut self.connections {
            if *slot == connection {
                *slot = -1;
            }
        }
        for session in &mut self.sessions {
            if session.connection == connection {
                session.connection = -1;
            }
        }
        if self.is_alone() {
            self.mind_output(true);
        }
    }

    fn answer(&mut self, connection: i64) {
        let mut fds = Descriptors::none();
        let Some(message) = receive(connection, &mut fds) else {
            self.hang_up(connection);
            return;
        };
        match message.verb {
            SAY_SIGNAL => {
                fds.close();
                match self.sessions.iter().find(|s| s.id == message.session && s.pid > 0) {
                    Some(session) if message.session != 0 => {
                        // Its group, once it leads one.
                        kill(-session.pid, message.a);
                        kill(session.pid, message.a);
                    }
                    _ if message.session != 0 => {}
                    _ => self.signal(message.a, message.b == 1),
                }
            }
            SAY_SPAWN => self.spawn(&message, &fds, connection),
            SAY_STATUS => {
                fds.close();
                self.say_state(connection);
            }
            SAY_HAND_OVER => {
                fds.close();
                for kept in &self.kept[..self.kept_count] {
                    let mut message = Message::new(SAY_KEPT, 0, 0, 0);
                    message.label = kept.label;
                    send_fd(connection, &message, kept.fd as i32);
                }
                self.hand_over_sessions(connection);
                self.say_daemon(connection);
                self.say_state(connection);
            }
            SAY_KEEP if fds.count == 1 => {
                if self.keep(i64::from(fds.fds[0]), message.label) < 0 {
                    send(connection, &Message::new(SAY_FULL, 0, 0, 0));
                }
            }
            SAY_DROP => {
                fds.close();
                self.drop_kept(&message.label);
            }
            SAY_FOLLOW => {
                fds.close();
                let followed = self.follow(message.a);
                if followed < 0 {
                    send(connection, &Message::new(SAY_MAIN, 0, message.a, -followed));
                }
            }
            SAY_END if self.flags & KEEPER != 0 => exit(0),
            _ => fds.close(),
        }
    }

    fn say_state(&self, connection: i64) {
        let main = if self.daemon.is_sought { -1 } else { self.main };
        send(connection, &Message::new(SAY_STATE, 0, main, self.kept_count as i64));
    }

    fn signal(&mut self, signal: i64, everybody: bool) {
        if everybody && self.flags & NOT_PID1 == 0 {
            kill(-1, signal);
            self.is_clearing = signal == SIGKILL;
        } else if self.daemon.pidfd >= 0 {
            // Its parent may be somebody else, and its number by now another's.
            call(Call::PidFdSendSignal, [self.daemon.pidfd as u64, signal as u64, 0, 0, 0, 0]);
        } else if self.main > 0 {
            kill(self.main, signal);
        } else if self.daemon.is_sought && self.flags & NOT_PID1 == 0 {
            // Nobody knows which of those that are left is the main one.
            kill(-1, signal);
        }
    }

    fn spawn(&mut self, message: &Message, fds: &Descriptors, connection: i64) {
        if message.session & AWAITED != 0 {
            // Whoever asks for another one has heard how the last one ended.
            for session in &mut self.sessions {
                session.pid = if session.pid == ENDED { 0 } else { session.pid };
            }
        }
        let full = match message.session {
            // Never two of them.
            0 => self.main > 0 || self.daemon.is_sought,
            _ => self.sessions.iter().all(|s| s.pid != 0),
        };
        if full || fds.count == 0 {
            fds.close();
            send(connection, &Message::new(SAY_FULL, message.session, 0, 0));
            return;
        }
        if let Err(fault) = self.run_plan(message, fds, connection) {
            send(connection, &Message::new(SAY_FAULT, message.session, fault.step, fault.errno));
        }
    }

    /// SIGCHLD: somebody ended. Anything else was sent to the init from outside and is meant for the service.
    fn signalled(&mut self) {
        let mut info = [0u32; 32];
        let read = call(Call::Read, [self.signals as u64, info.as_mut_ptr() as u64, 128, 0, 0, 0]);
        if read != 128 {
            return;
        }
        // The kernel's own have a positive code.
        if i64::from(info[0]) == SIGCHLD {
            self.reap();
        } else if i64::from(info[0]) == SIGIO && info[2] as i32 > 0 && self.flags & DROP != 0 {
            if self.is_alone() {
                self.make_room();
            }
        } else {
            self.signal(i64::from(info[0]), false);
        }
    }

    fn reap(&mut self) {
        loop {
            let mut status = 0i32;
            // SAFETY: plain integers.
            let mut usage: Usage = unsafe { zeroed() };
            let pid = call(Call::Wait4, [
                u64::MAX,
                (&raw mut status) as u64,
                1, // WNOHANG
                (&raw mut usage) as u64,
                0,
                0,
            ]);
            if pid <= 0 {
                self.is_clearing &= pid != -ECHILD;
                if pid == -ECHILD && self.daemon.is_sought {
                    // Nobody is left who could be the daemon.
                    self.daemon.is_sought = false;
                    self.ended(self.daemon.last, &usage);
                }
                return;
            }
            self.daemon.last = status;
            if pid == self.main {
                self.main_ended(status, &usage);
            }
            for n in 0..SESSIONS {
                let session = self.sessions[n];
                if session.pid == pid {
                    // Dead before it was heard: its report is complete.
                    self.session_reports(n);
                    if self.sessions[n].pid == pid {
                        self.session_ended(n, (SAY_EXITED, i64::from(status), 0));
                    }
                }
            }
        }
    }

    fn main_ended(&mut self, status: i32, usage: &Usage) {
        self.main = 0;
        if !self.goes_on(status) {
            self.ended(status, usage);
        }
    }

    /// The service has ended.
    fn ended(&mut self, status: i32, usage: &Usage) {
        let mut now = [0u64; 2];
        call(Call::ClockGetTime, [1, now.as_mut_ptr() as u64, 0, 0, 0, 0]);
        let words = Words {
            magic: MAGIC,
            status,
            at: now[0] * 1000 + now[1] / 1_000_000,
            user_us: usage.user[0] * 1_000_000 + usage.user[1],
            system_us: usage.system[0] * 1_000_000 + usage.system[1],
            max_rss_kib: usage.max_rss,
        };
        // The room was made by the supervisor: this cannot meet a full file system.
        call(Call::PWrite64, [self.words as u64, (&raw const words) as u64, size_of::<Words>() as u64, 0, 0, 0]);
        if self.flags & STAY == 0 {
            // As PID 1, ending takes everybody along: the kernel kills what is left in the namespace.
            exit(0);
        }
        self.signal(SIGKILL, true);
        for n in 0..CONNECTIONS {
            if self.connections[n] >= 0 {
                send(self.connections[n], &Message::new(SAY_EXITED, 0, i64::from(status), 0));
            }
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

/// struct rusage of getrusage(2), as far as it is read.
#[repr(C)]
struct Usage {
    user: [u64; 2],
    system: [u64; 2],
    max_rss: u64,
    rest: [u64; 13],
}

#[repr(C)]
struct MessageHead {
    name: u64,
    name_len: u32,
    io: u64,
    io_len: u64,
    control: u64,
    control_len: u64,
    flags: u32,
}

#[repr(C, align(8))]
struct Control {
    len: u64,
    level: i32,
    kind: i32,
    fds: [i32; MAX_FDS],
}

fn labelled(verb: u32, text: u64) -> Message {
    let mut message = Message::new(verb, 0, 0, 0);
    for (to, from) in message.label.iter_mut().zip(Text::at(text)) {
        *to = *from;
    }
    message
}

fn send(to: i64, message: &Message) {
    let length = size_of::<Message>() as u64;
    call(Call::SendTo, [to as u64, (&raw const *message) as u64, length, MSG_NOSIGNAL, 0, 0]);
}

fn send_fd(to: i64, message: &Message, fd: i32) -> i64 {
    let mut control = Control { len: 20, level: 1, kind: 1, fds: [fd; MAX_FDS] };
    let io = [(&raw const *message) as u64, size_of::<Message>() as u64];
    let head = MessageHead {
        name: 0,
        name_len: 0,
        io: io.as_ptr() as u64,
        io_len: 1,
        control: (&raw mut control) as u64,
        control_len: 24,
        flags: 0,
    };
    call(Call::SendMsg, [to as u64, (&raw const head) as u64, MSG_NOSIGNAL, 0, 0, 0])
}

/// One message with its descriptors; none at the end of the connection or for anything that is no message.
fn receive(from: i64, fds: &mut Descriptors) -> Option<Message> {
    let mut message = Message::new(0, 0, 0, 0);
    let mut control = Control { len: 0, level: 0, kind: 0, fds: [-1; MAX_FDS] };
    let io = [(&raw mut message) as u64, size_of::<Message>() as u64];
    let mut head = MessageHead {
        name: 0,
        name_len: 0,
        io: io.as_ptr() as u64,
        io_len: 1,
        control: (&raw mut control) as u64,
        control_len: size_of::<Control>() as u64,
        flags: 0,
    };
    let read = loop {
        let read = call(Call::RecvMsg, [from as u64, (&raw mut head) as u64, MSG_CMSG_CLOEXEC, 0, 0, 0]);
        if read != -EINTR {
            break read;
        }
    };
    if head.control_len >= 16 && control.level == 1 && control.kind == 1 {
        fds.count = ((control.len as usize).saturating_sub(16) / 4).min(MAX_FDS);
        fds.fds = control.fds;
    }
    if read != size_of::<Message>() as i64 || message.magic != MAGIC || head.flags & MSG_CTRUNC != 0 {
        fds.close();
        return None;
    }
    Some(message)
}

fn write<T>(fd: i64, value: &T) {
    call(Call::Write, [fd as u64, (&raw const *value) as u64, size_of::<T>() as u64, 0, 0, 0]);
}

/// What a process that carries out a plan reports. The write end closes by exec, or by death: then nothing comes, and
/// the exit is reaped as any other.
fn read_fault(from: i64) -> Option<Fault> {
    let mut fault = Fault { step: 0, errno: 0 };
    let length = size_of::<Fault>() as u64;
    let read = loop {
        let read = call(Call::Read, [from as u64, (&raw mut fault) as u64, length, 0, 0, 0]);
        if read != -EINTR {
            break read;
        }
    };
    close(from);
    (read == length as i64).then_some(fault)
}

fn close(fd: i64) {
    call(Call::Close, [fd as u64, 0, 0, 0, 0, 0]);
}

fn kill(pid: i64, signal: i64) {
    call(Call::Kill, [pid as u64, signal as u64, 0, 0, 0, 0]);
}

/// Writes a number in decimal, with a NUL behind it.
fn write_number(at: u64, number: u64) {
    let mut digits = 1;
    while number / 10u64.pow(digits) > 0 {
        digits += 1;
    }
    for n in 0..=digits {
        let byte = match n {
            n if n == digits => 0,
            n => b'0' + (number / 10u64.pow(digits - 1 - n) % 10) as u8,
        };
        // SAFETY: addresses in a plan point into the mapped plan, which has room for the digits of a pid.
        unsafe { ((at + u64::from(n)) as *mut u8).write(byte) };
    }
}

fn has_bits(nr: u64, args: [u64; 6]) -> i64 {
    let (wanted, at) = (args[4], args[5] as usize % 6);
    let mut args = [args[0], args[1], args[2], args[3], 0, 0];
    for n in 0..64 {
        args[at] = n;
        let bit = match raw::numbered(nr, args) {
            // The kernel does not have so many.
            error if error == -EINVAL => 0,
            result => result,
        };
        if bit != (wanted >> n & 1) as i64 {
            return if bit < 0 { bit } else { -EPROTO };
        }
    }
    0
}

fn byte_at(address: u64) -> u8 {
    // SAFETY: addresses in a plan point into the mapped plan.
    unsafe { *(address as *const u8) }
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}
