//! A stored Parquet file, read by the ranges that are needed of it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

/// An object where it lies, as Parquet's reader wants it.
#[derive(Debug)]
pub struct StoredObject {
    /// Its store.
    pub store: Arc<dyn ObjectStore>,
    /// Its place there.
    pub path: Path,
    /// Its size.
    pub bytes: u64,
}

impl AsyncFileReader for StoredObject {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        let read = async move { self.store.get_range(&self.path, range).await };
        read.map(|bytes| bytes.map_err(|error| ParquetError::External(Box::new(error))))
            .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let bytes = self.bytes;
        async move {
            let reader = ParquetMetaDataReader::new();
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}
