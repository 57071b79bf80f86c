//! The files made from the types are up to date, and fit for the API server and for Helm.
//! Never writes them: `make generate` does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crds::{
    generate::{CRD_FOLDER, Generated, REFERENCE_FOLDER, crd_files, reference_files},
    v1alpha1,
};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn assert_up_to_date(folder: &Path, files: &[Generated]) {
    for file in files {
        let path = folder.join(&file.name);
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == file.text,
            "{} is out of date: run `make generate`",
            path.display()
        );
    }
}

#[test]
fn generated_files_are_up_to_date() {
    let folder = root().join(CRD_FOLDER);
    let files = crd_files().unwrap();
    assert_up_to_date(&folder, &files);
    assert_up_to_date(&root().join(REFERENCE_FOLDER), &reference_files());
    let there: BTreeSet<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into())
        .collect();
    assert_eq!(
        there,
        files.into_iter().map(|file| file.name).collect(),
        "files without a type"
    );
}

#[test]
fn helm_sees_no_template_in_a_crd() {
    for file in crd_files().unwrap() {
        assert!(!file.text.contains("{{"), "{}", file.name.display());
    }
}

/// Calls `check` with every schema below `schema` and the path to it.
fn walk(schema: &Value, path: &str, check: &mut dyn FnMut(&str, &Value)) {
    check(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(field, &format!("{path}.{name}"), check);
    }
    for below in ["items", "additionalProperties"] {
        if schema[below].is_object() {
            walk(&schema[below], &format!("{path}[]"), check);
        }
    }
}

fn schemas() -> Vec<(String, Value)> {
    let of = |definition: &_| {
        let definition: Value = serde_json::to_value(definition).unwrap();
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        (
            kind,
            definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone(),
        )
    };
    v1alpha1::definitions().iter().map(of).collect()
}

#[test]
fn every_field_is_described_and_bounded() {
    for (kind, schema) in schemas() {
        walk(&schema, &kind, &mut |path, schema| {
            // Kubernetes' own types bring their own schema.
            let foreign = path.contains("allowedNamespaces") || path.contains("conditions[]");
            if foreign || path == kind {
                return;
            }
            let of_list = path.ends_with("[]");
            assert!(
                of_list || schema["description"].is_string(),
                "{path} has no description"
            );
            let bound = match schema["type"].as_str().unwrap() {
                "string" if schema["enum"].is_array() => "enum",
                "string" => "maxLength",
                "array" => "maxItems",
                "object" if schema["additionalProperties"].is_object() => "maxProperties",
                _ => "type",
            };
            assert!(!schema[bound].is_null(), "{path} has no {bound}");
        });
    }
}

#[test]
fn every_rule_says_what_to_do_instead() {
    let mut rules = 0;
    for (kind, schema) in schemas() {
        walk(&schema, &kind, &mut |path, schema| {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                let message = rule["message"].as_str().unwrap_or_default();
                assert!(
                    message.split(' ').count() > 4 && !message.contains('\n'),
                    "{path}: {rule}"
                );
                rules += 1;
            }
        });
    }
    assert!(rules > 20, "{rules}");
}

#[test]
fn all_kinds_have_a_status_of_their_own_and_short_names() {
    for definition in v1alpha1::definitions() {
        let version = &definition.spec.versions[0];
        assert!(
            version.subresources.as_ref().unwrap().status.is_some(),
            "{}",
            definition.spec.names.kind
        );
        assert!(!definition.spec.names.short_names.unwrap().is_empty());
        let keep = &definition.metadata.annotations.unwrap()["helm.sh/resource-policy"];
        assert_eq!(keep, "keep");
    }
}

#[test]
fn every_reason_is_in_the_reference() {
    let reference = &reference_files()[1].text;
    for reason in crds::selection::Reason::ALL {
        assert!(reference.contains(&format!("| `{reason}` | ")), "{reason}");
    }
    for mode in crds::selection::Mode::ALL {
        assert!(reference.contains(&format!("| `{mode}` | ")), "{mode}");
    }
}
