//! The command line of the operator, typed.
//! The only file that reads the environment (through clap); it never acts on what it read.

use std::net::SocketAddr;

use clap::{Parser, Subcommand, ValueEnum};

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

    /// Where admission is served, over TLS.
    #[arg(long, default_value = "0.0.0.0:9443", value_name = "ADDRESS:PORT")]
    pub webhook_address: SocketAddr,

    /// The service that leads to the webhook: its certificate is for that name.
    #[arg(long, value_name = "NAME")]
    pub webhook_service: String,

    /// The MutatingWebhookConfiguration and ValidatingWebhookConfiguration that get the webhook's certificate authority.
    #[arg(long, value_name = "NAME")]
    pub webhook_configuration: String,

    /// The secret that credentials of caches are copied to, for the agents to mount.
    #[arg(long, default_value = "cudaenv-cache-credentials", value_name = "NAME")]
    pub credentials_secret: String,
}
