//! What the simulator's system views say of tables, in the columns that Redshift's guide documents.
//!
//! | view             | rule                                                                       | guide            |
//! |------------------|----------------------------------------------------------------------------|------------------|
//! | `pg_table_def`   | shows the tables of the search path only; a raw column is encoded `none`    | PG_TABLE_DEF     |
//! | the same         | 1, 2, ... are places in a compound sort key, 0 is none                      | the same         |
//! | `svv_table_info` | shows no table without rows; percentages, and rows with those deleted       | SVV_TABLE_INFO   |
//! | ALTER TABLE      | `ALTER COMPOUND SORTKEY`, `ALTER DISTKEY`, `ALTER COLUMN ... ENCODE`         | ALTER TABLE      |
//! | VACUUM, ANALYZE  | after them nothing is unsorted or deleted, statistics are fresh             | VACUUM, ANALYZE  |
//!
//! Columns and rows are the keeping PostgreSQL's; keys and encodings are remembered from the statements, as it has none.

use std::collections::HashMap;

use parking_lot::Mutex;

/// What a table's upkeep has come to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Figures {
    /// Percent of the rows that are unsorted.
    pub unsorted: f64,
    /// Percent that statistics are off.
    pub stats_off: f64,
    /// The fullest slice's rows by the emptiest one's.
    pub skew_rows: f64,
    /// Deleted rows that are still there.
    pub deleted: u64,
}

#[derive(Debug, Clone, Default)]
struct Design {
    /// Names, unquoted, and encodings.
    encodings: Vec<(String, String)>,
    dist_key: Option<String>,
    sort_key: Vec<String>,
    figures: Figures,
}

/// Designs by `schema.table`, unquoted.
#[derive(Default)]
pub(super) struct Catalogue(Mutex<HashMap<String, Design>>);

impl Catalogue {
    pub(super) fn set(&self, table: &str, figures: Figures) {
        self.0.lock().entry(table.to_owned()).or_default().figures = figures;
    }

    /// Remembers what a statement says of tables; whether PostgreSQL has no words for it.
    pub(super) fn takes(&self, sql: &str) -> bool {
        let mut rest = sql;
        while let Some((_, after)) = rest.split_once("CREATE TABLE IF NOT EXISTS ") {
            if let Some((table, design)) = created(after) {
                self.0.lock().entry(table).or_insert(design);
            }
            rest = after;
        }
        let sql = sql.trim().trim_end_matches(';');
        self.altered(sql).or_else(|| self.kept_up(sql)).is_some()
    }

    fn altered(&self, sql: &str) -> Option<()> {
        let (table, change) = sql.strip_prefix("ALTER TABLE ")?.split_once(" ALTER ")?;
        let mut all = self.0.lock();
        let design = all.entry(bare(table)).or_default();
        if let Some(key) = change.strip_prefix("COMPOUND SORTKEY ") {
            design.sort_key = list(key);
        } else if let Some(key) = change.strip_prefix("DISTKEY ") {
            design.dist_key = Some(bare(key));
        } else {
            let (column, encoding) = change.strip_prefix("COLUMN ")?.split_once(" ENCODE ")?;
            let column = bare(column);
            design.encodings.retain(|(name, _)| *name != column);
            design.encodings.push((column, encoding.to_owned()));
        }
        Some(())
    }

