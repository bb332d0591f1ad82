//! How long to wait before a restart. Pure: the same policy, seed and count give the same delay on every machine.
//!
//! # The formula
//! For the `n`-th automatic restart in a row (`n` = 1 is the first), with times in milliseconds as IEEE 754 doubles:
//! ```text
//! d = delay; repeat n-1 times: d = d * factor           (a product at a time, not a power)
//! d = min(d, max_delay)
//! u = (splitmix64(seed, n) >> 11) * 2^-53               0 <= u < 1
//! delay(n) = round(d * (1 + jitter * (2*u - 1)))        halves away from zero
//!
//! splitmix64(seed, n):  z = seed + n * 0x9E3779B97F4A7C15        the n-th output of SplitMix64, mod 2^64
//!                       z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
//!                       z = (z ^ (z >> 27)) * 0x94D049BB133111EB
//!                       z ^ (z >> 31)
//! seed(fleet, name):    h = 0xCBF29CE484222325 ^ fleet; for each byte b of name: h = (h ^ b) * 0x100000001B3
//! ```
//! So `max_delay` bounds the delay before jitter: the longest wait is `max_delay * (1 + jitter)`.

use std::time::Duration;

use super::policy::Policy;

/// The service's own seed, so that services that fail together do not come back together (64-bit FNV-1a).
pub fn seed(fleet: u64, name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325 ^ fleet, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// The delay before automatic restart number `failures`, in whole milliseconds; see the formula above.
pub fn delay(policy: &Policy, seed: u64, failures: u32) -> Duration {
    let max = millis(policy.max_delay);
    let mut grown = millis(policy.delay);
    for _ in 1..failures {
        let next = grown * policy.factor;
        // A factor of 1, zero, or beyond the bound for good: more rounds change nothing.
        if next == grown || (next >= max && policy.factor >= 1.0) {
            grown = next;
            break;
        }
        grown = next;
    }
    let varied = grown.min(max) * (1.0 + policy.jitter * (2.0 * unit(seed, failures) - 1.0));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates at both ends"
    )]
    let whole = varied.round() as u64;
    Duration::from_millis(whole)
}

fn millis(span: Duration) -> f64 {
    span.as_millis() as f64
}

/// The `n`-th output of SplitMix64 as a number in [0, 1).
pub(super) fn unit(seed: u64, n: u32) -> f64 {
    let mut z = seed.wrapping_add(u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    (z >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fleet::sample;

    fn policy() -> Policy {
        Policy { delay: Duration::from_millis(200), ..sample::policy() }
    }

    #[test]
    fn delays_double_from_the_first_up_to_the_bound() {
        let all: Vec<u128> = (1..=11).map(|n| delay(&policy(), 7, n).as_millis()).collect();
        assert_eq!(all, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]);
    }

    /// The first outputs of SplitMix64 for seed 1234567 are those that every published implementation gives.
    #[test]
    fn the_generator_is_splitmix64() {
        let published: [u64; 3] = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        for (n, value) in (1..).zip(published) {
            assert_eq!(unit(1_234_567, n), (value >> 11) as f64 / (1_u64 << 53) as f64);
        }
    }

    /// FNV-1a's own test vectors.
    #[test]
    fn the_seed_is_fnv1a_of_the_name() {
        assert_eq!(seed(0, ""), 0xCBF2_9CE4_8422_2325);
        assert_eq!(seed(0, "a"), 0xAF63_DC4C_8601_EC8C);
        assert_eq!(seed(0, "foobar"), 0x8594_4171_F739_67E8);
        assert_ne!(seed(1, "foobar"), seed(0, "foobar"));
    }

    #[test]
    fn a_factor_of_one_and_a_huge_count_end_at_once() {
        let flat = Policy { factor: 1.0, ..policy() };
        assert_eq!(delay(&flat, 7, u32::MAX), Duration::from_millis(200));
        assert_eq!(delay(&policy(), 7, u32::MAX), Duration::from_secs(60));
    }

    #[test]
    fn an_infinite_bound_does_not_overflow() {
        let endless = Policy { max_delay: Duration::MAX, jitter: 1.0, ..policy() };
        assert_eq!(
            crate::machine::Mono(5).after(delay(&endless, 7, u32::MAX)),
            crate::machine::Mono(u64::MAX)
        );
    }
}
