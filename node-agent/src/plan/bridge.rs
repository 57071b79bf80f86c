//! Which driver files a compute pod needs, under which names, and which of them must find their siblings.
//! Never opens a file: it works on the listing that detection made, and leaves no choice to whoever copies.

use std::path::PathBuf;

use crds::domain::driver::DriverVersion;
use sha2::{Digest, Sha256};

use crate::snapshot::{
    driver::{CompatFiles, DriverFiles, LibraryFile},
    view::BridgeId,
};

/// Changes whenever the same inputs would make another bridge: the table below, the way libraries are rewritten.
const FORMAT: &str = "bridge 1";
/// Digits of the hash in a bridge's name.
const HASH_DIGITS: usize = 16;
/// The name that CUDA's runtime opens.
const LIBCUDA: &str = "libcuda.so.1";

/// A bridge: files to copy and links to make, all in one folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgePlan {
    /// The driver's version and a hash of everything that goes in: equal on all nodes with the same driver files.
    pub id: BridgeId,
    /// Sorted by name.
    pub files: Vec<BridgeFile>,
    /// Sorted by name.
    pub links: Vec<BridgeLink>,
    pub warnings: Vec<BridgeWarning>,
}

/// One file of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeFile {
    /// A single path component.
    pub name: String,
    pub source: Source,
    /// Below the source's root.
    pub path: PathBuf,
    /// Bytes that must be there.
    pub size: u64,
    /// It opens siblings by bare name: it is given `$ORIGIN` as its RUNPATH.
    pub finds_siblings: bool,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// The node's driver.
    Driver,
    /// The forward-compatibility libraries of a store path.
    Compat,
}

/// A symbolic link within the folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeLink {
    pub name: String,
    pub target: String,
}

/// What a pod will miss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BridgeWarning {
    #[error("the driver's files lack {library}: {consequence}")]
    Missing {
        library: &'static str,
        consequence: &'static str,
    },
}

/// Why there can be no bridge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BridgeRefusal {
    #[error("no libcuda of version {} among the files of the {}", version.as_ref().map_or("(none)", DriverVersion::as_str), whose(*from))]
    NoLibcuda {
        version: Option<DriverVersion>,
        from: Source,
    },
    #[error("{file} calls itself `{soname}`, not {LIBCUDA}")]
    NotLibcuda { file: String, soname: String },
    #[error("`{name}` cannot be the name of a library in the bridge")]
    BadName { name: String },
    #[error("two files would be called {name}")]
    Twice { name: String },
}

fn whose(source: Source) -> &'static str {
    match source {
        Source::Driver => "driver",
        Source::Compat => "compat store path",
    }
}

/// One line of the table: which library, for which drivers, and what goes wrong without it.
struct Library {
    stem: &'static str,
    /// The whole file name, where it does not carry the driver's version.
    fixed_name: Option<&'static str>,
    /// First and last driver branch of which a pod misses it.
    needed: Option<(u32, u32)>,
    consequence: &'static str,
    finds_siblings: bool,
    /// Part of a forward-compatibility package; then that one is used. Everything else must match the kernel module.
    in_compat: bool,
}

const EVER: u32 = u32::MAX;

const fn library(stem: &'static str) -> Library {
    Library {
        stem,
        fixed_name: None,
        needed: None,
        consequence: "",
        finds_siblings: false,
        in_compat: false,
    }
}

impl Library {
    const fn needed(mut self, first: u32, last: u32, consequence: &'static str) -> Self {
        self.needed = Some((first, last));
        self.consequence = consequence;
        self
    }
    const fn finding_siblings(mut self) -> Self {
        self.finds_siblings = true;
        self
    }
    const fn in_compat(mut self) -> Self {
        self.in_compat = true;
        self
    }
    const fn called(mut self, name: &'static str) -> Self {
        self.fixed_name = Some(name);
        self
    }

    /// Whether `file` is this library of this driver. Libraries of another version beside it are an upgrade's leftovers.
    fn is(&self, file: &LibraryFile, version: Option<&DriverVersion>) -> bool {
        let Some(rest) = file
            .name
            .strip_prefix(self.stem)
            .and_then(|rest| rest.strip_prefix(".so"))
        else {
            return false;
        };
        match (self.fixed_name, version) {
            (Some(name), _) => file.name == name,
            (None, Some(version)) => rest.strip_prefix('.') == Some(version.as_str()),
            // Tegra and WSL2: names carry no driver version.
            (None, None) => true,
        }
    }
}

/// Compute and utility libraries of the Linux driver. Seen in drivers 340 to 615 and in the lists of NVIDIA's container
/// tools; graphics, video and daemons are none of a compute pod's business.
const LIBRARIES: [Library; 15] = [
    library("libcuda")
        .needed(0, EVER, "there is no CUDA")
        .finding_siblings()
        .in_compat(),
    library("libnvidia-ml")
        .needed(0, EVER, "NVML cannot be opened")
        .finding_siblings(),
    library("libnvidia-ptxjitcompiler")
        .needed(0, EVER, "PTX cannot be compiled, CUDA answers 221")
        .in_compat(),
    library("libnvidia-nvvm")
        .needed(470, EVER, "link-time optimisation at run time fails")
        .in_compat(),
    library("libnvidia-nvvm70")
        .called("libnvidia-nvvm70.so.4")
        .needed(580, EVER, "link-time optimisation at run time fails for newer inputs")
        .in_compat(),
    library("libnvidia-fatbinaryloader").needed(0, 435, "libcuda cannot be loaded"),
    library("libnvidia-tileiras")
        .needed(595, EVER, "Tile IR cannot be assembled")
        .in_compat(),
    library("libnvidia-gpucomp").in_compat(),
    library("libcudadebugger").in_compat(),
    library("libnvidia-pkcs11").in_compat(),
    library("libnvidia-pkcs11-openssl3").in_compat(),
    library("libnvidia-opencl").finding_siblings(),
    library("libnvidia-compiler"),
    library("libnvidia-allocator"),
    library("libnvidia-cfg"),
];

