//! `palisade.toml`: what one supervisor calls its things, so that several live side by side on a host.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::Spanned;

use super::{
    diagnostic::{Diagnostic, SourceMap},
    schema::{Tables, Text},
    tables,
    trust::{self, Found, Owners},
    value::{self, Refusal},
};
use crate::net::addr::{AddrError, NetworkSettings, Prefix4, Prefix6};

/// Where the settings are unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/palisade/palisade.toml";
/// Ids of one service, user_namespaces(7).
pub const IDS_PER_SERVICE: u32 = 65_536;

/// The settings of one supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `[network]`.
    pub network: NetworkSettings,
    /// `ids.base`: the first host id that is given to a service.
    pub id_base: u32,
    /// `ids.count`: how many ranges of [`IDS_PER_SERVICE`] begin there.
    pub id_count: u32,
    /// `supervisor.parallel_starts`: how many services may be on their way up at the same time, 0 for no bound; none: the
    /// default, see [`Settings::parallel_starts`].
    pub parallel_starts: Option<u32>,
    /// `cgroup.path`: relative to the cgroup2 mount; none: made from the cgroup that the supervisor is in.
    pub cgroup: Option<PathBuf>,
    /// `metrics.listen`: where Prometheus is answered over TCP; none: nowhere.
    pub metrics: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            network: NetworkSettings::default(),
            id_base: 0x7000_0000,
            id_count: 4000,
            parallel_starts: None,
            cgroup: None,
            metrics: None,
        }
    }
}

/// `palisade.toml` as typed.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct SettingsTables {
    /// What its network is called, and where its addresses come from.
    network: NetworkTable,
    /// Which ids of the host are its services'.
    ids: IdsTable,
    /// Where its control groups are.
    cgroup: CgroupTable,
    /// How it goes about its work.
    supervisor: SupervisorTable,
    /// Where it tells what it measures.
    metrics: MetricsTable,
    // Read with the service files, here for the mistakes in its keys alone.
    /// What a service file leaves out is as it stands here: the keys of a service file, but for those that say what one
    /// service is (`unit.description`, `documentation`, `instances`, `service.command`). Default: none.
    defaults: Tables,
}

/// `[network]`; the names and ranges that links and rules are made of.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct NetworkTable {
    /// Name of the nft table and tag of the links. Default: `palisade`.
    name: Option<Text>,
    /// Range of the services' addresses. Default: `10.83.0.0/16`.
    prefix4: Option<Text>,
    /// Range of the services' IPv6 addresses, or `off`. Default: `fd50:5300:TAG::/64`, with a tag of the name.
    prefix6: Option<Text>,
    /// Parts of `prefix4` by the name of a bridge: `apps = "10.83.4.0/24"`. They are for services with that `network.bridge`
    /// and for no others; their IPv6 addresses end alike. Default: none, services on bridges have addresses as all have.
    bridges: BTreeMap<Text, Text>,
}

/// `[ids]`; the host's ids that services run with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct IdsTable {
    /// First host id that is given to a service. Default: 1879048192.
    base: Option<Spanned<i64>>,
    /// Ranges of 65536 ids, 2 or more; the last eighth is for `palisade run`. Default: 4000.
    count: Option<Spanned<i64>>,
}

/// `[cgroup]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct CgroupTable {
    /// Where the control groups of services are made, relative to the cgroup2 mount. Default: made from the supervisor's own cgroup.
    path: Option<Text>,
}

/// `[supervisor]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct SupervisorTable {
    /// How many services may be on their way up at the same time: from the launch until they are ready; a oneshot only
    /// until its program was executed. The others wait in the order of their dependencies. 0 is no bound. Default: 8
    /// for each CPU.
    parallel_starts: Option<Spanned<i64>>,
}

