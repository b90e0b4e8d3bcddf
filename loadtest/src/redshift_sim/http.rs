//! As much of HTTP/1.1 as a client of AWS needs: requests with a length, one answer each, connections kept.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Longest body that is taken.
const BODY_MAX: usize = 16 << 20;
/// Longest line of a head.
const LINE_MAX: u64 = 64 << 10;

pub(super) const JSON: &str = "application/x-amz-json-1.1";
pub(super) const FORM: &str = "application/x-www-form-urlencoded";
pub(super) const XML: &str = "text/xml";

#[derive(Debug, Clone)]
pub(super) struct Call {
    /// The first line without the version: `POST /`.
    pub(super) line: String,
    /// Names in small letters.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Call {
    /// A header's value; none is the empty one.
    pub(super) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map_or("", |(_, value)| value)
    }

    /// What comes after the service and its dot in `X-Amz-Target`; none for another service.
    pub(super) fn action(&self, service: &str) -> Option<&str> {
        self.header("x-amz-target")
            .strip_prefix(service)?
            .strip_prefix('.')
    }
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
        let line = self.line().await?;
        if line.is_empty() {
            return Ok(None);
        }
        let line = line.rsplit_once(' ').map_or("", |(line, _)| line).to_owned();
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let mut call = Call {
            line,
            headers,
            body: Vec::new(),
        };
        let length = match call.header("content-length") {
            "" => 0,
            length => length.parse().map_err(|_| io::ErrorKind::InvalidData)?,
        };
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

    pub(super) async fn answer(&mut self, status: u16, content: &str, body: &str) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 {status} Answer\r\nContent-Type: {content}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.write_all(body.as_bytes()).await?;
        self.stream.flush().await
    }
}
