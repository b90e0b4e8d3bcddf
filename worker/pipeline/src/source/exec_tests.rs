//! The operator over real files: chunks as the next step sees them.

use std::io::Write;

use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use futures::{StreamExt, TryStreamExt};
use millrace_proto::split::Split;

use crate::source::{cut, list, split_schema, splits_batch};
use crate::spec::model::{Format, Source};

use super::*;

async fn splits(folder: &std::path::Path, split_bytes: u64) -> Vec<Split> {
    let source = Source::Files {
        path: folder.to_str().unwrap().into(),
        format: Format::Json,
    };
    cut(
        &list(&Stores::default(), &source, &[]).await.unwrap(),
        Format::Json,
        split_bytes,
    )
}

fn scan_of(splits: &[Split], chunk_bytes: usize) -> SendableRecordBatchStream {
    let rows = vec![vec![splits_batch(splits).unwrap()]];
    let input = MemorySourceConfig::try_new_exec(&rows, split_schema(), None).unwrap();
    let options = ScanOptions {
        chunk_bytes,
        ..ScanOptions::default()
    };
    let scan = ScanExec::new(input, Arc::new(Stores::default()), options);
    scan.execute(0, Arc::new(TaskContext::default())).unwrap()
}

fn payload(batch: &RecordBatch) -> &[u8] {
    assert_eq!((batch.num_rows(), batch.schema()), (1, chunk_schema()));
    batch.column(3).as_binary::<i64>().value(0)
}

fn lines(count: usize) -> String {
    (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

#[tokio::test]
async fn every_line_of_plain_and_packed_files_comes_once() {
    let folder = tempfile::tempdir().unwrap();
    let text = lines(5000);
    std::fs::write(folder.path().join("a.json"), &text).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    std::fs::write(folder.path().join("b.json.gz"), gzip.finish().unwrap()).unwrap();
    std::fs::write(
        folder.path().join("c.json.zst"),
        zstd::encode_all(text.as_bytes(), 1).unwrap(),
    )
    .unwrap();
    let splits = splits(folder.path(), 10_000).await;
    assert_eq!(splits.len(), text.len().div_ceil(10_000) + 2);
    let batches: Vec<RecordBatch> = scan_of(&splits, 4096).try_collect().await.unwrap();
    let content: Vec<u8> = batches.iter().flat_map(|batch| payload(batch).to_vec()).collect();
    assert_eq!(content, [text.as_bytes(); 3].concat());
}

#[tokio::test]
async fn a_file_cut_off_while_packed_gives_its_sound_lines_and_then_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let packed = zstd::encode_all(lines(100_000).as_bytes(), 1).unwrap();
    std::fs::write(folder.path().join("a.json.zst"), &packed[..packed.len() / 2]).unwrap();
    let mut stream = scan_of(&splits(folder.path(), 1 << 20).await, 4096);
    let mut read = 0;
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(batch) => read += payload(&batch).len(),
            Err(error) => break error.to_string(),
        }
    };
    assert!(read > 100_000, "{read}");
    assert!(
        error.contains("a.json.zst") && error.contains("beyond byte"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_changed_since_it_was_listed_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    std::fs::write(&path, lines(10)).unwrap();
    let splits = splits(folder.path(), 1 << 20).await;
    std::fs::write(&path, lines(11)).unwrap();
    let error = scan_of(&splits, 4096).try_collect::<Vec<_>>().await.unwrap_err();
    assert!(
        error.to_string().contains("has changed since it was listed"),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    let error = scan_of(&splits, 4096).try_collect::<Vec<_>>().await.unwrap_err();
    assert!(error.to_string().contains("is gone"), "{error}");
}

#[tokio::test]
async fn a_consumer_that_goes_away_ends_the_scan() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.json"), lines(50_000)).unwrap();
    let mut stream = scan_of(&splits(folder.path(), 1 << 30).await, 64);
    assert!(stream.next().await.is_some());
    drop(stream);
    // The runtime's end waits for blocking threads: the test would hang if the scan went on waiting.
}
