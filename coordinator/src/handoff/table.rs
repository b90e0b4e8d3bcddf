//! Whether the warehouse's table is the one that the pipeline describes, column by column.
//!
//! In: the columns that are wanted and those that are there. Out: what can be added without a person, and every
//! difference that a person must settle, each with the statement that would.
//!
//! | difference                                           | then                                                  |
//! |------------------------------------------------------|-------------------------------------------------------|
//! | a wanted column is not there                         | it is added, nullable: older rows have no value       |
//! | another type                                         | refused, with the statement                           |
//! | NOT NULL there, nullable in the pipeline             | refused, with the statement                           |
//! | nullable there, NOT NULL in the pipeline             | fine: every row brings a value                        |
//! | a column that the pipeline lacks, with null or default | fine: it is somebody else's                          |
//! | the same, NOT NULL without a default                 | refused, with the statement                           |

use std::fmt;

use millrace_pipeline::catalog::ddl::TableColumn;
use millrace_pipeline::catalog::identifier::{identifier, qualified};

/// A column as the warehouse's catalogue has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundColumn {
    /// Its name.
    pub name: String,
    /// Its type, as the catalogue spells it.
    pub kind: String,
    /// Whether it is `NOT NULL`.
    pub not_null: bool,
    /// Whether it fills itself in.
    pub has_default: bool,
}

/// One difference that a person must settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableFault {
    /// The column, or the table.
    pub what: String,
    /// What is wrong.
    pub problem: String,
    /// The statement that would put it right.
    pub statement: String,
}

impl fmt::Display for TableFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}; to settle it run: {}",
            self.what, self.problem, self.statement
        )
    }
}

/// What the comparison came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Columns to be added.
    pub missing: Vec<TableColumn>,
    /// What must be settled first.
    pub faults: Vec<TableFault>,
}

/// Compares a table with what the pipeline describes.
#[must_use]
pub fn compare(table: &str, wanted: &[TableColumn], found: &[FoundColumn]) -> Comparison {
    let mut comparison = Comparison::default();
    let alter = format!("ALTER TABLE {}", qualified(table));
    for column in wanted {
        let Some(there) = found.iter().find(|there| there.name == column.name) else {
            comparison.missing.push(TableColumn {
                not_null: false,
                ..column.clone()
            });
            continue;
        };
        let name = identifier(&column.name);
        if spelled(&there.kind) != spelled(&column.kind) {
            comparison.faults.push(TableFault {
                what: format!("column `{}`", column.name),
                problem: format!("it is {}, the pipeline says {}", there.kind, column.kind),
                statement: format!(
                    "{alter} ALTER COLUMN {name} TYPE {kind} USING {name}::{kind};",
                    kind = column.kind
                ),
            });
        }
        if there.not_null && !column.not_null {
            comparison.faults.push(TableFault {
                what: format!("column `{}`", column.name),
                problem: "it is NOT NULL, and the pipeline lets it be null".to_owned(),
                statement: format!("{alter} ALTER COLUMN {name} DROP NOT NULL;"),
            });
        }
    }
    for there in found {
        let is_ours = wanted.iter().any(|column| column.name == there.name);
        if !is_ours && there.not_null && !there.has_default {
            comparison.faults.push(TableFault {
                what: format!("column `{}`", there.name),
                problem: "it is NOT NULL without a default, and the pipeline has no such column".to_owned(),
                statement: format!("{alter} ALTER COLUMN {} DROP NOT NULL;", identifier(&there.name)),
            });
        }
    }
    comparison
}

/// One spelling per type: catalogues and statements name the same type in different ways.
fn spelled(kind: &str) -> String {
    let kind = kind.to_lowercase().replace(", ", ",");
    let (name, arguments) = match kind.find('(') {
        Some(at) => kind.split_at(at),
        None => (kind.as_str(), ""),
    };
    let name = match name {
        "timestamptz" => "timestamp with time zone",
        "decimal" => "numeric",
        "varchar" => "character varying",
        "int" | "int4" => "integer",
        "int8" => "bigint",
        "float8" | "float" => "double precision",
        "bool" => "boolean",
        name => name,
    };
    format!("{name}{arguments}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, kind: &str, not_null: bool) -> TableColumn {
        TableColumn {
            name: name.to_owned(),
            kind: kind.to_owned(),
            not_null,
        }
    }

    fn found(name: &str, kind: &str, not_null: bool) -> FoundColumn {
        FoundColumn {
            name: name.to_owned(),
            kind: kind.to_owned(),
            not_null,
            has_default: false,
        }
    }

    #[test]
    fn a_wider_schema_is_an_addition_and_nothing_else() {
        let comparison = compare(
            "a.t",
            &[wanted("id", "text", true), wanted("price", "numeric(12,2)", true)],
            &[found("id", "text", true)],
        );
        assert_eq!(comparison.missing, [wanted("price", "numeric(12,2)", false)]);
        assert!(comparison.faults.is_empty());
    }

    #[test]
    fn the_same_type_may_be_spelled_in_two_ways() {
        let pairs = [
            ("timestamptz", "timestamp with time zone"),
            ("DECIMAL(10,2)", "numeric(10,2)"),
            ("VARCHAR(65535)", "character varying(65535)"),
        ];
        for (ours, theirs) in pairs {
            let comparison = compare("t", &[wanted("c", ours, false)], &[found("c", theirs, false)]);
            assert_eq!(comparison, Comparison::default(), "{ours}");
        }
    }

    #[test]
    fn every_difference_comes_with_the_statement_that_settles_it() {
        let comparison = compare(
            "a.order",
            &[wanted("id", "text", true), wanted("user", "bigint", false)],
            &[
                found("id", "text", false),
                found("user", "integer", true),
                found("theirs", "text", true),
                found("free", "text", false),
            ],
        );
        let statements: Vec<&str> = comparison
            .faults
            .iter()
            .map(|fault| fault.statement.as_str())
            .collect();
        assert_eq!(
            statements,
            [
                "ALTER TABLE a.\"order\" ALTER COLUMN \"user\" TYPE bigint USING \"user\"::bigint;",
                "ALTER TABLE a.\"order\" ALTER COLUMN \"user\" DROP NOT NULL;",
                "ALTER TABLE a.\"order\" ALTER COLUMN theirs DROP NOT NULL;",
            ]
        );
    }
}
