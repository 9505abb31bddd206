//! A JSON Schema made from the declarations of `src/report/schema.rs` and their comments, and a check of documents by it:
//! as much of both as those declarations need.

use serde_json::{Map, Value, json};

/// The schema of the type `root` that this source declares.
pub fn of_source(source: &str, root: &str) -> Value {
    let mut definitions = Map::new();
    let (mut doc, mut optional) = (String::new(), false);
    let mut open: Option<(String, Value)> = None;
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(if doc.is_empty() { text.trim() } else { text });
        } else if line.starts_with("#[") {
            optional |= line == "#[serde(default)]";
        } else if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) {
            let body = json!({
                "description": plain(&doc), "type": "object", "properties": {}, "required": [], "additionalProperties": false
            });
            open = Some((name.to_string(), body));
        } else if let Some(name) = line.strip_prefix("pub enum ").and_then(|rest| rest.strip_suffix(" {")) {
            open = Some((name.to_string(), json!({ "description": plain(&doc), "oneOf": [] })));
        } else if line == "}" {
            if let Some((name, body)) = open.take() {
                definitions.insert(name, body);
            }
        } else if let Some((_, body)) = &mut open {
            if let Some((name, ty)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(": ")) {
                let mut entry = of_type(ty.trim_end_matches(','));
                entry["description"] = json!(plain(&doc));
                body["properties"][name] = entry;
                if !optional {
                    body["required"].as_array_mut().unwrap().push(json!(name));
                }
            } else if let (Some(variant), Some(list)) = (line.strip_suffix(','), body["oneOf"].as_array_mut())
            {
                list.push(json!({ "const": variant.to_lowercase(), "description": plain(&doc) }));
            }
        }
        if !line.starts_with("///") && !line.starts_with("#[") {
            (doc, optional) = (String::new(), false);
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "onnxq report",
        "$comment": "Made from src/report/schema.rs by tests/report.rs (BLESS=1).",
        "$ref": format!("#/$defs/{root}"),
        "$defs": definitions,
    })
}

/// Without the brackets of links to other items.
fn plain(doc: &str) -> String {
    doc.replace("[`", "`").replace("`]", "`")
}

fn of_type(ty: &str) -> Value {
    let inner = |prefix: &str| ty.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('>'));
    if let Some(some) = inner("Option<") {
        return json!({ "anyOf": [of_type(some), { "type": "null" }] });
    }
    if let Some(item) = inner("Vec<") {
        return json!({ "type": "array", "items": of_type(item) });
    }
    if let Some((_, value)) = inner("BTreeMap<").and_then(|pair| pair.split_once(", ")) {
        return json!({ "type": "object", "additionalProperties": of_type(value) });
    }
    if let Some(items) = ty.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        let items: Vec<Value> = items.split(", ").map(of_type).collect();
        return json!({ "type": "array", "prefixItems": items, "minItems": items.len(), "maxItems": items.len() });
    }
    match ty {
        "String" => json!({ "type": "string" }),
        "bool" => json!({ "type": "boolean" }),
        "u32" | "u64" | "usize" => json!({ "type": "integer", "minimum": 0 }),
        "f32" | "f64" => json!({ "type": "number" }),
        name => json!({ "$ref": format!("#/$defs/{name}") }),
    }
}

/// Where the document does not follow the schema; empty if it does.
pub fn violations(schema: &Value, document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, document, "$", &mut found);
    found
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#'));
        match target {
            Some(target) => check(root, target, value, at, found),
            None => found.push(format!("{at}: the schema has no {reference}")),
        }
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[key].as_array() {
            let fits = |choice: &&Value| {
                let mut inner = Vec::new();
                check(root, choice, value, at, &mut inner);
                inner.is_empty()
            };
            let count = choices.iter().filter(fits).count();
            if count == 0 || (key == "oneOf" && count != 1) {
                found.push(format!("{at}: {value} fits {count} of {key}"));
            }
        }
    }
    if let Some(wanted) = schema.get("const").filter(|wanted| *wanted != value) {
        found.push(format!("{at}: {value} is not {wanted}"));
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.as_u64().is_some(),
        Some("number") => value.is_number(),
        Some("null") => value.is_null(),
        _ => true,
    };
    if !fits {
        found.push(format!("{at}: {value} is no {}", schema["type"]));
    }
    if let Some(object) = value.as_object() {
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(key) {
                found.push(format!("{at}: no {key}"));
            }
        }
        for (key, inner) in object {
            let at = format!("{at}.{key}");
            match (schema["properties"].get(key), schema.get("additionalProperties")) {
                (Some(schema), _) => check(root, schema, inner, &at, found),
                (None, Some(Value::Bool(false))) => found.push(format!("{at}: unknown")),
                (None, Some(schema @ Value::Object(_))) => check(root, schema, inner, &at, found),
                _ => {}
            }
        }
    }
    if let Some(list) = value.as_array() {
        let first = schema["prefixItems"].as_array();
        if first.is_some_and(|first| first.len() != list.len()) {
            found.push(format!("{at}: {} items", list.len()));
        }
        for (k, inner) in list.iter().enumerate() {
            let own = first.and_then(|first| first.get(k)).or_else(|| schema.get("items"));
            if let Some(own) = own {
                check(root, own, inner, &format!("{at}[{k}]"), found);
            }
        }
    }
}
