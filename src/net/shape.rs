//! How much a link carries: a token bucket (sch_tbf) at the end that sends.
//!
//! What goes to the service waits at the host's end, what comes from it at its own. That one is out of its reach, too: its
//! network namespace belongs to the host's user namespace. A qdisc goes with its link and is put in place of another
//! without losing what waits.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};

use super::{
    NetError, link,
    link::LinkPlan,
    netlink::{Netlink, Request},
    netns::NetNs,
};
use crate::spec::{Bandwidth, bandwidth::Bucket};

// linux/pkt_sched.h
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// With the link layer named, the kernel wants no table of transmission times.
const TC_LINKLAYER_ETHERNET: u8 = 1;
/// 1:0
const HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };

/// Bounds both directions of a link, or takes the bound away where there is none.
///
/// # Errors
/// The kernel's answer; ENOENT: it has no token bucket filter.
pub fn set(host: &mut Netlink, netns: &NetNs, plan: &LinkPlan, wanted: &Bandwidth) -> Result<(), NetError> {
    let bucket = |rate: Option<u64>| rate.map(|rate| wanted.bucket(rate, plan.mtu));
    one(host, &plan.host_if, bucket(wanted.ingress))?;
    one(&mut netns.within(Netlink::route)??, &plan.guest_if, bucket(wanted.egress))
}

fn one(socket: &mut Netlink, name: &str, bucket: Option<Bucket>) -> Result<(), NetError> {
    let index = link::index(socket, name)?;
    match bucket {
        Some(bucket) => socket.request(put(index, name, bucket)),
        None => match socket.request(take(index, name)) {
            // ENOENT or EINVAL: what the link was born with cannot be taken away.
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
            done => done,
        },
    }
}

fn put(index: u32, name: &str, bucket: Bucket) -> Request {
    let Bucket { rate, burst, limit } = bucket;
    // struct tc_tbf_qopt: two tc_ratespec (cell_log, linklayer, overhead, cell_align, mpu, rate), limit, buffer, mtu.
    let short = u32::try_from(rate).unwrap_or(u32::MAX);
    let mut parms = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    parms.extend(short.to_ne_bytes());
    parms.extend([0; 12]);
    parms.extend(limit.to_ne_bytes());
    // The bucket's size is said in bytes, below.
    parms.extend([0; 8]);
    let option = |kind, value: &[u8]| TcOption::Other(DefaultNla::new(kind, value.to_vec()));
    let mut options = vec![option(TCA_TBF_PARMS, &parms), option(TCA_TBF_BURST, &burst.to_ne_bytes())];
    if short == u32::MAX {
        options.push(option(TCA_TBF_RATE64, &rate.to_ne_bytes()));
    }
    let mut message = at_root(index);
    message.header.handle = HANDLE;
    message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options)];
    let args = format!("{name:?}, tbf, rate {rate} B/s, burst {burst}");
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    Request::new(RouteNetlinkMessage::NewQueueDiscipline(message), flags, ("RTM_NEWQDISC", args))
}

fn take(index: u32, name: &str) -> Request {
    let message = at_root(index);
    Request::new(RouteNetlinkMessage::DelQueueDiscipline(message), 0, ("RTM_DELQDISC", format!("{name:?}")))
}

fn at_root(index: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index.cast_signed();
    message.header.parent = TcHandle::ROOT;
    message
}