/// `[metrics]`; what is measured is told on `metrics.sock` in the run-time directory, to root and the group `palisade`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, expecting = "a table")]
struct MetricsTable {
    /// Address and port where Prometheus is answered over TCP, too (`GET /metrics`, HTTP without encryption): `127.0.0.1:9620`
    /// or `[::1]:9620`. Every program of the host may ask there. It is read when the supervisor starts. Default: nowhere.
    listen: Option<Text>,
    /// `listen` may be an address that other hosts reach, who may then ask as well. Default: false.
    remote: Option<bool>,
}

/// Places for services on their way up for each CPU: enough that those which wait for something else than a CPU hold nobody
/// up, and few enough that a thousand services do not take each other's time to start.
const STARTS_PER_CPU: usize = 8;

impl Settings {
    /// How many services may be on their way up at the same time on a host with `cpus`; none is no bound.
    pub fn parallel_starts(&self, cpus: usize) -> Option<usize> {
        match self.parallel_starts {
            None => Some(cpus.max(1) * STARTS_PER_CPU),
            Some(0) => None,
            Some(limit) => Some(usize::try_from(limit).unwrap_or(usize::MAX)),
        }
    }

    /// How many ranges are for `palisade run`, counted from the top: one in eight. Each is whoever's runs at the moment.
    pub fn run_ranges(&self) -> u32 {
        self.id_count.div_ceil(8)
    }

    /// How many ranges are for the services of a supervisor, counted from the bottom: each is one service's for good.
    pub fn service_ranges(&self) -> u32 {
        self.id_count - self.run_ranges()
    }

    /// Reads `path`, or the default file, which may be missing.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: Option<&Path>) -> Result<Self, Vec<Diagnostic>> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match trust::read(file, &Owners::of_this_process()) {
            Ok(Found::Text(text)) => Self::parse(file, &text),
            Ok(Found::Mask | Found::Missing) if path.is_none() => Ok(Self::default()),
            Ok(Found::Mask | Found::Missing) => Err(vec![Diagnostic::about(file, "no such file")]),
            Err(refusal) => Err(vec![Diagnostic::about(file, refusal.message).hint(refusal.hint)]),
        }
    }

    /// Reads the settings from a text; `file` is the name that mistakes are said to be in. Pure.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Vec<Diagnostic>> {
        let mut sources = SourceMap::default();
        sources.add(file, text);
        let (tables, mut found) = tables::read::<SettingsTables>(&sources);
        let SettingsTables { network, ids, cgroup, supervisor, metrics, defaults: _ } =
            tables.unwrap_or_default();
        let mut settings = Self::default();
        let mut refuse = |span, refusal: Refusal| {
            found.push(Diagnostic::at(sources.locate(&span), refusal.message).hint(refusal.hint));
        };
        if let Some(text) = network.name {
            match parse_name(text.get_ref()) {
                Ok(name) => {
                    settings.network.prefix6 = Some(Prefix6::of(&name));
                    settings.network.name = name;
                }
                Err(refusal) => refuse(text.span(), refusal),
            }
        }
        if let Some(text) = network.prefix4 {
            match parse_prefix4(text.get_ref()) {
                Ok(prefix) => settings.network.prefix4 = prefix,
                Err(refusal) => refuse(text.span(), refusal),
            }
        }
        if let Some(text) = network.prefix6 {
            match parse_prefix6(text.get_ref()) {
                Ok(prefix) => settings.network.prefix6 = prefix,
                Err(refusal) => refuse(text.span(), refusal),
            }
        }
        for (name, text) in network.bridges {
            let bridge = value::parse_bridge(name.get_ref());
            match (bridge, parse_part(text.get_ref(), &settings.network)) {
                (Ok(bridge), Ok(part)) => drop(settings.network.bridges.insert(bridge, part)),
                (Err(refusal), _) => refuse(name.span(), refusal),
                (_, Err(refusal)) => refuse(text.span(), refusal),
            }
        }
        if let Some(text) = cgroup.path {
            match parse_cgroup(text.get_ref()) {
                Ok(path) => settings.cgroup = Some(path),
                Err(refusal) => refuse(text.span(), refusal),
            }
        }
        if let Some(limit) = supervisor.parallel_starts {
            match u32::try_from(*limit.get_ref()) {
                Ok(number) => settings.parallel_starts = Some(number),
                Err(_) => refuse(
                    limit.span(),
                    Refusal::new(format!("{} is no number of services", limit.get_ref()))
                        .hint("write how many may be started at the same time, 0 for no bound"),
                ),
            }
        }
        if let Some(text) = metrics.listen {
            match parse_listen(text.get_ref(), metrics.remote.unwrap_or(false)) {
                Ok(address) => settings.metrics = Some(address),
                Err(refusal) => refuse(text.span(), refusal),
            }
        }
        let (base, count) =
            (ids.base.as_ref().map(|v| *v.get_ref()), ids.count.as_ref().map(|v| *v.get_ref()));
        match parse_ids(base.unwrap_or(settings.id_base.into()), count.unwrap_or(settings.id_count.into())) {
            Ok((base, count)) => (settings.id_base, settings.id_count) = (base, count),
            Err(refusal) => refuse(ids.base.or(ids.count).map_or(0..0, |v| v.span()), refusal),
        }
        match found.is_empty() {
            true => Ok(settings),
            false => Err(found),
        }
    }
}

