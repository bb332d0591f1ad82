//! TCP sockets that nobody owns, in a network namespace that is kept for the next run.
//!
//! When a run ends, its connections live on in the kernel: half closed, or in TIME_WAIT. A server that does not set
//! SO_REUSEADDR cannot bind its port while they do (EADDRINUSE, for a minute or more). SOCK_DESTROY ends them at once.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};

use super::{
    NetError,
    netlink::{Encoder, Netlink, messages},
    netns::NetNs,
};

// linux/sock_diag.h and inet_diag.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `inet_diag_sockid` within `inet_diag_msg`: after family, state, timer, retransmissions.
const ID: std::ops::Range<usize> = 4..52;
/// `idiag_inode` within `inet_diag_msg`; 0 when no process holds the socket.
const INODE: std::ops::Range<usize> = 68..72;
const IPPROTO_TCP: u8 = 6;
/// AF_INET and AF_INET6.
const FAMILIES: [u8; 2] = [2, 10];

/// A connection changes its state a few times before it is gone.
const ROUNDS: u32 = 8;

/// What became of the sockets that nobody owned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Gone.
    pub destroyed: u32,
    /// The kernel cannot destroy them (TIME_WAIT before Linux 6.5 or so): the next run needs another namespace, or
    /// must wait.
    pub left: u32,
}

/// Destroys every TCP socket in `netns` that no process holds; to be called when the run's last process is gone.
///
/// # Errors
/// From setns(2) and the kernel's answers; EOPNOTSUPP or ENOENT for the family itself: a kernel without
/// CONFIG_INET_DIAG.
pub fn sweep(netns: &NetNs) -> Result<Swept, NetError> {
    let mut socket = netns.within(|| Netlink::open(netlink_sys::protocols::NETLINK_SOCK_DIAG))??;
    let mut swept = Swept::default();
    for family in FAMILIES {
        for _ in 0..ROUNDS {
            let (mut is_settled, mut left) = (true, 0);
            for id in orphans(&mut socket, family)? {
                match destroy(&mut socket, family, &id) {
                    Ok(()) => swept.destroyed += 1,
                    // It has ended meanwhile, or become what the kernel keeps for TIME_WAIT: the next dump tells.
                    Err(error) if error.errno() == Some(libc::ENOENT) => is_settled = false,
                    Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => left += 1,
                    Err(error) => return Err(error),
                }
            }
            if is_settled {
                swept.left += left;
                break;
            }
        }
    }
    Ok(swept)
}

/// `inet_diag_sockid` of each.
fn orphans(socket: &mut Netlink, family: u8) -> Result<Vec<Vec<u8>>, NetError> {
    let sequence = socket.take_sequence(1);
    let mut request = Encoder::default();
    request.message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, sequence, |m| {
        m.raw(&[family, IPPROTO_TCP, 0, 0]);
        m.raw(&u32::MAX.to_ne_bytes());
        m.raw(&[0; 48]);
    });
    let mut ids = Vec::new();
    socket.exchange(request.bytes(), sequence, "SOCK_DIAG_BY_FAMILY", |message| {
        ids.extend(orphan(message.body).map(<[u8]>::to_vec));
    })?;
    Ok(ids)
}

/// `inet_diag_sockid` of a socket that no process holds; none of any other.
pub(super) fn orphan(body: &[u8]) -> Option<&[u8]> {
    let is_orphan = body.get(INODE) == Some(&[0; 4]);
    body.get(ID).filter(|_| is_orphan)
}

fn destroy(socket: &mut Netlink, family: u8, id: &[u8]) -> Result<(), NetError> {
    let sequence = socket.take_sequence(1);
    let mut request = Encoder::default();
    request.message(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, sequence, |m| {
        m.raw(&[family, IPPROTO_TCP, 0, 0]);
        m.raw(&u32::MAX.to_ne_bytes());
        m.raw(id);
    });
    socket.send(request.bytes())?;
    let port = id.first_chunk().map_or(0, |port| u16::from_be_bytes(*port));
    while let Some(datagram) = socket.receive()? {
        let ack = messages(datagram).filter_map(|message| message.ack()).find(|ack| ack.sequence == sequence);
        if let Some(ack) = ack {
            return ack.result("SOCK_DESTROY", &format!("tcp port {port}"));
        }
    }
    Err(crate::sys::SysError::new("SOCK_DESTROY", format!("tcp port {port}"), libc::EPROTO).into())
}
