//! Reading: from any offset.

use deadpool_postgres::Object;

use super::Value;
use crate::logs::assembly::{Assembly, Extent};
use crate::logs::{LogKey, LogPart};
use crate::port::StoreError;
use crate::postgres::read::query;

/// Bytes in a row that is not one of the last few, at least.
const FULL: usize = 32 << 10;

/// Rows asked for at once, at most: some MiB.
const ROWS: usize = 64;

/// Index `log_stream_pkey`, then `log_chunk_pkey`: the row that has the offset, and some that follow. One statement, so
/// that all of it is of one moment.
const READ: &str = "
    SELECT s.next_offset, s.ended, s.cut_at, c.start, c.length, c.codec, c.data
    FROM log_stream s
    LEFT JOIN LATERAL (
        SELECT start, length, codec, data FROM log_chunk
        WHERE instance_id = s.instance_id AND attempt = s.attempt AND task = s.task
            AND start >= coalesce((
                SELECT max(start) FROM log_chunk
                WHERE instance_id = s.instance_id AND attempt = s.attempt AND task = s.task AND start <= $5), $5)
        ORDER BY start LIMIT $6) c ON TRUE
    WHERE s.instance_id = $1 AND s.attempt = $2 AND s.task = $3 AND s.app_id = $4
    ORDER BY c.start";

/// See [`LogStore::read`](crate::logs::LogStore::read).
pub(super) async fn read(client: &Object, key: LogKey, from: u64, max_bytes: usize) -> Result<LogPart, StoreError> {
    let mut assembly = Assembly::new(from, max_bytes);
    let limit = (max_bytes / FULL).saturating_add(2).min(ROWS);
    loop {
        let mut values = place(key);
        values.push(Value::Int(i64::try_from(assembly.next_offset()).unwrap_or(i64::MAX)));
        values.push(Value::count(limit));
        let rows = query(client, READ, &values).await?;
        let Some(first) = rows.first() else {
            return Ok(LogPart { next_offset: from, ..LogPart::default() });
        };
        let unsigned = |number: i64| number.max(0).cast_unsigned();
        let extent = Extent {
            total: unsigned(first.get(0)),
            ended: first.get(1),
            cut_at: first.get::<_, Option<i64>>(2).map(unsigned),
        };
        for row in &rows {
            if assembly.is_full() {
                break;
            }
            // A log without any row has one line of nothing.
            let Some(start) = row.get::<_, Option<i64>>(3) else { continue };
            let length = u32::try_from(row.get::<_, i64>(4)).unwrap_or(0);
            assembly.add(unsigned(start), length, row.get::<_, i16>(5).into(), row.get(6));
        }
        if assembly.is_full() || rows.len() < limit {
            return Ok(assembly.finish(extent));
        }
    }
}

const TOTAL: &str = "
    SELECT next_offset FROM log_stream WHERE instance_id = $1 AND attempt = $2 AND task = $3 AND app_id = $4";

/// Bytes that a log has so far, gaps included; nothing when there is none.
pub(super) async fn total(client: &Object, key: LogKey) -> Result<Option<u64>, StoreError> {
    let rows = query(client, TOTAL, &place(key)).await?;
    Ok(rows.first().map(|row| row.get::<_, i64>(0).max(0).cast_unsigned()))
}

fn place<'v>(key: LogKey) -> Vec<Value<'v>> {
    vec![Value::Int(key.instance.0), Value::Int(key.attempt.into()), Value::Int(key.task.into()), Value::Int(key.app.0)]
}
