//! One kept-open netlink socket: requests, acknowledgements with the kernel's own words, dumps.
//!
//! Messages of rtnetlink are written and read by `netlink-packet-route`; the families that it does not know (nfnetlink,
//! sock_diag) by [`Encoder`], [`messages`] and [`attributes`]. A socket belongs to the network namespace that it was
//! opened in, wherever its owner goes later.

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{RecvFlags, SendFlags};

use super::NetError;
use crate::sys::SysError;

/// nlmsghdr, netlink(7).
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Marks an attribute that holds attributes.
pub const NLA_F_NESTED: u16 = 0x8000;
/// The kernel fills a datagram of a dump to 32 KiB at most when the reader offers that much.
const DATAGRAM: usize = 32 * 1024;
/// How often a dump is asked for again when others keep changing what it lists.
const DUMP_TRIES: u32 = 8;

/// A netlink socket of one namespace and one family.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

/// An rtnetlink message that is to be acknowledged; `call` and `args` name it in the error.
#[derive(Clone, Debug)]
pub struct Request {
    /// The message.
    pub message: RouteNetlinkMessage,
    /// `NLM_F_*`, beside those of every request.
    pub flags: u16,
    /// Its type.
    pub call: &'static str,
    /// What it is about.
    pub args: String,
}

impl Request {
    /// A message, its flags, and what it is called.
    pub fn new(message: RouteNetlinkMessage, flags: u16, (call, args): (&'static str, String)) -> Self {
        Self { message, flags, call, args }
    }
}

/// What the kernel answers to one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Sequence number of the message.
    pub sequence: u32,
    /// 0, or the error number.
    pub errno: i32,
    /// The kernel's explanation; often empty.
    pub text: String,
}

impl Ack {
    /// Success, or the error of `call(args)`.
    ///
    /// # Errors
    /// The error number, with the explanation where there is one.
    pub fn result(self, call: &'static str, args: &str) -> Result<(), NetError> {
        let cause = SysError::new(call, args, self.errno);
        match (self.errno, self.text.is_empty()) {
            (0, _) => Ok(()),
            (_, true) => Err(cause.into()),
            (_, false) => Err(NetError::Netlink { cause, text: self.text }),
        }
    }
}

impl Netlink {
    /// Opens a socket of `family` (a `NETLINK_*` constant) in the calling thread's network namespace.
    ///
    /// # Errors
    /// From socket(2), bind(2), setsockopt(2).
    pub fn open(family: isize) -> Result<Self, NetError> {
        let failed = |error| SysError::new("socket", format!("AF_NETLINK, {family}"), error);
        let mut socket = Socket::new(family).map_err(failed)?;
        let port = socket.bind_auto().map_err(failed)?.port_number();
        // Errors come with text, and do not repeat the message that they are about.
        socket.set_ext_ack(true).map_err(failed)?;
        socket.set_cap_ack(true).map_err(failed)?;
        Ok(Self { socket, port, sequence: 0, buffer: vec![0; DATAGRAM] })
    }

    /// Opens an rtnetlink socket, for links, addresses, routes and neighbours.
    ///
    /// # Errors
    /// As [`Netlink::open`].
    pub fn route() -> Result<Self, NetError> {
        Self::open(netlink_sys::protocols::NETLINK_ROUTE)
    }

    /// The kernel's name for this socket: what is caused through it bears it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Has the kernel send what it tells everybody in a group.
    ///
    /// # Errors
    /// From setsockopt(2), NETLINK_ADD_MEMBERSHIP.
    pub fn join(&self, group: u32) -> Result<(), SysError> {
        let failed = |error| SysError::new("setsockopt", format!("NETLINK_ADD_MEMBERSHIP, {group}"), error);
        self.socket.add_membership(group).map_err(failed)
    }

