//! What a person should know of a variant that fits. Sentences; none of them stops the program from starting.
//! Never rejects.

use super::{
    code::{PtxLimit, coverage},
    compat::Replacement,
    contents::Contents,
    judge::{Case, Run, capabilities},
    misfit::{FILES_NAMED, describe, join, some_of},
    releases::{is_known_capability, newest_known_branch},
};
use crate::domain::{code::GpuCode, store_path::StorePath};

impl Case<'_> {
    pub(super) fn warnings(&self, run: &Run) -> Vec<String> {
        let mut warnings = Vec::new();
        let driver = self.host.version;
        if driver.major() > newest_known_branch() {
            let newest = newest_known_branch();
            warnings.push(format!(
                "driver {driver} is newer than every branch known here ({newest} is the newest)"
            ));
        }
        if self.host.gpus.is_empty() {
            warnings
                .push("the node's GPUs are not known, so it was not checked whether there is code for them".to_owned());
        } else if self.code().is_none() {
            warnings.push("its GPU code is neither declared nor read yet, so it was not checked".to_owned());
        }
        for gpu in capabilities(self.host.gpus)
            .into_iter()
            .filter(|gpu| !is_known_capability(*gpu))
        {
            warnings.push(format!(
                "compute capability {gpu} is not known to this version; its code was judged by the rule for the known ones"
            ));
        }
        if !run.jit.is_empty() {
            warnings.push(format!(
                "there is no SASS for compute capability {}: the driver compiles PTX at the first start, which takes time and \
                 needs a writable CUDA_CACHE_PATH to happen only once",
                join(&run.jit)
            ));
        }
        if let Some((path, library)) = &run.replacement {
            warnings.extend(self.compat_warnings(path, library));
        }
        if let Some(contents) = self.contents {
            warnings.extend(self.closure_warnings(contents, run.limit));
        }
        warnings
    }

    fn compat_warnings(&self, path: &StorePath, library: &Replacement) -> Option<String> {
        let declared = self.variant.forward_compat.as_ref();
        if !library.read {
            return Some(format!(
                "{path} was not read yet; its own note decides whether it accepts this node"
            ));
        }
        let (declared, found) = (declared?.driver.as_ref()?, library.version.as_ref()?);
        (declared != found).then(|| format!("{path} holds libcuda {found}, and {declared} was declared"))
    }

    /// Files with device code for none of the GPUs, and a libcuda that came along.
    fn closure_warnings(&self, contents: &Contents, limit: PtxLimit) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(library) = &contents.compat {
            let version = library
                .version
                .as_ref()
                .map(|version| format!(" {version}"))
                .unwrap_or_default();
            warnings.push(format!(
                "the closure brings a libcuda{version} of its own; where it comes before /run/opengl-driver/lib it takes the \
                 place of the node's (errors 803 and 804)"
            ));
        }
        let gpus = capabilities(self.host.gpus);
        let bare = |code: &GpuCode| !code.is_empty() && !gpus.iter().any(|gpu| coverage(code, *gpu, limit).runs());
        let mut files = contents
            .files
            .iter()
            .filter(|file| !gpus.is_empty() && bare(&file.code));
        for file in files.by_ref().take(FILES_NAMED) {
            warnings.push(format!(
                "{} carries code for none of the node's GPUs ({}): it has {}",
                file.path,
                join(&gpus),
                describe(&file.code)
            ));
        }
        match files.count() {
            0 => {}
            more => warnings.push(format!("{more} more files carry code for none of the node's GPUs")),
        }
        if !contents.unreadable.is_empty() {
            warnings.push(format!(
                "the GPU code of {} could not be read, so it was not checked",
                some_of(&contents.unreadable)
            ));
        }
        warnings
    }
}
