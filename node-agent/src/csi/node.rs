//! The Node service: messages to plain data, answers back.
//! Never logs a request: a context may hold what a person put there by mistake.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Response, Status, metadata::MetadataMap};

use super::{
    ANSWER_BEFORE, KUBELETS_PATIENCE, Volumes,
    failure::CallError,
    messages::csi::{
        NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
        NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
        NodeServiceCapability, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, VolumeCapability, VolumeUsage,
        node_server::Node,
        node_service_capability::{Rpc, Type, rpc},
        volume_capability::{AccessType, access_mode::Mode},
        volume_usage::Unit,
    },
};
use crate::plan::volume::{Access, Asked, Sharing};

#[tonic::async_trait]
impl Node for Volumes {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let deadline = Instant::now() + patience(request.metadata());
        let asked = asked(request.into_inner());
        let done = self.publish(&asked, deadline).await;
        answer("publish", done).map(|()| Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let NodeUnpublishVolumeRequest { volume_id, target_path } = request.into_inner();
        let done = self.unpublish(&volume_id, &target_path).await;
        answer("unpublish", done).map(|()| Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        let bytes = answer("stats", self.stats(&request.volume_id, &request.volume_path).await)?;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let usage = VolumeUsage {
            available: 0,
            total: bytes,
            used: bytes,
            unit: Unit::Bytes.into(),
        };
        Ok(Response::new(NodeGetVolumeStatsResponse { usage: vec![usage] }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let stats = Type::Rpc(Rpc {
            r#type: rpc::Type::GetVolumeStats.into(),
        });
        Ok(Response::new(NodeGetCapabilitiesResponse {
            capabilities: vec![NodeServiceCapability { r#type: Some(stats) }],
        }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.parts.node_name.clone(),
            // As many as kubelet likes.
            max_volumes_per_node: 0,
        }))
    }
}

/// A fault is logged where it is handed to whoever asked, and nowhere else.
fn answer<T>(call: &'static str, done: Result<T, CallError>) -> Result<T, Status> {
    done.map_err(|error| {
        let status = error.status();
        tracing::warn!(call, code = ?status.code(), error = status.message(), "a call failed");
        status
    })
}

fn asked(request: NodePublishVolumeRequest) -> Asked {
    Asked {
        volume_id: request.volume_id,
        target: request.target_path,
        read_only: request.readonly,
        mount: request.volume_capability.and_then(access),
        secrets: !request.secrets.is_empty(),
        context: request.volume_context.into_iter().collect(),
    }
}

fn access(capability: VolumeCapability) -> Option<Access> {
    let mode = capability.access_mode.map(|found| found.mode).unwrap_or_default();
    Some(match capability.access_type? {
        AccessType::Block(_) => Access::Block,
        AccessType::Mount(mount) => Access::Mount {
            fs_type: mount.fs_type,
            group: !mount.volume_mount_group.is_empty(),
            flags: mount.mount_flags,
            sharing: sharing(mode),
            mode,
        },
    })
}

fn sharing(mode: i32) -> Option<Sharing> {
    match Mode::try_from(mode).ok()? {
        Mode::Unknown => None,
        Mode::SingleNodeWriter | Mode::SingleNodeReaderOnly | Mode::SingleNodeSingleWriter => Some(Sharing::Single),
        Mode::SingleNodeMultiWriter
        | Mode::MultiNodeReaderOnly
        | Mode::MultiNodeSingleWriter
        | Mode::MultiNodeMultiWriter => Some(Sharing::Multi),
    }
}

/// How long this call may be held: what its caller says (gRPC over HTTP/2, `grpc-timeout`), else what kubelet is known to.
fn patience(metadata: &MetadataMap) -> Duration {
    let said = metadata
        .get("grpc-timeout")
        .and_then(|value| timeout(value.to_str().ok()?));
    let all = said.unwrap_or(KUBELETS_PATIENCE);
    // A short patience is not all spent on leaving early.
    all - ANSWER_BEFORE.min(all / 5)
}

/// At most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_held_for_as_long_as_its_caller_waits_less_the_way_back() {
        let held = |text: Option<&str>| {
            let mut metadata = MetadataMap::new();
            if let Some(text) = text {
                metadata.insert("grpc-timeout", text.parse().unwrap());
            }
            patience(&metadata)
        };
        for (said, expected) in [
            (None, Duration::from_secs(110)),
            (Some("119999m"), Duration::from_millis(109_999)),
            (Some("2M"), Duration::from_secs(110)),
            (Some("10S"), Duration::from_secs(8)),
            (Some("1000000u"), Duration::from_millis(800)),
            (Some("soon"), Duration::from_secs(110)),
            (Some("123456789S"), Duration::from_secs(110)),
            (Some(""), Duration::from_secs(110)),
        ] {
            assert_eq!(held(said), expected, "{said:?}");
        }
    }
}
