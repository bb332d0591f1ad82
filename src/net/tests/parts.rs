//! Each part by itself: namespaces, links, the table, sockets, ports.

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use super::*;
use crate::net::{
    NetError,
    link::Pair6,
    nft::{self, Damage},
    reserve::reserve,
    sockdiag,
    watch::{Heard, Watch},
};

#[test]
fn the_text_of_the_table_is_as_it_was_reviewed() {
    insta::assert_snapshot!(nft::text(&NetworkSettings::default(), nft::Refusals::Told));
}

#[test]
fn a_new_namespace_has_loopback_alone_and_low_ports_for_everybody() {
    on_a_host(|world| {
        let netns = NetNs::create().unwrap();
        let links = json(&netns, "ip -j addr");
        assert_eq!(links.as_array().unwrap().len(), 1);
        assert_eq!(links[0]["ifname"], "lo");
        assert!(links[0]["flags"].to_string().contains("\"UP\""));
        let start = netns.within(|| sysctl::get("ipv4/ip_unprivileged_port_start")).unwrap().unwrap();
        assert_eq!(start, "0");
        // The thread is back where it was.
        assert!(run("ip -o link").contains("up0"));
        assert_ne!(inode(&netns), inode(&world.host));
        assert_eq!(inode(&NetNs::own().unwrap()), inode(&world.host));
    });
}

#[test]
fn a_panic_inside_a_namespace_still_comes_back() {
    on_a_host(|world| {
        let netns = NetNs::create().unwrap();
        let inside = std::panic::AssertUnwindSafe(|| netns.within(|| panic!("inside")));
        assert!(std::panic::catch_unwind(inside).is_err());
        assert_eq!(inode(&NetNs::own().unwrap()), inode(&world.host));
    });
}

#[test]
fn the_namespace_of_a_process_is_found_by_its_pidfd_and_nothing_else_passes_for_one() {
    on_a_host(|world| {
        let netns = NetNs::create().unwrap();
        let mut child = netns.within(|| Command::new("sleep").arg("1000").spawn()).unwrap().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let found = NetNs::of_pid(pidfd.as_fd());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(inode(&found.unwrap()), inode(&netns));
        assert_eq!(NetNs::of_pid(pidfd.as_fd()).unwrap_err().errno, libc::ESRCH);
        let kept = NetNs::from_fd(netns.try_clone().unwrap().into_fd()).unwrap();
        assert_eq!(inode(&kept), inode(&netns));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(NetNs::from_fd(file.into()).unwrap_err().errno, libc::EINVAL);
        assert_eq!(inode(&NetNs::own().unwrap()), inode(&world.host));
    });
}

fn inode(netns: &NetNs) -> u64 {
    rustix::fs::fstat(netns).unwrap().st_ino
}

