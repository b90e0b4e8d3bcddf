//! `warehouse.redshift.iam`: the login of a `dsn` that names no user. AWS gives one for a while, by IAM.
//!
//! | login to                 | the database's user is                              |
//! |--------------------------|-----------------------------------------------------|
//! | `cluster` with `db_user` | that one                                            |
//! | `cluster`                | the one that belongs to the IAM identity            |
//! | `workgroup` (Serverless) | the same                                            |

use super::data_api::name;
use super::dsn::said;
use super::endpoint;
use super::outlet::IAM;
use crate::spec::fields::{Field, Section};
use crate::spec::model::{Iam, RedshiftTarget, Secret};
use crate::spec::reader::Reader;

const RIGHT: &str = "a `dsn` of host, port and database: `postgres://host:5439/dev`";

/// `dsn` is the connection string beside it, where it is sound.
pub(super) fn iam(field: &Field<'_>, dsn: Option<&Secret>, reader: &mut Reader<'_>) -> Option<Iam> {
    let section = field.section(reader, IAM)?;
    let target = section.exactly_one(reader, &["cluster", "workgroup"]);
    let is_cluster = matches!(target, Some(("cluster", _)));
    let is_workgroup = matches!(target, Some(("workgroup", _)));
    let target = target.and_then(|(_, field)| name(&field, reader));
    let db_user = db_user(&section, is_workgroup, reader);
    let region = section
        .optional("region")
        .and_then(|field| field.text(reader, "`eu-central-1`"));
    let endpoint = section
        .optional("endpoint")
        .and_then(|field| endpoint(&field, reader));
    if let Some(dsn) = dsn {
        beside(field, dsn, reader);
    }
    let name = target?;
    Some(Iam {
        target: if is_cluster {
            RedshiftTarget::Cluster { name, db_user }
        } else {
            RedshiftTarget::Workgroup(name)
        },
        region,
        endpoint,
    })
}

fn db_user(section: &Section<'_>, is_workgroup: bool, reader: &mut Reader<'_>) -> Option<String> {
    let field = section.optional("db_user")?;
    if is_workgroup {
        let wrong = "`db_user` is for a `cluster`: in a workgroup, IAM names the user";
        reader.fault_of_key(&field.key, wrong, "leave it out");
    }
    field.text(reader, "a user of the database")
}

/// What the connection string may not say, and must. No fault quotes it.
fn beside(field: &Field<'_>, dsn: &Secret, reader: &mut Reader<'_>) {
    let said = said(dsn.reveal());
    let value = |name: &str| {
        said.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let wrong = if value("password").is_some() {
        "both `iam` and a password in `dsn` are given"
    } else if value("user").is_some() {
        "both `iam` and a user in `dsn` are given"
    } else if value("dbname").is_none() {
        "`iam` gives a login to one database, and `dsn` names none"
    } else if value("sslmode") == Some("disable") {
        "`sslmode=disable` in `dsn` would send the password that `iam` gives in clear text"
    } else {
        return;
    };
    reader.fault_of_key(&field.key, wrong, RIGHT);
}
