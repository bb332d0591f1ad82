//! What the files of one service say, before anything is made of it: for whoever reads or edits them.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Sources,
    common::Common,
    diagnostic::{Diagnostic, Location, SourceMap},
    load, tables,
    trust::Owners,
};
use crate::spec::{HostFacts, Unit, UnitName};

/// The texts of one service.
#[derive(Debug)]
pub struct Written {
    /// Its own file; of an instance that has none, that of its template.
    pub file: PathBuf,
    /// What is wrong with finding and reading them.
    pub found: Vec<Diagnostic>,
    texts: SourceMap,
}

/// A key that the texts have.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// With its tables, as TOML wants it.
    pub key: String,
    /// Its value, or each of its list.
    pub value: Value,
    /// Where it is written; of a list, where that begins.
    pub at: Location,
}

/// As it is written.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    /// No list.
    One(String),
    /// A list, which several texts may have a part in.
    List(Vec<(String, Location)>),
}

impl Written {
    /// Finds and reads the texts of a service; none: no directory has a file for it.
    pub fn read(name: &UnitName, sources: &Sources, host: &HostFacts) -> Option<Self> {
        let scan = load::scan(sources);
        let file = scan.files.get(name).or_else(|| scan.template(name))?.clone();
        let owners = Owners::of_this_process();
        let common = Common::read(&sources.around, &owners, host);
        let (texts, found) = load::texts(&file, (&sources.dirs, &load::files(name)), (&owners, &common));
        Some(Self { file, found, texts })
    }

    /// Its file and its drop-ins, as they are.
    pub fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.texts.own()
    }

    /// The same, with another text in the place of one of them, or as one more of the drop-ins.
    #[must_use]
    pub fn with(&self, path: &Path, text: &str) -> Self {
        let mut own: Vec<(&Path, &str)> = self.texts.own().filter(|(known, _)| *known != path).collect();
        // The file stands before its drop-ins, which are in the order of their names.
        let at = match path == self.file {
            true => 0,
            false => own.iter().skip(1).filter(|(known, _)| known.file_name() < path.file_name()).count() + 1,
        };
        own.insert(at.min(own.len()), (path, text));
        let mut texts = SourceMap::default();
        for (path, text) in own {
            texts.add(path, text);
        }
        Self { file: self.file.clone(), found: Vec::new(), texts }
    }

    /// What is wrong with them, as far as other services do not matter.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn check(
        &self,
        name: &UnitName,
        sources: &Sources,
        host: &HostFacts,
    ) -> Result<Unit, Vec<Diagnostic>> {
        let owners = Owners::of_this_process();
        let common = Common::read(&sources.around, &owners, host);
        let (mut texts, mut found) = (self.texts.own_alone(), Vec::new());
        common.lay(&mut texts, &mut found);
        let (file, more) = load::parse_with(name, texts, host, &owners);
        found.extend(more);
        super::resolve((file, found), host, common.policy()).map(|checked| checked.unit)
    }

    /// What all of them say together, with what profile and `[defaults]` say where they do not.
    ///
    /// # Errors
    /// One of them is no TOML.
    pub fn settings(&self) -> Result<Vec<Setting>, Vec<Diagnostic>> {
        let mut found = Vec::new();
        let tree = tables::merged(&self.texts, &mut found).ok_or(found)?;
        let mut all = Vec::new();
        self.gather("", &tree, &mut all);
        Ok(all)
    }

    fn gather(&self, prefix: &str, table: &DeTable<'_>, all: &mut Vec<Setting>) {
        for (key, value) in table {
            let key = format!("{prefix}{}", as_key(key.get_ref()));
            let at = |value: &Spanned<DeValue<'_>>| self.texts.locate(&value.span());
            let written = match value.get_ref() {
                DeValue::Table(below) => {
                    self.gather(&format!("{key}."), below, all);
                    continue;
                }
                DeValue::Array(items) => {
                    Value::List(items.iter().map(|item| (self.inline(item), at(item))).collect())
                }
                _ => Value::One(self.inline(value)),
            };
            all.push(Setting { key, value: written, at: at(value) });
        }
    }

    /// As it is written; tables and lists on one line.
    fn inline(&self, value: &Spanned<DeValue<'_>>) -> String {
        match value.get_ref() {
            DeValue::Table(table) => {
                let entry = |(key, value): (&Key<'_>, &Spanned<DeValue<'_>>)| {
                    format!("{} = {}", as_key(key.get_ref()), self.inline(value))
                };
                format!("{{ {} }}", table.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
            DeValue::Array(items) => {
                let items: Vec<String> = items.iter().map(|item| self.inline(item)).collect();
                format!("[{}]", items.join(", "))
            }
            _ => self.texts.text(&value.span()).to_owned(),
        }
    }
}

type Key<'i> = Spanned<Cow<'i, str>>;

fn as_key(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match !key.is_empty() && key.chars().all(is_bare) {
        true => key.to_owned(),
        // TOML's strings are JSON's.
        false => serde_json::Value::from(key).to_string(),
    }
}
