//! `network.bandwidth`: how much a link carries.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `network.bandwidth`. The kernel counts whole frames, the 14 bytes of their Ethernet header included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Bytes a second towards the service.
    pub ingress: Option<u64>,
    /// Bytes a second from the service.
    pub egress: Option<u64>,
    /// Bytes that may go at once after a pause; none: what suits the rate.
    pub burst: Option<u32>,
}

/// Below this a handshake would take seconds, and the kernel's arithmetic loses what is left: 8 Kbit/s.
pub const LEAST_RATE: u64 = 1_000;
/// More than anybody has in one pause, and well within the kernel's 32 bits.
pub const MOST_BURST: u64 = 1 << 30;
/// What a link carries in one frame, where its file does not say.
const USUAL_MTU: u32 = 1_500;
/// Of an Ethernet header.
const HEADER: u32 = 14;

impl Bandwidth {
    /// Nothing is bounded.
    pub fn is_unbounded(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }

    /// The bucket of one direction of a link with this MTU.
    pub fn bucket(&self, rate: u64, mtu: Option<u32>) -> Bucket {
        let burst = self.burst.unwrap_or_else(|| usual_burst(rate)).max(least_burst(mtu));
        // What does not fit into the bucket waits: a tenth of a second's worth, and room for one large segment at least.
        let queue = (rate / 10).max(64 << 10);
        let limit = u32::try_from(u64::from(burst) + queue).unwrap_or(u32::MAX);
        Bucket { rate, burst, limit }
    }
}

/// The frame that a bucket must hold: a larger one would never pass.
pub fn least_burst(mtu: Option<u32>) -> u32 {
    mtu.unwrap_or(USUAL_MTU).saturating_add(HEADER)
}

/// What comes in a hundredth of a second, the coarsest tick that a kernel has, or ten frames, whichever is more.
fn usual_burst(rate: u64) -> u32 {
    u32::try_from((rate / 100).clamp(16 << 10, MOST_BURST)).unwrap_or(u32::MAX)
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [("ingress", self.ingress), ("egress", self.egress)];
        let words = words.into_iter().filter_map(|(key, rate)| Some(format!("{key}={}B/s", rate?)));
        let burst = self.burst.map(|burst| format!("burst={burst}"));
        f.write_str(&words.chain(burst).collect::<Vec<_>>().join(" "))
    }
}

/// The token bucket of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Bytes that it gets every second.
    pub rate: u64,
    /// Bytes that it holds.
    pub burst: u32,
    /// Bytes that may wait for it.
    pub limit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_a_frame_and_what_a_tick_brings() {
        let of = |rate, burst, mtu| Bandwidth { burst, ..Bandwidth::default() }.bucket(rate, mtu);
        // 8 Kbit/s, 20 Mbit/s, 10 Gbit/s.
        assert_eq!(of(1_000, None, None), Bucket { rate: 1_000, burst: 16_384, limit: 16_384 + 65_536 });
        assert_eq!(of(2_500_000, None, None).burst, 25_000);
        assert_eq!(
            of(1_250_000_000, None, None),
            Bucket { rate: 1_250_000_000, burst: 12_500_000, limit: 137_500_000 }
        );
        assert_eq!(of(1_000, None, Some(65_535)).burst, 65_549);
        assert_eq!(of(1_000, Some(65_536), None).burst, 65_536);
        assert_eq!(of(u64::MAX, None, None), Bucket { rate: u64::MAX, burst: 1 << 30, limit: u32::MAX });
    }
}
