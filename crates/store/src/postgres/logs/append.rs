//! Appending: read how far the logs are, decide, write it in one round trip.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use deadpool_postgres::Object;
use tokio_postgres::error::SqlState;

use super::{Failure, Step, Value, fly, is_standby, store_error};
use crate::logs::growth::{Growing, Growth, Stream, Tail};
use crate::logs::{Appended, LogAppend, LogKey, chunk};
use crate::port::StoreError;
use crate::postgres::error::{is_lost_race, is_stale_statement};
use crate::postgres::flight::exactly;
use crate::postgres::read::query;

/// So often what was decided is decided anew, because another server wrote the same logs meanwhile: workers moved to it, or
/// from it, and it was faster.
const RACES: usize = 5;

/// Why nothing was appended.
pub(super) enum Refused {
    /// The connection leads to a server that takes no writes (any more).
    Standby(StoreError),
    Store(StoreError),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Refused {
        Refused::Store(error)
    }
}

/// A log whose row was read.
struct Known {
    /// Of the row; `None` when there is none yet.
    version: Option<i64>,
    growing: Growing,
}

pub(super) async fn append(
    client: &Object,
    pieces: &[&LogAppend],
    limit: u64,
    is_synced: bool,
) -> Result<Vec<Appended>, Refused> {
    for race in 1.. {
        let (logs, mut answers) = accept(client, pieces).await?;
        let grown = grow(client, logs, limit).await?;
        for (piece, answer) in pieces.iter().zip(&mut answers) {
            grown[&piece.key].1.complete(answer);
        }
        let apps: BTreeMap<LogKey, i64> = pieces.iter().map(|piece| (piece.key, piece.key.app.0)).collect();
        let Err(Failure { error, .. }) = fly(client, &steps(&grown, &apps, is_synced)).await? else {
            return Ok(answers);
        };
        if is_stale_statement(&error) {
            client.statement_cache.clear();
        }
        if is_standby(&error) {
            return Err(Refused::Standby(store_error(&error)));
        }
        if !(is_overtaken(&error) || is_lost_race(&error)) {
            return Err(Refused::Store(store_error(&error)));
        }
        if race == RACES {
            let why = "other servers append to the same logs all the time".to_owned();
            return Err(Refused::Store(StoreError::Unavailable { why }));
        }
    }
    unreachable!("the last race ends it")
}

/// Whether a row was not as it had been read: an update met fewer rows, or an insert one that was there.
fn is_overtaken(error: &tokio_postgres::Error) -> bool {
    let code = error.code();
    code == Some(&SqlState::DIVISION_BY_ZERO) || code == Some(&SqlState::UNIQUE_VIOLATION)
}

/// Index `log_stream_pkey`, once for each log.
const STREAMS: &str = "
    SELECT s.instance_id, s.attempt, s.task, s.version, s.next_offset, s.ended, s.stored_bytes, s.cut_at, s.tail_start,
           s.tail_rows, s.tail_bytes
    FROM unnest($1, $2, $3) AS wanted (instance_id, attempt, task)
    JOIN log_stream s ON s.instance_id = wanted.instance_id AND s.attempt = wanted.attempt AND s.task = wanted.task";

async fn accept(
    client: &Object,
    pieces: &[&LogAppend],
) -> Result<(BTreeMap<LogKey, Known>, Vec<Appended>), StoreError> {
    // An app is not part of a log's key, but of the caller's.
    let apps: BTreeMap<_, _> = pieces.iter().map(|piece| (place(piece.key), piece.key)).collect();
    let mut stored: BTreeMap<(i64, i64, i64), (i64, Stream)> = BTreeMap::new();
    for row in query(client, STREAMS, &places(apps.values().copied())).await? {
        let unsigned = |column: usize| row.get::<_, i64>(column).max(0).cast_unsigned();
        let stream = Stream {
            next_offset: unsigned(4),
            ended: row.get(5),
            stored_bytes: unsigned(6),
            cut_at: row.get::<_, Option<i64>>(7).map(|cut| cut.max(0).cast_unsigned()),
            tail_start: unsigned(8),
            tail_rows: unsigned(9),
            tail_bytes: unsigned(10),
        };
        stored.insert((row.get(0), row.get(1), row.get(2)), (row.get(3), stream));
    }
    let mut logs: BTreeMap<LogKey, Known> = BTreeMap::new();
    let mut answers = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let known = match logs.entry(piece.key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let (version, stream) = match stored.get(&place(piece.key)) {
                    Some((version, stream)) => (Some(*version), *stream),
                    None => (None, Stream::default()),
                };
                new.insert(Known { version, growing: Growing::new(stream) })
            }
        };
        answers.push(known.growing.accept(piece));
    }
    Ok((logs, answers))
}

