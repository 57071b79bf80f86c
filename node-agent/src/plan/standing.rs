//! How far each environment is on the node, folded from what happened.
//! Never grows without bound, never forgets one that a pod uses.

use std::collections::{BTreeMap, BTreeSet};

use crds::{
    catalogue::{Catalogue, EnvironmentKey},
    failure::Reason,
    selection::Selection,
};

use crate::snapshot::{
    happening::{Happening, Pod, What},
    progress::Progress,
    status::{EnvironmentReport, PublishedVolume, Standing},
};

/// Environments that are remembered; a status tells of 256.
const MOST: usize = 512;

/// What is known of the environments of the node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standings {
    known: BTreeMap<EnvironmentKey, Known>,
}

#[derive(Debug, Clone, PartialEq)]
struct Known {
    generation: i64,
    packages: Vec<(String, String)>,
    standing: Standing,
    /// Pods whose volume is mounted.
    pods: BTreeSet<Pod>,
}

impl Standings {
    /// Takes in what happened; `catalogue` says which generation of the environment it happened to.
    pub fn take(&mut self, happening: &Happening, catalogue: &Catalogue) {
        if let (What::Unpublished { .. } | What::Forgotten, Some(pod)) = (&happening.what, &happening.pod) {
            for known in self.known.values_mut() {
                known.pods.retain(|used| used.uid != pod.uid);
            }
        }
        let Some(key) = &happening.environment else { return };
        let Some(standing) = standing(&happening.what) else {
            return;
        };
        let generation = catalogue.environments.get(key).map(|entry| entry.generation);
        if generation.is_none() && !self.known.contains_key(key) {
            return;
        }
        self.make_room(key);
        let known = self.known.entry(key.clone()).or_insert_with(|| Known {
            generation: generation.unwrap_or_default(),
            packages: Vec::new(),
            standing: Standing::Pending,
            pods: BTreeSet::new(),
        });
        match &happening.what {
            What::Selected { variants } => {
                known.generation = generation.unwrap_or(known.generation);
                // A warm volume is selected and published at once: that must not look like a step back.
                if known.packages == *variants && known.standing == Standing::Ready {
                    return;
                }
                known.packages.clone_from(variants);
            }
            What::Published { .. } => known.pods.extend(happening.pod.clone()),
            // Of what was selected before nothing is said.
            What::Fetching { .. } | What::Failed { .. } if generation.is_some_and(|now| now != known.generation) => {
                known.generation = generation.unwrap_or(known.generation);
                known.packages.clear();
            }
            What::Fetching { .. }
            | What::Unpublished { .. }
            | What::Forgotten
            | What::Collected { .. }
            | What::Failed { .. } => {}
        }
        known.standing = standing;
    }

    /// What the volumes say that an earlier agent published: a restart forgets nobody.
    pub fn of(volumes: &[PublishedVolume], catalogue: &Catalogue) -> Self {
        let mut standings = Self::default();
        for volume in volumes {
            let (Some(key), Some(pod)) = (&volume.environment, &volume.pod) else {
                continue;
            };
            let generation = catalogue.environments.get(key).map(|entry| entry.generation);
            standings.made(Made {
                key: key.clone(),
                generation: generation.unwrap_or_default(),
                packages: volume.packages.clone(),
            });
            if let Some(known) = standings.known.get_mut(key) {
                known.pods.insert(pod.clone());
            }
        }
        standings
    }

    /// Takes in that an environment was made ahead of any pod; says whether that is news.
    pub fn made(&mut self, made: Made) -> bool {
        self.make_room(&made.key);
        let known = self.known.entry(made.key).or_insert_with(|| Known {
            generation: made.generation,
            packages: Vec::new(),
            standing: Standing::Pending,
            pods: BTreeSet::new(),
        });
        let same =
            known.generation == made.generation && known.packages == made.packages && known.standing == Standing::Ready;
        known.generation = made.generation;
        known.packages = made.packages;
        known.standing = Standing::Ready;
        !same
    }

    /// An environment that nobody uses gives way to a new one, an unknown number of them being made.
    fn make_room(&mut self, key: &EnvironmentKey) {
        if self.known.len() < MOST || self.known.contains_key(key) {
            return;
        }
        let unused = self.known.iter().find(|(_, known)| known.pods.is_empty());
        if let Some(unused) = unused.map(|(key, _)| key.clone()) {
            self.known.remove(&unused);
        }
    }

