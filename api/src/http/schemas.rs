//! The shapes of the description: parameters by name, bodies by route, in JSON Schema.
//!
//! One table for each, so that a limit is written once and every route that has it shows it.
//! Left out: the operations by kind, which the path's kind decides and OpenAPI cannot say.

use serde_json::{Value, json};

use super::problem::Code;
use crate::node::Level;
use atoll_store::name::Kind;

/// Bodies of successes: route, method, schema.
const ANSWERS: [(&str, &str, &str); 9] = [
    ("/v1/{kind}/{collection}/{id}", "get", "Entity"),
    ("/v1/{kind}/{collection}/{id}", "post", "Entity"),
    ("/v1/{kind}/{collection}/{id}", "put", "Entity"),
    ("/v1/{kind}/{collection}/{id}", "delete", "Entity"),
    ("/v1/{kind}/{collection}", "get", "Page"),
    ("/v1/batch", "post", "Results"),
    ("/v1/cluster", "get", "Cluster"),
    ("/v1/cluster/digest", "get", "Digest"),
    ("/openapi.json", "get", "Any"),
];
/// Bodies of requests: route, method, schema.
const BODIES: [(&str, &str, &str); 3] = [
    ("/v1/{kind}/{collection}/{id}", "post", "Operations"),
    ("/v1/{kind}/{collection}/{id}", "put", "Any"),
    ("/v1/batch", "post", "Batch"),
];
/// Lists are read from one replica of each shard.
const LIST: &str = "/v1/{kind}/{collection}";
/// Routes whose `GET` is a stream too.
const STREAMS: [&str; 3] =
    ["/v1/{kind}/{collection}/{id}", "/v1/{kind}/{collection}", "/v1/changes"];

/// Adds shapes to a description.
pub(super) fn add(api: &mut Value) {
    api["components"]["schemas"] = components();
    let Some(paths) = api["paths"].as_object_mut() else { return };
    let each = paths.iter_mut().filter_map(|(path, item)| Some((path, item.as_object_mut()?)));
    for (path, (_, operation)) in
        each.flat_map(|(path, item)| item.iter_mut().map(move |o| (path, o)))
    {
        for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap_or_default();
            if let Some(schema) = parameter_schema(name, path) {
                parameter["schema"] = schema;
            }
        }
        operation["responses"]["default"]["content"]["application/problem+json"] =
            json!({"schema": reference("Problem")});
    }
    for (path, method, schema) in ANSWERS {
        let answer = &mut paths[path][method]["responses"]["200"];
        answer["content"]["application/json"] = json!({"schema": reference(schema)});
    }
    for (path, method, schema) in BODIES {
        let body = &mut paths[path][method]["requestBody"];
        body["content"]["application/json"] = json!({"schema": reference(schema)});
        body["required"] = true.into();
    }
    for path in STREAMS {
        let answer = &mut paths[path]["get"]["responses"]["200"];
        for media in ["text/event-stream", "application/x-ndjson"] {
            answer["content"][media] = json!({"schema": {"type": "string"}});
        }
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn kinds() -> Vec<&'static str> {
    Kind::ALL.iter().map(|kind| kind.as_str()).collect()
}

fn parameter_schema(name: &str, path: &str) -> Option<Value> {
    Some(match name {
        "kind" => json!({"type": "string", "enum": kinds()}),
        "collection" => json!({"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"}),
        "id" => json!({"type": "string", "minLength": 1, "maxLength": 256}),
        "consistency" if path == LIST => json!({"type": "string", "enum": [Level::One.as_str()]}),
        "consistency" => json!({"type": "string", "enum": Level::ALL.map(Level::as_str)}),
        "timeout" => json!({"type": "integer", "minimum": 1, "maximum": 30_000}),
        "ttl" => json!({"type": "integer", "minimum": 1, "maximum": 3_153_600_000_u64}),
        "limit" => json!({"type": "integer", "minimum": 1, "maximum": 1000}),
        "Idempotency-Key" => json!({"type": "string", "pattern": "^[!-~]{1,128}$"}),
        "If-Match" | "If-None-Match" | "Last-Event-ID" => json!({"type": "string"}),
        _ => return None,
    })
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties})
}

