//! Certificates for tests, by openssl: of an authority, and of a stranger.
//!
//! | file                       | is                                                              |
//! |----------------------------|------------------------------------------------------------------|
//! | `ca.pem`, `stranger.pem`   | authorities                                                      |
//! | `server.pem`, `client.pem` | certificates of `ca` for 127.0.0.1 and localhost, keys `.key`    |
//! | `foreign.pem`              | one of the stranger's                                            |

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A folder with certificates.
#[derive(Debug, Clone)]
pub struct Papers {
    folder: PathBuf,
}

impl Papers {
    /// Issues all of them in a folder, good for two days.
    ///
    /// # Errors
    /// When openssl cannot be run, or fails.
    pub fn issue(folder: &Path) -> io::Result<Self> {
        let papers = Self {
            folder: folder.to_owned(),
        };
        for authority in ["ca", "stranger"] {
            papers.openssl(
                authority,
                &[
                    "-addext",
                    "basicConstraints=critical,CA:TRUE",
                    "-addext",
                    "keyUsage=keyCertSign",
                ],
            )?;
        }
        for (name, authority) in [("server", "ca"), ("client", "ca"), ("foreign", "stranger")] {
            let (ca, key) = (format!("{authority}.pem"), format!("{authority}.key"));
            papers.openssl(
                name,
                &[
                    "-CA",
                    &ca,
                    "-CAkey",
                    &key,
                    "-addext",
                    "basicConstraints=critical,CA:FALSE",
                    "-addext",
                    "subjectAltName=IP:127.0.0.1,DNS:localhost",
                ],
            )?;
        }
        Ok(papers)
    }

    /// Where a file is.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// A file's bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn pem(&self, file: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.path(file))
    }

    fn openssl(&self, name: &str, more: &[&str]) -> io::Result<()> {
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        let (subject, key, out) = (
            format!("/CN={name}"),
            format!("{name}.key"),
            format!("{name}.pem"),
        );
        let done = Command::new("openssl")
            .args(new.split(' '))
            .args(["-subj", &subject, "-keyout", &key, "-out", &out])
            .args(more)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        Err(io::Error::other(format!("openssl for `{name}`: {said}")))
    }
}
