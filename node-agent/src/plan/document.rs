//! `cudaenv.json`: what a view says of itself to the program inside it.
//! Never holds a time, a node's name or anything else that differs between nodes with the same selection.

use std::collections::BTreeMap;

use crds::{
    domain::{cuda::CudaVersion, driver::DriverVersion, environment::Environment, store_path::StorePath},
    selection::{Mode, Reason, Selection},
};
use serde::Serialize;

use crate::snapshot::view::BridgeId;

/// Everything the document is made from.
#[derive(Debug)]
pub struct Facts<'a> {
    pub environment: &'a Environment,
    pub selection: &'a Selection,
    pub driver: (&'a DriverVersion, CudaVersion),
    pub bridge: &'a BridgeId,
    /// The names of the keys that signed each store path of the view.
    pub signed_by: BTreeMap<StorePath, Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    environment: Named<'a>,
    driver: Driver<'a>,
    packages: BTreeMap<&'a str, Package<'a>>,
    rejected: Vec<Rejected<'a>>,
    signed_by: BTreeMap<StorePath, Vec<String>>,
}

#[derive(Serialize)]
struct Named<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    name: &'a str,
}

#[derive(Serialize)]
struct Driver<'a> {
    version: &'a DriverVersion,
    cuda: CudaVersion,
    bridge: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Package<'a> {
    variant: &'a str,
    cuda: CudaVersion,
    mode: Mode,
    store_path: &'a StorePath,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward_compat: Option<&'a StorePath>,
}

#[derive(Serialize)]
struct Rejected<'a> {
    package: &'a str,
    variant: &'a str,
    reason: Reason,
}

/// The document, with a newline at its end.
///
/// # Errors
/// None that these types can have; the signature is serde's.
pub fn cudaenv_json(facts: Facts<'_>) -> Result<String, serde_json::Error> {
    let Facts {
        environment,
        selection,
        driver: (version, cuda),
        bridge,
        signed_by,
    } = facts;
    let packages = selection.selected.iter().map(|(name, selected)| {
        let package = Package {
            variant: &selected.variant,
            cuda: selected.cuda,
            mode: selected.mode,
            store_path: &selected.store_path,
            forward_compat: selected.forward_compat.as_ref(),
        };
        (name.as_str(), package)
    });
    let rejected = selection.rejected.iter().map(|one| Rejected {
        package: &one.package,
        variant: &one.variant,
        reason: one.reason,
    });
    let document = Document {
        environment: Named {
            namespace: environment.namespace.as_deref(),
            name: &environment.name,
        },
        driver: Driver {
            version,
            cuda,
            bridge: bridge.as_str(),
        },
        packages: packages.collect(),
        rejected: rejected.collect(),
        signed_by,
    };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

#[cfg(test)]
mod tests {
    use crds::selection::Selected;

    use super::*;

    #[test]
    fn the_document_says_what_was_chosen_from_whom_and_what_was_not() {
        let path = StorePath::parse("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-cu118").unwrap();
        let environment = Environment {
            namespace: Some("team-a".into()),
            name: "pytorch".into(),
            caches: None,
            packages: Vec::new(),
        };
        let selected = Selected {
            variant: "cu118".into(),
            mode: Mode::Native,
            warnings: vec!["not for the program".into()],
            cuda: CudaVersion::new(11, 8),
            store_path: path.clone(),
            forward_compat: None,
            unknown: Vec::new(),
        };
        let selection = Selection {
            selected: [("pytorch".to_owned(), selected)].into(),
            rejected: vec![crds::selection::Rejected {
                package: "pytorch".into(),
                variant: "cu130".into(),
                reason: Reason::DriverTooOld,
                detail: "differs between nodes".into(),
            }],
            ..Selection::default()
        };
        let text = cudaenv_json(Facts {
            environment: &environment,
            selection: &selection,
            driver: (&"535.274.02".parse().unwrap(), CudaVersion::new(12, 2)),
            bridge: &"535.274.02-x".parse().unwrap(),
            signed_by: [(path, vec!["k-1".to_owned()])].into(),
        })
        .unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["packages"]["pytorch"]["variant"], "cu118");
        assert_eq!(document["driver"]["cuda"], "12.2");
        assert_eq!(document["rejected"][0]["reason"], "driver-too-old");
        assert_eq!(
            document["signedBy"]["/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-cu118"][0],
            "k-1"
        );
        assert!(!text.contains("differs between nodes") && !text.contains("not for the program"));
    }
}
