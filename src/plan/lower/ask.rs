//! What a process does that asks something and executes nothing.

use std::{path::Path, time::Duration};

use super::{AT_FDCWD, Arg, FILE, Lowering, Question};

impl Lowering {
    /// struct itimerval: once, and then.
    pub(super) fn alarm(&mut self, time: Duration) {
        let words = [0, 0, time.as_secs(), u64::from(time.subsec_micros())];
        let value: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let real = Arg::Value(u64::from(libc::ITIMER_REAL.unsigned_abs()));
        self.call(libc::SYS_setitimer, &[real, Arg::Bytes(&value), Arg::Value(0)]);
    }

    pub(super) fn ask(&mut self, question: &Question) {
        match question {
            Question::Exists(path) => {
                let path = text(path);
                self.call(libc::SYS_faccessat, &[Arg::Value(AT_FDCWD), Arg::Text(path), Arg::Value(0)]);
            }
            Question::Connect(path) => self.connect(text(path)),
        }
        self.call(libc::SYS_exit_group, &[Arg::Value(0)]);
    }

    fn connect(&mut self, path: &str) {
        let family = u64::from(libc::AF_UNIX.unsigned_abs());
        let kind = u64::from((libc::SOCK_STREAM | libc::SOCK_CLOEXEC).unsigned_abs());
        self.call_into(FILE, libc::SYS_socket, &[Arg::Value(family), Arg::Value(kind), Arg::Value(0)]);
        // struct sockaddr_un, with the NUL of the path.
        let family = u16::try_from(libc::AF_UNIX).expect("a small number");
        let address = [&family.to_ne_bytes()[..], path.as_bytes(), &[0]].concat();
        let length = Arg::Value(address.len() as u64);
        self.call(libc::SYS_connect, &[Arg::Register(FILE), Arg::Bytes(&address), length]);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the loader takes only text")
}
