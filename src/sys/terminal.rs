//! The operator's terminal while its keys go to somebody else's.

use std::{
    io,
    os::fd::AsFd,
    sync::{Mutex, PoisonError},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::SysError;

/// What the terminal was like before, for whoever has to put it in order.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode of the terminal at standard input; it is as it was again when this is dropped, or after a panic.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Enters raw mode.
    ///
    /// # Errors
    /// tcgetattr(3), tcsetattr(3).
    pub fn enter() -> Result<Self, SysError> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).map_err(|errno| SysError::new("tcgetattr", "stdin", errno))?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        // A panic aborts: nothing is dropped then, but the hook runs.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        tcsetattr(&stdin, OptionalActions::Now, &raw)
            .map_err(|errno| SysError::new("tcsetattr", "stdin", errno))?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal in order, once.
fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // If the terminal is gone, there is nothing to put in order.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

/// Gives the size of the terminal at standard input, where it is one, to another; the kernel tells the programs there.
pub fn copy_size(to: impl AsFd) {
    if let Ok(size) = tcgetwinsize(io::stdin()) {
        // The other may have ended just now.
        let _ = tcsetwinsize(to, size);
    }
}
