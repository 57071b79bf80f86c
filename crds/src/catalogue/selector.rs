//! Label selectors, by the rules of the API server.
//! Never guesses: an operator that is not known matches nothing.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::Labels;

/// Whether all of a selector holds for `labels`. An empty selector matches everything (Kubernetes API conventions).
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten();
    let mut required = selector.match_expressions.iter().flatten();
    contains(labels, equal) && required.all(|requirement| holds(requirement, labels))
}

/// Whether `labels` has every one of `wanted`, as a `nodeSelector` asks.
pub fn contains<'a>(labels: &Labels, wanted: impl IntoIterator<Item = (&'a String, &'a String)>) -> bool {
    wanted.into_iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn holds(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let found = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = || found.is_some_and(|value| values.contains(value));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_match_as_the_api_server_has_it() {
        let labels = Labels::from([
            ("tier".to_owned(), "gold".to_owned()),
            ("team".to_owned(), "a".to_owned()),
        ]);
        for (selector, expected) in [
            (json!({}), true),
            (json!({"matchLabels": {"tier": "gold"}}), true),
            (json!({"matchLabels": {"tier": "gold", "team": "b"}}), false),
            (json!({"matchLabels": {"absent": ""}}), false),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["silver", "gold"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["gold"]}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "absent", "operator": "NotIn", "values": ["gold"]}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "absent", "operator": "Exists"}]}),
                false,
            ),
            (
                json!({"matchExpressions": [{"key": "absent", "operator": "DoesNotExist"}]}),
                true,
            ),
            (
                json!({"matchExpressions": [{"key": "tier", "operator": "Gt", "values": ["1"]}]}),
                false,
            ),
        ] {
            let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(matches(&parsed, &labels), expected, "{selector}");
        }
    }
}
