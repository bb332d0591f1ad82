//! Which packets pass and which do not.

use super::*;
use crate::net::conntrack::Conntrack;

const DB: u16 = 5432;

#[test]
fn a_port_published_on_loopback_answers_local_clients_who_are_seen_as_the_gateway() {
    on_a_host(|world| {
        let ports = [publish("127.0.0.1:8080:80/tcp"), publish("127.0.0.1:5353:53/udp")];
        let guest = world.guest(0, &ports);
        world.table().add(&ports.map(|port| Element::Publish(port, guest.address))).unwrap();
        let (web, dns) = (guest.tcp(80), guest.udp(53));
        assert_eq!(talk(&web, &world.host, (LOCALHOST, 8080)), GATEWAY);
        assert_eq!(ask(&dns, &world.host, (LOCALHOST, 5353)), GATEWAY);
        // Its own address works from the host too, without any port published.
        assert_eq!(talk(&web, &world.host, (guest.address, 80)), GATEWAY);
    });
}

#[test]
fn a_port_published_everywhere_answers_outside_clients_who_are_seen_as_themselves() {
    in_both(|world, at| {
        let ports = [at.publish(at.any, "8080:80/tcp"), at.publish(at.any, "5353:53/udp")];
        let guest = world.guest(0, &ports);
        let mut table = world.table();
        table.add(&ports.map(|port| Element::Publish(port, guest.address))).unwrap();
        let doors = link::doors(&mut world.socket, ports[0].address, &[at.gateway]).unwrap();
        assert_eq!(doors, ["up0"]);
        table.add(&world.open("up0")).unwrap();
        let (web, dns) = (guest.tcp(80), guest.udp(53));
        assert_eq!(talk(&web, &world.outside, (at.host, 8080)), at.outside);
        assert_eq!(ask(&dns, &world.outside, (at.host, 5353)), at.outside);
        for here in [LOCALHOST, at.host].into_iter().filter(|here| here.is_ipv6() == at.is_ipv6()) {
            assert_eq!(talk(&web, &world.host, (here, 8080)), at.gateway);
            assert_eq!(ask(&dns, &world.host, (here, 5353)), at.gateway);
        }
    });
}

#[test]
fn a_port_published_on_one_address_answers_there_alone() {
    in_both(|world, at| {
        let beside: IpAddr = if at.is_ipv6() { "2001:db8::9" } else { "192.0.2.9" }.parse().unwrap();
        let loopback = if at.is_ipv6() { Ipv6Addr::LOCALHOST.into() } else { LOCALHOST };
        run(&format!("ip addr add {beside} dev up0{}", at.now()));
        let port = at.publish(at.host, "5353:53/udp");
        let guest = world.guest(0, &[port]);
        world.table().add(&[Element::Publish(port, guest.address)]).unwrap();
        assert_eq!(link::doors(&mut world.socket, at.host, &[]).unwrap(), ["up0"]);
        world.open("up0");
        let dns = guest.udp(53);
        assert_eq!(ask(&dns, &world.outside, (at.host, 5353)), at.outside);
        for (there, client, seen) in [(beside, &world.outside, at.outside), (loopback, &world.host, loopback)]
        {
            let other = udp(&world.host, SocketAddr::new(there, 5353));
            assert_eq!(ask(&other, client, (there, 5353)), seen);
        }
    });
}

