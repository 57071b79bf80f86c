//! The command line of the operator, typed.
//! The only file that reads the environment (through clap); it never acts on what it read.

use std::net::{IpAddr, SocketAddr};

use clap::{Parser, Subcommand, ValueEnum};
use crds::convert::is_object_name;

use crate::plan::admission::affinity::AgentNodes;

/// The cluster side of cudaenv: resolves environments, keeps their status, labels nodes, answers preflights, injects pods.
#[derive(Debug, Parser)]
#[command(name = "operator", version, propagate_version = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// How much is logged to standard error, as tracing's filter directives, such as `info` or `operator=debug`.
    #[arg(long, env = "CUDAENV_LOG", default_value = "info", global = true)]
    pub log: String,

    /// How the log is written: lines for people, JSON for programs.
    #[arg(long, env = "CUDAENV_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for each event.
    Text,
    /// A JSON document for each event.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the cluster that the kubeconfig or the pod's own service account leads to, until SIGTERM.
    Run(RunArgs),
    /// Leave a cluster: what `helm uninstall` runs before and after it removes the release.
    #[command(subcommand)]
    Uninstall(UninstallStep),
}

/// A step of leaving a cluster.
#[derive(Debug, Subcommand)]
pub enum UninstallStep {
    /// Fail while a pod holds a CUDA environment: without an agent it could never be removed.
    Check,
    /// Take labels and taint off the nodes, delete what the programs made, and wait until every node is cleaned.
    Finish(FinishArgs),
}

/// What is left to remove.
#[derive(Debug, clap::Args)]
pub struct FinishArgs {
    /// The namespace of the release.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// The DaemonSet whose pods are ready when they have cleaned their node.
    #[arg(long, value_name = "NAME")]
    pub daemonset: String,

    /// How long nodes may take.
    #[arg(long, default_value_t = 120, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout: u64,

    /// A secret to delete. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub secret: Vec<String>,

    /// The lease to delete.
    #[arg(long, value_name = "NAME")]
    pub lease: String,
}

/// Who this replica is, and what it serves.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The namespace it runs in: its lease, its secrets, and the secrets that caches name.
    #[arg(long, env = "POD_NAMESPACE")]
    pub namespace: String,

    /// This replica's own name: the holder of the lease, and the instance that events name.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,

    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:9811", value_name = "ADDRESS:PORT")]
    pub http: SocketAddr,

    /// The agents' pods in that namespace, as a label selector: a node whose agent's pod is gone is not ready.
    #[arg(
        long,
        default_value = "app.kubernetes.io/component=node-agent",
        value_name = "SELECTOR"
    )]
    pub agent_pods: String,

    /// Where agents are placed: `nodeSelector` and `affinity` of their pods, as JSON. Pods that get an environment are kept to
    /// those nodes.
    #[arg(long, default_value = "{}", value_name = "JSON")]
    pub agent_nodes: AgentNodes,

    /// Admission.
    #[command(flatten)]
    pub webhook: WebhookArgs,

    /// The secret that credentials of caches are copied to, for the agents to mount.
    #[arg(long, default_value = "cudaenv-cache-credentials", value_name = "NAME")]
    pub credentials_secret: String,
}

/// Where and how admission is served.
#[derive(Debug, clap::Args)]
pub struct WebhookArgs {
    /// Where admission is served, over TLS.
    #[arg(
        long = "webhook-address",
        default_value = "0.0.0.0:9443",
        value_name = "ADDRESS:PORT"
    )]
    pub address: SocketAddr,

    /// The service that leads to the webhook: its certificate is for that name.
    #[arg(long = "webhook-service", value_name = "NAME")]
    pub service: String,

    /// The MutatingWebhookConfiguration and ValidatingWebhookConfiguration that get the webhook's certificate authority.
    #[arg(long = "webhook-configuration", value_name = "NAME")]
    pub configuration: String,

    /// The secret in the operator's namespace that keeps the webhook's certificates. Made where there is none.
    #[arg(
        long = "webhook-secret",
        default_value = "cudaenv-webhook-certificates",
        value_name = "NAME"
    )]
    pub secret: String,

    /// A further name or address that the webhook's certificate is for, where the API server does not reach it by its
    /// service. May be repeated.
    #[arg(long = "webhook-host", value_name = "HOST", value_parser = host)]
    pub host: Vec<String>,

    /// How long the webhook's certificate authority lives. It is replaced when two thirds are over.
    #[arg(long = "webhook-authority-lifetime", default_value_t = 365 * 24 * 3600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(20..=315_360_000), hide = true)]
    pub authority_lifetime: u64,

    /// How long the webhook's serving certificate lives. It is replaced when two thirds are over.
    #[arg(long = "webhook-certificate-lifetime", default_value_t = 90 * 24 * 3600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(20..=315_360_000), hide = true)]
    pub certificate_lifetime: u64,
}

/// A name or address as a certificate has it. Written in another way it would never be found there again.
fn host(text: &str) -> Result<String, &'static str> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let dns = is_object_name(text);
    dns.then(|| text.to_owned())
        .ok_or("must be a DNS name in lower case, or an address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_written_as_certificates_have_it() {
        for (text, expected) in [
            ("webhook.example.org", Ok("webhook.example.org")),
            ("127.0.0.1", Ok("127.0.0.1")),
            ("2001:DB8:0:0::0001", Ok("2001:db8::1")),
            ("Webhook", Err(())),
            ("*.example.org", Err(())),
            ("host:443", Err(())),
            ("", Err(())),
        ] {
            assert_eq!(host(text).map_err(drop), expected.map(str::to_owned), "{text}");
        }
    }
}
