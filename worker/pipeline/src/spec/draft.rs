//! A pipeline as far as it could be read: what has a fault is absent (or a placeholder, where more
//! hangs on it), the rest is checked on. Only a file without faults becomes a pipeline.

use std::collections::BTreeMap;

use millrace_proto::ids::PipelineName;

use super::marts::{Every, Mart};
use super::model::{
    Column, ColumnType, ColumnValue, Dedup, Enrich, HandoffUnit, Lake, Limits, Partition, PiiClass, Pipeline,
    Privacy, Quality, Retention, Source, Version, Warehouse, When,
};

/// The sections of a file.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) name: Option<PipelineName>,
    pub(super) source: Option<Source>,
    pub(super) columns: Vec<DraftColumn>,
    pub(super) versions: Vec<DraftVersion>,
    pub(super) enrich: Vec<DraftEnrich>,
    pub(super) quality: Option<Quality>,
    pub(super) dedup: Option<Dedup>,
    pub(super) privacy: Option<Privacy>,
    /// Whether the file has a `privacy` section, sound or not.
    pub(super) privacy_declared: bool,
    pub(super) partition: Option<Partition>,
    pub(super) lake: Option<Lake>,
    pub(super) warehouse: Option<Warehouse>,
    /// Whether the file has a `warehouse` section, sound or not.
    pub(super) warehouse_declared: bool,
    pub(super) marts: Vec<DraftMart>,
    pub(super) handoff: HandoffUnit,
    pub(super) retention: Retention,
    pub(super) limits: Limits,
}

/// A column; `name` is absent when it could not be read.
#[derive(Clone)]
pub(super) struct DraftColumn {
    /// `schema[3]`, or `enrich[0].add.segment` for a column that an enrichment appends.
    pub(super) key: String,
    pub(super) name: Option<String>,
    /// The name as it stands in the file: what messages suggest.
    pub(super) shown: String,
    pub(super) kind: Option<ColumnType>,
    /// Neither `from` nor `sql` stands in the file when this is absent and `value_faulty` is not set.
    pub(super) value: Option<ColumnValue>,
    pub(super) value_faulty: bool,
    pub(super) required: bool,
    pub(super) pii: Option<PiiClass>,
    pub(super) description: Option<String>,
}

/// A version.
#[derive(Clone)]
pub(super) struct DraftVersion {
    pub(super) key: String,
    pub(super) name: Option<String>,
    pub(super) when: Option<When>,
    pub(super) columns: BTreeMap<String, Option<ColumnValue>>,
}

/// An enrichment.
pub(super) struct DraftEnrich {
    pub(super) key: String,
    pub(super) name: Option<String>,
    /// Our key column, as far as it could be read.
    pub(super) ours: Option<String>,
    pub(super) add: BTreeMap<String, String>,
    pub(super) enrich: Option<Enrich>,
}

/// A model.
pub(super) struct DraftMart {
    /// `models[2]`.
    pub(super) key: String,
    pub(super) name: Option<String>,
    pub(super) every: Option<Every>,
    pub(super) look_back_hours: i64,
    pub(super) timeout_seconds: u64,
    /// The query, and the key that it stands at.
    pub(super) sql: Option<(String, String)>,
    pub(super) file: Option<String>,
    pub(super) description: Option<String>,
    /// Descriptions by column.
    pub(super) columns: BTreeMap<String, String>,
    pub(super) table: Option<String>,
}

impl Draft {
    /// The column of a name.
    pub(super) fn column(&self, name: &str) -> Option<&DraftColumn> {
        self.columns
            .iter()
            .find(|column| column.name.as_deref() == Some(name))
    }

    /// Whether some column's name could not be read, so that no other can be called unknown.
    pub(super) fn has_nameless(&self) -> bool {
        self.columns.iter().any(|column| column.name.is_none())
    }

    /// The pipeline; none if anything it needs is absent.
    pub(super) fn finish(self, digest: String, marts: Vec<Mart>) -> Option<Pipeline> {
        Some(Pipeline {
            name: self.name?,
            source: self.source?,
            columns: self
                .columns
                .into_iter()
                .map(DraftColumn::finish)
                .collect::<Option<_>>()?,
            versions: self
                .versions
                .into_iter()
                .map(DraftVersion::finish)
                .collect::<Option<_>>()?,
            enrich: self
                .enrich
                .into_iter()
                .map(|draft| draft.enrich)
                .collect::<Option<_>>()?,
            quality: self.quality,
            dedup: self.dedup,
            privacy: self.privacy.unwrap_or_default(),
            partition: self.partition?,
            lake: self.lake?,
            warehouse: self.warehouse,
            handoff: self.handoff,
            retention: self.retention,
            limits: self.limits,
            marts,
            digest,
        })
    }
}

impl DraftColumn {
    /// Whether a lookup gives its value.
    pub(super) fn is_enriched(&self) -> bool {
        matches!(self.value, Some(ColumnValue::Enriched(..)))
    }

    pub(super) fn finish(self) -> Option<Column> {
        let name = self.name?;
        let value = self
            .value
            .unwrap_or_else(|| ColumnValue::From(vec![name.clone()]));
        Some(Column {
            name,
            kind: self.kind?,
            value,
            required: self.required,
            pii: self.pii,
            description: self.description,
        })
    }
}

impl DraftVersion {
    pub(super) fn finish(self) -> Option<Version> {
        let columns = self.columns.into_iter().map(|(name, value)| Some((name, value?)));
        Some(Version {
            name: self.name?,
            when: self.when?,
            columns: columns.collect::<Option<_>>()?,
        })
    }
}
