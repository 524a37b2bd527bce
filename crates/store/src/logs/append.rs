//! Writing: each byte once, in rows that do not stay tiny.
//!
//! A task that prints a line now and then would leave a row per line. So the last rows of a log, its tail, are merged
//! when they are many or large enough to be one full row; each byte is rewritten a few times at most.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::chunk::{self, LARGEST};
use super::{Appended, LogAppend, LogKey};
use crate::port::StoreError;
use crate::sqlite::error::OrStoreError;

/// A tail of that many bytes becomes a row that stays.
const FULL: u64 = 32 << 10;
/// A tail of that many rows becomes one row, which may still be in the tail.
const TAIL_ROWS: u64 = 64;

/// Offsets beyond are nonsense from a worker, and would not fit into a column.
const LARGEST_OFFSET: u64 = 1 << 60;

/// A row of `stream`, to be written back.
struct Stream {
    id: i64,
    next_offset: u64,
    ended: bool,
    stored_bytes: u64,
    cut_at: Option<u64>,
    tail_start: u64,
    tail_rows: u64,
    tail_bytes: u64,
}

/// New bytes that follow each other.
struct Run {
    start: u64,
    bytes: Vec<u8>,
}

pub(super) fn append(db: &Connection, pieces: &[LogAppend], limit: u64) -> Result<Vec<Appended>, StoreError> {
    let mut streams: BTreeMap<LogKey, (Stream, Vec<Run>)> = BTreeMap::new();
    let mut answers = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (stream, runs) = match streams.entry(piece.key) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert((load(db, piece.key)?, Vec::new())),
        };
        answers.push(accept(stream, runs, piece));
    }
    for (stream, runs) in streams.values_mut() {
        for run in runs {
            store_run(db, stream, run, limit)?;
        }
        if stream.ended && stream.tail_rows > 1 {
            merge_tail(db, stream)?;
        }
        save(db, stream)?;
    }
    for (piece, answer) in pieces.iter().zip(&mut answers) {
        let cut_at = streams[&piece.key].0.cut_at;
        answer.dropped = answer.new_from < answer.next_offset && cut_at.is_some_and(|cut| cut < answer.next_offset);
    }
    Ok(answers)
}

/// Takes from a piece what is new.
fn accept(stream: &mut Stream, runs: &mut Vec<Run>, piece: &LogAppend) -> Appended {
    let known = stream.next_offset;
    let offset = piece.offset.min(LARGEST_OFFSET);
    let gap = (offset > known).then(|| (known, offset - known));
    let seen = usize::try_from(known.saturating_sub(offset)).unwrap_or(usize::MAX).min(piece.data.len());
    let new = &piece.data[seen..];
    let new_from = offset.max(known);
    stream.next_offset = new_from + new.len() as u64;
    stream.ended |= piece.end;
    if !new.is_empty() {
        match runs.last_mut() {
            Some(run) if run.start + run.bytes.len() as u64 == new_from => run.bytes.extend_from_slice(new),
            _ => runs.push(Run { start: new_from, bytes: new.to_vec() }),
        }
    }
    Appended { gap, new_from, next_offset: stream.next_offset, dropped: false }
}

fn store_run(db: &Connection, stream: &mut Stream, run: &Run, limit: u64) -> Result<(), StoreError> {
    if stream.tail_rows > 0 && stream.tail_start + stream.tail_bytes != run.start {
        // After a hole a new tail begins.
        merge_tail(db, stream)?;
        forget_tail(stream);
    }
    let mut start = run.start;
    for bytes in run.bytes.chunks(LARGEST) {
        if stream.cut_at.is_some() || stream.stored_bytes >= limit {
            stream.cut_at.get_or_insert(start);
            return Ok(());
        }
        insert_chunk(db, stream, start, bytes)?;
        if stream.tail_rows == 0 {
            stream.tail_start = start;
        }
        stream.tail_rows += 1;
        stream.tail_bytes += bytes.len() as u64;
        start += bytes.len() as u64;
        if stream.tail_bytes >= FULL || stream.tail_rows >= TAIL_ROWS {
            merge_tail(db, stream)?;
        }
    }
    Ok(())
}

/// Makes one row of the tail (two if it is longer than a row may be). A full one stays and is no tail any more.
fn merge_tail(db: &Connection, stream: &mut Stream) -> Result<(), StoreError> {
    if stream.tail_rows > 1 {
        let Some((bytes, stored)) = read_tail(db, stream)? else {
            // Damaged: it stays as it is, and readers see a hole.
            forget_tail(stream);
            return Ok(());
        };
        let sql = "DELETE FROM chunk WHERE stream_id = ?1 AND start >= ?2";
        let mut statement = db.prepare_cached(sql).or_store_error()?;
        statement.execute(params![stream.id, stream.tail_start.cast_signed()]).or_store_error()?;
        stream.stored_bytes = stream.stored_bytes.saturating_sub(stored);
        let mut start = stream.tail_start;
        for bytes in bytes.chunks(LARGEST) {
            insert_chunk(db, stream, start, bytes)?;
            start += bytes.len() as u64;
        }
        stream.tail_rows = 1;
    }
    if stream.tail_bytes >= FULL {
        forget_tail(stream);
    }
    Ok(())
}