/// As an object, but with no other members.
fn closed(required: &[&str], properties: Value) -> Value {
    let mut schema = object(required, properties);
    schema["additionalProperties"] = false.into();
    schema
}

fn components() -> Value {
    let text = json!({"type": "string"});
    let any = json!({"description": "any JSON value"});
    let list = |items: Value| json!({"type": "array", "items": items});
    let codes: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let operation = json!({"type": "object", "description": "see the route, by kind"});
    json!({
        "Any": any,
        "Problem": object(
            &["type", "title", "status", "code", "outcome", "retryable", "detail"],
            json!({
                "type": text, "title": text, "status": {"type": "integer"}, "detail": text,
                "code": {"type": "string", "enum": codes}, "retryable": {"type": "boolean"},
                "outcome": {"type": "string", "enum": ["applied", "not-applied", "unknown"]},
                "instance": text, "reasons": list(text.clone()),
            }),
        ),
        "Entity": object(
            &["kind", "collection", "id", "value", "version"],
            json!({
                "kind": {"type": "string", "enum": kinds()}, "collection": text, "id": text,
                "value": any, "version": text, "existed": {"type": "boolean"},
                "conflicts": {"type": "object", "additionalProperties": list(text.clone())},
            }),
        ),
        "Page": object(&["items", "cursor"], json!({
            "items": list(object(&["id", "version"], json!({
                "id": text, "version": text, "value": any, "conflicts": {"type": "object"},
            }))),
            "cursor": {"type": ["string", "null"]},
        })),
        "Operations": {"oneOf": [operation, {
            "type": "array", "items": operation, "minItems": 1, "maxItems": 1000,
        }]},
        "Batch": closed(&["operations"], json!({
            "operations": {"type": "array", "maxItems": 1000, "items": closed(
                &["method", "path"],
                json!({
                    "method": {"type": "string", "enum": ["POST", "PUT", "DELETE"]},
                    "path": text, "body": any,
                }),
            )},
            "atomic": {"type": "boolean", "const": false},
        })),
        "Results": object(&["results"], json!({
            "results": list(object(&["status", "body"], json!({
                "status": {"type": "integer"},
                "body": {"oneOf": [reference("Entity"), reference("Problem")]},
            }))),
        })),
        "Cluster": object(
            &["node", "region", "regions", "nodes", "round_trips", "lag", "writes"],
            json!({
                "node": text, "region": text, "regions": list(text.clone()),
                "nodes": list(json!({"type": "object"})), "round_trips": {"type": "object"},
                "lag": {"type": "object"}, "writes": {"type": "integer"},
            }),
        ),
        "Digest": object(&["node", "region", "shards"], json!({
            "node": text, "region": text,
            "shards": {"type": "object", "additionalProperties": text},
            "elsewhere": {"type": "array", "items": text},
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_a_table_exists_and_every_reference_leads_somewhere() {
        let bytes = super::super::described().1;
        let api: Value = serde_json::from_slice(&bytes).expect("JSON");
        for (path, method, schema) in ANSWERS.iter().chain(&BODIES) {
            assert!(api["paths"][path][method]["operationId"].is_string(), "{method} {path}");
            assert!(api["components"]["schemas"][schema].is_object(), "{schema}");
        }
        for path in STREAMS {
            let answer = &api["paths"][path]["get"]["responses"]["200"];
            assert!(answer["description"].is_string(), "{path}");
            assert!(answer["content"]["application/x-ndjson"].is_object(), "{path}");
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for rest in text.split("#/components/schemas/").skip(1) {
            let name = rest.split('"').next().unwrap_or_default();
            assert!(api["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
