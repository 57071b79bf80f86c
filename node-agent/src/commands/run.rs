//! `run`: from an environment and a driver to a program in a view. Wires the rooms; what is decided is decided in plans.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use crds::{
    domain::{cuda::CudaVersion, driver::DriverVersion, environment::Environment, store_path::StorePath},
    selection::Selection,
};
use serde::Serialize;

use super::{
    facts,
    inputs::{self, InputError},
    obtain::{self, ObtainError, Obtained, Supply},
    settle::settle,
};
use crate::{
    act::{
        contents::ContentsError,
        enter::{self, EnterError},
        install::{self, InstallError, Origin},
        view::{self, ViewError},
    },
    args::{KernelModule, Output, RunArgs, ViewChoice},
    observe::{
        driver::{self, CompatError, KernelSource},
        host_root::{self, ListError},
    },
    plan::{
        bridge::{self, BridgePlan, BridgeRefusal},
        document, root,
        view::{ViewPlan, ViewRefusal},
    },
    report::{failure::Failure, selection as report},
    snapshot::{
        driver::DriverFiles,
        node::Node,
        view::{ViewKind, ViewRequest},
    },
    store::{Holder, Lease, LeaseContent, NodeStore, StoreError},
};

/// Which step between the files and the program failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Obtain(#[from] ObtainError),
    #[error("{}", report::refusal(selection))]
    Rejected { selection: Box<Selection> },
    #[error("looking for GPU code")]
    Contents { source: ContentsError },
    #[error("the driver's libraries in {}", path.display())]
    Bridge { path: PathBuf, source: BridgeRefusal },
    #[error("the forward-compatibility libraries of {path}")]
    Compat { path: StorePath, source: CompatError },
    #[error("installing the driver's libraries")]
    Install { source: InstallError },
    #[error("describing the view")]
    Document { source: serde_json::Error },
    #[error("planning the view")]
    View { source: ViewRefusal },
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
    view: ViewPlan,
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
        let store = obtain::open_store(&args.state.state).map_err(RunError::from)?;
        let supply = Supply::new(&store, caches, &args.fetch, output).map_err(RunError::from)?;
        let (selection, obtained) = settle(&supply, &environment, &node.facts, now)?;
        let ready = node.detection.ready();
        let (files, version, cuda) = ready.ok_or_else(|| RunError::Rejected {
            selection: Box::new(selection.clone()),
        })?;
        let searched = args.driver_root.as_deref().unwrap_or(Path::new("/"));
        let bridge = Bridge::plan(&store, (files, version), &selection)?;
        let view = plan_view(
            &environment,
            &selection,
            &obtained,
            (version, cuda),
            &bridge.plan,
            args.view,
        )?;
        let content = LeaseContent {
            view: Some(view.digest.clone()),
            bridge: Some(bridge.plan.id.clone()),
            paths: view.paths.clone(),
            holder: Holder::this_process(),
        };
        let lease = store.lease(&content).map_err(|source| RunError::Lease { source })?;
        obtained.lease.end().map_err(|source| RunError::Lease { source })?;
        bridge.install(&store, searched, &files.root)?;
        view::build(&view, &store, now).map_err(|source| RunError::Mount { source })?;
        let report = Report {
            driver: version,
            cuda,
            selection: &selection,
            view: view.digest.as_str(),
            paths: obtained.closure.paths.len(),
            fetched_paths: obtained.fetched.paths,
            fetched_bytes: obtained.fetched.bytes,
            downloaded_bytes: obtained.downloaded,
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

/// The bridge that the selection needs.
struct Bridge {
    plan: BridgePlan,
    /// Where the files of the forward-compatibility libraries are, where it takes some.
    compat: Option<PathBuf>,
}

impl Bridge {
    fn plan(
        store: &NodeStore,
        (files, version): (&DriverFiles, &DriverVersion),
        selection: &Selection,
    ) -> Result<Self, RunError> {
        let chosen = selection.selected.values();
        let paths: BTreeSet<_> = chosen.filter_map(|selected| selected.forward_compat.as_ref()).collect();
        let compats = paths.into_iter().map(|path| {
            let home = store.layout().files(path);
            let files = driver::compat_files(&home).map_err(|source| RunError::Compat {
                path: path.clone(),
                source,
            })?;
            Ok::<_, RunError>((home, files))
        });
        // Packages may bring different ones along; a program can load one libcuda, and the newest serves them all.
        let compats = compats.collect::<Result<Vec<_>, _>>()?;
        let compat = compats.into_iter().max_by(|(_, a), (_, b)| a.version.cmp(&b.version));
        let (compat, compat_files) = compat.unzip();
        let plan = bridge::plan(files, version, compat_files.as_ref()).map_err(|source| RunError::Bridge {
            path: files.directory.clone(),
            source,
        })?;
        for warning in &plan.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self { plan, compat })
    }

    /// Builds it, if it is not there. Hold a lease on it.
    fn install(&self, store: &NodeStore, searched: &Path, driver_root: &Path) -> Result<(), RunError> {
        let origin = Origin {
            searched,
            driver_root,
            compat: self.compat.as_deref(),
        };
        install::bridge(store, &self.plan, origin).map_err(|source| RunError::Install { source })?;
        Ok(())
    }
}

fn plan_view(
    environment: &Environment,
    selection: &Selection,
    obtained: &Obtained,
    driver: (&DriverVersion, CudaVersion),
    bridge: &BridgePlan,
    choice: ViewChoice,
) -> Result<ViewPlan, RunError> {
    let paths = &obtained.closure.paths;
    let signed_by: BTreeMap<_, _> = paths
        .iter()
        .map(|narinfo| (narinfo.store_path().clone(), narinfo.signed_by().to_vec()))
        .collect();
    let facts = document::Facts {
        environment,
        selection,
        driver,
        bridge: &bridge.id,
        signed_by,
    };
    let request = ViewRequest {
        kind: match choice {
            ViewChoice::Overlay => ViewKind::Overlay,
            ViewChoice::Plain => ViewKind::Plain,
        },
        paths: paths.iter().map(|narinfo| narinfo.store_path().clone()).collect(),
        packages: selection
            .selected
            .iter()
            .map(|(name, selected)| (name.clone(), selected.store_path.clone()))
            .collect(),
        bridge: Some(bridge.id.clone()),
        cudaenv_json: document::cudaenv_json(facts).map_err(|source| RunError::Document { source })?,
        // The program runs in its user's own SELinux domain, not in a container's.
        selinux_label: None,
    };
    crate::plan::view::plan(request).map_err(|source| RunError::View { source })
}
