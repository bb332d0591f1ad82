//! `policy.toml`: how far service files may go, and what the owners of services may do.
//!
//! Every row of the table of exposures is a key here: `true` lets everything through, `false` what is the default alone, a
//! list what matches one of its patterns. `[ceiling]` is for every service, `[[for]]` for some, the last that speaks of a
//! key wins. Pure: the file is read elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Opened,
    diagnostic::{Diagnostic, Location, SourceMap},
    schema::Scalar,
    value::{self, Refusal, nearest},
};
use crate::spec::{
    self, HostFacts, MOST, Owner, Unit,
    exposure::{self, Kind, Measure, Opening, Standing},
};

/// What the owners of a service may do with it, unless the policy says otherwise.
const OWNERS_MAY: [Verb; 6] =
    [Verb::Start, Verb::Stop, Verb::Restart, Verb::Reload, Verb::Status, Verb::Logs];

/// Something that the owner of a service can be allowed to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// `start`.
    Start,
    /// `stop`.
    Stop,
    /// `restart`.
    Restart,
    /// `reload`.
    Reload,
    /// `kill`: a signal to its main process.
    Kill,
    /// `list`, `status`, `events`.
    Status,
    /// `logs`.
    Logs,
    /// `exec`, `shell`.
    Exec,
}

const VERBS: [(&str, Verb); 8] = [
    ("start", Verb::Start),
    ("stop", Verb::Stop),
    ("restart", Verb::Restart),
    ("reload", Verb::Reload),
    ("kill", Verb::Kill),
    ("status", Verb::Status),
    ("logs", Verb::Logs),
    ("exec", Verb::Exec),
];

/// The whole file.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `[ceiling]` first, then every `[[for]]`.
    ceilings: Vec<Ceiling>,
    /// `[owners] may`.
    owners_may: BTreeSet<Verb>,
}

impl Default for Policy {
    /// That of a host without a policy: nothing is forbidden.
    fn default() -> Self {
        Self { ceilings: Vec::new(), owners_may: OWNERS_MAY.into() }
    }
}

/// One table of rules.
#[derive(Clone, Debug)]
struct Ceiling {
    whom: Whom,
    /// For the keys that no rule speaks of; none: the ceilings before this one say.
    otherwise: Option<Rule>,
    rules: BTreeMap<&'static str, Rule>,
    most: BTreeMap<&'static str, Most>,
}

/// The most that a service may take of something, and where that is said.
#[derive(Clone, Debug)]
struct Most {
    amount: u64,
    /// As it is written.
    text: String,
    at: Location,
}

#[derive(Clone, Debug)]
enum Whom {
    All,
    /// Services by name, and by the owners that their files name.
    Some(Vec<glob::Pattern>, Vec<Owner>),
}

/// How far one key may go, and where that is said.
#[derive(Clone, Debug)]
struct Rule {
    limit: Limit,
    at: Location,
}

#[derive(Clone, Debug)]
enum Limit {
    Any,
    None,
    Patterns(Vec<glob::Pattern>),
}

impl Limit {
    fn admits(&self, value: &str) -> bool {
        match self {
            Limit::Any => true,
            Limit::None => false,
            Limit::Patterns(patterns) => patterns.iter().any(|pattern| pattern.matches(value)),
        }
    }
}

