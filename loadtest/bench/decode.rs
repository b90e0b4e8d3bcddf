//! JSON decode alone, one thread, beside arrow-json over the same bytes in the same run.
//!
//! Budget: 1.2 GB/s a core on shop events of about 460 bytes whose 14 columns are all wanted.
//! The best of interleaved rounds counts: other load on the machine can only slow a round down.
//!
//! `cargo bench --bench decode [-- EVENTS]`; built by the pipeline's crate, since nothing else here may depend on it.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program that shows figures"
)]

use std::sync::Arc;
use std::time::Instant;

use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::json::ReaderBuilder;
use millrace_pipeline::decode::json::Decoder;
use millrace_pipeline::decode::{DecodePlan, Wanted, WantedKind};
use millrace_pipeline::spec::model::ColumnType;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SEED: u64 = 1;
const ROUNDS: usize = 9;
const CHUNK_BYTES: usize = 4 << 20;

fn columns() -> Vec<(&'static str, ColumnType)> {
    use ColumnType::{Decimal, Int32, Int64, String, Timestamp};
    vec![
        ("event_id", String),
        ("event_time", Timestamp),
        ("event_type", String),
        ("user_id", Int64),
        ("session_id", String),
        ("email", String),
        ("ip", String),
        ("page", String),
        ("product_id", Int64),
        ("quantity", Int32),
        ("price", Decimal(10, 2)),
        ("currency", String),
        ("country", String),
        ("user_agent", String),
    ]
}

/// The same columns for arrow-json, which reads `UTC` only with a time zone database.
fn schema() -> Schema {
    let field = |(name, kind): (&str, ColumnType)| {
        let arrow = if kind == ColumnType::Timestamp {
            DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
        } else {
            kind.arrow()
        };
        Field::new(name, arrow, true)
    };
    Schema::new(columns().into_iter().map(field).collect::<Vec<_>>())
}

fn events(count: usize) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let agents = [
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36",
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X)",
        "Mozilla/5.0 (X11; Linux x86_64; rv:120.0) Gecko/20100101",
    ];
    let kinds = ["page_view", "add_to_cart", "purchase", "search", "checkout"];
    let places = [("EUR", "DE"), ("EUR", "FR"), ("USD", "US"), ("GBP", "GB")];
    let mut lines = String::new();
    for i in 0..count {
        let second = i / 500;
        let (currency, country) = places[random.random_range(0..places.len())];
        lines += &format!(
            concat!(
                r#"{{"event_id":"{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}","#,
                r#""event_time":"2026-01-01T{:02}:{:02}:{:02}.{:03}Z","event_type":"{}","user_id":{},"#,
                r#""session_id":"s{:015x}","email":"user{}@example.com","ip":"10.{}.{}.{}","#,
                r#""page":"https://shop.example.com/products/{}?ref=home","product_id":{},"quantity":{},"#,
                r#""price":{}.{:02},"currency":"{}","country":"{}","user_agent":"{}"}}"#,
                "\n"
            ),
            random.random::<u32>(),
            random.random::<u16>(),
            random.random_range(0..0x1000),
            random.random_range(0..0x1000),
            random.random::<u64>() >> 16,
            second / 3600 % 24,
            second / 60 % 60,
            second % 60,
            random.random_range(0..1000),
            kinds[random.random_range(0..kinds.len())],
            random.random_range(0..1_000_000),
            random.random::<u64>() >> 4,
            random.random_range(0..1_000_000),
            random.random::<u8>(),
            random.random::<u8>(),
            random.random::<u8>(),
            random.random_range(0..50_000),
            random.random_range(0..50_000),
            random.random_range(1..6),
            random.random_range(1..500),
            random.random_range(0..100),
            currency,
            country,
            agents[random.random_range(0..agents.len())],
        );
    }
    lines.into_bytes()
}

/// Decodes chunk by chunk, as the operator does, with a decoder that keeps what it learned.
fn ours(decoder: &mut Decoder, payload: &Buffer) -> usize {
    let bytes = payload.as_slice();
    let (mut at, mut rows) = (0, 0);
    while at < bytes.len() {
        let reach = (at + CHUNK_BYTES).min(bytes.len());
        let end = memchr::memchr(b'\n', &bytes[reach - 1..]).map_or(bytes.len(), |found| reach + found);
        let mut batches = Vec::new();
        let chunk = payload.slice_with_length(at, end - at);
        decoder
            .decode(&chunk, 0, 1, at as u64, &mut batches)
            .expect("sound lines");
        rows += batches.iter().map(|batch| batch.num_rows()).sum::<usize>();
        at = end;
    }
    rows
}

fn arrow_json(schema: &Arc<Schema>, bytes: &[u8]) -> usize {
    let mut decoder = ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(8192)
        .build_decoder()
        .expect("a plain schema");
    let (mut at, mut rows) = (0, 0);
    while at < bytes.len() {
        at += decoder.decode(&bytes[at..]).expect("sound lines");
        if let Some(batch) = decoder.flush().expect("sound lines") {
            rows += batch.num_rows();
        }
    }
    rows
}

fn main() {
    let count = std::env::args()
        .skip(1)
        // Cargo says `--bench` to every benchmark.
        .find(|argument| argument != "--bench")
        .map_or(300_000, |text| text.parse().expect("a number of events"));
    let payload = Buffer::from_vec(events(count));
    let schema = Arc::new(schema());
    let wanted = columns().into_iter().map(|(name, kind)| Wanted {
        name: name.to_owned(),
        path: vec![name.to_owned()],
        kind: WantedKind::Value(kind),
    });
    let plan = DecodePlan {
        fields: wanted.collect(),
        record_bytes_max: 10 << 20,
        depth_max: 128,
    };
    let mut decoder = Decoder::new(Arc::new(plan));
    let mut best = [f64::INFINITY; 2];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        assert_eq!(ours(&mut decoder, &payload), count);
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        assert_eq!(arrow_json(&schema, payload.as_slice()), count);
        best[1] = best[1].min(start.elapsed().as_secs_f64());
    }
    let bytes = payload.len() as f64;
    println!(
        "{count} events of {:.0} bytes, {ROUNDS} rounds, seed {SEED}",
        bytes / count as f64
    );
    for (name, seconds) in ["millrace", "arrow-json"].iter().zip(best) {
        println!(
            "{name:<10} {:.2} GB/s, {:.0} ns an event",
            bytes / seconds / 1e9,
            seconds * 1e9 / count as f64
        );
    }
    println!("ratio      {:.2}", best[1] / best[0]);
}
