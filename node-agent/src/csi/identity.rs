//! The Identity service: who we are, and whether we are up.
//! Never touches the network or a disk: it is asked all the time.

use tonic::{Request, Response, Status};

use super::Volumes;
use super::messages::csi::{
    BoolValue, GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, ProbeRequest, ProbeResponse, identity_server::Identity,
};

#[tonic::async_trait]
impl Identity for Volumes {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: crds::pod::DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: [].into(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        // No controller: a pod's volumes are made on its node and nowhere else.
        Ok(Response::new(GetPluginCapabilitiesResponse {
            capabilities: Vec::new(),
        }))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let known = self.parts.known.borrow();
        let value = known.synced || !known.catalogue.environments.is_empty();
        Ok(Response::new(ProbeResponse {
            ready: Some(BoolValue { value }),
        }))
    }
}
