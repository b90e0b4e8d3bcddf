//! The data dictionary as a value: what the renderers of [`super::docs`] show, and its JSON form.
//!
//! In: the pipeline and the environment whose reader is meant. Out: every column with its meaning, type, class,
//! rules and lineage, and what holds for the table.

use serde::Serialize;

use super::ddl::partition_column;
use super::mart_ddl::{PERIOD_MEANING, every_word};
use super::masking;
use super::wording::{Rule, duration, percent, rules, type_words};
use crate::map::type_name;
use crate::spec::marts::{Mart, MartColumn, PERIOD};
use crate::spec::model::{
    Column, ColumnType, ColumnValue, Format, OnBreach, PartitionLevel, Pipeline, Source, Strategy, When,
};

#[derive(Debug, Serialize)]
pub(super) struct Dictionary {
    pub(super) pipeline: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) environment: Option<String>,
    /// Whether the reader sees masked values.
    pub(super) masked: bool,
    /// What holds for the table, as label and text.
    pub(super) facts: Vec<Fact>,
    pub(super) columns: Vec<Entry>,
    pub(super) versions: Vec<OldFormat>,
    pub(super) table_rules: Vec<Rule>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) models: Vec<Model>,
}

/// A table that SQL makes of complete hours.
#[derive(Debug, Serialize)]
pub(super) struct Model {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meaning: Option<String>,
    /// `hour` or `day`.
    pub(super) every: &'static str,
    /// What its query sees besides its period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) look_back: Option<String>,
    /// The warehouse's table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) table: Option<String>,
    /// The tables that it is made of.
    pub(super) reads: Vec<String>,
    pub(super) columns: Vec<ModelColumn>,
    pub(super) sql: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ModelColumn {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meaning: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Fact {
    pub(super) label: &'static str,
    pub(super) text: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Entry {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meaning: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) type_in_words: String,
    pub(super) required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) personal_data: Option<PersonalData>,
    pub(super) lineage: Vec<Lineage>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug, Serialize)]
pub(super) struct PersonalData {
    pub(super) class: &'static str,
    /// Environments in which it stays clear.
    pub(super) clear_in: Vec<String>,
    /// What masking does elsewhere.
    pub(super) masking: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) example: Option<Example>,
}