impl Policy {
    /// Reads a policy from its text; `file` is the name that mistakes are said to be in.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &Path, text: &str, host: &HostFacts) -> Result<Self, Vec<Diagnostic>> {
        let mut sources = SourceMap::default();
        sources.add(file, text);
        let mut reader = Reader { sources, host, found: Vec::new() };
        let policy = reader.read(text);
        match reader.found.is_empty() {
            true => Ok(policy),
            false => Err(reader.found),
        }
    }

    /// What of `opened`, and of what is measured, lies above the ceiling, as mistakes in the files of the service; `at`
    /// knows where a key stands there.
    pub fn check(&self, unit: &Unit, opened: &[Opened], at: impl Fn(&str) -> Location) -> Vec<Diagnostic> {
        let above = |opened: &Opened| {
            let rule = self.forbids(unit, opened.row.name, &opened.opening)?;
            let (name, value) = (opened.row.name, &opened.opening.value);
            let message = format!("`{name}` is above the ceiling of this host's policy: {value}");
            let hint = match &rule.limit {
                Limit::Patterns(patterns) => {
                    let shown: Vec<&str> = patterns.iter().map(glob::Pattern::as_str).collect();
                    format!("the policy lets through {}", shown.join(", "))
                }
                Limit::None | Limit::Any => "do without it, or have the policy allow it".to_owned(),
            };
            let at = opened.at.clone().unwrap_or_else(|| rule.at.clone());
            Some(Diagnostic::at(at, message).hint(hint).note(rule.at.clone(), "forbidden here"))
        };
        let too_much = |measure: &Measure| {
            let (most, has) = self.exceeds(unit, measure)?;
            let message =
                format!("`{}` is above the ceiling of this host's policy: {}", measure.name, told(has));
            let hint = format!("write {} or less, here or in a profile", most.text);
            Some(Diagnostic::at(at(measure.at), message).hint(hint).note(most.at.clone(), "forbidden here"))
        };
        let measured = exposure::MEASURES.iter().filter_map(too_much);
        opened.iter().filter_map(above).chain(measured).take(MOST).collect()
    }

    /// What of a unit lies above the ceiling, in one line: for those that run since before the policy was as it is.
    pub fn refuses(&self, unit: &Unit) -> Option<String> {
        if self.ceilings.is_empty() {
            return None;
        }
        let too_much = exposure::MEASURES.iter().find_map(|measure| {
            let (most, has) = self.exceeds(unit, measure)?;
            Some(format!("`{}` is above the ceiling of {}: {}", measure.name, most.at, told(has)))
        });
        too_much.or_else(|| self.forbidden(unit))
    }

    fn forbidden(&self, unit: &Unit) -> Option<String> {
        exposure::TABLE.iter().find_map(|row| {
            let opening = (row.find)(unit).into_iter().find(|o| self.forbids(unit, row.name, o).is_some())?;
            let rule = self.forbids(unit, row.name, &opening)?;
            Some(format!("`{}` is above the ceiling of {}: {}", row.name, rule.at, opening.value))
        })
    }

    /// Whether somebody who owns a service may do this with it.
    pub fn owners_may(&self, verb: Verb) -> bool {
        self.owners_may.contains(&verb)
    }

    /// The bound that a unit goes beyond, and how far it goes; no bound at all goes beyond every one.
    fn exceeds(&self, unit: &Unit, measure: &Measure) -> Option<(&Most, Option<u64>)> {
        let mut meant = self.ceilings.iter().rev().filter(|ceiling| ceiling.whom.includes(unit));
        let most = meant.find_map(|ceiling| ceiling.most.get(measure.name))?;
        let has = (measure.find)(unit);
        has.is_none_or(|has| has > most.amount).then_some((most, has))
    }

    /// The rule that keeps an opening out.
    fn forbids(&self, unit: &Unit, name: &str, opening: &Opening) -> Option<&Rule> {
        if opening.standing == Standing::Default {
            return None;
        }
        let mut meant = self.ceilings.iter().rev().filter(|ceiling| ceiling.whom.includes(unit));
        let rule = meant.find_map(|ceiling| ceiling.rules.get(name).or(ceiling.otherwise.as_ref()))?;
        (!rule.limit.admits(&opening.value)).then_some(rule)
    }
}

impl Whom {
    fn includes(&self, unit: &Unit) -> bool {
        match self {
            Whom::All => true,
            Whom::Some(names, owners) => {
                names.iter().any(|pattern| pattern.matches(unit.name.as_str()))
                    || owners.iter().any(|owner| unit.owners.contains(owner))
            }
        }
    }
}

fn told(amount: Option<u64>) -> String {
    amount.map_or_else(|| "no bound".to_owned(), |amount| amount.to_string())
}