#[test]
fn a_link_is_complete_on_both_ends() {
    on_a_host(|world| {
        let plan =
            LinkPlan::new(&world.settings, (5, 2), Some(1400), &[publish("127.0.0.1:1:1/tcp")]).unwrap();
        let netns = NetNs::create().unwrap();
        link::create(&mut world.socket, &netns, &plan).unwrap();
        let guest = json(&netns, "ip -j addr show dev eth0");
        assert_eq!(guest[0]["address"], plan.guest_mac.to_string());
        assert_eq!(guest[0]["mtu"], 1400);
        let addresses = guest[0]["addr_info"].as_array().unwrap();
        assert_eq!(addresses.len(), 2, "no link-local address: {addresses:?}");
        assert_eq!((&addresses[0]["local"], &addresses[0]["prefixlen"]), (&"10.83.0.7".into(), &32.into()));
        assert_eq!(
            (&addresses[1]["local"], &addresses[1]["prefixlen"]),
            (&"fd50:5300::7".into(), &128.into())
        );
        assert_eq!(addresses[1]["tentative"], serde_json::Value::Null, "nobody waits for an objection");
        let route = json(&netns, "ip -j route");
        assert_eq!((&route[0]["dst"], &route[0]["gateway"]), (&"default".into(), &"10.83.0.1".into()));
        let neighbours = json(&netns, "ip -j neigh");
        let route = json(&netns, "ip -j -6 route show default");
        assert_eq!(route[0]["gateway"], "fd50:5300::1");
        assert_eq!(neighbours.as_array().unwrap().len(), 2);
        for neighbour in neighbours.as_array().unwrap() {
            assert_eq!(neighbour["lladdr"], plan.host_mac.to_string());
            assert_eq!(neighbour["state"][0], "PERMANENT");
        }

        let host = json(&world.host, &format!("ip -j addr show dev {}", plan.host_if));
        assert_eq!(host[0]["address"], plan.host_mac.to_string());
        assert_eq!(host[0]["mtu"], 1400);
        assert_eq!(host[0]["addr_info"].as_array().unwrap().len(), 2);
        assert_eq!(host[0]["addr_info"][0]["local"], "10.83.0.1");
        assert_eq!(host[0]["addr_info"][1]["local"], "fd50:5300::1");
        let route = json(&world.host, &format!("ip -j route show dev {}", plan.host_if));
        assert_eq!((&route[0]["dst"], &route[0]["prefsrc"]), (&"10.83.0.7".into(), &"10.83.0.1".into()));
        let route = json(&world.host, &format!("ip -j -6 route show dev {} fd50:5300::7", plan.host_if));
        assert_eq!(route[0]["prefsrc"], "fd50:5300::1");
        let neighbours = json(&world.host, &format!("ip -j neigh show dev {}", plan.host_if));
        for n in [0, 1] {
            assert_eq!(neighbours[n]["state"][0], "PERMANENT");
        }
        for (key, value) in
            [("forwarding", "1"), ("rp_filter", "1"), ("route_localnet", "1"), ("send_redirects", "0")]
        {
            assert_eq!(sysctl::get(&format!("ipv4/conf/{}/{key}", plan.host_if)).unwrap(), value, "{key}");
        }
        for (key, value) in [("accept_ra", "0"), ("accept_redirects", "0"), ("addr_gen_mode", "1")] {
            assert_eq!(sysctl::get(&format!("ipv6/conf/{}/{key}", plan.host_if)).unwrap(), value, "{key}");
        }
        assert_eq!(sysctl::get("ipv4/ip_forward").unwrap(), "0", "the global switch is not ours");
        assert_eq!(sysctl::get("ipv6/conf/all/forwarding").unwrap(), "0", "nor is this");
    });
}

