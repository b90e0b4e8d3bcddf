//! PipelineService: pipelines are checked as they come, and stored as they came.

use std::collections::HashMap;

use millrace_pipeline::spec::model::Pipeline;
use millrace_proto::v1::{self, PipelineFault, pipeline_service_server::PipelineService};
use tonic::{Request, Response, Status};

use super::audit::Deed;
use super::errors::{Reason, Violations, invalid, status};
use super::pages::Page;
use super::{Shared, caller};
use crate::applied::{self, Environment};

/// The service.
pub(crate) struct Pipelines(pub(crate) Shared);

#[tonic::async_trait]
impl PipelineService for Pipelines {
    async fn apply_pipeline(
        &self,
        request: Request<v1::ApplyPipelineRequest>,
    ) -> Result<Response<v1::ApplyPipelineResponse>, Status> {
        let caller = caller(&request);
        let message = request.into_inner();
        let checked = check(
            &message.text,
            &message.files,
            &message.file_name,
            &self.0.control.environment,
        );
        let name = checked
            .as_ref()
            .map_or_else(|_| String::new(), |pipeline| pipeline.name.to_string());
        let deed = Deed {
            caller: &caller,
            method: "ApplyPipeline",
            resource: &format!("pipelines/{name}"),
            request_id: "",
        };
        let applied = match checked {
            Ok(_) => self.0.apply(name.clone(), message, &caller.name).await,
            Err(faults) => Err(refused(&faults, &message.file_name)),
        };
        let (pipeline, changed) = deed.note(applied)?;
        let pipeline = Some(pipeline);
        Ok(Response::new(v1::ApplyPipelineResponse { pipeline, changed }))
    }

    async fn get_pipeline(
        &self,
        request: Request<v1::GetPipelineRequest>,
    ) -> Result<Response<v1::GetPipelineResponse>, Status> {
        let v1::GetPipelineRequest { name, version } = request.into_inner();
        if name.is_empty() {
            return Err(invalid("name", "the name of an applied pipeline"));
        }
        let pipeline = Some(self.0.registry.get_pipeline(&name, version).await?);
        Ok(Response::new(v1::GetPipelineResponse { pipeline }))
    }

    async fn list_pipelines(
        &self,
        request: Request<v1::ListPipelinesRequest>,
    ) -> Result<Response<v1::ListPipelinesResponse>, Status> {
        let v1::ListPipelinesRequest {
            page_size,
            page_token,
        } = request.into_inner();
        Page::check_size(page_size)?;
        let (pipelines, next_page_token) = self.0.registry.list_pipelines(page_size, &page_token).await?;
        Ok(Response::new(v1::ListPipelinesResponse {
            pipelines,
            next_page_token,
        }))
    }

    async fn delete_pipeline(
        &self,
        request: Request<v1::DeletePipelineRequest>,
    ) -> Result<Response<v1::DeletePipelineResponse>, Status> {
        let caller = caller(&request);
        let name = request.into_inner().name;
        let lead = self.0.control.lead()?;
        let deed = Deed {
            caller: &caller,
            method: "DeletePipeline",
            resource: &format!("pipelines/{name}"),
            request_id: "",
        };
        let deleted = self.0.registry.delete_pipeline(&lead, &name).await;
        deed.note(deleted.map_err(Status::from))?;
        Ok(Response::new(v1::DeletePipelineResponse {}))
    }

    async fn check_pipeline(
        &self,
        request: Request<v1::CheckPipelineRequest>,
    ) -> Result<Response<v1::CheckPipelineResponse>, Status> {
        let v1::CheckPipelineRequest {
            text,
            files,
            file_name,
        } = request.into_inner();
        let checked = check(&text, &files, &file_name, &self.0.control.environment);
        let faults = checked.err().unwrap_or_default();
        Ok(Response::new(v1::CheckPipelineResponse { faults }))
    }

    async fn verify_pipeline(
        &self,
        request: Request<v1::VerifyPipelineRequest>,
    ) -> Result<Response<v1::VerifyPipelineResponse>, Status> {
        self.0.verify(&request.into_inner().name).await.map(Response::new)
    }

    async fn list_batches(
        &self,
        request: Request<v1::ListBatchesRequest>,
    ) -> Result<Response<v1::ListBatchesResponse>, Status> {
        self.0.batches(request.into_inner()).await.map(Response::new)
    }
}

impl Shared {
    async fn apply(
        &self,
        name: String,
        message: v1::ApplyPipelineRequest,
        who: &str,
    ) -> Result<(v1::Pipeline, bool), Status> {
        let lead = self.control.lead()?;
        let digest = digest(&message.text, &message.files);
        let pipeline = v1::Pipeline {
            name,
            version: 0,
            text: message.text,
            files: message.files,
            digest,
            apply_time: Some(std::time::SystemTime::now().into()),
            applier: who.to_owned(),
        };
        Ok(self.registry.apply_pipeline(&lead, pipeline).await?)
    }
}

fn check(
    text: &str,
    files: &HashMap<String, Vec<u8>>,
    file_name: &str,
    environment: &Environment,
) -> Result<Pipeline, Vec<PipelineFault>> {
    let file_name = if file_name.is_empty() {
        "pipeline.yaml"
    } else {
        file_name
    };
    applied::load(text, files, file_name, &**environment)
}

/// A stored pipeline, read with this process's environment.
pub(crate) fn loaded(stored: &v1::Pipeline, environment: &Environment) -> Result<Pipeline, Status> {
    applied::load_stored(stored, &**environment).map_err(|faults| {
        // It was sound when it was applied: what it lacks now is in this process's environment.
        let name = format!("pipeline `{}` version {}", stored.name, stored.version);
        let first = faults
            .first()
            .map(|fault| fault.problem.clone())
            .unwrap_or_default();
        let text = format!("{name} cannot be read by this coordinator: {first}");
        status(Reason::WrongState, text, &[("pipeline", &stored.name)])
    })
}

/// Faults as a bad request: fields are `text:LINE:COLUMN: key`.
fn refused(faults: &[PipelineFault], file_name: &str) -> Status {
    let file = if file_name.is_empty() { "text" } else { file_name };
    let mut violations = Violations::default();
    for fault in faults {
        let place = format!("{file}:{}:{}", fault.line, fault.column);
        let field = if fault.path.is_empty() {
            place
        } else {
            format!("{place}: {}", fault.path)
        };
        violations.add(
            field,
            format!("{}; right would be: {}", fault.problem, fault.help),
        );
    }
    let refused = violations.into_result_of(Reason::PipelineFaults);
    refused.err().unwrap_or_else(|| Status::internal("no fault"))
}

/// BLAKE3 of text and files, in hex.
fn digest(text: &str, files: &HashMap<String, Vec<u8>>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(text.as_bytes());
    let mut names: Vec<&String> = files.keys().collect();
    names.sort();
    for name in names {
        part(name.as_bytes());
        part(&files[name]);
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_names_text_and_files_in_any_order() {
        let files = |pairs: &[(&str, &str)]| -> HashMap<String, Vec<u8>> {
            pairs
                .iter()
                .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
                .collect()
        };
        let one = digest("a", &files(&[("x", "1"), ("y", "2")]));
        assert_eq!(one, digest("a", &files(&[("y", "2"), ("x", "1")])));
        for other in [
            ("a", files(&[("x", "1")])),
            ("a", files(&[("x", "2"), ("y", "1")])),
            ("ax", files(&[])),
        ] {
            assert_ne!(one, digest(other.0, &other.1));
        }
    }
}