    fn kept_up(&self, sql: &str) -> Option<()> {
        let (verb, rest) = sql.split_once(' ')?;
        let (how, table) = rest.rsplit_once(' ').unwrap_or(("", rest));
        let mut all = self.0.lock();
        let figures = &mut all.get_mut(&bare(table))?.figures;
        match verb {
            "ANALYZE" => figures.stats_off = 0.0,
            "VACUUM" => {
                if how != "DELETE ONLY" {
                    figures.unsorted = 0.0;
                }
                if how != "SORT ONLY" {
                    figures.deleted = 0;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// A query with the views that it names as subqueries.
    pub(super) fn resolve(&self, sql: &str) -> String {
        let all = self.0.lock();
        let sql = sql.replace("FROM pg_table_def", &format!("FROM {}", table_def(&all)));
        sql.replace("FROM svv_table_info", &format!("FROM {}", table_info(&all)))
    }
}

/// A created table and its design; `text` begins with its name.
fn created(text: &str) -> Option<(String, Design)> {
    let (table, rest) = text.split_once(" (")?;
    let end = closing(rest)?;
    let (columns, options) = (&rest[..end], rest[end..].split(';').next()?);
    let mut design = Design::default();
    for column in columns.split(",\n") {
        let column = column.trim();
        let Some((name, encoding)) = column.split_once(" ENCODE ") else {
            continue;
        };
        let name = match name.strip_prefix('"') {
            Some(quoted) => quoted.split("\" ").next()?.replace("\"\"", "\""),
            None => name.split(' ').next()?.to_owned(),
        };
        let encoding = encoding.split(' ').next()?.to_owned();
        design.encodings.push((name, encoding));
    }
    let after = |word: &str| options.split_once(word).map(|(_, key)| list(key));
    design.sort_key = after("SORTKEY ").unwrap_or_default();
    design.dist_key = after("DISTKEY ").and_then(|key| key.into_iter().next());
    Some((bare(table), design))
}

/// Where the parenthesis closes that is open before a text.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (1, None);
    text.char_indices().find_map(|(at, c)| {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('(', None) => depth += 1,
            (')', None) => depth -= 1,
            (_, _) => {}
        }
        (depth == 0).then_some(at)
    })
}

/// The names of `(a, "b")`.
fn list(text: &str) -> Vec<String> {
    let text = text.trim_start().trim_start_matches('(');
    let text = text.split(')').next().unwrap_or_default();
    text.split(", ").map(bare).collect()
}

/// A name without its quotes.
fn bare(name: &str) -> String {
    name.trim().replace('"', "")
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Rows as a relation, never without one.
fn values(rows: Vec<String>, none: &str) -> String {
    let rows = if rows.is_empty() {
        vec![none.to_owned()]
    } else {
        rows
    };
    format!("(VALUES {})", rows.join(", "))
}

fn table_def(all: &HashMap<String, Design>) -> String {
    let mut rows = Vec::new();
    for (table, design) in all {
        for (name, encoding) in &design.encodings {
            let encoding = if encoding == "raw" { "none" } else { encoding };
            let place = design.sort_key.iter().position(|key| key == name);
            let is_key = design.dist_key.as_ref() == Some(name);
            let row = [literal(table), literal(name), literal(encoding)].join(", ");
            rows.push(format!(
                "({row}, {is_key}, {})",
                place.map_or(0, |place| place + 1)
            ));
        }
    }
    let rows = values(rows, "('', '', '', false, 0)");
    format!(
        "(SELECT n.nspname AS schemaname, c.relname AS tablename, a.attname AS \"column\",
           format_type(a.atttypid, a.atttypmod) AS type, coalesce(d.encoding, 'none') AS encoding,
           coalesce(d.distkey, false) AS distkey, coalesce(d.sortkey, 0) AS sortkey, a.attnotnull AS \"notnull\"
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN {rows} AS d(tab, col, encoding, distkey, sortkey)
           ON d.tab = n.nspname || '.' || c.relname AND d.col = a.attname
         WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind = 'r' AND n.nspname = ANY(current_schemas(true))) AS pg_table_def"
    )
}

fn table_info(all: &HashMap<String, Design>) -> String {
    let mut rows = Vec::new();
    for (table, design) in all {
        let style = match &design.dist_key {
            Some(key) => format!("KEY({key})"),
            None => "AUTO(ALL)".to_owned(),
        };
        let Figures {
            unsorted,
            stats_off,
            skew_rows,
            deleted,
        } = design.figures;
        let first = design.sort_key.first().map_or("", String::as_str);
        let texts = [literal(table), literal(&style), literal(first)].join(", ");
        rows.push(format!(
            "({texts}, {unsorted}, {stats_off}, {skew_rows}, {deleted})"
        ));
    }
    let rows = values(rows, "('', '', '', 0, 0, 0, 0)");
    format!(
        "(SELECT n.nspname AS \"schema\", c.relname AS \"table\", 'Y' AS encoded, d.style AS diststyle, d.first AS sortkey1,
           k.rows + d.deleted AS tbl_rows, d.unsorted, d.stats_off, d.skew AS skew_rows, k.rows AS estimated_visible_rows
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN {rows} AS d(tab, style, first, unsorted, stats_off, skew, deleted) ON d.tab = n.nspname || '.' || c.relname,
           LATERAL (SELECT (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I.%I', n.nspname, c.relname),
             false, true, '')))[1]::text::bigint AS rows) k
         WHERE k.rows + d.deleted > 0) AS svv_table_info"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_encodings_are_remembered_as_they_were_said_last() {
        let catalogue = Catalogue::default();
        let made = "CREATE TABLE IF NOT EXISTS a.t (\n    id VARCHAR(10) ENCODE zstd NOT NULL,\n    \"user\" DECIMAL(12,3) ENCODE az64,\n    at TIMESTAMPTZ ENCODE raw\n)\nDISTSTYLE KEY\nDISTKEY (\"user\")\nCOMPOUND SORTKEY (at, id);\n";
        assert!(!catalogue.takes(made));
        assert!(catalogue.takes("ALTER TABLE a.t ALTER COLUMN id ENCODE bytedict;"));
        assert!(catalogue.takes("ALTER TABLE a.t ALTER COMPOUND SORTKEY (id);"));
        assert!(!catalogue.takes("ALTER TABLE a.t ADD COLUMN more INTEGER"));
        let all = catalogue.0.lock();
        let design = &all["a.t"];
        assert_eq!(design.dist_key.as_deref(), Some("user"));
        assert_eq!(design.sort_key, ["id"]);
        let pairs: Vec<String> = design
            .encodings
            .iter()
            .map(|(name, code)| format!("{name} {code}"))
            .collect();
        assert_eq!(pairs, ["user az64", "at raw", "id bytedict"]);
    }
}