#[test]
fn a_port_of_a_bridge_is_nobodys_neighbour() {
    on_a_host(|world| {
        world.bridge = Some("apps");
        let name = world.settings.bridge_if("apps");
        let (web, db) = (world.guest(5, &[publish("127.0.0.1:1:1/tcp")]), world.guest(6, &[]));
        let bridge = &json(&world.host, &format!("ip -j -d addr show dev {name}"))[0];
        assert_eq!(bridge["address"], "02:51:0a:53:00:01");
        let addresses: Vec<&str> =
            bridge["addr_info"].as_array().unwrap().iter().filter_map(|one| one["local"].as_str()).collect();
        assert_eq!(addresses, ["10.83.0.1", "fd50:5300::1"], "none of the kernel's own");
        let data = &bridge["linkinfo"]["info_data"];
        assert_eq!((&data["forward_delay"], &data["mcast_snooping"]), (&0.into(), &0.into()));
        for (key, value) in [("forwarding", "1"), ("route_localnet", "1"), ("proxy_arp", "0")] {
            assert_eq!(sysctl::get(&format!("ipv4/conf/{name}/{key}")).unwrap(), value, "{key}");
        }
        for guest in [&web, &db] {
            let port = &json(&world.host, &format!("ip -j -d addr show dev {}", guest.plan.host_if))[0];
            assert_eq!((&port["master"], &port["operstate"]), (&name.as_str().into(), &"UP".into()));
            assert_eq!(port["addr_info"].as_array().unwrap().len(), 0);
            let data = &port["linkinfo"]["info_slave_data"];
            for (key, value) in [
                ("isolated", true),
                ("locked", true),
                ("learning", false),
                ("flood", false),
                ("mcast_flood", false),
                ("bcast_flood", false),
            ] {
                assert_eq!(data[key], value, "{key}");
            }
            assert_eq!(data["state"], "forwarding");
            let entries = json(&world.host, &format!("bridge -j fdb show brport {}", guest.plan.host_if));
            let entry = entries.as_array().unwrap().iter().find(|one| one["state"] == "static").unwrap();
            assert_eq!(entry["mac"], guest.plan.guest_mac.to_string());
            let neighbour = &json(&guest.netns, "ip -j -4 neigh")[0];
            assert_eq!(
                (&neighbour["lladdr"], &neighbour["state"][0]),
                (&bridge["address"], &"PERMANENT".into())
            );
        }
        // Another one with that hardware address would take its packets.
        let plan = LinkPlan { guest_mac: web.plan.guest_mac, host_if: "other".to_owned(), ..db.plan.clone() };
        let error = link::create(&mut world.socket, &NetNs::create().unwrap(), &plan).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EEXIST), "{error}");
        assert!(!run("ip -o link").contains("other"));

        let ways = || run(&format!("ip route show dev {name}")).lines().count();
        let neighbours = || run(&format!("ip neigh show dev {name}")).lines().count();
        assert_eq!((ways(), neighbours()), (2, 4));
        bridge::unplug(&mut world.socket, &name, &web.plan).unwrap();
        bridge::unplug(&mut world.socket, &name, &web.plan).unwrap();
        assert_eq!((ways(), neighbours()), (1, 2));
        // Who has its address next has its place at once, though the kernel has not yet taken the port away.
        let plan = LinkPlan { host_if: "next".to_owned(), ..web.plan.clone() };
        link::create(&mut world.socket, &NetNs::create().unwrap(), &plan).unwrap();
        bridge::settle(&mut world.socket, &name, &[&db.plan]).unwrap();
        assert_eq!((ways(), neighbours()), (1, 2), "what a predecessor left is gone");
    });
}

#[test]
fn a_link_without_ipv6_has_none() {
    on_a_host(|world| {
        let plan = LinkPlan { v6: None, ..LinkPlan::new(&world.settings, (5, 2), None, &[]).unwrap() };
        let netns = NetNs::create().unwrap();
        link::create(&mut world.socket, &netns, &plan).unwrap();
        assert_eq!(json(&netns, "ip -j -6 addr show dev eth0").as_array().unwrap().len(), 0);
        assert_eq!(sysctl::get(&format!("ipv6/conf/{}/disable_ipv6", plan.host_if)).unwrap(), "1");
        // One that a host's settings have switched off is on where it is wanted.
        sysctl::set("ipv6/conf/default/disable_ipv6", "1").unwrap();
        let plan = LinkPlan::new(&world.settings, (6, 2), None, &[]).unwrap();
        assert!(matches!(plan.v6, Some(Pair6 { .. })));
        let netns = NetNs::create().unwrap();
        link::create(&mut world.socket, &netns, &plan).unwrap();
        assert_eq!(sysctl::get(&format!("ipv6/conf/{}/disable_ipv6", plan.host_if)).unwrap(), "0");
    });
}

#[test]
fn route_localnet_is_off_without_a_port_on_loopback() {
    on_a_host(|world| {
        let guest = world.guest(0, &[publish("192.0.2.1:80:80/tcp")]);
        assert_eq!(sysctl::get(&format!("ipv4/conf/{}/route_localnet", guest.plan.host_if)).unwrap(), "0");
    });
}