#[test]
fn a_service_reaches_neither_another_service_nor_the_host_nor_the_outside() {
    in_both(|world, at| {
        let port = at.publish(at.any, "5432:5432/udp");
        let (web, db) = (world.guest(0, &[]), world.guest(1, &[port]));
        let mut table = world.table();
        table.add(&Element::of_port(port, db.address)).unwrap();
        world.open("up0");
        let guarded = [
            db.udp(DB),
            udp(&world.host, SocketAddr::new(at.any, 53)),
            udp(&world.outside, SocketAddr::new(at.outside, 53)),
        ];
        shout(&web.netns, (db.address, DB));
        until_counted("to_service", 1);
        for (n, host) in (1..).zip([(at.host, 53), (at.gateway, 53)]) {
            shout(&web.netns, host);
            until_counted("to_host", n);
        }
        // By a port of the host it is the other service that is meant.
        for (n, host) in (2..).zip([(at.host, DB), (at.gateway, DB)]) {
            shout(&web.netns, host);
            until_counted("to_service", n);
        }
        shout(&web.netns, (at.outside, 53));
        until_counted("no_egress", 1);
        // Going out is no way to another service or to its own published port either.
        table.add(&[Element::Egress(web.address)]).unwrap();
        shout(&web.netns, (db.address, DB));
        shout(&web.netns, (at.nobody, DB));
        until_counted("to_service", 5);
        shout(&web.netns, (at.host, DB));
        until_counted("to_service", 6);
        shout(&web.netns, (at.metadata, 80));
        until_counted("to_metadata", 1);
        guarded.iter().for_each(assert_empty);
    });
}

#[test]
fn egress_goes_out_under_the_hosts_address_and_ends_when_it_is_taken_away() {
    in_both(|world, at| {
        let guest = world.guest(0, &[]);
        let mut table = world.table();
        table.add(&[Element::Egress(guest.address)]).unwrap();
        assert_eq!(link::uplinks(&mut world.socket, at.is_ipv6()).unwrap(), ["up0"]);
        world.open("up0");
        let (web, dns) = (
            tcp(&world.outside, SocketAddr::new(at.outside, 80)),
            udp(&world.outside, SocketAddr::new(at.outside, 53)),
        );
        assert_eq!(talk(&web, &guest.netns, (at.outside, 80)), at.host);
        assert_eq!(ask(&dns, &guest.netns, (at.outside, 53)), at.host);
        table.remove(&[Element::Egress(guest.address)]).unwrap();
        shout(&guest.netns, (at.outside, 53));
        until_counted("no_egress", 1);
        assert_empty(&dns);
    });
}

#[test]
fn who_may_go_to_some_places_goes_there_alone() {
    in_both(|world, at| {
        let guest = world.guest(0, &[]);
        let mut table = world.table();
        world.open("up0");
        let (web, dns) = (
            tcp(&world.outside, SocketAddr::new(at.outside, 80)),
            udp(&world.outside, SocketAddr::new(at.outside, 53)),
        );
        let to = |net: &str, door| Element::Reach(guest.address, destination(net, door));
        let (http, dns_port) = (Door::One(80, Proto::Tcp), Door::One(53, Proto::Udp));
        let (net, one, far, near) = match at.is_ipv6() {
            false => ("192.0.2.0/24", "192.0.2.2/32", "198.51.100.0/24", "192.0.1.255"),
            true => ("2001:db8::/64", "2001:db8::2/128", "2001:db8:1::/48", "2001:db7:ffff::1"),
        };
        let near: IpAddr = near.parse().unwrap();
        let all = [to(net, http), to(one, dns_port), to(far, Door::Any)];
        table.add(&all).unwrap();
        assert_eq!(talk(&web, &guest.netns, (at.outside, 80)), at.host);
        assert_eq!(ask(&dns, &guest.netns, (at.outside, 53)), at.host);
        // Another port, another protocol, another place; and still neither the host nor a service.
        for (n, other) in (1..).zip([(at.outside, 81), (at.outside, 80), (near, 53)]) {
            shout(&guest.netns, other);
            until_counted("no_egress", n);
        }
        shout(&guest.netns, (at.host, 80));
        until_counted("to_host", 1);
        table.remove(&all).unwrap();
        shout(&guest.netns, (at.outside, 53));
        until_counted("no_egress", 4);
        assert_empty(&dns);
    });
}

