//! The command line of the node agent, typed.
//! The only file that reads the environment (through clap); it never acts on what it read.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Parser, Subcommand, ValueEnum};
use crds::domain::{driver::DriverVersion, store_path::StorePath};

/// The node side of cudaenv: detects the driver, fetches and verifies closures, keeps the node store, mounts views.
#[derive(Debug, Parser)]
#[command(name = "node-agent", version, propagate_version = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,

    /// What is printed on standard output: text for people, JSON for programs. Errors then read {"error":{"reason","message"}}.
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    pub output: Output,

    /// How much is logged to standard error, as tracing's filter directives, such as `info` or `node_agent=debug`.
    #[arg(long, env = "CUDAENV_LOG", default_value = "warn", global = true)]
    pub log: String,
}

/// What is printed on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program with the environment that fits this machine's driver, in a private mount namespace.
    ///
    /// The program sees its store at /nix/store, the driver at /run/opengl-driver and all of the view at /run/cudaenv, over the
    /// host's own files. Its exit code is the exit code; 125 is a failure before the program, 126 and 127 that it could not be run or found.
    Run(RunArgs),
    /// Fetch store paths with everything they refer to into a node store, verified.
    Fetch(FetchArgs),
    /// Hash every store path of a node store again and compare with what was signed.
    Verify(VerifyArgs),
    /// Remove store paths that nothing uses from a node store.
    Gc(GcArgs),
    /// Say which driver and GPUs this machine has, where they were found, and what was looked at.
    Detect(DetectArgs),
    /// Say which GPU code a file or folder carries.
    Scan(ScanArgs),
    /// Serve the volumes of this node's pods: the CSI driver `csi.cudaenv.dev`, until told to stop.
    Serve(Box<ServeArgs>),
    /// Take cudaenv off this node: the driver's sockets, the mounts of views, the node store.
    Uninstall(UninstallArgs),
}

/// The folder of verified store paths, one layer each.
#[derive(Debug, clap::Args)]
pub struct StateArgs {
    /// Folder of the node store; created if missing. Without root the default is ~/.local/state/cudaenv.
    #[arg(long, env = "CUDAENV_STATE", default_value_os_t = default_state())]
    pub state: PathBuf,
}

/// Where a node store lies by default: the machine's for root, else the user's own.
#[expect(
    clippy::disallowed_methods,
    reason = "this is args.rs, the one home of the environment"
)]
fn default_state() -> PathBuf {
    let own = |variable: &str, below: &str| {
        std::env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(|value| PathBuf::from(value).join(below))
    };
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/cudaenv");
    }
    own("XDG_STATE_HOME", "cudaenv")
        .or_else(|| own("HOME", ".local/state/cudaenv"))
        .unwrap_or_else(|| PathBuf::from("/var/lib/cudaenv"))
}

/// How long fetching may take and how it is shown.
#[derive(Debug, clap::Args)]
pub struct FetchOptions {
    /// Store paths fetched at once, 1 to 64.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,

    /// Progress on standard error: a bar on a terminal, lines elsewhere, JSON on request.
    #[arg(long, value_enum, default_value_t = ProgressStyle::Auto)]
    pub progress: ProgressStyle,

    /// Credentials for caches, in netrc format; sent to their own host only.
    #[arg(long, value_name = "FILE")]
    pub netrc: Option<PathBuf>,

    /// File with a bearer token for the one cache of that name; repeat for several. Goes before --netrc.
    #[arg(long = "bearer-token", value_name = "CACHE=FILE", value_parser = cache_and_file)]
    pub bearer_tokens: Vec<(String, PathBuf)>,
}

fn cache_and_file(text: &str) -> Result<(String, PathBuf), &'static str> {
    match text.split_once('=') {
        Some((cache, file)) if !cache.is_empty() && !file.is_empty() => Ok((cache.to_owned(), PathBuf::from(file))),
        Some(_) | None => Err("give the cache's name and the file with its token, as CACHE=FILE"),
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressStyle {
    Auto,
    Bar,
    Lines,
    Json,
    None,
}

/// What is known of the node beyond what can be observed.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeArgs {
    /// A GPU of this machine, as COMPUTE-CAPABILITY or COMPUTE-CAPABILITY:BRAND, such as 9.0:tesla; repeat for several. Default: ask NVML.
    #[arg(long = "gpu", value_name = "CC[:BRAND]")]
    pub gpus: Vec<String>,

    /// Facts of the node as JSON or YAML, in place of NVML: {"gpus": [{"computeCapability": "9.0", "brand": "tesla"}]}.
    #[arg(long, conflicts_with = "gpus")]
    pub facts: Option<PathBuf>,

    /// Version of the loaded kernel module: `observe` it, `assume` that it equals the driver libraries' (no GPU is needed to
    /// try things out), or a version.
    #[arg(long, default_value = "observe", value_name = "observe|assume|VERSION")]
    pub kernel_module: KernelModule,
}

/// Where the kernel module's version comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelModule {
    Observe,
    Assume,
    Given(DriverVersion),
}

