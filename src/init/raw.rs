//! Entry point, system calls and the four memory functions that the compiler expects, for `pid1.rs` alone.

/// openat(2): the working directory.
pub(crate) const AT_FDCWD: u64 = -100i64 as u64;

macro_rules! calls {
    ($($name:ident = $x86_64:literal, $aarch64:literal;)*) => {
        /// The system calls of the waiting stage.
        #[derive(Clone, Copy)]
        pub(crate) enum Call {
            $($name),*
        }

        impl Call {
            #[inline(always)]
            fn number(self) -> u64 {
                match self {
                    $(Call::$name => if cfg!(target_arch = "x86_64") { $x86_64 } else { $aarch64 },)*
                }
            }
        }
    };
}

// Numbers of arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
calls! {
    Read = 0, 63;
    Write = 1, 64;
    Close = 3, 57;
    LSeek = 8, 62;
    Mmap = 9, 222;
    Munmap = 11, 215;
    SigAction = 13, 134;
    SigProcMask = 14, 135;
    PRead64 = 17, 67;
    PWrite64 = 18, 68;
    GetPid = 39, 172;
    SendTo = 44, 206;
    SendMsg = 46, 211;
    RecvMsg = 47, 212;
    Clone = 56, 220;
    Wait4 = 61, 260;
    Kill = 62, 129;
    Fcntl = 72, 25;
    SetSid = 112, 157;
    GetGroups = 115, 158;
    SetGroups = 116, 159;
    Personality = 135, 92;
    PrCtl = 157, 167;
    ClockGetTime = 228, 113;
    ExitGroup = 231, 94;
    WaitId = 247, 95;
    InotifyAddWatch = 254, 27;
    OpenAt = 257, 56;
    PPoll = 271, 73;
    Accept4 = 288, 242;
    SignalFd4 = 289, 74;
    Dup3 = 292, 24;
    Pipe2 = 293, 59;
    InotifyInit1 = 294, 26;
    PidFdSendSignal = 424, 424;
    PidFdOpen = 434, 434;
}

/// A system call by name; a negative result is an error number.
#[inline(always)]
pub(crate) fn call(call: Call, args: [u64; 6]) -> i64 {
    numbered(call.number(), args)
}

#[cfg(target_arch = "x86_64")]
mod arch {
    /// open(2).
    pub(crate) const O_NOFOLLOW: u64 = 0o400000;

    // The kernel enters with the stack pointer at argc, 16-byte aligned; `call` brings the alignment that a function expects.
    core::arch::global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call start", "ud2");

    /// A system call by number; a negative result is an error number.
    #[inline(never)]
    pub(crate) fn numbered(nr: u64, args: [u64; 6]) -> i64 {
        let result: i64;
        // SAFETY: the convention of syscall(2) on x86-64; what the call does with memory is the plan's business.
        unsafe {
            core::arch::asm!(
                "syscall",
                inlateout("rax") nr as i64 => result,
                in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
                in("r10") args[3], in("r8") args[4], in("r9") args[5],
                lateout("rcx") _, lateout("r11") _,
                options(nostack),
            );
        }
        result
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller of memcpy(3) gives two regions of `count` bytes that do not overlap.
        unsafe {
            core::arch::asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _,
                options(nostack, preserves_flags));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        // SAFETY: the caller of memset(3) gives a region of `count` bytes.
        unsafe {
            core::arch::asm!("rep stosb", inout("rdi") to => _, in("al") byte as u8, inout("rcx") count => _,
                options(nostack, preserves_flags));
        }
        to
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    /// open(2).
    pub(crate) const O_NOFOLLOW: u64 = 0o100000;

    core::arch::global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "bl start", "brk #1");

    /// A system call by number; a negative result is an error number.
    #[inline(never)]
    pub(crate) fn numbered(nr: u64, args: [u64; 6]) -> i64 {
        let result: i64;
        // SAFETY: the convention of syscall(2) on aarch64; what the call does with memory is the plan's business.
        unsafe {
            core::arch::asm!(
                "svc #0",
                in("x8") nr,
                inlateout("x0") args[0] => result,
                in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5],
                options(nostack),
            );
        }
        result
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        for n in 0..count {
            // SAFETY: the caller of memcpy(3) gives two regions of `count` bytes. Volatile, or the compiler would
            // recognise the loop and call memcpy.
            unsafe { to.add(n).write_volatile(from.add(n).read_volatile()) };
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        for n in 0..count {
            // SAFETY: the caller of memset(3) gives a region of `count` bytes.
            unsafe { to.add(n).write_volatile(byte as u8) };
        }
        to
    }
}

pub(crate) use arch::{O_NOFOLLOW, numbered};

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    for n in 0..count {
        // SAFETY: the caller of memcmp(3) gives two regions of `count` bytes.
        let (a, b) = unsafe { (a.add(n).read_volatile(), b.add(n).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(a, b, count) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    for n in 0..count {
        // The end that is not overwritten first goes first.
        let n = if to.cast_const() <= from { n } else { count - 1 - n };
        // SAFETY: the caller of memmove(3) gives two regions of `count` bytes.
        unsafe { to.add(n).write_volatile(from.add(n).read_volatile()) };
    }
    to
}
