//! Logs: once each byte, whole or with the holes named.

use std::path::Path;

use pendula_model::{AppId, InstanceId};
use pendula_store::logs::{LogAppend, LogKey, LogOptions, LogPart, LogStore, SqliteLogStore};

const KEY: LogKey = LogKey { app: AppId(1), instance: InstanceId(2), attempt: 1, task: 0 };

fn piece(offset: u64, data: impl Into<Vec<u8>>) -> LogAppend {
    LogAppend { key: KEY, offset, data: data.into(), end: false }
}

fn rows(directory: &Path) -> (i64, i64) {
    let db = rusqlite::Connection::open(directory.join("logs.db")).unwrap();
    let count = |sql| db.query_row(sql, [], |row| row.get(0)).unwrap();
    (count("SELECT count(*) FROM chunk"), count("SELECT count(*) FROM stream"))
}

/// Reads the whole log in steps.
async fn read_all(logs: &SqliteLogStore, key: LogKey, step: usize) -> LogPart {
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

#[tokio::test]
async fn what_is_appended_is_read_from_any_offset() {
    let directory = tempfile::tempdir().unwrap();
    let logs = SqliteLogStore::open(directory.path()).unwrap();
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
        let whole = read_all(&logs, KEY, step).await;
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

    let logs = SqliteLogStore::open(directory.path()).unwrap();
    assert!(read_all(&logs, KEY, 1 << 20).await.data == text);
}

#[tokio::test]
async fn repeated_pieces_are_stored_once_and_holes_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let logs = SqliteLogStore::open(directory.path()).unwrap();
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

#[tokio::test]
async fn a_line_at_a_time_does_not_make_a_row_per_line() {
    let directory = tempfile::tempdir().unwrap();
    let logs = SqliteLogStore::open(directory.path()).unwrap();
    let mut expected = String::new();
    for number in 0..3000 {
        let line = format!("line {number} of a task that is in no hurry\n");
        logs.append(vec![piece(expected.len() as u64, line.as_bytes())]).await.unwrap();
        expected += &line;
    }
    let (chunks, _) = rows(directory.path());
    assert!(chunks <= 64 + expected.len() as i64 / (32 << 10) + 1, "{chunks} rows");
    assert_eq!(read_all(&logs, KEY, 1000).await.data, expected.as_bytes());
    logs.append(vec![LogAppend { end: true, ..piece(expected.len() as u64, "") }]).await.unwrap();
    let (chunks, _) = rows(directory.path());
    assert!(chunks <= expected.len() as i64 / (32 << 10) + 1, "{chunks} rows at the end");
    let whole = read_all(&logs, KEY, 1 << 20).await;
    assert!(whole.end && whole.data == expected.as_bytes());
}

#[tokio::test]
async fn an_attempt_that_logs_too_much_is_cut_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { stored_bytes: 100_000, ..LogOptions::default() };
    let logs = SqliteLogStore::open_with(directory.path(), options).unwrap();
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
    let whole = read_all(&logs, KEY, 64 << 10).await;
    let cut_at = whole.cut_at.unwrap();
    assert!((100_000..170_000).contains(&cut_at), "{cut_at}");
    assert!(whole.data == noise[..cut_at as usize]);
    assert_eq!(whole.gaps, [(cut_at, 1_000_000 - cut_at)]);
    // Others are not concerned.
    let other = LogKey { instance: InstanceId(3), ..KEY };
    logs.append(vec![LogAppend { key: other, ..piece(0, "fine") }]).await.unwrap();
    assert_eq!(logs.read(other, 0, 10).await.unwrap().data, b"fine");
}

#[tokio::test]
async fn logs_go_with_their_instances() {
    let directory = tempfile::tempdir().unwrap();
    let logs = SqliteLogStore::open(directory.path()).unwrap();
    let keys: Vec<_> = (1..=250).map(|number| LogKey { instance: InstanceId(number), ..KEY }).collect();
    logs.append(keys.iter().map(|key| LogAppend { key: *key, ..piece(0, "text") }).collect()).await.unwrap();
    let all_but_one = keys[1..].iter().map(|key| (key.app, key.instance)).collect();
    logs.delete(all_but_one).await.unwrap();
    assert_eq!(rows(directory.path()), (1, 1));
    assert_eq!(logs.read(keys[0], 0, 10).await.unwrap().data, b"text");
    assert_eq!(logs.read(keys[1], 0, 10).await.unwrap(), LogPart::default());
    assert!(logs.bytes() > 0);
    assert_eq!(logs.faults().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_damaged_chunk_is_a_hole() {
    let directory = tempfile::tempdir().unwrap();
    let logs = SqliteLogStore::open(directory.path()).unwrap();
    let line = "the same again\n".repeat(3000);
    logs.append(vec![piece(0, line.as_bytes())]).await.unwrap();
    logs.append(vec![piece(line.len() as u64, "tail 1\n")]).await.unwrap();
    logs.append(vec![piece(line.len() as u64 + 7, "tail 2\n")]).await.unwrap();
    let db = rusqlite::Connection::open(directory.path().join("logs.db")).unwrap();
    db.execute("UPDATE chunk SET data = x'ffffff' WHERE codec = 1", []).unwrap();
    let part = logs.read(KEY, 0, 100).await.unwrap();
    assert_eq!(part.gaps, [(0, line.len() as u64)]);
    assert_eq!(part.data, b"tail 1\ntail 2\n");
    // A tail that cannot be merged does not stop the log.
    db.execute("UPDATE chunk SET length = 8, codec = 1, data = x'ffffff' WHERE start = ?1", [line.len() as i64])
        .unwrap();
    let end = line.len() as u64 + 14;
    logs.append(vec![LogAppend { end: true, ..piece(end, "tail 3\n") }]).await.unwrap();
    assert!(logs.read(KEY, 0, 100).await.unwrap().data.ends_with(b"tail 3\n"));
}

/// Memory stays small while a gibibyte goes in and comes out.
#[tokio::test]
async fn a_large_log_is_never_held_in_memory() {
    const TOTAL: u64 = 1 << 30;
    const PIECE: usize = 4 << 20;
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { stored_bytes: TOTAL, ..LogOptions::default() };
    let logs = SqliteLogStore::open_with(directory.path(), options).unwrap();
    let block = "a line that comes again and again, as lines of logs do\n".repeat(PIECE / 55 + 1);
    let before = resident();
    for offset in (0..TOTAL).step_by(PIECE) {
        logs.append(vec![piece(offset, &block.as_bytes()[..PIECE])]).await.unwrap();
    }
    for from in [0, TOTAL / 2 + 12_345, TOTAL - 1000] {
        let part = logs.read(KEY, from, 1000).await.unwrap();
        let within = (from % PIECE as u64) as usize;
        assert!(part.data == block.as_bytes()[within..][..1000]);
    }
    assert_eq!(logs.tail(KEY, 100).await.unwrap().next_offset, TOTAL);
    let grown = resident().saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB", grown >> 20);
    assert!(logs.bytes() < TOTAL / 10, "it compresses well");
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