    /// All of them, with what is `at_work` now; those left out that are neither in the `catalogue` nor in use.
    pub fn reports(&self, catalogue: &Catalogue, at_work: &AtWork) -> Vec<EnvironmentReport> {
        let mut reports = BTreeMap::new();
        for (key, known) in &self.known {
            let report = EnvironmentReport {
                key: key.clone(),
                generation: known.generation,
                packages: known.packages.clone(),
                standing: known.standing.clone(),
                pods: known.pods.len(),
            };
            reports.insert(key, report);
        }
        // What was made is there, unless something that happened since says otherwise of the same generation.
        for made in &at_work.made {
            let report = reports.entry(&made.key).or_insert_with(|| made.report());
            let is_newer = made.generation > report.generation;
            if is_newer || made.generation == report.generation && report.standing == Standing::Pending {
                *report = EnvironmentReport {
                    pods: report.pods,
                    ..made.report()
                };
            }
        }
        for working in &at_work.under_way {
            let report = reports.entry(&working.key).or_insert_with(|| working.report());
            let looked_at_again = report.standing == Standing::Ready && report.generation == working.generation;
            if looked_at_again && working.standing() == Standing::Pending {
                continue;
            }
            report.standing = working.standing();
            report.generation = working.generation;
        }
        let told = |report: &EnvironmentReport| report.pods > 0 || catalogue.environments.contains_key(&report.key);
        reports.into_values().filter(told).collect()
    }
}

/// What the provisioning has in hand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AtWork {
    /// Being made.
    pub under_way: Vec<UnderWay>,
    /// Made, and there still.
    pub made: Vec<Made>,
}

/// An environment that is being made.
#[derive(Debug, Clone, PartialEq)]
pub struct UnderWay {
    /// Which.
    pub key: EnvironmentKey,
    /// Of which generation.
    pub generation: i64,
    /// How far.
    pub progress: Progress,
}

/// An environment that was made for the node as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Which.
    pub key: EnvironmentKey,
    /// Of which generation.
    pub generation: i64,
    /// The selected variant of each package.
    pub packages: Vec<(String, String)>,
}

impl UnderWay {
    fn standing(&self) -> Standing {
        let fetch = &self.progress.fetch;
        if fetch.paths_total == 0 {
            return Standing::Pending;
        }
        Standing::Fetching {
            bytes_done: fetch.bytes_done,
            bytes_total: fetch.bytes_total,
        }
    }

    fn report(&self) -> EnvironmentReport {
        EnvironmentReport {
            key: self.key.clone(),
            generation: self.generation,
            packages: Vec::new(),
            standing: self.standing(),
            pods: 0,
        }
    }
}

impl Made {
    /// What was selected of the environment `key`.
    pub fn of(key: EnvironmentKey, generation: i64, selection: &Selection) -> Self {
        let selected = selection.selected.iter();
        Self {
            key,
            generation,
            packages: selected
                .map(|(package, selected)| (package.clone(), selected.variant.clone()))
                .collect(),
        }
    }

    fn report(&self) -> EnvironmentReport {
        EnvironmentReport {
            key: self.key.clone(),
            generation: self.generation,
            packages: self.packages.clone(),
            standing: Standing::Ready,
            pods: 0,
        }
    }
}

/// What something that happened says of its environment; nothing where it says something of the pod only.
fn standing(what: &What) -> Option<Standing> {
    Some(match what {
        What::Selected { .. } => Standing::Pending,
        What::Fetching { status, .. } => Standing::Fetching {
            bytes_done: status.bytes_done,
            bytes_total: status.bytes_total,
        },
        What::Published { .. } => Standing::Ready,
        What::Unpublished { .. } | What::Forgotten | What::Collected { .. } => return None,
        What::Failed { reason, message } => {
            let (reason, message) = (*reason, message.clone());
            match fault(reason) {
                Fault::OfThePod => return None,
                Fault::DoesNotFit => Standing::Incompatible { reason, message },
                Fault::Other => Standing::Failed { reason, message },
            }
        }
    })
}

enum Fault {
    /// The environment may be as good as before.
    OfThePod,
    /// No variant fits the node.
    DoesNotFit,
    /// Something that may go away.
    Other,
}

