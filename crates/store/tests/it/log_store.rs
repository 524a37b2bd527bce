//! Logs: once each byte, whole or with the holes named, whatever database keeps them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pendula_model::{AppId, InstanceId};
use pendula_store::StoreError;
use pendula_store::logs::{LogAppend, LogKey, LogOptions, LogPart, LogStore, PostgresLogStore, SqliteLogStore};
use pendula_store::postgres::migration_apply;
use pendula_store::sqlite::Synchronous;
use pendula_testdb::Postgres;

const KEY: LogKey = LogKey { app: AppId(1), instance: InstanceId(2), attempt: 1, task: 0 };

/// Where logs are kept, and how to look at it from behind.
trait Home: Sized {
    async fn new() -> Self;
    async fn open_with(&self, options: LogOptions) -> Result<Arc<dyn LogStore>, StoreError>;
    /// Runs SQL on its tables, in the words of this database.
    async fn run(&self, sqlite: &str, postgres: &str) -> String;

    async fn open(&self) -> Arc<dyn LogStore> {
        self.open_with(LogOptions::default()).await.unwrap()
    }

    /// Numbers of chunks and streams.
    async fn rows(&self) -> (i64, i64) {
        let chunks = self.run("SELECT count(*) FROM chunk", "SELECT count(*) FROM log_chunk").await;
        let streams = self.run("SELECT count(*) FROM stream", "SELECT count(*) FROM log_stream").await;
        (chunks.parse().unwrap(), streams.parse().unwrap())
    }
}

struct SqliteHome(tempfile::TempDir);

impl Home for SqliteHome {
    async fn new() -> Self {
        SqliteHome(tempfile::tempdir().unwrap())
    }

    async fn open_with(&self, options: LogOptions) -> Result<Arc<dyn LogStore>, StoreError> {
        Ok(Arc::new(SqliteLogStore::open_with(self.0.path(), options)?))
    }

    async fn run(&self, sqlite: &str, _: &str) -> String {
        let db = rusqlite::Connection::open(self.0.path().join("logs.db")).unwrap();
        let mut statement = db.prepare(sqlite).unwrap();
        match statement.column_count() {
            0 => statement.execute([]).unwrap().to_string(),
            _ => statement.query_row([], |row| row.get::<_, i64>(0)).unwrap().to_string(),
        }
    }
}

struct PostgresHome(String);

impl Home for PostgresHome {
    async fn new() -> Self {
        let url = Postgres::shared().database();
        migration_apply(&url, 1, |_, _| ()).await.unwrap();
        PostgresHome(url)
    }

    async fn open_with(&self, options: LogOptions) -> Result<Arc<dyn LogStore>, StoreError> {
        Ok(Arc::new(PostgresLogStore::open(&self.0, options).await?))
    }

    async fn run(&self, _: &str, postgres: &str) -> String {
        Postgres::shared().query(self.0.rsplit_once('/').unwrap().1, postgres)
    }
}

fn piece(offset: u64, data: impl Into<Vec<u8>>) -> LogAppend {
    LogAppend { key: KEY, offset, data: data.into(), end: false }
}

/// Reads the whole log in steps.
async fn read_all(logs: &dyn LogStore, key: LogKey, step: usize) -> LogPart {
    let mut whole = LogPart::default();
    loop {
        let part = logs.read(key, whole.next_offset, step).await.unwrap();
        assert!(part.data.len() <= step);
        let is_over = part.end || (part.data.is_empty() && part.gaps.is_empty());
        whole.data.extend(part.data);
        whole.gaps.extend(part.gaps);
        (whole.next_offset, whole.end, whole.total, whole.cut_at) =
            (part.next_offset, part.end, part.total, part.cut_at);
        if is_over {
            return whole;
        }
    }
}

