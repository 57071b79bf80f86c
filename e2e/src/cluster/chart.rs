//! The chart, by real helm: rendered to objects, or installed in a cluster.
//! It must never repair what helm makes of the templates: a test sees what a user would get.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, programs};
use crate::programs::{Ended, ended, finished, source_folder};

/// Namespace and name of the release in all tests.
pub const NAMESPACE: &str = "cudaenv-system";
/// The release's name.
pub const RELEASE: &str = "cudaenv";

/// The Kubernetes that is rendered for where no cluster is asked.
const KUBERNETES: &str = "--kube-version=1.34.0";

/// The chart's folder.
pub fn folder() -> PathBuf {
    source_folder().join("charts/cudaenv")
}

/// What the reference of admission shows below the heading "The configuration", as YAML; names in capitals stand for those of an installation.
pub fn written_configuration() -> Result<String> {
    let path = source_folder().join("docs/reference/admission.md");
    let reference = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (_, section) = reference
        .split_once("\n## The configuration\n")
        .context("the reference has no such heading")?;
    let (_, block) = section.split_once("```yaml\n").context("no YAML below the heading")?;
    let (block, _) = block.split_once("\n```").context("the YAML does not end")?;
    Ok(block.to_owned())
}

/// The written configuration of an installation of those names, with a port of this machine in the place of its service.
pub fn configuration_at(namespace: &str, configuration: &str, port: u16) -> Result<Vec<Value>> {
    let text = written_configuration()?
        .replace("RELEASE", namespace)
        .replace("CONFIGURATION", configuration)
        .replace("SERVICE", "webhook");
    let mut objects = Vec::new();
    for document in text.split("---\n") {
        let mut object: Value = serde_saphyr::from_str(document)?;
        for webhook in object["webhooks"].as_array_mut().into_iter().flatten() {
            let client = &mut webhook["clientConfig"];
            let service = client["service"].take();
            ensure!(
                service["name"] == "webhook" && service["namespace"] == namespace,
                "another service: {service}"
            );
            let path = service["path"].as_str().context("a service without a path")?;
            *client = json!({"url": format!("https://127.0.0.1:{port}{path}")});
        }
        objects.push(object);
    }
    Ok(objects)
}

/// A `helm` that needs no cluster. Nothing, and `check` on the record of skipped checks, where this machine cannot build it.
pub fn helm(check: &str) -> Result<Option<Helm>> {
    let built = programs(check, &["helm"])?;
    Ok(built.map(|folder| Helm {
        program: folder.join("helm"),
    }))
}

/// A real helm.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
}

impl Helm {
    /// `helm lint` with further arguments.
    pub fn lint(&self, arguments: &[&str]) -> Result<Ended> {
        ended(
            Command::new(&self.program)
                .args(["lint", "--strict"])
                .arg(folder())
                .args(arguments),
        )
    }

    /// What `helm template` answers with further arguments.
    pub fn template(&self, arguments: &[&str]) -> Result<Ended> {
        let mut helm = Command::new(&self.program);
        helm.args(["template", RELEASE, "--namespace", NAMESPACE, KUBERNETES])
            .arg(folder())
            .args(arguments);
        ended(&mut helm)
    }

    /// The objects that the chart renders to.
    pub fn objects(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let rendered = self.template(arguments)?;
        ensure!(rendered.code == 0, "helm template {arguments:?}: {rendered:?}");
        let objects = serde_saphyr::from_multiple::<Value>(&rendered.stdout).context("helm rendered no YAML")?;
        Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
    }
}

impl Cluster {
    /// helm as the cluster's administrator, with nothing of the user's own settings.
    pub fn helm(&self, arguments: &[&str]) -> Result<Ended> {
        ended(self.with_helm("helm")?.args(arguments))
    }

    /// A line for a shell that finds kubectl and helm, in that folder, as the cluster's administrator.
    pub fn shell(&self, folder: &Path, line: &str) -> Result<Ended> {
        let path = format!("{}:/usr/bin:/bin", self.programs.display());
        let mut shell = self.with_helm("/bin/bash")?;
        shell.current_dir(folder).env("PATH", path);
        ended(shell.args(["-euo", "pipefail", "-c", line]))
    }

    /// A program where the API server can be reached, with helm's own folders in the cluster's.
    fn with_helm(&self, program: &str) -> Result<Command> {
        let built = programs("helm in a cluster", &["helm"])?.context("helm could not be built")?;
        ensure!(
            built == self.programs,
            "helm is of other sources than the running cluster"
        );
        let home = self.folder.join("helm");
        let mut client = self.client(program);
        for (name, part) in [
            ("HELM_CACHE_HOME", "cache"),
            ("HELM_CONFIG_HOME", "config"),
            ("HELM_DATA_HOME", "data"),
        ] {
            client.env(name, home.join(part));
        }
        Ok(client)
    }

    /// Installs the chart, or upgrades it, and waits until what it made is ready.
    pub fn install(&self, arguments: &[&str]) -> Result<Ended> {
        let chart = folder();
        let chart = chart.to_str().context("the source folder's name is not UTF-8")?;
        let base = [
            "upgrade",
            "--install",
            RELEASE,
            chart,
            "--namespace",
            NAMESPACE,
            "--create-namespace",
            "--wait",
            "--timeout=120s",
        ];
        self.helm(&[&base, arguments].concat())
    }

    /// `kubectl get` of one field in all objects of a kind: what JSONPath prints.
    pub fn field(&self, kind: &str, path: &str) -> Result<String> {
        self.printed(&["get", kind, "-A", "-o", &format!("jsonpath={path}")])
    }
}

/// Makes the namespace that the release goes to.
pub fn make_namespace(cluster: &Cluster) -> Result<()> {
    cluster.printed(&["create", "namespace", NAMESPACE])?;
    Ok(())
}

/// `helm version`, to see that it is a real one.
pub fn version(helm: &Helm) -> Result<String> {
    finished(Command::new(&helm.program).args(["version", "--short"]))
}
