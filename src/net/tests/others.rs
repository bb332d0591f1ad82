//! Chains of others, as nft(8) makes them and the kernel shows them.

use super::*;
use crate::net::others::Others;

/// What stands in the way with these rules in the chain, and the commands against it.
fn found(world: &World, rules: &str) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, format!("flush ruleset\n{rules}\n")).unwrap();
    run(&format!("nft -f {}", file.path().display()));
    let mut others = Others::open(&world.settings).unwrap();
    others.obstacles().unwrap().into_iter().map(|o| format!("{} {}: {}", o.table, o.chain, o.why)).collect()
}

fn forward(policy: &str, rules: &str) -> String {
    format!(
        "table ip filter {{ chain FORWARD {{ type filter hook forward priority 0; policy {policy}; {rules}\n}}\n}}"
    )
}

#[test]
fn a_chain_stands_in_the_way_unless_it_surely_lets_every_packet_of_ours_through() {
    on_a_host(|world| {
        let group = world.settings.group();
        let prefix = world.settings.link_prefix();
        let both = format!("iifname \"{prefix}*\" accept; oifname \"{prefix}*\" accept");
        let policy = vec!["ip filter FORWARD: policy drop".to_owned()];
        let none = Vec::<String>::new();
        let dropped = vec!["ip filter FORWARD: a rule that drops".to_owned()];
        for (closed, rules, wanted) in [
            ("accept", String::new(), &none),
            ("drop", String::new(), &policy),
            ("drop", both.clone(), &none),
            ("drop", format!("iifname \"{prefix}*\" accept"), &policy),
            ("drop", "iifname \"docker0\" accept; oifname \"docker0\" accept".to_owned(), &policy),
            ("drop", format!("iifname \"{prefix}0a\" accept; oifname \"{prefix}*\" accept"), &policy),
            ("drop", "iifname != \"eth0\" accept; oifname != \"eth0\" accept".to_owned(), &none),
            ("drop", format!("iifgroup {group} accept; oifgroup {group} accept"), &none),
            ("drop", "ip saddr 10.83.0.0/16 accept; ip daddr 10.0.0.0/8 accept".to_owned(), &none),
            ("drop", "ip saddr 10.83.0.0/17 accept; ip daddr 10.0.0.0/8 accept".to_owned(), &policy),
            ("drop", "ip saddr 10.80.0.0/12 accept; ct status dnat accept".to_owned(), &none),
            ("drop", "ct state established accept".to_owned(), &policy),
            ("drop", format!("counter log; {both}"), &none),
            ("accept", "tcp dport 80 drop".to_owned(), &none),
            ("accept", "counter drop".to_owned(), &dropped),
            ("accept", format!("{both}; drop"), &none),
            ("accept", format!("drop; {both}"), &dropped),
        ] {
            assert_eq!(&found(world, &forward(closed, &rules)), wanted, "{closed}: {rules}");
        }
        // As firewalld has it: behind chains of its own, with a rejection at the end.
        let firewalld = |last: &str| {
            format!(
                "table inet firewalld {{\nchain policies {{ iifname \"eth0\" goto zone\n return\n}}\n\
                 chain zone {{ accept\n}}\n\
                 chain filter_FORWARD {{ type filter hook forward priority 10; policy accept;\n\
                 ct state established,related accept\n ct status dnat accept\n jump policies\n {last}\n}}\n}}"
            )
        };
        let why = |text: &str| vec![format!("inet firewalld filter_FORWARD: {text}")];
        assert_eq!(
            found(world, &firewalld("reject with icmpx admin-prohibited")),
            why("a rule that rejects")
        );
        assert_eq!(found(world, &firewalld("goto zone")), none);
        // Of both families, where a chain judges both.
        let six = |family: &str, rules: &str| {
            format!(
                "table {family} filter {{ chain forward {{ type filter hook forward priority 0; policy drop; {rules}\n}}\n}}"
            )
        };
        let prefix6 = world.settings.prefix6.unwrap();
        let closed = |family: &str| vec![format!("{family} filter forward: policy drop")];
        assert_eq!(found(world, &six("ip6", "")), closed("ip6"));
        assert_eq!(
            found(world, &six("ip6", &format!("ip6 saddr {prefix6} accept; ip6 daddr fd00::/8 accept"))),
            none
        );
        assert_eq!(found(world, &six("inet", "meta nfproto ipv6 accept")), closed("inet"));
        assert_eq!(found(world, &six("inet", "meta nfproto ipv4 accept")), closed("inet"));
        assert_eq!(found(world, &six("inet", "meta nfproto ipv4 accept; meta nfproto ipv6 accept")), none);
        assert_eq!(
            found(
                world,
                "table ip filter { chain INPUT { type filter hook input priority 0; policy drop; }\n}"
            ),
            none
        );
        // Chains that call each other without end the kernel refuses; deep ones end.
        let call = |n: u32| if n == 0 { "drop".to_owned() } else { format!("jump c{}", n - 1) };
        let deep: String = (0..12).map(|n| format!("chain c{n} {{\n{}\n}}\n", call(n))).collect();
        let deep = format!(
            "table ip filter {{\n{deep}chain FORWARD {{ type filter hook forward priority 0; jump c11\n}}\n}}"
        );
        assert_eq!(found(world, &deep), ["ip filter FORWARD: a rule that drops, in chain c0"]);
    });
}