#[test]
fn a_link_that_fails_at_any_message_leaves_nothing_and_says_which() {
    on_a_host(|world| {
        let routes = || run("ip route show table all");
        let before = (link_names(), routes());
        let plan = LinkPlan::new(&world.settings, (0, 0), None, &[]).unwrap();
        let said = |world: &mut World, netns: &NetNs, plan: &LinkPlan| {
            link::create(&mut world.socket, netns, plan).unwrap_err().to_string()
        };
        let fresh = || NetNs::create().unwrap();

        let tiny = LinkPlan { mtu: Some(1), ..plan.clone() };
        let text = said(world, &fresh(), &tiny);
        assert!(text.starts_with("RTM_NEWLINK(\"ps"), "{text}");

        let taken = fresh();
        run_in(&taken, "ip link add eth0 type veth peer name eth1");
        let text = said(world, &taken, &plan);
        assert!(text.contains("EEXIST"), "{text}");

        let routed = fresh();
        run_in(&routed, "ip route add default dev lo");
        let text = said(world, &routed, &plan);
        assert!(text.starts_with("RTM_NEWROUTE(default, via 10.83.0.1, \"eth0\"): EEXIST"), "{text}");

        assert_eq!((link_names(), routes()), before);
        // It stands for as long as its namespace does.
        let first = fresh();
        link::create(&mut world.socket, &first, &plan).unwrap();
        let text = said(world, &fresh(), &plan);
        assert!(text.contains("EEXIST"), "{text}");
        assert!(run("ip -o link").contains(&plan.host_if), "somebody else's link of that name stays");
        drop(first);
    });
}

#[test]
fn links_go_one_by_one_or_by_group_and_going_twice_is_no_error() {
    on_a_host(|world| {
        let group = world.settings.group();
        let guests: Vec<Guest> = (0..3).map(|slot| world.guest(slot, &[])).collect();
        let names = |world: &mut World| link::list_group(&mut world.socket, group).unwrap();
        assert_eq!(names(world).len(), 3);
        link::remove(&mut world.socket, &guests[0].plan.host_if).unwrap();
        link::remove(&mut world.socket, &guests[0].plan.host_if).unwrap();
        assert_eq!(names(world), [guests[1].plan.host_if.clone(), guests[2].plan.host_if.clone()]);
        link::remove_group(&mut world.socket, group).unwrap();
        link::remove_group(&mut world.socket, group).unwrap();
        assert_eq!(names(world), Vec::<String>::new());
        assert_eq!(link::remove_group(&mut world.socket, 0).unwrap_err().errno(), Some(libc::EINVAL));
        assert!(run("ip -o link").contains("up0"));
    });
}

