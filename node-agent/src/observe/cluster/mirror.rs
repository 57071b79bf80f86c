//! A copy of one kind's objects, kept up by the events of a watch.
//! Never forgets an object because a new list has begun: only because that list, complete, does not have it.

use std::{collections::BTreeMap, mem, sync::Arc};

use kube::{Resource, runtime::watcher::Event};

/// Namespace and name.
type Name = (Option<String>, String);

/// The objects of one kind, as far as they can be read.
#[derive(Debug)]
pub(super) struct Mirror<T> {
    now: BTreeMap<Name, Arc<T>>,
    /// A list that is arriving.
    coming: BTreeMap<Name, Arc<T>>,
    synced: bool,
}

impl<T> Default for Mirror<T> {
    fn default() -> Self {
        Self {
            now: BTreeMap::new(),
            coming: BTreeMap::new(),
            synced: false,
        }
    }
}

impl<T: PartialEq> Mirror<T> {
    /// Takes in an event; says whether anything is different now. What `read` cannot make sense of is not there.
    pub(super) fn see<K: Resource>(&mut self, event: Event<K>, read: impl FnOnce(K) -> Option<T>) -> bool {
        match event {
            Event::Init => {
                self.coming.clear();
                false
            }
            Event::InitApply(object) => {
                let name = name(&object);
                if let Some(value) = read(object) {
                    self.coming.insert(name, Arc::new(value));
                }
                false
            }
            Event::InitDone => {
                let listed = mem::take(&mut self.coming);
                let changed = listed != self.now || !self.synced;
                self.now = listed;
                self.synced = true;
                changed
            }
            Event::Apply(object) => {
                let name = name(&object);
                let Some(value) = read(object) else {
                    return self.now.remove(&name).is_some();
                };
                if self.now.get(&name).is_some_and(|known| **known == value) {
                    return false;
                }
                self.now.insert(name, Arc::new(value));
                true
            }
            Event::Delete(object) => self.now.remove(&name(&object)).is_some(),
        }
    }

    /// Whether a whole list arrived.
    pub(super) fn synced(&self) -> bool {
        self.synced
    }

    /// The objects, in the order of their names.
    pub(super) fn values(&self) -> Vec<Arc<T>> {
        self.now.values().map(Arc::clone).collect()
    }

    /// The objects with their names, for a kind without namespaces.
    pub(super) fn names(&self) -> impl Iterator<Item = (String, &T)> {
        self.now.iter().map(|((_, name), value)| (name.clone(), value.as_ref()))
    }
}

fn name<K: Resource>(object: &K) -> Name {
    let meta = object.meta();
    (meta.namespace.clone(), meta.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn object(name: &str, value: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"namespace": "a", "name": name}, "data": {"v": value}})).unwrap()
    }

    /// Objects with the value `bad` cannot be read.
    fn value(object: ConfigMap) -> Option<String> {
        object.data?.remove("v").filter(|value| value != "bad")
    }

    fn shown(mirror: &Mirror<String>) -> Vec<String> {
        mirror.values().iter().map(|value| value.as_ref().clone()).collect()
    }

    #[test]
    fn a_mirror_follows_lists_and_changes_and_says_when_something_is_new() {
        let mut mirror = Mirror::default();
        let mut see = |event, changed: bool, synced: bool, values: &[&str]| {
            assert_eq!(mirror.see(event, value), changed, "{values:?}");
            assert_eq!(
                (mirror.synced(), shown(&mirror)),
                (synced, values.iter().map(ToString::to_string).collect())
            );
        };
        see(Event::Init, false, false, &[]);
        see(Event::InitApply(object("x", "1")), false, false, &[]);
        see(Event::InitApply(object("broken", "bad")), false, false, &[]);
        see(Event::InitDone, true, true, &["1"]);
        see(Event::Apply(object("x", "1")), false, true, &["1"]);
        see(Event::Apply(object("y", "2")), true, true, &["1", "2"]);
        // A new list: what was seen stays until it is complete.
        see(Event::Init, false, true, &["1", "2"]);
        see(Event::InitApply(object("y", "2")), false, true, &["1", "2"]);
        see(Event::Init, false, true, &["1", "2"]);
        see(Event::InitApply(object("y", "3")), false, true, &["1", "2"]);
        see(Event::InitDone, true, true, &["3"]);
        see(Event::Delete(object("x", "1")), false, true, &["3"]);
        see(Event::Apply(object("y", "bad")), true, true, &[]);
        see(Event::Apply(object("y", "4")), true, true, &["4"]);
        see(Event::Delete(object("y", "4")), true, true, &[]);
    }

    #[test]
    fn an_empty_list_is_a_list() {
        let mut mirror: Mirror<String> = Mirror::default();
        assert!(!mirror.see(Event::<ConfigMap>::Init, value));
        assert!(mirror.see(Event::<ConfigMap>::InitDone, value));
        assert!(mirror.synced());
        assert!(!mirror.see(Event::<ConfigMap>::Init, value));
        assert!(!mirror.see(Event::<ConfigMap>::InitDone, value));
    }
}