    /// Lets messages of up to `bytes` be sent at once (needs CAP_NET_ADMIN; the default is about 200 KiB).
    ///
    /// # Errors
    /// From setsockopt(2), SO_SNDBUFFORCE.
    pub fn set_send_buffer(&self, bytes: usize) -> Result<(), SysError> {
        setsockopt(&self.socket, sockopt::SndBufForce, &bytes)
            .map_err(|errno| SysError::new("setsockopt", format!("SO_SNDBUFFORCE, {bytes}"), errno))
    }

    /// Lets up to `bytes` be queued for us (needs CAP_NET_ADMIN; the default is about 200 KiB). No memory is taken before.
    ///
    /// # Errors
    /// From setsockopt(2), SO_RCVBUFFORCE.
    pub fn set_receive_buffer(&self, bytes: usize) -> Result<(), SysError> {
        setsockopt(&self.socket, sockopt::RcvBufForce, &bytes)
            .map_err(|errno| SysError::new("setsockopt", format!("SO_RCVBUFFORCE, {bytes}"), errno))
    }

    /// The next `count` sequence numbers; returns the first.
    pub fn take_sequence(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Sends encoded messages.
    ///
    /// # Errors
    /// From send(2); EMSGSIZE: larger than the send buffer.
    pub fn send(&self, bytes: &[u8]) -> Result<(), SysError> {
        rustix::net::send(&self.socket, bytes, SendFlags::empty())
            .map(drop)
            .map_err(|errno| SysError::new("send", format!("netlink, {} bytes", bytes.len()), errno))
    }

    /// Receives one datagram; none when nothing is queued.
    ///
    /// The kernel works off what is sent within send(2), so what is not queued after it never comes.
    ///
    /// # Errors
    /// From recv(2); ENOBUFS: answers were lost.
    pub fn receive(&mut self) -> Result<Option<&[u8]>, SysError> {
        match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, len)) => Ok(Some(&self.buffer[..len.min(DATAGRAM)])),
            Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(errno) => Err(SysError::new("recv", "netlink", errno)),
        }
    }

    /// Sends one rtnetlink message and waits for its acknowledgement.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn request(&mut self, request: Request) -> Result<(), NetError> {
        self.requests(vec![request])
    }

    /// Sends rtnetlink messages at once, and waits for the acknowledgement of each. The kernel works them off in order, and
    /// does not stop at one that fails.
    ///
    /// # Errors
    /// The kernel's answer to the first that failed.
    pub fn requests(&mut self, requests: Vec<Request>) -> Result<(), NetError> {
        let count = u32::try_from(requests.len()).expect("a few messages make a link");
        let first = self.take_sequence(count);
        let (mut batch, mut named) = (Vec::new(), Vec::new());
        for (sequence, request) in (first..).zip(requests) {
            let Request { message, flags, call, args } = request;
            batch.extend(encode(message, NLM_F_REQUEST | NLM_F_ACK | flags, sequence));
            batch.resize(batch.len().next_multiple_of(4), 0);
            named.push((sequence, call, args, None));
        }
        self.send(&batch)?;
        while named.iter().any(|(.., ack)| ack.is_none()) {
            let Some(datagram) = self.receive()? else { break };
            for ack in messages(datagram).filter_map(|message| message.ack()) {
                if let Some(slot) = named.iter_mut().find(|(sequence, ..)| *sequence == ack.sequence) {
                    slot.3 = Some(ack);
                }
            }
        }
        named.into_iter().try_for_each(|(_, call, args, ack)| match ack {
            Some(ack) => ack.result(call, &args),
            None => Err(SysError::new(call, args, libc::EPROTO).into()),
        })
    }

    /// Everything that matches an rtnetlink message.
    ///
    /// What the crate cannot read (a link kind of a newer kernel) is passed over: it is none that we made.
    ///
    /// # Errors
    /// The kernel's answer; EINTR: what is listed changed again and again meanwhile.
    pub fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
        call: &'static str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        for _ in 0..DUMP_TRIES {
            let sequence = self.take_sequence(1);
            let request = encode(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, sequence);
            let mut all = Vec::new();
            let whole = self.exchange(&request, sequence, call, |message| {
                if let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(inner), .. }) =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(message.bytes)
                {
                    all.push(inner);
                }
            })?;
            if whole {
                return Ok(all);
            }
        }
        Err(SysError::new(call, "dump", libc::EINTR).into())
    }

    /// What the kernel has to say about the one thing that an rtnetlink message asks for; nothing: there is none.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn get(
        &mut self,
        message: RouteNetlinkMessage,
        call: &'static str,
    ) -> Result<Option<RouteNetlinkMessage>, NetError> {
        let sequence = self.take_sequence(1);
        let request = encode(message, NLM_F_REQUEST | NLM_F_ACK, sequence);
        let mut found = None;
        let asked = self.exchange(&request, sequence, call, |message| {
            if let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(inner), .. }) =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(message.bytes)
            {
                found = Some(inner);
            }
        });
        match asked {
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            other => other.map(|_| found),
        }
    }

    /// Sends an encoded dump request and hands each answer to `visit`, until the kernel says that it was the last.
    /// Returns whether the dump is whole: false when something changed meanwhile, so that parts may be missing.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn exchange(
        &mut self,
        request: &[u8],
        sequence: u32,
        call: &'static str,
        mut visit: impl FnMut(&Message<'_>),
    ) -> Result<bool, NetError> {
        self.send(request)?;
        let mut whole = true;
        while let Some(datagram) = self.receive()? {
            for message in messages(datagram).filter(|message| message.sequence == sequence) {
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                if let Some(ack) = message.ack() {
                    return ack.result(call, "dump").map(|()| whole);
                }
                visit(&message);
            }
        }
        Err(SysError::new(call, "dump", libc::EPROTO).into())
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn encode(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// One received message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
    /// `nlmsg_pid`: of the socket that caused it, where somebody did.
    pub port: u32,
    /// What follows the header.
    pub body: &'a [u8],
    /// Header and body.
    pub bytes: &'a [u8],
}

impl Message<'_> {
    /// The acknowledgement or end of a dump that this message is; none for any other.
    pub fn ack(&self) -> Option<Ack> {
        if !matches!(self.kind, NLMSG_ERROR | NLMSG_DONE) {
            return None;
        }
        let errno = self.body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes)).saturating_neg();
        // NLMSG_ERROR repeats the header of the request (with CAP_ACK nothing more); NLMSG_DONE does not.
        let skip = if self.kind == NLMSG_ERROR { 4 + HEADER } else { 4 };
        let tlvs = self.body.get(skip..).filter(|_| self.flags & NLM_F_ACK_TLVS != 0).unwrap_or_default();
        let text =
            attributes(tlvs).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map_or("".into(), |(_, text)| {
                String::from_utf8_lossy(text.strip_suffix(b"\0").unwrap_or(text)).into_owned()
            });
        Some(Ack { sequence: self.sequence, errno, text })
    }
}

