//! Bytes that nodes would have to fetch for another driver.
//! Never counts a path that a node has, by what its agent says that it holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crds::{domain::store_path::StorePath, selection::Selection, v1alpha1::Prewarm};

use super::{Candidate, Trial};
use crate::{
    plan::resolve::{Known, cache_set, known},
    snapshot::resolution::{CacheSet, Resolved},
};

/// Of all nodes together; nothing where a closure is not known.
pub(super) fn bytes(trial: &Trial<'_>) -> Option<u64> {
    let caches: Vec<Option<Arc<CacheSet>>> = trial
        .environments
        .iter()
        .map(|candidate| cache_set(trial.inputs.world, candidate.key, candidate.environment).ok())
        .collect();
    let mut alike: BTreeMap<(usize, Vec<usize>), u64> = BTreeMap::new();
    for ((_, class), holdings) in trial.members.iter().zip(holdings(trial)) {
        *alike.entry((*class, holdings)).or_default() += 1;
    }
    let mut sum: u64 = 0;
    for ((class, holdings), nodes) in alike {
        let each = of_one(trial, &caches, class, &holdings)?;
        sum = sum.saturating_add(each.saturating_mul(nodes));
    }
    Some(sum)
}

/// For each member, the environments that it holds or will be given ahead: their indices.
fn holdings(trial: &Trial<'_>) -> Vec<Vec<usize>> {
    let places: BTreeMap<usize, usize> = trial
        .members
        .iter()
        .enumerate()
        .map(|(place, (member, _))| (*member, place))
        .collect();
    let mut holdings = vec![Vec::new(); trial.members.len()];
    for (index, candidate) in trial.environments.iter().enumerate() {
        if candidate.entry.prewarm == Prewarm::Always {
            for (member, place) in &places {
                if trial.is_meant_for(candidate, *member) {
                    holdings[*place].push(index);
                }
            }
            continue;
        }
        let held = trial.held(candidate.key);
        for place in held.keys().filter_map(|member| places.get(member)) {
            holdings[*place].push(index);
        }
    }
    holdings
}

/// What one node of a class fetches, if it holds these environments.
fn of_one(trial: &Trial<'_>, caches: &[Option<Arc<CacheSet>>], class: usize, holdings: &[usize]) -> Option<u64> {
    let mut has: BTreeSet<&str> = BTreeSet::new();
    let mut needs: BTreeMap<&str, u64> = BTreeMap::new();
    for index in holdings {
        let candidate: &Candidate<'_> = &trial.environments[*index];
        let (choice, caches) = (candidate.choices.get(&class)?, caches[*index].as_ref()?);
        for path in paths(&choice.before) {
            // What is not known of what a node has makes it fetch more at worst.
            let closure = closure(trial, caches, path);
            let members = closure.into_iter().flat_map(|closure| &closure.members);
            has.extend(members.map(|member| &*member.hash));
        }
        let before: BTreeSet<_> = paths(&choice.before).collect();
        for path in paths(&choice.after).filter(|path| !before.contains(path)) {
            let members = &closure(trial, caches, path)?.members;
            needs.extend(members.iter().map(|member| (&*member.hash, member.download_bytes)));
        }
    }
    let missing = needs.iter().filter(|(hash, _)| !has.contains(*hash));
    Some(missing.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes)))
}

fn closure<'a>(trial: &Trial<'a>, caches: &Arc<CacheSet>, path: &StorePath) -> Option<&'a Resolved> {
    match known(trial.inputs.answers, caches, path) {
        Known::Good(resolved) => Some(resolved),
        Known::Waiting | Known::Failed(_) => None,
    }
}

fn paths(selection: &Selection) -> impl Iterator<Item = &StorePath> {
    let selected = selection.selected.values();
    selected.flat_map(|selected| std::iter::once(&selected.store_path).chain(&selected.forward_compat))
}
