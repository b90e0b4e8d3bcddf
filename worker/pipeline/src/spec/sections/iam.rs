//! `warehouse.redshift.iam`: the login of a `dsn` that names no user. AWS gives one for a while, by IAM.
//!
//! | login to                 | the database's user is                              |
//! |--------------------------|-----------------------------------------------------|
//! | `cluster` with `db_user` | that one                                            |
//! | `cluster`                | the one that belongs to the IAM identity            |
//! | `workgroup` (Serverless) | the same                                            |

use super::data_api::Place;
use super::dsn::said;
use super::outlet::IAM;
use crate::spec::fields::{Field, Section};
use crate::spec::model::{Iam, Secret};
use crate::spec::reader::Reader;

const RIGHT: &str = "a `dsn` of host, port and database: `postgres://host:5439/dev`";

/// `dsn` is the connection string beside it, where it is sound.
pub(super) fn iam(field: &Field<'_>, dsn: Option<&Secret>, reader: &mut Reader<'_>) -> Option<Iam> {
    let section = field.section(reader, IAM)?;
    let place = Place::read(&section, reader);
    let db_user = db_user(&section, place.is_workgroup, reader);
    if let Some(dsn) = dsn {
        beside(field, dsn, reader);
    }
    Some(Iam {
        region: place.region.clone(),
        endpoint: place.endpoint.clone(),
        target: place.target(db_user)?,
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
