//! What others do to the packet filter: the kernel tells everybody who has asked of every change of a ruleset.
//!
//! `nft flush ruleset`, which is how `systemctl restart nftables` begins, takes our table with everybody else's. Nobody asks
//! us before, so the kernel has to tell us afterwards. The messages of one transaction come in a row, and the number of the
//! generation that it has begun comes last: what came through our own socket, or is of a generation that we have loaded
//! ourselves, is none of others' doing.

use std::os::fd::{AsFd, BorrowedFd};

use super::{
    NetError,
    netlink::{Message, Netlink, attributes, messages},
    nft::{Damage, NFNL_SUBSYS_NFTABLES, NFPROTO_INET, Table, generation},
};

// linux/netfilter/nfnetlink.h and nf_tables.h
const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_DELRULE: u16 = 8;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_DELSET: u16 = 11;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_DELSETELEM: u16 = 14;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_NEWFLOWTABLE: u16 = 22;
const NFT_MSG_DELFLOWTABLE: u16 = 24;
/// Of every kind of object the name of its table.
const NFTA_TABLE: u16 = 1;

/// What we change ourselves is told as well, the elements of a thousand services at once.
const RECEIVE_BUFFER: usize = 32 << 20;
/// So many datagrams are read at a time; the rest is still there afterwards.
const DATAGRAMS: usize = 64;

/// What others have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// To our table.
    pub damage: Option<Damage>,
    /// To chains and rules of theirs.
    pub others: bool,
}

impl Heard {
    fn add(&mut self, more: Self) {
        self.damage = self.damage.max(more.damage);
        self.others |= more.others;
    }
}

/// Hears of every change of the ruleset of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Watch {
    socket: Netlink,
    table: String,
    /// Of the transaction whose end has not been heard of yet.
    pending: Heard,
}

impl Watch {
    /// Begins to listen; before the table of this name is loaded, or what is done in between is missed.
    ///
    /// # Errors
    /// From opening the socket.
    pub fn open(table: &str) -> Result<Self, NetError> {
        let socket = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        socket.set_receive_buffer(RECEIVE_BUFFER)?;
        socket.join(NFNLGRP_NFTABLES)?;
        Ok(Self { socket, table: table.to_owned(), pending: Heard::default() })
    }

