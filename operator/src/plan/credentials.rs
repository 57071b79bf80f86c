//! The one secret that agents mount: copies of the credentials that caches name.
//! Never a credential that no cache names, never over a secret that somebody else made.

use std::collections::BTreeMap;

use super::step::Copies;
use crate::snapshot::{
    secret::{KEYS, SecretBytes},
    world::World,
};

/// What the secret called `name` needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Copying {
    /// It is as it should be.
    Done,
    /// It must be written.
    Write(Copies),
    /// There is one of this name that the operator did not make.
    NotOurs,
}

/// Compares what caches name with what the secret called `name` holds.
pub fn copying(world: &World, name: &str) -> Copying {
    let wanted = wanted(world, name);
    let Some(there) = world.secrets.get(name) else {
        return if wanted.is_empty() {
            Copying::Done
        } else {
            Copying::Write(Copies {
                over: None,
                data: wanted,
            })
        };
    };
    if there.data == wanted {
        Copying::Done
    } else if there.ours {
        Copying::Write(Copies {
            over: Some(there.resource_version.clone()),
            data: wanted,
        })
    } else {
        Copying::NotOurs
    }
}

/// `<cache>.netrc` and `<cache>.token` of every cache that names a secret. The copies' own secret is never a source.
fn wanted(world: &World, name: &str) -> BTreeMap<String, SecretBytes> {
    let mut wanted = BTreeMap::new();
    for (cache, entry) in &world.catalogue.caches {
        let secret = entry
            .source
            .as_ref()
            .ok()
            .and_then(|source| source.auth_secret.as_ref());
        let secret = secret
            .filter(|secret| *secret != name)
            .and_then(|secret| world.secrets.get(secret));
        let Some(secret) = secret else { continue };
        for key in KEYS {
            if let Some(bytes) = secret.data.get(key) {
                wanted.insert(format!("{cache}.{key}"), bytes.clone());
            }
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crds::{catalogue::CacheEntry, domain::cache::CacheSource};

    use super::*;
    use crate::snapshot::secret::AuthSecret;

    fn secret(version: &str, ours: bool, data: &[(&str, &str)]) -> Arc<AuthSecret> {
        let data = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), SecretBytes::new(value.as_bytes().to_vec())));
        Arc::new(AuthSecret {
            resource_version: version.to_owned(),
            ours,
            data: data.collect(),
            ..AuthSecret::default()
        })
    }

    fn world() -> World {
        let mut world = World::default();
        for (name, auth_secret) in [("flox", Some("flox-token")), ("open", None), ("lost", Some("gone"))] {
            let source = CacheSource {
                name: name.to_owned(),
                url: "https://cache.example.org".to_owned(),
                mirrors: Vec::new(),
                public_keys: Vec::new(),
                priority: None,
                redirect_origins: Vec::new(),
                auth_secret: auth_secret.map(str::to_owned),
            };
            let entry = CacheEntry {
                generation: 1,
                source: Ok(Arc::new(source)),
                allowed_namespaces: None,
            };
            world.catalogue.caches.insert(name.to_owned(), Arc::new(entry));
        }
        world.secrets.insert(
            "flox-token".to_owned(),
            secret("1", false, &[("token", "T"), ("netrc", "N")]),
        );
        world
            .secrets
            .insert("unnamed".to_owned(), secret("1", false, &[("token", "X")]));
        world
    }

    fn written(copying: &Copying) -> (Option<&str>, Vec<(&str, &[u8])>) {
        let Copying::Write(copies) = copying else {
            panic!("{copying:?}");
        };
        let data = copies.data.iter().map(|(key, bytes)| (key.as_str(), bytes.reveal()));
        (copies.over.as_deref(), data.collect())
    }

    #[test]
    fn what_caches_name_is_copied_and_nothing_else() {
        let mut world = world();
        let both: Vec<(&str, &[u8])> = vec![("flox.netrc", b"N"), ("flox.token", b"T")];
        assert_eq!(written(&copying(&world, "copies")), (None, both.clone()));
        let done = secret("2", true, &[("flox.netrc", "N"), ("flox.token", "T")]);
        world.secrets.insert("copies".to_owned(), done);
        assert_eq!(copying(&world, "copies"), Copying::Done);
        let stale = secret("3", true, &[("flox.token", "old"), ("gone.token", "G")]);
        world.secrets.insert("copies".to_owned(), stale);
        assert_eq!(written(&copying(&world, "copies")), (Some("3"), both));
        world.secrets.remove("flox-token");
        assert_eq!(written(&copying(&world, "copies")), (Some("3"), Vec::new()));
    }

    #[test]
    fn no_secret_is_made_for_nothing_and_none_of_somebody_else_is_written_over() {
        let mut world = world();
        world
            .secrets
            .insert("copies".to_owned(), secret("1", false, &[("token", "mine")]));
        assert_eq!(copying(&world, "copies"), Copying::NotOurs);
        world.secrets.clear();
        assert_eq!(copying(&world, "copies"), Copying::Done);
    }
}
