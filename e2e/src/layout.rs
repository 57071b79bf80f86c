//! Store paths laid out by hand below a folder, with the references that they declare: what a cache is made from.
//! It must never decide how a cache looks: real Nix, or the writer under test, packs, hashes and signs the paths.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// One store path: where it will be seen, and what it refers to.
#[derive(Debug, Clone)]
pub struct LaidOut {
    /// `/nix/store/<hash>-<name>`.
    pub store_path: String,
    /// Store paths that it refers to (its own among them only if said so).
    pub references: Vec<String>,
}

/// A folder with store paths at `<root>/nix/store/<hash>-<name>`.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    paths: Vec<LaidOut>,
}

impl Layout {
    /// An empty layout below `root`, which is created.
    pub fn new(root: &Path) -> Result<Self> {
        fs::create_dir_all(root.join("nix/store")).with_context(|| format!("cannot create {}", root.display()))?;
        Ok(Self {
            root: root.to_owned(),
            paths: Vec::new(),
        })
    }

    /// The folder that the store lies below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every path so far, references first.
    pub fn paths(&self) -> &[LaidOut] {
        &self.paths
    }

    /// Where the store path really lies.
    pub fn real(&self, store_path: &str) -> PathBuf {
        self.root.join(store_path.trim_start_matches('/'))
    }

    /// Adds a store path. `fill` is given the empty folder and the store path that it will be, so that programs can
    /// carry their own final path. The hash comes from name and references, as an input-addressed path's would.
    pub fn add(
        &mut self,
        name: &str,
        references: &[&str],
        fill: impl FnOnce(&Path, &str) -> Result<()>,
    ) -> Result<String> {
        let store_path = format!("/nix/store/{}-{name}", hash_part(name, references));
        let folder = self.real(&store_path);
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fill(&folder, &store_path).with_context(|| format!("cannot fill {store_path}"))?;
        let references = references.iter().map(|&path| path.to_owned()).collect();
        self.paths.push(LaidOut {
            store_path: store_path.clone(),
            references,
        });
        Ok(store_path)
    }

    /// Adds the environment of some store paths: `bin` and `lib` with a link to each of their files, as Nix's own
    /// environment builder makes one.
    pub fn add_environment(&mut self, name: &str, members: &[&str]) -> Result<String> {
        let sources: Vec<_> = members
            .iter()
            .map(|member| (self.real(member), (*member).to_owned()))
            .collect();
        self.add(name, members, |folder, _| {
            for (real, store_path) in &sources {
                for part in ["bin", "lib"] {
                    link_files(&real.join(part), &format!("{store_path}/{part}"), &folder.join(part))?;
                }
            }
            Ok(())
        })
    }
}

/// Writes a file with parents, executable or not.
pub fn write_file(path: &Path, contents: &[u8], executable: bool) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, contents).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(if executable { 0o755 } else { 0o644 }))?;
    Ok(())
}

fn link_files(real: &Path, seen: &str, to: &Path) -> Result<()> {
    if !real.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(real)? {
        let name = entry?.file_name();
        symlink(Path::new(seen).join(&name), to.join(&name))?;
    }
    Ok(())
}

/// 32 characters of Nix's base-32 alphabet.
fn hash_part(name: &str, references: &[&str]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    let digest = Sha256::digest(format!("{name}\n{}", references.join("\n")));
    digest
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect()
}
