//! A world that does not change any more, with what is worked out from all of its nodes: once, for whoever asks first.
//! Never a world that is still gathered: what was worked out from it would not be true any more.

use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, OnceLock},
};

use crds::{domain::node::NodeFacts, selection::KnownContents};

use super::world::World;

/// A class of nodes that have reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeClass {
    /// [`NodeFacts::class`].
    pub name: String,
    /// What selection looks at.
    pub facts: NodeFacts,
    /// How many nodes are of it.
    pub nodes: usize,
}

/// A world as it was published.
#[derive(Debug, Default)]
pub struct Settled {
    world: World,
    /// Shared with the worlds before in which agents said the same.
    of_machines: Arc<OfMachines>,
}

/// What follows from what agents say.
#[derive(Debug, Default)]
struct OfMachines {
    classes: OnceLock<Vec<NodeClass>>,
    contents: OnceLock<KnownContents>,
}

impl Settled {
    /// The world that comes after another.
    pub fn after(before: Option<&Self>, world: World) -> Self {
        let unchanged = before.filter(|before| {
            let (old, new) = (&before.world.machines, &world.machines);
            let same = |((a, old), (b, new)): ((&String, _), (&String, _))| a == b && Arc::ptr_eq(old, new);
            old.len() == new.len() && old.iter().zip(new).all(same)
        });
        let of_machines = unchanged.map(|before| Arc::clone(&before.of_machines));
        Self {
            of_machines: of_machines.unwrap_or_default(),
            world,
        }
    }

    /// The classes of the nodes that have reported facts which make sense.
    pub fn classes(&self) -> &[NodeClass] {
        self.of_machines.classes.get_or_init(|| classes(&self.world))
    }

    /// What agents have read of store paths.
    pub fn contents(&self) -> &KnownContents {
        self.of_machines.contents.get_or_init(|| self.world.contents())
    }
}

impl From<World> for Settled {
    fn from(world: World) -> Self {
        Self::after(None, world)
    }
}

impl Deref for Settled {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

fn classes(world: &World) -> Vec<NodeClass> {
    let mut classes: BTreeMap<&str, NodeClass> = BTreeMap::new();
    for machine in world.machines.values() {
        let (Some(name), Some(Ok(facts))) = (&machine.class, &machine.facts) else {
            continue;
        };
        let class = classes.entry(name).or_insert_with(|| NodeClass {
            name: name.clone(),
            facts: NodeFacts::clone(facts),
            nodes: 0,
        });
        class.nodes += 1;
    }
    classes.into_values().collect()
}

#[cfg(test)]
mod tests {
    use crds::v1alpha1::{CUDANode, CUDANodeStatus};
    use serde_json::json;

    use super::*;
    use crate::observe::kinds::Kept;

    fn node(name: &str, sass: &str) -> CUDANode {
        let path = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-torch";
        let status =
            json!({"system": "x86_64-linux", "contents": [{"storePath": path, "code": {"sass": [sass], "ptx": []}}]});
        let object = json!({"apiVersion": "cudaenv.dev/v1alpha1", "kind": "CUDANode", "metadata": {"name": name}, "spec": {},
            "status": status});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn what_agents_say_is_gone_through_again_only_when_one_says_something_else() {
        let mut world = World::default();
        for name in ["a", "b"] {
            node(name, "9.0").keep(&mut world);
        }
        let first = Settled::from(world.clone());
        assert_eq!((first.classes()[0].nodes, first.contents().len()), (2, 1));
        world.catalogue.namespaces.insert("team".to_owned(), BTreeMap::new());
        let other = Settled::after(Some(&first), world.clone());
        assert!(std::ptr::eq(first.contents(), other.contents()) && std::ptr::eq(first.classes(), other.classes()));
        assert_eq!(other.catalogue.namespaces.len(), 1);
        node("b", "8.0").keep(&mut world);
        let contrary = Settled::after(Some(&other), world.clone());
        assert_eq!((contrary.contents().len(), first.contents().len()), (0, 1));
        CUDANode::forget(&mut world, &"b".to_owned());
        assert_eq!(Settled::after(Some(&contrary), world).contents().len(), 1);
    }

    #[test]
    fn nodes_that_read_the_same_share_it_and_keep_no_second_copy() {
        let mut world = World::default();
        for number in 0..1000 {
            node(&format!("node-{number}"), "9.0").keep(&mut world);
        }
        let first = &world.machines["node-0"].contents;
        assert_eq!(first.len(), 1);
        for machine in world.machines.values() {
            assert!(Arc::ptr_eq(first, &machine.contents));
            let words = CUDANodeStatus {
                contents: Vec::new(),
                ..machine.status.clone()
            };
            assert_eq!(machine.status, words);
        }
    }
}
