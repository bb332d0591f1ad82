use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::spec::CertDir;

fn http(hosts: &[&str], port: u16, path: &str) -> Http {
    let hosts = hosts.iter().map(|host| Host::new(host).unwrap()).collect();
    Http { hosts, port, path: WebPath::new(path).unwrap() }
}

/// A shop with an interface for programs, a page with two instances, everybody's own page, and a program of IPv6.
fn some() -> Vec<Site> {
    let services = [
        ("page@2", http(&["example.net"], 8000, "/"), Ipv4Addr::new(10, 83, 0, 10).into()),
        ("shop", http(&["shop.example.org", "example.org"], 80, "/"), Ipv4Addr::new(10, 83, 0, 2).into()),
        (
            "api",
            http(&["shop.example.org", "api.example.org"], 3000, "/api"),
            Ipv4Addr::new(10, 83, 0, 3).into(),
        ),
        ("beta", http(&["shop.example.org"], 3000, "/api/beta"), Ipv4Addr::new(10, 83, 0, 4).into()),
        ("page@10", http(&["example.net"], 8000, "/"), Ipv4Addr::new(10, 83, 0, 11).into()),
        ("homes", http(&["*.home.example.org"], 80, "/"), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5).into()),
    ];
    let named =
        services.map(|(name, http, address): (_, _, IpAddr)| (UnitName::new(name).unwrap(), http, address));
    let mut order: Vec<_> = named.iter().map(|(name, http, address)| (name, http, *address)).collect();
    let forwards = sites(order.clone());
    order.reverse();
    assert_eq!(sites(order), forwards, "whatever the order");
    forwards
}

fn entrance(format: Format, tls: &Tls) -> Entrance<'_> {
    Entrance { format, tls, ipv6: false }
}

#[test]
fn the_texts_are_as_they_were_reviewed() {
    let certificates = Tls::Dir(CertDir::new("/etc/certificates").unwrap());
    for (name, format, tls) in [
        ("nginx", Format::Nginx, &Tls::Off),
        ("nginx_tls", Format::Nginx, &certificates),
        ("caddy", Format::Caddy, &Tls::Off),
        ("caddy_auto", Format::Caddy, &Tls::Auto),
        ("caddy_tls", Format::Caddy, &certificates),
    ] {
        insta::assert_snapshot!(name, text(entrance(format, tls), &some()));
    }
}

#[test]
fn without_a_host_nobody_is_answered() {
    for format in [Format::Nginx, Format::Caddy] {
        let text = text(entrance(format, &Tls::Off), &[]);
        assert!(text.contains("421") && !text.contains("proxy_pass"), "{text}");
    }
}

#[test]
fn over_ipv6_it_listens_as_well() {
    let text = text(Entrance { format: Format::Nginx, tls: &Tls::Off, ipv6: true }, &some());
    assert_eq!(text.matches("listen 80").count(), text.matches("listen [::]:80").count());
}

/// What comes from the control socket is not believed either.
#[test]
fn what_would_need_quotes_is_no_site() {
    let json = |host: &str, path: &str| format!(r#"{{"host":"{host}","path":"{path}","backends":[]}}"#);
    assert!(serde_json::from_str::<Site>(&json("a.example", "/b")).is_ok());
    for (host, path) in [("a.example; x", "/"), ("a.example", "/ {"), ("a\\nb", "/"), ("a.example", "/a;b")] {
        assert!(serde_json::from_str::<Site>(&json(host, path)).is_err(), "{host} {path}");
    }
}
