//! What selection says of environments on classes of nodes, asked once in a pass: statuses and preflights ask the same.
//! Never kept from one pass to the next: environments, classes and what is read change in between.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use crds::{
    domain::environment::Environment,
    selection::{Selection, select},
};

use super::fleet::Fleet;
use crate::snapshot::world::World;

/// The answers of a pass.
#[derive(Debug, Default)]
pub struct Choices {
    /// Nothing where nobody asks twice: thousands of environments on many classes are a lot.
    known: Option<RefCell<Known>>,
}

/// By the environment's address, which stays during a pass, and the class's index.
type Known = HashMap<(usize, usize), Rc<Selection>>;

impl Choices {
    /// For a pass over `world`.
    pub fn new(world: &World) -> Self {
        Self {
            known: (!world.preflights.is_empty()).then(RefCell::default),
        }
    }

    /// What selection says of an environment of the world on a class of its fleet.
    pub fn of(&self, fleet: &Fleet<'_>, environment: &Environment, class: usize) -> Rc<Selection> {
        let asked = || Rc::new(select(environment, fleet.classes[class].facts, fleet.contents));
        let Some(known) = &self.known else {
            return asked();
        };
        let key = (std::ptr::from_ref(environment).addr(), class);
        Rc::clone(known.borrow_mut().entry(key).or_insert_with(asked))
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.known.as_ref().map_or(0, |known| known.borrow().len())
    }
}
