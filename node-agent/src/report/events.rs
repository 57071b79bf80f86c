//! What happens to a pod's volume, as events of the pod: one for each kind of thing, brought up to date while it goes on.
//! Never more than the API server takes, never the same thing twice in a short time, never a thing without a pod.

use std::{collections::BTreeMap, time::Duration};

use crds::{catalogue::EnvironmentKey, event::EventReason, v1alpha1::API_VERSION};
use indicatif::HumanBytes;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::{SignedDuration, Timestamp},
};
use sha2::{Digest, Sha256};

use crate::snapshot::{
    fetch::FetchStatus,
    happening::{Happening, Pod, What},
};

/// `reportingController` of every event.
pub const CONTROLLER: &str = "cudaenv.dev/node-agent";

/// Bytes of a note: what the API server takes, and a little less.
const LONGEST_NOTE: usize = 1000;
/// Events that are remembered, to be brought up to date.
const MOST_LINES: usize = 1024;
/// Between two notes of the same event.
const NEW_NOTE_EVERY: Duration = Duration::from_secs(15);
/// Between two counts of an event whose note stays.
const SAME_NOTE_EVERY: Duration = Duration::from_secs(120);

/// One request to the API server.
#[derive(Debug, Clone, PartialEq)]
pub enum Telling {
    /// A new event.
    Create(Box<Event>),
    /// Its note and its series are new.
    Update(Box<Event>),
}

/// Events that were told and may go on.
#[derive(Debug)]
pub struct EventLog {
    node: String,
    lines: BTreeMap<(String, String), Line>,
}

#[derive(Debug)]
struct Line {
    event: Event,
    count: i32,
    told: Timestamp,
}

/// An event without its times.
struct Said {
    reason: String,
    warning: bool,
    note: String,
}

impl EventLog {
    /// Tells of what happens on `node`.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            lines: BTreeMap::new(),
        }
    }

    /// What is to be told of `happening`, at `now`; nothing where it has no pod, or is not news.
    pub fn tell(&mut self, happening: &Happening, now: Timestamp) -> Option<Telling> {
        let pod = happening.pod.as_ref()?;
        if let What::Unpublished { .. } | What::Forgotten = happening.what {
            self.lines.retain(|(uid, _), _| *uid != pod.uid);
            return None;
        }
        let said = said(happening)?;
        let key = (pod.uid.clone(), said.reason.clone());
        if let Some(line) = self.lines.get_mut(&key) {
            return line.again(said, now);
        }
        let event = self.event(pod, happening.environment.as_ref(), said, now);
        self.make_room();
        let line = Line {
            event: event.clone(),
            count: 1,
            told: now,
        };
        self.lines.insert(key, line);
        Some(Telling::Create(Box::new(event)))
    }

    /// The one that was told the longest ago goes.
    fn make_room(&mut self) {
        if self.lines.len() < MOST_LINES {
            return;
        }
        let oldest = self.lines.iter().min_by_key(|(_, line)| line.told);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.lines.remove(&key);
        }
    }

    fn event(&self, pod: &Pod, environment: Option<&EnvironmentKey>, said: Said, now: Timestamp) -> Event {
        let kind = if said.warning { "Warning" } else { "Normal" };
        Event {
            metadata: ObjectMeta {
                name: Some(name(pod, &said.reason, now)),
                namespace: Some(pod.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            action: Some("Publish".to_owned()),
            note: Some(said.note),
            reason: Some(said.reason),
            type_: Some(kind.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectReference::default()
            }),
            related: environment.map(|key| ObjectReference {
                api_version: Some(API_VERSION.to_owned()),
                kind: Some(key.kind().to_owned()),
                namespace: key.namespace.clone(),
                name: Some(key.name.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(cut(&self.node, 128)),
            ..Event::default()
        }
    }
}

impl Line {
    /// The same kind of thing once more.
    fn again(&mut self, said: Said, now: Timestamp) -> Option<Telling> {
        let pause = if self.event.note.as_deref() == Some(&said.note) {
            SAME_NOTE_EVERY
        } else {
            NEW_NOTE_EVERY
        };
        let since = now.duration_since(self.told);
        if since < SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX) {
            return None;
        }
        self.count = self.count.saturating_add(1);
        self.told = now;
        self.event.note = Some(said.note);
        self.event.series = Some(EventSeries {
            count: self.count,
            last_observed_time: MicroTime(now),
        });
        Some(Telling::Update(Box::new(self.event.clone())))
    }
}

fn said(happening: &Happening) -> Option<Said> {
    let of = || match &happening.environment {
        Some(key) => key.to_string(),
        None => "the environment".to_owned(),
    };
    let normal = |reason: EventReason, note: String| Said {
        reason: reason.as_str().to_owned(),
        warning: false,
        note: cut(&note, LONGEST_NOTE),
    };
    Some(match &happening.what {
        What::Selected { variants } => {
            let chosen = variants
                .iter()
                .map(|(package, variant)| format!("{package}: {variant}"));
            let chosen = chosen.collect::<Vec<_>>().join(", ");
            normal(EventReason::VariantSelected, format!("{}: selected {chosen}", of()))
        }
        What::Fetching {
            status,
            bytes_per_second,
        } => normal(
            EventReason::Fetching,
            format!("{}: {}", of(), fetching(status, *bytes_per_second)),
        ),
        What::Published { took, .. } => {
            let took = took.as_secs_f64();
            normal(
                EventReason::Mounted,
                format!("{}: mounted, {took:.1} s after kubelet asked", of()),
            )
        }
        What::Unpublished { .. } | What::Forgotten | What::Collected { .. } => return None,
        What::Failed { reason, message } => Said {
            reason: format!("{reason:?}"),
            warning: true,
            note: cut(message, LONGEST_NOTE),
        },
    })
}

/// `fetched 1.20 GiB of 2.70 GiB (44 %), 35.00 MiB/s from flox, 12 of 40 paths missing`.
fn fetching(status: &FetchStatus, bytes_per_second: u64) -> String {
    let FetchStatus {
        bytes_done,
        bytes_total,
        paths_done,
        paths_total,
        source,
        ..
    } = status;
    let percent = (u128::from(*bytes_done) * 100)
        .checked_div(u128::from(*bytes_total))
        .unwrap_or(100);
    let source = source
        .as_ref()
        .map(|cache| format!(" from {cache}"))
        .unwrap_or_default();
    format!(
        "fetched {} of {} ({percent} %), {}/s{source}, {} of {paths_total} paths missing",
        HumanBytes(*bytes_done),
        HumanBytes(*bytes_total),
        HumanBytes(bytes_per_second),
        paths_total.saturating_sub(*paths_done),
    )
}

/// A name that no other event has, and that says whose it is.
fn name(pod: &Pod, reason: &str, now: Timestamp) -> String {
    let hash = Sha256::digest(format!("{}\n{reason}\n{}", pod.uid, now.as_nanosecond()));
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let room = 253 - hash.len() - 1;
    let pod = pod.name.get(..room).unwrap_or(&pod.name).trim_end_matches(['.', '-']);
    format!("{pod}.{hash}")
}

/// At most so many bytes, with a mark where some were left out.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most.saturating_sub('…'.len_utf8()));
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests;
