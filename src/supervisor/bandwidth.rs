//! How much the links of services carry, kept to what their files say while they run.

use super::Supervisor;
use crate::spec::UnitName;

impl Supervisor {
    /// The file of a service bounds its link in another way than before, or not at all any more.
    fn settle_bandwidth(&mut self, name: &UnitName) {
        let Some(wanted) = self.fleet.entry(name).map(|entry| entry.unit.network.bandwidth) else { return };
        let Some(net) = self.nets.get_mut(name).filter(|net| net.link.is_some()) else { return };
        if net.bandwidth == wanted {
            return;
        }
        match self.launcher.network.shape(net, wanted) {
            Ok(()) => self.persist(name),
            Err(error) => tracing::error!(unit = %name, "its link is not bounded as its file says: {error}"),
        }
    }

    /// The files have been read anew.
    pub(super) fn settle_all_bandwidth(&mut self) {
        for name in self.nets.keys().cloned().collect::<Vec<_>>() {
            self.settle_bandwidth(&name);
        }
    }

    /// What a predecessor had bounded is bounded, whatever has become of it meanwhile.
    pub(super) fn bound_again(&mut self) {
        for (name, net) in self.nets.iter_mut().filter(|(_, net)| !net.bandwidth.is_unbounded()) {
            if let Err(error) = self.launcher.network.shape(net, net.bandwidth) {
                tracing::error!(unit = %name, "its link is not bounded: {error}");
            }
        }
    }
}
