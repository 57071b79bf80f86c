//! The messages of CSI and of kubelet's plugin registration, generated from `proto/`.
//! Never edited; what they mean is said where they are read.

#![expect(clippy::too_many_lines, reason = "generated code")]

/// Container Storage Interface, version 1.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// kubelet's plugin registration, version 1.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}
