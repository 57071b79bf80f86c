//! Bytes that nodes would have to fetch for another driver.
//! Never counts a path that a node has, by what its agent says that it holds; never asks who may use which cache where nothing
//! is to be fetched.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crds::{catalogue::EnvironmentKey, domain::store_path::StorePath, selection::Selection, v1alpha1::Prewarm};

use super::Trial;
use crate::{
    plan::resolve::{Known, cache_set, known},
    snapshot::resolution::{CacheSet, Resolved, Unresolved},
};

/// What all nodes together would have to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Download {
    /// So many bytes.
    Bytes(u64),
    /// The caches have not answered for all of it.
    Waiting,
    /// A closure cannot be had.
    Failed {
        /// Of which environment.
        environment: EnvironmentKey,
        /// Why.
        failed: Unresolved,
    },
}

/// An environment's caches, once somebody asks.
type Caches = OnceCell<Result<Arc<CacheSet>, Unresolved>>;

/// Of all nodes together. What cannot be had is told before what is still waited for.
pub(super) fn bytes(trial: &Trial<'_>) -> Download {
    let caches: Vec<Caches> = trial.environments.iter().map(|_| Caches::new()).collect();
    let mut alike: BTreeMap<(usize, Vec<usize>), u64> = BTreeMap::new();
    for ((_, class), holdings) in trial.members.iter().zip(holdings(trial)) {
        *alike.entry((*class, holdings)).or_default() += 1;
    }
    let mut sum: u64 = 0;
    let mut waiting = false;
    for ((class, holdings), nodes) in alike {
        match of_one(trial, &caches, class, &holdings) {
            Download::Bytes(each) => sum = sum.saturating_add(each.saturating_mul(nodes)),
            Download::Waiting => waiting = true,
            failed @ Download::Failed { .. } => return failed,
        }
    }
    if waiting {
        Download::Waiting
    } else {
        Download::Bytes(sum)
    }
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
fn of_one(trial: &Trial<'_>, caches: &[Caches], class: usize, holdings: &[usize]) -> Download {
    let mut needs: BTreeMap<&str, u64> = BTreeMap::new();
    let mut waiting = false;
    for index in holdings {
        let candidate = &trial.environments[*index];
        let Some(choice) = candidate.choices.get(&class) else {
            continue;
        };
        let before: BTreeSet<_> = paths(&choice.before).collect();
        for path in paths(&choice.after).filter(|path| !before.contains(path)) {
            match closure(trial, caches, *index, path) {
                Known::Good(closure) => {
                    let members = closure.members.iter();
                    needs.extend(members.map(|member| (&*member.hash, member.download_bytes)));
                }
                Known::Waiting => waiting = true,
                Known::Failed(failed) => {
                    return Download::Failed {
                        environment: candidate.key.clone(),
                        failed: failed.clone(),
                    };
                }
            }
        }
    }
    if waiting {
        return Download::Waiting;
    }
    if needs.is_empty() {
        return Download::Bytes(0);
    }
    let has: BTreeSet<&str> = held_paths(trial, caches, class, holdings)
        .flat_map(|closure| closure.members.iter().map(|member| &*member.hash))
        .collect();
    let missing = needs.iter().filter(|(hash, _)| !has.contains(*hash));
    Download::Bytes(missing.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes)))
}

/// The closures that a node has before. What is not known of them makes it fetch more at worst.
fn held_paths<'a>(
    trial: &'a Trial<'_>,
    caches: &'a [Caches],
    class: usize,
    holdings: &'a [usize],
) -> impl Iterator<Item = &'a Arc<Resolved>> {
    let chosen = holdings.iter().filter_map(move |index| {
        let choice = trial.environments[*index].choices.get(&class)?;
        Some((*index, &choice.before))
    });
    let roots = chosen.flat_map(|(index, before)| paths(before).map(move |path| (index, path)));
    roots.filter_map(|(index, path)| match closure(trial, caches, index, path) {
        Known::Good(closure) => Some(closure),
        Known::Waiting | Known::Failed(_) => None,
    })
}

fn closure<'a>(trial: &'a Trial<'_>, caches: &'a [Caches], index: usize, path: &StorePath) -> Known<'a> {
    let candidate = &trial.environments[index];
    let set = caches[index].get_or_init(|| cache_set(trial.inputs.world, candidate.key, candidate.environment));
    match set {
        Ok(set) => known(trial.inputs.answers, set, path),
        Err(refused) => Known::Failed(refused),
    }
}

fn paths(selection: &Selection) -> impl Iterator<Item = &StorePath> {
    let selected = selection.selected.values();
    selected.flat_map(|selected| std::iter::once(&selected.store_path).chain(&selected.forward_compat))
}