#[test]
fn who_may_talk_to_a_service_begins_and_the_other_answers() {
    in_both(|world, at| {
        let (web, db, other) = (world.guest(0, &[]), world.guest(1, &[]), world.guest(2, &[]));
        let mut table = world.table();
        let (sql, dns) = (tcp(&db.netns, SocketAddr::new(db.address, DB)), db.udp(53));
        let door = |from: &Guest, door| Element::Talk(Talk { from: from.address, to: db.address, door });
        let allowed = [door(&web, Door::One(DB, Proto::Tcp)), door(&web, Door::One(53, Proto::Udp))];
        table.add(&allowed).unwrap();
        assert_eq!(talk(&sql, &web.netns, (db.address, DB)), web.address, "seen under its own address");
        assert_eq!(ask(&dns, &web.netns, (db.address, 53)), web.address);
        // Another port of it, another service, and the other way round.
        let back = web.udp(DB);
        shout(&web.netns, (db.address, DB));
        until_counted("to_service", 1);
        shout(&other.netns, (db.address, 53));
        until_counted("to_service", 2);
        shout(&db.netns, (web.address, DB));
        until_counted("to_service", 3);
        assert_empty(&back);
        // A conversation that goes on rests on it too.
        let client = udp(&web.netns, SocketAddr::new(at.any, 0));
        client.connect((db.address, 53)).unwrap();
        client.send(b"?").unwrap();
        let (_, peer) = whole(|| dns.recv_from(&mut [0; 8]));
        dns.send_to(b"!", peer).unwrap();
        assert_eq!(whole(|| client.recv(&mut [0; 8])), 1);
        table.remove(&allowed[1..]).unwrap();
        let ended = Talk { from: web.address, to: db.address, door: Door::One(53, Proto::Udp) };
        assert!(Conntrack::open().unwrap().forget_talk(&[ended]).unwrap() > 0);
        client.send(b"?").unwrap();
        until_counted("to_service", 4);
        assert_empty(&dns);
        assert_eq!(talk(&sql, &web.netns, (db.address, DB)), web.address, "the rest holds");
        table.add(&[door(&other, Door::Any)]).unwrap();
        assert_eq!(talk(&sql, &other.netns, (db.address, DB)), other.address);
    });
}

/// Where bridged packets are filtered, the kernel hands what is translated to a port of the same bridge from port to port,
/// past the host's routing: the ports are isolated, so that it gets to nobody.
#[test]
fn on_a_host_that_filters_bridged_packets_nothing_more_gets_through() {
    for at in [&V4, &V6] {
        on_a_host(move |world| {
            (world.side, world.bridge) = (at, Some("apps"));
            filter_bridged(true);
            let port = at.publish(at.any, "5432:5432/udp");
            let (web, db) = (world.guest(0, &[]), world.guest(1, &[port]));
            let mut table = world.table();
            table.add(&Element::of_port(port, db.address)).unwrap();
            let server = db.udp(DB);
            shout(&web.netns, (db.address, DB));
            until_counted("to_service", 1);
            shout(&web.netns, (at.gateway, DB));
            let talk_to = Talk { from: web.address, to: db.address, door: Door::One(DB, Proto::Udp) };
            table.add(&[Element::Talk(talk_to)]).unwrap();
            assert_eq!(ask(&server, &web.netns, (db.address, DB)), web.address, "by its own address it goes");
            assert_empty(&server);
            assert_eq!(
                ask(&server, &world.host, (at.gateway, DB)),
                at.gateway,
                "and for the host by its port"
            );
        });
    }
}

