//! The configuration file of a process, read strictly: what coordinators and workers have in common.
//!
//! In: a YAML text, and what environment variables hold. Out: values, or every fault with file, line and key.
//! `${env:NAME}` stands in any text: secrets stay out of the file. Nothing is read here but the text: certificates
//! come in through a function.
//!
//! ```text
//! text -> a struct of `Text`s (serde, unknown keys refused) -> Reader (filled in, checked) -> the process's settings
//! ```

mod etcd;
mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_saphyr::Spanned;

pub use etcd::{EtcdFile, EtcdSettings, EtcdTlsPaths};
pub use tls::{TlsFile, TlsPaths};

/// A text of the file, and where it stands.
pub type Text = Spanned<String>;

/// What an environment variable holds.
pub type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a file holds.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Every fault of a configuration file.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: String,
    /// What is wrong in it; never empty.
    pub faults: Vec<ConfigFault>,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// Line, from 1; 0 where the file as a whole is meant.
    pub line: u64,
    /// The key: `etcd.endpoints`. Empty where the parser names it in its text.
    pub key: String,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, ConfigFault { line, key, text }) in self.faults.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            let key = if key.is_empty() {
                String::new()
            } else {
                format!(" {key}:")
            };
            write!(f, "{end}{}:{line}:{key} {text}", self.file)?;
        }
        Ok(())
    }
}

/// How lines on stderr look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What a process tells of itself, as far as its file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Telling {
    /// How it logs; none: the file does not say.
    pub log_format: Option<LogFormat>,
    /// Where traces go, `http://host:4317`; none: the file does not say.
    pub otlp_endpoint: Option<String>,
}

/// Where a file lies, and what surrounds it.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// What faults call the file.
    pub file: &'a str,
    /// The folder that relative paths start from.
    pub folder: &'a Path,
    /// Fills in `${env:NAME}`.
    pub env: Variable<'a>,
}

/// Reads a configuration: `File` is the shape of the YAML, `build` makes values of it. A key of it that is wrong gives
/// none and a fault.
///
/// # Errors
/// Every fault; where the text is no YAML or a key is unknown, that is the only one.
pub fn load<File: DeserializeOwned, Settings>(
    text: &str,
    source: Source<'_>,
    build: impl FnOnce(&mut Reader<'_>, &File) -> Option<Settings>,
) -> Result<Settings, ConfigError> {
    let error = |faults| ConfigError {
        file: source.file.to_owned(),
        faults,
    };
    let file: File = serde_saphyr::from_str(text).map_err(|wrong| {
        let line = wrong.location().map_or(0, |at| at.line());
        let text = wrong.without_snippet().to_string();
        error(vec![ConfigFault {
            line,
            key: String::new(),
            text,
        }])
    })?;
    let mut reader = Reader {
        env: source.env,
        folder: source.folder,
        faults: Vec::new(),
    };
    match build(&mut reader, &file) {
        Some(settings) if reader.faults.is_empty() => Ok(settings),
        Some(_) | None => Err(error(reader.faults)),
    }
}

/// What reading collects.
pub struct Reader<'a> {
    env: Variable<'a>,
    folder: &'a Path,
    faults: Vec<ConfigFault>,
}

impl Reader<'_> {
    /// Notes a fault.
    pub fn fault(&mut self, line: u64, key: &str, text: impl Into<String>) {
        self.faults.push(ConfigFault {
            line,
            key: key.to_owned(),
            text: text.into(),
        });
    }

    /// A text with `${env:NAME}` filled in; an empty one is a fault.
    pub fn text(&mut self, key: &str, text: &Text) -> Option<String> {
        let line = text.referenced.line();
        let (mut rest, mut whole) = (text.value.as_str(), String::new());
        while let Some((before, after)) = rest.split_once("${env:") {
            whole.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                self.fault(line, key, "`${env:` without its `}`");
                return None;
            };
            let Some(value) = (self.env)(name) else {
                self.fault(line, key, format!("the environment variable `{name}` is not set"));
                return None;
            };
            whole.push_str(&value);
            rest = after;
        }
        whole.push_str(rest);
        if whole.is_empty() {
            self.fault(line, key, "empty");
            return None;
        }
        Some(whole)
    }

    /// A name that people call a process by.
    pub fn name(&mut self, key: &str, text: &Text) -> Option<String> {
        let name = self.text(key, text)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.len() > 63 || !name.bytes().all(plain) {
            self.fault(
                text.referenced.line(),
                key,
                format!("`{name}`: use 1 to 63 letters, digits, `-`, `_`, `.`"),
            );
            return None;
        }
        Some(name)
    }

    /// An address to listen on.
    pub fn socket(&mut self, key: &str, text: &Text) -> Option<SocketAddr> {
        let given = self.text(key, text)?;
        let parsed = given.parse().ok();
        if parsed.is_none() {
            let right =
                format!("`{given}` is no address to listen on; use `127.0.0.1:7400` or `0.0.0.0:7400`");
            self.fault(text.referenced.line(), key, right);
        }
        parsed
    }

    /// An address that others reach: `host:port`.
    pub fn address(&mut self, key: &str, text: &Text) -> Option<String> {
        let given = self.text(key, text)?;
        let port = given.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0)) {
            self.fault(
                text.referenced.line(),
                key,
                format!("`{given}` is not `host:port`"),
            );
            return None;
        }
        Some(given)
    }

    /// How others reach an address: as told, or as it listens. `line` is where the latter stands.
    pub fn reached(
        &mut self,
        key: &str,
        told: Option<&Text>,
        listen: Option<SocketAddr>,
        line: u64,
    ) -> Option<String> {
        if let Some(told) = told {
            return self.address(key, told);
        }
        let listen = listen?;
        if listen.ip().is_unspecified() {
            let text = format!("missing: others cannot reach {listen}; say `host:port`");
            self.fault(line, key, text);
            return None;
        }
        Some(listen.to_string())
    }

    /// A path; a relative one starts at the file's folder.
    pub fn path(&mut self, key: &str, text: &Text) -> Option<PathBuf> {
        Some(self.folder.join(self.text(key, text)?))
    }

    /// What the process tells of itself.
    pub fn telling(&mut self, log_format: Option<LogFormat>, otlp_endpoint: Option<&Text>) -> Telling {
        let endpoint = otlp_endpoint.and_then(|text| {
            let given = self.text("otlp_endpoint", text)?;
            let is_address = url::Url::parse(&given)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !is_address {
                let right = format!("`{given}` is no address; use `http://host:4317`");
                self.fault(text.referenced.line(), "otlp_endpoint", right);
            }
            Some(given)
        });
        Telling {
            log_format,
            otlp_endpoint: endpoint,
        }
    }
}

/// A certificate's or key's bytes.
///
/// # Errors
/// When it cannot be read; the error names it.
pub fn pem(read: ReadFile<'_>, path: &Path) -> io::Result<Vec<u8>> {
    read(path).map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display())))
}
