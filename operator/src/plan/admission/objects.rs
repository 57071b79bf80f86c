//! What is said of environments and caches when they are written, beyond what their schema says.
//! Never stands in the way of a change that leaves the spec as it was, or of an object that is going.

use std::collections::BTreeMap;

use binary_cache::key::{KeyRing, KeyRingError};
use crds::{
    catalogue::{Catalogue, Denied, EnvironmentEntry, EnvironmentKey},
    convert::InvalidField,
    domain::{cache::CacheSource, code::GpuCode, environment::Environment, store_path::StorePath},
    v1alpha1::{CUDABinaryCache, CUDAEnvironment, ClusterCUDAEnvironment},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::warning;

/// Most warnings of one object: the first tell enough.
const MOST_WARNINGS: usize = 8;

/// Why an object is refused.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// Not of its kind's shape.
    #[error("the object is not of its kind's shape")]
    Shape(#[source] serde_json::Error),
    /// A field that makes no sense.
    #[error(transparent)]
    Field(InvalidField),
    /// A key that cannot be trusted.
    #[error("spec.publicKeys")]
    Keys(#[source] KeyRingError),
    /// A selector that would match nothing, silently.
    #[error("{field}: {problem}")]
    Selector {
        /// Where.
        field: String,
        /// What is wrong, and what to write.
        problem: &'static str,
    },
}

/// Judges an object of ours as it is about to be written over `old`; with what a person should know. Kinds that nothing is to
/// be said of are let through.
///
/// # Errors
/// Why it is refused.
pub fn judge(kind: &str, object: &Value, old: Option<&Value>, catalogue: &Catalogue) -> Result<Vec<String>, Unfit> {
    let going = object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(Value::is_string);
    if going || old.is_some_and(|old| old.get("spec") == object.get("spec")) {
        return Ok(Vec::new());
    }
    let mut warnings = match kind {
        "CUDAEnvironment" => namespaced(&read(object)?, catalogue)?,
        "ClusterCUDAEnvironment" => for_the_cluster(&read(object)?, catalogue)?,
        "CUDABinaryCache" => cache(&read(object)?)?,
        _ => Vec::new(),
    };
    warnings.truncate(MOST_WARNINGS);
    Ok(warnings.iter().map(|text| warning(text)).collect())
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<T, Unfit> {
    serde_json::from_value(object.clone()).map_err(Unfit::Shape)
}

fn namespaced(object: &CUDAEnvironment, catalogue: &Catalogue) -> Result<Vec<String>, Unfit> {
    let environment = Environment::try_from(object).map_err(Unfit::Field)?;
    let mut warnings = contradictions(&environment);
    let namespace = environment.namespace.clone().unwrap_or_default();
    let key = EnvironmentKey {
        namespace: Some(namespace.clone()),
        name: environment.name,
    };
    let mut after = catalogue.clone();
    let entry = EnvironmentEntry::from(object);
    after.environments.insert(key.clone(), entry.into());
    if let Err(denied @ (Denied::Cache { .. } | Denied::NoCache { .. })) = after.grant(&namespace, &key) {
        warnings.push(format!("{denied}; its pods are refused until there is"));
    }
    Ok(warnings)
}

fn for_the_cluster(object: &ClusterCUDAEnvironment, catalogue: &Catalogue) -> Result<Vec<String>, Unfit> {
    let environment = Environment::try_from(object).map_err(Unfit::Field)?;
    selector("spec.allowedNamespaces", object.spec.allowed_namespaces.as_ref())?;
    let mut warnings = contradictions(&environment);
    let named = environment.caches.iter().flatten();
    let absent = named.filter(|name| !catalogue.caches.contains_key(*name));
    warnings.extend(absent.map(|name| {
        format!("spec.caches names `{name}`, and there is no such CUDABinaryCache; pods are refused until there is")
    }));
    Ok(warnings)
}

/// One store path carries one code: where two variants declare different ones, one of them is wrong.
fn contradictions(environment: &Environment) -> Vec<String> {
    let mut declared: BTreeMap<&StorePath, (String, Option<&GpuCode>)> = BTreeMap::new();
    let mut warnings = Vec::new();
    for package in &environment.packages {
        for variant in &package.variants {
            for path in variant.store_paths.values() {
                let place = format!("{}/{}", package.name, variant.name);
                match declared.get(path) {
                    Some((first, code)) if *code != variant.code.as_ref() => warnings.push(format!(
                        "{first} and {place} are the same store path {path} but declare different code: declare it once, or leave `code` out to have it scanned"
                    )),
                    Some(_) => {}
                    None => drop(declared.insert(path, (place, variant.code.as_ref()))),
                }
            }
        }
    }
    warnings
}

fn cache(object: &CUDABinaryCache) -> Result<Vec<String>, Unfit> {
    let source = CacheSource::try_from(object).map_err(Unfit::Field)?;
    KeyRing::parse(&source.public_keys).map_err(Unfit::Keys)?;
    selector("spec.allowedNamespaces", object.spec.allowed_namespaces.as_ref())?;
    let mut addresses = source.mirrors.iter().chain([&source.url]);
    let plain = addresses.any(|address| address.starts_with("http://"));
    let warns = plain && object.spec.auth_secret_ref.is_some();
    let text =
        "spec.authSecretRef: credentials travel over plain http, where anybody on the way can read them: use https";
    Ok(warns.then(|| text.to_owned()).into_iter().collect())
}

/// What the API server demands of its own selectors, but not of those in other kinds.
fn selector(field: &str, selector: Option<&LabelSelector>) -> Result<(), Unfit> {
    let expressions = selector.and_then(|selector| selector.match_expressions.as_deref());
    for (index, expression) in expressions.unwrap_or_default().iter().enumerate() {
        let wrong = |name: &str, problem| {
            let field = format!("{field}.matchExpressions[{index}].{name}");
            Err(Unfit::Selector { field, problem })
        };
        let values = expression.values.as_deref().unwrap_or_default();
        match (expression.operator.as_str(), values.is_empty()) {
            ("In" | "NotIn", false) | ("Exists" | "DoesNotExist", true) => {}
            ("In" | "NotIn", true) => return wrong("values", "In and NotIn need at least one value"),
            ("Exists" | "DoesNotExist", false) => return wrong("values", "Exists and DoesNotExist take no values"),
            _ => return wrong("operator", "write In, NotIn, Exists or DoesNotExist"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const KEY: &str = "cache-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs=";

    fn cache(change: impl FnOnce(&mut Value)) -> Value {
        let mut object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDABinaryCache", "metadata": {"name": "cache"},
            "spec": {"url": "https://cache.example.org", "publicKeys": [KEY]}});
        change(&mut object["spec"]);
        object
    }

    fn environment(kind: &str, change: impl FnOnce(&mut Value)) -> Value {
        let variant = |name: &str| {
            json!({"name": name, "cuda": "12.8", "code": {"sass": ["9.0"]},
                "storePaths": {"x86_64-linux": "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-cuda"}})
        };
        let mut object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": kind,
            "metadata": {"name": "pytorch", "namespace": "team-a"},
            "spec": {"caches": ["cache"], "packages": [{"name": "a", "variants": [variant("one"), variant("two")]}]}});
        change(&mut object["spec"]);
        object
    }

    fn judged(object: &Value, old: Option<&Value>) -> Result<Vec<String>, String> {
        let mut catalogue = Catalogue::default();
        let known: CUDABinaryCache = serde_json::from_value(cache(|_| ())).unwrap();
        let entry = crds::catalogue::CacheEntry::from(&known);
        catalogue.caches.insert("cache".to_owned(), entry.into());
        let kind = object["kind"].as_str().unwrap();
        judge(kind, object, old, &catalogue).map_err(|unfit| crate::failure::chain(&unfit))
    }

    #[test]
    fn what_the_schema_cannot_judge_is_refused_beside_its_good_twin() {
        let expression = |operator: &str, values: &[&str]| json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]});
        let kinds = ["CUDAEnvironment", "ClusterCUDAEnvironment"];
        for good in kinds.map(|kind| environment(kind, |_| ())).into_iter().chain([
            cache(|_| ()),
            cache(|spec| spec["allowedNamespaces"] = expression("In", &["x"])),
            cache(|spec| spec["allowedNamespaces"] = expression("Exists", &[])),
        ]) {
            assert_eq!(judged(&good, None), Ok(vec![]), "{good}");
        }
        let path = json!({"x86_64-linux": "/nix/store/x"});
        for (bad, says) in [
            (
                cache(|spec| spec["publicKeys"] = json!(["cache-1:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="])),
                "spec.publicKeys: public key number 1",
            ),
            (
                cache(|spec| spec["allowedNamespaces"] = expression("in", &["x"])),
                "spec.allowedNamespaces.matchExpressions[0].operator: write In",
            ),
            (
                cache(|spec| spec["allowedNamespaces"] = expression("In", &[])),
                "spec.allowedNamespaces.matchExpressions[0].values: In and NotIn need",
            ),
            (
                environment(kinds[1], |spec| {
                    spec["allowedNamespaces"] = expression("Exists", &["x"])
                }),
                "matchExpressions[0].values: Exists",
            ),
            (
                environment(kinds[0], |spec| {
                    spec["packages"][0]["variants"][0]["storePaths"] = path.clone()
                }),
                "spec.packages[0].variants[0].storePaths",
            ),
            (
                environment(kinds[1], |spec| spec["packages"] = json!(1)),
                "not of its kind's shape",
            ),
        ] {
            let refusal = judged(&bad, None).unwrap_err();
            assert!(refusal.contains(says), "{refusal}");
            assert_eq!(judged(&bad, Some(&bad)), Ok(vec![]), "a spec that stays as it was");
        }
    }

    #[test]
    fn what_may_be_meant_is_warned_of() {
        let absent = |kind| environment(kind, |spec| spec["caches"] = json!(["absent"]));
        for (object, says) in [
            (absent("CUDAEnvironment"), "spec.caches names `absent`"),
            (absent("ClusterCUDAEnvironment"), "spec.caches names `absent`"),
            (
                environment("CUDAEnvironment", |spec| {
                    spec["packages"][0]["variants"][1]["code"] = json!({"sass": ["8.0"]})
                }),
                "a/one and a/two are the same store path",
            ),
            (
                cache(|spec| {
                    spec["url"] = json!("http://cache");
                    spec["authSecretRef"] = json!({"name": "x"});
                }),
                "spec.authSecretRef: credentials travel over plain http",
            ),
        ] {
            let warnings = judged(&object, None).unwrap();
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(says) && warnings[0].len() <= 256, "{warnings:?}");
        }
    }
}
