//! The Identity service: who we are, and whether we are up.
//! Never touches the network or a disk: it is asked all the time.

use tonic::{Request, Response, Status};

use super::messages::csi::{
    BoolValue, GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, ProbeRequest, ProbeResponse, identity_server::Identity,
};
use super::{Volumes, failure::cut};
use crate::snapshot::{known::Known, status::SelfTest};

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

    /// Costs two looks at what is in memory: the mount was tried by somebody else, once in a while.
    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let value = health(&self.parts.known.borrow(), &self.parts.self_test.borrow()).map_err(|why| {
            let node = &self.parts.node_name;
            Status::failed_precondition(cut(format!("no mount can be made on node {node}: {why}")))
        })?;
        Ok(Response::new(ProbeResponse {
            ready: Some(BoolValue { value }),
        }))
    }
}

/// Whether volumes can be published, or only not yet; why not where that takes somebody to mend it.
fn health<'a>(known: &Known, tested: &'a SelfTest) -> Result<bool, &'a str> {
    match tested {
        SelfTest::Failed { why } => Err(why),
        SelfTest::Pending => Ok(false),
        SelfTest::Passed => Ok(known.synced || !known.catalogue.environments.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_cannot_mount_is_unhealthy_and_one_that_does_not_know_yet_is_not_ready() {
        let (nothing, all) = (
            Known::default(),
            Known {
                synced: true,
                ..Known::default()
            },
        );
        let failed = SelfTest::Failed {
            why: "no overlay".to_owned(),
        };
        for (known, tested, health_is) in [
            (&all, SelfTest::Passed, Ok(true)),
            (&nothing, SelfTest::Passed, Ok(false)),
            (&all, SelfTest::Pending, Ok(false)),
            (&all, failed.clone(), Err("no overlay")),
            (&nothing, failed, Err("no overlay")),
        ] {
            assert_eq!(health(known, &tested), health_is, "{tested:?}");
        }
    }
}
