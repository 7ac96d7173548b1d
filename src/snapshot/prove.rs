//! The proof of a backup: it is restored to a throwaway server, which is started, looked at, and removed. How long that
//! took is the estimate for the real thing.

use super::host::{Host, text};
use super::restore::{self, Place, Restored, Target};
use super::{Estimate, Progress, SnapshotStore};
use crate::word::{Clock, Endpoint, Lsn, PortError};
use std::{path::Path, time::Duration};

/// What the system takes as the address of a socket, less the socket's own name.
const SOCKET_FOLDER_MAX: usize = 107 - "/.s.PGSQL.65535".len();

/// What was seen of a proof.
#[derive(Clone, Debug)]
pub struct Proof {
    pub replayed: Lsn,
    pub measured: Estimate,
}

/// Restores everything that is archived below the store's own folder, hands the server to `look`, and removes it whatever
/// happened. Its measure becomes the store's estimate.
///
/// # Errors
/// Whatever failed first: the restore, or what `look` found.
pub async fn prove<F: Future<Output = Result<(), PortError>>>(
    store: &dyn SnapshotStore,
    like: &Endpoint,
    clock: &dyn Clock,
    progress: Progress<'_>,
    look: impl FnOnce(Endpoint) -> F,
) -> Result<Proof, PortError> {
    let host = store.host().clone();
    let place = Place { data_dir: store.notes().dir.join("prove"), port: free_port(&host).await?, host, throwaway: true };
    if place.data_dir.as_os_str().len() > SOCKET_FOLDER_MAX {
        return Err(PortError::refused(format!("put a socket into `{}`", place.data_dir.display()))
            .because(format!("the path has more than {SOCKET_FOLDER_MAX} bytes"))
            .hint("keep the backups in a folder with a shorter path"));
    }
    store.notes().make_folder("points").await?;
    clear(store, &place, like).await?;
    let plan = restore::check(store, &Target::Latest, None, &place, clock.now()).await?;
    let proof = async {
        let Restored { endpoint, replayed, measured, .. } = restore::recover(store, &plan, like, true, clock, progress).await?;
        look(endpoint).await?;
        Ok(Proof { replayed, measured })
    };
    let proof: Result<Proof, PortError> = proof.await;
    let removed = clear(store, &place, like).await;
    let proof = proof?;
    removed?;
    store.notes().set_estimate(&proof.measured).await?;
    Ok(proof)
}

/// Also what an earlier proof left that was killed.
async fn clear(store: &dyn SnapshotStore, place: &Place, like: &Endpoint) -> Result<(), PortError> {
    match place.marker().await {
        Ok(_) => restore::discard(store, place, like).await,
        // Nothing of ours is there; what else may be there, the check of the restore says.
        Err(_) => Ok(()),
    }
}

/// A port of that machine on which nothing listens, below those that systems hand out by themselves. Another may take it
/// meanwhile, and then the server does not start and says so; two proofs at once begin to look at different places.
async fn free_port(host: &Host) -> Result<u16, PortError> {
    let (first, number) = (20_000, 12_000_u16);
    let begin = u16::try_from(uuid::Uuid::new_v4().as_u128() % u128::from(number)).unwrap_or(0);
    for at in 0..100 {
        let port = first + (begin + at) % number;
        if !host.port_is_taken(port).await? {
            return Ok(port);
        }
    }
    Err(PortError::refused("find a free port for a throwaway server"))
}

/// Awaits a copy, and tells how large it has become meanwhile.
pub(super) async fn watching_size(
    host: &Host,
    folders: &[&Path],
    all: u64,
    clock: &dyn Clock,
    progress: Progress<'_>,
    copy: impl Future<Output = Result<(), PortError>>,
) -> Result<(), PortError> {
    tokio::pin!(copy);
    let folders: Vec<String> = folders.iter().map(|folder| text(folder)).collect();
    let args: Vec<&str> = folders.iter().map(String::as_str).collect();
    loop {
        tokio::select! {
            done = &mut copy => return done,
            () = clock.sleep(Duration::from_secs(1)) => (),
        }
        // While files come and go under it, `du` complains.
        let said = tokio::select! {
            done = &mut copy => return done,
            said = host.sh("measure the copy", r#"du -sk "$@" 2>/dev/null | awk '{ s += $1 } END { print s }'"#, &args) => said,
        };
        if let Some(kib) = said.ok().and_then(|said| said.trim().parse::<u64>().ok()) {
            progress("copying", kib * 1024, all);
        }
    }
}
