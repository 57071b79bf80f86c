//! A catalogue of objects from files: what a node agent without an API server serves.
//! Never lets one object silently take the place of another.

use std::sync::Arc;

use kube::ResourceExt as _;

use super::{CacheEntry, Catalogue, EnvironmentEntry, EnvironmentKey};
use crate::manifest::Manifest;

/// Where `kubectl` puts an object that names no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// Two objects of one kind have the same name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{name}` is there twice")]
pub struct Collision {
    /// Their kind.
    pub kind: &'static str,
    /// Their name, with the namespace where there is one.
    pub name: String,
}

impl Catalogue {
    /// Adds an object of a file. A `CUDAEnvironment` without a namespace belongs to `default`; nodes and preflights are no
    /// part of a catalogue.
    ///
    /// # Errors
    /// An object of that kind and name is there already.
    pub fn add(&mut self, manifest: &Manifest) -> Result<(), Collision> {
        let kind = manifest.kind();
        let (name, known) = match manifest {
            Manifest::Environment(object) => {
                let key = EnvironmentKey {
                    namespace: Some(object.namespace().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())),
                    name: object.name_any(),
                };
                self.add_environment(key, EnvironmentEntry::from(&**object))
            }
            Manifest::ClusterEnvironment(object) => {
                let key = EnvironmentKey {
                    namespace: None,
                    name: object.name_any(),
                };
                self.add_environment(key, EnvironmentEntry::from(&**object))
            }
            Manifest::BinaryCache(object) => {
                let entry = Arc::new(CacheEntry::from(&**object));
                let known = self.caches.insert(object.name_any(), entry).is_some();
                (object.name_any(), known)
            }
            Manifest::Namespace(object) => {
                let labels = object.labels().clone();
                let known = self.namespaces.insert(object.name_any(), labels).is_some();
                (object.name_any(), known)
            }
            Manifest::Node(_) | Manifest::Preflight(_) => return Ok(()),
        };
        if known { Err(Collision { kind, name }) } else { Ok(()) }
    }

    fn add_environment(&mut self, key: EnvironmentKey, entry: EnvironmentEntry) -> (String, bool) {
        let name = match &key.namespace {
            Some(namespace) => format!("{namespace}/{}", key.name),
            None => key.name.clone(),
        };
        (name, self.environments.insert(key, Arc::new(entry)).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest;

    const FILE: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: team-a, labels: {tier: gold}}
---
apiVersion: cudaenv.dev/v1alpha1
kind: CUDABinaryCache
metadata: {name: here}
spec:
  url: https://cache.example.org
  publicKeys: ['cache-1:7F4OyH7ZCnFhcze3fJdfyXYLQw/aV7GEed86nQ7IsOs=']
  allowedNamespaces: {matchLabels: {tier: gold}}
---
apiVersion: cudaenv.dev/v1alpha1
kind: CUDAEnvironment
metadata: {name: one, namespace: team-a}
spec:
  packages:
  - name: cuda
    variants:
    - name: cu128
      cuda: '12.8'
      storePaths: {x86_64-linux: /nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-cuda}
";

    #[test]
    fn what_files_say_is_granted_and_what_is_there_twice_is_refused() {
        let mut all = Catalogue::default();
        let manifests = manifest::parse(FILE).unwrap();
        manifests.iter().for_each(|manifest| all.add(manifest).unwrap());
        let key = EnvironmentKey {
            namespace: Some("team-a".to_owned()),
            name: "one".to_owned(),
        };
        assert_eq!(all.grant("team-a", &key).unwrap().caches.len(), 1);
        all.namespaces.clear();
        all.grant("team-a", &key).unwrap_err();
        let twice = manifests.iter().find_map(|manifest| all.add(manifest).err());
        assert_eq!(twice.unwrap().to_string(), "CUDABinaryCache `here` is there twice");
    }
}