#[test]
fn a_published_port_leads_services_to_whom_they_may_talk_and_to_themselves() {
    in_both(|world, at| {
        let ports = [at.publish(at.any, "8080:80/tcp"), at.publish(at.host, "5353:53/udp")];
        let (web, db) = (world.guest(0, &[]), world.guest(1, &ports));
        let mut table = world.table();
        ports.iter().for_each(|port| table.add(&Element::of_port(*port, db.address)).unwrap());
        let (http, dns) = (db.tcp(80), db.udp(53));
        shout(&web.netns, (at.host, 5353));
        until_counted("to_service", 1);
        let talk_to = |door| Element::Talk(Talk { from: web.address, to: db.address, door });
        table.add(&[talk_to(Door::One(80, Proto::Tcp)), talk_to(Door::One(53, Proto::Udp))]).unwrap();
        for there in [at.host, at.gateway] {
            assert_eq!(
                talk(&http, &web.netns, (there, 8080)),
                web.address,
                "seen as itself, not as the host"
            );
        }
        assert_eq!(ask(&dns, &web.netns, (at.host, 5353)), web.address);
        // What was allowed ends also where it came by a port of the host.
        let client = udp(&web.netns, SocketAddr::new(at.any, 0));
        client.connect((at.host, 5353)).unwrap();
        client.send(b"?").unwrap();
        let (_, peer) = whole(|| dns.recv_from(&mut [0; 8]));
        dns.send_to(b"!", peer).unwrap();
        assert_eq!(whole(|| client.recv(&mut [0; 8])), 1);
        table.remove(&[talk_to(Door::One(53, Proto::Udp))]).unwrap();
        let ended = Talk { from: web.address, to: db.address, door: Door::One(53, Proto::Udp) };
        assert!(Conntrack::open().unwrap().forget_talk(&[ended]).unwrap() > 0);
        client.send(b"?").unwrap();
        until_counted("to_service", 2);
        // Published on one address only.
        shout(&web.netns, (at.gateway, 5353));
        until_counted("to_host", 1);
        assert_eq!(talk(&http, &db.netns, (at.host, 8080)), at.gateway);
        assert_eq!(ask(&dns, &db.netns, (at.host, 5353)), at.gateway);
        assert_eq!((counted("to_service"), counted("spoofed")), (2, 0));
    });
}

#[test]
fn a_forged_source_is_dropped() {
    in_both(|world, at| {
        let (liar, other) = (world.guest(0, &[]), world.guest(1, &[]));
        let mut table = world.table();
        table.add(&[Element::Egress(liar.address), Element::Egress(other.address)]).unwrap();
        let host = udp(&world.host, SocketAddr::new(at.any, 53));
        for (n, forged) in (1..).zip([other.address, at.gateway, at.outside]) {
            run_in(&liar.netns, &format!("ip addr add {forged} dev lo{}", at.now()));
            let socket = udp(&liar.netns, SocketAddr::new(forged, 0));
            // The gateway's address is its own now, so ask for the host by another.
            socket.send_to(b"?", (at.host, 53)).unwrap();
            until_counted("spoofed", n);
        }
        assert_empty(&host);
    });
}

#[test]
fn a_service_does_not_reach_the_loopback_of_the_host() {
    on_a_host(|world| {
        let port = publish("127.0.0.1:8080:80/tcp");
        let guest = world.guest(0, &[port]);
        let _table = world.table();
        let host = udp(&world.host, SocketAddr::new(LOCALHOST, 53));
        send_loopback_over_the_wire(&guest.netns, GATEWAY);
        let liar = udp(&guest.netns, SocketAddr::new(guest.address, 0));
        liar.send_to(b"?", (LOCALHOST, 53)).unwrap();
        until_counted("to_loopback", 1);
        assert_empty(&host);
    });
}

