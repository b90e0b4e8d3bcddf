//! `millrace-redshift-sim`: a stand-in for Redshift, over a PostgreSQL and an S3-compatible store.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use millrace_loadtest::redshift_sim::Simulator;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;

/// Speaks the PostgreSQL protocol and copies Parquet from S3 as Redshift does. Credentials of S3: the usual variables.
#[derive(Debug, Parser)]
#[command(name = "millrace-redshift-sim", version)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:5439")]
    listen: SocketAddr,
    /// Where to serve the Data API, by HTTP; without it, not at all.
    #[arg(long, value_name = "LISTEN")]
    data_api: Option<SocketAddr>,
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
    if let Some(listen) = arguments.data_api {
        simulator.serve_data_api(listen).await?;
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