async fn what_is_appended_is_read_from_any_offset<H: Home>() {
    let home = H::new().await;
    let logs = home.open().await;
    let empty = logs.read(KEY, 0, 100).await.unwrap();
    assert_eq!(empty, LogPart::default());
    // Pieces of many sizes, also none, with bytes that are no UTF-8.
    let text: Vec<u8> = (0..400_000_u32).map(|i| ((i / 7) ^ (i % 251)) as u8).collect();
    let mut offset = 0;
    for size in [1, 0, 5, 100, 70_000, 3, 131_072, 40_000, 1].into_iter().cycle() {
        let end = (offset + size).min(text.len());
        let answers = logs.append(vec![piece(offset as u64, &text[offset..end])]).await.unwrap();
        assert_eq!((answers[0].gap, answers[0].next_offset, answers[0].dropped), (None, end as u64, false));
        offset = end;
        if offset == text.len() {
            break;
        }
    }
    for step in [999, 64 << 10, 1 << 20] {
        let whole = read_all(&*logs, KEY, step).await;
        assert_eq!((whole.data.len(), whole.gaps.len(), whole.end), (text.len(), 0, false));
        assert!(whole.data == text);
    }
    for from in [0, 1, 65_535, 65_536, 65_537, 399_999, 400_000, 500_000] {
        let part = logs.read(KEY, from, 10).await.unwrap();
        let from = from as usize;
        assert_eq!(part.data, text.get(from..(from + 10).min(text.len())).unwrap_or_default());
        assert_eq!(part.next_offset as usize, from + part.data.len());
    }
    assert_eq!(logs.tail(KEY, 1000).await.unwrap().data, text[399_000..]);
    assert_eq!(logs.tail(KEY, usize::MAX >> 1).await.unwrap().data.len(), text.len());
    let end = LogAppend { end: true, ..piece(400_000, "") };
    logs.append(vec![end]).await.unwrap();
    assert!(logs.read(KEY, 400_000, 10).await.unwrap().end);
    assert!(!logs.read(KEY, 0, 10).await.unwrap().end);
    let stranger = LogKey { app: AppId(9), ..KEY };
    assert_eq!(logs.read(stranger, 0, 100).await.unwrap(), LogPart::default());
    drop(logs);

    let logs = home.open().await;
    assert!(read_all(&*logs, KEY, 1 << 20).await.data == text);
}

async fn repeated_pieces_are_stored_once_and_holes_are_named<H: Home>() {
    let home = H::new().await;
    let logs = home.open().await;
    let other = LogKey { attempt: 2, ..KEY };
    let pieces = vec![
        piece(0, "hello "),
        piece(0, "hello "),
        piece(3, "lo world"),
        LogAppend { key: other, ..piece(4, "other") },
        piece(20, "later"),
        piece(12, "too late"),
        LogAppend { end: true, ..piece(30, "") },
    ];
    let answers = logs.append(pieces.clone()).await.unwrap();
    let summary: Vec<_> = answers.iter().map(|answer| (answer.gap, answer.new_from, answer.next_offset)).collect();
    let expected = [
        (None, 0, 6),
        (None, 6, 6),
        (None, 6, 11),
        (Some((0, 4)), 4, 9),
        (Some((11, 9)), 20, 25),
        (None, 25, 25),
        (Some((25, 5)), 30, 30),
    ];
    assert_eq!(summary, expected);
    // All of it again, as after a lost acknowledgement.
    let again = logs.append(pieces).await.unwrap();
    assert!(again.iter().all(|answer| answer.gap.is_none() && answer.new_from == answer.next_offset));

    let part = logs.read(KEY, 0, 100).await.unwrap();
    assert_eq!((part.data.as_slice(), part.gaps.as_slice()), (&b"hello worldlater"[..], &[(11, 9), (25, 5)][..]));
    assert_eq!((part.next_offset, part.total, part.end), (30, 30, true));
    let part = logs.read(KEY, 15, 2).await.unwrap();
    assert_eq!((part.data.as_slice(), part.gaps.as_slice(), part.next_offset), (&b"la"[..], &[(15, 5)][..], 22));
    let part = logs.read(other, 0, 100).await.unwrap();
    assert_eq!((part.data.as_slice(), part.gaps.as_slice(), part.end), (&b"other"[..], &[(0, 4)][..], false));
    // Nonsense from a worker stays its own problem.
    let nonsense = logs.append(vec![piece(u64::MAX, "x"), LogAppend { key: other, ..piece(9, "!") }]).await.unwrap();
    assert_eq!((nonsense[1].gap, nonsense[1].next_offset), (None, 10));
}

