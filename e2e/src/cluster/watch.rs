//! What a `kubectl get --watch` prints while a test does other things: every state that an object was seen in, in order.
//! It must never outlive its owner, nor tell of a state that the API server did not send.

use std::fs::File;
use std::path::PathBuf;
use std::process::Child;

use anyhow::{Context, Result};

use super::Cluster;

/// A watch under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    process: Child,
    file: PathBuf,
}

impl Cluster {
    /// Follows objects of a kind in all namespaces, what is there already included: for each state what JSONPath prints.
    pub fn watch(&self, kind: &str, path: &str) -> Result<Watch> {
        let file = self.folder.join(format!("watched-{kind}"));
        let process = self
            .client("kubectl")
            .args(["get", kind, "--all-namespaces", "--watch", "-o"])
            .arg(format!("jsonpath={path}{{\"\\n\"}}"))
            .stdout(File::create_new(&file).with_context(|| format!("{kind} are watched already"))?)
            .spawn()?;
        Ok(Watch { process, file })
    }
}

impl Watch {
    /// All that was seen so far.
    pub fn lines(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.file)?;
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().map(str::to_owned).collect())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}
