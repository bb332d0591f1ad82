//! What a program that passes HTTP requests on by host name is told: its configuration, out of the `[http]` tables.
//!
//! Pure. Names, paths and addresses are types that hold nothing that would need quotes; the same services give the same
//! text. The supervisor writes it for services with `[ingress]`, `palisade ingress` prints it for any other program.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::spec::{Format, Host, Http, Tls, UnitName, WebPath};

/// A host, or what is below a path of it, and who answers for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Whom the request names.
    pub host: Host,
    /// What its path begins with.
    pub path: WebPath,
    /// Who answers; not empty, several are instances of one template.
    pub backends: Vec<Backend>,
}

/// A service that answers HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name.
    pub service: UnitName,
    /// Its own address.
    pub address: IpAddr,
    /// Its own port.
    pub port: u16,
}

impl Backend {
    fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// How requests come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entrance<'a> {
    /// Whose configuration it is.
    pub format: Format,
    /// In the clear or not.
    pub tls: &'a Tls,
    /// Over IPv6, too.
    pub ipv6: bool,
}

/// The sites that services make together: by host, and of each the longer path first.
pub fn sites<'a>(services: impl IntoIterator<Item = (&'a UnitName, &'a Http, IpAddr)>) -> Vec<Site> {
    let mut all: BTreeMap<(&Host, &WebPath), Vec<Backend>> = BTreeMap::new();
    for (service, http, address) in services {
        for host in &http.hosts {
            let backend = Backend { service: service.clone(), address, port: http.port };
            all.entry((host, &http.path)).or_default().push(backend);
        }
    }
    // Whoever comes with a claim of somebody else's gets no share of it: instances of one template have it together.
    let template =
        |backend: &Backend| backend.service.as_str().split_once('@').map(|(prefix, _)| prefix.to_owned());
    for backends in all.values_mut() {
        let first = backends[0].clone();
        backends.retain(|one| {
            one.service == first.service || template(one).is_some() && template(one) == template(&first)
        });
    }
    let mut sites: Vec<Site> = all
        .into_iter()
        .map(|((host, path), backends)| Site { host: host.clone(), path: path.clone(), backends })
        .collect();
    for site in &mut sites {
        site.backends.sort_by(|a, b| a.service.cmp(&b.service));
    }
    let length = |path: &WebPath| std::cmp::Reverse(path.as_str().len());
    sites.sort_by(|a, b| {
        let key = |site: &Site| (site.host.clone(), length(&site.path), site.path.clone());
        key(a).cmp(&key(b))
    });
    sites
}

/// The configuration for these sites.
pub fn text(entrance: Entrance<'_>, sites: &[Site]) -> String {
    let mut text =
        "# Made by Palisade from the tables [http] of its service files, and anew when they change: edit those.\n"
            .to_owned();
    // Writing to a string does not fail.
    let _ = match entrance.format {
        Format::Nginx => nginx(&mut text, entrance, sites),
        Format::Caddy => caddy(&mut text, entrance.tls, sites),
    };
    text
}

/// The sites of each host.
fn hosts(sites: &[Site]) -> impl Iterator<Item = &[Site]> {
    sites.chunk_by(|a, b| a.host == b.host)
}

/// Who answers for a host, in words.
fn names(sites: &[Site]) -> String {
    let all: Vec<&str> = sites.iter().flat_map(|site| &site.backends).map(|b| b.service.as_str()).collect();
    all.join(" ")
}

