//! Schemas of the small values that fields are made of: shape, bounds, and the message that says what to write instead.
//! Never the last word: the API server applies these, and [`convert`](crate::convert) checks everything again.
//!
//! Values that may hold a secret by mistake (keys, URLs) are checked by CEL, whose errors do not quote the value; a
//! `pattern` would print it.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

const STORE_PATH: &str = "^/nix/store/[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9a-zA-Z+._?=-]{1,211}$";
const DRIVER: &str = r"^[1-9][0-9]{2,3}(\\.[0-9]{1,5}){1,2}$";
const CUDA: &str = r"^[0-9]{1,3}\\.[0-9]{1,3}$";
const TARGET: &str = r"^[0-9]{1,3}\\.[0-9]{1,3}[af]?$";
const LABEL: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const URL: &str = r"^(https?://[^/?#@\\s]+(/[^?#\\s]*)?|file:///[^?#\\s]*)$";
const ORIGIN: &str = r"^https?://[^/?#@\\s]+$";
const KEY: &str = r"^[^:\\s]{1,128}:[A-Za-z0-9+/]{43}=$";
const SECRET_KEY: &str = "^[^:]*:[A-Za-z0-9+/=]{86,}$";

/// A rule that must hold, and what to do where it does not.
fn rule(expression: &str, message: &str) -> Value {
    json!({ "rule": expression, "message": message })
}

fn matches(pattern: &str, message: &str) -> Value {
    rule(&format!("self.matches('{pattern}')"), message)
}

/// A text of at most `longest` characters under CEL rules.
fn text(longest: u32, rules: &[Value]) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": longest, "x-kubernetes-validations": rules })
}

fn schema(value: Value) -> Schema {
    value.try_into().unwrap_or_default()
}

/// A list of distinct texts.
fn set(of: Value, fewest: u32, most: u32) -> Schema {
    json_schema!({
        "type": "array", "items": of, "minItems": fewest, "maxItems": most, "x-kubernetes-list-type": "set"
    })
}

fn store_path_value() -> Value {
    text(
        255,
        &[
            matches(
                STORE_PATH,
                "write /nix/store/HASH-NAME: the store path alone, with nothing below it",
            ),
            rule(
                "!self.endsWith('.drv')",
                "name the built output, not the derivation: `nix build --print-out-paths` prints it",
            ),
        ],
    )
}

pub(super) fn store_path(_: &mut SchemaGenerator) -> Schema {
    schema(store_path_value())
}

pub(super) fn store_paths(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": store_path_value(),
        "minProperties": 1,
        "maxProperties": 2,
        "x-kubernetes-validations": [
            rule(
                "self.all(system, system in ['x86_64-linux', 'aarch64-linux'])",
                "the systems served are x86_64-linux and aarch64-linux"
            )
        ]
    })
}

fn driver_value() -> Value {
    text(
        20,
        &[matches(
            DRIVER,
            "write the full driver version, two or three numbers with dots, such as 580.95.05",
        )],
    )
}

pub(super) fn driver(_: &mut SchemaGenerator) -> Schema {
    schema(driver_value())
}

/// As [`driver`], absent or empty where the end is open.
pub(super) fn driver_or_open(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "nullable": true,
        "maxLength": 20,
        "x-kubernetes-validations": [
            rule(
                &format!("self == '' || self.matches('{DRIVER}')"),
                "write the full driver version, two or three numbers with dots, such as 580.95.05; leave it out for an open end"
            )
        ]
    })
}

pub(super) fn optional_driver(generator: &mut SchemaGenerator) -> Schema {
    nullable(driver(generator))
}

pub(super) fn cuda(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        7,
        &[matches(
            CUDA,
            "write the CUDA release as major.minor in quotes, such as \"12.8\"",
        )],
    ))
}

pub(super) fn ptx_isa(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        7,
        &[matches(
            CUDA,
            "write the PTX version as major.minor in quotes, such as \"8.7\"",
        )],
    ))
}

fn target_value() -> Value {
    text(
        8,
        &[matches(
            TARGET,
            "write the compute capability with its dot, such as \"9.0\", \"9.0a\" or \"10.0f\"",
        )],
    )
}

pub(super) fn target(_: &mut SchemaGenerator) -> Schema {
    schema(target_value())
}

pub(super) fn optional_targets(_: &mut SchemaGenerator) -> Schema {
    nullable(set(target_value(), 0, 64))
}

fn nullable(mut schema: Schema) -> Schema {
    schema.insert("nullable".to_owned(), Value::Bool(true));
    schema
}

pub(super) fn label(_: &mut SchemaGenerator) -> Schema {
    schema(text(
        63,
        &[matches(
            LABEL,
            "use at most 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit",
        )],
    ))
}

pub(super) fn cache_names(_: &mut SchemaGenerator) -> Schema {
    let name = matches(
        OBJECT_NAME,
        "name a CUDABinaryCache: lower-case letters, digits, dashes and dots, each part beginning and ending with a letter or digit",
    );
    nullable(set(text(253, &[name]), 1, 16))
}

fn url_value() -> Value {
    text(
        1024,
        &[matches(
            URL,
            "write https://HOST/PATH, http://HOST/PATH or file:///PATH, without user, query or fragment; credentials go to authSecretRef",
        )],
    )
}

pub(super) fn url(_: &mut SchemaGenerator) -> Schema {
    schema(url_value())
}

pub(super) fn urls(_: &mut SchemaGenerator) -> Schema {
    set(url_value(), 0, 8)
}

pub(super) fn origins(_: &mut SchemaGenerator) -> Schema {
    set(
        text(
            512,
            &[matches(
                ORIGIN,
                "write an origin alone: https://HOST or https://HOST:PORT, with nothing behind it",
            )],
        ),
        0,
        8,
    )
}

pub(super) fn public_keys(_: &mut SchemaGenerator) -> Schema {
    let secret = rule(
        &format!("!self.matches('{SECRET_KEY}')"),
        "this is a secret key: withdraw it, and give the public key that `nix key convert-secret-to-public` makes of it",
    );
    let shape = matches(
        KEY,
        "write a public key as Nix prints it, NAME:BASE64, with 44 characters of base64 behind the colon",
    );
    set(text(256, &[secret, shape]), 1, 16)
}

pub(super) fn node_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": { "type": "string", "maxLength": 63 },
        "maxProperties": 32
    })
}
