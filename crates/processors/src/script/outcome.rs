//! How an attempt at a script went, from its end and what it said. Pure.

use pendula_model::instance::{Payload, Reason};
use pendula_model::limits;
use pendula_worker::{Failure, Output};
use serde_json::{Map, Value};

use super::output::Collected;
use super::scratch::ResultFileError;

/// How the script itself ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Whether it had been asked to stop.
    pub asked: bool,
}

/// Success if the code is one of `success_codes` (0 when there are none) and the results are what results may be.
pub(super) fn judge(
    ending: Ending,
    success_codes: &[i32],
    collected: Collected,
    file: Result<Option<Vec<u8>>, ResultFileError>,
) -> Result<Output, Failure> {
    let last_lines = collected.last_lines();
    let results = results(collected, file);
    let with_lines = |what: String| if last_lines.is_empty() { what } else { format!("{what}: {last_lines}") };
    let failure = match (ending.code, ending.signal) {
        (Some(code), _) if success_codes.contains(&code) || (success_codes.is_empty() && code == 0) => {
            let result = results?;
            return Ok(Output { message: None, result });
        }
        (Some(code), _) => Failure::new(Reason::EXIT_CODE, with_lines(format!("exit code {code}"))),
        (None, Some(signal)) => {
            let hint = match signal {
                9 if !ending.asked => ", which often means that memory ran out",
                _ => "",
            };
            let name = signal_name(signal);
            Failure::new(Reason::SIGNAL, with_lines(format!("ended by signal {signal}{name}{hint}")))
        }
        (None, None) => Failure::new(Reason::FAILED, "nobody knows how the script ended"),
    };
    // Results that cannot be kept must not hide why the script failed.
    Err(Failure { result: results.unwrap_or(None), ..failure })
}

/// Lines and file as one JSON object. In the file, an object is merged over the lines; anything else becomes the
/// value of `result`.
fn results(collected: Collected, file: Result<Option<Vec<u8>>, ResultFileError>) -> Result<Option<Payload>, Failure> {
    let too_large = |what: String| Failure::new(Reason::from_wire("result_too_large"), what).without_retry();
    if collected.too_large {
        return Err(too_large(format!("the lines `::output …` have more than {} bytes", limits::RESULT_BYTES)));
    }
    let mut object: Map<String, Value> = collected.outputs;
    match file {
        Ok(None) => {}
        Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
            Ok(Value::Object(from_file)) => object.extend(from_file),
            Ok(value) => {
                object.insert("result".to_owned(), value);
            }
            Err(_) => {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                if !text.is_empty() {
                    object.insert("result".to_owned(), Value::String(text));
                }
            }
        },
        Err(error @ ResultFileError::TooLarge) => return Err(too_large(error.to_string())),
        Err(error) => return Err(Failure::new(Reason::FAILED, error.to_string())),
    }
    if object.is_empty() {
        return Ok(None);
    }
    let json = Value::Object(object).to_string();
    if json.len() > limits::RESULT_BYTES {
        return Err(too_large(format!("the results have {} bytes, at most {}", json.len(), limits::RESULT_BYTES)));
    }
    Ok(Some(Payload::json(json)))
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => " (HUP)",
        2 => " (INT)",
        3 => " (QUIT)",
        4 => " (ILL)",
        6 => " (ABRT)",
        7 => " (BUS)",
        8 => " (FPE)",
        9 => " (KILL)",
        11 => " (SEGV)",
        13 => " (PIPE)",
        14 => " (ALRM)",
        15 => " (TERM)",
        24 => " (XCPU)",
        25 => " (XFSZ)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::output::OutputFilter;

    fn printed(text: &str) -> Collected {
        let mut filter = OutputFilter::new(1 << 20);
        filter.feed(text.as_bytes(), &mut Vec::new());
        filter.finish()
    }

    fn exited(code: i32) -> Ending {
        Ending { code: Some(code), signal: None, asked: false }
    }

    fn json(payload: Option<Payload>) -> Value {
        serde_json::from_slice(&payload.expect("there is a result").bytes).unwrap()
    }

    #[test]
    fn codes_decide() {
        assert_eq!(judge(exited(0), &[], printed("hi\n"), Ok(None)), Ok(Output::default()));
        assert_eq!(judge(exited(3), &[0, 3], printed(""), Ok(None)), Ok(Output::default()));
        assert!(judge(exited(0), &[3], printed(""), Ok(None)).is_err());
        let failure = judge(exited(2), &[], printed("a\nb\n\n"), Ok(None)).unwrap_err();
        assert_eq!((failure.reason, failure.message.as_str()), (Reason::EXIT_CODE, "exit code 2: a\nb"));
        let killed = Ending { code: None, signal: Some(9), asked: false };
        let failure = judge(killed, &[], printed(""), Ok(None)).unwrap_err();
        assert_eq!(failure.reason, Reason::SIGNAL);
        assert!(failure.message.contains("KILL") && failure.message.contains("memory"));
    }

    #[test]
    fn file_and_lines_become_one_object_also_when_the_script_fails() {
        let lines = "::output a=1\n::output b=2\n";
        let file = || Ok(Some(br#"{"b":[3]}"#.to_vec()));
        let output = judge(exited(0), &[], printed(lines), file()).unwrap();
        assert_eq!(json(output.result), serde_json::json!({ "a": "1", "b": [3] }));
        let failure = judge(exited(1), &[], printed(lines), file()).unwrap_err();
        assert_eq!(json(failure.result), serde_json::json!({ "a": "1", "b": [3] }));
        for (text, expected) in [("5\n", serde_json::json!(5)), ("plain text\n", serde_json::json!("plain text"))] {
            let output = judge(exited(0), &[], printed(""), Ok(Some(text.into()))).unwrap();
            assert_eq!(json(output.result)["result"], expected);
        }
        assert_eq!(judge(exited(0), &[], printed(""), Ok(Some(b"\n".to_vec()))).unwrap().result, None);
    }

    #[test]
    fn results_that_cannot_be_kept_fail_a_good_script_and_do_not_hide_a_bad_end() {
        let failure = judge(exited(0), &[], printed(""), Err(ResultFileError::TooLarge)).unwrap_err();
        assert_eq!((failure.reason.as_str(), failure.retry), ("result_too_large", false));
        let failure = judge(exited(1), &[], printed(""), Err(ResultFileError::TooLarge)).unwrap_err();
        assert_eq!(failure.reason, Reason::EXIT_CODE);
    }
}
