//! The server's side of the PostgreSQL protocol, version 3: start-up, over TLS where there is a [`Door`], simple queries, their
//! answers.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Refused;
use super::logins::Door;

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

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) struct Wire {
    stream: Box<dyn Stream>,
}

impl Wire {
    /// Lets a client in: whoever it is, or who has a login where there is a door.
    pub(super) async fn welcome(stream: TcpStream, door: Option<&Door>) -> io::Result<Self> {
        let mut stream: Box<dyn Stream> = Box::new(stream);
        let mut is_private = false;
        let settings = loop {
            let (code, rest) = start_up(&mut stream).await?;
            match (code, door) {
                (SSL_REQUEST, Some(door)) if !is_private => {
                    stream.write_all(b"S").await?;
                    stream = Box::new(door.tls.accept(stream).await?);
                    is_private = true;
                }
                (SSL_REQUEST, _) => stream.write_all(b"N").await?,
                (VERSION_3, _) => break rest,
                (_, _) => return Err(io::ErrorKind::InvalidData.into()),
            }
        };
        let mut wire = Self { stream };
        if let Some(door) = door {
            wire.ask_login(door, &settings, is_private).await?;
        }
        let mut hello = Vec::new();
        message(&mut hello, b'R', &0u32.to_be_bytes());
        for (name, value) in [("server_version", "8.0.2"), ("client_encoding", "UTF8")] {
            message(&mut hello, b'S', format!("{name}\0{value}\0").as_bytes());
        }
        message(&mut hello, b'K', &[0; 8]);
        message(&mut hello, b'Z', b"I");
        wire.stream.write_all(&hello).await?;
        wire.stream.flush().await?;
        Ok(wire)
    }

    /// Ends with an error where the client is not to be let in.
    async fn ask_login(&mut self, door: &Door, settings: &[u8], is_private: bool) -> io::Result<()> {
        let settings = String::from_utf8_lossy(settings);
        let words: Vec<&str> = settings.split('\0').collect();
        let value = |name: &str| {
            let pair = words.chunks_exact(2).find(|pair| pair[0] == name);
            pair.map_or("", |pair| pair[1])
        };
        let (user, database) = (value("user"), value("database"));
        let is_let_in = is_private && {
            let mut question = Vec::new();
            message(&mut question, b'R', &3u32.to_be_bytes());
            self.stream.write_all(&question).await?;
            self.stream.flush().await?;
            let (_, mut password) = self.message().await?;
            password.pop();
            door.logins
                .admits(user, &String::from_utf8_lossy(&password), database)
        };
        if is_let_in {
            return Ok(());
        }
        let text = if is_private {
            format!("password authentication failed for user \"{user}\"")
        } else {
            "SSL is required".to_owned()
        };
        let mut refusal = Vec::new();
        let fields = format!("SFATAL\0VFATAL\0C28000\0M{text}\0\0");
        message(&mut refusal, b'E', fields.as_bytes());
        self.stream.write_all(&refusal).await?;
        self.stream.flush().await?;
        Err(io::ErrorKind::PermissionDenied.into())
    }

    /// The next query; none when the client says goodbye.
    pub(super) async fn query(&mut self) -> io::Result<Option<String>> {
        loop {
            let (kind, mut body) = self.message().await?;
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

    async fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let kind = self.stream.read_u8().await?;
        let size = self.stream.read_u32().await? as usize;
        if !(4..=MESSAGE_MAX).contains(&size) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; size - 4];
        self.stream.read_exact(&mut body).await?;
        Ok((kind, body))
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
        self.stream.write_all(&out).await?;
        self.stream.flush().await
    }
}

/// The first message of a client: it has no kind.
async fn start_up(stream: &mut Box<dyn Stream>) -> io::Result<(u32, Vec<u8>)> {
    let size = stream.read_u32().await? as usize;
    let code = stream.read_u32().await?;
    if !(8..=MESSAGE_MAX).contains(&size) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut rest = vec![0; size - 8];
    stream.read_exact(&mut rest).await?;
    Ok((code, rest))
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