#[test]
fn a_port_published_on_loopback_is_not_reached_from_outside() {
    on_a_host(|world| {
        let (inner, outer) = (publish("127.0.0.1:5353:53/udp"), publish("0.0.0.0:5354:54/udp"));
        let guest = world.guest(0, &[inner, outer]);
        world.table().add(&[inner, outer].map(|port| Element::Publish(port, guest.address))).unwrap();
        world.open("up0");
        let (closed, open) = (guest.udp(53), guest.udp(54));
        send_loopback_over_the_wire(&world.outside, HOST);
        let liar = udp(&world.outside, SocketAddr::new(OUTSIDE, 0));
        liar.send_to(b"?", (LOCALHOST, 5353)).unwrap();
        liar.send_to(b"?", (HOST, 5353)).unwrap();
        // The wire keeps the order: when the third has come, the first two were decided about.
        liar.send_to(b"?", (HOST, 5354)).unwrap();
        assert_eq!(whole(|| open.recv(&mut [0; 8])), 1);
        assert_empty(&closed);
    });
}

/// Makes 127.0.0.0/8 of a namespace a matter of its only neighbour.
fn send_loopback_over_the_wire(netns: &NetNs, next: IpAddr) {
    run_in(netns, "ip addr del 127.0.0.1/8 dev lo");
    netns.within(|| sysctl::set("ipv4/conf/eth0/route_localnet", "1")).unwrap().unwrap();
    run_in(netns, &format!("ip route add 127.0.0.0/8 via {next} dev eth0 onlink"));
}

#[test]
fn a_service_is_not_reached_by_its_own_address_from_outside() {
    in_both(|world, at| {
        let port = at.publish(at.any, "5353:53/udp");
        let guest = world.guest(0, &[port]);
        world.table().add(&[Element::Publish(port, guest.address)]).unwrap();
        world.open("up0");
        let dns = guest.udp(53);
        run_in(&world.outside, &format!("ip route add {} via {}", guest.address, at.host));
        shout(&world.outside, (guest.address, 53));
        until_counted("unpublished", 1);
        assert_empty(&dns);
    });
}

#[test]
fn forwarding_that_was_switched_on_for_services_routes_nothing_else() {
    in_both(|world, at| {
        let other = NetNs::create().unwrap();
        let theirs = format!("/proc/{}/fd/{}", std::process::id(), other.as_fd().as_raw_fd());
        run(&format!("ip link add lan0 type veth peer name eth0 netns {theirs}"));
        let (next, target, bits): (IpAddr, IpAddr, u8) = match at.is_ipv6() {
            false => ([198, 51, 100, 1].into(), [198, 51, 100, 2].into(), 24),
            true => ("2001:db8:1::1".parse().unwrap(), "2001:db8:1::2".parse().unwrap(), 64),
        };
        run_in(&other, &format!("ip addr add {target}/{bits} dev eth0{}", at.now()));
        run_in(&other, "ip link set eth0 up");
        if at.is_ipv6() {
            // It asks for neighbours by this one: one of the kernel's own making would come some seconds later.
            run("ip link set lan0 addrgenmode none");
            run("ip addr add fe80::1/64 dev lan0 nodad");
        }
        run(&format!("ip addr add {next}/{bits} dev lan0{}", at.now()));
        run("ip link set lan0 up");
        until("the other link has its carrier", || {
            let routes = run("ip route show table all");
            !routes.contains("linkdown") && (!at.is_ipv6() || routes.contains("local fe80::1 dev lan0"))
        });
        run_in(&other, &format!("ip route add default via {next}"));
        run_in(&world.outside, &format!("ip route add default via {}", at.host));
        let mut table = world.table();
        let (inside, outside) =
            (udp(&other, SocketAddr::new(target, 53)), udp(&world.outside, SocketAddr::new(at.outside, 53)));
        let guards = world.open("up0");
        table.add(&guards).unwrap();
        shout(&world.outside, (target, 53));
        until_counted("not_routed", 1);
        assert_empty(&inside);
        // An administrator's own forwarding is none of ours.
        table.remove(&guards).unwrap();
        world.open("lan0");
        inside.set_nonblocking(false).unwrap();
        assert_eq!(ask(&inside, &world.outside, (target, 53)), at.outside);
        assert_eq!(ask(&outside, &other, (at.outside, 53)), target);
    });
}

