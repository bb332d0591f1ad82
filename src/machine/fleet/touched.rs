//! Which entries are not what they were, and in which order that is to be written down. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::spec::UnitName;

/// Names of services, each once.
///
/// Each service has a file of its own, and whoever writes them may be killed between two. What is the cause of something is
/// heard of again by a successor: the run whose end was not written down is found ended, the moment that was not is still
/// due. What follows from it for others is not. So what follows is written down before its cause.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Touched {
    /// As they came up: a cause comes before what follows from it, but for one that came up before by itself.
    names: Vec<UnitName>,
    known: BTreeSet<UnitName>,
    /// What was brought about by each, whenever it came up.
    brought: BTreeMap<UnitName, Vec<UnitName>>,
}

impl Touched {
    /// One more.
    pub(super) fn insert(&mut self, name: UnitName) {
        if self.known.insert(name.clone()) {
            self.names.push(name);
        }
    }

    /// Notes that something becomes of `other` because of `cause`.
    pub(super) fn bring(&mut self, cause: &UnitName, other: &UnitName) {
        self.brought.entry(cause.clone()).or_default().push(other.clone());
    }

    /// Whether it is one of them.
    pub fn contains(&self, name: &UnitName) -> bool {
        self.known.contains(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// In the order in which they are to be written down. The two runs of a service are in one file: the service comes after
    /// its twin.
    pub fn in_order(&self) -> Vec<&UnitName> {
        let (mut order, mut met) = (Vec::new(), BTreeSet::new());
        for name in self.names.iter().rev() {
            self.visit(name, &mut met, &mut order);
        }
        order
    }

    /// Puts a name behind those that it has brought about. Of two that have brought about each other, one is first.
    fn visit<'a>(
        &'a self,
        name: &'a UnitName,
        met: &mut BTreeSet<&'a UnitName>,
        order: &mut Vec<&'a UnitName>,
    ) {
        if !met.insert(name) {
            return;
        }
        if let Some(twin) = self.known.get(&name.twin()).filter(|_| !name.is_twin()) {
            self.visit(twin, met, order);
        }
        for other in self.brought.get(name).into_iter().flatten() {
            self.visit(other, met, order);
        }
        if self.contains(name) {
            order.push(name);
        }
    }
}

impl Extend<UnitName> for Touched {
    fn extend<T: IntoIterator<Item = UnitName>>(&mut self, names: T) {
        names.into_iter().for_each(|name| self.insert(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_written_before_its_cause() {
        let [a, b, c] = ["a", "b", "c"].map(|name| UnitName::new(name).unwrap());
        let mut touched = Touched::default();
        touched.extend([a.clone(), b.clone(), a.clone()]);
        assert_eq!(touched.in_order(), [&b, &a]);
        // It came up before by itself.
        touched.insert(c.clone());
        touched.bring(&c, &a);
        assert_eq!(touched.in_order(), [&a, &c, &b]);
        touched.bring(&a, &c);
        assert_eq!(touched.in_order().len(), 3, "a circle comes to an end");
        touched.insert(b.twin());
        let order = touched.in_order();
        assert_eq!(
            order.iter().position(|name| **name == b),
            Some(3),
            "both runs are in one file: {order:?}"
        );
    }
}
