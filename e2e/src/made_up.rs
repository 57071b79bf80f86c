//! Closures made up for tests: any number of store paths with small, predictable files that refer to each other.
//! It must never be used to show that real programs run: nothing in here is one.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use anyhow::{Context, Result};
use binary_cache::{
    cache::CacheConfig,
    compression::Compression,
    key::{KeyRing, SecretKey},
    nar,
    narinfo::{Download, Fields, NarInfo, VerifiedNarInfo},
    options::Options,
    substitute::Substituter,
    write::{CacheWriter, Entry},
};
use crds::domain::store_path::{NIX_BASE32, StorePath};
use node_agent::store::NodeStore;

/// Seed of the key that signs every made-up closure.
const KEY_SEED: [u8; 32] = [42; 32];

/// A made-up closure. The first path is its root: everything can be reached from there.
#[derive(Debug, Clone)]
pub struct Closure {
    members: Vec<Member>,
}

/// One store path of a closure and what is in it.
#[derive(Debug, Clone)]
pub struct Member {
    pub path: StorePath,
    pub references: Vec<StorePath>,
    pub content: Content,
}

/// What lies at a store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// `bin/tool-<n>` (executable), `share/<n>/data`, `share/<n>/empty/` and a link to the next path.
    Folder { number: usize, bytes: usize, files: usize },
    /// The store path is a file itself.
    File { text: String },
    /// The store path is a link itself.
    Link { target: StorePath },
}

impl Closure {
    /// `count` paths, each with some files of `bytes` bytes. `name` keeps closures apart.
    pub fn new(name: &str, count: usize, bytes: usize) -> Result<Self> {
        Self::with_files(name, count, 1, bytes)
    }

    /// Like [`Closure::new`], with `files` data files in each folder.
    pub fn with_files(name: &str, count: usize, files: usize, bytes: usize) -> Result<Self> {
        let paths: Vec<StorePath> = (0..count)
            .map(|number| made_up_path(name, number))
            .collect::<Result<_>>()?;
        let members = paths.iter().enumerate().map(|(number, path)| {
            // Every path refers to the next and to one further on; the last to itself.
            let mut references = vec![
                paths[(number + 1).min(count - 1)].clone(),
                paths[(2 * number + 1).min(count - 1)].clone(),
            ];
            references.sort();
            references.dedup();
            let content = match number % 10 {
                7 => Content::File {
                    text: format!("file {number} of {name}\n"),
                },
                8 => Content::Link {
                    target: paths[number - 1].clone(),
                },
                _ => Content::Folder { number, bytes, files },
            };
            if let Content::Link { .. } = content {
                references.push(paths[number - 1].clone());
                references.sort();
                references.dedup();
            }
            Member {
                path: path.clone(),
                references,
                content,
            }
        });
        Ok(Self {
            members: members.collect(),
        })
    }

    /// `count` new paths above those that `base` has from its `from`th on: another variant of a package, which shares them.
    pub fn above(name: &str, (count, bytes): (usize, usize), base: &Self, from: usize) -> Result<Self> {
        let mut closure = Self::new(name, count, bytes)?;
        let shared = base.members.get(from..).filter(|shared| !shared.is_empty());
        let shared = shared.context("the base has no such path")?;
        if let Some(last) = closure.members.last_mut() {
            last.references.push(shared[0].path.clone());
            last.references.sort();
        }
        closure.members.extend_from_slice(shared);
        Ok(closure)
    }

    /// The members, root first.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The store paths, root first.
    pub fn paths(&self) -> impl Iterator<Item = &StorePath> {
        self.members.iter().map(|member| &member.path)
    }

    /// The path that reaches all others.
    pub fn root(&self) -> &StorePath {
        &self.members[0].path
    }

    /// Writes the closure's files below `store_dir`, as a Nix store would hold them; what another closure shares is there.
    pub fn write(&self, store_dir: &Path) -> Result<()> {
        let places = self
            .members
            .iter()
            .map(|member| (member, store_dir.join(member.path.base_name())));
        places
            .filter(|(_, place)| fs::symlink_metadata(place).is_err())
            .try_for_each(|(member, place)| member.write(&place))
    }

    /// Writes the closure as a signed cache into `folder`; the trees it is made of go to `folder/../trees`.
    pub fn cache(&self, folder: &Path, compression: Compression) -> Result<Vec<NarInfo>> {
        let trees = folder.with_file_name("trees");
        fs::create_dir_all(&trees)?;
        self.write(&trees)?;
        let writer = CacheWriter::create(folder, 40)?;
        let mut narinfos = Vec::new();
        for member in &self.members {
            let entry = Entry {
                store_path: member.path.clone(),
                references: member.references.clone(),
                deriver: None,
                compression,
            };
            let narinfo = writer.add_tree(&entry, &trees.join(member.path.base_name()), &[key()?])?;
            writer.publish(&narinfo)?;
            narinfos.push(narinfo);
        }
        Ok(narinfos)
    }