/// The bytes of the tail, and how many they are as stored; `None` when a row is damaged.
fn read_tail(db: &Connection, stream: &Stream) -> Result<Option<(Vec<u8>, u64)>, StoreError> {
    let sql = "SELECT length, codec, data FROM chunk WHERE stream_id = ?1 AND start >= ?2 ORDER BY start";
    let mut statement = db.prepare_cached(sql).or_store_error()?;
    let mut rows = statement.query(params![stream.id, stream.tail_start.cast_signed()]).or_store_error()?;
    let (mut bytes, mut stored) = (Vec::new(), 0);
    while let Some(row) = rows.next().or_store_error()? {
        let length: u32 = row.get(0).or_store_error()?;
        let data = row.get_ref(2).or_store_error()?.as_blob().unwrap_or_default();
        let Some(unpacked) = chunk::unpack(row.get(1).or_store_error()?, data, length as usize) else {
            return Ok(None);
        };
        bytes.extend(unpacked);
        stored += data.len() as u64;
    }
    Ok((bytes.len() as u64 == stream.tail_bytes).then_some((bytes, stored)))
}

fn forget_tail(stream: &mut Stream) {
    (stream.tail_start, stream.tail_rows, stream.tail_bytes) = (0, 0, 0);
}

fn insert_chunk(db: &Connection, stream: &mut Stream, start: u64, bytes: &[u8]) -> Result<(), StoreError> {
    let (codec, data) = chunk::pack(bytes);
    let sql = "INSERT INTO chunk (stream_id, start, length, codec, data) VALUES (?1, ?2, ?3, ?4, ?5)";
    let values = params![stream.id, start.cast_signed(), bytes.len() as i64, codec.code(), data];
    db.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).or_store_error()?;
    stream.stored_bytes += data.len() as u64;
    Ok(())
}

/// Index `stream_key`; made if there is none.
fn load(db: &Connection, key: LogKey) -> Result<Stream, StoreError> {
    let sql = "SELECT id, next_offset, ended, stored_bytes, cut_at, tail_start, tail_rows, tail_bytes
               FROM stream WHERE instance_id = ?1 AND attempt = ?2 AND task = ?3";
    let stored = db.prepare_cached(sql).and_then(|mut statement| {
        let unsigned = |number: i64| number.max(0).cast_unsigned();
        let values = params![key.instance.0, key.attempt, key.task];
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Stream {
                id: row.get(0)?,
                next_offset: unsigned(row.get(1)?),
                ended: row.get(2)?,
                stored_bytes: unsigned(row.get(3)?),
                cut_at: row.get::<_, Option<i64>>(4)?.map(unsigned),
                tail_start: unsigned(row.get(5)?),
                tail_rows: unsigned(row.get(6)?),
                tail_bytes: unsigned(row.get(7)?),
            })
        };
        statement.query_row(values, read).optional()
    });
    if let Some(stream) = stored.or_store_error()? {
        return Ok(stream);
    }
    let sql = "INSERT INTO stream (app_id, instance_id, attempt, task) VALUES (?1, ?2, ?3, ?4)";
    let values = params![key.app.0, key.instance.0, key.attempt, key.task];
    let id = db.prepare_cached(sql).and_then(|mut statement| statement.insert(values)).or_store_error()?;
    Ok(Stream {
        id,
        next_offset: 0,
        ended: false,
        stored_bytes: 0,
        cut_at: None,
        tail_start: 0,
        tail_rows: 0,
        tail_bytes: 0,
    })
}

fn save(db: &Connection, stream: &Stream) -> Result<(), StoreError> {
    let sql = "UPDATE stream SET next_offset = ?2, ended = ?3, stored_bytes = ?4, cut_at = ?5, tail_start = ?6,
                                 tail_rows = ?7, tail_bytes = ?8
               WHERE id = ?1";
    let values = params![
        stream.id,
        stream.next_offset.cast_signed(),
        stream.ended,
        stream.stored_bytes.cast_signed(),
        stream.cut_at.map(u64::cast_signed),
        stream.tail_start.cast_signed(),
        stream.tail_rows.cast_signed(),
        stream.tail_bytes.cast_signed(),
    ];
    db.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).or_store_error()?;
    Ok(())
}
