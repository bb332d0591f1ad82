//! `palisade ingress`: what a proxy has to be told, printed or written.

use std::path::PathBuf;

use super::{Exit, output, put::put};
use crate::{
    config::value::parse_tls,
    control::{
        client::{CallError, Client},
        proto::Method,
        types::Sites,
    },
    ingress::{self, Entrance},
    net::sysctl,
    spec::{Format, Tls},
};

/// What was asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// None: JSON.
    pub(super) format: Option<Format>,
    /// `--tls`.
    pub(super) tls: Tls,
    /// Where it is to stand.
    pub(super) out: Option<PathBuf>,
}

/// Reads the argument of `--format`.
pub(super) fn format(text: &str) -> Result<Format, String> {
    let known = Format::ALL.iter().find(|(name, _)| *name == text);
    known.map(|(_, format)| *format).ok_or_else(|| "nginx or caddy".to_owned())
}

/// Reads the argument of `--tls`.
pub(super) fn tls(text: &str) -> Result<Tls, String> {
    parse_tls(text).map_err(|refusal| refusal.message)
}

pub(super) fn ingress(client: &mut Client, wanted: &Wanted) -> Result<Exit, CallError> {
    let Wanted { format, tls, out } = wanted;
    if (*format, tls) == (Some(Format::Nginx), &Tls::Auto) {
        output::error("ingress: nginx gets no certificates by itself: name the directory where they are");
        return Ok(Exit::Usage);
    }
    let answer: Sites = client.call(&Method::Sites)?;
    let Some(format) = *format else { return Ok(super::verbs::done(output::json(&answer))) };
    let ipv6 = sysctl::has_ipv6();
    let text = ingress::text(Entrance { format, tls, ipv6 }, &answer.sites);
    let Some(out) = out else { return Ok(super::verbs::done(output::print(&text))) };
    Ok(match put(out, &text) {
        Ok(changed) => {
            let what = if changed { "written" } else { "unchanged" };
            let line = format!("{}: {what}\n", output::escape(&out.display().to_string()));
            super::verbs::done(output::print(&line))
        }
        Err(error) => {
            output::error(&format!("{}: {error}", out.display()));
            Exit::Failed
        }
    })
}
