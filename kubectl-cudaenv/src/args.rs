//! The command line, as types.
//! Never reads a file and never judges a value beyond its presence: what is wrong with a value is said in the chosen output.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// CUDA environments that fit the driver of every node.
#[derive(Debug, Clone, Parser)]
#[command(name = "kubectl-cudaenv", bin_name = "kubectl cudaenv", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to say it.
    #[arg(short, long, value_enum, global = true, default_value_t = Output::Table)]
    pub output: Output,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Say which variants of an environment a node would get, and why not the others.
    ///
    /// Needs no cluster and no GPU. Exits with 0 when every package has a variant, with 3 when one has none, with 2 when
    /// the command line or the file is wrong.
    Explain(ExplainArgs),
}

/// The file, and the node to imagine.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// A file with a CUDAEnvironment or ClusterCUDAEnvironment, YAML or JSON; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    pub filename: PathBuf,
    /// Which environment, where the file has several.
    #[arg(long, value_name = "NAME or NAMESPACE/NAME")]
    pub name: Option<String>,
    /// The node's driver version in full, such as 535.274.02. Without it the node has no driver.
    #[arg(long, value_name = "VERSION")]
    pub driver: Option<String>,
    /// The driver's CUDA release, such as 12.2. Default: what drivers of that branch are known to have.
    #[arg(long, value_name = "X.Y", requires = "driver")]
    pub driver_cuda: Option<String>,
    /// A GPU of the node by its compute capability, with its brand where forward compatibility matters: 9.0:tesla,
    /// 8.9:geforce-rtx. Repeat it for GPUs of several kinds. Without it, code is not checked.
    #[arg(long, value_name = "CC[:BRAND]")]
    pub gpu: Vec<String>,
    /// The node's system: x86_64-linux or aarch64-linux.
    #[arg(long, value_name = "SYSTEM", default_value = "x86_64-linux")]
    pub system: String,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// Whether a command line that could not be parsed asked for JSON: then its error is JSON, too.
pub fn asks_for_json(arguments: &[String]) -> bool {
    let pairs = arguments
        .windows(2)
        .any(|pair| matches!(pair, [flag, value] if is_output(flag) && value == "json"));
    let joined = |argument: &String| matches!(argument.as_str(), "--output=json" | "-o=json" | "-ojson");
    pairs || arguments.iter().any(joined)
}

fn is_output(flag: &str) -> bool {
    matches!(flag, "--output" | "-o")
}
