//! JSON Schema of the files, for editors: what may stand where and of which type, from the table of keys.
//!
//! What a value means, and what goes together, is for `palisade check`.

use serde_json::{Map, Value, json};

use super::{Exit, output};
use crate::config::reference::{Key, SERVICE, SETTINGS, Table};

/// Which files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// `services.d/*.toml`
    Service,
    /// `services.d/*.toml.d/*.toml` and `profiles.d/*.toml`, which need not be whole
    DropIn,
    /// `palisade.toml`
    Settings,
}

/// `palisade schema`.
pub(super) fn print(kind: Kind) -> Exit {
    match output::json(&schema(kind)) {
        Ok(()) => Exit::Done,
        Err(_) => Exit::Failed,
    }
}

/// Draft 7: what taplo and with it the editors know.
fn schema(kind: Kind) -> Value {
    let mut definitions = Map::new();
    for (tables, place) in [(SERVICE, "service"), (SETTINGS, "settings")] {
        // `[defaults]` of the settings has the tables of a service file.
        if place == "service" || kind == Kind::Settings {
            for table in tables {
                definitions.insert(format!("{place}.{}", table.kind), of_table(table, place));
            }
        }
    }
    if kind == Kind::Service {
        definitions["service.Tables"]["required"] = json!(["service"]);
        definitions["service.ServiceTable"]["required"] = json!(["command"]);
    }
    let top = if kind == Kind::Settings { "settings.SettingsTables" } else { "service.Tables" };
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": if kind == Kind::Settings { "palisade.toml(5)" } else { "palisade.services(5)" },
        "definitions": definitions,
        "allOf": [{ "$ref": format!("#/definitions/{top}") }],
    })
}

fn of_table(table: &Table, place: &str) -> Value {
    let mut properties = Map::new();
    for key in table.keys {
        let mut value = of_kind(key.kind, place);
        // What stands beside a `$ref` does not count.
        if value.get("$ref").is_some() {
            value = json!({ "allOf": [value] });
        }
        value["description"] = json!(key.about);
        properties.insert(key.name.to_owned(), value);
    }
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    let lists: Vec<&str> = table.keys.iter().filter(|key| is_list(key)).map(|key| key.name).collect();
    if !lists.is_empty() {
        // `"+key"` appends to what a file below this one has.
        schema["patternProperties"] = json!({ format!("^\\+({})$", lists.join("|")): { "type": "array" } });
    }
    // Other tables may be completed by a file above or below; an item of a list is whole.
    if ["HookTable", "MountTable", "TmpfsTable", "SocketTable", "CredentialTable", "IoMaxTable"]
        .contains(&table.kind)
    {
        let required = table.keys.iter().filter(|key| key.about.ends_with("Required."));
        schema["required"] = required.map(|key| key.name).collect();
    }
    schema
}

fn is_list(key: &Key) -> bool {
    key.kind.starts_with("Vec<")
        || ["WordOrList", "Wanted", "Instances", "HooksText", "AfterText", "SeccompText"].contains(&key.kind)
}

fn of_kind(kind: &str, place: &str) -> Value {
    let table = |kind: &str| json!({ "$ref": format!("#/definitions/{place}.{kind}") });
    let string = json!({ "type": "string" });
    let strings = json!({ "type": "array", "items": string });
    if let Some(item) = kind.strip_prefix("Vec<") {
        return json!({ "type": "array", "items": of_kind(item.trim_end_matches('>'), place) });
    }
    if let Some(entry) = kind.strip_prefix("BTreeMap<Text, ") {
        return json!({ "type": "object", "additionalProperties": of_kind(entry.trim_end_matches('>'), place) });
    }
    match kind {
        "bool" => json!({ "type": "boolean" }),
        "i64" => json!({ "type": "integer" }),
        "Text" => string,
        "Scalar" => json!({ "type": ["string", "number"] }),
        "Switch" => json!({ "type": ["boolean", "string"] }),
        "WordOrList" => json!({ "type": ["string", "array"], "items": string }),
        "Wanted" => {
            json!({ "type": ["string", "integer", "boolean", "array"], "items": { "type": ["string", "number"] } })
        }
        "Instances" => json!({ "type": ["integer", "array"], "items": string }),
        "HooksText" => {
            json!({ "type": "array", "items": { "anyOf": [string, strings, table("HookTable")] } })
        }
        "SeccompText" => json!({ "anyOf": [string, strings, table("SeccompTable")] }),
        "AfterText" => {
            let milestones = json!({ "type": "object", "additionalProperties": string });
            json!({ "anyOf": [{ "type": "array", "items": { "anyOf": [string, milestones] } }, milestones] })
        }
        // `[defaults]`.
        "Tables" => json!({ "$ref": "#/definitions/service.Tables" }),
        kind => table(kind),
    }
}