const fn fault(reason: Reason) -> Fault {
    match reason {
        // Nor does an agent that only starts, or a node that only empties, say anything of it.
        Reason::BadRequest
        | Reason::EnvironmentNotFound
        | Reason::AgentStarting
        | Reason::Draining
        | Reason::ProgramFailed => Fault::OfThePod,
        Reason::DriverTooOld
        | Reason::PtxTooNew
        | Reason::NoCodeForGPU
        | Reason::NoVariantForSystem
        | Reason::OutsideDeclaredRange => Fault::DoesNotFit,
        Reason::DriverNotReady
        | Reason::DriverMismatch
        | Reason::SignatureUntrusted
        | Reason::HashMismatch
        | Reason::CredentialsRefused
        | Reason::CacheUnreachable
        | Reason::NotInAnyCache
        | Reason::InsufficientDisk
        | Reason::StoreCorrupt
        | Reason::StoreFailed
        | Reason::ViewFailed => Fault::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use crds::{
        catalogue::{EnvironmentEntry, Labels},
        convert::{InvalidField, Problem},
        v1alpha1::Prewarm,
    };

    use super::*;
    use crate::snapshot::{fetch::FetchStatus, view::ViewKind};

    fn key(name: &str) -> EnvironmentKey {
        EnvironmentKey {
            namespace: Some("a".to_owned()),
            name: name.to_owned(),
        }
    }

    fn catalogue(generation: i64) -> Catalogue {
        let entry = EnvironmentEntry {
            uid: String::new(),
            generation,
            environment: Err(InvalidField {
                field: String::new(),
                problem: Problem::Missing,
            }),
            prewarm: Prewarm::OnDemand,
            node_selector: Labels::new(),
            allowed_namespaces: None,
        };
        let mut catalogue = Catalogue::default();
        catalogue.environments.insert(key("x"), Arc::new(entry));
        catalogue
    }

    fn happening(pod: &str, name: &str, what: What) -> Happening {
        Happening {
            pod: Some(Pod {
                namespace: "a".to_owned(),
                name: pod.to_owned(),
                uid: pod.to_owned(),
            }),
            environment: Some(key(name)),
            what,
        }
    }

    fn selected(variant: &str) -> What {
        What::Selected {
            variants: vec![("cuda".to_owned(), variant.to_owned())],
        }
    }

    fn published() -> What {
        What::Published {
            view: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            kind: ViewKind::Overlay,
            took: Duration::ZERO,
        }
    }

    fn failed(reason: Reason) -> What {
        What::Failed {
            reason,
            message: "no".to_owned(),
        }
    }

    #[test]
    fn an_environment_goes_from_selected_to_ready_and_stays_while_a_pod_uses_it() {
        let (all, mut standings) = (catalogue(3), Standings::default());
        let mut after = |pod: &str, what: What, all: &Catalogue| {
            standings.take(&happening(pod, "x", what), all);
            standings.reports(all, &AtWork::default()).into_iter().next()
        };
        let report = after("p", selected("cu128"), &all).unwrap();
        assert_eq!(
            (report.generation, report.standing, report.pods),
            (3, Standing::Pending, 0)
        );
        let fetching = What::Fetching {
            status: FetchStatus {
                bytes_done: 5,
                bytes_total: 10,
                ..FetchStatus::default()
            },
            bytes_per_second: 1,
        };
        let report = after("p", fetching, &all).unwrap();
        assert!(matches!(report.standing, Standing::Fetching { bytes_done: 5, .. }));
        let report = after("p", published(), &all).unwrap();
        assert_eq!((report.standing, report.pods), (Standing::Ready, 1));
        assert_eq!(report.packages, [("cuda".to_owned(), "cu128".to_owned())]);
        // A second pod of the same: warm, so it stays ready.
        assert_eq!(after("q", selected("cu128"), &all).unwrap().standing, Standing::Ready);
        assert_eq!(after("q", published(), &all).unwrap().standing, Standing::Ready);
        // What is wrong with a pod is not wrong with the environment.
        assert_eq!(
            after("r", failed(Reason::BadRequest), &all).unwrap().standing,
            Standing::Ready
        );
        let gone = Catalogue::default();
        let unpublished = || What::Unpublished { took: Duration::ZERO };
        assert_eq!(after("p", unpublished(), &gone).unwrap().pods, 1, "q uses it still");
        assert_eq!(after("q", unpublished(), &gone), None);
    }

    #[test]
    fn a_failure_says_whether_it_is_the_node_that_does_not_fit() {
        let (all, mut standings) = (catalogue(1), Standings::default());
        let mut after = |reason| {
            standings.take(&happening("p", "x", failed(reason)), &all);
            standings.reports(&all, &AtWork::default())[0].standing.clone()
        };
        assert!(matches!(after(Reason::DriverTooOld), Standing::Incompatible { .. }));
        assert!(matches!(after(Reason::CacheUnreachable), Standing::Failed { .. }));
        // Of an environment that is not there nothing is remembered.
        standings.take(&happening("p", "absent", failed(Reason::CacheUnreachable)), &all);
        assert_eq!(standings.known.len(), 1);
    }

    #[test]
    fn what_is_made_ahead_of_any_pod_is_told_too_but_not_over_what_happened_since() {
        let (all, mut standings) = (catalogue(2), Standings::default());
        let made = |generation| Made {
            key: key("x"),
            generation,
            packages: vec![("cuda".to_owned(), "cu126".to_owned())],
        };
        let under_way = |bytes_total| UnderWay {
            key: key("x"),
            generation: 2,
            progress: Progress {
                fetch: FetchStatus {
                    bytes_total,
                    paths_total: bytes_total,
                    ..FetchStatus::default()
                },
                ..Progress::default()
            },
        };
        let standing = |standings: &Standings, under_way: &[UnderWay], made: &[Made]| {
            let at_work = AtWork {
                under_way: under_way.to_vec(),
                made: made.to_vec(),
            };
            standings
                .reports(&all, &at_work)
                .into_iter()
                .next()
                .map(|report| report.standing)
        };
        assert_eq!(standing(&standings, &[], &[]), None);
        assert_eq!(standing(&standings, &[under_way(0)], &[]), Some(Standing::Pending));
        assert!(matches!(
            standing(&standings, &[under_way(9)], &[]),
            Some(Standing::Fetching { .. })
        ));
        assert_eq!(standing(&standings, &[], &[made(2)]), Some(Standing::Ready));
        let again = standing(&standings, &[under_way(0)], &[made(2)]);
        assert_eq!(
            again,
            Some(Standing::Ready),
            "to look whether all of it is there is no step back"
        );
        standings.take(&happening("p", "x", failed(Reason::ViewFailed)), &all);
        assert!(matches!(
            standing(&standings, &[], &[made(2)]),
            Some(Standing::Failed { .. })
        ));
        standings.take(&happening("p", "x", published()), &all);
        assert_eq!(standing(&standings, &[], &[made(2)]), Some(Standing::Ready));
        assert!(standings.made(made(3)), "a new generation is news");
        assert!(!standings.made(made(3)), "the same again is none");
        assert_eq!(standings.reports(&all, &AtWork::default())[0].generation, 3);
        let other = Made {
            key: key("deleted"),
            ..made(1)
        };
        assert_eq!(standing(&Standings::default(), &[], &[other]), None);
    }

    #[test]
    fn a_failure_is_told_of_the_generation_that_failed_whatever_was_made_of_the_one_before() {
        let mut standings = Standings::default();
        let made = |generation| Made {
            key: key("x"),
            generation,
            packages: vec![("cuda".to_owned(), "cu126".to_owned())],
        };
        let selected = What::Selected {
            variants: made(1).packages,
        };
        standings.take(&happening("p", "x", selected), &catalogue(1));
        standings.take(&happening("p", "x", published()), &catalogue(1));
        standings.take(&happening("q", "x", failed(Reason::NotInAnyCache)), &catalogue(2));
        let at_work = AtWork {
            under_way: Vec::new(),
            made: vec![made(1)],
        };
        let report = &standings.reports(&catalogue(2), &at_work)[0];
        assert_eq!((report.generation, report.pods, report.packages.len()), (2, 1, 0));
        assert!(matches!(report.standing, Standing::Failed { .. }), "{report:?}");
        // What is made of the new one is told over what was true of the old one.
        let mut standings = Standings::default();
        standings.made(made(1));
        let at_work = AtWork {
            under_way: Vec::new(),
            made: vec![made(1), made(2)],
        };
        assert_eq!(standings.reports(&catalogue(2), &at_work)[0].generation, 2);
    }

    #[test]
    fn a_restart_finds_what_is_in_use_in_the_volumes_records() {
        let volume = |pod: &str| PublishedVolume {
            pod: Some(Pod {
                namespace: "a".to_owned(),
                name: pod.to_owned(),
                uid: pod.to_owned(),
            }),
            bridge: None,
            environment: Some(key("x")),
            packages: vec![("cuda".to_owned(), "cu126".to_owned())],
        };
        let all = catalogue(4);
        let mut standings = Standings::of(&[volume("p"), volume("q")], &all);
        let report = |standings: &Standings| standings.reports(&all, &AtWork::default()).into_iter().next().unwrap();
        let found = report(&standings);
        assert_eq!((found.generation, found.standing, found.pods), (4, Standing::Ready, 2));
        // Kubelet asks for one to be taken away; the other was gone with its folder, and a sweep forgets it.
        let unpublished = What::Unpublished { took: Duration::ZERO };
        for (pod, what, left) in [("p", unpublished, 1), ("q", What::Forgotten, 0)] {
            standings.take(&happening(pod, "x", what), &all);
            assert_eq!(report(&standings).pods, left, "{pod} is gone");
        }
    }

    #[test]
    fn what_nobody_uses_gives_way() {
        let mut all = catalogue(1);
        let entry = all.environments.values().next().unwrap().clone();
        let mut standings = Standings::default();
        for number in 0..2 * MOST {
            let name = format!("e{number:04}");
            all.environments.insert(key(&name), Arc::clone(&entry));
            standings.take(&happening("p", &name, selected("cu128")), &all);
        }
        assert_eq!(standings.known.len(), MOST);
        assert!(standings.known.contains_key(&key(&format!("e{:04}", 2 * MOST - 1))));
    }
}
