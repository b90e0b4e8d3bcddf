//! ModelService: the models of a pipeline, and how far each is. They run by themselves: nobody asks for that here.

use chrono::DateTime;
use millrace_pipeline::spec::marts::{Every, Mart};
use millrace_proto::v1::model_service_server::ModelService;
use millrace_proto::v1::{self, PeriodState};
use std::sync::Arc;
use std::time::SystemTime;
use tonic::{Request, Response, Status};

use super::errors::invalid;
use super::pages::Page;
use super::{Shared, refusals};
use crate::marts::due::{Period, Standing, periods};
use crate::marts::{MartRun, period_name};

/// The service.
pub(crate) struct Models(pub(crate) Shared);

#[tonic::async_trait]
impl ModelService for Models {
    async fn list_models(
        &self,
        request: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let (marts, all) = self.0.periods(&request.into_inner().pipeline).await?;
        let model = |(at, mart): (usize, &Mart)| {
            let own = || all.iter().filter(move |period| period.mart == at);
            let count = |standing| {
                let count = own().filter(|period| period.standing == standing).count();
                u32::try_from(count).unwrap_or(u32::MAX)
            };
            v1::Model {
                name: mart.name.clone(),
                every: match mart.every {
                    Every::Hour => "hour".to_owned(),
                    Every::Day => "day".to_owned(),
                },
                warehouse_table: mart.table.clone().unwrap_or_default(),
                waiting: count(Standing::Waiting),
                due: count(Standing::Due),
                outdated: count(Standing::Outdated),
                current: count(Standing::Current),
                rows: own()
                    .filter_map(|period| period.run.as_ref())
                    .map(|run| run.object.rows)
                    .sum(),
            }
        };
        let models = marts.iter().enumerate().map(model).collect();
        Ok(Response::new(v1::ListModelsResponse { models }))
    }

    async fn list_periods(
        &self,
        request: Request<v1::ListPeriodsRequest>,
    ) -> Result<Response<v1::ListPeriodsResponse>, Status> {
        let message = request.into_inner();
        let asked = message.state();
        let list = format!(
            "periods {} {} {}",
            message.pipeline,
            message.model,
            asked.as_str_name()
        );
        let page = Page::of(message.page_size, &message.page_token, list)?;
        let (marts, all) = self.0.periods(&message.pipeline).await?;
        if !message.model.is_empty() && !marts.iter().any(|mart| mart.name == message.model) {
            return Err(invalid(
                "model",
                "a model of the pipeline, as `ListModels` names it",
            ));
        }
        // Places in the list sort as texts do.
        let place = |period: &Period| format!("{:04} {:012}", period.mart, period.from_hour);
        let mut found: Vec<(String, v1::Period)> = all
            .iter()
            .map(|period| (place(period), shown(&marts, period)))
            .filter(|(_, period)| message.model.is_empty() || period.model == message.model)
            .filter(|(_, period)| asked == PeriodState::Unspecified || period.state() == asked)
            .filter(|(place, _)| page.after.as_ref().is_none_or(|after| place > after))
            .take(page.size + 1)
            .collect();
        let next_page_token = page.cut(&mut found, |(place, _)| place);
        Ok(Response::new(v1::ListPeriodsResponse {
            periods: found.into_iter().map(|(_, period)| period).collect(),
            next_page_token,
        }))
    }
}

impl Shared {
    async fn periods(&self, name: &str) -> Result<(Vec<Mart>, Vec<Period>), Status> {
        let pipeline = Arc::new(self.pipeline(name).await?);
        let opened = self.control.lakes.open(Arc::clone(&pipeline)).await;
        let (_, state) = opened.map_err(|error| refusals::lake(error.as_ref()))?;
        let all = periods(&state, &pipeline.marts, pipeline.partition.lateness_seconds);
        Ok((pipeline.marts.clone(), all))
    }
}

fn shown(marts: &[Mart], period: &Period) -> v1::Period {
    let state = match period.standing {
        Standing::Waiting => PeriodState::Waiting,
        Standing::Due => PeriodState::Due,
        Standing::Outdated => PeriodState::Outdated,
        Standing::Current => PeriodState::Current,
    };
    v1::Period {
        model: marts
            .get(period.mart)
            .map(|mart| mart.name.clone())
            .unwrap_or_default(),
        period: period_name(period.from_hour, period.hours),
        state: state.into(),
        result: period.run.as_ref().map(result),
    }
}

fn result(run: &MartRun) -> v1::PeriodResult {
    let time = DateTime::from_timestamp_micros(run.at_us);
    v1::PeriodResult {
        version: run.version,
        key: run.object.key.clone(),
        rows: run.object.rows,
        bytes: run.object.bytes,
        compute_time: time.map(|time| SystemTime::from(time).into()),
    }
}
