//! `millrace-loadtest`: makes events, and judges what became of them.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use millrace_loadtest::chaos::{self, Plan};
use millrace_loadtest::check::check;
use millrace_loadtest::fetch::{Access, fetch};
use millrace_loadtest::generate::files::{Compress, Output, generate};
use millrace_loadtest::generate::plan::Recipe;
use millrace_loadtest::generate::topic::{TopicOutput, forget, send};
use millrace_loadtest::lake::Lake;
use millrace_loadtest::ledger::{Ledger, Sent};
use millrace_loadtest::sums;

/// Makes seeded shop events with a ledger of every line sent, and checks a lake against that ledger.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes events as JSON lines to OUT/events, and the ledger beside it.
    Generate(Box<Generate>),
    /// Deletes what a topic holds before some offsets, to make room for more.
    Forget {
        /// Brokers, `host:port,host:port`.
        #[arg(long)]
        kafka: String,
        /// The topic.
        #[arg(long)]
        topic: String,
        /// The first offset that stays, of each partition: `first_offsets` of the `sent.json` of a later stretch.
        #[arg(long, value_delimiter = ',', required = true)]
        before: Vec<u64>,
    },
    /// Lets faults happen to a cluster at random while it follows a topic, then checks its lake; exit code 1 if it is wrong.
    Chaos(Chaos),
    /// Compares a lake with the ledger, event by event; exit code 1 if they differ.
    Check {
        /// Folder that `generate` wrote to.
        #[arg(long)]
        ledger: PathBuf,
        /// The lake: a folder, or `s3://bucket/prefix` with the usual `AWS_*` variables.
        #[arg(long)]
        lake: String,
    },
    /// Prints rows and the sum of event ids by date, hour and source, one JSON object a line.
    Sums {
        /// What a complete lake would hold.
        #[arg(long, required_unless_present = "lake", conflicts_with = "lake")]
        ledger: Option<PathBuf>,
        /// What a lake holds.
        #[arg(long)]
        lake: Option<String>,
    },
}

