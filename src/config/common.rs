//! What holds for all services: `[defaults]` of `palisade.toml`, the profiles, and the policy beside it.
//!
//! `--config` decides for all three: they lie in the directory of that file. Beside the system's own,
//! `/run/palisade/profiles.d` and `/usr/lib/palisade/profiles.d` count as well, in this order.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    diagnostic::{Diagnostic, Layer, SourceMap},
    policy::Policy,
    schema::Tables,
    settings::DEFAULT_PATH,
    tables,
    trust::{self, Found, Owners},
    value::{Refusal, nearest},
};
use crate::spec::{HostFacts, UnitName};

/// The profiles that need no file; a file of that name in a `profiles.d` takes the place of one.
pub const PROFILES: [(&str, &str); 6] = [
    ("default", include_str!("profiles/default.toml")),
    ("web", include_str!("profiles/web.toml")),
    ("worker", include_str!("profiles/worker.toml")),
    ("job", include_str!("profiles/job.toml")),
    ("untrusted", include_str!("profiles/untrusted.toml")),
    ("legacy", include_str!("profiles/legacy.toml")),
];

/// Where what holds for all services is to be found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// `palisade.toml`, for its table `defaults`; none: no defaults.
    pub defaults: Option<PathBuf>,
    /// Directories of `NAME.toml`, the directory that wins first.
    pub profiles: Vec<PathBuf>,
    /// `policy.toml`; none: nothing is forbidden.
    pub policy: Option<PathBuf>,
}

impl Around {
    /// Beside the settings at `config`, and, where those are the system's, where packages put profiles.
    pub fn of(config: &Path) -> Self {
        let dir = config.parent().unwrap_or(Path::new(""));
        let mut profiles = vec![dir.join("profiles.d")];
        if config == Path::new(DEFAULT_PATH) {
            profiles.extend(["/run/palisade/profiles.d", "/usr/lib/palisade/profiles.d"].map(PathBuf::from));
        }
        Self { defaults: Some(config.to_owned()), profiles, policy: Some(dir.join("policy.toml")) }
    }
}

/// What was found there.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// `palisade.toml` and its text.
    defaults: Option<(PathBuf, String)>,
    /// Why nobody can say what all services have in common: none of them can be read then.
    unreadable: Vec<Diagnostic>,
    profiles: BTreeMap<String, Profile>,
    policy: Policy,
}

#[derive(Debug)]
enum Profile {
    Text(PathBuf, String),
    /// A link to /dev/null.
    Masked,
    Refused(Diagnostic),
}

impl Common {
    /// Reads all of it.
    pub(super) fn read(around: &Around, owners: &Owners, host: &HostFacts) -> Self {
        let mut common = Self::default();
        if let Some(path) = &around.defaults {
            match trust::read(path, owners) {
                Ok(Found::Text(text)) => common.defaults = Some((path.clone(), text)),
                // Whether it may be missing is for the settings to say.
                Ok(Found::Mask | Found::Missing) => {}
                Err(refusal) => common.unreadable.push(about(path, refusal)),
            }
        }
        // From the last to the first: the first wins.
        for dir in around.profiles.iter().rev() {
            match trust::list(dir, ".toml", false) {
                Ok(files) => {
                    common.profiles.extend(files.iter().filter_map(|file| profile(dir, file, owners)));
                }
                Err(refusal) => common.unreadable.push(about(dir, refusal)),
            }
        }
        match around.policy.as_ref().map(|path| (path, trust::read(path, owners))) {
            Some((path, Ok(Found::Text(text)))) => match Policy::parse(path, &text, host) {
                Ok(policy) => common.policy = policy,
                Err(found) => common.unreadable.extend(found),
            },
            Some((path, Err(refusal))) => common.unreadable.push(about(path, refusal)),
            Some((_, Ok(Found::Mask | Found::Missing))) | None => {}
        }
        common
    }

    /// What no service may go beyond; none: the policy cannot be read, and nobody can say.
    pub(super) fn policy(&self) -> Option<&Policy> {
        self.unreadable.is_empty().then_some(&self.policy)
    }

    /// Lays `[defaults]` and the profile that the service names below its own texts.
    pub(super) fn lay(&self, sources: &mut SourceMap, found: &mut Vec<Diagnostic>) {
        found.extend(self.unreadable.iter().cloned());
        if let Some((path, text)) = &self.defaults {
            sources.add_layer(Layer::Defaults, path, text);
        }
        let Some(name) = tables::profile(sources) else { return };
        let at = sources.locate(&name.span());
        let name = name.get_ref().as_str();
        let built_in = PROFILES.iter().find(|(built_in, _)| *built_in == name);
        match (self.profiles.get(name), built_in) {
            (Some(Profile::Text(path, text)), _) => {
                sources.add_layer(Layer::Profile, path, text);
            }
            (Some(Profile::Refused(refused)), _) => found.push(refused.clone().note(at, "named here")),
            (Some(Profile::Masked), _) => {
                let hint = "remove the link to /dev/null that hides it, or name another".to_owned();
                found.push(Diagnostic::at(at, format!("the profile {name:?} is masked")).hint(hint));
            }
            (None, Some((_, text))) => {
                sources.add_layer(Layer::Profile, format!("<profile {name}>"), *text);
            }
            (None, None) => {
                let known = self.profiles.keys().map(String::as_str).chain(PROFILES.map(|(name, _)| name));
                let hint = match nearest(name, known.clone()) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => format!("known here: {}", known.collect::<Vec<_>>().join(", ")),
                };
                found.push(Diagnostic::at(at, format!("there is no profile {name:?}")).hint(hint));
            }
        }
    }

    /// What is wrong with profiles by themselves, whether a service names them or not.
    pub(super) fn check(&self) -> Vec<Diagnostic> {
        let mut found = self.unreadable.clone();
        for profile in self.profiles.values() {
            match profile {
                Profile::Text(path, text) => {
                    let mut sources = SourceMap::default();
                    sources.add_layer(Layer::Profile, path, text);
                    found.extend(tables::read::<Tables>(&sources).1);
                }
                Profile::Refused(refused) => found.push(refused.clone()),
                Profile::Masked => {}
            }
        }
        found
    }
}

fn profile(dir: &Path, file: &str, owners: &Owners) -> Option<(String, Profile)> {
    let path = dir.join(file);
    let name = file.strip_suffix(".toml").unwrap_or(file).to_owned();
    let profile = match (UnitName::new(&name), trust::read(&path, owners)) {
        (Err(_), _) => Profile::Refused(
            Diagnostic::about(&path, format!("{name:?} cannot name a profile"))
                .hint("write letters, digits, '_' and '-', beginning with a letter or digit".to_owned()),
        ),
        (Ok(_), Ok(Found::Text(text))) => Profile::Text(path, text),
        (Ok(_), Ok(Found::Mask)) => Profile::Masked,
        // Gone between the listing and the reading.
        (Ok(_), Ok(Found::Missing)) => return None,
        (Ok(_), Err(refusal)) => Profile::Refused(about(&path, refusal)),
    };
    Some((name, profile))
}

fn about(path: &Path, refusal: Refusal) -> Diagnostic {
    Diagnostic::about(path, refusal.message).hint(refusal.hint)
}
