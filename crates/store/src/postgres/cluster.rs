//! Servers, their leases, and whose partitions are.
//!
//! All times are the database's own. What a server may do does not hang on any of it being seen in time: a partition's
//! epoch decides, which each commit names.

use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::Object;
use pendula_model::worker::BootId;
use pendula_model::{Epoch, PartitionId, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::PostgresStore;
use super::commit::RACES;
use super::error::{OrStoreError, is_lost_race};
use super::flight::{Step, fly};
use super::read::{at_one_moment, prepared, query, within};
use super::values::{Value, stored_boot};
use crate::cluster::{Cluster, ClusterView, Holding, Renewal, Seat, Seated};
use crate::port::StoreError;

/// A lease has run out by then, or nearly so; a claim may have waited for a lock before.
const ANSWER: Duration = Duration::from_secs(6);

/// Microseconds since the Unix epoch, now and not when the transaction began.
macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    };
}

const JOIN: &str = concat!(
    "INSERT INTO server (boot, name, address, version, joined_at, expires_at, leaving, skew_micros)
     SELECT $1::bigint, $2::text, $3::text, $4::text, now.at, now.at + $5::bigint, FALSE, 0 FROM (SELECT ",
    now!(),
    " AS at) AS now
     ON CONFLICT (boot) DO UPDATE SET name = excluded.name, address = excluded.address, version = excluded.version,
         joined_at = excluded.joined_at, expires_at = excluded.expires_at, leaving = FALSE, skew_micros = 0"
);

const RENEW: &str = concat!(
    "UPDATE server SET expires_at = ",
    now!(),
    " + $2, leaving = $3, skew_micros = $4 WHERE boot = $1 AND expires_at > ",
    now!(),
    " RETURNING boot"
);

const NOW: &str = concat!("SELECT ", now!());

const SERVERS: &str = "
    SELECT boot, name, address, version, joined_at, expires_at, leaving, skew_micros FROM server";

const HOLDINGS: &str = "SELECT id, owner, epoch, since FROM partition ORDER BY id";

/// Waits for the row as long as somebody commits, and then looks at it again.
const CLAIM: &str = concat!(
    "UPDATE partition SET owner = $2, epoch = epoch + 1, batch = 0, since = ",
    now!(),
    " WHERE id = $1 AND epoch = $3
          AND EXISTS (SELECT 1 FROM server WHERE boot = $2 AND expires_at > ",
    now!(),
    ") AND (owner IS NULL OR owner = $2
              OR NOT EXISTS (SELECT 1 FROM server WHERE boot = partition.owner AND expires_at > ",
    now!(),
    ")) RETURNING epoch"
);

/// Whoever has it, whatever lease there is.
const TAKE: &str = concat!(
    "UPDATE partition SET owner = NULL, epoch = epoch + 1, batch = 0, since = ",
    now!(),
    " WHERE id = $1 RETURNING epoch"
);

const IS_THERE: &str = "SELECT 1 FROM partition WHERE id = $1";

const RELEASE: &str = concat!(
    "UPDATE partition SET owner = NULL, since = ",
    now!(),
    " WHERE id = $1 AND owner = $2 AND epoch = $3 RETURNING id"
);

const RELEASE_ALL: &str = concat!("UPDATE partition SET owner = NULL, since = ", now!(), " WHERE owner = $1");

const LEAVE: &str = "DELETE FROM server WHERE boot = $1";

const FORGET: &str = concat!(
    "DELETE FROM server WHERE expires_at <= ",
    now!(),
    " - $1 AND NOT EXISTS (SELECT 1 FROM partition WHERE owner = server.boot) RETURNING boot"
);

const SECRET: &str = "SELECT value FROM meta WHERE key = 'secret'";

fn micros(duration: Duration) -> Value<'static> {
    Value::Int(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4))
}

fn boot(id: BootId) -> Value<'static> {
    Value::Int(stored_boot(id))
}

fn short(partition: PartitionId) -> Value<'static> {
    Value::Short(partition.0.into())
}

fn missing(partition: PartitionId) -> StoreError {
    StoreError::Corrupt { why: format!("there is no row for partition {partition}") }
}

/// Runs a statement that writes, again when it lost a race: what it wants may not be so any more then.
async fn write(client: &Object, sql: &'static str, values: &[Value<'_>]) -> Result<Vec<Row>, StoreError> {
    let statement = prepared(client, sql, values).await?;
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
    for race in 1.. {
        match client.query(&statement, &values).await {
            Err(error) if is_lost_race(&error) && race < RACES => {}
            rows => return rows.or_store_error(),
        }
    }
    unreachable!("the last race is not run again")
}

impl PostgresStore {
    async fn lease<T>(&self, work: impl AsyncFnOnce(&mut Object) -> Result<T, StoreError>) -> Result<T, StoreError> {
        within(&self.leases, ANSWER, work).await
    }

    /// [`Store::partition_claim`](crate::Store::partition_claim).
    pub(super) async fn take(&self, partition: PartitionId) -> Result<Epoch, StoreError> {
        let rows = self.lease(async |client| write(client, TAKE, &[short(partition)]).await).await?;
        let row = rows.first().ok_or_else(|| missing(partition))?;
        row.try_get(0).map(Epoch).or_store_error()
    }
}