/// Index `log_chunk_pkey`, once for each log whose tail is full: all rows from the offset on.
const TAILS: &str = "
    SELECT c.instance_id, c.attempt, c.task, c.length, c.codec, c.data
    FROM unnest($1, $2, $3, $4) AS wanted (instance_id, attempt, task, start)
    JOIN log_chunk c ON c.instance_id = wanted.instance_id AND c.attempt = wanted.attempt AND c.task = wanted.task
        AND c.start >= wanted.start
    ORDER BY c.instance_id, c.attempt, c.task, c.start";

async fn grow(
    client: &Object,
    logs: BTreeMap<LogKey, Known>,
    limit: u64,
) -> Result<BTreeMap<LogKey, (Option<i64>, Growth)>, StoreError> {
    let wanted: Vec<(LogKey, u64)> =
        logs.iter().filter_map(|(key, known)| Some((*key, known.growing.wanted_tail()?))).collect();
    let mut tails: BTreeMap<(i64, i64, i64), Option<Tail>> = BTreeMap::new();
    if !wanted.is_empty() {
        let mut values = places(wanted.iter().map(|(key, _)| *key));
        values.push(Value::Ints(wanted.iter().map(|(_, start)| Some(start.cast_signed())).collect()));
        for row in query(client, TAILS, &values).await? {
            let place = (row.get(0), row.get(1), row.get(2));
            let tail = tails.entry(place).or_insert_with(|| Some(Tail { bytes: Vec::new(), stored: 0 }));
            let data: &[u8] = row.get(5);
            let length = usize::try_from(row.get::<_, i64>(3)).unwrap_or(0);
            // One row that cannot be read is enough.
            *tail = tail.take().and_then(|mut tail| {
                tail.bytes.extend(chunk::unpack(row.get::<_, i16>(4).into(), data, length)?);
                tail.stored += data.len() as u64;
                Some(tail)
            });
        }
    }
    let grow = |(key, known): (LogKey, Known)| {
        let tail = tails.remove(&place(key)).flatten();
        (key, (known.version, known.growing.finish(tail, limit)))
    };
    Ok(logs.into_iter().map(grow).collect())
}

/// What is awaited by nobody: the answer comes when the database has written it down, which its disk has seen soon.
const UNSYNCED: &str = "SELECT set_config('synchronous_commit', 'off', TRUE)";

/// Index `log_stream_pkey`. Holds the rows until the end of the transaction, and fails when one is not as it was read.
const UPDATE: &str = concat!(
    "WITH written AS (
         UPDATE log_stream s
         SET version = s.version + 1, next_offset = new.next_offset, ended = new.ended, stored_bytes = new.stored_bytes,
             cut_at = new.cut_at, tail_start = new.tail_start, tail_rows = new.tail_rows, tail_bytes = new.tail_bytes
         FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             AS new (instance_id, attempt, task, version, next_offset, ended, stored_bytes, cut_at, tail_start, tail_rows,
                     tail_bytes)
         WHERE s.instance_id = new.instance_id AND s.attempt = new.attempt AND s.task = new.task
             AND s.version = new.version
         RETURNING 1)",
    exactly!("$1")
);

/// Fails when there is one already.
const INSERT: &str = "
    INSERT INTO log_stream (instance_id, attempt, task, app_id, version, next_offset, ended, stored_bytes, cut_at,
                            tail_start, tail_rows, tail_bytes)
    SELECT instance_id, attempt, task, app_id, 1, next_offset, ended, stored_bytes, cut_at, tail_start, tail_rows, tail_bytes
    FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        AS new (instance_id, attempt, task, app_id, next_offset, ended, stored_bytes, cut_at, tail_start, tail_rows,
                tail_bytes)";

/// Index `log_chunk_pkey`.
const DELETE_TAILS: &str = "
    DELETE FROM log_chunk c USING unnest($1, $2, $3, $4) AS gone (instance_id, attempt, task, start)
    WHERE c.instance_id = gone.instance_id AND c.attempt = gone.attempt AND c.task = gone.task AND c.start >= gone.start";

