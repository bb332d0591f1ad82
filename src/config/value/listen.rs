//! Where a held socket listens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Refusal;
use crate::spec::{Listen, defaults};

/// `addr:port`, `[v6]:port`, a port alone on 127.0.0.1, or the path of a Unix socket.
///
/// # Errors
/// An abstract socket, a name, port 0, a multicast address.
pub fn parse_listen(text: &str) -> Result<Listen, Refusal> {
    if text.starts_with('/') {
        // unix(7): sun_path has room for 107 bytes and the NUL, and clients name it by its path.
        return match text.len() {
            0..=107 => Ok(Listen::Unix(text.into())),
            _ => {
                Err(Refusal::new("the path of a Unix socket has at most 107 bytes")
                    .hint("write a shorter one"))
            }
        };
    }
    if text.starts_with('@') {
        let why = "an abstract Unix socket has neither owner nor mode: whoever is on the host could connect";
        return Err(Refusal::new(why).hint("write a path, such as \"/run/web/web.sock\", and its `mode`"));
    }
    if let Some((place, proto)) = text.rsplit_once('/') {
        let refusal = Refusal::new(format!("{text:?}: the kind of socket is not said here"));
        return Err(match proto {
            "udp" => refusal.hint(format!("write `listen = \"{place}\"` and `type = \"dgram\"`")),
            _ => refusal.hint(format!("write `listen = \"{place}\"`; `type` is \"stream\" by default")),
        });
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Listen::Ip((defaults::PUBLISH_ADDRESS, port(text)?).into()));
    }
    let address: SocketAddr = text.parse().map_err(|_| nowhere(text))?;
    port(&address.port().to_string())?;
    let is_hosts = match address.ip() {
        IpAddr::V4(ip) => !ip.is_multicast() && ip != Ipv4Addr::BROADCAST,
        IpAddr::V6(ip) => !ip.is_multicast() && ip.to_ipv4_mapped().is_none(),
    };
    match is_hosts {
        true => Ok(Listen::Ip(address)),
        false => Err(Refusal::new(format!("{} is not an address that a host can listen on", address.ip()))
            .hint("write an IPv4 address, or an IPv6 address in square brackets")),
    }
}

/// What is no address with a port.
fn nowhere(text: &str) -> Refusal {
    let refusal = Refusal::new(format!("{text:?} is not where a socket can listen"));
    let port = text.rsplit(':').next().unwrap_or_default();
    let is_every = text.starts_with("*:") || text.starts_with(':');
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => {
            refusal.hint(format!("an IPv6 address stands in square brackets: \"[{text}]:80\""))
        }
        Ok(IpAddr::V4(_)) => refusal.hint(format!("add the port: \"{text}:80\"")),
        Err(_) if is_every => {
            refusal.hint(format!("every address of the host is spelled out: \"0.0.0.0:{port}\""))
        }
        Err(_) => refusal.hint(
            "write \"ADDRESS:PORT\", \"[IPV6]:PORT\", a port alone for 127.0.0.1, or an absolute path; \
             names are not looked up",
        ),
    }
}

fn port(text: &str) -> Result<u16, Refusal> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Refusal::new(format!("{text:?} is not a port")).hint("ports are 1 to 65535")),
    }
}
