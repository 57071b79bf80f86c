//! A driver for conformance suites: the agent's Identity and Node, handed on call by call, beside a Controller that makes
//! volumes out of nothing, as such suites need one. It must never answer a call of the Node service itself.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixListener,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use futures_util::stream;
use node_agent::csi::messages::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, PluginCapability, ProbeRequest, ProbeResponse,
    identity_client::IdentityClient,
    identity_server::{Identity, IdentityServer},
    node_client::NodeClient,
    node_server::{Node, NodeServer},
    plugin_capability::{Service, Type, service},
};
use tokio::runtime::Runtime;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server},
};

use super::agent::{channel, runtime};
use controller::{
    ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse, ControllerServiceCapability,
    CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest, DeleteVolumeResponse,
    ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse, Volume,
    controller_server::{Controller, ControllerServer},
    controller_service_capability::{self as capability, Rpc, rpc},
    validate_volume_capabilities_response::Confirmed,
};

/// The Controller service, generated from `proto/`.
pub mod controller {
    #![expect(clippy::too_many_lines, reason = "generated code")]
    tonic::include_proto!("csi.v1");
}

/// A shim that serves. It stops when dropped.
#[derive(Debug)]
pub struct Shim {
    _serving: Runtime,
}

#[derive(Debug, Clone)]
struct Driver {
    agent: Channel,
    volumes: Arc<Mutex<BTreeMap<String, Volume>>>,
}

impl Shim {
    /// Serves at `socket` before the agent that serves at `agent`.
    pub fn start(agent: &Path, socket: &Path) -> Result<Self> {
        let runtime = runtime()?;
        let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
        listener.set_nonblocking(true)?;
        let _inside = runtime.enter();
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let driver = Driver {
            agent: channel(agent)?,
            volumes: Arc::default(),
        };
        let connections = stream::unfold(listener, |listener| async move {
            Some((listener.accept().await.map(|(connection, _)| connection), listener))
        });
        let serving = Server::builder()
            .add_service(IdentityServer::new(driver.clone()))
            .add_service(NodeServer::new(driver.clone()))
            .add_service(ControllerServer::new(driver))
            .serve_with_incoming(connections);
        let _ends_with_the_runtime = runtime.spawn(serving);
        Ok(Self { _serving: runtime })
    }
}

impl Driver {
    fn identity(&self) -> IdentityClient<Channel> {
        IdentityClient::new(self.agent.clone())
    }

    fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.agent.clone())
    }

    fn volumes(&self) -> MutexGuard<'_, BTreeMap<String, Volume>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(
        &self,
        request: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        self.identity().get_plugin_info(request.into_inner()).await
    }

    /// What the agent says, and that there is a Controller.
    async fn get_plugin_capabilities(
        &self,
        request: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        let mut said = self.identity().get_plugin_capabilities(request.into_inner()).await?;
        said.get_mut().capabilities.push(PluginCapability {
            r#type: Some(Type::Service(Service {
                r#type: service::Type::ControllerService.into(),
            })),
        });
        Ok(said)
    }

    async fn probe(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        self.identity().probe(request.into_inner()).await
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        self.node().node_publish_volume(request.into_inner()).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        self.node().node_unpublish_volume(request.into_inner()).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        self.node().node_get_volume_stats(request.into_inner()).await
    }

    async fn node_get_capabilities(
        &self,
        request: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        self.node().node_get_capabilities(request.into_inner()).await
    }

    async fn node_get_info(
        &self,
        request: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        self.node().node_get_info(request.into_inner()).await
    }
}

#[tonic::async_trait]
impl Controller for Driver {
    /// The parameters become the volume's context: so the suite's file says what kubelet would say.
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let request = request.into_inner();
        if request.name.is_empty() || request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("name and volume_capabilities are required"));
        }
        let wanted = request.capacity_range.unwrap_or_default();
        let mut volumes = self.volumes();
        let volume = volumes.entry(request.name.clone()).or_insert_with(|| Volume {
            capacity_bytes: wanted.required_bytes,
            volume_id: request.name,
            volume_context: request.parameters,
        });
        let fits = wanted.required_bytes <= volume.capacity_bytes
            && (wanted.limit_bytes == 0 || volume.capacity_bytes <= wanted.limit_bytes);
        if !fits {
            return Err(Status::already_exists("a volume of that name has another capacity"));
        }
        let volume = Some(volume.clone());
        Ok(Response::new(CreateVolumeResponse { volume }))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let id = request.into_inner().volume_id;
        if id.is_empty() {
            return Err(Status::invalid_argument("volume_id is required"));
        }
        self.volumes().retain(|_, volume| volume.volume_id != id);
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let request = request.into_inner();
        if request.volume_id.is_empty() || request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument(
                "volume_id and volume_capabilities are required",
            ));
        }
        if !self
            .volumes()
            .values()
            .any(|volume| volume.volume_id == request.volume_id)
        {
            return Err(Status::not_found("no such volume"));
        }
        let confirmed = Confirmed {
            volume_context: request.volume_context,
            volume_capabilities: request.volume_capabilities,
            parameters: request.parameters,
        };
        Ok(Response::new(ValidateVolumeCapabilitiesResponse {
            confirmed: Some(confirmed),
            message: String::new(),
        }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let rpc = Rpc {
            r#type: rpc::Type::CreateDeleteVolume.into(),
        };
        let capabilities = vec![ControllerServiceCapability {
            r#type: Some(capability::Type::Rpc(rpc)),
        }];
        Ok(Response::new(ControllerGetCapabilitiesResponse { capabilities }))
    }
}
