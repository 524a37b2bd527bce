//! Reading from the file: from any offset.

use rusqlite::{Connection, OptionalExtension, params};

use super::assembly::{Assembly, Extent};
use super::{LogKey, LogPart};
use crate::port::StoreError;
use crate::sqlite::error::OrStoreError;

/// Where to begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum Window {
    From(u64),
    /// So many bytes before what is stored now.
    Last(u64),
}

pub(super) fn read(db: &mut Connection, key: LogKey, window: Window, max_bytes: usize) -> Result<LogPart, StoreError> {
    // One transaction: rows may be merged meanwhile.
    let transaction = db.transaction().or_store_error()?;
    let Some((id, extent)) = find(&transaction, key)? else {
        let next_offset = if let Window::From(from) = window { from } else { 0 };
        return Ok(LogPart { next_offset, ..LogPart::default() });
    };
    let from = match window {
        Window::From(from) => from,
        Window::Last(bytes) => extent.total.saturating_sub(bytes),
    };
    read_chunks(&transaction, id, extent, from, max_bytes)
}

/// Index `chunk_key`: the chunk that has the offset, and what follows.
const CHUNKS: &str = "
    SELECT start, length, codec, data FROM chunk
    WHERE stream_id = ?1
        AND start >= coalesce((SELECT max(start) FROM chunk WHERE stream_id = ?1 AND start <= ?2), ?2)
    ORDER BY start";

fn read_chunks(db: &Connection, id: i64, extent: Extent, from: u64, max_bytes: usize) -> Result<LogPart, StoreError> {
    let mut assembly = Assembly::new(from, max_bytes);
    let mut statement = db.prepare_cached(CHUNKS).or_store_error()?;
    let mut rows = statement.query(params![id, i64::try_from(from).unwrap_or(i64::MAX)]).or_store_error()?;
    while !assembly.is_full()
        && let Some(row) = rows.next().or_store_error()?
    {
        let start = row.get::<_, i64>(0).or_store_error()?.max(0).cast_unsigned();
        let data = row.get_ref(3).or_store_error()?.as_blob().unwrap_or_default();
        assembly.add(start, row.get(1).or_store_error()?, row.get(2).or_store_error()?, data);
    }
    Ok(assembly.finish(extent))
}

fn find(db: &Connection, key: LogKey) -> Result<Option<(i64, Extent)>, StoreError> {
    let sql = "SELECT id, next_offset, ended, cut_at FROM stream
               WHERE instance_id = ?1 AND attempt = ?2 AND task = ?3 AND app_id = ?4";
    let values = params![key.instance.0, key.attempt, key.task, key.app.0];
    let unsigned = |number: i64| number.max(0).cast_unsigned();
    let read = |row: &rusqlite::Row<'_>| {
        let extent = Extent {
            total: unsigned(row.get(1)?),
            ended: row.get(2)?,
            cut_at: row.get::<_, Option<i64>>(3)?.map(unsigned),
        };
        Ok((row.get(0)?, extent))
    };
    db.prepare_cached(sql).and_then(|mut statement| statement.query_row(values, read).optional()).or_store_error()
}