impl FromStr for KernelModule {
    type Err = crds::domain::driver::UnparsableDriver;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "observe" => Ok(Self::Observe),
            "assume" => Ok(Self::Assume),
            version => version.parse().map(Self::Given),
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// File with the CUDAEnvironment or ClusterCUDAEnvironment; several documents are allowed with --name.
    #[arg(long, short = 'e')]
    pub environment: PathBuf,

    /// Which environment of the file: NAME or NAMESPACE/NAME.
    #[arg(long)]
    pub name: Option<String>,

    /// File with the CUDABinaryCache objects.
    #[arg(long, short = 'c')]
    pub caches: PathBuf,

    /// Folder below which the driver is looked for: `/`, or a driver container's root. Where it brings no kernel module's version
    /// along and none is loaded, the version of its libraries is taken, with a warning.
    #[arg(long)]
    pub driver_root: Option<PathBuf>,

    /// How the view is made: stacked layers, or a tree of hard links.
    #[arg(long, value_enum, default_value_t = ViewChoice::Overlay)]
    pub view: ViewChoice,

    #[command(flatten)]
    pub node: NodeArgs,
    #[command(flatten)]
    pub fetch: FetchOptions,
    #[command(flatten)]
    pub state: StateArgs,

    /// The program and its arguments.
    #[arg(last = true, required = true, num_args = 1..)]
    pub command: Vec<OsString>,
}

/// How a view is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ViewChoice {
    Overlay,
    Plain,
}

#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    /// A binary cache: http://, https:// or file://; repeat for several, asked in this order.
    #[arg(long = "cache", value_name = "URL", required = true)]
    pub caches: Vec<String>,

    /// A key that paths must be signed with, NAME:BASE64; repeat for several.
    #[arg(long = "public-key", value_name = "KEY", required = true)]
    pub public_keys: Vec<String>,

    #[command(flatten)]
    pub fetch: FetchOptions,
    #[command(flatten)]
    pub state: StateArgs,

    /// Store paths, /nix/store/HASH-NAME.
    #[arg(required = true)]
    pub store_paths: Vec<StorePath>,
}

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Remove what is not what was signed, unless a program uses it now, so that it is fetched again when it is needed.
    #[arg(long)]
    pub repair: bool,

    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Debug, clap::Args)]
pub struct GcArgs {
    /// Keep at most this many bytes of store paths that nothing uses, 0 by default: everything unused goes.
    #[arg(long, default_value_t = 0, value_name = "BYTES")]
    pub keep: u64,

    /// Leave alone what was used in the last this many seconds.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub younger_than: u64,

    /// Only say what would be removed.
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub state: StateArgs,
}

#[derive(Debug, clap::Args)]
pub struct DetectArgs {
    /// Folder below which everything is looked for, such as the host's root mounted at /host.
    #[arg(long, default_value = "/")]
    pub root: PathBuf,

    #[command(flatten)]
    pub node: NodeArgs,
}

#[derive(Debug, clap::Args)]
pub struct ScanArgs {
    /// A library, a program, or a folder of them.
    pub path: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// File with environments, caches and namespaces (for their labels) to serve without an API server; repeat for several.
    #[arg(long = "objects", value_name = "FILE")]
    pub objects: Vec<PathBuf>,

    /// Where the API server is, where this is no pod of its cluster. Not read where --objects are given.
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The node's name in the cluster.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,

    /// The host's root as this process sees it: the driver is looked for below it.
    #[arg(long, default_value = "/")]
    pub host_root: PathBuf,

    /// kubelet's folder, by the name that kubelet itself uses for it.
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,

    /// Socket of the CSI service; default: plugins/csi.cudaenv.dev/csi.sock in kubelet's folder.
    #[arg(long, value_name = "FILE")]
    pub csi_socket: Option<PathBuf>,

    /// Where kubelet looks for drivers that register; default: plugins_registry in kubelet's folder.
    #[arg(long, value_name = "DIR")]
    pub registration_dir: Option<PathBuf>,

    /// Folder with the caches' credentials: CACHE.netrc, CACHE.token. Read again for each fetch.
    #[arg(long, value_name = "DIR")]
    pub credentials: Option<PathBuf>,

    /// Where health and metrics are served.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9810")]
    pub http: SocketAddr,

    /// Store paths of one environment fetched at once, 1 to 64.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub jobs: u8,

    #[command(flatten)]
    pub node: NodeArgs,
    #[command(flatten)]
    pub state: StateArgs,
}

/// What goes, and what stays.
#[derive(Debug, clap::Args)]
pub struct UninstallArgs {
    /// kubelet's folder.
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub kubelet_dir: PathBuf,

    /// Keep the node store for a later installation.
    #[arg(long)]
    pub keep_store: bool,

    /// Wait for SIGTERM when done, as a DaemonSet's pods must.
    #[arg(long)]
    pub stay: bool,

    #[command(flatten)]
    pub state: StateArgs,
}