#[test]
fn the_services_of_two_supervisors_are_not_each_others_outside() {
    in_both(|world, at| {
        let staging = NetworkSettings {
            name: "staging".to_owned(),
            prefix4: "10.84.0.0/16".parse::<Prefix4>().unwrap(),
            prefix6: Some("fd50:5300:84::/64".parse::<Prefix6>().unwrap()),
            bridges: Default::default(),
        };
        let (local, gateway): (IpAddr, IpAddr) = match at.is_ipv6() {
            false => (LOCALHOST, [10, 84, 0, 1].into()),
            true => (at.host, "fd50:5300:84::1".parse().unwrap()),
        };
        let web = world.guest(0, &[]);
        let (mut table, mut other) = (world.table(), Table::open(&staging).unwrap());
        let production = std::mem::replace(&mut world.settings, staging);
        let port = at.publish(at.any, "5432:5432/udp");
        let db = world.guest(0, &[port]);
        world.settings = production;
        table.add(&[Element::Egress(web.address)]).unwrap();
        other.add(&[Element::Publish(port, db.address)]).unwrap();
        let server = db.udp(DB);
        assert_eq!(ask(&server, &world.host, (local, DB)), gateway);
        shout(&web.netns, (db.address, DB));
        // Both tables refuse it; which of two chains of one priority goes first is the kernel's affair.
        let refused = || counted("to_service") + counted_in("staging", "unpublished");
        until("one of the tables refuses it", || refused() == 1);
        // Nor by a port of the host that leads to one of them.
        shout(&web.netns, (at.host, DB));
        until("it is refused", || counted("to_host") + refused() == 2);
        assert_empty(&server);
    });
}

#[test]
fn a_packet_of_another_family_is_dropped_even_where_the_host_would_take_it() {
    on_a_host(|world| {
        let guest = world.guest(0, &[]);
        let _table = world.table();
        sysctl::set(&format!("ipv6/conf/{}/disable_ipv6", guest.plan.host_if), "0").unwrap();
        run(&format!("ip addr add fd00::1/64 dev {} nodad", guest.plan.host_if));
        run_in(&guest.netns, "ip addr add fd00::2/64 dev eth0 nodad");
        let mac = guest.plan.host_mac;
        run_in(&guest.netns, &format!("ip neigh add fd00::1 lladdr {mac} dev eth0 nud permanent"));
        let host = UdpSocket::bind("[fd00::1]:53").unwrap();
        let before = counted("spoofed");
        let client = guest.netns.within(|| UdpSocket::bind("[fd00::2]:0")).unwrap().unwrap();
        client.send_to(b"?", "[fd00::1]:53").unwrap();
        // Neighbour discovery of the kernel's own may be counted beside it.
        until("the packet is counted", || counted("spoofed") > before);
        assert_empty(&host);
    });
}

#[test]
fn a_udp_client_that_asked_too_early_is_heard_once_it_is_forgotten() {
    on_a_host(|world| {
        let port = publish("127.0.0.1:5353:53/udp");
        let guest = world.guest(0, &[port]);
        let (mut table, mut conntrack) = (world.table(), Conntrack::open().unwrap());
        let early = udp(&world.host, SocketAddr::new(LOCALHOST, 0));
        let nobody = udp(&world.host, SocketAddr::new(LOCALHOST, 5353));
        early.send_to(b"?", (LOCALHOST, 5353)).unwrap();
        assert_eq!(whole(|| nobody.recv(&mut [0; 8])), 1);
        // Somebody's conversation with the same port elsewhere is left alone.
        let far = udp(&world.outside, SocketAddr::new(OUTSIDE, 5353));
        ask(&far, &world.host, (OUTSIDE, 5353));
        let server = guest.udp(53);
        table.add(&[Element::Publish(port, guest.address)]).unwrap();
        assert_eq!(conntrack.forget_clients(&port).unwrap(), 1);
        early.send_to(b"?", (LOCALHOST, 5353)).unwrap();
        assert_eq!(whole(|| server.recv(&mut [0; 8])), 1);
    });
}

