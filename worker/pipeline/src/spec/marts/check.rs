//! Models of a draft, checked together: names, what they read, in which order, what their queries give.
//!
//! A model whose own fault is known, and what reads it, is not planned: each of its gaps would look like a fault.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::SchemaRef;

use super::super::draft::{Draft, DraftMart};
use super::super::model::{Column, PartitionLevel, Warehouse};
use super::super::nearest::hint;
use super::super::reader::Reader;
use super::plan::{Parsed, QueryFault, parse, plan};
use super::{Every, Mart, MartColumn, TAKEN, events_schema};

/// Everything that is wrong with the models, or the marts in order.
pub(in crate::spec) fn check(draft: &Draft, reader: &mut Reader<'_>) -> Vec<Mart> {
    if draft.marts.is_empty() {
        return Vec::new();
    }
    names(draft, reader);
    partition(draft, reader);
    warehouse(draft, reader);
    let Some(events) = events(draft) else {
        return Vec::new();
    };
    let mut parsed: BTreeMap<&str, (usize, Parsed)> = BTreeMap::new();
    for (at, mart) in draft.marts.iter().enumerate() {
        let (Some(name), Some((sql, key))) = (&mart.name, &mart.sql) else {
            continue;
        };
        match parse(sql) {
            Ok(query) => drop(parsed.entry(name.as_str()).or_insert((at, query))),
            Err(fault) => tell(mart, key, fault, reader),
        }
    }
    let own = draft.name.as_ref().map_or("events", |name| name.as_str());
    unknown_tables(draft, &parsed, own, reader);
    let order = order(draft, &parsed, reader);
    plan_all(draft, &events, own, parsed, &order, reader)
}

/// The events' columns, where all of them could be read.
fn events(draft: &Draft) -> Option<SchemaRef> {
    let columns: Option<Vec<Column>> = draft
        .columns
        .iter()
        .map(|column| column.clone().finish())
        .collect();
    let columns = columns.filter(|columns| !columns.is_empty())?;
    let levels = draft.partition.as_ref().map(|partition| partition.by.as_slice());
    // A lake is cut by something: no level is one that could not be read.
    Some(events_schema(
        &columns,
        levels.filter(|levels| !levels.is_empty())?,
    ))
}

fn names(draft: &Draft, reader: &mut Reader<'_>) {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    for mart in &draft.marts {
        let Some(name) = mart.name.as_deref() else {
            continue;
        };
        let key = format!("{}.name", mart.key);
        let is_pipeline = draft.name.as_ref().is_some_and(|own| own.as_str() == name);
        if TAKEN.contains(&name) || is_pipeline {
            let wrong = format!("`{name}` names another table where queries see the models");
            reader.fault(&key, wrong, "another name");
        }
        if let Some(before) = first.insert(name, &mart.key) {
            let wrong = format!("`{name}` is a model already, in `{before}`");
            reader.fault(&key, wrong, "a name of its own for each model");
        }
    }
}

/// Hours are whole only where files do not reach over them.
fn partition(draft: &Draft, reader: &mut Reader<'_>) {
    let Some(partition) = &draft.partition else { return };
    for mart in &draft.marts {
        let (level, word) = match mart.every {
            Some(Every::Hour) => (PartitionLevel::Hour, "hour"),
            Some(Every::Day) => (PartitionLevel::Date, "date"),
            None => continue,
        };
        let looks_back_hours = mart.look_back_hours % 24 != 0;
        let is_cut = partition.by.contains(&level)
            && (!looks_back_hours || partition.by.contains(&PartitionLevel::Hour));
        if !partition.by.is_empty() && !is_cut {
            let word = if looks_back_hours { "hour" } else { word };
            reader.fault(
                &format!("{}.every", mart.key),
                format!("the lake is not cut by {word}: no file would be of this model's periods alone"),
                format!("`partition.by` with `{word}`"),
            );
        }
    }
}

fn warehouse(draft: &Draft, reader: &mut Reader<'_>) {
    let mut first: BTreeMap<&str, &str> = BTreeMap::new();
    let events = match &draft.warehouse {
        Some(Warehouse::Postgres { table, .. } | Warehouse::Redshift { table, .. }) => Some(table.as_str()),
        None => None,
    };
    for mart in &draft.marts {
        let Some(table) = mart.table.as_deref() else {
            continue;
        };
        let key = format!("{}.warehouse.table", mart.key);
        if draft.warehouse.is_none() && !draft.warehouse_declared {
            let wrong = "the file has no `warehouse` in which this table could be";
            reader.fault(
                &key,
                wrong,
                "a `warehouse` for the pipeline, or none for the model",
            );
        }
        if events == Some(table) || first.insert(table, &mart.key).is_some() {
            let wrong = format!("`{table}` is another table of this pipeline");
            reader.fault(&key, wrong, "a table of its own for each model");
        }
    }
}

fn unknown_tables(
    draft: &Draft,
    parsed: &BTreeMap<&str, (usize, Parsed)>,
    own: &str,
    reader: &mut Reader<'_>,
) {
    let declared = draft.marts.iter().filter_map(|mart| mart.name.as_deref());
    let known: BTreeSet<&str> = declared.chain(["events", own]).collect();
    for (name, (at, query)) in parsed {
        let mart = &draft.marts[*at];
        let Some((_, key)) = &mart.sql else { continue };
        for table in &query.tables {
            if known.contains(table.as_str()) {
                continue;
            }
            let others = known.iter().copied().filter(|other| other != name);
            let hint = hint(table, others.clone());
            let names: Vec<&str> = others.collect();
            let fault = QueryFault {
                wrong: format!("no table is named `{table}`"),
                right: format!("{hint}tables here are {}", names.join(", ")),
            };
            tell(mart, key, fault, reader);
        }
    }
}