    /// Readable when something was changed, by whomsoever.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What others have done since; `table` is ours. Never waits.
    ///
    /// # Errors
    /// From recv(2).
    pub fn hear(&mut self, table: &mut Table) -> Result<Heard, NetError> {
        let mut heard = Heard::default();
        for _ in 0..DATAGRAMS {
            match self.socket.receive() {
                Ok(None) => {
                    table.forget_loads();
                    break;
                }
                Ok(Some(datagram)) => {
                    let own = (table.port(), table.loads());
                    for message in messages(datagram) {
                        heard.add(read(&message, &self.table, own, &mut self.pending));
                    }
                }
                // Something was not told: it may have been anything.
                Err(error) if error.errno == libc::ENOBUFS => {
                    self.pending = Heard::default();
                    let is_foreign = table.has_foreign()?;
                    let damage = if is_foreign { Damage::Foreign } else { Damage::Part };
                    heard.add(Heard { damage: Some(damage), others: true });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(heard)
    }
}

/// Takes in one message. `pending` is what the transaction that it belongs to has done so far, and is told at its end.
fn read(message: &Message<'_>, table: &str, own: (u32, &[u32]), pending: &mut Heard) -> Heard {
    if message.kind >> 8 != NFNL_SUBSYS_NFTABLES || message.port == own.0 {
        return Heard::default();
    }
    let kind = message.kind & 0xff;
    if kind == NFT_MSG_NEWGEN {
        let done = std::mem::take(pending);
        let is_ours = generation(message.body).is_some_and(|number| own.1.contains(&number));
        return if is_ours { Heard::default() } else { done };
    }
    let name = message.body.get(4..).and_then(|rest| attributes(rest).find(|(kind, _)| *kind == NFTA_TABLE));
    let name = name.map(|(_, name)| name.strip_suffix(b"\0").unwrap_or(name));
    let is_ours = message.body.first() == Some(&NFPROTO_INET) && name == Some(table.as_bytes());
    pending.add(match kind {
        NFT_MSG_NEWTABLE | NFT_MSG_NEWCHAIN | NFT_MSG_NEWSET | NFT_MSG_NEWFLOWTABLE if is_ours => {
            Heard { damage: Some(Damage::Foreign), others: false }
        }
        NFT_MSG_DELTABLE | NFT_MSG_DELCHAIN | NFT_MSG_NEWRULE | NFT_MSG_DELRULE | NFT_MSG_DELSET
        | NFT_MSG_NEWSETELEM | NFT_MSG_DELSETELEM | NFT_MSG_DELFLOWTABLE
            if is_ours =>
        {
            Heard { damage: Some(Damage::Part), others: false }
        }
        NFT_MSG_NEWTABLE | NFT_MSG_DELTABLE | NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN | NFT_MSG_NEWRULE
        | NFT_MSG_DELRULE => Heard { damage: None, others: true },
        _ => Heard::default(),
    });
    Heard::default()
}

/// For `fuzz/`.
#[cfg(fuzzing)]
pub(super) fn is_damage(message: &Message<'_>) -> bool {
    let mut pending = Heard::default();
    let _ = read(message, "palisade", (1, &[1]), &mut pending);
    pending.damage.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{netlink::Encoder, nft::NFTA_GEN_ID};

    /// A transaction of one message and the end of it, caused through socket 7, as generation 9.
    fn heard(kind: u16, family: u8, table: &str, own: (u32, &[u32])) -> Heard {
        let mut out = Encoder::default();
        let subsystem = NFNL_SUBSYS_NFTABLES << 8;
        out.message(subsystem | kind, 0, 0, |m| {
            m.raw(&[family, 0, 0, 0]);
            m.text(NFTA_TABLE, table);
        });
        out.message(subsystem | NFT_MSG_NEWGEN, 0, 0, |m| {
            m.raw(&[0; 4]);
            m.attribute(NFTA_GEN_ID, &9_u32.to_be_bytes());
        });
        let (mut pending, mut heard) = (Heard::default(), Heard::default());
        for message in messages(out.bytes()) {
            heard.add(read(&Message { port: 7, ..message }, "palisade", own, &mut pending));
        }
        assert_eq!(pending, Heard::default(), "nothing is left over for the next one");
        heard
    }

    #[test]
    fn what_others_do_to_our_table_is_told_from_what_we_do_and_from_what_they_do_to_theirs() {
        let nobody = (0, &[][..]);
        let ours = |kind| heard(kind, NFPROTO_INET, "palisade", nobody);
        let damage = |damage| Heard { damage: Some(damage), others: false };
        for kind in [NFT_MSG_DELTABLE, NFT_MSG_DELRULE, NFT_MSG_NEWRULE, NFT_MSG_DELSETELEM] {
            assert_eq!(ours(kind), damage(Damage::Part));
        }
        assert_eq!(ours(NFT_MSG_NEWCHAIN), damage(Damage::Foreign));
        assert_eq!(heard(NFT_MSG_DELTABLE, NFPROTO_INET, "palisade", (7, &[])), Heard::default());
        assert_eq!(heard(NFT_MSG_DELTABLE, NFPROTO_INET, "palisade", (0, &[9])), Heard::default());
        // Another family's table of the same name, and another table of the family.
        let others = Heard { damage: None, others: true };
        assert_eq!(heard(NFT_MSG_DELTABLE, 2, "palisade", nobody), others);
        assert_eq!(heard(NFT_MSG_NEWRULE, NFPROTO_INET, "filter", nobody), others);
        // Addresses that come and go there are nothing to look at.
        assert_eq!(heard(NFT_MSG_NEWSETELEM, NFPROTO_INET, "f2b-table", nobody), Heard::default());
    }
}