    /// Puts the closure into a node store without any cache, through the same commit that a fetch ends with.
    pub fn commit(&self, store: &NodeStore) -> Result<Vec<VerifiedNarInfo>> {
        let work = store.workspace()?;
        let mut narinfos = Vec::new();
        for member in &self.members {
            let parent = work.stage_layer(&member.path)?;
            let place = work
                .path()
                .join(member.path.hash())
                .join("nix/store")
                .join(member.path.base_name());
            member.write(&place)?;
            let (nar_hash, nar_size) = nar::dump(
                std::os::fd::AsFd::as_fd(&parent),
                member.path.base_name().as_ref(),
                &mut std::io::sink(),
            )?;
            let mut narinfo = NarInfo::new(Fields {
                store_path: member.path.clone(),
                nar_hash,
                nar_size,
                references: member.references.clone(),
                deriver: None,
                ca: None,
                download: Download {
                    url: "nar/none.nar".parse()?,
                    compression: Compression::None,
                    file_hash: None,
                    file_size: None,
                },
            });
            narinfo.sign(&key()?);
            narinfos.push(narinfo.verify(&member.path, &key_ring()?)?);
        }
        store.commit(&work, &narinfos.iter().collect::<Vec<_>>())?;
        work.finish()?;
        Ok(narinfos)
    }
}

impl Member {
    /// Writes the files of this path at `place`, with the modes a store has.
    pub fn write(&self, place: &Path) -> Result<()> {
        match &self.content {
            Content::File { text } => write_file(place, text.as_bytes(), 0o444),
            Content::Link { target } => Ok(symlink(target.to_string(), place)?),
            Content::Folder { number, bytes, files } => {
                let share = place.join(format!("share/{number}"));
                for folder in [&place.join("bin"), &share.join("empty")] {
                    fs::create_dir_all(folder)?;
                }
                write_file(
                    &place.join(format!("bin/tool-{number}")),
                    format!("tool {number}\n").as_bytes(),
                    0o555,
                )?;
                for file in 0..*files {
                    let name = if file == 0 {
                        "data".to_owned()
                    } else {
                        format!("data-{file}")
                    };
                    write_file(&share.join(name), &data(number + file, *bytes), 0o444)?;
                }
                if let Some(next) = self.references.iter().find(|reference| **reference != self.path) {
                    symlink(next.to_string(), place.join("next"))?;
                }
                for folder in [
                    share.join("empty"),
                    share.clone(),
                    place.join("share"),
                    place.join("bin"),
                    place.to_owned(),
                ] {
                    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555))?;
                }
                Ok(())
            }
        }
    }

    /// Compares what lies at `place` with what this member is, file by file.
    pub fn check(&self, place: &Path) -> Result<()> {
        let shown = || place.display().to_string();
        match &self.content {
            Content::File { text } => {
                anyhow::ensure!(fs::read_to_string(place).with_context(shown)? == *text, "{}", shown());
            }
            Content::Link { target } => {
                anyhow::ensure!(
                    fs::read_link(place).with_context(shown)? == Path::new(&target.to_string()),
                    "{}",
                    shown()
                );
            }
            Content::Folder { number, bytes, files } => {
                let tool = fs::read_to_string(place.join(format!("bin/tool-{number}"))).with_context(shown)?;
                anyhow::ensure!(tool == format!("tool {number}\n"), "{}", shown());
                let share = place.join(format!("share/{number}"));
                for file in 0..*files {
                    let name = if file == 0 {
                        "data".to_owned()
                    } else {
                        format!("data-{file}")
                    };
                    anyhow::ensure!(
                        fs::read(share.join(name)).with_context(shown)? == data(number + file, *bytes),
                        "{}",
                        shown()
                    );
                }
                anyhow::ensure!(
                    fs::read_dir(share.join("empty")).with_context(shown)?.next().is_none(),
                    "{}",
                    shown()
                );
                let mut names: Vec<_> = fs::read_dir(place)?
                    .map(|entry| entry.map(|found| found.file_name()))
                    .collect::<Result<_, _>>()?;
                names.sort();
                let linked = self.references.iter().any(|reference| *reference != self.path);
                let want: &[&str] = if linked {
                    &["bin", "next", "share"]
                } else {
                    &["bin", "share"]
                };
                anyhow::ensure!(names == want, "{}: {names:?}", shown());
            }
        }
        Ok(())
    }
}

/// The key that signs made-up closures.
pub fn key() -> Result<SecretKey> {
    Ok(SecretKey::from_seed("made-up-1", &KEY_SEED)?)
}

/// Asks the cache at `url` (`file://…` or `http://…`) alone.
pub fn substituter(url: &str) -> Result<Substituter> {
    let cache = CacheConfig {
        name: "made-up".to_owned(),
        url: url.parse()?,
        mirrors: Vec::new(),
        keys: key_ring()?,
        priority: None,
        redirect_origins: Vec::new(),
        credentials: None,
    };
    Ok(Substituter::new(vec![cache], Options::default())?)
}

/// The ring that trusts it.
pub fn key_ring() -> Result<KeyRing> {
    Ok(KeyRing::new(vec![key()?.public_key()])?)
}

/// A store path whose hash is that of its name: a different one for each name and number.
fn made_up_path(name: &str, number: usize) -> Result<StorePath> {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(format!("{name} {number}").as_bytes());
    let hash: String = digest
        .iter()
        .map(|byte| char::from(NIX_BASE32[usize::from(*byte) % 32]))
        .collect();
    Ok(StorePath::from_base_name(&format!("{hash}-{name}-{number}"))?)
}

fn data(number: usize, bytes: usize) -> Vec<u8> {
    // Different in every file, and not to be compressed to nothing.
    let mut state = u64::try_from(number)
        .unwrap_or_default()
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn write_file(path: &Path, contents: &[u8], mode: u32) -> Result<()> {
    fs::write(path, contents).with_context(|| path.display().to_string())?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}