#[test]
fn elements_come_and_go_all_or_none_and_twice_is_once() {
    on_a_host(|world| {
        let mut table = world.table();
        let to = IpAddr::from([10, 83, 0, 2]);
        let all = [
            Element::Publish(publish("127.0.0.1:8080:80/tcp"), to),
            Element::Publish(publish("0.0.0.0:53:5353/udp"), to),
            Element::Egress(to),
            Element::Opened("up0".to_owned()),
            Element::Reach(to, destination("10.0.0.0/8", Door::One(443, Proto::Tcp))),
            Element::Reach(to, destination("192.0.2.1/32", Door::Any)),
            Element::Talk(Talk { from: to, to: GATEWAY, door: Door::One(53, Proto::Udp) }),
            Element::Talk(Talk { from: to, to: GATEWAY, door: Door::Any }),
            Element::Routed6,
            Element::Opened6("up0".to_owned()),
        ];
        let (to6, beside) = (world.settings.addresses(0)[1], V6.host);
        let all6 = [
            Element::Publish(publish("[2001:db8::1]:8080:80/tcp"), to6),
            Element::Publish(publish("[::]:53:5353/udp"), to6),
            Element::Egress(to6),
            Element::Reach(to6, destination("2001:db8::/32", Door::One(443, Proto::Tcp))),
            Element::Reach(to6, destination("2001:db8::1/128", Door::Any)),
            Element::Talk(Talk { from: to6, to: beside, door: Door::One(53, Proto::Udp) }),
            Element::Talk(Talk { from: to6, to: beside, door: Door::Any }),
        ];
        table.add(&all).unwrap();
        table.add(&all).unwrap();
        table.add(&all6).unwrap();
        for (set, element) in [
            ("exact6", r#"[{"concat":["2001:db8::1","tcp",8080]},{"concat":["fd50:5300::2",80]}]"#),
            ("wildcard6", r#"[{"concat":["udp",53]},{"concat":["fd50:5300::2",5353]}]"#),
            ("egress6", r#""fd50:5300::2""#),
            ("reach6", r#"{"concat":["fd50:5300::2",{"prefix":{"addr":"2001:db8::","len":32}},"tcp",443]}"#),
            ("reach_any6", r#"{"concat":["fd50:5300::2","2001:db8::1"]}"#),
            ("talk6", r#"{"concat":["fd50:5300::2","2001:db8::1","udp",53]}"#),
            ("talk_any6", r#"{"concat":["fd50:5300::2","2001:db8::1"]}"#),
            ("routed6", r#""ipv6""#),
            ("opened6", r#""up0""#),
        ] {
            assert_eq!(elements("palisade", set), [element], "{set}");
        }
        let exact = r#"[{"concat":["127.0.0.1","tcp",8080]},{"concat":["10.83.0.2",80]}]"#;
        assert_eq!(elements("palisade", "exact"), [exact]);
        assert_eq!(
            elements("palisade", "wildcard"),
            [r#"[{"concat":["udp",53]},{"concat":["10.83.0.2",5353]}]"#]
        );
        assert_eq!(elements("palisade", "egress"), [r#""10.83.0.2""#]);
        assert_eq!(elements("palisade", "opened"), [r#""up0""#]);
        let reach = r#"{"concat":["10.83.0.2",{"prefix":{"addr":"10.0.0.0","len":8}},"tcp",443]}"#;
        assert_eq!(elements("palisade", "reach"), [reach]);
        assert_eq!(elements("palisade", "reach_any"), [r#"{"concat":["10.83.0.2","192.0.2.1"]}"#]);
        assert_eq!(elements("palisade", "talk"), [r#"{"concat":["10.83.0.2","10.83.0.1","udp",53]}"#]);
        assert_eq!(elements("palisade", "talk_any"), [r#"{"concat":["10.83.0.2","10.83.0.1"]}"#]);

        let thief = Element::Publish(publish("127.0.0.1:8080:80/tcp"), IpAddr::from([10, 83, 0, 3]));
        let error = table.add(&[Element::Egress(IpAddr::from([10, 83, 0, 3])), thief]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("nft(table inet palisade, 127.0.0.1:8080/tcp to 10.83.0.3:80): E"),
            "{text}"
        );
        assert_eq!(elements("palisade", "egress"), [r#""10.83.0.2""#], "all or none");

        // A second supervisor life loads the rules again and finds the elements.
        let mut table = world.table();
        assert_eq!(elements("palisade", "exact"), [exact]);
        table.remove(&all[1..3]).unwrap();
        table.remove(&all).unwrap();
        table.remove(&all).unwrap();
        table.remove(&all6).unwrap();
        let pairs = ["exact", "wildcard", "egress", "opened", "reach", "reach_any", "talk", "talk_any"];
        let sets = pairs.iter().flat_map(|set| [(*set).to_owned(), format!("{set}6")]);
        for set in sets.chain(["routed6".to_owned()]) {
            let set = set.as_str();
            assert_eq!(elements("palisade", set), Vec::<String>::new(), "{set}");
        }
    });
}

#[test]
fn whatever_has_aged_is_no_trouble_however_much_it_is() {
    on_a_host(|world| {
        let mut table = world.table();
        let own = world.settings.addresses(0)[0];
        let place = |n: u32| IpAddr::from(Ipv4Addr::from_bits(0xc000_0200 + n));
        let named: Vec<Element> = (0..1000)
            .map(|n| Element::Named(own, place(n), Door::One(443, Proto::Tcp), Duration::from_secs(600)))
            .collect();
        table.add(&named).unwrap();
        run("nft flush set inet palisade named");
        table.add(&named[..1]).unwrap();
        table.remove_aged(&named).unwrap();
        assert_eq!(elements("palisade", "named"), Vec::<String>::new());
        // Missing ones, and one that is there, in a single transaction.
        table.add(&[Element::Egress(own)]).unwrap();
        let some: Vec<Element> = named[..100].iter().cloned().chain([Element::Egress(own)]).collect();
        table.remove(&some).unwrap();
        assert_eq!(elements("palisade", "egress"), Vec::<String>::new());
    });
}

#[test]
fn replacing_states_what_holds_whatever_held_before() {
    on_a_host(|world| {
        let mut table = world.table();
        let address = |n: u32| IpAddr::from(world.settings.prefix4.address(n).unwrap());
        let port = publish("127.0.0.1:80:80/tcp");
        table.add(&[Element::Publish(port, address(0)), Element::Egress(address(0))]).unwrap();
        table.replace(&[Element::Publish(port, address(1))]).unwrap();
        assert_eq!(
            elements("palisade", "exact"),
            [r#"[{"concat":["127.0.0.1","tcp",80]},{"concat":["10.83.0.3",80]}]"#]
        );
        assert_eq!(elements("palisade", "egress"), Vec::<String>::new());
        // As many as a full host has, in one batch.
        let many: Vec<Element> = (0..5000).map(|n| Element::Egress(address(n))).collect();
        table.replace(&many).unwrap();
        assert_eq!(elements("palisade", "egress").len(), 5000);
        table.remove(&many).unwrap();
        assert_eq!(elements("palisade", "egress"), Vec::<String>::new());
    });
}

#[test]
fn two_tables_live_side_by_side_and_each_goes_without_a_trace() {
    on_a_host(|world| {
        let staging = NetworkSettings {
            name: "staging".to_owned(),
            prefix4: "10.84.0.0/16".parse::<Prefix4>().unwrap(),
            prefix6: None,
            bridges: Default::default(),
        };
        let (mut one, mut two) = (world.table(), Table::open(&staging).unwrap());
        let port = publish("127.0.0.1:80:80/tcp");
        let (a, b) = (world.settings.addresses(0)[0], staging.addresses(0)[0]);
        one.add(&[Element::Publish(port, a)]).unwrap();
        two.add(&[Element::Publish(port, b)]).unwrap();
        assert_ne!(elements("palisade", "exact"), elements("staging", "exact"));
        one.delete().unwrap();
        assert_eq!(run("nft list tables"), "table inet staging\n");
        run("nft delete table inet staging");
        // A table that somebody has removed: adding says so, removing is content.
        let gone = two.add(&[Element::Egress(b)]).unwrap_err();
        assert_eq!(gone.errno(), Some(libc::ENOENT), "{gone}");
        two.remove(&[Element::Egress(b)]).unwrap();
        two.delete().unwrap();
        assert_eq!(run("nft list ruleset"), "");
    });
}

#[test]
fn what_we_change_is_no_damage_however_much_it_is_and_what_others_change_is() {
    on_a_host(|world| {
        let mut watch = Watch::open(&world.settings.name).unwrap();
        let mut table = world.table();
        let mut hear = |table: &mut Table| {
            let mut all = Heard::default();
            // More than is read at a time.
            for _ in 0..100 {
                let heard = watch.hear(table).unwrap();
                all = Heard { damage: all.damage.max(heard.damage), others: all.others | heard.others };
            }
            all
        };
        let many: Vec<Element> =
            (0..20_000).map(|n| Element::Egress(world.settings.prefix4.address(n).unwrap().into())).collect();
        table.replace(&many).unwrap();
        table.mend(Damage::Foreign, &many).unwrap();
        table.mend(Damage::Part, &many).unwrap();
        assert_eq!(hear(&mut table), Heard::default());
        run("nft add table inet theirs");
        assert_eq!(hear(&mut table), Heard { damage: None, others: true });
        run("nft flush set inet palisade egress");
        assert_eq!(hear(&mut table).damage, Some(Damage::Part));
        run("nft add set inet palisade theirs { type mark ; }");
        assert_eq!(hear(&mut table).damage, Some(Damage::Foreign));
        assert!(table.has_foreign().unwrap());
        run("nft flush ruleset");
        assert_eq!(hear(&mut table), Heard { damage: Some(Damage::Part), others: true });
        table.mend(Damage::Part, &many).unwrap();
        assert!(!table.has_foreign().unwrap());
        assert_eq!(hear(&mut table), Heard::default());
    });
}

#[test]
fn a_table_that_nft_refuses_is_an_error_with_its_words() {
    on_a_host(|world| {
        run("nft add table inet palisade");
        run("nft add chain inet palisade pinned { type filter hook input priority 0 ; }");
        let error = Table::open(&world.settings).unwrap_err();
        assert!(
            matches!(&error, NetError::NftText { table, text } if table == "palisade" && text.contains("chain pinned")),
            "{error}"
        );
    });
}

/// A server as many are: without SO_REUSEADDR, which std always sets.
fn plain_listener(netns: &NetNs, at: SocketAddr) -> Result<TcpListener, rustix::io::Errno> {
    netns
        .within(|| {
            let fd = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            bind(&fd, &at)?;
            listen(&fd, 8)?;
            Ok(TcpListener::from(fd))
        })
        .unwrap()
}

#[test]
fn a_server_without_reuseaddr_binds_again_while_a_client_holds_its_connection() {
    on_a_host(|world| {
        let guest = world.guest(0, &[]);
        let at = SocketAddr::new(guest.address, 5432);
        let server = plain_listener(&guest.netns, at).unwrap();
        let connect = || TcpStream::connect_timeout(&at, PATIENCE).unwrap();
        let mut held = connect();
        let (accepted, _) = server.accept().unwrap();
        // Another that the server has closed first and the client has answered: TIME_WAIT.
        let mut ended = connect();
        let (closing, _) = server.accept().unwrap();
        drop(closing);
        assert_eq!(ended.read(&mut [0; 8]).unwrap(), 0);
        drop(ended);
        drop((accepted, server));
        assert_eq!(plain_listener(&guest.netns, at).unwrap_err(), rustix::io::Errno::ADDRINUSE);

        // More than once only because a process that another test starts has copies of descriptors until it executes.
        let destroyed = std::cell::Cell::new(0);
        until("both connections are destroyed", || {
            let swept = sockdiag::sweep(&guest.netns).unwrap();
            assert_eq!(swept.left, 0);
            destroyed.set(destroyed.get() + swept.destroyed);
            destroyed.get() == 2
        });
        let bound = std::cell::RefCell::new(None);
        until("the port is free", || {
            bound.replace(plain_listener(&guest.netns, at).ok());
            bound.borrow().is_some()
        });
        let again = bound.into_inner().unwrap();
        // The server closed gracefully before it was swept, so the client reads the end, or the reset.
        let _ = held.read(&mut [0; 8]);
        // A socket that somebody holds is not swept.
        assert_eq!(sockdiag::sweep(&guest.netns).unwrap(), sockdiag::Swept::default());
        assert_eq!(talk(&again, &world.host, (guest.address, 5432)), GATEWAY);
    });
}

#[test]
fn a_taken_port_is_refused_with_the_name_of_its_owner() {
    on_a_host(|_| {
        for (text, udp_taken) in [("127.0.0.1:8080:80/tcp", false), ("127.0.0.1:8080:80/udp", true)] {
            let kind = if udp_taken { "SOCK_DGRAM" } else { "SOCK_STREAM" };
            let script = format!(
                "import socket,sys;s=socket.socket(socket.AF_INET,socket.{kind});s.bind(('127.0.0.1',8080));\
                 {}print(1,flush=True);sys.stdin.read()",
                if udp_taken { "" } else { "s.listen();" }
            );
            let mut owner = Command::new("python3")
                .args(["-c", &script])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            owner.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
            let error = reserve(&publish(text)).unwrap_err().to_string();
            let everywhere =
                reserve(&publish(&text.replace("127.0.0.1", "0.0.0.0"))).unwrap_err().to_string();
            let pid = owner.id();
            drop(owner.stdin.take());
            owner.wait().unwrap();
            let proto = &text[text.len() - 3..];
            assert_eq!(error, format!("127.0.0.1:8080/{proto} is taken by python3 (pid {pid})"));
            assert_eq!(everywhere, format!("0.0.0.0:8080/{proto} is taken by python3 (pid {pid})"));
            reserve(&publish(text)).unwrap();
        }
    });
}

#[test]
fn a_reserved_port_is_nobody_elses_until_it_is_let_go() {
    on_a_host(|world| {
        for text in ["127.0.0.1:8080:80/tcp", "0.0.0.0:8080:80/udp"] {
            let port = publish(text);
            let held = reserve(&port).unwrap();
            let by = match port.proto {
                Proto::Tcp => {
                    " by a socket that does not listen: a port that is published already, or connections that are ending"
                }
                Proto::Udp => " by another service",
            };
            let error = reserve(&port).unwrap_err().to_string();
            assert_eq!(error, format!("{}:8080/{} is taken{by}", port.address, port.proto));
            // std sets SO_REUSEADDR, which helps nobody past us.
            let at = SocketAddr::new(port.address, port.host_port);
            match port.proto {
                Proto::Tcp => assert!(TcpListener::bind(at).is_err()),
                Proto::Udp => assert!(UdpSocket::bind(at).is_err()),
            }
            drop(held);
            // A process that another test starts at this moment has a copy of the descriptor until it executes.
            until("the port is free", || reserve(&port).is_ok());
        }
        let error = reserve(&publish("203.0.113.1:80:80/tcp")).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EADDRNOTAVAIL));
        assert!(error.to_string().starts_with("bind(\"203.0.113.1:80/tcp\"): EADDRNOTAVAIL"), "{error}");
        let bound = || world.host.within(|| TcpListener::bind((LOCALHOST, 8080))).unwrap();
        until("the port is anybody's", || bound().is_ok());
    });
}

#[test]
fn a_reserved_port_does_not_stand_in_the_way_of_its_own_clients() {
    on_a_host(|world| {
        let ports = [publish("0.0.0.0:8080:80/tcp"), publish("0.0.0.0:5353:53/udp")];
        let guest = world.guest(0, &ports);
        let _held = ports.map(|port| reserve(&port).unwrap());
        world.table().add(&ports.map(|port| Element::Publish(port, guest.address))).unwrap();
        let (web, dns) = (guest.tcp(80), guest.udp(53));
        assert_eq!(talk(&web, &world.host, (LOCALHOST, 8080)), GATEWAY);
        assert_eq!(ask(&dns, &world.host, (LOCALHOST, 5353)), GATEWAY);
    });
}

#[test]
fn a_host_that_comes_and_goes_leaves_nothing() {
    on_a_host(|world| {
        let (links, routes) = (link_names(), run("ip route show table all"));
        let port = publish("127.0.0.1:8080:80/tcp");
        let mut table = world.table();
        for generation in 0..20 {
            let plan = LinkPlan::new(&world.settings, (0, generation), None, &[port]).unwrap();
            let netns = NetNs::create().unwrap();
            // At once: the link and the route of the generation before are still there.
            link::create(&mut world.socket, &netns, &plan).unwrap();
            let all = [Element::Publish(port, plan.address.into()), Element::Egress(plan.address.into())];
            table.add(&all).unwrap();
            table.remove(&all).unwrap();
            drop(netns);
        }
        table.delete().unwrap();
        until("the last link is gone", || link_names() == links);
        assert_eq!(run("ip route show table all"), routes);
        assert_eq!(run("nft list ruleset"), "");
    });
}
