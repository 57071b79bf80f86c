//! Registration with kubelet: its watcher finds our socket, asks who we are, and says whether it took us.
//! Never answers slowly: kubelet waits a second (kubernetes/kubernetes#127457).

use std::path::PathBuf;

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::messages::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse, registration_server::Registration,
};

/// What kubelet is told.
#[derive(Debug)]
pub(super) struct Registrar {
    /// Where the CSI services are, as kubelet sees it.
    pub(super) endpoint: PathBuf,
    /// What kubelet said last.
    pub(super) accepted: watch::Sender<bool>,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: crds::pod::DRIVER.to_owned(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let said = request.into_inner();
        if said.plugin_registered {
            tracing::info!("kubelet registered the driver");
        } else {
            tracing::warn!(
                error = said.error,
                "kubelet did not register the driver; it will be offered again"
            );
        }
        self.accepted.send_replace(said.plugin_registered);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