/// Plans the bridge of a driver of `version` (its kernel module's), with the compat libraries in place of the driver's own
/// where a selection asks for forward compatibility.
pub fn plan(
    driver: &DriverFiles,
    version: &DriverVersion,
    compat: Option<&CompatFiles>,
) -> Result<BridgePlan, BridgeRefusal> {
    let mut parts = Vec::new();
    let mut warnings = Vec::new();
    for library in &LIBRARIES {
        let of_driver = driver
            .files
            .iter()
            .find(|file| library.is(file, driver.version.as_ref()));
        let compat = compat.filter(|_| library.in_compat);
        let of_compat = compat.and_then(|compat| {
            compat
                .files
                .iter()
                .find(|file| library.is(file, compat.version.as_ref()))
        });
        if library.stem == "libcuda" {
            check_libcuda(driver, of_driver, compat, of_compat)?;
        }
        match (of_compat, of_driver) {
            (Some(file), _) => parts.push((library, Source::Compat, file)),
            (None, Some(file)) => parts.push((library, Source::Driver, file)),
            (None, None) => warnings.extend(missing(library, version)),
        }
    }
    parts.sort_by(|a, b| a.2.name.cmp(&b.2.name));
    let links = links(&parts)?;
    let id = id(version, compat, &parts, &links)?;
    let file = |&(library, source, file): &(&Library, Source, &LibraryFile)| BridgeFile {
        name: file.name.clone(),
        source,
        path: file.path.clone(),
        size: file.size,
        finds_siblings: library.finds_siblings,
    };
    Ok(BridgePlan {
        id,
        files: parts.iter().map(file).collect(),
        links,
        warnings,
    })
}

fn check_libcuda(
    driver: &DriverFiles,
    of_driver: Option<&LibraryFile>,
    compat: Option<&CompatFiles>,
    of_compat: Option<&LibraryFile>,
) -> Result<(), BridgeRefusal> {
    let (version, from, file) = match compat {
        Some(compat) => (&compat.version, Source::Compat, of_compat),
        None => (&driver.version, Source::Driver, of_driver),
    };
    let no_libcuda = || BridgeRefusal::NoLibcuda {
        version: version.clone(),
        from,
    };
    let file = file.ok_or_else(no_libcuda)?;
    match file.soname.as_deref() {
        Some(LIBCUDA) => Ok(()),
        other => Err(BridgeRefusal::NotLibcuda {
            file: file.name.clone(),
            soname: other.unwrap_or_default().to_owned(),
        }),
    }
}

fn missing(library: &Library, version: &DriverVersion) -> Option<BridgeWarning> {
    let (first, last) = library.needed?;
    (first..=last)
        .contains(&version.major())
        .then_some(BridgeWarning::Missing {
            library: library.stem,
            consequence: library.consequence,
        })
}

/// Every soname leads to its file, as ldconfig would have it; and `libcuda.so`, which some programs open.
fn links(parts: &[(&Library, Source, &LibraryFile)]) -> Result<Vec<BridgeLink>, BridgeRefusal> {
    let mut links = vec![BridgeLink {
        name: "libcuda.so".to_owned(),
        target: LIBCUDA.to_owned(),
    }];
    for (_, _, file) in parts {
        if let Some(soname) = file.soname.as_ref().filter(|soname| **soname != file.name) {
            links.push(BridgeLink {
                name: soname.clone(),
                target: file.name.clone(),
            });
        }
    }
    links.sort();
    let mut names: Vec<&str> = parts
        .iter()
        .map(|part| part.2.name.as_str())
        .chain(links.iter().map(|link| link.name.as_str()))
        .collect();
    names.sort_unstable();
    if let Some(bad) = names.iter().find(|name| !is_library_name(name)) {
        return Err(BridgeRefusal::BadName {
            name: bad.chars().take(128).collect(),
        });
    }
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(BridgeRefusal::Twice {
            name: pair[0].to_owned(),
        }),
        None => Ok(links),
    }
}

/// Sonames are read from inside files: one is a path component of a library's alphabet, or the bridge is refused.
fn is_library_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
    name.starts_with("lib") && name.len() <= 200 && name.bytes().all(plain)
}

fn id(
    version: &DriverVersion,
    compat: Option<&CompatFiles>,
    parts: &[(&Library, Source, &LibraryFile)],
    links: &[BridgeLink],
) -> Result<BridgeId, BridgeRefusal> {
    let mut hash = Sha256::new();
    hash.update(format!("{FORMAT}\n{version}\n"));
    for (library, source, file) in parts {
        let build = file.build_id.as_deref().unwrap_or("-");
        let rewritten = library.finds_siblings;
        hash.update(format!("{} {} {build} {source:?} {rewritten}\n", file.name, file.size));
    }
    for link in links {
        hash.update(format!("{} -> {}\n", link.name, link.target));
    }
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let compat = compat.map(|compat| compat.version.as_ref().map_or("jetson", DriverVersion::as_str));
    let compat = compat.map(|version| format!("-compat-{version}")).unwrap_or_default();
    let name = format!("{version}{compat}-{}", &digits[..HASH_DIGITS]);
    name.parse().map_err(|_| BridgeRefusal::BadName { name })
}