/// Part of a link name (IFNAMSIZ leaves 15 characters) and of an nft table name, which may have fewer characters.
fn parse_name(name: &str) -> Result<String, Refusal> {
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 15
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    match good {
        true => Ok(name.to_owned()),
        false => Err(Refusal::new(format!("{name:?} cannot name a table and links"))
            .hint("write up to 15 lower-case letters, digits and '_', beginning with a letter")),
    }
}

fn parse_prefix4(text: &str) -> Result<Prefix4, Refusal> {
    let hint = "write a private network that is free here, such as \"10.83.0.0/16\"";
    let prefix: Prefix4 =
        text.parse().map_err(|error: AddrError| Refusal::new(error.to_string()).hint(hint))?;
    let address = prefix.gateway();
    match address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] == 0
        || address.is_link_local()
    {
        true => Err(Refusal::new(format!("services cannot have addresses of {text}")).hint(hint)),
        false => Ok(prefix),
    }
}

/// A part of the services' range that is for one bridge.
fn parse_part(text: &str, network: &NetworkSettings) -> Result<Prefix4, Refusal> {
    let hint = format!("write a part of {} that is no other bridge's, such as a /24 of it", network.prefix4);
    let part: Prefix4 =
        text.parse().map_err(|error: AddrError| Refusal::new(error.to_string()).hint(hint.clone()))?;
    let other = network.bridges.iter().find(|(_, other)| part.holds(**other) || other.holds(part));
    match (network.prefix4.holds(part), other) {
        (false, _) => Err(Refusal::new(format!("{part} is not in {}", network.prefix4)).hint(hint)),
        (true, Some((name, other))) => {
            Err(Refusal::new(format!("{part} meets {other}, which is for {name}")).hint(hint))
        }
        (true, None) => Ok(part),
    }
}

fn parse_prefix6(text: &str) -> Result<Option<Prefix6>, Refusal> {
    if text == "off" {
        return Ok(None);
    }
    let hint = "write a unique local prefix that is free here, such as \"fd12:3456:789a::/64\", or \"off\"";
    let prefix: Prefix6 =
        text.parse().map_err(|error: AddrError| Refusal::new(error.to_string()).hint(hint))?;
    let address = prefix.gateway();
    let is_unicast = !address.is_loopback()
        && !address.is_multicast()
        && !address.is_unicast_link_local()
        && address.to_ipv4_mapped().is_none()
        && address.segments()[0] != 0;
    match is_unicast {
        true => Ok(Some(prefix)),
        false => Err(Refusal::new(format!("services cannot have addresses of {text}")).hint(hint)),
    }
}

fn parse_cgroup(text: &str) -> Result<PathBuf, Refusal> {
    let good = !text.is_empty()
        && !text.contains(char::is_control)
        && text.split('/').all(|component| !["", ".", ".."].contains(&component) && component.len() <= 255);
    match good {
        true => Ok(PathBuf::from(text)),
        false => Err(Refusal::new(format!("{text:?} is not a path below the cgroup2 mount"))
            .hint("write it without a leading '/', such as \"palisade.slice\"")),
    }
}