struct Reader<'a> {
    sources: SourceMap,
    host: &'a HostFacts,
    found: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn read(&mut self, text: &str) -> Policy {
        let mut policy = Policy::default();
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors.iter().take(MOST) {
            self.refuse(error.span().unwrap_or(0..0), Refusal::new(error.message()));
        }
        if !errors.is_empty() {
            return policy;
        }
        for (key, value) in table.into_inner() {
            let span = key.span();
            match (key.get_ref().as_ref(), value.into_inner()) {
                ("ceiling", DeValue::Table(table)) => {
                    let ceiling = self.ceiling(Whom::All, &table);
                    policy.ceilings.insert(0, ceiling);
                }
                ("for", DeValue::Array(items)) => {
                    for item in items {
                        let span = item.span();
                        match item.into_inner() {
                            DeValue::Table(mut table) => {
                                let whom = self.whom(&mut table, span);
                                let ceiling = self.ceiling(whom, &table);
                                policy.ceilings.push(ceiling);
                            }
                            _ => self.refuse(span, Refusal::new("`for` takes tables").hint("write [[for]]")),
                        }
                    }
                }
                ("owners", DeValue::Table(table)) => self.owners(&mut policy, table),
                ("ceiling" | "owners", _) => {
                    self.refuse(
                        span,
                        Refusal::new("this is a table").hint("write its name in square brackets"),
                    );
                }
                ("for", _) => self.refuse(span, Refusal::new("`for` takes tables").hint("write [[for]]")),
                (other, _) => {
                    let refusal = Refusal::new(format!("unknown key or table `{other}`"));
                    self.refuse(span, refusal.hint("known here: ceiling, for, owners"));
                }
            }
        }
        policy
    }

    fn refuse(&mut self, span: Range<usize>, refusal: Refusal) {
        if self.found.len() < MOST {
            let at = self.sources.locate(&span);
            self.found.push(Diagnostic::at(at, refusal.message).hint(refusal.hint));
        }
    }

    fn ceiling(&mut self, whom: Whom, table: &DeTable<'_>) -> Ceiling {
        let mut ceiling = Ceiling { whom, otherwise: None, rules: BTreeMap::new(), most: BTreeMap::new() };
        self.rules(&mut ceiling, "", table);
        ceiling
    }

    /// The keys of a table and of those in it: `network.mode` and `[ceiling.network] mode` are the same.
    fn rules(&mut self, ceiling: &mut Ceiling, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            if let DeValue::Table(below) = value.get_ref() {
                self.rules(ceiling, &format!("{name}."), below);
                continue;
            }
            if let Some(measure) = exposure::MEASURES.iter().find(|measure| measure.name == name) {
                if let Some((amount, text)) = self.amount(measure.kind, value) {
                    let at = self.sources.locate(&key.span());
                    ceiling.most.insert(measure.name, Most { amount, text, at });
                }
                continue;
            }
            let row = exposure::row(&name);
            if row.is_none() && name != "otherwise" {
                let measures = exposure::MEASURES.iter().map(|measure| measure.name);
                let names = exposure::TABLE.iter().map(|row| row.name).chain(measures);
                let refusal = Refusal::new(format!("`{name}` is nothing that a service can open"));
                self.refuse(
                    key.span(),
                    match nearest(&name, names.clone()) {
                        Some(near) => refusal.hint(format!("did you mean `{near}`?")),
                        None => refusal
                            .hint(format!("known here: otherwise, {}", names.collect::<Vec<_>>().join(", "))),
                    },
                );
                continue;
            }
            let Some(limit) = self.limit(value) else { continue };
            let rule = Rule { limit, at: self.sources.locate(&key.span()) };
            match row {
                Some(row) => drop(ceiling.rules.insert(row.name, rule)),
                None => ceiling.otherwise = Some(rule),
            }
        }
    }

    fn amount(&mut self, kind: Kind, value: &Spanned<DeValue<'_>>) -> Option<(u64, String)> {
        let scalar = match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => {
                number.as_str().replace('_', "").parse().ok().map(Scalar::Int)
            }
            DeValue::String(text) => Some(Scalar::Text(text.to_string())),
            _ => None,
        };
        let hint = match kind {
            Kind::Size => "write a size, such as \"4G\"",
            Kind::Number => "write a whole number",
        };
        let amount = match (kind, scalar) {
            (Kind::Size, Some(scalar)) => {
                value::parse_size(&scalar, None).map(|amount| (amount, scalar.to_string()))
            }
            (Kind::Number, Some(Scalar::Int(number))) => u64::try_from(number)
                .map(|amount| (amount, number.to_string()))
                .map_err(|_| Refusal::new(format!("{number} is negative")).hint(hint)),
            _ => Err(Refusal::new("this is no amount").hint(hint)),
        };
        amount.map_err(|refusal| self.refuse(value.span(), refusal)).ok()
    }

    fn limit(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Limit> {
        match value.get_ref() {
            DeValue::Boolean(true) => Some(Limit::Any),
            DeValue::Boolean(false) => Some(Limit::None),
            DeValue::Array(_) => Some(Limit::Patterns(self.patterns(value)?)),
            _ => {
                let refusal = Refusal::new("this is no ceiling");
                self.refuse(
                    value.span(),
                    refusal.hint("write true, false, or a list of what is let through"),
                );
                None
            }
        }
    }

    fn strings(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Vec<Spanned<String>>> {
        let DeValue::Array(items) = value.get_ref() else {
            self.refuse(value.span(), Refusal::new("this is no list").hint("write it in square brackets"));
            return None;
        };
        let mut strings = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => strings.push(Spanned::new(item.span(), text.to_string())),
                _ => {
                    self.refuse(item.span(), Refusal::new("this is no string").hint("write it in quotes"));
                    return None;
                }
            }
        }
        Some(strings)
    }

    fn patterns(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Vec<glob::Pattern>> {
        let mut patterns = Vec::new();
        for text in self.strings(value)? {
            match glob::Pattern::new(text.get_ref()) {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => {
                    let refusal = Refusal::new(format!("{:?} is no pattern: {}", text.get_ref(), error.msg));
                    self.refuse(
                        text.span(),
                        refusal.hint("write `*`, `?` and `[..]`, and `[[]` for a bracket"),
                    );
                    return None;
                }
            }
        }
        Some(patterns)
    }

    /// `services` and `owners` of a `[[for]]`, taken out of it.
    fn whom(&mut self, table: &mut DeTable<'_>, span: Range<usize>) -> Whom {
        let services = table.remove("services").and_then(|value| self.patterns(&value));
        let owners = table.remove("owners").and_then(|value| self.strings(&value));
        if services.is_none() && owners.is_none() {
            let refusal = Refusal::new("this does not say for whom");
            self.refuse(span, refusal.hint("add `services = [\"web-*\"]` or `owners = [\"1000\"]`"));
        }
        let mut ids = Vec::new();
        for text in owners.into_iter().flatten() {
            match spec::parse_owner(text.get_ref(), self.host) {
                Ok(owner) => ids.push(owner),
                Err(refusal) => self.refuse(text.span(), refusal),
            }
        }
        Whom::Some(services.unwrap_or_default(), ids)
    }

    fn owners(&mut self, policy: &mut Policy, table: DeTable<'_>) {
        for (key, value) in table {
            if key.get_ref() != "may" {
                let refusal = Refusal::new(format!("unknown key `{}` in `owners`", key.get_ref()));
                self.refuse(key.span(), refusal.hint("known here: may"));
                continue;
            }
            let Some(words) = self.strings(&value) else { continue };
            policy.owners_may.clear();
            for word in words {
                match VERBS.iter().find(|(name, _)| name == word.get_ref()) {
                    Some((_, verb)) => drop(policy.owners_may.insert(*verb)),
                    None => {
                        let names: Vec<&str> = VERBS.iter().map(|(name, _)| *name).collect();
                        let refusal =
                            Refusal::new(format!("{:?} is nothing that owners can do", word.get_ref()));
                        self.refuse(word.span(), refusal.hint(format!("known here: {}", names.join(", "))));
                    }
                }
            }
        }
    }
}
