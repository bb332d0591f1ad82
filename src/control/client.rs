//! The caller's end of the control socket; blocking, as the command line needs it.

use std::{
    collections::VecDeque,
    io,
    ops::ControlFlow,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use rustix::net::{RecvFlags, SendFlags};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    SOCKET_NAME,
    frame::{Frames, Message},
    proto::{Error, Method},
    wire,
};
use crate::sys::SysError;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there.
    #[error("{}: no supervisor answers: {source}", path.display())]
    NoSupervisor {
        /// The socket.
        path: PathBuf,
        /// What connect(2) said.
        source: io::Error,
    },
    /// The caller may not even connect.
    #[error("{}: permission denied: only root and the group palisade may connect", .0.display())]
    Denied(PathBuf),
    /// The supervisor answered, with an error.
    #[error(transparent)]
    Answer(#[from] Error),
    /// The connection ended before the answer did: the supervisor went away, or took us for a nuisance.
    #[error("the supervisor hung up")]
    HungUp,
    /// The answer is not what this version understands.
    #[error("the supervisor's answer makes no sense: {0}")]
    Nonsense(String),
    /// The kernel's word.
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// One answer to a call.
#[derive(Debug)]
pub struct Reply<T> {
    /// Its parameters.
    pub value: T,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// Whether more will follow.
    pub continues: bool,
}

/// An answer as it arrives.
#[derive(Deserialize)]
struct Answer<'a> {
    continues: Option<bool>,
    error: Option<String>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
}

/// The longest answer that is taken: some 50,000 services. A supervisor is trusted, but not to be without bugs.
const ANSWER_MAX: usize = 64 << 20;

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    frames: Frames,
    messages: VecDeque<Message>,
}

impl Client {
    /// Connects to the supervisor that runs with `--run DIR`.
    ///
    /// # Errors
    /// [`CallError::NoSupervisor`], [`CallError::Denied`].
    pub fn connect(run_dir: &Path) -> Result<Self, CallError> {
        let path = run_dir.join(SOCKET_NAME);
        match UnixStream::connect(&path) {
            Ok(socket) => {
                Ok(Self { socket, frames: Frames::with_max(ANSWER_MAX), messages: VecDeque::new() })
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(CallError::Denied(path)),
            Err(source) => Err(CallError::NoSupervisor { path, source }),
        }
    }

    /// Asks, and waits for the only answer.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call<T: DeserializeOwned>(&mut self, method: &Method) -> Result<T, CallError> {
        self.send(method, &[])?;
        Ok(self.receive()?.value)
    }

    /// Asks, and hands every answer to `each` until the last or until it breaks.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call_more<T: DeserializeOwned>(
        &mut self,
        method: &Method,
        mut each: impl FnMut(T) -> ControlFlow<()>,
    ) -> Result<(), CallError> {
        self.send(method, &[])?;
        loop {
            let reply = self.receive()?;
            if each(reply.value).is_break() || !reply.continues {
                return Ok(());
            }
        }
    }

    /// Sends a request, the descriptors with its first byte.
    ///
    /// # Errors
    /// [`CallError::HungUp`], [`CallError::Sys`].
    pub fn send(&mut self, method: &Method, fds: &[OwnedFd]) -> Result<(), CallError> {
        let message = method.to_message();
        let mut sent = 0;
        while sent < message.len() {
            let fds = if sent == 0 { fds } else { &[] };
            sent += wire::send(&self.socket, &message[sent..], fds, SendFlags::empty())
                .map_err(failed("sendmsg"))?;
        }
        Ok(())
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// [`CallError`]; an error that the supervisor answers with is [`CallError::Answer`].
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Reply<T>, CallError> {
        while !self.has_reply() {
            self.fill()?;
        }
        let Message { text, fds } = self.messages.pop_front().expect("has_reply() said so");
        let nonsense = |error: serde_json::Error| CallError::Nonsense(error.to_string());
        let answer: Answer = serde_json::from_slice(&text).map_err(nonsense)?;
        let parameters = answer.parameters.map_or("{}", RawValue::get);
        if let Some(name) = answer.error {
            let parameters = serde_json::from_str(parameters).map_err(nonsense)?;
            return Err(Error::from_wire(&name, &parameters).into());
        }
        let value = serde_json::from_str(parameters).map_err(nonsense)?;
        Ok(Reply { value, fds, continues: answer.continues.unwrap_or(false) })
    }

    /// Whether an answer has arrived that [`Client::receive`] gives without waiting.
    pub fn has_reply(&self) -> bool {
        !self.messages.is_empty()
    }

    /// Reads once from the socket; waits if nothing is there.
    fn fill(&mut self) -> Result<(), CallError> {
        let mut buffer = vec![0; 64 << 10];
        let (length, fds) =
            wire::receive(&self.socket, &mut buffer, RecvFlags::empty()).map_err(failed("recvmsg"))?;
        if length == 0 {
            return Err(CallError::HungUp);
        }
        let nonsense = |error: super::frame::FrameError| CallError::Nonsense(error.to_string());
        self.frames.push(&buffer[..length], fds).map_err(nonsense)?;
        while let Some(message) = self.frames.take().map_err(nonsense)? {
            self.messages.push_back(message);
        }
        Ok(())
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn failed(call: &'static str) -> impl Fn(rustix::io::Errno) -> CallError {
    move |errno| match errno {
        rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => CallError::HungUp,
        errno => SysError::new(call, "control.sock", errno).into(),
    }
}
