//! `[ingress]` and `[http]`: each service that passes requests on is shown a file that says which host is whose.
//!
//! The file follows from the service files and the addresses that services have for good, not from who is up: it is written
//! when files have been read, and only where it differs. `changes` then has the service reload; a supervisor that died in
//! between has a successor that finds the difference there.

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::Supervisor;
use crate::{
    config::Loaded,
    control::{server::ClientId, types::Sites},
    ingress::{self, Entrance, Site},
    machine::{
        By,
        fleet::{Entry, Goal},
    },
    spec::{Http, Ingress, Unit, UnitName},
};

impl Supervisor {
    /// The run-time directory without links on the way, which no mount follows.
    fn whole_run(&self) -> PathBuf {
        fs::canonicalize(&self.options.run).unwrap_or_else(|_| self.options.run.clone())
    }

    /// Services that were just read are to have what is made for them.
    pub(super) fn show_ingress(&self, loaded: &mut Loaded) {
        let run = self.whole_run();
        loaded.units.values_mut().for_each(|unit| unit.show_ingress(&run));
    }

    /// The services whose files are there.
    fn standing(&self) -> impl Iterator<Item = (&UnitName, &Unit)> {
        let stays = |entry: &Entry| entry.goal != Goal::Down(By::Removed) && entry.unit.name.is_service();
        let entries = self.fleet.entries().iter().filter(move |(_, entry)| stays(entry));
        entries.map(|(name, entry)| (name, &entry.unit))
    }

    /// Who is asked over HTTP, with its address.
    fn http_services(&mut self) -> Vec<(UnitName, Http, IpAddr)> {
        let asked: Vec<(UnitName, Http)> =
            self.standing().filter_map(|(name, unit)| Some((name.clone(), unit.http.clone()?))).collect();
        asked
            .into_iter()
            .filter_map(|(name, http)| {
                // The first is enough: both lead to it.
                let address = self.addresses_of(&name).first().copied()?;
                Some((name, http, address))
            })
            .collect()
    }

    /// Where an ingress may knock.
    pub(super) fn http_doors(&mut self) -> BTreeSet<(IpAddr, u16)> {
        self.http_services().into_iter().map(|(_, http, address)| (address, http.port)).collect()
    }

    fn sites(&mut self) -> Vec<Site> {
        let mut services = self.http_services();
        // Whose new file is refused because another has taken what it has keeps it: it was there before.
        services.sort_by_key(|(name, ..)| !self.broken.contains_key(name));
        ingress::sites(services.iter().map(|(name, http, address)| (name, http, *address)))
    }

    pub(super) fn tell_sites(&mut self, client: ClientId) {
        let sites = self.sites();
        self.server.reply(client, &Sites { sites }, false);
    }

    /// Makes the files those of the services that there are. What cannot be written stays as it was.
    pub(super) fn settle_ingress(&mut self) {
        let fronts: Vec<(UnitName, Ingress)> =
            self.standing().filter_map(|(name, unit)| Some((name.clone(), unit.ingress.clone()?))).collect();
        let run = self.whole_run();
        clear_others(&run.join("ingress"), &fronts);
        if fronts.is_empty() {
            return;
        }
        let (sites, ipv6) = (self.sites(), self.launcher.network.settings.prefix6.is_some());
        for (name, ingress) in fronts {
            let entrance = Entrance { format: ingress.format, tls: &ingress.tls, ipv6 };
            let text = ingress::text(entrance, &sites);
            if let Err(error) = put(&ingress.file(&run, &name), &text) {
                tracing::error!(unit = %name, "who is asked by which name was not written: {error}");
            }
        }
    }

    /// The last service has ended.
    pub(super) fn clear_ingress(&self) {
        // Absent is as good as removed.
        let _ = fs::remove_dir_all(self.options.run.join("ingress"));
    }
}

/// Removes the files of services that are no ingress any more.
fn clear_others(dir: &Path, fronts: &[(UnitName, Ingress)]) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let is_kept = fronts.iter().any(|(name, _)| entry.file_name() == name.as_str());
        if !is_kept && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!("{}: {error}", entry.path().display());
        }
    }
}

/// Writes a file that anybody may read, in one piece and only where it says something else.
fn put(path: &Path, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    // What begins with a dot nobody watches.
    let new = dir.join(".new");
    let _ = fs::remove_file(&new);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o644).open(&new)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    fs::rename(new, path)
}
