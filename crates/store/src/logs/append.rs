//! Appending to the file.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use rusqlite::{Connection, OptionalExtension, params};

use super::growth::{Growing, Growth, Stream, Tail};
use super::{Appended, LogAppend, LogKey, chunk};
use crate::port::StoreError;
use crate::sqlite::error::OrStoreError;

pub(super) fn append(db: &Connection, pieces: &[LogAppend], limit: u64) -> Result<Vec<Appended>, StoreError> {
    let mut growing: BTreeMap<LogKey, (i64, Growing)> = BTreeMap::new();
    let mut answers = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (_, log) = match growing.entry(piece.key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let (id, stream) = load(db, piece.key)?;
                new.insert((id, Growing::new(stream)))
            }
        };
        answers.push(log.accept(piece));
    }
    let mut grown: BTreeMap<LogKey, Growth> = BTreeMap::new();
    for (key, (id, log)) in growing {
        let tail = log.wanted_tail().map(|start| read_tail(db, id, start)).transpose()?.flatten();
        let growth = log.finish(tail, limit);
        save(db, id, &growth)?;
        grown.insert(key, growth);
    }
    for (piece, answer) in pieces.iter().zip(&mut answers) {
        grown[&piece.key].complete(answer);
    }
    Ok(answers)
}

/// The rows from `start` on; `None` when one is damaged.
fn read_tail(db: &Connection, id: i64, start: u64) -> Result<Option<Tail>, StoreError> {
    let sql = "SELECT length, codec, data FROM chunk WHERE stream_id = ?1 AND start >= ?2 ORDER BY start";
    let mut statement = db.prepare_cached(sql).or_store_error()?;
    let mut rows = statement.query(params![id, start.cast_signed()]).or_store_error()?;
    let mut tail = Tail { bytes: Vec::new(), stored: 0 };
    while let Some(row) = rows.next().or_store_error()? {
        let length: u32 = row.get(0).or_store_error()?;
        let data = row.get_ref(2).or_store_error()?.as_blob().unwrap_or_default();
        let Some(unpacked) = chunk::unpack(row.get(1).or_store_error()?, data, length as usize) else {
            return Ok(None);
        };
        tail.bytes.extend(unpacked);
        tail.stored += data.len() as u64;
    }
    Ok(Some(tail))
}

/// Index `stream_key`; made if there is none.
fn load(db: &Connection, key: LogKey) -> Result<(i64, Stream), StoreError> {
    let sql = "SELECT id, next_offset, ended, stored_bytes, cut_at, tail_start, tail_rows, tail_bytes
               FROM stream WHERE instance_id = ?1 AND attempt = ?2 AND task = ?3";
    let stored = db.prepare_cached(sql).and_then(|mut statement| {
        let unsigned = |number: i64| number.max(0).cast_unsigned();
        let values = params![key.instance.0, key.attempt, key.task];
        let read = |row: &rusqlite::Row<'_>| {
            let stream = Stream {
                next_offset: unsigned(row.get(1)?),
                ended: row.get(2)?,
                stored_bytes: unsigned(row.get(3)?),
                cut_at: row.get::<_, Option<i64>>(4)?.map(unsigned),
                tail_start: unsigned(row.get(5)?),
                tail_rows: unsigned(row.get(6)?),
                tail_bytes: unsigned(row.get(7)?),
            };
            Ok((row.get(0)?, stream))
        };
        statement.query_row(values, read).optional()
    });
    if let Some(stored) = stored.or_store_error()? {
        return Ok(stored);
    }
    let sql = "INSERT INTO stream (app_id, instance_id, attempt, task) VALUES (?1, ?2, ?3, ?4)";
    let values = params![key.app.0, key.instance.0, key.attempt, key.task];
    let id = db.prepare_cached(sql).and_then(|mut statement| statement.insert(values)).or_store_error()?;
    Ok((id, Stream::default()))
}

fn save(db: &Connection, id: i64, growth: &Growth) -> Result<(), StoreError> {
    if let Some(start) = growth.replaced_from {
        let sql = "DELETE FROM chunk WHERE stream_id = ?1 AND start >= ?2";
        let mut statement = db.prepare_cached(sql).or_store_error()?;
        statement.execute(params![id, start.cast_signed()]).or_store_error()?;
    }
    for chunk in &growth.chunks {
        let sql = "INSERT INTO chunk (stream_id, start, length, codec, data) VALUES (?1, ?2, ?3, ?4, ?5)";
        let (start, length) = (chunk.start.cast_signed(), chunk.length.cast_signed());
        let values = params![id, start, length, chunk.codec.code(), chunk.data];
        db.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).or_store_error()?;
    }
    let sql = "UPDATE stream SET next_offset = ?2, ended = ?3, stored_bytes = ?4, cut_at = ?5, tail_start = ?6,
                                 tail_rows = ?7, tail_bytes = ?8
               WHERE id = ?1";
    let stream = &growth.stream;
    let values = params![
        id,
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