const INSERT_CHUNKS: &str = "
    INSERT INTO log_chunk (instance_id, attempt, task, start, length, codec, data)
    SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7)";

type Grown<'g> = (LogKey, Option<i64>, &'g Growth);

/// The logs' rows first: they guard the others.
fn steps<'g>(
    grown: &'g BTreeMap<LogKey, (Option<i64>, Growth)>,
    apps: &BTreeMap<LogKey, i64>,
    is_synced: bool,
) -> Vec<Step<'g>> {
    let all = || grown.iter().map(|(key, (version, growth))| (*key, *version, growth));
    let (old, new): (Vec<Grown<'g>>, Vec<Grown<'g>>) = all().partition(|(_, version, _)| version.is_some());
    let mut steps = Vec::new();
    if !is_synced {
        steps.push(Step { sql: UNSYNCED, values: Vec::new() });
    }
    if !old.is_empty() {
        let mut values = vec![Value::count(old.len())];
        values.extend(places(old.iter().map(|(key, ..)| *key)));
        values.push(Value::Ints(old.iter().map(|(_, version, _)| *version).collect()));
        values.extend(extents(&old));
        steps.push(Step { sql: UPDATE, values });
    }
    if !new.is_empty() {
        let mut values = places(new.iter().map(|(key, ..)| *key));
        values.push(Value::Ints(new.iter().map(|(key, ..)| apps.get(key).copied()).collect()));
        values.extend(extents(&new));
        steps.push(Step { sql: INSERT, values });
    }
    let replaced: Vec<_> = all().filter_map(|(key, _, growth)| Some((key, growth.replaced_from?))).collect();
    if !replaced.is_empty() {
        let mut values = places(replaced.iter().map(|(key, _)| *key));
        values.push(Value::Ints(replaced.iter().map(|(_, start)| Some(start.cast_signed())).collect()));
        steps.push(Step { sql: DELETE_TAILS, values });
    }
    let chunks: Vec<_> =
        all().flat_map(|(key, _, growth)| growth.chunks.iter().map(move |chunk| (key, chunk))).collect();
    if !chunks.is_empty() {
        let mut values = places(chunks.iter().map(|(key, _)| *key));
        values.push(Value::Ints(chunks.iter().map(|(_, chunk)| Some(chunk.start.cast_signed())).collect()));
        values.push(Value::Ints(chunks.iter().map(|(_, chunk)| Some(chunk.length.cast_signed())).collect()));
        values.push(Value::Codes(chunks.iter().map(|(_, chunk)| i16::try_from(chunk.codec.code()).ok()).collect()));
        values.push(Value::Blobs(chunks.iter().map(|(_, chunk)| Some(chunk.data.as_slice())).collect()));
        steps.push(Step { sql: INSERT_CHUNKS, values });
    }
    steps
}

/// The key of a log in the tables.
fn place(key: LogKey) -> (i64, i64, i64) {
    (key.instance.0, key.attempt.into(), key.task.into())
}

/// The columns of [`place`].
fn places<'v>(keys: impl Iterator<Item = LogKey> + Clone) -> Vec<Value<'v>> {
    vec![
        Value::Ints(keys.clone().map(|key| Some(place(key).0)).collect()),
        Value::Ints(keys.clone().map(|key| Some(place(key).1)).collect()),
        Value::Ints(keys.map(|key| Some(place(key).2)).collect()),
    ]
}

/// From `next_offset` on, the columns of a log's row.
fn extents<'v>(logs: &[Grown<'_>]) -> Vec<Value<'v>> {
    let ints = |value: fn(&Stream) -> Option<u64>| {
        Value::Ints(logs.iter().map(|(.., growth)| value(&growth.stream).map(u64::cast_signed)).collect())
    };
    vec![
        ints(|stream| Some(stream.next_offset)),
        Value::Flags(logs.iter().map(|(.., growth)| Some(growth.stream.ended)).collect()),
        ints(|stream| Some(stream.stored_bytes)),
        ints(|stream| stream.cut_at),
        ints(|stream| Some(stream.tail_start)),
        ints(|stream| Some(stream.tail_rows)),
        ints(|stream| Some(stream.tail_bytes)),
    ]
}
