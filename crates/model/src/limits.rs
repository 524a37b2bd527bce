//! How large things may be. Each limit is enforced where the thing enters the system, with an error that names it.

use crate::invalid::Invalid;

/// Characters in the name of a namespace, app, job or worker.
pub const NAME_CHARS: usize = 128;
/// Bytes of a definition as JSON.
pub const DEFINITION_BYTES: usize = 256 * 1024;
/// Bytes of the parameters of one instance as JSON.
pub const PARAMS_BYTES: usize = 64 * 1024;
/// Bytes of the result of an instance.
pub const RESULT_BYTES: usize = 64 * 1024;
/// Bytes of the result of one task of an instance with many.
pub const TASK_RESULT_BYTES: usize = 1024 * 1024;
/// Bytes of the input of one sub-task.
pub const TASK_INPUT_BYTES: usize = 256 * 1024;
/// Bytes of the name of one sub-task.
pub const TASK_NAME_BYTES: usize = 256;
/// Tasks of one instance.
pub const TASKS: u64 = 100_000_000;
/// Shards of one instance.
pub const SHARDS: u32 = 10_000;
/// Workers that the frozen list of a broadcast may have.
pub const TARGETS: usize = 10_000;
/// Bytes of the message kept with an ended row; longer ones are cut.
pub const MESSAGE_BYTES: usize = 4 * 1024;
/// Bytes of an idempotency key.
pub const IDEMPOTENCY_KEY_BYTES: usize = 128;
/// Labels of a worker or of a selector.
pub const LABELS: usize = 64;
/// Slots that one worker may advertise.
pub const SLOTS: u32 = 100_000;
/// Processors that one worker may offer.
pub const PROCESSORS: usize = 1_000;
/// Waiting instances that a job with a concurrency limit may queue.
pub const QUEUE: u32 = 1_000_000;

/// Accepts what can stand in a URL path, a log line and a table: 1 to 128 characters, none of them a control
/// character, `/`, or white space at an end; not `.` or `..`.
pub fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    let allowed = "1 to 128 characters without `/`, control characters, or spaces at the ends";
    let chars = name.chars().count();
    let bad = chars == 0
        || chars > NAME_CHARS
        || name.trim() != name
        || name == "."
        || name == ".."
        || name.chars().any(|c| c.is_control() || c == '/' || turns_text_around(c));
    if bad {
        let shown: String = name.chars().take(40).collect();
        return Err(Invalid::new(field, format!("{shown:?} is not a name; allowed: {allowed}")));
    }
    Ok(())
}

/// Marks that make a name look like another one on a screen: they change the direction of what follows.
fn turns_text_around(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Cuts `text` to at most `bytes` bytes at a character boundary, marking the cut.
pub fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut end = bytes.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_be_in_any_script_but_not_break_a_path() {
        for name in ["nightly-report", "每日报表", "a b", "x".repeat(128).as_str()] {
            assert!(check_name("name", name).is_ok(), "{name}");
        }
        for name in ["", " a", "a/b", "..", "a\nb", "a\u{202e}b", "x".repeat(129).as_str()] {
            assert!(check_name("name", name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_cut_keeps_characters_whole() {
        assert_eq!(cut("ééééé", 7), "éé…");
        assert_eq!(cut("abc", 3), "abc");
    }
}
