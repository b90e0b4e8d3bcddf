//! As much of HTTP/1.1 as a client of the Data API needs: requests with a length, one answer each, connections kept.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Longest body that is taken.
const BODY_MAX: usize = 16 << 20;
/// Longest line of a head.
const LINE_MAX: u64 = 64 << 10;

pub(super) struct Call {
    /// What comes after the dot of `X-Amz-Target`.
    pub(super) target: String,
    /// Whether it is signed for the service.
    pub(super) is_signed: bool,
    pub(super) body: Vec<u8>,
}

pub(super) struct Caller {
    stream: BufReader<TcpStream>,
}

impl Caller {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// The next request; none when the client is gone.
    pub(super) async fn call(&mut self) -> io::Result<Option<Call>> {
        let mut call = Call {
            target: String::new(),
            is_signed: false,
            body: Vec::new(),
        };
        if self.line().await?.is_empty() {
            return Ok(None);
        }
        let mut length = 0;
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            let value = value.trim();
            match name.to_lowercase().as_str() {
                "content-length" => length = value.parse().map_err(|_| io::ErrorKind::InvalidData)?,
                "x-amz-target" => {
                    let (_, target) = value.split_once('.').unwrap_or_default();
                    target.clone_into(&mut call.target);
                }
                "authorization" => {
                    call.is_signed = value.starts_with("AWS4-HMAC-SHA256 ")
                        && value.contains("/redshift-data/aws4_request");
                }
                _ => {}
            }
        }
        if length > BODY_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        call.body.resize(length, 0);
        self.stream.read_exact(&mut call.body).await?;
        Ok(Some(call))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.stream).take(LINE_MAX).read_line(&mut line).await?;
        Ok(line.trim_end().to_owned())
    }

    pub(super) async fn answer(&mut self, status: u16, body: &str) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 {status} Answer\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.write_all(body.as_bytes()).await?;
        self.stream.flush().await
    }
}