/// Each mart behind those that it reads; a cycle is a fault of its first model, and none of it is in the order.
fn order(draft: &Draft, parsed: &BTreeMap<&str, (usize, Parsed)>, reader: &mut Reader<'_>) -> Vec<String> {
    let mut left: BTreeMap<&str, BTreeSet<&str>> = parsed
        .iter()
        .map(|(name, (_, query))| {
            let uses = query.tables.iter().map(String::as_str);
            (*name, uses.filter(|table| parsed.contains_key(table)).collect())
        })
        .collect();
    let mut order = Vec::new();
    loop {
        let in_file = draft.marts.iter().filter_map(|mart| mart.name.as_deref());
        let Some(next) = in_file
            .into_iter()
            .find(|name| left.get(name).is_some_and(BTreeSet::is_empty))
        else {
            break;
        };
        left.remove(next);
        for uses in left.values_mut() {
            uses.remove(next);
        }
        order.push(next.to_owned());
    }
    if let Some(cycle) = cycle(&left)
        && let Some(mart) = draft
            .marts
            .iter()
            .find(|mart| mart.name.as_deref() == cycle.first().copied())
        && let Some((_, key)) = &mart.sql
    {
        let fault = QueryFault {
            wrong: format!("models read each other in a circle: {}", cycle.join(" -> ")),
            right: "models of which the first reads none of the others".to_owned(),
        };
        tell(mart, key, fault, reader);
    }
    order
}

/// Some circle among those that are left, its first name again at its end.
fn cycle<'a>(left: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<Vec<&'a str>> {
    let mut way: Vec<&str> = vec![left.keys().next()?];
    loop {
        let next = left
            .get(way.last()?)?
            .iter()
            .find(|name| left.contains_key(**name))?;
        if let Some(start) = way.iter().position(|name| name == next) {
            let mut cycle = way.split_off(start);
            cycle.push(next);
            return Some(cycle);
        }
        way.push(next);
    }
}

fn plan_all(
    draft: &Draft,
    events: &SchemaRef,
    own: &str,
    mut parsed: BTreeMap<&str, (usize, Parsed)>,
    order: &[String],
    reader: &mut Reader<'_>,
) -> Vec<Mart> {
    let mut marts: Vec<Mart> = Vec::new();
    for name in order {
        let Some((at, query)) = parsed.remove(name.as_str()) else {
            continue;
        };
        let draft = &draft.marts[at];
        let Some(mart) = finish(draft, events, own, query, &marts, reader) else {
            continue;
        };
        marts.push(mart);
    }
    marts
}

fn finish(
    draft: &DraftMart,
    events: &SchemaRef,
    own: &str,
    query: Parsed,
    before: &[Mart],
    reader: &mut Reader<'_>,
) -> Option<Mart> {
    let (name, every) = (draft.name.clone()?, draft.every?);
    let (sql, key) = draft.sql.clone()?;
    let is_events = |table: &str| table == own || table == "events";
    let uses: BTreeSet<String> = query
        .tables
        .iter()
        .filter(|table| !is_events(table))
        .cloned()
        .collect();
    let reads_events = query.tables.iter().any(|table| is_events(table));
    let mut tables = vec![("events", SchemaRef::clone(events))];
    if own != "events" {
        tables.push((own, SchemaRef::clone(events)));
    }
    let mut definition = format!("{every:?} {} {sql}", draft.look_back_hours);
    for used in &uses {
        // One that is not there has its fault told.
        let mart = before.iter().find(|mart| mart.name == *used)?;
        if mart.every > every {
            let wrong = format!("`{used}` has a day as its period, and this model an hour");
            reader.fault(&key, wrong, "`every: day` here, or `every: hour` there");
            return None;
        }
        tables.push((&mart.name, mart.schema()));
        definition.push_str(&mart.digest);
    }
    let planned = match plan(query, &["events", own], &tables) {
        Ok(planned) => planned,
        Err(fault) => {
            tell(draft, &key, fault, reader);
            return None;
        }
    };
    for described in draft.columns.keys() {
        if !planned.iter().any(|(name, _)| name == described) {
            let names: Vec<&str> = planned.iter().map(|(name, _)| name.as_str()).collect();
            reader.fault_of_key(
                &format!("{}.columns.{described}", draft.key),
                format!("the query gives no column `{described}`"),
                format!(
                    "{}its columns are {}",
                    hint(described, names.iter().copied()),
                    names.join(", ")
                ),
            );
        }
    }
    let columns = planned.into_iter().map(|(name, kind)| MartColumn {
        description: draft.columns.get(&name).cloned(),
        name,
        kind,
    });
    Some(Mart {
        columns: columns.collect(),
        digest: blake3::hash(definition.as_bytes()).to_hex().to_string(),
        name,
        every,
        look_back_hours: draft.look_back_hours,
        timeout_seconds: draft.timeout_seconds,
        sql,
        file: draft.file.clone(),
        description: draft.description.clone(),
        uses,
        reads_events,
        table: draft.table.clone(),
    })
}

/// A query's fault; a query that holds what the environment said is not quoted.
fn tell(mart: &DraftMart, key: &str, fault: QueryFault, reader: &mut Reader<'_>) {
    if mart.file.is_none() && reader.shown(key).contains("${") {
        let right = "a query over the pipeline's table and the other models";
        reader.fault(key, "this query does not plan", right);
        return;
    }
    let wrong = match &mart.file {
        Some(file) => format!("`{file}`: {}", fault.wrong),
        None => fault.wrong,
    };
    reader.fault(key, wrong, fault.right);
}
