//! What a script prints, on its way to the log: bounded lines, a bounded whole, results picked out. Pure.

use pendula_model::limits;
use serde_json::{Map, Value};

/// Bytes of a line, after which a line break is put in.
pub const LINE_BYTES: usize = 64 * 1024;
/// Bytes of the end of the output that are kept for messages.
const TAIL_BYTES: usize = 2048;
const MARK: &[u8] = b"::output ";

/// Takes chunks as they come and gives what to log. Memory is bounded whatever comes.
pub struct OutputFilter {
    /// Bytes that may still be logged.
    left: u64,
    limit: u64,
    /// Whether something was left out.
    cut: bool,
    /// Bytes that a line may have: [`LINE_BYTES`].
    line_bytes: usize,
    /// Bytes logged since the last line break, put-in ones included.
    column: usize,
    /// The current line as long as it may be a result: all of `::output …`, or a beginning of the mark.
    candidate: Option<Vec<u8>>,
    collected: Collected,
}

/// What the output said besides being logged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// From lines `::output name=value`; the last one of a name counts.
    pub outputs: Map<String, Value>,
    /// Bytes of names and values.
    bytes: usize,
    /// Whether results were left out because they exceed [`limits::RESULT_BYTES`].
    pub too_large: bool,
    /// Lines that begin with the mark and say no name and value.
    pub malformed: u64,
    /// The end of the output.
    tail: Vec<u8>,
}

impl OutputFilter {
    /// At most `limit` bytes will be logged.
    pub fn new(limit: u64) -> Self {
        OutputFilter::with_lines(limit, LINE_BYTES)
    }

    fn with_lines(limit: u64, line_bytes: usize) -> Self {
        OutputFilter {
            left: limit,
            limit,
            cut: false,
            line_bytes,
            column: 0,
            candidate: Some(Vec::new()),
            collected: Collected::default(),
        }
    }

    /// Whether the next byte begins a line.
    pub fn at_line_start(&self) -> bool {
        self.column == 0
    }

    /// Passes a chunk on: `log` is what to write to the log, in order. Returns the line to put there once, when the
    /// limit is reached in this chunk.
    pub fn feed(&mut self, chunk: &[u8], log: &mut Vec<u8>) -> Option<String> {
        let before = log.len();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.feed_piece(piece, log);
        }
        let produced = (log.len() - before) as u64;
        let kept = produced.min(self.left);
        log.truncate(before + kept as usize);
        self.left -= kept;
        self.collected.keep_tail(chunk);
        let reached = kept < produced && !std::mem::replace(&mut self.cut, kept < produced);
        reached.then(|| format!("the output exceeds {} bytes; the rest is not logged", self.limit))
    }

    /// `piece` is a part of one line and has a line break at most at its end.
    fn feed_piece(&mut self, piece: &[u8], log: &mut Vec<u8>) {
        let (text, ended) = match piece.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (piece, false),
        };
        if let Some(line) = &mut self.candidate {
            line.extend_from_slice(text);
            let compared = line.len().min(MARK.len());
            if line[..compared] != MARK[..compared] || line.len() > LINE_BYTES {
                // A result that long exceeds what results may have.
                self.collected.too_large |= line.starts_with(MARK);
                self.candidate = None;
            }
        }
        let mut rest = text;
        while self.column + rest.len() > self.line_bytes {
            let (fits, more) = rest.split_at(character_start(rest, self.line_bytes - self.column));
            log.extend_from_slice(fits);
            log.push(b'\n');
            self.column = 0;
            rest = more;
        }
        log.extend_from_slice(rest);
        self.column += rest.len();
        if ended {
            log.push(b'\n');
            if let Some(line) = self.candidate.replace(Vec::new()) {
                self.collected.take_line(&line);
            }
            self.column = 0;
        }
    }

    /// The output has ended, perhaps inside a line.
    pub fn finish(mut self) -> Collected {
        if let Some(line) = self.candidate.take() {
            self.collected.take_line(&line);
        }
        self.collected
    }
}

/// The last position up to `at` that does not lie inside a UTF-8 character; `at` where there is none nearby.
fn character_start(bytes: &[u8], at: usize) -> usize {
    (at.saturating_sub(3)..=at).rev().find(|at| bytes[*at] & 0b1100_0000 != 0b1000_0000).unwrap_or(at)
}