fn nginx(text: &mut String, entrance: Entrance<'_>, sites: &[Site]) -> std::fmt::Result {
    let listen = |text: &mut String, port: u16, words: &str| {
        let also = if entrance.ipv6 { format!("    listen [::]:{port}{words};\n") } else { String::new() };
        write!(text, "    listen {port}{words};\n{also}")
    };
    let certificates = match entrance.tls {
        Tls::Dir(dir) => Some(dir.as_str()),
        Tls::Off | Tls::Auto => None,
    };
    // `close`: a connection that the service has just closed would answer a POST with 502.
    write!(text, "\nmap $http_upgrade $palisade_connection {{\n    default upgrade;\n    \"\" close;\n}}\n")?;
    if let Some(dir) = certificates {
        // A path with a variable is read when somebody asks for that host: one without a certificate stops no other.
        write!(text, "\nmap \"\" $palisade_certificates {{\n    default {dir};\n}}\n")?;
    }
    for (number, site) in sites.iter().enumerate().filter(|(_, site)| site.backends.len() > 1) {
        write!(text, "\n# {}\nupstream palisade_{number} {{\n", names(std::slice::from_ref(site)))?;
        for backend in &site.backends {
            writeln!(text, "    server {};", backend.socket())?;
        }
        text.push_str("}\n");
    }
    text.push_str("\n# whoever asks for another host\nserver {\n");
    listen(text, 80, " default_server")?;
    text.push_str("    server_name _;\n    return 421;\n}\n");
    if certificates.is_some() {
        text.push_str("\nserver {\n");
        listen(text, 443, " ssl default_server")?;
        text.push_str("    server_name _;\n    ssl_reject_handshake on;\n}\n");
    }
    let mut number = 0;
    for sites in hosts(sites) {
        let host = &sites[0].host;
        write!(text, "\n# {}\nserver {{\n", names(sites))?;
        listen(
            text,
            if certificates.is_some() { 443 } else { 80 },
            if certificates.is_some() { " ssl" } else { "" },
        )?;
        writeln!(text, "    server_name {};", server_name(host))?;
        if certificates.is_some() {
            let name = host.suffix().unwrap_or(host.as_str());
            writeln!(text, "    ssl_certificate $palisade_certificates/{name}/fullchain.pem;")?;
            writeln!(text, "    ssl_certificate_key $palisade_certificates/{name}/privkey.pem;")?;
        }
        text.push_str(NGINX_PROXY);
        for site in sites {
            nginx_locations(text, site, number)?;
            number += 1;
        }
        if !sites.iter().any(|site| site.path.is_whole()) {
            text.push_str("    location / {\n        return 404;\n    }\n");
        }
        text.push_str("}\n");
        if let Some(dir) = certificates {
            text.push_str("\nserver {\n");
            listen(text, 80, "")?;
            writeln!(text, "    server_name {};", server_name(host))?;
            write!(text, "    location /.well-known/acme-challenge/ {{\n        root {dir};\n    }}\n")?;
            text.push_str("    location / {\n        return 308 https://$host$request_uri;\n    }\n}\n");
        }
    }
    Ok(())
}

/// What every request is passed on with. The client's own words about where it comes from are not.
const NGINX_PROXY: &str = "    proxy_http_version 1.1;
    proxy_connect_timeout 5s;
    proxy_set_header Host $host;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $host;
    proxy_set_header Forwarded \"\";
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $palisade_connection;
";

/// nginx's own wildcards stand for any number of labels, Caddy's and those of certificates for one.
fn server_name(host: &Host) -> String {
    match host.suffix() {
        None => host.to_string(),
        Some(suffix) => format!("~^[^.]+\\.{}$", suffix.replace('.', "\\.")),
    }
}

fn nginx_locations(text: &mut String, site: &Site, number: usize) -> std::fmt::Result {
    let target = match &site.backends[..] {
        [one] => one.socket().to_string(),
        _ => format!("palisade_{number}"),
    };
    let path = site.path.as_str();
    let locations = match site.path.is_whole() {
        true => vec![path.to_owned()],
        false => vec![format!("= {path}"), format!("{path}/")],
    };
    for location in locations {
        write!(text, "    location {location} {{\n        proxy_pass http://{target};\n    }}\n")?;
    }
    Ok(())
}

/// What Caddy does not do by itself: it makes X-Forwarded-For, -Proto and -Host anew.
const CADDY_PROXY: &str = "\t\t\theader_up X-Real-IP {remote_host}\n\t\t\theader_up -Forwarded\n";

fn caddy(text: &mut String, tls: &Tls, sites: &[Site]) -> std::fmt::Result {
    text.push_str("\n# whoever asks for another host\nhttp:// {\n\trespond 421\n}\n");
    for sites in hosts(sites) {
        let host = &sites[0].host;
        let scheme = match tls {
            Tls::Off => "http://",
            Tls::Auto | Tls::Dir(_) => "",
        };
        write!(text, "\n# {}\n{scheme}{host} {{\n", names(sites))?;
        if let Tls::Dir(dir) = tls {
            let (dir, name) = (dir.as_str(), host.suffix().unwrap_or(host.as_str()));
            writeln!(text, "\ttls {dir}/{name}/fullchain.pem {dir}/{name}/privkey.pem")?;
        }
        for (number, site) in sites.iter().enumerate() {
            let backends: Vec<String> = site.backends.iter().map(|b| b.socket().to_string()).collect();
            let proxy = format!("\t\treverse_proxy {} {{\n{CADDY_PROXY}\t\t}}\n", backends.join(" "));
            match site.path.is_whole() {
                true => write!(text, "\thandle {{\n{proxy}\t}}\n")?,
                false => {
                    let path = site.path.as_str();
                    writeln!(text, "\t@path{number} path {path} {path}/*")?;
                    write!(text, "\thandle @path{number} {{\n{proxy}\t}}\n")?;
                }
            }
        }
        if !sites.iter().any(|site| site.path.is_whole()) {
            text.push_str("\thandle {\n\t\trespond 404\n\t}\n");
        }
        text.push_str("}\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
