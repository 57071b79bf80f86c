//! The two sockets: made, served, and the one that registers made anew where kubelet does not know us.
//! Never removes a file that is no socket, and leaves both sockets at the end: removing one would tell kubelet that the
//! driver is gone, while a new agent is only seconds away.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use futures_util::stream;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    time::sleep,
};
use tonic::transport::Server;

use super::{
    REGISTRATION_SOCKET, Volumes,
    messages::{
        csi::{identity_server::IdentityServer, node_server::NodeServer},
        registration::registration_server::RegistrationServer,
    },
    registration::Registrar,
};
use crate::snapshot::known::Known;

/// Larger requests are refused unread: all strings of a call together fit many times (CSI specification, "Size Limits").
const LARGEST_REQUEST: usize = 1 << 20;
/// How long kubelet has to take us before we offer ourselves again, at first and at most.
const OFFER_AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(120));
/// Between two looks whether kubelet has started anew.
const LOOK: Duration = Duration::from_secs(2);
/// For calls under way when we are told to stop.
const GRACE: Duration = Duration::from_secs(20);

/// Where the sockets are.
#[derive(Debug, Clone)]
pub struct Sockets {
    /// Of the CSI services.
    pub csi: PathBuf,
    /// The folder that kubelet watches.
    pub registration_dir: PathBuf,
    /// One of kubelet's own, which it makes anew whenever it starts.
    pub kubelet: PathBuf,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("making the folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("{} is there already and is no socket: take it away", path.display())]
    InTheWay { path: PathBuf },
    #[error("removing the old socket {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("listening at {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("serving at {}", path.display())]
    Serve {
        path: PathBuf,
        source: Box<tonic::transport::Error>,
    },
}

/// Serves until `stop` says so, then finishes the calls under way. `registered` says whether the node's `CSINode` names us;
/// where nobody can tell it stays true.
pub async fn serve(
    volumes: Volumes,
    sockets: Sockets,
    registered: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
) -> Result<(), SocketError> {
    let listener = listen(&sockets.csi)?;
    let known = volumes.parts.known.clone();
    let services = Server::builder()
        .add_service(IdentityServer::new(volumes.clone()).max_decoding_message_size(LARGEST_REQUEST))
        .add_service(NodeServer::new(volumes).max_decoding_message_size(LARGEST_REQUEST))
        .serve_with_incoming_shutdown(connections(listener), stopped(stop.clone()));
    let offering = offer(&sockets, known, registered, stop.clone());
    let serving = async {
        let path = sockets.csi.clone();
        services.await.map_err(|source| SocketError::Serve {
            path,
            source: Box::new(source),
        })
    };
    let both = async { tokio::try_join!(serving, offering).map(|_| ()) };
    let too_late = async {
        stopped(stop).await;
        sleep(GRACE).await;
    };
    tokio::select! {
        done = both => done,
        () = too_late => Ok(()),
    }
}

/// Returns when the driver is to be offered: at once, or where an agent before us was registered, when an API server answers.
///
/// kubelet forgets a driver whose socket is made anew, and takes it again only when it has written so to the API server. Without one
/// no volume of a running pod could be taken away until then. A kubelet that started since knows nobody, and has nothing to forget.
async fn registered_before(sockets: &Sockets, mut known: watch::Receiver<Known>) {
    let Some(before) = made(&sockets.registration_dir.join(REGISTRATION_SOCKET)) else {
        return;
    };
    let answered = async {
        let _gone = known.wait_for(|known| known.synced).await;
    };
    let kubelet_started = async {
        while made(&sockets.kubelet).is_none_or(|started| started <= before) {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = answered => {}
        () = kubelet_started => {}
    }
}

/// When a socket was made; nothing where there is none.
fn made(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).and_then(|found| found.modified()).ok()
}

/// Offers the driver to kubelet, again and again where it is not taken.
async fn offer(
    sockets: &Sockets,
    known: watch::Receiver<Known>,
    mut registered: watch::Receiver<bool>,
    stop: watch::Receiver<bool>,
) -> Result<(), SocketError> {
    tokio::select! {
        () = registered_before(sockets, known) => {}
        () = stopped(stop.clone()) => return Ok(()),
    }
    let path = sockets.registration_dir.join(REGISTRATION_SOCKET);
    let (accepted, mut heard) = watch::channel(true);
    let mut pause = OFFER_AGAIN.0;
    loop {
        let listener = listen(&path)?;
        heard.mark_unchanged();
        let registrar = Registrar {
            endpoint: sockets.csi.clone(),
            accepted: accepted.clone(),
        };
        let serving = Server::builder()
            .add_service(RegistrationServer::new(registrar).max_decoding_message_size(LARGEST_REQUEST))
            .serve_with_incoming_shutdown(connections(listener), stopped(stop.clone()));
        tokio::select! {
            served = serving => {
                served.map_err(|source| SocketError::Serve { path: path.clone(), source: Box::new(source) })?;
                if *stop.borrow() {
                    return Ok(());
                }
            }
            () = not_taken(OFFER_AGAIN, &mut pause, (&mut heard, &mut registered)) => {
                tracing::warn!("kubelet does not know the driver: its socket is made anew");
            }
        }
    }
}

/// Waits until kubelet has refused us, or `CSINode` has not named us for a while: `pause`, which is longer each time, and
/// `first` again once kubelet took us.
async fn not_taken(
    (first, longest): (Duration, Duration),
    pause: &mut Duration,
    (heard, registered): (&mut watch::Receiver<bool>, &mut watch::Receiver<bool>),
) {
    loop {
        if *registered.borrow() && *heard.borrow() {
            *pause = first;
        }
        let refused = heard.wait_for(|taken| !*taken);
        let missing = async {
            let _gone = registered.wait_for(|named| !*named).await;
        };
        tokio::select! {
            _ = refused => {}
            () = missing => {}
        }
        sleep(*pause).await;
        if !*registered.borrow() || !*heard.borrow() {
            *pause = (*pause * 2).min(longest);
            return;
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone says stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A socket that only we may speak to, in place of the one that an agent before us left.
fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(folder);
    made.map_err(|source| SocketError::Folder {
        path: folder.to_owned(),
        source,
    })?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::InTheWay { path: path.to_owned() }),
        Ok(_) => fs::remove_file(path).map_err(|source| SocketError::Remove {
            path: path.to_owned(),
            source,
        })?,
        Err(_) => {}
    }
    let listening = |source| SocketError::Listen {
        path: path.to_owned(),
        source,
    };
    let listener = UnixListener::bind(path).map_err(listening)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(listening)?;
    Ok(listener)
}

fn connections(listener: UnixListener) -> impl futures_util::Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(connection, _)| connection);
        if accepted.is_err() {
            // Out of descriptors, as a rule: not to be asked again at once.
            sleep(Duration::from_millis(100)).await;
        }
        Some((accepted, listener))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn a_driver_that_is_not_taken_is_offered_ever_more_rarely_until_it_is_taken() {
        let (accepted, mut heard) = watch::channel(true);
        let (names_us, mut registered) = watch::channel(true);
        let mut pause = MS;
        for (says, sender) in [("CSINode", &names_us), ("kubelet", &accepted)] {
            sender.send_replace(false);
            for longer in [2, 4, 8, 8] {
                not_taken((MS, 8 * MS), &mut pause, (&mut heard, &mut registered)).await;
                assert_eq!(pause, longer * MS, "{says}");
            }
            sender.send_replace(true);
            let missed_again = async {
                tokio::task::yield_now().await;
                sender.send_replace(false);
            };
            let waiting = not_taken((MS, 8 * MS), &mut pause, (&mut heard, &mut registered));
            tokio::join!(waiting, missed_again);
            assert_eq!(pause, 2 * MS, "{says}: it was taken in between");
            sender.send_replace(true);
            pause = MS;
        }
    }
}
