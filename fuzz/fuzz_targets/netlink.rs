//! Datagrams that no kernel sent: read as far as they make sense, never beyond their end.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    palisade::net::read_datagram(datagram);
});
