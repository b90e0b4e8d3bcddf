//! A connection to etcd that can lose a response: the request arrives, the answer does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long answers are swallowed before the connection breaks: the server has done by then.
const SWALLOWED: Duration = Duration::from_millis(300);

#[derive(Debug, Default)]
struct Switch {
    armed: AtomicBool,
    lost: AtomicUsize,
}

pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    switch: Arc<Switch>,
}

impl Proxy {
    pub(crate) async fn start(target: &str) -> Self {
        let target = target.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let switch = Arc::new(Switch::default());
        let shared = Arc::clone(&switch);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&shared)));
            }
        });
        Self { endpoint, switch }
    }

    /// The next request's response is lost, and the connection with it.
    pub(crate) fn lose_next(&self) {
        self.switch.armed.store(true, Ordering::SeqCst);
    }

    /// Responses lost so far.
    pub(crate) fn lost(&self) -> usize {
        self.switch.lost.load(Ordering::SeqCst)
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, switch: Arc<Switch>) {
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut swallowing = None;
    loop {
        let end = swallowing.unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            () = tokio::time::sleep_until(end) => {
                switch.lost.fetch_add(1, Ordering::SeqCst);
                return;
            }
            read = client.read(&mut up) => match read {
                Ok(n) if n > 0 => {
                    if switch.armed.swap(false, Ordering::SeqCst) {
                        swallowing = Some(tokio::time::Instant::now() + SWALLOWED);
                    }
                    if server.write_all(&up[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(n) if n > 0 => {
                    if swallowing.is_none() && client.write_all(&down[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
