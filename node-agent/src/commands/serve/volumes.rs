//! The CSI driver as a part of the daemon: its sockets and its sweeps.
//! Never decides anything about a volume.

use tokio::sync::watch;

use crate::csi::{
    Volumes,
    server::{self, SocketError, Sockets},
    sweep,
};

/// Serves and sweeps until `stop` comes, and finishes the calls under way.
pub(super) async fn serve(
    volumes: Volumes,
    sockets: Sockets,
    registered: watch::Receiver<bool>,
    stop: impl Future<Output = ()>,
) -> Result<(), SocketError> {
    let stopping = watch::Sender::new(false);
    let stop = async {
        stop.await;
        stopping.send_replace(true);
        // The server ends when its calls have.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = server::serve(volumes.clone(), sockets, registered, stopping.subscribe()) => done,
        () = sweep::keep(volumes) => Ok(()),
        () = stop => Ok(()),
    }
}
