//! Reading: from any offset, with what is missing named.

use rusqlite::{Connection, OptionalExtension, params};

use super::{LogKey, LogPart, chunk};
use crate::port::StoreError;
use crate::sqlite::error::OrStoreError;

/// Where to begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum Window {
    From(u64),
    /// So many bytes before what is stored now.
    Last(u64),
}

struct Stream {
    id: i64,
    total: u64,
    ended: bool,
    cut_at: Option<u64>,
}

pub(super) fn read(db: &mut Connection, key: LogKey, window: Window, max_bytes: usize) -> Result<LogPart, StoreError> {
    // One transaction: rows may be merged meanwhile.
    let transaction = db.transaction().or_store_error()?;
    let Some(stream) = find(&transaction, key)? else {
        let next_offset = if let Window::From(from) = window { from } else { 0 };
        return Ok(LogPart { next_offset, ..LogPart::default() });
    };
    let from = match window {
        Window::From(from) => from,
        Window::Last(bytes) => stream.total.saturating_sub(bytes),
    };
    read_chunks(&transaction, &stream, from, max_bytes)
}

/// Index `chunk_key`: the chunk that has the offset, and what follows.
const CHUNKS: &str = "
    SELECT start, length, codec, data FROM chunk
    WHERE stream_id = ?1
        AND start >= coalesce((SELECT max(start) FROM chunk WHERE stream_id = ?1 AND start <= ?2), ?2)
    ORDER BY start";

fn read_chunks(db: &Connection, stream: &Stream, from: u64, max_bytes: usize) -> Result<LogPart, StoreError> {
    let mut part = LogPart { next_offset: from, total: stream.total, cut_at: stream.cut_at, ..LogPart::default() };
    let mut statement = db.prepare_cached(CHUNKS).or_store_error()?;
    let mut rows = statement.query(params![stream.id, i64::try_from(from).unwrap_or(i64::MAX)]).or_store_error()?;
    while part.data.len() < max_bytes {
        let Some(row) = rows.next().or_store_error()? else {
            skip_to(&mut part, stream.total);
            break;
        };
        let start = row.get::<_, i64>(0).or_store_error()?.max(0).cast_unsigned();
        let length: u32 = row.get(1).or_store_error()?;
        let end = start + u64::from(length);
        if end <= part.next_offset {
            continue;
        }
        skip_to(&mut part, start);
        let data = row.get_ref(3).or_store_error()?.as_blob().unwrap_or_default();
        let Some(bytes) = chunk::unpack(row.get(2).or_store_error()?, data, length as usize) else {
            tracing::error!(stream = stream.id, start, "a chunk of a log is damaged; readers see a hole");
            skip_to(&mut part, end);
            continue;
        };
        let skipped = (part.next_offset - start) as usize;
        let taken = (bytes.len() - skipped).min(max_bytes - part.data.len());
        part.data.extend_from_slice(&bytes[skipped..skipped + taken]);
        part.next_offset += taken as u64;
    }
    part.end = stream.ended && part.next_offset >= stream.total;
    Ok(part)
}

/// Notes that what lies before `offset` is missing.
fn skip_to(part: &mut LogPart, offset: u64) {
    if offset > part.next_offset {
        part.gaps.push((part.next_offset, offset - part.next_offset));
        part.next_offset = offset;
    }
}

fn find(db: &Connection, key: LogKey) -> Result<Option<Stream>, StoreError> {
    let sql = "SELECT id, next_offset, ended, cut_at FROM stream
               WHERE instance_id = ?1 AND attempt = ?2 AND task = ?3 AND app_id = ?4";
    let values = params![key.instance.0, key.attempt, key.task, key.app.0];
    let unsigned = |number: i64| number.max(0).cast_unsigned();
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Stream {
            id: row.get(0)?,
            total: unsigned(row.get(1)?),
            ended: row.get(2)?,
            cut_at: row.get::<_, Option<i64>>(3)?.map(unsigned),
        })
    };
    db.prepare_cached(sql).and_then(|mut statement| statement.query_row(values, read).optional()).or_store_error()
}
