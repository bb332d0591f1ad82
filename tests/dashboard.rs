//! The dashboard that is shipped asks for nothing that is not exported, and is laid out as Grafana wants it.

#![allow(missing_docs, reason = "a test program exports nothing")]
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on ends here, functions beside the tests included"
)]

use std::{collections::BTreeSet, fs, path::Path};

use palisade::metrics::{Kind, Metric};
use serde_json::Value;

fn dashboard() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/grafana/palisade.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    value[key].as_array().map(|items| items.iter().collect()).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// Every query of the dashboard with the legend of what it gives, those of its variables included.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let panels = list(dashboard, "panels").into_iter().flat_map(|panel| list(panel, "targets"));
    let panels =
        panels.map(|target| (text(target, "expr").to_owned(), text(target, "legendFormat").to_owned()));
    let variables = list(&dashboard["templating"], "list");
    let variables = variables.iter().filter_map(|variable| variable["query"]["query"].as_str());
    panels.chain(variables.map(|query| (query.to_owned(), String::new()))).collect()
}

/// The words of an expression that may be names: letters, digits and underscores; with what stands before and behind each.
fn words(expression: &str) -> Vec<(&str, &str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = expression[at..].find(is_word).map(|start| start + at) {
        let end = expression[start..].find(|c| !is_word(c)).map_or(expression.len(), |end| start + end);
        found.push((&expression[start..end], &expression[..start], &expression[end..]));
        at = end;
    }
    found
}

fn metrics_of(expression: &str) -> Vec<(Metric, &str, &str)> {
    let mut found = Vec::new();
    for (word, before, behind) in
        words(expression).into_iter().filter(|(word, ..)| word.starts_with("palisade"))
    {
        let metric = Metric::ALL.iter().find(|metric| metric.name() == word);
        found.push((
            *metric.unwrap_or_else(|| panic!("{word} is not exported: {expression}")),
            before,
            behind,
        ));
    }
    found
}

/// The labels that an expression or its legend names.
fn labels_of(expression: &str, legend: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for (word, _, behind) in words(expression) {
        if ["=", "!="].iter().any(|sign| behind.starts_with(sign)) && !behind.starts_with("==") {
            labels.insert(word.to_owned());
        }
    }
    for part in expression.split("by (").skip(1) {
        let names = part.split(')').next().unwrap_or_default().split(',');
        labels.extend(names.map(|name| name.trim().to_owned()));
    }
    labels.extend(legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap().trim().to_owned()));
    labels
}

#[test]
fn every_query_asks_for_what_is_exported() {
    let dashboard = dashboard();
    let queries = queries(&dashboard);
    assert!(queries.len() > 20, "the search finds what there is");
    for (expression, legend) in &queries {
        let metrics = metrics_of(expression);
        assert_eq!(metrics.len(), 1, "one metric each: {expression}");
        for (metric, before, behind) in metrics {
            for label in labels_of(expression, legend) {
                assert!(metric.labels().contains(&&*label), "{} has no {label}: {expression}", metric.name());
            }
            // What only grows says nothing by itself.
            let is_rate = before.ends_with("rate(") || before.ends_with("increase(");
            assert_eq!(metric.kind() == Kind::Counter, is_rate, "{expression}");
            assert_eq!(is_rate, behind.contains("]"), "over a span of time: {expression}");
        }
        // The states that it asks for are states.
        for state in expression.split("state=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let all = palisade::control::types::ServiceState::ALL;
            assert!(all.iter().any(|known| known.as_str() == state), "{state} in {expression}");
        }
    }
}

#[test]
fn what_the_search_looks_for_it_finds() {
    let expression = "sum by (service, reason) (rate(palisade_service_denials_total{service=~\"$service\",layer!=\"x\"}[5m])) == 1";
    let labels = labels_of(expression, "{{service}} {{ wrong }}");
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    assert_eq!(labels, ["layer", "reason", "service", "wrong"]);
    assert_eq!(metrics_of(expression)[0].0, Metric::Denials);
    let is_refused = std::panic::catch_unwind(|| metrics_of("palisade_service_cpu_total").len());
    assert!(is_refused.is_err());
}

#[test]
fn it_is_laid_out_as_grafana_wants_it() {
    let dashboard = dashboard();
    // Of Grafana 10.4; later ones bring it up to their own.
    assert_eq!(dashboard["schemaVersion"], 39);
    assert!(!text(&dashboard, "title").is_empty() && text(&dashboard, "uid").len() <= 40);
    assert!(dashboard["id"].is_null(), "an id is another Grafana's");
    let variables: BTreeSet<String> = list(&dashboard["templating"], "list")
        .iter()
        .map(|variable| text(variable, "name").to_owned())
        .chain(["__rate_interval".to_owned()])
        .collect();
    let whole = dashboard.to_string();
    for used in whole.split('$').skip(1).map(|rest| rest.trim_start_matches('{')) {
        let name = words(used).first().map(|(word, ..)| (*word).to_owned()).unwrap_or_default();
        assert!(variables.contains(&name), "${name} is no variable");
    }
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard, "panels") {
        let title = text(panel, "title");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let known = ["row", "stat", "table", "timeseries", "state-timeline"];
        assert!(known.contains(&text(panel, "type")), "{title}");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24 && place("w") > 0 && place("h") > 0, "{title}");
        for (x, y) in (place("x")..place("x") + place("w"))
            .flat_map(|x| (place("y")..place("y") + place("h")).map(move |y| (x, y)))
        {
            assert!(cells.insert((x, y)), "{title} lies on another");
        }
        let mut letters = BTreeSet::new();
        for target in list(panel, "targets") {
            assert!(letters.insert(text(target, "refId")), "{title}");
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
        assert_eq!(letters.is_empty(), text(panel, "type") == "row", "{title}");
    }
}