#[async_trait]
impl Cluster for PostgresStore {
    async fn join(&self, seat: &Seat, ttl: Duration) -> Result<(), StoreError> {
        let (name, address, version) =
            (Value::text(&seat.name), Value::text(&seat.address), Value::text(&seat.version));
        let values = &[boot(seat.boot), name, address, version, micros(ttl)];
        self.lease(async |client| write(client, JOIN, values).await).await.map(drop)
    }

    async fn renew(&self, renewal: Renewal) -> Result<bool, StoreError> {
        let leaving = Value::Flag(renewal.is_leaving);
        let values = [boot(renewal.boot), micros(renewal.ttl), leaving, Value::Int(renewal.skew_micros)];
        Ok(!self.lease(async |client| write(client, RENEW, &values).await).await?.is_empty())
    }

    async fn view(&self) -> Result<ClusterView, StoreError> {
        let look = async |client: &mut Object| {
            let moment = at_one_moment(client).await?;
            let now = query(&moment, NOW, &[]).await?;
            let servers = query(&moment, SERVERS, &[]).await?;
            let holdings = query(&moment, HOLDINGS, &[]).await?;
            moment.commit().await.or_store_error()?;
            Ok((now, servers, holdings))
        };
        let (now, servers, holdings) = self.lease(look).await?;
        let now = now.first().map_or(Ok(0), |row| row.try_get(0)).map(Timestamp::from_micros).or_store_error()?;
        let seated = |row: &Row| seated(row, now);
        let mut servers = servers.iter().map(seated).collect::<Result<Vec<_>, _>>().or_store_error()?;
        servers.sort_unstable_by_key(|server| server.seat.boot);
        let holdings = holdings.iter().map(holding).collect::<Result<_, _>>().or_store_error()?;
        Ok(ClusterView { now, servers, holdings })
    }

    async fn claim(&self, partition: PartitionId, owner: BootId, seen: Epoch) -> Result<Option<Epoch>, StoreError> {
        let claim = async |client: &mut Object| {
            let rows = write(client, CLAIM, &[short(partition), boot(owner), Value::Int(seen.0)]).await?;
            if let Some(row) = rows.first() {
                return row.try_get(0).map(|epoch| Some(Epoch(epoch))).or_store_error();
            }
            match query(client, IS_THERE, &[short(partition)]).await?.is_empty() {
                true => Err(missing(partition)),
                false => Ok(None),
            }
        };
        self.lease(claim).await
    }

    async fn release(&self, partition: PartitionId, owner: BootId, epoch: Epoch) -> Result<bool, StoreError> {
        let values = [short(partition), boot(owner), Value::Int(epoch.0)];
        Ok(!self.lease(async |client| write(client, RELEASE, &values).await).await?.is_empty())
    }

    async fn leave(&self, owner: BootId) -> Result<(), StoreError> {
        let steps = [RELEASE_ALL, LEAVE].map(|sql| Step { sql, values: vec![boot(owner)] });
        self.lease(async |client| fly(client, &steps).await)
            .await?
            .map_err(|failure| super::error::store_error(&failure.error))
    }

    async fn forget_servers(&self, longer_than: Duration) -> Result<usize, StoreError> {
        let forget = async |client: &mut Object| write(client, FORGET, &[micros(longer_than)]).await;
        Ok(self.lease(forget).await?.len())
    }

    async fn secret(&self) -> Result<[u8; 32], StoreError> {
        let rows = self.lease(async |client| query(client, SECRET, &[]).await).await?;
        let text = rows.first().and_then(|row| row.try_get::<_, &str>(0).ok());
        text.and_then(from_hex)
            .ok_or_else(|| StoreError::Corrupt { why: "the row `secret` of `meta` is missing or wrong".to_owned() })
    }
}

fn seated(row: &Row, now: Timestamp) -> Result<Seated, tokio_postgres::Error> {
    Ok(Seated {
        seat: Seat {
            boot: BootId(row.try_get::<_, i64>(0)?.cast_unsigned()),
            name: row.try_get(1)?,
            address: row.try_get(2)?,
            version: row.try_get(3)?,
        },
        joined_at: Timestamp::from_micros(row.try_get(4)?),
        expires_in: Timestamp::from_micros(row.try_get(5)?).since(now),
        is_leaving: row.try_get(6)?,
        skew_micros: row.try_get(7)?,
    })
}

fn holding(row: &Row) -> Result<Holding, tokio_postgres::Error> {
    // The column's CHECK keeps it in range.
    let partition = PartitionId(u16::try_from(row.try_get::<_, i32>(0)?).unwrap_or(u16::MAX));
    let owner: Option<i64> = row.try_get(1)?;
    Ok(Holding {
        partition,
        owner: owner.map(|boot| BootId(boot.cast_unsigned())),
        epoch: Epoch(row.try_get(2)?),
        since: Timestamp::from_micros(row.try_get(3)?),
    })
}

/// 32 bytes as they are stored.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let is_hex = text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    for (index, byte) in bytes.iter_mut().enumerate().filter(|_| is_hex) {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    is_hex.then_some(bytes)
}
