//! The GPU code that agents have read, to and from the status of a `CUDANode`.
//! Never takes a word for code that it does not understand: such a store path counts as unread.

use std::collections::BTreeMap;

use super::{At, InvalidField, environment};
use crate::{
    domain::{code::GpuCode, store_path::StorePath},
    v1alpha1::{CUDANodeStatus, CodeSpec, NodeContents, PtxSpec},
};

impl From<&GpuCode> for CodeSpec {
    fn from(code: &GpuCode) -> Self {
        let ptx = code.ptx.iter().map(|ptx| PtxSpec {
            target: ptx.target.to_string(),
            isa: ptx.isa.to_string(),
        });
        Self {
            sass: Some(code.sass.iter().map(ToString::to_string).collect()),
            ptx: Some(ptx.collect()),
        }
    }
}

impl NodeContents {
    /// What was found in the closure of `path`.
    pub fn of(path: &StorePath, code: &GpuCode) -> Self {
        Self {
            store_path: path.to_string(),
            code: code.into(),
        }
    }

    fn read(&self, at: &At<'_>) -> Result<(StorePath, GpuCode), InvalidField> {
        let path = environment::store_path(&at.field("storePath"), &self.store_path)?;
        Ok((path, environment::code(&at.field("code"), &self.code)?))
    }
}

impl CUDANodeStatus {
    /// What the node's agent has read of store paths; entries that make no sense are left out.
    pub fn contents(&self) -> BTreeMap<StorePath, GpuCode> {
        let at = At::root("status");
        let read = self.contents.iter().map(|contents| contents.read(&at));
        read.filter_map(Result::ok).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-{name}", "a".repeat(32))).unwrap()
    }

    #[test]
    fn what_was_read_survives_the_wire_also_where_it_was_nothing() {
        let mut code = GpuCode::default();
        code.sass.insert("9.0a".parse().unwrap());
        code.ptx.insert(crate::domain::code::PtxCode {
            target: "10.0f".parse().unwrap(),
            isa: "8.7".parse().unwrap(),
        });
        let read = BTreeMap::from([(path("with"), code), (path("without"), GpuCode::default())]);
        let told = read.iter().map(|(path, code)| NodeContents::of(path, code));
        let mut status = CUDANodeStatus {
            contents: told.collect(),
            ..CUDANodeStatus::default()
        };
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<CUDANodeStatus>(&text).unwrap().contents(), read);
        status.contents[0].code.sass = Some(vec!["nine".to_owned()]);
        status.contents.push(NodeContents::default());
        assert_eq!(status.contents().into_keys().collect::<Vec<_>>(), [path("without")]);
    }
}
