//! A value against a CRD's schema: fields that exist, types, and bounds; as the API server's strict validation does.
//! Never evaluates CEL: what those rules forbid, [`convert`](crate::convert) forbids as well.

use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::{Map, Value};

/// A field of an object that does not have the shape of the schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ShapeError {
    /// The path from the root of the object.
    pub field: String,
    /// What is wrong with it.
    pub problem: ShapeProblem,
}

/// What can be wrong with a shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeProblem {
    /// The schema has no such field.
    #[error("unknown field; the fields here are {}", .known.join(", "))]
    Unknown {
        /// The fields there are.
        known: Vec<String>,
    },
    /// A field that must be there is not.
    #[error("is required")]
    Missing,
    /// A value of another type.
    #[error("expected {expected}, found {found}{hint}")]
    Type {
        /// What the schema says.
        expected: String,
        /// What is there.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// Not one of the words allowed.
    #[error("must be one of {}", .allowed.join(", "))]
    Word {
        /// The words.
        allowed: Vec<String>,
    },
    /// A list, map, text or number beyond its bounds.
    #[error("has {measure} {found}; {least} to {greatest} are allowed")]
    Bounds {
        /// What was measured.
        measure: &'static str,
        /// What was found.
        found: i64,
        /// The least.
        least: i64,
        /// The greatest; absent where there is none.
        greatest: Bound,
    },
}

/// An upper bound that may be absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound(Option<i64>);

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bound) => write!(f, "{bound}"),
            None => f.write_str("any number"),
        }
    }
}

/// A text from a file for use in a message: short, on one line.
pub(super) fn quoted(text: &str) -> String {
    text.chars().take(128).flat_map(char::escape_debug).collect()
}

/// Checks an object, without its status, against the schema of its kind.
pub(super) fn check(object: &Value, crd: &CustomResourceDefinition) -> Result<(), ShapeError> {
    let schema = crd
        .spec
        .versions
        .first()
        .and_then(|version| version.schema.as_ref()?.open_api_v3_schema.as_ref());
    let (Some(schema), Some(fields)) = (schema, object.as_object()) else {
        return Err(ShapeError {
            field: ".".to_owned(),
            problem: mismatch("object", object),
        });
    };
    // The API server knows these without being told.
    let own: Map<String, Value> = fields
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    value(&Value::Object(own), schema, "")
}

fn value(value: &Value, schema: &JSONSchemaProps, path: &str) -> Result<(), ShapeError> {
    let at = |problem| ShapeError {
        field: path.to_owned(),
        problem,
    };
    if value.is_null() && schema.nullable == Some(true) {
        return Ok(());
    }
    let expected = schema.type_.as_deref().unwrap_or("object");
    match (expected, value) {
        ("object", Value::Object(fields)) => object(fields, schema, path),
        ("array", Value::Array(items)) => array(items, schema, path),
        ("string", Value::String(text)) => string(text, schema).map_err(at),
        ("integer", Value::Number(number)) => match number.as_i64() {
            Some(found) => bounds("the value", found, schema.minimum, schema.maximum).map_err(at),
            None => Err(at(mismatch(expected, value))),
        },
        ("boolean", Value::Bool(_)) => Ok(()),
        _ => Err(at(mismatch(expected, value))),
    }
}

fn object(fields: &Map<String, Value>, schema: &JSONSchemaProps, path: &str) -> Result<(), ShapeError> {
    let properties = schema.properties.as_ref();
    for (name, field) in fields {
        let below = |path: String| ShapeError {
            field: path,
            problem: ShapeProblem::Unknown {
                known: properties
                    .map(|known| known.keys().cloned().collect())
                    .unwrap_or_default(),
            },
        };
        match (
            properties.and_then(|known| known.get(name)),
            &schema.additional_properties,
        ) {
            (Some(known), _) => value(field, known, &join(path, name))?,
            (None, Some(JSONSchemaPropsOrBool::Schema(each))) => {
                value(field, each, &format!("{path}[{}]", quoted(name)))?
            }
            (None, _) if schema.x_kubernetes_preserve_unknown_fields == Some(true) => {}
            (None, _) => return Err(below(join(path, &quoted(name)))),
        }
    }
    if let Some(missing) = schema
        .required
        .iter()
        .flatten()
        .find(|name| !fields.contains_key(*name))
    {
        return Err(ShapeError {
            field: join(path, missing),
            problem: ShapeProblem::Missing,
        });
    }
    size("entries", fields.len(), schema.min_properties, schema.max_properties).map_err(|problem| ShapeError {
        field: path.to_owned(),
        problem,
    })
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn array(items: &[Value], schema: &JSONSchemaProps, path: &str) -> Result<(), ShapeError> {
    size("entries", items.len(), schema.min_items, schema.max_items).map_err(|problem| ShapeError {
        field: path.to_owned(),
        problem,
    })?;
    let Some(JSONSchemaPropsOrArray::Schema(each)) = &schema.items else {
        return Ok(());
    };
    items
        .iter()
        .enumerate()
        .try_for_each(|(index, item)| value(item, each, &format!("{path}[{index}]")))
}

fn string(text: &str, schema: &JSONSchemaProps) -> Result<(), ShapeProblem> {
    size("characters", text.chars().count(), schema.min_length, schema.max_length)?;
    let Some(words) = &schema.enum_ else { return Ok(()) };
    let allowed: Vec<String> = words
        .iter()
        .filter_map(|word| word.0.as_str().map(str::to_owned))
        .collect();
    if allowed.iter().any(|word| word == text) {
        Ok(())
    } else {
        Err(ShapeProblem::Word { allowed })
    }
}

fn size(measure: &'static str, found: usize, least: Option<i64>, greatest: Option<i64>) -> Result<(), ShapeProblem> {
    let found = i64::try_from(found).unwrap_or(i64::MAX);
    let least = least.unwrap_or(0);
    if found >= least && greatest.is_none_or(|greatest| found <= greatest) {
        return Ok(());
    }
    Err(ShapeProblem::Bounds {
        measure,
        found,
        least,
        greatest: Bound(greatest),
    })
}

/// The bounds of the schemas here are whole numbers within i64.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the schemas' bounds are whole numbers within i64"
)]
fn bounds(measure: &'static str, found: i64, least: Option<f64>, greatest: Option<f64>) -> Result<(), ShapeProblem> {
    let (least, greatest) = (
        least.map_or(i64::MIN, |least| least as i64),
        greatest.map(|greatest| greatest as i64),
    );
    if found >= least && greatest.is_none_or(|greatest| found <= greatest) {
        return Ok(());
    }
    Err(ShapeProblem::Bounds {
        measure,
        found,
        least,
        greatest: Bound(greatest),
    })
}

fn mismatch(expected: &str, found: &Value) -> ShapeProblem {
    let unquoted = expected == "string" && matches!(found, Value::Number(_) | Value::Bool(_));
    ShapeProblem::Type {
        expected: with_article(expected),
        found: match found {
            Value::Null => "nothing (null)".to_owned(),
            Value::Bool(value) => format!("the boolean {value}"),
            Value::Number(number) => format!("the number {number}"),
            Value::String(_) => "a string".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        },
        hint: if unquoted { "; put it in quotes" } else { "" },
    }
}

fn with_article(name: &str) -> String {
    match name {
        "array" => "a list".to_owned(),
        "object" | "integer" => format!("an {name}"),
        _ => format!("a {name}"),
    }
}
