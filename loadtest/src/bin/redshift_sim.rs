//! `millrace-redshift-sim`: a stand-in for Redshift, over a PostgreSQL and an S3-compatible store.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Parser;
use millrace_loadtest::redshift_sim::{Account, Key, Simulator};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;

/// Speaks the PostgreSQL protocol and copies Parquet from S3 as Redshift does. Credentials of S3: the usual variables.
#[derive(Debug, Parser)]
#[command(name = "millrace-redshift-sim", version)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:5439")]
    listen: SocketAddr,
    /// Where to serve the Data API and give logins, by HTTP; without it, not at all. Requests are signed with the key of S3.
    #[arg(long, value_name = "LISTEN")]
    http: Option<SocketAddr>,
    /// Certificate for TLS, in PEM: with it only those are let in who come with a login that was given to them.
    #[arg(long, value_name = "FILE", requires_all = ["certificate_key", "http"])]
    certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE")]
    certificate_key: Option<PathBuf>,
    /// The cluster that logins are given to.
    #[arg(long, default_value = "main")]
    cluster: String,
    /// The workgroup that logins are given to.
    #[arg(long, default_value = "analytics")]
    workgroup: String,
    /// A user of the cluster's database.
    #[arg(long, default_value = "loader")]
    user: String,
    /// The PostgreSQL that keeps the rows.
    #[arg(long, value_name = "DSN")]
    postgres: String,
    /// A bucket that COPY may read; may be repeated.
    #[arg(long, value_name = "NAME", required = true)]
    bucket: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut buckets: HashMap<String, Arc<dyn ObjectStore>> = HashMap::new();
    for bucket in arguments.bucket {
        let store = AmazonS3Builder::from_env()
            .with_bucket_name(&bucket)
            .with_allow_http(true)
            .build()?;
        buckets.insert(bucket, Arc::new(store));
    }
    let mut simulator = Simulator::start(arguments.listen, arguments.postgres, buckets).await?;
    if let Some(listen) = arguments.http {
        let key = Key {
            id: std::env::var("AWS_ACCESS_KEY_ID").context("AWS_ACCESS_KEY_ID")?,
            secret: std::env::var("AWS_SECRET_ACCESS_KEY").context("AWS_SECRET_ACCESS_KEY")?,
        };
        simulator.serve_http(listen, key).await?;
    }
    if let (Some(certificate), Some(key)) = (arguments.certificate, arguments.certificate_key) {
        let account = Account {
            cluster: arguments.cluster,
            workgroup: arguments.workgroup,
            user: arguments.user,
            role: "load".to_owned(),
        };
        simulator.demand_logins(account, &std::fs::read(certificate)?, &std::fs::read(key)?)?;
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
