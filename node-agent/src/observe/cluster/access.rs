//! What the agent may ask of an API server: the list that its role in the chart must equal.
//! Never a secret, never a pod, never a wildcard, and nothing is written but the node's own CUDANode and events.

/// Verbs on one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The resource, or `resource/subresource`.
    pub resource: &'static str,
    /// Sorted.
    pub verbs: &'static [&'static str],
}

const FOLLOW: &[&str] = &["get", "list", "watch"];

const fn rule(group: &'static str, resource: &'static str, verbs: &'static [&'static str]) -> Rule {
    Rule { group, resource, verbs }
}

/// Everything that the agent's ClusterRole grants, sorted. It has no Role.
///
/// That it writes only the CUDANode of its own node is the business of the chart's ValidatingAdmissionPolicy: RBAC knows no
/// nodes. Events are made in `events.k8s.io`, and brought up to date in the core group, because only there a note may change. Of its Node it reads uid and labels (owner of the CUDANode; `nodeSelector` of environments).
pub const RULES: [Rule; 10] = [
    rule("", "events", &["patch"]),
    rule("", "namespaces", FOLLOW),
    rule("", "nodes", FOLLOW),
    rule("cudaenv.dev", "clustercudaenvironments", FOLLOW),
    rule("cudaenv.dev", "cudabinarycaches", FOLLOW),
    rule("cudaenv.dev", "cudaenvironments", FOLLOW),
    rule("cudaenv.dev", "cudanodes", &["create", "get", "list", "watch"]),
    rule("cudaenv.dev", "cudanodes/status", &["patch"]),
    rule("events.k8s.io", "events", &["create"]),
    rule("storage.k8s.io", "csinodes", FOLLOW),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_grants_nothing_that_the_design_forbids() {
        let names: Vec<_> = RULES.iter().map(|rule| (rule.group, rule.resource)).collect();
        assert!(names.is_sorted(), "{names:?}");
        for rule in RULES {
            assert!(rule.verbs.is_sorted(), "{rule:?}");
            assert!(!["secrets", "pods", "configmaps"].contains(&rule.resource), "{rule:?}");
            let words = [&[rule.group, rule.resource], rule.verbs].concat();
            assert!(words.iter().all(|word| !word.contains('*')), "{rule:?}");
        }
        let written = RULES
            .iter()
            .filter(|rule| rule.verbs.iter().any(|verb| !FOLLOW.contains(verb)));
        let written: Vec<_> = written.map(|rule| rule.resource).collect();
        assert_eq!(written, ["events", "cudanodes", "cudanodes/status", "events"]);
    }
}