impl Collected {
    fn take_line(&mut self, line: &[u8]) {
        let Some(assignment) = line.strip_prefix(MARK) else { return };
        let assignment = String::from_utf8_lossy(assignment.strip_suffix(b"\r").unwrap_or(assignment)).into_owned();
        let is_name = |name: &str| {
            (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        match assignment.split_once('=') {
            Some((name, value)) if is_name(name) => {
                self.bytes += name.len() + value.len();
                if self.bytes > limits::RESULT_BYTES {
                    self.too_large = true;
                } else {
                    self.outputs.insert(name.to_owned(), Value::String(value.to_owned()));
                }
            }
            _ => self.malformed += 1,
        }
    }

    fn keep_tail(&mut self, chunk: &[u8]) {
        let chunk = &chunk[chunk.len().saturating_sub(TAIL_BYTES)..];
        self.tail.extend_from_slice(chunk);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
    }

    /// The last lines, at most ten, for a message.
    pub fn last_lines(&self) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(limit: u64, chunks: &[&[u8]]) -> (Vec<u8>, Vec<String>, Collected) {
        let mut filter = OutputFilter::new(limit);
        let (mut log, mut notes) = (Vec::new(), Vec::new());
        for chunk in chunks {
            notes.extend(filter.feed(chunk, &mut log));
        }
        (log, notes, filter.finish())
    }

    #[test]
    fn results_are_found_wherever_chunks_break() {
        let text = b"hi\n::output a=1\r\n ::output no=1\n::output b==x y\n::outputs\n::output \n::output a=2";
        for at in 0..text.len() {
            let (log, _, collected) = run(1000, &[&text[..at], &text[at..]]);
            assert_eq!(log, text);
            let expected = serde_json::json!({ "a": "2", "b": "=x y" });
            assert_eq!(Value::Object(collected.outputs.clone()), expected, "{at}");
            assert_eq!(collected.malformed, 1);
        }
    }

    #[test]
    fn long_lines_are_broken_and_their_parts_are_no_results() {
        let mut line = vec![b'x'; LINE_BYTES];
        line.extend_from_slice(b"::output a=1\nend\n");
        let (log, _, collected) = run(1 << 20, &[&line]);
        assert_eq!(log.iter().position(|byte| *byte == b'\n'), Some(LINE_BYTES));
        assert!(log.ends_with(b"\n::output a=1\nend\n") && collected.outputs.is_empty());
        let (log, _, _) = run(1 << 20, &[&vec![b'x'; LINE_BYTES], b"\n"]);
        assert_eq!(log.len(), LINE_BYTES + 1);
        let mut filter = OutputFilter::with_lines(100, 4);
        let mut log = Vec::new();
        filter.feed("abcéd\u{80}ef".as_bytes(), &mut log);
        assert_eq!(String::from_utf8(log).unwrap(), "abc\néd\n\u{80}ef");
    }

    #[test]
    fn sec_14_a_flood_is_cut_once_and_results_still_count() {
        let (log, notes, collected) = run(10, &[b"12345\n", b"67890\n", b"more\n::output a=1\n"]);
        assert_eq!((log.as_slice(), notes.len()), (&b"12345\n6789"[..], 1));
        assert_eq!(collected.outputs["a"], "1");
        assert_eq!(collected.last_lines(), "12345\n67890\nmore\n::output a=1");
        let (log, notes, _) = run(6, &[b"12345\n", b"x", b"y"]);
        assert_eq!((log.as_slice(), notes.len()), (&b"12345\n"[..], 1));
        assert!(run(6, &[b"12345\n"]).1.is_empty());
    }

    #[test]
    fn sec_14_results_are_bounded() {
        let big = format!("::output a={}\n", "x".repeat(limits::RESULT_BYTES));
        assert!(run(1 << 20, &[big.as_bytes()]).2.too_large);
        let endless = [b"::output a=".as_slice(), &[b'x'; 200_000]].concat();
        assert!(run(1 << 20, &[&endless]).2.too_large);
    }

    proptest! {
        #[test]
        fn chunking_never_matters(
            bytes in proptest::collection::vec(proptest::sample::select(b"ab\n".to_vec()), 0..80),
            cuts in proptest::collection::vec(0usize..80, 0..6),
        ) {
            let run = |cuts: &[usize]| {
                let mut filter = OutputFilter::with_lines(40, 5);
                let (mut log, mut notes, mut from) = (Vec::new(), 0, 0);
                for to in cuts.iter().copied().chain([bytes.len()]) {
                    notes += usize::from(filter.feed(&bytes[from..to], &mut log).is_some());
                    from = to;
                }
                (log, notes, filter.finish())
            };
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            let whole = run(&[]);
            prop_assert!(whole.0.split(|byte| *byte == b'\n').all(|line| line.len() <= 5));
            prop_assert_eq!(run(&cuts), whole);
        }
    }
}