/// Where metrics are told. Nothing there asks who is asking, so that it is the host's own business unless a file says more.
fn parse_listen(text: &str, remote: bool) -> Result<SocketAddr, Refusal> {
    let address: SocketAddr = text.parse().map_err(|_| {
        Refusal::new(format!("{text:?} is no address with a port"))
            .hint("write \"127.0.0.1:9620\" or \"[::1]:9620\"; a name is not looked up")
    })?;
    match address.port() {
        0 => Err(Refusal::new("port 0 is another one each time").hint("write a port, such as 9620")),
        _ if address.ip().to_canonical().is_loopback() || remote => Ok(address),
        port => Err(Refusal::new(format!(
            "other hosts may reach {}, and nobody there is asked who he is",
            address.ip()
        ))
        .hint(format!(
            "write \"127.0.0.1:{port}\", or add `remote = true` where a firewall says who reaches it"
        ))),
    }
}

/// First id and number of ranges. Ids below the first range's size are the host's own.
fn parse_ids(base: i64, count: i64) -> Result<(u32, u32), Refusal> {
    let range = i64::from(IDS_PER_SERVICE);
    let end = count.checked_mul(range).and_then(|ids| ids.checked_add(base));
    // The last id, 4294967295, means "no id" to the kernel.
    let good =
        base >= range && base % range == 0 && count >= 2 && end.is_some_and(|end| end < i64::from(u32::MAX));
    match (good, u32::try_from(base), u32::try_from(count)) {
        (true, Ok(base), Ok(count)) => Ok((base, count)),
        _ => Err(Refusal::new(format!("{count} ranges of 65536 ids cannot begin at {base}")).hint(
            "`base` is a multiple of 65536 and not 0; the last id is below 4294967295; `count` is 2 or more",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, Vec<String>> {
        Settings::parse(Path::new("palisade.toml"), text)
            .map_err(|found| found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_empty_file_has_the_defaults() {
        let settings = parse("").unwrap();
        assert_eq!(settings.network.prefix4.to_string(), "10.83.0.0/16");
        assert_eq!((settings.id_base, settings.id_count), (1_879_048_192, 4000));
        assert_eq!((settings.network.name.as_str(), settings.cgroup), ("palisade", None));
    }

    #[test]
    fn every_key_is_read() {
        let text = "[network]\nname = 'lab_2'\nprefix4 = '192.168.64.0/20'\n[ids]\nbase = 131072\ncount = 3\n\
                    [cgroup]\npath = 'lab.slice/palisade'\n[supervisor]\nparallel_starts = 0\n";
        let settings = parse(text).unwrap();
        assert_eq!((settings.parallel_starts(2), Settings::default().parallel_starts(2)), (None, Some(16)));
        let five = Settings { parallel_starts: Some(5), ..Settings::default() };
        assert_eq!(five.parallel_starts(2), Some(5));
        assert_eq!(settings.network.prefix4.to_string(), "192.168.64.0/20");
        assert_eq!((settings.id_base, settings.id_count), (131_072, 3));
        assert_eq!(settings.cgroup.as_deref(), Some(Path::new("lab.slice/palisade")));
    }

    #[test]
    fn all_mistakes_are_named() {
        let text = "[network]\nname = 'Lab'\nprefix4 = '10.83.0.1/16'\nbrige = 'x'\n[ids]\nbase = 0\n\
                    [cgroup]\npath = '/sys'\n[supervisor]\nparallel_starts = -1\n";
        let found = parse(text).unwrap_err();
        assert_eq!(found.len(), 6, "{found:#?}");
        assert!(found[0].starts_with("palisade.toml:4:1: unknown key `brige`"));
    }

    #[test]
    fn a_bridges_range_is_a_part_of_the_services_that_no_other_has() {
        let of = |bridges: &str| {
            parse(&format!("[network]\nprefix4 = '10.90.0.0/16'\n[network.bridges]\n{bridges}"))
        };
        let settings = of("apps = '10.90.4.0/24'\ndbs = '10.90.5.0/29'").unwrap();
        assert_eq!(settings.network.bridges["dbs"].to_string(), "10.90.5.0/29");
        for (bridges, said) in [
            ("apps = '10.83.4.0/24'", "palisade.toml:4:8: 10.83.4.0/24 is not in 10.90.0.0/16"),
            ("apps = '10.90.0.0/12'", "palisade.toml:4:8: prefix 10.90.0.0/12 has host bits set"),
            (
                "apps = '10.90.4.0/24'\ndbs = '10.90.4.128/25'",
                "palisade.toml:5:7: 10.90.4.128/25 meets 10.90.4.0/24, which is for apps",
            ),
            ("Apps = '10.90.4.0/24'", "palisade.toml:4:1: \"Apps\" cannot name a bridge"),
        ] {
            let found = of(bridges).unwrap_err();
            assert!(found.len() == 1 && found[0].starts_with(said), "{found:?}");
        }
    }

    #[test]
    fn metrics_are_told_to_the_host_alone_unless_the_file_says_more() {
        let of = |text: &str| parse(&format!("[metrics]\n{text}")).map(|settings| settings.metrics);
        assert_eq!(of(""), Ok(None));
        for text in ["127.0.0.1:9620", "127.8.8.8:1", "[::1]:9620", "[::ffff:127.0.0.1]:9620"] {
            assert_eq!(of(&format!("listen = '{text}'")), Ok(Some(text.parse().unwrap())));
        }
        for (text, said) in [
            ("0.0.0.0:9620", "other hosts may reach 0.0.0.0"),
            ("[::]:9620", "other hosts may reach ::"),
            ("192.0.2.1:80", "other hosts may reach 192.0.2.1"),
            ("127.0.0.1:0", "port 0"),
            ("127.0.0.1", "\"127.0.0.1\" is no address with a port"),
            ("localhost:9620", "\"localhost:9620\" is no address with a port"),
            ("9620", "\"9620\" is no address"),
        ] {
            let found = of(&format!("listen = '{text}'")).unwrap_err();
            assert!(found.len() == 1 && found[0].contains(said), "{found:?}");
        }
        let open = of("listen = '0.0.0.0:9620'\nremote = true");
        assert_eq!(open, Ok(Some("0.0.0.0:9620".parse().unwrap())));
    }

    #[test]
    fn ids_stay_within_what_the_kernel_has() {
        for (base, count) in [(-65_536, 1), (65_537, 1), (65_536, 0), (65_536, 65_535), (65_536, i64::MAX)] {
            assert!(parse_ids(base, count).is_err(), "{base} {count}");
        }
        assert_eq!(parse_ids(65_536, 65_534), Ok((65_536, 65_534)));
    }

    #[test]
    fn ipv6_has_a_prefix_by_the_name_another_one_or_none() {
        let of = |text: &str| Settings::parse(Path::new("palisade.toml"), text).unwrap().network.prefix6;
        assert_eq!(of(""), Some(Prefix6::of("palisade")));
        assert_eq!(of("network.name = 'lab'"), Some(Prefix6::of("lab")));
        assert_eq!(
            of("network.name = 'lab'\nnetwork.prefix6 = 'fd00::/64'").unwrap().to_string(),
            "fd00::/64"
        );
        assert_eq!(of("network.prefix6 = 'off'"), None);
        for text in ["on", "10.83.0.0/16", "fd00::1/64", "fe80::/64", "ff00::/64", "::/96", "::ffff:0:0/96"] {
            assert!(parse_prefix6(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_are_networks() {
        for text in
            ["10.83.0.0", "10.83.0.0/33", "10.83.0.0/+8", "10.83.0.0/", "127.0.0.0/8", "0.0.0.0/8", "::/16"]
        {
            assert!(parse_prefix4(text).is_err(), "{text}");
        }
    }
}
