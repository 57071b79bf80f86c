//! The driver bridge that a selection needs: planned from what is found, then installed.
//! Never keeps the driver's folder open.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crds::{domain::driver::DriverVersion, selection::Selection};

use super::ProvisionError;
use crate::{
    act::install::{self, Origin},
    observe::driver,
    plan::bridge::{self, BridgePlan},
    snapshot::driver::DriverFiles,
    store::NodeStore,
};

/// The bridge that the selection needs.
pub(super) struct Bridge {
    pub(super) plan: BridgePlan,
    /// Where the files of the forward-compatibility libraries are, where it takes some.
    compat: Option<PathBuf>,
}

impl Bridge {
    pub(super) fn plan(
        store: &NodeStore,
        (files, version): (&DriverFiles, &DriverVersion),
        selection: &Selection,
    ) -> Result<Self, ProvisionError> {
        let chosen = selection.selected.values();
        let paths: BTreeSet<_> = chosen.filter_map(|selected| selected.forward_compat.as_ref()).collect();
        let compats = paths.into_iter().map(|path| {
            let home = store.layout().files(path);
            let files = driver::compat_files(&home).map_err(|source| ProvisionError::Compat {
                path: path.clone(),
                source,
            })?;
            Ok::<_, ProvisionError>((home, files))
        });
        // Packages may bring different ones along; a program can load one libcuda, and the newest serves them all.
        let compats = compats.collect::<Result<Vec<_>, _>>()?;
        let compat = compats.into_iter().max_by(|(_, a), (_, b)| a.version.cmp(&b.version));
        let (compat, compat_files) = compat.unzip();
        let plan = bridge::plan(files, version, compat_files.as_ref()).map_err(|source| ProvisionError::Bridge {
            path: files.directory.clone(),
            source,
        })?;
        for warning in &plan.warnings {
            tracing::warn!("{warning}");
        }
        Ok(Self { plan, compat })
    }

    /// Builds it, if it is not there. Hold a lease on it.
    pub(super) fn install(&self, store: &NodeStore, searched: &Path, driver_root: &Path) -> Result<(), ProvisionError> {
        let origin = Origin {
            searched,
            driver_root,
            compat: self.compat.as_deref(),
        };
        install::bridge(store, &self.plan, origin).map_err(|source| ProvisionError::Install { source })?;
        Ok(())
    }
}
