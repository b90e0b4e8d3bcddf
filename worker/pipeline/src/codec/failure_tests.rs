//! What failures tell, and that the engine's quoting takes nothing from them.

use arrow::array::StringArray;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use datafusion::physical_plan::empty::EmptyExec;
use millrace_proto::split::InputObject;

use super::*;
use crate::dedup::DedupError;
use crate::dedup::claims::ClaimError;
use crate::source::{split_schema, splits_batch};

fn split(url: &str, start: u64, end: u64) -> Split {
    Split {
        index: 0,
        object: InputObject {
            url: url.to_owned(),
            size: end,
            version: "1".to_owned(),
        },
        start,
        end,
    }
}

fn changed(url: &str) -> SourceError {
    SourceError::Changed {
        url: url.to_owned(),
        expected: "e1".to_owned(),
        expected_size: 10,
        found: "e2".to_owned(),
        found_size: 12,
    }
}

/// As the engine wraps errors on their way.
fn wrapped(error: DataFusionError) -> DataFusionError {
    DataFusionError::Shared(Arc::new(error)).context("reading")
}

#[test]
fn a_failure_names_its_step_its_input_and_what_to_do() {
    let splits = [
        split("s3://raw/a.json", 0, 10),
        split("s3://raw/b.json", 0, 12),
        split("kafka://events/3", 500, 900),
    ];
    let error = at(Step::Scan, changed("s3://raw/b.json").into());
    // A later step adds nothing.
    let failure = TaskFailure::of(&at(Step::Sink, wrapped(error)), &splits);
    assert_eq!(
        failure.to_string(),
        "a task failed at step `scan` over `s3://raw/b.json`, bytes 0..12: `s3://raw/b.json` has changed since it was listed: \
         expected 10 bytes of version e1, found 12 bytes of version e2; put that version back, or submit the input again to \
         read what is there now"
    );
    assert!(failure.is_final && !failure.may_pass);
    // What is about none of them is said of the task's first few.
    let gone = ClaimError::Gone {
        executor_id: "w-7".to_owned(),
    };
    let error = at(
        Step::Dedup,
        DataFusionError::External(Box::new(DedupError::from(gone))),
    );
    let many = [splits.to_vec(), splits.to_vec()].concat();
    let failure = TaskFailure::of(&error, &many);
    assert_eq!(
        failure.to_string(),
        "a task failed at step `dedup` over `s3://raw/a.json`, bytes 0..10 and `s3://raw/b.json`, bytes 0..12 and topic \
         `events`, partition 3, offsets 500..900 and 3 more splits: keys could not be claimed: the worker that kept claims \
         as w-7 is gone"
    );
    assert!(!failure.is_final && !failure.may_pass);
}

/// In one process no step notes where an error came from.
#[test]
fn an_error_of_ours_tells_its_step_itself() {
    let gone = ClaimError::Gone {
        executor_id: "w-7".to_owned(),
    };
    let errors: [(DataFusionError, Option<Step>); 3] = [
        (wrapped(changed("s3://raw/b.json").into()), Some(Step::Scan)),
        (
            DataFusionError::External(Box::new(DedupError::from(gone))),
            Some(Step::Dedup),
        ),
        (DataFusionError::Execution("the engine's".to_owned()), None),
    ];
    for (error, step) in errors {
        assert_eq!(TaskFailure::of(&error, &[]).step, step, "{error}");
    }
}

#[test]
fn an_error_that_may_quote_a_value_is_left_out() {
    let secret = "carol@example.com";
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let column = StringArray::from(vec![secret]);
    let refused = || cast_with_options(&column, &DataType::Int64, &strict).unwrap_err();
    assert!(refused().to_string().contains(secret), "the test tests nothing");
    let foreign = [
        DataFusionError::from(refused()),
        wrapped(refused().into()),
        DataFusionError::External(Box::new(DedupError::from(refused()))),
        DataFusionError::Execution(format!("no {secret} here")),
        DataFusionError::Execution(format!("task 7 panicked with message \"no {secret}\"")),
    ];
    for error in foreign {
        let failure = TaskFailure::of(&at(Step::Map, error), &[]);
        let (said, travels) = (failure.to_string(), format!("{failure:?}"));
        assert!(said.starts_with("a task failed at step `map`: "), "{said}");
        assert!(!said.contains("carol") && !travels.contains("carol"), "{said}");
    }
}

#[test]
fn a_failure_comes_back_however_often_it_is_quoted() {
    let url = "s3://raw/\"quoted\" \\ näme\n%41.json";
    let failure = TaskFailure::of(&at(Step::Scan, changed(url).into()), &[split(url, 0, 10)]);
    assert_eq!(failure.input, [format!("`{url}`, bytes 0..10")]);
    let error = DataFusionError::from(failure.clone());
    let mut text = format!("Task failed: DataFusionError({error:?})");
    for _ in 0..3 {
        assert_eq!(TaskFailure::find(&text), Some(failure.clone()), "{text}");
        text = format!("most recent failure reason: {text:?}");
    }
    for strange in [
        "",
        MARK,
        "millrace-failure:%zz",
        "millrace-failure:%7",
        "millrace-failure:%7b%7d",
    ] {
        assert_eq!(TaskFailure::find(strange), None, "{strange}");
    }
}

/// The engine gives a task to another worker where its error is one of I/O.
#[test]
fn what_may_pass_stays_an_io_error() {
    let read = SourceError::Read {
        url: "file:///a".to_owned(),
        position: 7,
        source: io::ErrorKind::TimedOut.into(),
    };
    let failure = TaskFailure::of(&wrapped(at(Step::Scan, read.into())), &[]);
    assert!(failure.may_pass && !failure.is_final);
    let error = DataFusionError::from(failure.clone());
    assert!(matches!(error.find_root(), DataFusionError::IoError(_)));
    assert_eq!(TaskFailure::find(&format!("{error:?}")), Some(failure));
    let lasting = DataFusionError::from(TaskFailure::of(&changed("s3://a/b").into(), &[]));
    assert!(matches!(lasting.find_root(), DataFusionError::External(_)));
}

#[test]
fn the_splits_of_a_task_stand_in_its_plan() {
    let splits = vec![split("s3://raw/a.json", 0, 10), split("s3://raw/b.json", 5, 10)];
    let rows = vec![vec![splits_batch(&splits).unwrap()]];
    let source = MemorySourceConfig::try_new_exec(&rows, split_schema(), None).unwrap();
    let plan: Arc<dyn ExecutionPlan> =
        Arc::new(datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec::new(source));
    assert_eq!(splits_below(&plan), splits);
    let none: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(split_schema()));
    assert!(splits_below(&none).is_empty());
}
