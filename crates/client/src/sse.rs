//! Server-sent events: bytes in, events out, as the HTML standard has it (section 9.2.6).

/// One event: its name (empty when the stream gave none) and its data lines joined by newlines.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub name: String,
    pub data: String,
    /// Where a stream that breaks after this event is resumed.
    pub id: Option<String>,
}

/// Collects bytes, which may be cut anywhere, even inside of a character.
#[derive(Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    after_cr: bool,
}

/// Bytes that one line may have; the server's are far shorter, and a stranger's must not fill the memory.
pub(crate) const LINE_BYTES: usize = 8 * 1024 * 1024;

/// A line longer than [`LINE_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Decoder {
    /// Appends the events that `bytes` complete to `events`.
    pub(crate) fn push(&mut self, bytes: &[u8], events: &mut impl Extend<Event>) -> Result<(), TooLong> {
        for &byte in bytes {
            let was_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if was_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ if self.line.len() >= LINE_BYTES => return Err(TooLong),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.to_owned(),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            "id" => self.event.id = Some(value.to_owned()),
            // A comment (its field is empty), which keeps the connection alive, or a field that we do not use.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for piece in pieces {
            decoder.push(piece, &mut events).expect("short lines");
        }
        events.into_iter().map(|event| (event.name, event.data)).collect()
    }

    #[test]
    fn events_come_out_the_same_wherever_the_bytes_are_cut() {
        let text = ": hello\n\nevent: log\ndata: {\"a\":\"é\"}\n\nid: 7\rdata:one\r\ndata: two\r\n\r\nevent: lost";
        let expect = vec![("log".to_owned(), "{\"a\":\"é\"}".to_owned()), (String::new(), "one\ntwo".to_owned())];
        for cut in 0..text.len() {
            let (a, b) = text.as_bytes().split_at(cut);
            assert_eq!(decode(&[a, b]), expect, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let mut decoder = Decoder::default();
        let piece = vec![b'x'; LINE_BYTES];
        let mut events = Vec::new();
        assert_eq!(decoder.push(&piece, &mut events), Ok(()));
        assert_eq!(decoder.push(b"x", &mut events), Err(TooLong));
    }
}
