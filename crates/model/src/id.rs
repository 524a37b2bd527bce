//! Identifiers. 64 bits, ordered by time, carrying their partition, so that any id routes by itself.
//!
//! ```text
//! 0 | 41 bits: milliseconds since 2024-01-01T00:00:00Z | 10 bits: partition | 12 bits: sequence
//! ```
//!
//! In our JSON an id is a decimal string, because JavaScript loses digits past 2^53.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::time::Timestamp;

/// Milliseconds from the Unix epoch to 2024-01-01T00:00:00Z, where id time begins.
const ID_EPOCH_MILLIS: i64 = 1_704_067_200_000;
const SEQUENCE_BITS: u32 = 12;
const PARTITION_BITS: u32 = 10;
const TIME_SHIFT: u32 = SEQUENCE_BITS + PARTITION_BITS;

/// The unit of ownership; an app hashes to one. Below [`PartitionId::LIMIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId(pub u16);

impl PartitionId {
    /// Partitions that an id can tell apart.
    pub const LIMIT: u16 = 1 << PARTITION_BITS;

    /// The partition of an app among `count`, from its name (FNV-1a, so that it is the same on every machine).
    pub fn of_app(name: &str, count: u16) -> Self {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        PartitionId((hash % u64::from(count.max(1))) as u16)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Hands out the ids of one partition, strictly increasing.
///
/// When more than 4,096 are taken in a millisecond it borrows from the next one rather than wait.
#[derive(Clone, Debug)]
pub struct IdSequence {
    partition: PartitionId,
    /// Time and sequence of the last id, without the partition: `millis << 12 | sequence`.
    last: u64,
}

impl IdSequence {
    /// Continues after `last_id`, the largest id ever stored (0 when there is none), whatever the clock says.
    pub fn new(partition: PartitionId, last_id: i64) -> Self {
        let millis = (last_id as u64) >> TIME_SHIFT;
        let sequence_mask = (1 << SEQUENCE_BITS) - 1;
        let last = if last_id <= 0 { 0 } else { (millis << SEQUENCE_BITS) | sequence_mask };
        IdSequence { partition, last }
    }

    /// The next id, at or after `now`.
    pub fn next(&mut self, now: Timestamp) -> i64 {
        let millis = (now.as_millis() - ID_EPOCH_MILLIS).max(0) as u64;
        self.last = (self.last + 1).max(millis << SEQUENCE_BITS);
        let time = self.last >> SEQUENCE_BITS;
        let sequence = self.last & ((1 << SEQUENCE_BITS) - 1);
        ((time << TIME_SHIFT) | (u64::from(self.partition.0) << SEQUENCE_BITS) | sequence) as i64
    }
}

/// An id of something that belongs to no partition: the bits below the time are drawn by the caller (the upper ones of
/// `random` are ignored), so that two servers hardly ever make the same one.
pub fn drawn_id(now: Timestamp, random: u32) -> i64 {
    let millis = (now.as_millis() - ID_EPOCH_MILLIS).max(0) as u64;
    let drawn = u64::from(random) & ((1 << TIME_SHIFT) - 1);
    ((millis << TIME_SHIFT) | drawn).max(1) as i64
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub i64);

        impl $name {
            /// The partition that owns it.
            pub fn partition(self) -> PartitionId {
                PartitionId(((self.0 as u64 >> SEQUENCE_BITS) & u64::from(PartitionId::LIMIT - 1)) as u16)
            }

            /// The smallest id that can have been handed out at `at` or later, whatever the partition.
            pub fn first_at(at: Timestamp) -> Self {
                let last_millis = (1 << (63 - TIME_SHIFT)) - 1;
                $name((at.as_millis() - ID_EPOCH_MILLIS).clamp(0, last_millis) << TIME_SHIFT)
            }

            /// When it was handed out, to the millisecond.
            pub fn created_at(self) -> Timestamp {
                Timestamp::from_millis((self.0 >> TIME_SHIFT) + ID_EPOCH_MILLIS)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                match text.parse() {
                    Ok(number) if number > 0 => Ok($name(number)),
                    _ => Err(ParseIdError),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is a positive decimal number")]
pub struct ParseIdError;

id!(
    /// An app.
    AppId
);
id!(
    /// A job.
    JobId
);
id!(
    /// One firing of a job.
    InstanceId
);
id!(
    /// An access token (the row, not the secret).
    TokenId
);

/// A worker's live connection, unique within its partition for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The ever-growing number of a lease; each write names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub i64);

/// The version of a definition, from 1; each edit that changes what runs makes the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_increase_and_carry_partition_and_time() {
        let now = Timestamp::from_millis(ID_EPOCH_MILLIS + 5_000);
        let mut ids = IdSequence::new(PartitionId(1023), 0);
        let mut last = 0;
        for _ in 0..10_000 {
            let id = ids.next(now);
            assert!(id > last);
            assert_eq!(InstanceId(id).partition(), PartitionId(1023));
            last = id;
        }
        assert_eq!(InstanceId(last).created_at(), now.plus(std::time::Duration::from_millis(2)));
        assert!(InstanceId::first_at(InstanceId(last).created_at()) <= InstanceId(last));
        assert!(InstanceId::first_at(InstanceId(last).created_at().plus(std::time::Duration::from_millis(1))).0 > last);
        assert!(InstanceId::first_at(Timestamp::MAX).0 > 0);
    }

    #[test]
    fn ids_go_on_after_a_restart_even_when_the_clock_went_back() {
        let mut before = IdSequence::new(PartitionId(3), 0);
        let last = before.next(Timestamp::from_millis(ID_EPOCH_MILLIS + 1_000_000));
        let mut after = IdSequence::new(PartitionId(3), last);
        assert!(after.next(Timestamp::from_millis(ID_EPOCH_MILLIS + 10)) > last);
    }

    #[test]
    fn drawn_ids_keep_their_time_and_take_all_lower_bits() {
        let now = Timestamp::from_millis(ID_EPOCH_MILLIS + 7_000);
        let ids = [0, 1, u32::MAX].map(|random| TokenId(drawn_id(now, random)));
        assert!(ids[0] < ids[1] && ids[1] < ids[2]);
        assert!(ids.iter().all(|id| id.created_at() == now));
    }
}
