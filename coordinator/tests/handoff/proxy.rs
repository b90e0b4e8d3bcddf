//! A connection to PostgreSQL that breaks where a test says, by the frontend's messages and the bytes that pass.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where the next connection that gets there breaks. Each breaks one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// After so many bytes from the client.
    After(u64),
    /// The commit never arrives.
    BeforeCommit,
    /// The commit is sent on and both sides are cut at once: nobody knows.
    DuringCommit,
    /// The commit is done, its answer is lost.
    AfterCommit,
}

#[derive(Debug, Default)]
struct Shared {
    cut: Mutex<Option<Cut>>,
    bytes: AtomicU64,
    cuts: AtomicUsize,
}

pub(crate) struct Proxy {
    pub(crate) dsn: String,
    shared: Arc<Shared>,
}

impl Proxy {
    pub(crate) async fn start(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (target, for_all) = (address.to_owned(), Arc::clone(&shared));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&target).await {
                    tokio::spawn(carry(client, server, Arc::clone(&for_all)));
                }
            }
        });
        Self {
            dsn: format!("postgres://postgres@{here}/postgres"),
            shared,
        }
    }

    pub(crate) fn arm(&self, cut: Cut) {
        *self.shared.cut.lock().unwrap() = Some(cut);
        self.shared.bytes.store(0, Ordering::SeqCst);
    }

    /// Bytes from clients since the last arming.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Connections cut so far.
    pub(crate) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Takes the cut if it is the one.
    fn takes(&self, is_due: impl Fn(Cut) -> bool) -> Option<Cut> {
        let mut cut = self.cut.lock().unwrap();
        let due = (*cut).filter(|cut| is_due(*cut))?;
        *cut = None;
        self.cuts.fetch_add(1, Ordering::SeqCst);
        Some(due)
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, shared: Arc<Shared>) {
    let (mut up, mut down) = (vec![0; 1 << 14], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(n @ 1..) = read else { return };
                let before = shared.bytes.fetch_add(n as u64, Ordering::SeqCst);
                if let Some(Cut::After(at)) = shared.takes(|cut| matches!(cut, Cut::After(at) if at <= before + n as u64)) {
                    // What comes before the cut still arrives.
                    let _ = server.write_all(&up[..(at.saturating_sub(before) as usize).min(n)]).await;
                    return;
                }
                let commits = up[..n].windows(6).any(|window| window == b"COMMIT");
                let cut = if commits { shared.takes(|cut| !matches!(cut, Cut::After(_))) } else { None };
                if cut == Some(Cut::BeforeCommit) {
                    return;
                }
                if server.write_all(&up[..n]).await.is_err() || cut == Some(Cut::DuringCommit) {
                    return;
                }
                if cut == Some(Cut::AfterCommit) {
                    // An answer means that it is done.
                    let _ = server.read(&mut down).await;
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(n @ 1..) = read else { return };
                if client.write_all(&down[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
