//! `warehouse.redshift.data_api`: Redshift by HTTPS, without a connection to it.
//!
//! | runs it                    | who the database's user is                                        |
//! |----------------------------|-------------------------------------------------------------------|
//! | `workgroup` (Serverless)   | the secret's, or the one that IAM gives                           |
//! | `cluster`                  | the secret's, `db_user`, or the one that IAM gives                |

use super::endpoint;
use super::outlet::DATA_API;
use crate::spec::fields::{Field, Section};
use crate::spec::model::{DataApi, RedshiftTarget};
use crate::spec::reader::Reader;

pub(super) fn data_api(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<DataApi> {
    let section = field.section(reader, DATA_API)?;
    let place = Place::read(&section, reader);
    let database = section
        .required(reader, "database", "dev")
        .and_then(|field| field.text(reader, "the database's name"));
    let secret_arn = section
        .optional("secret_arn")
        .and_then(|field| secret_arn(&field, reader));
    let db_user = db_user(&section, place.is_workgroup, reader);
    Some(DataApi {
        database: database?,
        secret_arn,
        region: place.region.clone(),
        endpoint: place.endpoint.clone(),
        target: place.target(db_user)?,
    })
}

/// Where AWS runs the warehouse, as both ways by IAM say it.
pub(super) struct Place {
    is_cluster: bool,
    /// Serverless. Where it is not said well, neither.
    pub(super) is_workgroup: bool,
    name: Option<String>,
    pub(super) region: Option<String>,
    pub(super) endpoint: Option<String>,
}

impl Place {
    pub(super) fn read(section: &Section<'_>, reader: &mut Reader<'_>) -> Self {
        let found = section.exactly_one(reader, &["cluster", "workgroup"]);
        let region = section.optional("region");
        let endpoint_url = section.optional("endpoint");
        Self {
            is_cluster: matches!(found, Some(("cluster", _))),
            is_workgroup: matches!(found, Some(("workgroup", _))),
            name: found.and_then(|(_, field)| name(&field, reader)),
            region: region.and_then(|field| field.text(reader, "`eu-central-1`")),
            endpoint: endpoint_url.and_then(|field| endpoint(&field, reader)),
        }
    }

    /// The database's user is for a cluster.
    pub(super) fn target(self, db_user: Option<String>) -> Option<RedshiftTarget> {
        let name = self.name?;
        Some(if self.is_cluster {
            RedshiftTarget::Cluster { name, db_user }
        } else {
            RedshiftTarget::Workgroup(name)
        })
    }
}

fn db_user(section: &Section<'_>, is_workgroup: bool, reader: &mut Reader<'_>) -> Option<String> {
    let field = section.optional("db_user")?;
    if is_workgroup {
        let wrong = "`db_user` is for a `cluster`: in a workgroup, IAM or the secret names the user";
        reader.fault_of_key(&field.key, wrong, "leave it out, or `secret_arn: arn:aws:...`");
    } else if section.optional("secret_arn").is_some() {
        let wrong = "both `db_user` and `secret_arn` name the database's user";
        reader.fault_of_key(&field.key, wrong, "one of them");
    }
    field.text(reader, "a user of the database")
}

/// The name of a workgroup or cluster.
fn name(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let right = "1 to 64 of a-z, 0-9 and `-`: `analytics`";
    let text = field.text(reader, right)?;
    let sound = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !sound {
        let wrong = format!(
            "`{}` is not a name of a workgroup or cluster",
            reader.shown(&field.key)
        );
        reader.fault(&field.key, wrong, right);
    }
    sound.then_some(text)
}

fn secret_arn(field: &Field<'_>, reader: &mut Reader<'_>) -> Option<String> {
    let right = "`arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME`";
    let text = field.text(reader, right)?;
    let sound = text.starts_with("arn:aws") && text.contains(":secretsmanager:");
    if !sound {
        let wrong = format!("`{}` is not a secret", reader.shown(&field.key));
        reader.fault(&field.key, wrong, right);
    }
    sound.then_some(text)
}
