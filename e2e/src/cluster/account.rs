//! Speaking to the API server as a service account: by a real token, bound to a node where a pod's would be.
//! It must never carry the administrator's certificate along: what is asked is what that token alone may do.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Cluster;
use crate::programs::Ended;

/// A service account's token in a kubeconfig of its own.
#[derive(Debug)]
pub struct Account<'a> {
    cluster: &'a Cluster,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// A token of the service account; bound to that node, as the token of a pod there is, if one is named.
    pub fn account(&self, namespace: &str, name: &str, node: Option<&str>) -> Result<Account<'_>> {
        let mut arguments = vec!["create", "token", name, "--namespace", namespace];
        if let Some(node) = node {
            arguments.extend(["--bound-object-kind=Node", "--bound-object-name", node]);
        }
        let token = self.printed(&arguments)?;
        self.bearer(&format!("{namespace}-{name}-{}", node.unwrap_or("any")), &token)
    }

    /// Whoever has that token; `name` tells its kubeconfig from others.
    pub fn bearer(&self, name: &str, token: &str) -> Result<Account<'_>> {
        let server = self.printed(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "e2e",
            "contexts": [{ "name": "e2e", "context": { "cluster": "e2e", "user": name } }],
            "clusters": [{ "name": "e2e", "cluster": { "server": server, "certificate-authority": self.folder.join("pki/ca.crt") } }],
            "users": [{ "name": name, "user": { "token": token.trim() } }],
        });
        let kubeconfig = self.folder.join(format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, config.to_string())?;
        Ok(Account {
            cluster: self,
            kubeconfig,
        })
    }
}

impl Account<'_> {
    /// Where the token is, for a program that speaks to the API server itself.
    pub fn kubeconfig(&self) -> &std::path::Path {
        &self.kubeconfig
    }

    /// kubectl with that token.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Ended> {
        self.cluster.kubectl_as(&self.kubeconfig, arguments)
    }

    /// kubectl with that token and one object. The API server alone judges it: reading schemas is not among everybody's rights.
    pub fn kubectl_with(&self, arguments: &[&str], object: &Value) -> Result<Ended> {
        let file = tempfile::NamedTempFile::new()?;
        serde_json::to_writer(&file, object)?;
        let path = file.path().to_str().context("a temporary name that is not UTF-8")?;
        self.kubectl(&[arguments, &["--validate=false", "-f", path]].concat())
    }

    /// All that the API server says it may do in the namespace, one line for each resource and name: `GROUP/RESOURCE [NAME]: VERBS`.
    pub fn rules(&self, namespace: &str) -> Result<BTreeSet<String>> {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": { "namespace": namespace },
        });
        let answer = self.kubectl_with(&["create", "-o", "json"], &review)?;
        ensure!(answer.code == 0, "{answer:?}");
        let answer: Value = serde_json::from_str(&answer.stdout)?;
        let rules = answer["status"]["resourceRules"].as_array().context("no rules")?;
        Ok(rules.iter().flat_map(lines).collect())
    }
}

/// A rule of RBAC as lines.
pub fn lines(rule: &Value) -> Vec<String> {
    let words = |field: &str| -> Vec<String> {
        let entries = rule[field].as_array().into_iter().flatten();
        entries.filter_map(|entry| Some(entry.as_str()?.to_owned())).collect()
    };
    let (mut verbs, mut names) = (words("verbs"), words("resourceNames"));
    verbs.sort();
    names.sort();
    let named = if names.is_empty() {
        String::new()
    } else {
        format!(" [{}]", names.join(","))
    };
    let mut all = Vec::new();
    for group in words("apiGroups") {
        let group = if group.is_empty() { "core".to_owned() } else { group };
        all.extend(
            words("resources")
                .into_iter()
                .map(|resource| format!("{group}/{resource}{named}: {}", verbs.join(" "))),
        );
    }
    all
}
