//! Why a record cannot be decoded: every reason that can be found, in one slow and thorough pass.
//!
//! The fast path only knows that a record is broken. Here its line is walked again without limits, so
//! that a record that is too long, nested too deeply *and* cut off says all three.

use super::simd::Baseline;
use super::skip::{self, Depth, byte, space};
use crate::decode::DecodePlan;
use crate::rows::{Fault, FaultKind};

/// The reasons, never none. `line` is the record without its line end.
#[cold]
pub(super) fn faults(line: &[u8], plan: &DecodePlan) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |kind, detail: String| {
        faults.push(Fault {
            kind,
            column: None,
            detail,
        });
    };
    if line.len() as u64 > plan.record_bytes_max {
        let (length, max) = (line.len(), plan.record_bytes_max);
        fault(
            FaultKind::TooLarge,
            format!("{length} bytes, at most {max} are allowed"),
        );
    }
    if let Err(error) = std::str::from_utf8(line) {
        let at = error.valid_up_to();
        fault(
            FaultKind::Encoding,
            format!("not UTF-8 at byte {at} of the record"),
        );
    }
    let mut depth = Depth::at_most(u32::MAX);
    let start = space(line, 0);
    let walked = skip::value(Baseline, line, start, &mut depth);
    if depth.deepest > plan.depth_max {
        let (deepest, max) = (depth.deepest, plan.depth_max);
        fault(
            FaultKind::TooDeep,
            format!("nested {deepest} levels deep, at most {max} are allowed"),
        );
    }
    if let Some(found) = other_than_object(byte(line, start)) {
        fault(FaultKind::Syntax, format!("expected an object, found {found}"));
    }
    match walked {
        Err(at) if at >= line.len() => {
            fault(
                FaultKind::CutOff,
                format!("the record ends after {} bytes, inside a value", line.len()),
            );
        }
        Err(at) => fault(FaultKind::Syntax, format!("not JSON at byte {at} of the record")),
        Ok(end) => {
            let end = space(line, end);
            if end < line.len() {
                let detail = format!("{} bytes follow the object at byte {end}", line.len() - end);
                fault(FaultKind::Syntax, detail);
            }
        }
    }
    if faults.is_empty() {
        faults.push(Fault {
            kind: FaultKind::TooLarge,
            column: None,
            detail: "the record's texts do not fit a batch".to_owned(),
        });
    }
    faults
}

/// What a record is that begins like another JSON value.
fn other_than_object(first: u8) -> Option<&'static str> {
    match first {
        b'[' => Some("an array"),
        b'"' => Some("a string"),
        b'-' | b'0'..=b'9' => Some("a number"),
        b't' | b'f' => Some("a boolean"),
        b'n' => Some("null"),
        _ => None,
    }
}
