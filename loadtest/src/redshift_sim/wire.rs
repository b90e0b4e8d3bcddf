//! The server's side of the PostgreSQL protocol, version 3: start-up without TLS, simple queries, their answers.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Refused;

const SSL_REQUEST: u32 = 80_877_103;
const VERSION_3: u32 = 196_608;
/// Longest message that is taken.
const MESSAGE_MAX: usize = 16 << 20;

/// A part of an answer.
pub(super) enum Answer {
    /// The names of the columns that follow.
    Columns(Vec<String>),
    /// A row of texts.
    Row(Vec<Option<String>>),
    /// A statement is done: its tag.
    Done(String),
}

pub(super) struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Lets a client in, whoever it is.
    pub(super) async fn welcome(mut stream: TcpStream) -> io::Result<Self> {
        loop {
            let size = stream.read_u32().await? as usize;
            let code = stream.read_u32().await?;
            if !(8..=MESSAGE_MAX).contains(&size) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut rest = vec![0; size - 8];
            stream.read_exact(&mut rest).await?;
            match code {
                SSL_REQUEST => stream.write_all(b"N").await?,
                VERSION_3 => break,
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        let mut hello = Vec::new();
        message(&mut hello, b'R', &0u32.to_be_bytes());
        for (name, value) in [("server_version", "8.0.2"), ("client_encoding", "UTF8")] {
            message(&mut hello, b'S', format!("{name}\0{value}\0").as_bytes());
        }
        message(&mut hello, b'K', &[0; 8]);
        message(&mut hello, b'Z', b"I");
        stream.write_all(&hello).await?;
        Ok(Self { stream })
    }

    /// The next query; none when the client says goodbye.
    pub(super) async fn query(&mut self) -> io::Result<Option<String>> {
        loop {
            let kind = self.stream.read_u8().await?;
            let size = self.stream.read_u32().await? as usize;
            if !(4..=MESSAGE_MAX).contains(&size) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut body = vec![0; size - 4];
            self.stream.read_exact(&mut body).await?;
            match kind {
                b'Q' => {
                    body.pop();
                    return Ok(Some(String::from_utf8_lossy(&body).into_owned()));
                }
                b'X' => return Ok(None),
                _ => {
                    let refused = Refused::new("0A000", "the simulator takes simple queries only");
                    self.answer(Err(refused)).await?;
                }
            }
        }
    }

    /// Answers a query.
    pub(super) async fn answer(&mut self, answer: Result<Vec<Answer>, Refused>) -> io::Result<()> {
        let mut out = Vec::new();
        match answer {
            Ok(parts) => {
                for part in parts {
                    put(&mut out, &part);
                }
            }
            Err(Refused { code, message: text }) => {
                let fields = format!("SERROR\0VERROR\0C{code}\0M{text}\0\0");
                message(&mut out, b'E', fields.as_bytes());
            }
        }
        message(&mut out, b'Z', b"I");
        self.stream.write_all(&out).await
    }
}

fn put(out: &mut Vec<u8>, part: &Answer) {
    let mut body = Vec::new();
    let count = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    match part {
        Answer::Columns(names) => {
            body.extend(count(names.len()));
            for name in names {
                body.extend(name.as_bytes());
                // No table, no column number, type text, any length, no modifier, text format.
                body.extend([0, 0, 0, 0, 0, 0, 0]);
                body.extend(25u32.to_be_bytes());
                body.extend([255, 255, 255, 255, 255, 255, 0, 0]);
            }
            message(out, b'T', &body);
        }
        Answer::Row(cells) => {
            body.extend(count(cells.len()));
            for cell in cells {
                match cell {
                    Some(text) => {
                        body.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
                        body.extend(text.as_bytes());
                    }
                    None => body.extend((-1i32).to_be_bytes()),
                }
            }
            message(out, b'D', &body);
        }
        Answer::Done(tag) => message(out, b'C', format!("{tag}\0").as_bytes()),
    }
}

fn message(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.push(kind);
    out.extend(u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(body);
}