#[derive(Debug, Args)]
struct Chaos {
    /// Faults.
    #[arg(long, default_value_t = 30)]
    faults: u32,
    /// Seconds that they are spread over.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Same seed, same faults; default: another each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Events a second.
    #[arg(long, default_value_t = 3000)]
    rate: u64,
    /// The script that starts the cluster.
    #[arg(long, default_value = "deploy/local/stack")]
    stack: PathBuf,
    /// Folder for the cluster and the ledger; emptied first.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct Generate {
    /// Lines to write, duplicates and broken ones included.
    #[arg(long)]
    events: u64,
    /// Same seed and same options, same bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder to write to.
    #[arg(long)]
    out: PathBuf,
    /// Data files, each a stretch of the event time.
    #[arg(long, default_value_t = 1)]
    files: usize,
    /// Hours that the event times spread over.
    #[arg(long, default_value_t = 24.0)]
    hours: f64,
    /// First event time, `YYYY-MM-DDTHH:MM:SSZ`.
    #[arg(long, default_value = "2026-01-01T00:00:00Z", value_parser = time_ms)]
    start: u64,
    /// Share of lines that are exact copies of earlier ones.
    #[arg(long, default_value_t = 0.15, value_parser = share)]
    duplicates: f64,
    /// Share of the copies that come hours after their original.
    #[arg(long, default_value_t = 0.02, value_parser = share)]
    late_duplicates: f64,
    /// Share of broken lines.
    #[arg(long, default_value_t = 0.002, value_parser = share)]
    broken: f64,
    /// Share of events whose time is hours behind their neighbours'.
    #[arg(long, default_value_t = 0.01, value_parser = share)]
    late: f64,
    /// Share of events whose time is up to a minute behind their neighbours'.
    #[arg(long, default_value_t = 0.05, value_parser = share)]
    out_of_order: f64,
    /// Share of events that belong to just ten users and ten products.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    hot_keys: f64,
    /// Compression of the data files.
    #[arg(long, value_enum, default_value_t = Compress::None)]
    compress: Compress,
    /// Threads; they change the speed only.
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Replace the events that OUT holds.
    #[arg(long)]
    overwrite: bool,
    /// Send the lines to a topic instead of files; OUT has the ledger alone. Brokers, `host:port,host:port`.
    #[arg(long, requires = "topic", conflicts_with_all = ["files", "compress"])]
    kafka: Option<String>,
    /// The topic; made when it is not there.
    #[arg(long, requires = "kafka")]
    topic: Option<String>,
    /// Partitions of a topic that is made.
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    /// Copies of each partition of a topic that is made.
    #[arg(long, default_value_t = 1)]
    replication: u32,
    /// Compression of messages.
    #[arg(long, default_value = "lz4", value_parser = ["none", "gzip", "snappy", "lz4", "zstd"])]
    codec: String,
    /// Lines a second; without it as fast as it goes.
    #[arg(long, requires = "kafka")]
    rate: Option<u64>,
    /// Just these of the lines, `FROM..TO`, counted from 0; the ledger has no others then.
    #[arg(long, requires = "kafka", value_parser = stretch)]
    lines: Option<Range<u64>>,
    /// Also note in OUT/sampled.ndjson when each event was sent whose id ends with so many zeros in hex.
    #[arg(long, value_name = "DIGITS", requires = "rate", value_parser = clap::value_parser!(u32).range(0..=8))]
    sample: Option<u32>,
    /// An option of librdkafka, `name=value`; may be given again.
    #[arg(long = "kafka-option", requires = "kafka", value_parser = option)]
    kafka_options: Vec<(String, String)>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Generate(options) => run_generate(&options),
        Command::Forget { kafka, topic, before } => run_forget(&kafka, &topic, &before),
        Command::Chaos(options) => run_chaos(&options),
        Command::Check { ledger, lake } => run_check(&ledger, &lake),
        Command::Sums { ledger, lake } => run_sums(ledger.as_deref(), lake.as_deref()),
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has seen enough: `millrace-loadtest sums ... | head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_generate(options: &Generate) -> Result<ExitCode> {
    let recipe = Recipe {
        seed: options.seed,
        events: options.events,
        start_ms: options.start,
        hours: options.hours,
        duplicates: options.duplicates,
        late_duplicates: options.late_duplicates,
        broken: options.broken,
        late: options.late,
        out_of_order: options.out_of_order,
        hot_keys: options.hot_keys,
    };
    if options.duplicates + options.broken > 1.0 {
        bail!("--duplicates and --broken together are more than every line: keep their sum at 1 or below");
    }
    let began = Instant::now();
    if let (Some(brokers), Some(topic)) = (&options.kafka, &options.topic) {
        let sent = send(
            &recipe,
            &TopicOutput {
                folder: options.out.clone(),
                brokers: brokers.clone(),
                topic: topic.clone(),
                partitions: options.partitions,
                replication: options.replication,
                codec: options.codec.clone(),
                rate: options.rate,
                stretch: options.lines.clone(),
                sample_digits: options.sample,
                options: options.kafka_options.clone(),
                overwrite: options.overwrite,
            },
        )?;
        return report(&sent, topic, began);
    }
    let output = Output {
        folder: options.out.clone(),
        files: options.files,
        compress: options.compress,
        threads: options.threads,
        overwrite: options.overwrite,
    };
    let sent = generate(&recipe, &output)?;
    report(&sent, &options.out.join("events").to_string_lossy(), began)
}

fn report(sent: &Sent, data: &str, began: Instant) -> Result<ExitCode> {
    let seconds = began.elapsed().as_secs_f64();
    print_json(&serde_json::json!({
        "seed": sent.recipe.seed,
        "events": sent.recipe.events,
        "counts": sent.counts,
        "files": sent.files.len(),
        "stored_bytes": sent.files.iter().map(|file| file.stored_bytes).sum::<u64>(),
        "data": data,
        "seconds": (seconds * 1000.0).round() / 1000.0,
        "events_per_second": (sent.files.iter().map(|file| file.lines).sum::<u64>() as f64 / seconds.max(1e-9)).round(),
    }))?;
    Ok(ExitCode::SUCCESS)
}

fn run_forget(kafka: &str, topic: &str, before: &[u64]) -> Result<ExitCode> {
    forget(kafka, topic, before)?;
    print_json(&serde_json::json!({"topic": topic, "first_offsets": before}))?;
    Ok(ExitCode::SUCCESS)
}

fn run_chaos(options: &Chaos) -> Result<ExitCode> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let seed = options.seed.unwrap_or(now.as_secs() % 1_000_000);
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("the folder `{}` cannot be made", options.out.display()))?;
    let plan = Plan {
        stack: std::path::absolute(&options.stack)?,
        folder: std::path::absolute(&options.out)?,
        seed,
        faults: options.faults,
        time: std::time::Duration::from_secs(options.seconds),
        rate: options.rate,
    };
    let tell = |text: &str| {
        // Nobody may be reading.
        let _ = writeln!(std::io::stderr(), "chaos: {text}");
    };
    let outcome = chaos::run(&plan, &tell).with_context(|| format!("seed {seed}"))?;
    print_json(&serde_json::to_value(&outcome)?)?;
    tell(match outcome.ok {
        true => "nothing is lost, nothing came twice",
        false => "the lake is not what it should be",
    });
    Ok(if outcome.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_check(ledger: &Path, lake: &str) -> Result<ExitCode> {
    let lake = fetch(lake, &Access::default())?;
    let verdict = check(ledger, lake.folder())?;
    print_json(&serde_json::to_value(&verdict)?)?;
    Ok(if verdict.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_sums(ledger: Option<&Path>, lake: Option<&str>) -> Result<ExitCode> {
    let sums = match (ledger, lake) {
        (Some(folder), _) => sums::of_ledger(&Ledger::open(folder)?)?,
        (None, Some(lake)) => sums::of_lake(&Lake::open(fetch(lake, &Access::default())?.folder())?)?,
        (None, None) => bail!("give --ledger or --lake"),
    };
    for (partition, sum) in sums {
        print_json(&serde_json::json!({
            "date": partition.date, "hour": partition.hour, "source": partition.source,
            "rows": sum.rows, "ids": format!("{:032x}", sum.ids),
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

fn print_json(value: &serde_json::Value) -> Result<()> {
    writeln!(std::io::stdout(), "{value}").context("could not write to stdout")
}

fn option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give an option as name=value, like security.protocol=ssl".to_owned()),
    }
}

fn stretch(text: &str) -> Result<Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(from, to)| {
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        (from < to).then_some(from..to)
    });
    parsed.ok_or_else(|| "give lines as FROM..TO, like 0..1000".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("give a share between 0 and 1, like 0.15".to_owned()),
    }
}

/// `YYYY-MM-DDTHH:MM:SSZ` as milliseconds since 1970.
fn time_ms(text: &str) -> Result<u64, String> {
    let wrong = || "give a time in UTC from 1970 on, like 2026-01-01T00:00:00Z".to_owned();
    let shape = text
        .bytes()
        .map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    if !shape.eq(*b"0000-00-00T00:00:00Z") {
        return Err(wrong());
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u64>().map_err(|_| wrong());
    let day = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days are counted by search: no second calendar formula that could differ from the writer's.
    let days = (0..1_000_000)
        .find(|&days| millrace_loadtest::generate::line::date(days) == day)
        .ok_or_else(wrong)?;
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if hour > 23 || minute > 59 || second > 59 {
        return Err(wrong());
    }
    Ok(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000)
}
