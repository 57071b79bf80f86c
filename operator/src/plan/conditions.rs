//! Conditions: from what is to be said to what is written.
//! Never moves the time of a condition whose status stays.

use crds::condition::{ConditionReason, ConditionType};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// Longest message of a condition; Kubernetes would take 32 KiB.
const LONGEST_MESSAGE: usize = 1024;

/// Whether something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
    /// Not known yet.
    Unknown,
}

impl Holds {
    /// As conditions write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Holds {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// One condition to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What it is about.
    pub about: ConditionType,
    /// Whether it holds.
    pub holds: Holds,
    /// Why.
    pub reason: ConditionReason,
    /// The same for people.
    pub message: String,
}

impl Verdict {
    /// A verdict in one line.
    pub fn new(about: ConditionType, holds: Holds, reason: ConditionReason, message: impl Into<String>) -> Self {
        Self {
            about,
            holds,
            reason,
            message: message.into(),
        }
    }
}

/// The conditions as they are to be written for a spec of `generation`, in place of `written`.
pub fn conditions(verdicts: Vec<Verdict>, generation: i64, written: &[Condition], now: Timestamp) -> Vec<Condition> {
    let condition = |verdict: Verdict| {
        let (type_, status) = (verdict.about.as_str(), verdict.holds.as_str());
        let same = written.iter().find(|old| old.type_ == type_ && old.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: verdict.reason.to_string(),
            message: shortened(&verdict.message, LONGEST_MESSAGE),
            last_transition_time: same.map_or(Time(now), |old| old.last_transition_time.clone()),
            observed_generation: Some(generation),
        }
    };
    verdicts.into_iter().map(condition).collect()
}

/// At most `longest` bytes of a text, with an ellipsis where something is missing.
pub fn shortened(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let mut end = longest.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_moves_with_its_status_only() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let verdict = |holds, reason| vec![Verdict::new(ConditionType::Ready, holds, reason, "words")];
        let first = conditions(verdict(Holds::False, ConditionReason::Resolving), 1, &[], at(10));
        let same = conditions(verdict(Holds::False, ConditionReason::CacheNotFound), 2, &first, at(20));
        assert_eq!(
            (same[0].last_transition_time.0, same[0].observed_generation),
            (at(10), Some(2))
        );
        let other = conditions(verdict(Holds::True, ConditionReason::AsExpected), 2, &same, at(30));
        assert_eq!(other[0].last_transition_time.0, at(30));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        for (text, longest, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "…"),
            ("abcdef", 5, "ab…"),
            ("aéé", 4, "a…"),
        ] {
            assert_eq!(shortened(text, longest), expected);
        }
    }
}
