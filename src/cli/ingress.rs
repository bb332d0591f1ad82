//! `palisade ingress`: what a proxy has to be told, printed or written.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{Exit, output};
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

/// Writes a file in one piece, with the mode of the one that it replaces, only where it says something else. Whether it did.
fn put(path: &Path, text: &str) -> io::Result<bool> {
    let before = fs::File::open(path).ok();
    if before.is_some() && fs::read(path)? == text.as_bytes() {
        return Ok(false);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A name that nobody else can have made before.
    let mut new = tempfile_in(dir)?;
    let mode = before.and_then(|file| file.metadata().ok()).map_or(0o644, |meta| meta.mode() & 0o777);
    let written = new.1.write_all(text.as_bytes()).and_then(|()| {
        new.1.set_permissions(fs::Permissions::from_mode(mode))?;
        new.1.sync_all()?;
        fs::rename(&new.0, path)
    });
    written.inspect_err(|_| drop(fs::remove_file(&new.0))).map(|()| true)
}

fn tempfile_in(dir: &Path) -> io::Result<(PathBuf, fs::File)> {
    let path = dir.join(format!(".palisade-ingress.{}", std::process::id()));
    let file = fs::File::options().write(true).create_new(true).open(&path)?;
    Ok((path, file))
}
