//! The closure of some store paths: everything they refer to, from signed narinfos, level by level.
//! Never recurses; never downloads a NAR; never grows beyond `Options::max_closure` paths.

use std::{collections::HashMap, sync::Arc};

use crds::domain::store_path::StorePath;
use futures_util::{StreamExt as _, stream};

use crate::{
    narinfo::VerifiedNarInfo,
    substitute::{SubstituteError, Substituter},
};

/// Some store paths with all they need.
#[derive(Debug, Clone)]
pub struct Closure {
    /// Each path once, what it refers to before it (where references form no cycle).
    pub paths: Vec<Arc<VerifiedNarInfo>>,
    /// What was asked for, each once, in the caller's order.
    pub roots: Vec<StorePath>,
    /// Bytes of all NARs: what unpacking takes, roughly. Signed.
    pub nar_size: u64,
    /// Bytes to download, of the paths that were not known, as far as narinfos say; a hint.
    pub download_size: u64,
}

/// Why a closure is not known.
#[derive(Debug, thiserror::Error)]
pub enum ClosureError {
    /// A path that was asked for; the source alone says all there is to say.
    #[error(transparent)]
    Root(SubstituteError),
    #[error("{referrer} refers to a path that cannot be had")]
    Reference {
        referrer: StorePath,
        /// Names the path.
        source: SubstituteError,
    },
    #[error("the closure has more than {limit} paths")]
    TooLarge { limit: usize },
}

/// What the caller already has, complete and verified, so that no cache need be asked for it.
pub type Known<'a> = dyn Fn(&StorePath) -> Option<Arc<VerifiedNarInfo>> + Send + Sync + 'a;

/// A walk under way. Paths are numbered in the order of their discovery.
#[derive(Default)]
struct Walk {
    numbers: HashMap<StorePath, usize>,
    narinfos: Vec<Option<Arc<VerifiedNarInfo>>>,
    download_size: u64,
}

impl Substituter {
    /// The closure of `roots`. The narinfos of one level are asked for in parallel, so that the time is a matter of the
    /// closure's depth, not of its size. `known` is asked first.
    pub async fn closure(&self, roots: &[StorePath], known: &Known<'_>) -> Result<Closure, ClosureError> {
        let limit = self.options().max_closure;
        let mut walk = Walk::default();
        let mut level = walk.discover(roots.iter().cloned(), None);
        let roots: Vec<StorePath> = level.iter().map(|(path, _)| path.clone()).collect();
        while !level.is_empty() {
            if walk.narinfos.len() > limit {
                return Err(ClosureError::TooLarge { limit });
            }
            let (here, missing): (Vec<_>, Vec<_>) = level
                .into_iter()
                .map(|entry| (known(&entry.0), entry))
                .partition(|(narinfo, _)| narinfo.is_some());
            let mut next = Vec::new();
            for narinfo in here.into_iter().filter_map(|(narinfo, _)| narinfo) {
                next.extend(walk.accept(narinfo));
            }
            let asking = stream::iter(missing).map(|(_, (path, referrer))| async move {
                let found = self.lookup(&path).await;
                found.map_err(|source| match referrer {
                    None => ClosureError::Root(source),
                    Some(referrer) => ClosureError::Reference { referrer, source },
                })
            });
            let mut answers = asking.buffer_unordered(self.options().parallel_narinfos.max(1));
            while let Some(found) = answers.next().await {
                let narinfo = found?.narinfo;
                walk.download_size = walk
                    .download_size
                    .saturating_add(narinfo.download().file_size.unwrap_or(narinfo.nar_size()));
                next.extend(walk.accept(narinfo));
                if walk.narinfos.len() > limit {
                    return Err(ClosureError::TooLarge { limit });
                }
            }
            level = next;
        }
        Ok(walk.finish(roots))
    }
}

impl Walk {
    /// Numbers the paths that were not seen before, and gives them back with their referrer.
    fn discover(
        &mut self,
        paths: impl IntoIterator<Item = StorePath>,
        referrer: Option<&StorePath>,
    ) -> Vec<(StorePath, Option<StorePath>)> {
        let mut new = Vec::new();
        for path in paths {
            if !self.numbers.contains_key(&path) {
                self.numbers.insert(path.clone(), self.narinfos.len());
                self.narinfos.push(None);
                new.push((path, referrer.cloned()));
            }
        }
        new
    }

    /// Takes the narinfo of a discovered path; gives back what it newly refers to.
    fn accept(&mut self, narinfo: Arc<VerifiedNarInfo>) -> Vec<(StorePath, Option<StorePath>)> {
        let path = narinfo.store_path().clone();
        let new = self.discover(narinfo.references().iter().cloned(), Some(&path));
        if let Some(slot) = self
            .numbers
            .get(&path)
            .and_then(|number| self.narinfos.get_mut(*number))
        {
            *slot = Some(narinfo);
        }
        new
    }

    fn finish(mut self, roots: Vec<StorePath>) -> Closure {
        let order = self.references_first(&roots);
        let paths: Vec<_> = order
            .into_iter()
            .filter_map(|number| self.narinfos[number].take())
            .collect();
        let nar_size = paths
            .iter()
            .fold(0u64, |sum, narinfo| sum.saturating_add(narinfo.nar_size()));
        Closure {
            paths,
            roots,
            nar_size,
            download_size: self.download_size,
        }
    }

    /// Depth-first post-order with a stack of its own: (number, how many of its references are done).
    fn references_first(&self, roots: &[StorePath]) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.narinfos.len());
        let mut seen = vec![false; self.narinfos.len()];
        let mut stack: Vec<(usize, usize)> = Vec::new();
        for root in roots.iter().filter_map(|path| self.numbers.get(path)) {
            if !std::mem::replace(&mut seen[*root], true) {
                stack.push((*root, 0));
            }
            while let Some((number, done)) = stack.last_mut() {
                let references = self.narinfos[*number]
                    .as_ref()
                    .map(|n| n.references())
                    .unwrap_or_default();
                match references.get(*done) {
                    None => {
                        order.push(*number);
                        stack.pop();
                    }
                    Some(reference) => {
                        *done += 1;
                        if let Some(next) = self.numbers.get(reference).filter(|n| !seen[**n]) {
                            seen[*next] = true;
                            stack.push((*next, 0));
                        }
                    }
                }
            }
        }
        order
    }
}