#[test]
fn a_udp_client_follows_its_port_from_one_service_to_the_next() {
    in_both(|world, at| {
        let here = if at.is_ipv6() { at.host } else { LOCALHOST };
        let port = at.publish(here, "5353:53/udp");
        let (one, two) = (world.guest(0, &[port]), world.guest(1, &[port]));
        let (mut table, mut conntrack) = (world.table(), Conntrack::open().unwrap());
        let client = udp(&world.host, SocketAddr::new(here, 0));
        for guest in [&one, &two] {
            let server = guest.udp(53);
            table.add(&[Element::Publish(port, guest.address)]).unwrap();
            client.send_to(b"?", (here, 5353)).unwrap();
            assert_eq!(whole(|| server.recv(&mut [0; 8])), 1);
            table.remove(&[Element::Publish(port, guest.address)]).unwrap();
            assert_eq!(conntrack.forget_service(guest.address).unwrap(), 1);
        }
    });
}

/// An ICMP error, as whoever has a raw socket in a namespace sends it to `to`: of the packet from `client` to `server` its
/// receiver wants to know nothing.
fn complain(netns: &NetNs, to: IpAddr, client: (IpAddr, u16), server: (IpAddr, u16)) {
    let mut quoted = vec![0x45, 0, 0, 36, 0, 0, 0, 0, 64, 17, 0, 0];
    for address in [client.0, server.0] {
        let IpAddr::V4(address) = address else { panic!("{address} is not IPv4") };
        quoted.extend(address.octets());
    }
    let words = [client.1, server.1, 16, 0];
    quoted.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    quoted.extend([0; 8]);
    let sum = |bytes: &[u8]| {
        let words = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        // RFC 1071: a carry is added at the other end.
        !words.fold(0u16, |sum, word| {
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    };
    let own = sum(&quoted[..20]);
    quoted[10..12].copy_from_slice(&own.to_be_bytes());
    // Destination unreachable, port unreachable.
    let mut message = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
    let all = sum(&message);
    message[2..4].copy_from_slice(&all.to_be_bytes());
    let icmp = rustix::net::ipproto::ICMP;
    let socket = netns
        .within(|| {
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::RAW, Some(icmp))
        })
        .unwrap()
        .unwrap();
    rustix::net::sendto(&socket, &message, rustix::net::SendFlags::empty(), &SocketAddr::new(to, 0)).unwrap();
}

#[test]
fn a_service_complains_of_its_own_connections_alone() {
    on_a_host(|world| {
        let port = publish("0.0.0.0:5353:53/udp");
        let (victim, liar) = (world.guest(0, &[port]), world.guest(1, &[]));
        world.open("up0");
        let mut table = world.table();
        table.add(&[Element::Publish(port, victim.address), Element::Egress(liar.address)]).unwrap();
        let server = victim.udp(53);
        let client = udp(&world.outside, SocketAddr::new(OUTSIDE, 40_000));
        client.connect((HOST, 5353)).unwrap();
        client.send(b"?").unwrap();
        let (_, peer) = whole(|| server.recv_from(&mut [0; 8]));
        server.send_to(b"!", peer).unwrap();
        assert_eq!(whole(|| client.recv(&mut [0; 8])), 1);
        let before = counted("spoofed");
        let about = ((OUTSIDE, 40_000), (victim.address, 53));
        complain(&liar.netns, OUTSIDE, about.0, about.1);
        until("the forgery is counted", || counted("spoofed") > before);
        // Of the victim itself it is believed: the same words, by the same way.
        complain(&victim.netns, OUTSIDE, about.0, about.1);
        let error = retried(|| client.recv(&mut [0; 8])).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert_eq!(counted("spoofed"), before + 1);
    });
}
