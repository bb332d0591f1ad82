//! `[http]` and `[ingress]`.

use std::ops::Range;

use super::Reader;
use crate::{
    config::{
        schema::{HttpTable, IngressTable, WordOrList},
        value::{self, Refusal},
    },
    spec::{Format, Host, Http, Ingress, NetworkMode, Service, Tls, WebPath},
};

/// Hosts, and where the file says so.
type Hosts = Vec<(Host, Range<usize>)>;

/// What it is asked for by host name, with the place of each name.
pub(super) fn http(reader: &mut Reader<'_>, mode: &NetworkMode) -> Option<(Http, Hosts)> {
    let table = reader.file.tables.http.as_ref()?;
    let HttpTable { host, port, path } = table.get_ref();
    needs_a_link(reader, table.span(), "http", mode);
    let path = path.as_ref().and_then(|text| {
        let path = reader.text(text)?;
        reader.take(text.span(), value::parse_web_path(&path))
    });
    let port = port.as_ref().and_then(|port| reader.number(port, 1..=65_535));
    let Some(host) = host else {
        let refusal = Refusal::new("`http` without `host`");
        reader.refuse(
            table.span(),
            refusal.hint("say by what name it is asked: `host = \"blog.example.org\"`"),
        );
        return None;
    };
    let texts = match host.get_ref() {
        WordOrList::Word(word) => vec![toml::Spanned::new(host.span(), word.clone())],
        WordOrList::List(list) => list.clone(),
    };
    let mut hosts = Hosts::new();
    for text in &texts {
        let Some(written) = reader.text(text) else { continue };
        let Some(host) = reader.take(text.span(), value::parse_host(&written)) else { continue };
        if !hosts.iter().any(|(other, _)| *other == host) {
            hosts.push((host, text.span()));
        }
    }
    if texts.is_empty() {
        let refusal = Refusal::new("`host` is an empty list");
        reader.refuse(host.span(), refusal.hint("write a name, or leave `[http]` out"));
    }
    let names = hosts.iter().map(|(host, _)| host.clone()).collect();
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(80);
    let whole = || WebPath::new("/").expect("the path that everybody has");
    Some((Http { hosts: names, port, path: path.unwrap_or_else(whole) }, hosts))
}

/// How it passes requests on to others.
pub(super) fn ingress(reader: &mut Reader<'_>, service: &Service, mode: &NetworkMode) -> Option<Ingress> {
    let table = reader.file.tables.ingress.as_ref()?;
    let IngressTable { format, tls } = table.get_ref();
    needs_a_link(reader, table.span(), "ingress", mode);
    if service.reload.is_none() {
        let refusal = Refusal::new("`ingress` without `service.reload`: it would not be told of other hosts");
        reader.refuse(
            table.span(),
            refusal.hint("say how, such as `reload = { signal = \"HUP\" }` in `[service]`"),
        );
    }
    let said = tls.as_ref().and_then(|text| {
        let tls = reader.text(text)?;
        reader.take(text.span(), value::parse_tls(&tls))
    });
    if format.is_none() {
        let refusal = Refusal::new("`ingress` without `format`");
        reader.refuse(table.span(), refusal.hint("write `format = \"nginx\"` or `format = \"caddy\"`"));
    }
    let format = reader.word("ingress.format", format, Format::ALL)?;
    if let (Format::Nginx, Some(Tls::Auto), Some(text)) = (format, &said, tls) {
        let refusal = Refusal::new("nginx gets no certificates by itself");
        reader
            .refuse(text.span(), refusal.hint("write the directory where they are, or `format = \"caddy\"`"));
    }
    Some(Ingress { format, tls: said.unwrap_or(Tls::Off) })
}

fn needs_a_link(reader: &mut Reader<'_>, span: Range<usize>, table: &str, mode: &NetworkMode) {
    if *mode != NetworkMode::Veth {
        let refusal = Refusal::new(format!("`{table}` is for services with a link of their own"));
        reader.refuse(span, refusal.hint("leave it out, or write `mode = \"veth\"` in `[network]`"));
    }
}
