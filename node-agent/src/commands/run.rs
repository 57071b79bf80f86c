//! `run`: from an environment and a driver to a program in a view. Wires the rooms; what is decided is decided in plans.

use std::{
    ffi::OsString,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::SystemTime,
};

use crds::{
    domain::{cuda::CudaVersion, driver::DriverVersion},
    selection::Selection,
};
use serde::Serialize;

use super::{
    facts,
    inputs::{self, InputError},
    obtain::{self, RuntimeError},
};
use crate::{
    act::{
        enter::{self, EnterError},
        view::{self, ViewError},
    },
    args::{KernelModule, Output, RunArgs, ViewChoice},
    observe::{
        driver::{self, KernelSource},
        host_root::{self, ListError},
    },
    plan::{root, view::ViewPlan},
    provision::{
        self, ProvisionError, Provisioned, Wanted,
        supply::{self, Supply},
    },
    report::failure::Failure,
    snapshot::{node::Node, view::ViewKind},
    store::{Lease, NodeStore, StoreError},
};

/// Which step between the files and the program failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("leasing the view")]
    Lease { source: StoreError },
    #[error("listing the host's root")]
    Host { source: ListError },
    #[error("entering the view")]
    Enter { source: EnterError },
    #[error("mounting the view")]
    Mount { source: ViewError },
    #[error("running {}", program.display())]
    Exec { program: PathBuf, source: io::Error },
}

/// One line on standard error, apart from the log's and the progress' lines by its key.
#[derive(Debug, Serialize)]
struct Line<'a> {
    run: Report<'a>,
}

/// What was prepared, told before the program starts where JSON is asked for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    driver: &'a DriverVersion,
    cuda: CudaVersion,
    selection: &'a Selection,
    view: &'a str,
    paths: usize,
    fetched_paths: u64,
    fetched_bytes: u64,
    downloaded_bytes: u64,
    milliseconds: u128,
}

pub(super) fn run(args: &RunArgs, output: Output) -> Result<u8, Failure> {
    let (program, arguments) = args
        .command
        .split_first()
        .map_or((OsString::new(), &[][..]), |(first, rest)| (first.clone(), rest));
    let node = observe(args)?;
    let prepared = Prepared::new(args, node, output)?;
    let error = prepared.become_program(&program, arguments)?;
    Err(RunError::Exec {
        program: PathBuf::from(program),
        source: error,
    }
    .into())
}

/// The node, where a driver root without a kernel module beside it may be tried out all the same.
fn observe(args: &RunArgs) -> Result<Node, Failure> {
    let said = facts::kernel_source(&args.node.kernel_module);
    let Some(root) = &args.driver_root else {
        return facts::observe(Path::new("/"), &args.node, said);
    };
    let node = facts::observe(root, &args.node, said)?;
    if node.detection.kernel.is_some() || args.node.kernel_module != KernelModule::Observe {
        return Ok(node);
    }
    // A driver container's root brings no kernel along: the host's own module counts, if it has one.
    let host = driver::detect(Path::new("/"), &driver::Options::default())
        .ok()
        .and_then(|host| host.kernel);
    if let Some(module) = host {
        return facts::observe(root, &args.node, KernelSource::Given(module.version().clone()));
    }
    let mut node = facts::observe(root, &args.node, KernelSource::AssumeLibrary)?;
    node.detection
        .warnings
        .push("no NVIDIA kernel module is loaded: programs will find no device".to_owned());
    Ok(node)
}

/// Everything that the program needs, in the store and leased.
struct Prepared {
    store: NodeStore,
    view: Arc<ViewPlan>,
    lease: Lease,
}

impl Prepared {
    #[expect(
        clippy::disallowed_methods,
        reason = "a command's shell reads the clock once, for last use and for its report"
    )]
    fn new(args: &RunArgs, node: Node, output: Output) -> Result<Self, Failure> {
        let (started, now) = (std::time::Instant::now(), SystemTime::now());
        for warning in &node.detection.warnings {
            tracing::warn!("{warning}");
        }
        let environment = inputs::environment(&args.environment, args.name.as_deref()).map_err(RunError::from)?;
        let caches = inputs::caches(&args.caches, &environment, &args.fetch).map_err(RunError::from)?;
        let supplied = |error| RunError::from(ProvisionError::from(error));
        let store = supply::open_store(&args.state.state).map_err(supplied)?;
        let supply = Supply::new(store.clone(), caches, args.fetch.jobs.into()).map_err(supplied)?;
        let wanted = Wanted {
            environment: &environment,
            node: &node,
            kind: match args.view {
                ViewChoice::Overlay => ViewKind::Overlay,
                ViewChoice::Plain => ViewKind::Plain,
            },
            // The program runs in its user's own SELinux domain, not in a container's.
            selinux_label: None,
        };
        let work = provision::provision(&supply, wanted, now);
        let shown = obtain::shown(work, supply.progress(), &args.fetch, output);
        let provisioned = obtain::runtime().map_err(RunError::from)?.block_on(shown);
        let Provisioned {
            view,
            selection,
            fetched,
            downloaded,
            lease,
        } = provisioned.map_err(RunError::from)?;
        let rejected = || ProvisionError::Rejected {
            selection: Box::new(Selection::clone(&selection)),
        };
        let (_, version, cuda) = node.detection.ready().ok_or_else(|| RunError::from(rejected()))?;
        let report = Report {
            driver: version,
            cuda,
            selection: &selection,
            view: view.digest.as_str(),
            paths: view.paths.len(),
            fetched_paths: fetched.paths,
            fetched_bytes: fetched.bytes,
            downloaded_bytes: downloaded,
            milliseconds: started.elapsed().as_millis(),
        };
        super::told(output, &Line { run: report }, &selection);
        Ok(Self { store, view, lease })
    }

    /// Enters the view and becomes the program; returns only the error of not becoming it.
    fn become_program(self, program: &OsString, arguments: &[OsString]) -> Result<io::Error, RunError> {
        let host = host_root::host_root().map_err(|source| RunError::Host { source })?;
        enter::private_namespace().map_err(|source| RunError::Enter { source })?;
        let tree = view::mount_detached(&self.view, &self.store).map_err(|source| RunError::Mount { source })?;
        enter::enter(&root::plan(&host), tree.as_fd(), &self.store.layout().staging())
            .map_err(|source| RunError::Enter { source })?;
        drop(tree);
        self.lease.outlive_exec().map_err(|source| RunError::Lease { source })?;
        Ok(Command::new(program)
            .args(arguments)
            .env("CUDAENV", "/run/cudaenv")
            .exec())
    }
}
