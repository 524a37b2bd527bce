//! The rows that a new database starts with, and that no other may lack.

use tokio_postgres::Client;

use super::error::OrStoreError;
use crate::port::StoreError;

/// Facts in `meta` without which nobody is served.
const FACTS: [&str; 5] = ["partitions", "installation", "created_at", "last_deleted_id", "secret"];

/// Inserts them, within the transaction that makes the tables.
pub(super) async fn plant(client: &Client, partitions: u16) -> Result<(), StoreError> {
    let now: String = client
        .query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint", &[])
        .await
        .map(|row| pendula_model::Timestamp::from_micros(row.get(0)).to_string())
        .or_store_error()?;
    let facts = [
        ("partitions", partitions.to_string()),
        ("installation", random_hex::<16>()?),
        ("created_at", now),
        ("last_deleted_id", "0".to_owned()),
        ("secret", random_hex::<32>()?),
    ];
    for (key, value) in facts {
        client.execute("INSERT INTO meta (key, value) VALUES ($1, $2)", &[&key, &value]).await.or_store_error()?;
    }
    let ids: Vec<i32> = (0..i32::from(partitions)).collect();
    client.execute("INSERT INTO partition (id) SELECT unnest($1::int[])", &[&ids]).await.or_store_error()?;
    Ok(())
}

fn random_hex<const BYTES: usize>() -> Result<String, StoreError> {
    let mut bytes = [0; BYTES];
    let source = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    source
        .fill(&mut bytes)
        .map_err(|_| StoreError::Unavailable { why: "there is no source of randomness".to_owned() })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The number of partitions that the database was made with; `None` when the row is missing or wrong.
pub(super) async fn stored_partitions(client: &Client) -> Result<Option<u16>, StoreError> {
    let row = client.query_opt("SELECT value FROM meta WHERE key = 'partitions'", &[]).await.or_store_error()?;
    let stored = row.and_then(|row| row.get::<_, String>(0).parse().ok());
    Ok(stored.filter(|partitions| (1..=pendula_model::PartitionId::LIMIT).contains(partitions)))
}

/// What is missing of them, one line each.
pub(super) async fn faults(client: &Client) -> Result<Vec<String>, StoreError> {
    let rows = client.query("SELECT key FROM meta", &[]).await.or_store_error()?;
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let lost = FACTS.iter().filter(|fact| !found.iter().any(|key| key == *fact));
    let mut faults: Vec<String> = lost.map(|fact| format!("the row `{fact}` of `meta` is missing")).collect();
    let Some(partitions) = stored_partitions(client).await? else {
        if faults.is_empty() {
            faults.push("the row `partitions` of `meta` is wrong".to_owned());
        }
        return Ok(faults);
    };
    let rows = client.query("SELECT id FROM partition ORDER BY id", &[]).await.or_store_error()?;
    let found: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    let lost = (0..i32::from(partitions)).filter(|partition| found.binary_search(partition).is_err());
    faults.extend(lost.map(|partition| format!("the row of partition {partition} is missing")));
    Ok(faults)
}
