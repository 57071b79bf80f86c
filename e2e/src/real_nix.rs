//! Real Nix as the other side: it packs, signs, compresses, dumps, and copies with signatures required.
//! It must never touch the machine's own `/nix`, settings or caches, build anything, or reach any network but loopback.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::layout::Layout;
use crate::programs::{Ended, ended, finished};
use crate::{parts, programs};

/// The compressions that Nix 2.8 can be told to write.
pub const COMPRESSIONS: [&str; 7] = ["none", "xz", "zstd", "bzip2", "gzip", "br", "lzma"];

/// Real Nix with a home folder of its own.
#[derive(Debug)]
pub struct RealNix {
    programs: PathBuf,
    home: TempDir,
}

/// A signing key made by real Nix.
#[derive(Debug, Clone)]
pub struct Key {
    /// File with `name:base64` of the secret key.
    pub secret_file: PathBuf,
    /// `name:base64` of the public key.
    pub public: String,
}

impl RealNix {
    /// Finds it, or fetches it onto the shelf.
    pub fn find() -> Result<Self> {
        Self::of(parts::nix()?)
    }

    /// The newest that can be had, for comparisons.
    pub fn newest() -> Result<Self> {
        Self::of(parts::newest_nix()?)
    }

    fn of(programs: PathBuf) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("cudaenv-nix-").tempdir()?;
        fs::create_dir(home.path().join("conf"))?;
        Ok(Self { programs, home })
    }

    /// `nix (Nix) 2.8.0` or the like.
    pub fn version(&self) -> Result<String> {
        Ok(finished(self.nix().arg("--version"))?.trim().to_owned())
    }

    /// Makes a key of that name.
    pub fn key(&self, name: &str) -> Result<Key> {
        let secret = finished(self.nix().args(["key", "generate-secret", "--key-name", name]))?;
        let secret_file = self.home.path().join(format!("{name}.secret"));
        fs::write(&secret_file, &secret)?;
        let mut convert = self.nix();
        convert
            .args(["key", "convert-secret-to-public"])
            .stdin(fs::File::open(&secret_file)?);
        Ok(Key {
            secret_file,
            public: finished(&mut convert)?.trim().to_owned(),
        })
    }

    /// Enters every path of the layout into a database of its own, with the hash of Nix's own dump.
    pub fn register(&self, layout: &Layout) -> Result<()> {
        let mut entries = String::new();
        for path in layout.paths() {
            let (hash, size) = self.dump(&layout.real(&path.store_path))?;
            let references = path.references.join("\n");
            let line_end = if references.is_empty() { "" } else { "\n" };
            let count = path.references.len();
            entries += &format!("{}\n{hash}\n{size}\n\n{count}\n{references}{line_end}", path.store_path);
        }
        let mut load = self.command("nix-store");
        load.args(["--store", &store_url(layout.root()), "--load-db"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut child = load.spawn().context("cannot start nix-store")?;
        child.stdin.take().context("no stdin")?.write_all(entries.as_bytes())?;
        ensure!(child.wait()?.success(), "nix-store --load-db refused the layout");
        Ok(())
    }

    /// Writes everything that is registered below the layout's root into the binary cache in folder `cache`.
    pub fn publish(&self, layout: &Layout, key: &Key, compression: &str, cache: &Path) -> Result<()> {
        let to = format!(
            "file://{}?compression={compression}&secret-key={}",
            cache.display(),
            key.secret_file.display()
        );
        let mut copy = self.nix();
        copy.args(["--store", &store_url(layout.root()), "copy", "--to", &to]);
        copy.args(layout.paths().iter().map(|path| &path.store_path));
        finished(&mut copy)?;
        Ok(())
    }

    /// SHA-256 (base 16) and size of Nix's own dump of a file tree.
    pub fn dump(&self, tree: &Path) -> Result<(String, u64)> {
        let mut dump = self.command("nix-store");
        let mut child = dump
            .arg("--dump")
            .arg(tree)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start nix-store")?;
        let mut hasher = Sha256::new();
        let size = std::io::copy(
            &mut child.stdout.take().context("no stdout")?,
            &mut HashWriter(&mut hasher),
        )?;
        ensure!(child.wait()?.success(), "nix-store --dump {} failed", tree.display());
        Ok((
            hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            size,
        ))
    }

    /// A SHA-256 of base 16 in the words of a narinfo: `sha256:<base 32>`.
    pub fn in_base32(&self, base16: &str) -> Result<String> {
        let printed = finished(self.nix().args(["hash", "to-base32", "--type", "sha256", base16]))?;
        Ok(format!("sha256:{}", printed.trim()))
    }

    /// Copies closures out of a cache into the private store below `root`, trusting exactly these keys.
    pub fn copy(&self, cache_url: &str, keys: &[&str], root: &Path, store_paths: &[&str]) -> Result<Ended> {
        ended(&mut self.copy_command(cache_url, keys, root, store_paths))
    }

    /// The command of [`RealNix::copy`], not yet run.
    pub fn copy_command(&self, cache_url: &str, keys: &[&str], root: &Path, store_paths: &[&str]) -> Command {
        let mut copy = self.nix();
        copy.args([
            "--option",
            "require-sigs",
            "true",
            "--option",
            "trusted-public-keys",
            &keys.join(" "),
        ]);
        copy.args(["--store", &store_url(root), "copy", "--from", cache_url]);
        copy.args(store_paths);
        copy
    }

    /// Adds a source tree to the private store below `root`; gives the store path that Nix computed.
    pub fn add(&self, root: &Path, tree: &Path) -> Result<String> {
        let mut add = self.command("nix-store");
        add.args(["--store", &store_url(root), "--add"]).arg(tree);
        Ok(finished(&mut add)?.trim().to_owned())
    }

    /// Lets Nix hash every path of the private store below `root` again.
    pub fn verify(&self, root: &Path) -> Result<Ended> {
        ended(
            self.command("nix-store")
                .args(["--store", &store_url(root), "--verify", "--check-contents"]),
        )
    }

    fn nix(&self) -> Command {
        let mut nix = self.command("nix");
        nix.args([
            "--extra-experimental-features",
            "nix-command",
            "--option",
            "substituters",
            "",
        ]);
        nix
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        let home = self.home.path();
        command
            .env("HOME", home)
            .env("XDG_CACHE_HOME", home.join("cache"))
            .env("XDG_CONFIG_HOME", home.join("conf"));
        command
            .env("NIX_CONF_DIR", home.join("conf"))
            .env_remove("NIX_REMOTE")
            .env_remove("NIX_CONFIG");
        command.current_dir(programs::source_folder());
        command
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0.update(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn store_url(root: &Path) -> String {
    format!("local?root={}", root.display())
}
