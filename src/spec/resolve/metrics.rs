//! `[metrics]`.

use std::collections::BTreeMap;

use super::Reader;
use crate::{config::value::Refusal, metrics::check_label, spec::defaults};

/// What everything measured of the service is marked with.
pub(super) fn labels(reader: &mut Reader<'_>) -> BTreeMap<String, String> {
    let written = &reader.file.tables.metrics.labels;
    if let Some((last, _)) = written.iter().nth(defaults::MOST_LABELS) {
        let most = defaults::MOST_LABELS;
        let refusal = Refusal::new(format!("{} labels, and {most} is the most", written.len()));
        reader.refuse(
            last.span(),
            refusal.hint("each is repeated in every line that is measured of the service"),
        );
    }
    let mut labels = BTreeMap::new();
    for (name, value) in written {
        if let Err(why) = check_label(name.get_ref()) {
            let refusal = Refusal::new(format!("label {:?} {why}", name.get_ref()));
            reader.refuse(name.span(), refusal.hint("write another name, such as \"team\" or \"tier\""));
            continue;
        }
        let Some(text) = reader.line(value) else { continue };
        if text.is_empty()
            || text.len() > defaults::MOST_LABEL_BYTES
            || name.get_ref().len() > defaults::MOST_LABEL_BYTES
        {
            let most = defaults::MOST_LABEL_BYTES;
            let refusal =
                Refusal::new(format!("label {:?} is empty or longer than {most} bytes", name.get_ref()));
            reader.refuse(value.span(), refusal.hint("a label without a value is as good as none"));
            continue;
        }
        labels.insert(name.get_ref().clone(), text);
    }
    labels
}