/// The messages of a datagram; ends at the first that does not fit.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER] = datagram.first_chunk()?;
        let u16_at = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let u32_at =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let len = usize::try_from(u32_at(0)).ok().filter(|len| *len >= HEADER)?;
        let bytes = datagram.get(..len)?;
        let (kind, flags, sequence, port) = (u16_at(4), u16_at(6), u32_at(8), u32_at(12));
        let message = Message { kind, flags, sequence, port, body: &bytes[HEADER..], bytes };
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes (kind without flags, value) of a message or a nest; ends at the first that does not fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & 0x3fff, value))
    })
}

/// Writes netlink messages one after the other, as a batch is sent.
#[derive(Debug, Default)]
pub struct Encoder(Vec<u8>);

impl Encoder {
    /// Appends a message whose body `body` writes.
    pub fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.raw(&0_u32.to_ne_bytes());
        self.raw(&kind.to_ne_bytes());
        self.raw(&flags.to_ne_bytes());
        self.raw(&sequence.to_ne_bytes());
        self.raw(&0_u32.to_ne_bytes());
        body(self);
        let len = u32::try_from(self.0.len() - start).expect("a batch is far below 4 GiB");
        self.0[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Appends bytes as they are, padded to four.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |inner| inner.raw(value));
    }

    /// Appends an attribute that holds text with its NUL.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.nest(kind, |inner| {
            inner.raw(value.as_bytes());
            inner.raw(b"\0");
        });
    }

    /// Appends an attribute whose value `body` writes; `kind` includes [`NLA_F_NESTED`] where it holds attributes.
    pub fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.raw(&[0; 2]);
        self.raw(&kind.to_ne_bytes());
        body(self);
        let len = u16::try_from(self.0.len() - start).expect("an attribute of ours holds one element");
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Everything written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_back() {
        let mut out = Encoder::default();
        out.message(7, 5, 42, |m| {
            m.text(1, "abc");
            m.nest(2 | NLA_F_NESTED, |n| n.attribute(3, &[9; 5]));
        });
        out.message(8, 0, 43, |_| ());
        let read: Vec<_> = messages(out.bytes()).collect();
        assert_eq!(
            read.iter().map(|m| (m.kind, m.flags, m.sequence)).collect::<Vec<_>>(),
            [(7, 5, 42), (8, 0, 43)]
        );
        let attrs: Vec<_> = attributes(read[0].body).collect();
        assert_eq!(attrs[0], (1, b"abc\0".as_slice()));
        assert_eq!(attributes(attrs[1].1).collect::<Vec<_>>(), [(3, [9_u8; 5].as_slice())]);
    }

    #[test]
    fn truncated_and_lying_lengths_end_the_reading() {
        let mut out = Encoder::default();
        out.message(7, 0, 1, |m| m.attribute(1, &[1, 2, 3, 4]));
        for len in 0..out.bytes().len() {
            assert_eq!(messages(&out.bytes()[..len]).count(), 0);
        }
        let mut lying = out.bytes().to_vec();
        lying[0] = 3;
        assert_eq!(messages(&lying).count(), 0);
        for len in 0_u8..4 {
            assert_eq!(attributes(&[len, 0, 1, 0]).count(), 0);
        }
        assert_eq!(attributes(&[9, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn of_a_batch_the_first_that_failed_is_named() {
        let mut socket = Netlink::route().unwrap();
        let get = |name: &str| {
            let mut message = netlink_packet_route::link::LinkMessage::default();
            message.attributes.push(netlink_packet_route::link::LinkAttribute::IfName(name.to_owned()));
            Request::new(RouteNetlinkMessage::GetLink(message), 0, ("RTM_GETLINK", name.to_owned()))
        };
        socket.requests(vec![get("lo"), get("lo"), get("lo")]).unwrap();
        let error =
            socket.requests(vec![get("lo"), get("psnone-1"), get("lo"), get("psnone-2")]).unwrap_err();
        assert!(error.to_string().starts_with("RTM_GETLINK(psnone-1): ENODEV"), "{error}");
        socket.requests(vec![get("lo")]).unwrap();
    }

    #[test]
    fn the_kernel_says_which_message_it_refused_and_why() {
        let mut socket = Netlink::route().unwrap();
        let mut message = netlink_packet_route::link::LinkMessage::default();
        message.attributes.push(netlink_packet_route::link::LinkAttribute::IfName("psnone-0".to_owned()));
        let error = socket
            .request(Request::new(
                RouteNetlinkMessage::GetLink(message),
                0,
                ("RTM_GETLINK", "\"psnone-0\"".into()),
            ))
            .unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENODEV));
        assert!(
            error.to_string().starts_with("RTM_GETLINK(\"psnone-0\"): ENODEV (no such device)"),
            "{error}"
        );
    }
}
