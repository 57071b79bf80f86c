//! README.md as a reader uses it: the files and the commands in its blocks, section by section.
//! It must never mend what it reads: a word that is to be replaced and is not there is an error.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::programs::source_folder;

/// A fenced block.
#[derive(Debug)]
struct Block {
    section: String,
    language: String,
    text: String,
}

/// The README, with some words replaced by others.
#[derive(Debug)]
pub struct Readme {
    blocks: Vec<Block>,
}

impl Readme {
    /// Reads it. Each word of `instead` must be there, and what it stands for takes its place everywhere.
    pub fn with(instead: &[(&str, &str)]) -> Result<Self> {
        let path = source_folder().join("README.md");
        let mut text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for (word, other) in instead {
            ensure!(text.contains(word), "README.md has no `{word}` any more");
            text = text.replace(word, other);
        }
        let (mut blocks, mut section) = (Vec::new(), String::new());
        let mut open: Option<Block> = None;
        for line in text.lines() {
            match (&mut open, line.strip_prefix("```")) {
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.text.extend([line, "\n"]),
                (None, Some(language)) => {
                    open = Some(Block {
                        section: section.clone(),
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
                (None, None) => {
                    if let Some(title) = line.strip_prefix('#') {
                        title.trim_start_matches('#').trim().clone_into(&mut section);
                    }
                }
            }
        }
        ensure!(open.is_none(), "README.md ends within a block");
        Ok(Self { blocks })
    }

    /// Writes the files that it shows, those that begin with their name (`# NAME.yaml`), into a folder.
    pub fn write_files(&self, folder: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for block in self.blocks.iter().filter(|block| block.language == "yaml") {
            let Some(name) = block.text.lines().next().and_then(|line| line.strip_prefix("# ")) else {
                continue;
            };
            std::fs::write(folder.join(name), &block.text)?;
            names.push(name.to_owned());
        }
        Ok(names)
    }

    /// The commands of a section, one after the other; one that goes on over several lines is one.
    pub fn commands(&self, section: &str) -> Result<Vec<String>> {
        let blocks = self.blocks.iter();
        let plain = blocks.filter(|block| block.section == section && block.language.is_empty());
        let text: String = plain.map(|block| &*block.text).collect();
        ensure!(!text.is_empty(), "README.md has no commands below `{section}`");
        let joined = text.replace("\\\n", " ");
        Ok(joined.lines().map(str::to_owned).collect())
    }
}