async fn a_line_at_a_time_does_not_make_a_row_per_line<H: Home>() {
    let home = H::new().await;
    let logs = home.open().await;
    let mut expected = String::new();
    for number in 0..1500 {
        let line = format!("line {number} of a task that is in no hurry\n");
        logs.append(vec![piece(expected.len() as u64, line.as_bytes())]).await.unwrap();
        expected += &line;
    }
    let (chunks, _) = home.rows().await;
    assert!(chunks <= 64 + expected.len() as i64 / (32 << 10) + 1, "{chunks} rows");
    assert_eq!(read_all(&*logs, KEY, 1000).await.data, expected.as_bytes());
    logs.append(vec![LogAppend { end: true, ..piece(expected.len() as u64, "") }]).await.unwrap();
    let (chunks, _) = home.rows().await;
    assert!(chunks <= expected.len() as i64 / (32 << 10) + 1, "{chunks} rows at the end");
    let whole = read_all(&*logs, KEY, 1 << 20).await;
    assert!(whole.end && whole.data == expected.as_bytes());
}

async fn an_attempt_that_logs_too_much_is_cut_and_says_so<H: Home>() {
    let home = H::new().await;
    let options = LogOptions { stored_bytes: 100_000, ..LogOptions::default() };
    let logs = home.open_with(options).await.unwrap();
    // Xorshift: nothing that could be compressed.
    let mut state = 1_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let noise: Vec<u8> = (0..1_000_000).map(|_| random()).collect();
    let mut dropped = 0;
    for (number, bytes) in noise.chunks(10_000).enumerate() {
        let answer = logs.append(vec![piece(number as u64 * 10_000, bytes)]).await.unwrap().remove(0);
        // The worker may forget it all the same.
        assert_eq!(answer.next_offset, (number as u64 + 1) * 10_000);
        dropped += usize::from(answer.dropped);
    }
    assert!(dropped >= 85, "{dropped}");
    let whole = read_all(&*logs, KEY, 64 << 10).await;
    let cut_at = whole.cut_at.unwrap();
    assert!((100_000..170_000).contains(&cut_at), "{cut_at}");
    assert!(whole.data == noise[..cut_at as usize]);
    assert_eq!(whole.gaps, [(cut_at, 1_000_000 - cut_at)]);
    // Others are not concerned.
    let other = LogKey { instance: InstanceId(3), ..KEY };
    logs.append(vec![LogAppend { key: other, ..piece(0, "fine") }]).await.unwrap();
    assert_eq!(logs.read(other, 0, 10).await.unwrap().data, b"fine");
}

async fn logs_go_with_their_instances<H: Home>() {
    let home = H::new().await;
    let logs = home.open().await;
    let keys: Vec<_> = (1..=250).map(|number| LogKey { instance: InstanceId(number), ..KEY }).collect();
    logs.append(keys.iter().map(|key| LogAppend { key: *key, ..piece(0, "text") }).collect()).await.unwrap();
    let all_but_one = keys[1..].iter().map(|key| (key.app, key.instance)).collect();
    logs.delete(all_but_one).await.unwrap();
    assert_eq!(home.rows().await, (1, 1));
    assert_eq!(logs.read(keys[0], 0, 10).await.unwrap().data, b"text");
    assert_eq!(logs.read(keys[1], 0, 10).await.unwrap(), LogPart::default());
    assert!(logs.bytes() > 0);
    assert_eq!(logs.faults().await.unwrap(), Vec::<String>::new());
}

async fn a_damaged_chunk_is_a_hole<H: Home>() {
    let home = H::new().await;
    let logs = home.open().await;
    let line = "the same again\n".repeat(3000);
    logs.append(vec![piece(0, line.as_bytes())]).await.unwrap();
    logs.append(vec![piece(line.len() as u64, "tail 1\n")]).await.unwrap();
    logs.append(vec![piece(line.len() as u64 + 7, "tail 2\n")]).await.unwrap();
    let damage = "SET data = x'ffffff' WHERE codec = 1";
    home.run(&format!("UPDATE chunk {damage}"), &format!("UPDATE log_chunk {}", damage.replace("x'", "'\\x"))).await;
    let part = logs.read(KEY, 0, 100).await.unwrap();
    assert_eq!(part.gaps, [(0, line.len() as u64)]);
    assert_eq!(part.data, b"tail 1\ntail 2\n");
    // A tail that cannot be merged does not stop the log.
    let damage = format!("SET length = 8, codec = 1, data = x'ffffff' WHERE start = {}", line.len());
    home.run(&format!("UPDATE chunk {damage}"), &format!("UPDATE log_chunk {}", damage.replace("x'", "'\\x"))).await;
    let end = line.len() as u64 + 14;
    logs.append(vec![LogAppend { end: true, ..piece(end, "tail 3\n") }]).await.unwrap();
    assert!(logs.read(KEY, 0, 100).await.unwrap().data.ends_with(b"tail 3\n"));
}