/// Made-up values.
#[derive(Debug, Serialize)]
pub(super) struct Example {
    pub(super) clear: String,
    pub(super) masked: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Lineage {
    /// The version that fills the column so; none is the current format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    /// `record field`, `expression`, `lookup` or `partition`.
    pub(super) origin: &'static str,
    pub(super) value: String,
}

/// An older record format.
#[derive(Debug, Serialize)]
pub(super) struct OldFormat {
    pub(super) name: String,
    pub(super) recognised_by: String,
}

impl Dictionary {
    pub(super) fn new(pipeline: &Pipeline, environment: Option<&str>) -> Self {
        let rules = pipeline.quality.as_ref().map(rules).unwrap_or_default();
        let mut columns: Vec<Entry> = (0..pipeline.columns.len())
            .map(|i| entry(pipeline, i, &rules))
            .collect();
        columns.extend(
            pipeline
                .partition
                .by
                .iter()
                .map(|level| partition_entry(pipeline, *level)),
        );
        let of_the_table = |rule: &&Rule| !rule.columns.iter().any(|name| pipeline.column(name).is_some());
        Self {
            pipeline: pipeline.name.to_string(),
            environment: environment.map(str::to_owned),
            masked: !pipeline.privacy.is_clear(environment),
            facts: facts(pipeline),
            columns,
            versions: pipeline
                .versions
                .iter()
                .map(|version| OldFormat {
                    name: version.name.clone(),
                    recognised_by: match &version.when {
                        When::Missing(path) => format!("the record has no {}", path.join(".")),
                        When::Sql(sql) => sql.clone(),
                    },
                })
                .collect(),
            table_rules: rules.iter().filter(of_the_table).cloned().collect(),
            models: pipeline.marts.iter().map(|mart| model(pipeline, mart)).collect(),
        }
    }
}

fn model(pipeline: &Pipeline, mart: &Mart) -> Model {
    let column = |column: &MartColumn| ModelColumn {
        name: column.name.clone(),
        kind: type_name(&column.kind),
        meaning: column.description.clone(),
    };
    let period = ModelColumn {
        name: PERIOD.to_owned(),
        kind: type_name(&ColumnType::Timestamp),
        meaning: Some(PERIOD_MEANING.to_owned()),
    };
    let events = mart.reads_events.then(|| pipeline.name.to_string());
    let look_back = u64::try_from(mart.look_back_hours)
        .ok()
        .filter(|hours| *hours > 0);
    Model {
        name: mart.name.clone(),
        meaning: mart.description.clone(),
        every: every_word(mart.every),
        look_back: look_back.map(|hours| duration(hours * 3600)),
        table: mart.table.clone(),
        reads: events.into_iter().chain(mart.uses.iter().cloned()).collect(),
        columns: mart.columns.iter().map(column).chain([period]).collect(),
        sql: mart.sql.trim().to_owned(),
    }
}

fn entry(pipeline: &Pipeline, position: usize, rules: &[Rule]) -> Entry {
    let column = &pipeline.columns[position];
    Entry {
        name: column.name.clone(),
        meaning: column.description.clone(),
        kind: type_name(&column.kind),
        type_in_words: type_words(&column.kind),
        required: column.required || column.name == pipeline.partition.time,
        personal_data: personal_data(pipeline, position),
        lineage: lineage(pipeline, column),
        rules: rules
            .iter()
            .filter(|rule| rule.columns.contains(&column.name))
            .cloned()
            .collect(),
    }
}

fn personal_data(pipeline: &Pipeline, position: usize) -> Option<PersonalData> {
    let column = &pipeline.columns[position];
    let class = column.pii?;
    let privacy = &pipeline.privacy;
    let stays = privacy.strategy(class) == Strategy::Keep;
    let example = masking::example(pipeline, position).filter(|_| !stays);
    Some(PersonalData {
        class: masking::class_words(class),
        clear_in: privacy.clear_in.clone(),
        masking: masking::effect(column, privacy),
        example: example.map(|(clear, masked)| Example { clear, masked }),
    })
}

fn lineage(pipeline: &Pipeline, column: &Column) -> Vec<Lineage> {
    let of = |version: Option<&str>, value: &ColumnValue| {
        let (origin, value) = match value {
            ColumnValue::From(path) => ("record field", path.join(".")),
            ColumnValue::Sql(sql) => ("expression", sql.clone()),
            ColumnValue::Enriched(lookup, field) => {
                let name = pipeline.enrich.get(*lookup).map_or("", |enrich| &enrich.name);
                ("lookup", format!("{field} of {name}"))
            }
        };
        Lineage {
            version: version.map(str::to_owned),
            origin,
            value,
        }
    };
    let overrides = pipeline.versions.iter().filter_map(|version| {
        let value = version.columns.get(&column.name)?;
        Some(of(Some(&version.name), value))
    });
    std::iter::once(of(None, &column.value))
        .chain(overrides)
        .collect()
}

fn partition_entry(pipeline: &Pipeline, level: PartitionLevel) -> Entry {
    let (name, meaning) = partition_column(level);
    let (kind, words, from) = match level {
        PartitionLevel::Date => ("date", "calendar day", &pipeline.partition.time),
        PartitionLevel::Hour => ("int32", "whole number", &pipeline.partition.time),
        PartitionLevel::Source => {
            let source = pipeline.partition.source.as_ref();
            ("string", "text", source.unwrap_or(&pipeline.partition.time))
        }
    };
    Entry {
        name: name.to_owned(),
        meaning: Some(meaning.to_owned()),
        kind: kind.to_owned(),
        type_in_words: words.to_owned(),
        required: level != PartitionLevel::Source,
        personal_data: None,
        lineage: vec![Lineage {
            version: None,
            origin: "partition",
            value: format!("of {from}"),
        }],
        rules: Vec::new(),
    }
}

fn facts(pipeline: &Pipeline) -> Vec<Fact> {
    let mut facts = vec![Fact {
        label: "Comes from",
        text: source(&pipeline.source),
    }];
    let mut add = |label, text: Option<String>| facts.extend(text.map(|text| Fact { label, text }));
    let partition = &pipeline.partition;
    add(
        "Freshness",
        Some(match partition.lateness_seconds {
            0 => format!(
                "by {}; an event older than the newest one counts as late",
                partition.time
            ),
            seconds => format!(
                "by {}; an event counts as late when it is more than {} behind the newest",
                partition.time,
                duration(seconds)
            ),
        }),
    );
    let levels: Vec<&str> = partition
        .by
        .iter()
        .map(|level| partition_column(*level).0)
        .collect();
    add("Stored by", (!levels.is_empty()).then(|| levels.join(" / ")));
    add(
        "No repeats of",
        pipeline
            .dedup
            .as_ref()
            .map(|dedup| format!("{} within an hour of event time", dedup.key.join(" + "))),
    );
    add(
        "Quality gate",
        pipeline.quality.as_ref().map(|quality| {
            let consequence = match quality.on_breach {
                OnBreach::Hold => "else the batch waits outside the warehouse",
                OnBreach::Fail => "else the batch is refused",
                OnBreach::Warn => "else it is reported",
            };
            format!(
                "at least {} of events must be clean, {consequence}",
                percent(quality.minimum_clean)
            )
        }),
    );
    add(
        "Personal data",
        Some(
            match (
                pipeline
                    .columns
                    .iter()
                    .filter(|column| column.pii.is_some())
                    .count(),
                pipeline.privacy.clear_in.as_slice(),
            ) {
                (0, _) => "none declared".to_owned(),
                (count, []) => format!("{}, masked everywhere", columns(count)),
                (count, clear) => format!("{}, masked outside {}", columns(count), clear.join(", ")),
            },
        ),
    );
    let kept = |seconds: Option<u64>| seconds.map_or_else(|| "for ever".to_owned(), duration);
    let retention = &pipeline.retention;
    let warehouse = match &pipeline.warehouse {
        Some(_) => format!(", warehouse {}", kept(retention.warehouse_seconds)),
        None => String::new(),
    };
    let keys = retention.keys_seconds.map_or_else(String::new, |seconds| {
        format!("; a repeat is known as one for {}", duration(seconds))
    });
    add(
        "Kept",
        Some(format!(
            "lake {}, quarantine {}{warehouse}{keys}",
            kept(retention.lake_seconds),
            kept(retention.quarantine_seconds)
        )),
    );
    facts
}

fn columns(count: usize) -> String {
    if count == 1 {
        "1 column".to_owned()
    } else {
        format!("{count} columns")
    }
}

fn source(source: &Source) -> String {
    let format = match source.format() {
        Format::Json => "JSON lines",
        Format::Csv => "CSV",
        Format::Avro => "Avro",
        Format::Parquet => "Parquet",
    };
    match source {
        // The last name says what it is; the folders above it are a machine's business.
        Source::Files { path, .. } => {
            let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            format!("files in {name} ({format})")
        }
        Source::S3 { url, .. } => format!("{url} ({format})"),
        Source::Kafka { topic, .. } => format!("Kafka topic {topic} ({format})"),
    }
}