#[test]
fn the_command_is_the_one_of_whoever_made_the_chain() {
    on_a_host(|world| {
        let allow = |world: &World, rules: &str| {
            found(world, rules);
            Others::open(&world.settings).unwrap().obstacles().unwrap()[0].allow.clone()
        };
        let prefix = world.settings.link_prefix();
        let with =
            |chain: &str| format!("table ip filter {{ chain {chain} {{\n}}\n}}\n{}", forward("drop", ""));
        assert_eq!(
            allow(world, &forward("drop", "")),
            ["iifname", "oifname"]
                .map(|side| format!("nft insert rule ip filter FORWARD {side} '{prefix}*' accept"))
        );
        assert_eq!(
            allow(world, &with("DOCKER-USER")),
            ["-i", "-o"].map(|side| format!("iptables -I DOCKER-USER {side} {prefix}+ -j ACCEPT"))
        );
        let firewalld =
            "table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; drop\n}\n}";
        assert_eq!(
            allow(world, firewalld),
            [
                &*format!("firewall-cmd --permanent --zone=trusted --add-interface={prefix}+"),
                "firewall-cmd --reload"
            ]
        );
        assert_eq!(
            allow(world, &with("ufw-user-forward")),
            ["in", "out"].map(|side| format!("ufw route allow {side} on {prefix}+"))
        );
    });
}

#[test]
fn what_is_inserted_is_found_by_its_mark_and_goes_without_a_trace() {
    on_a_host(|world| {
        found(world, &forward("drop", "iifname \"docker0\" counter accept"));
        let before = run("nft list ruleset");
        let mut others = Others::open(&world.settings).unwrap();
        for _ in 0..2 {
            others.insert().unwrap();
            assert_eq!(others.obstacles().unwrap(), []);
        }
        let listed = run("nft list ruleset");
        assert_eq!(listed.matches("comment \"palisade: palisade\"").count(), 2, "{listed}");
        // Another supervisor's are not ours.
        let staging = NetworkSettings { name: "staging".to_owned(), ..world.settings.clone() };
        assert_eq!(Others::open(&staging).unwrap().remove().unwrap(), 0);
        assert_eq!(Others::open(&world.settings).unwrap().remove().unwrap(), 2);
        assert_eq!(run("nft list ruleset"), before);
        assert_eq!(others.remove().unwrap(), 0);
    });
}

#[test]
fn a_table_with_an_owner_is_named_and_not_changed() {
    use std::{io::Write, process::Stdio};
    on_a_host(|world| {
        let mut owner =
            Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut input = owner.stdin.take().unwrap();
        input
            .write_all(
                b"add table ip theirs { flags owner ; }\n\
                  add chain ip theirs forward { type filter hook forward priority 0 ; policy drop ; }\n",
            )
            .unwrap();
        let mut others = Others::open(&world.settings).unwrap();
        let others = std::cell::RefCell::new(&mut others);
        until("nft makes its table", || !others.borrow_mut().obstacles().unwrap().is_empty());
        let others = others.into_inner();
        let error = others.insert().unwrap_err();
        assert_eq!(error.errno(), Some(libc::EPERM), "{error}");
        assert!(error.to_string().contains("table ip theirs, chain forward"), "{error}");
        assert_eq!(others.obstacles().unwrap().len(), 1);
        assert_eq!(others.remove().unwrap(), 0);
        drop(input);
        owner.wait().unwrap();
    });
}