/// Memory stays small while much goes in and comes out.
async fn a_large_log_is_never_held_in_memory<H: Home>(total: u64) {
    const PIECE: usize = 4 << 20;
    let home = H::new().await;
    let options = LogOptions { stored_bytes: total, ..LogOptions::default() };
    let logs = home.open_with(options).await.unwrap();
    let block = "a line that comes again and again, as lines of logs do\n".repeat(PIECE / 55 + 1);
    let before = resident();
    for offset in (0..total).step_by(PIECE) {
        logs.append(vec![piece(offset, &block.as_bytes()[..PIECE])]).await.unwrap();
    }
    for from in [0, total / 2 + 12_345, total - 1000] {
        let part = logs.read(KEY, from, 1000).await.unwrap();
        let within = (from % PIECE as u64) as usize;
        assert!(part.data == block.as_bytes()[within..][..1000]);
    }
    assert_eq!(logs.tail(KEY, 100).await.unwrap().next_offset, total);
    let grown = resident().saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB", grown >> 20);
    drop(logs);
    assert!(home.open().await.bytes() < total / 10, "it compresses well");
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

macro_rules! tests_of {
    ($home:ty: $($test:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $test() {
                super::$test::<$home>().await;
            }
        )+
    };
}

macro_rules! tests {
    ($home:ty) => {
        tests_of!($home: what_is_appended_is_read_from_any_offset, repeated_pieces_are_stored_once_and_holes_are_named, a_line_at_a_time_does_not_make_a_row_per_line, an_attempt_that_logs_too_much_is_cut_and_says_so, logs_go_with_their_instances, a_damaged_chunk_is_a_hole);
    };
}

mod sqlite {
    use super::*;

    tests!(SqliteHome);

    #[tokio::test]
    async fn a_large_log_is_never_held_in_memory() {
        super::a_large_log_is_never_held_in_memory::<SqliteHome>(1 << 30).await;
    }
}

mod postgres {
    use super::*;

    tests!(PostgresHome);

    #[tokio::test]
    async fn a_large_log_is_never_held_in_memory() {
        super::a_large_log_is_never_held_in_memory::<PostgresHome>(1 << 28).await;
    }

    #[tokio::test]
    async fn the_state_comes_first() {
        let url = Postgres::shared().database();
        let Err(StoreError::Refused(text)) = PostgresLogStore::open(&url, LogOptions::default()).await.map(|_| ())
        else {
            panic!("there is nothing to open")
        };
        assert!(text.contains("open its state first"), "{text}");
    }

    /// A worker that moves from server to server repeats what was not acknowledged, and both may write at once.
    #[tokio::test(flavor = "multi_thread")]
    async fn servers_append_to_one_log_at_once() {
        let home = PostgresHome::new().await;
        let text: Vec<u8> = (0..60_000_u32).map(|i| (i ^ (i >> 7)) as u8).collect();
        let text = Arc::new(text);
        let mut servers = Vec::new();
        for size in [301, 500, 997] {
            let (logs, text) = (home.open().await, text.clone());
            servers.push(tokio::spawn(async move {
                for offset in (0..text.len()).step_by(size) {
                    let bytes = &text[offset..(offset + size).min(text.len())];
                    let answer = loop {
                        match logs.append(vec![piece(offset as u64, bytes)]).await {
                            Ok(answers) => break answers[0].clone(),
                            Err(StoreError::Unavailable { why }) if why.contains("other servers append") => {}
                            Err(error) => panic!("{error:?}"),
                        }
                    };
                    assert_eq!((answer.gap, answer.dropped), (None, false));
                    assert!(answer.next_offset >= (offset + bytes.len()) as u64);
                }
            }));
        }
        for server in servers {
            server.await.unwrap();
        }
        let whole = read_all(&*home.open().await, KEY, 1 << 20).await;
        assert!(whole.data == *text && whole.gaps.is_empty());
    }

    /// What a log lost with the database is a hole; with full syncing nothing is.
    #[tokio::test]
    async fn a_crash_of_the_database_leaves_a_hole_at_most() {
        let server = Postgres::start();
        let url = server.database();
        migration_apply(&url, 1, |_, _| ()).await.unwrap();
        for synchronous in [Synchronous::Normal, Synchronous::Full] {
            let options = LogOptions { synchronous, ..LogOptions::default() };
            let key = LogKey { attempt: synchronous as u32, ..KEY };
            let logs = PostgresLogStore::open(&url, options.clone()).await.unwrap();
            for number in 0..50 {
                let piece = LogAppend { key, ..piece(number * 10, "0123456789") };
                assert_eq!(logs.append(vec![piece]).await.unwrap()[0].next_offset, number * 10 + 10);
            }
            server.kill();
            server.start_again();
            let logs = PostgresLogStore::open(&url, options).await.unwrap();
            let known = logs.read(key, 0, 1000).await.unwrap();
            assert_eq!((known.data.len() as u64, known.gaps.len()), (known.total, 0));
            assert!(synchronous == Synchronous::Normal || known.total == 500);
            let answer = logs.append(vec![LogAppend { key, end: true, ..piece(500, "end") }]).await.unwrap().remove(0);
            assert_eq!(answer.gap, (known.total < 500).then(|| (known.total, 500 - known.total)));
            let part = logs.read(key, 0, 1000).await.unwrap();
            assert_eq!((part.next_offset, part.end, part.gaps.first().copied()), (503, true, answer.gap));
        }
    }

    /// Workers keep what is not acknowledged; so nobody may wait for ever.
    #[tokio::test]
    async fn a_database_that_stands_still_is_given_up_and_found_again() {
        let server = Postgres::start();
        let url = server.database();
        migration_apply(&url, 1, |_, _| ()).await.unwrap();
        let logs = PostgresLogStore::open(&url, LogOptions::default()).await.unwrap();
        logs.append(vec![piece(0, "before ")]).await.unwrap();
        server.freeze();
        let begun = Instant::now();
        let error = logs.append(vec![piece(7, "meanwhile ")]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unavailable { why } if why.contains("has not answered")), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(30));
        server.thaw();
        logs.append(vec![piece(7, "meanwhile "), LogAppend { end: true, ..piece(17, "after") }]).await.unwrap();
        assert_eq!(logs.read(KEY, 0, 100).await.unwrap().data, b"before meanwhile after");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_deleted_leaves_nothing_behind_while_others_append() {
        let home = PostgresHome::new().await;
        let (logs, other) = (home.open().await, home.open().await);
        for round in 0..20 {
            let key = LogKey { instance: InstanceId(round), ..KEY };
            logs.append(vec![LogAppend { key, ..piece(0, "one") }]).await.unwrap();
            let append = other.append(vec![LogAppend { key, ..piece(3, "two") }]);
            let (appended, deleted) = tokio::join!(append, logs.delete(vec![(key.app, key.instance)]));
            appended.unwrap();
            deleted.unwrap();
        }
        // Whoever came second began the log anew, and no chunk is without its log.
        let orphans = "SELECT count(*) FROM log_chunk c WHERE NOT EXISTS (SELECT 1 FROM log_stream s
            WHERE (s.instance_id, s.attempt, s.task) = (c.instance_id, c.attempt, c.task))";
        assert_eq!(home.run("", orphans).await, "0");
    }

    #[tokio::test]
    async fn missing_tables_are_named() {
        let home = PostgresHome::new().await;
        let logs = home.open().await;
        home.run("", "ALTER TABLE log_chunk DROP CONSTRAINT log_chunk_pkey").await;
        let faults = logs.faults().await.unwrap();
        assert!(matches!(faults.as_slice(), [fault] if fault.contains("log_chunk_pkey is missing")), "{faults:?}");
        let Err(StoreError::Corrupt { why }) = home.open_with(LogOptions::default()).await.map(|_| ()) else {
            panic!("it was opened")
        };
        assert!(why.contains("log_chunk_pkey"), "{why}");
    }
}
