//! What a service says about the others: `[unit]` from `requires` to `on_success`.

use std::ops::Range;

use super::{Claims, Reader, one_of, unique};
use crate::{
    config::{
        schema::{AfterText, Text},
        value::Refusal,
    },
    spec::{After, Milestone, Unit, UnitName},
};

type Named = Vec<(UnitName, Range<usize>)>;

/// Everything that names other services in `[unit]`, each with its span.
pub(super) struct Relations {
    requires: Named,
    wants: Named,
    binds_to: Named,
    part_of: Named,
    upholds: Named,
    conflicts: Named,
    after: Vec<(After, Range<usize>)>,
    before: Vec<(After, Range<usize>)>,
    on_failure: Named,
    on_success: Named,
}

pub(super) fn relations(reader: &mut Reader<'_>) -> Relations {
    let table = &reader.file.tables.unit;
    let relations = Relations {
        requires: names(reader, &table.requires),
        wants: others(reader, "wants", &table.wants),
        binds_to: names(reader, &table.binds_to),
        part_of: others(reader, "part_of", &table.part_of),
        upholds: others(reader, "upholds", &table.upholds),
        conflicts: others(reader, "conflicts", &table.conflicts),
        after: order(reader, "unit.after", &table.after),
        before: order(reader, "unit.before", &table.before),
        on_failure: others(reader, "on_failure", &table.on_failure),
        on_success: others(reader, "on_success", &table.on_success),
    };
    for (name, span) in &relations.conflicts {
        let needs = relations.requires.iter().chain(&relations.binds_to);
        if needs.into_iter().any(|(other, _)| other == name) {
            let refusal = Refusal::new(format!("the service needs {name}, which it conflicts with"));
            reader.refuse(span.clone(), refusal.hint("take one of the two out"));
        }
    }
    relations
}

impl Relations {
    /// Says all of it in `unit`, and in `claims` for the checks across files.
    pub(super) fn tell(self, unit: &mut Unit, claims: &mut Claims) {
        let order = |list: &[(After, Range<usize>)]| -> Named {
            list.iter().map(|(after, span)| (after.name.clone(), span.clone())).collect()
        };
        claims.requires = [self.requires.clone(), self.binds_to.clone()].concat();
        (claims.after, claims.before) = (order(&self.after), order(&self.before));
        let others = [&self.wants, &self.part_of, &self.upholds, &self.conflicts];
        let ends = [&self.on_failure, &self.on_success];
        claims.others = others.into_iter().chain(ends).flatten().cloned().collect();
        let bare = |list: Named| unique(list.into_iter().map(|(name, _)| name), UnitName::clone);
        let sorted = |list: Vec<(After, Range<usize>)>| {
            let key = |after: &After| (after.name.clone(), after.milestone);
            unique(list.into_iter().map(|(after, _)| after), key)
        };
        unit.requires = bare(self.requires);
        unit.wants = bare(self.wants);
        unit.binds_to = bare(self.binds_to);
        unit.part_of = bare(self.part_of);
        unit.upholds = bare(self.upholds);
        unit.conflicts = bare(self.conflicts);
        unit.after = sorted(self.after);
        unit.before = sorted(self.before);
        unit.on_failure = bare(self.on_failure);
        unit.on_success = bare(self.on_success);
    }
}

fn names(reader: &mut Reader<'_>, list: &Option<Vec<Text>>) -> Named {
    list.iter().flatten().filter_map(|text| Some((reader.name(text)?, text.span()))).collect()
}

/// As `names`, for what a service cannot be to itself; where that would be a cycle, it is told as one.
fn others(reader: &mut Reader<'_>, key: &str, list: &Option<Vec<Text>>) -> Named {
    let all = names(reader, list);
    if let Some((name, span)) = all.iter().find(|(name, _)| *name == reader.file.name) {
        let refusal = Refusal::new(format!("`{key}` names {name} itself"));
        reader.refuse(span.clone(), refusal.hint("name another service, or take it out"));
    }
    all
}

const MILESTONES: &[(&str, Milestone)] = &[
    ("started", Milestone::Started),
    ("ready", Milestone::Ready),
    ("healthy", Milestone::Healthy),
    ("done", Milestone::Done),
];

fn order(reader: &mut Reader<'_>, key: &str, list: &Option<AfterText>) -> Vec<(After, Range<usize>)> {
    let entry = |(name, milestone): &(Text, Option<Text>)| {
        let span = name.span();
        let name = reader.name(name);
        let milestone = match milestone {
            Some(text) => {
                let word = reader.text(text)?;
                reader.take(text.span(), one_of(key, &word, MILESTONES))?
            }
            None => Milestone::Ready,
        };
        Some((After { name: name?, milestone }, span))
    };
    list.iter().flat_map(|list| &list.0).filter_map(entry).collect()
}
