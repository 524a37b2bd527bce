//! Holding this server's seat, and looking at the others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pendula_model::worker::BootId;
use pendula_model::{Epoch, PartitionId};
use pendula_store::{Cluster, ClusterView, Holding, Renewal, Seat, Seated, Store, StoreError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::duties::{Duties, duties};
use super::lease::Lease;
use crate::clock::Clock;
use crate::health::Health;
use crate::metrics::Metrics;

/// For how long a seat is granted: what a crashed server's partitions wait for somebody else.
pub(crate) const TTL: Duration = Duration::from_secs(5);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(1);
/// How long we wait for news of an owner before what was seen last is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// A store that does not answer within this is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How soon after an answer that was none.
const AGAIN: Duration = Duration::from_millis(200);
/// Two looks at the others have at least this between them, whoever asks for one.
const BREATH: Duration = Duration::from_millis(5);
/// How long after somebody's lease ran out we look: their clock and ours need not agree on the millisecond.
const AFTER_AN_END: Duration = Duration::from_millis(20);
/// A wall clock that is further off from the store's should worry somebody.
const WORRYING_SKEW: Duration = Duration::from_secs(2);

/// Where a partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On another server, whose lease had not run out when we looked.
    There(Seat),
    /// With nobody, or with somebody who does not answer for it: wait.
    Nobody,
}

/// What was seen last.
#[derive(Clone, Debug)]
struct Seen {
    view: Arc<ClusterView>,
    at: Instant,
    duties: Duties,
}

impl Seen {
    fn seat_of(&self, boot: BootId) -> Option<Seat> {
        let server = self.view.servers.iter().find(|server| server.seat.boot == boot);
        // What it had left when we looked has gone by since.
        server.filter(|server| server.expires_in > self.at.elapsed()).map(|server| server.seat.clone())
    }
}

/// This server's membership. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Member {
    inner: Arc<Inner>,
}

struct Inner {
    seat: Seat,
    store: Arc<dyn Store>,
    lease: Lease,
    seen: watch::Sender<Option<Seen>>,
    is_leaving: AtomicBool,
    has_left: AtomicBool,
    /// Somebody has reason to think that something moved.
    look: Notify,
    /// We let go of something, and others should know.
    moved: Notify,
}

impl Member {
    pub(crate) fn new(seat: Seat, store: Arc<dyn Store>) -> Self {
        let inner = Inner {
            seat,
            store,
            lease: Lease::none(),
            seen: watch::Sender::new(None),
            is_leaving: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
            look: Notify::new(),
            moved: Notify::new(),
        };
        Member { inner: Arc::new(inner) }
    }

    pub(crate) fn seat(&self) -> &Seat {
        &self.inner.seat
    }

    pub(crate) fn boot(&self) -> BootId {
        self.inner.seat.boot
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.inner.lease
    }

    fn cluster(&self) -> &dyn Cluster {
        self.inner.store.cluster().expect("there is a member only of a store that has a cluster")
    }

    /// Looks at the others soon, instead of at the next renewal.
    pub(crate) fn look(&self) {
        self.inner.look.notify_one();
    }

    /// Resolves when others should be told to look.
    pub(super) async fn moved(&self) {
        self.inner.moved.notified().await;
    }

    /// What was seen last, and how long ago.
    pub(crate) fn view(&self) -> Option<(Arc<ClusterView>, Duration)> {
        self.inner.seen.borrow().as_ref().map(|seen| (seen.view.clone(), seen.at.elapsed()))
    }

    /// Gives all partitions away and takes none, or does so no more.
    pub(crate) fn set_leaving(&self, is_leaving: bool) {
        self.inner.is_leaving.store(is_leaving, Ordering::Release);
        self.look();
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.inner.is_leaving.load(Ordering::Acquire)
    }

    /// Whether the seat was given up: nothing new will be seen.
    pub(crate) fn has_left(&self) -> bool {
        self.inner.has_left.load(Ordering::Acquire)
    }

    /// Whether others have everything, as far as was seen, or there are none who could.
    pub(crate) fn is_needless(&self) -> bool {
        let Some((view, since)) = self.view() else { return true };
        let takes =
            |server: &&Seated| server.expires_in > since && !server.is_leaving && server.seat.boot != self.boot();
        let takers: BTreeSet<BootId> = view.servers.iter().filter(takes).map(|server| server.seat.boot).collect();
        let is_taken = |holding: &Holding| holding.owner.is_some_and(|owner| takers.contains(&owner));
        takers.is_empty() || view.holdings.iter().all(is_taken)
    }

    /// Where a partition is that is not here, as far as was seen.
    pub(crate) fn place(&self, partition: PartitionId) -> Place {
        let seen = self.inner.seen.borrow();
        let Some(seen) = seen.as_ref() else { return Place::Nobody };
        let holding = seen.view.holdings.get(usize::from(partition.0));
        let owner = holding.and_then(|holding| holding.owner).filter(|owner| *owner != self.boot());
        owner.and_then(|owner| seen.seat_of(owner)).map_or(Place::Nobody, Place::There)
    }

    /// Where the process `boot` is, as long as its lease had not run out when we looked.
    pub(crate) fn seat_of(&self, boot: BootId) -> Option<Seat> {
        self.inner.seen.borrow().as_ref()?.seat_of(boot)
    }

    /// Where the servers are that a worker may go to: those that are alive, as far as was seen, and not about to leave. Ours
    /// is the first: who welcomes a worker owns the partition of its app.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let seen = self.inner.seen.borrow();
        seen.as_ref().map_or_else(Vec::new, |seen| addresses(&seen.view, seen.at.elapsed(), self.boot()))
    }

    /// Resolves when something newer was seen than now.
    pub(crate) async fn news(&self) {
        let mut seen = self.inner.seen.subscribe();
        seen.mark_unchanged();
        // Fails never: we have the sender.
        let _ = seen.changed().await;
    }

    /// Looks, and waits until something newer was seen; but not past `deadline`, nor for long: then what was seen last is
    /// worth another try.
    pub(crate) async fn look_again(&self, deadline: Instant) {
        self.look();
        let _ = timeout_at(deadline.min(Instant::now() + TRY_AGAIN), self.news()).await;
    }

    /// Waits until the partition is ours to claim. Returns the epoch that it was seen under.
    pub(crate) async fn due(&self, partition: PartitionId) -> Epoch {
        let mut seen = self.inner.seen.subscribe();
        loop {
            if let Some(seen) = seen.borrow_and_update().as_ref()
                && self.inner.lease.holds()
            {
                if let Some(epoch) = seen.duties.take.get(&partition) {
                    return *epoch;
                }
                // Ours in the store, but not here: what we had in memory was worth nothing.
                if seen.duties.keep.contains(&partition)
                    && let Some(Holding { epoch, .. }) = seen.view.holdings.get(usize::from(partition.0))
                {
                    return *epoch;
                }
            }
            let _ = seen.changed().await;
        }
    }

    /// Resolves when the partition, which is here under `epoch`, should go to somebody else, or (with `true`) went there.
    pub(crate) async fn undue(&self, partition: PartitionId, epoch: Epoch) -> bool {
        let mut seen = self.inner.seen.subscribe();
        loop {
            if let Some(seen) = seen.borrow_and_update().as_ref() {
                let holding = seen.view.holdings.get(usize::from(partition.0));
                // What was seen before the claim says nothing about it.
                let is_ours =
                    holding.is_some_and(|holding| holding.owner == Some(self.boot()) && holding.epoch == epoch);
                let is_newer = holding.is_some_and(|holding| holding.epoch > epoch);
                if is_newer || (is_ours && !seen.duties.keep.contains(&partition)) {
                    return is_newer;
                }
            }
            let _ = seen.changed().await;
        }
    }

    /// Claims a partition; nothing when it was not to be had.
    pub(crate) async fn claim(&self, partition: PartitionId, seen: Epoch) -> Result<Option<Epoch>, StoreError> {
        let claimed = self.cluster().claim(partition, self.boot(), seen).await?;
        if claimed.is_some() {
            // Whoever gave it away waits with the next one until this one has an owner.
            self.inner.moved.notify_one();
            self.look();
        }
        Ok(claimed)
    }

    /// Lets go of a partition, and has others told.
    pub(crate) async fn release(&self, partition: PartitionId, epoch: Epoch) -> Result<(), StoreError> {
        self.cluster().release(partition, self.boot(), epoch).await?;
        self.inner.moved.notify_one();
        self.look();
        Ok(())
    }

    /// Gives up the seat.
    pub(crate) async fn leave(&self) {
        self.inner.has_left.store(true, Ordering::Release);
        self.inner.lease.end();
        if let Err(error) = self.cluster().leave(self.boot()).await {
            tracing::warn!(%error, "the seat could not be given up; it runs out by itself");
        }
        self.inner.moved.notify_one();
    }

    /// Takes a seat for the first time.
    pub(crate) async fn join(&self) -> Result<(), StoreError> {
        let asked = Instant::now();
        self.cluster().join(self.seat(), TTL).await?;
        self.inner.lease.granted(asked, TTL);
        Ok(())
    }
}

/// Renews the lease and looks at the others, for ever.
pub(crate) async fn attend(member: Member, clock: Arc<dyn Clock>, health: Arc<Health>, metrics: Arc<Metrics>) {
    let tick = metrics.tick("lease");
    health.watch("lease", tick.clone());
    let mut attendance = Attendance { member, clock, health, metrics, skew_micros: 0, has_said_it_leaves: false };
    let mut renew_at = Instant::now();
    loop {
        let says_more = attendance.member.is_leaving() != attendance.has_said_it_leaves;
        let due = says_more || Instant::now() >= renew_at;
        let done = if due { attendance.renew().await } else { Ok(()) };
        if due && done.is_ok() {
            renew_at = Instant::now() + RENEW;
        }
        let looked = match done {
            Ok(()) => attendance.look().await,
            Err(error) => Err(error),
        };
        let pause = match looked {
            Ok(next_end) => {
                attendance.health.recovered("lease");
                match attendance.member.is_leaving() {
                    true => attendance.health.not_yet("draining", "this server gives its partitions away"),
                    false => attendance.health.recovered("draining"),
                }
                tick.at(attendance.clock.now());
                let until_renewal = renew_at.saturating_duration_since(Instant::now());
                next_end.map_or(until_renewal, |end| until_renewal.min(end))
            }
            Err(error) => {
                attendance.trouble(&error);
                AGAIN
            }
        };
        tokio::time::sleep(BREATH).await;
        let lookout = attendance.member.clone();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = lookout.inner.look.notified() => {}
        }
    }
}

struct Attendance {
    member: Member,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    skew_micros: i64,
    /// In the store.
    has_said_it_leaves: bool,
}

impl Attendance {
    async fn renew(&mut self) -> Result<(), StoreError> {
        let member = &self.member;
        // Everything that was done under an earlier lease was dropped when it ran out.
        if member.lease().holds() {
            let is_leaving = member.is_leaving();
            let renewal = Renewal { boot: member.boot(), ttl: TTL, is_leaving, skew_micros: self.skew_micros };
            let asked = Instant::now();
            if in_time(member.cluster().renew(renewal)).await? {
                member.lease().granted(asked, TTL);
                self.has_said_it_leaves = is_leaving;
                return Ok(());
            }
            member.lease().end();
            tracing::warn!("the lease had run out; taking a seat again");
        }
        self.has_said_it_leaves = false;
        in_time(member.join()).await?;
        tracing::info!("took a seat again");
        Ok(())
    }

    /// Sees what is; returns when somebody's lease will have run out, if that is soon.
    async fn look(&mut self) -> Result<Option<Duration>, StoreError> {
        let (before, asked) = (self.clock.now(), Instant::now());
        let view = in_time(self.member.cluster().view()).await?;
        // Half of the way there and back.
        let ours = before.plus(asked.elapsed() / 2);
        self.measure_skew(ours.as_micros() - view.now.as_micros());
        let me = self.member.boot();
        let duties = duties(&view, me);
        self.count(&view);
        let owners: BTreeSet<BootId> = view.holdings.iter().filter_map(|held| held.owner).collect();
        let next_end = view
            .servers
            .iter()
            .filter(|server| server.seat.boot != me && server.is_alive() && owners.contains(&server.seat.boot))
            .map(|server| server.expires_in + AFTER_AN_END)
            .min();
        let seen = Seen { view: Arc::new(view), at: asked, duties };
        self.member.inner.seen.send_replace(Some(seen));
        Ok(next_end)
    }

    fn count(&self, view: &ClusterView) {
        let alive: BTreeSet<BootId> =
            view.servers.iter().filter(|server| server.is_alive()).map(|server| server.seat.boot).collect();
        let owners = || view.holdings.iter().map(|holding| holding.owner);
        let owned = owners().filter(|owner| *owner == Some(self.member.boot())).count();
        let unserved = owners().filter(|owner| owner.is_none_or(|owner| !alive.contains(&owner))).count();
        self.metrics.cluster_seen(alive.len(), owned, unserved, self.skew_micros);
    }

    fn measure_skew(&mut self, skew_micros: i64) {
        self.skew_micros = skew_micros;
        let skew = Duration::from_micros(skew_micros.unsigned_abs());
        if skew > WORRYING_SKEW {
            let direction = if skew_micros > 0 { "ahead of" } else { "behind" };
            let what = format!("it is {} s {direction} the database's", skew.as_secs());
            self.health.worrying("clock skew", what);
        } else {
            self.health.recovered("clock skew");
        }
    }

    fn trouble(&self, error: &StoreError) {
        let held = if self.member.lease().holds() { "still holds" } else { "has run out: no partition is served here" };
        self.health.broken("lease", format!("it {held}, and the store does not renew it: {error}"));
    }
}

/// See [`Member::addresses`]. The view is of `age` ago.
fn addresses(view: &ClusterView, age: Duration, first: BootId) -> Vec<String> {
    let stays = |server: &&Seated| server.expires_in > age && !server.is_leaving;
    let mut servers: Vec<&Seated> = view.servers.iter().filter(stays).collect();
    servers.sort_by_key(|server| server.seat.boot != first);
    servers.into_iter().map(|server| server.seat.address.clone()).collect()
}

/// A store that does not answer is away.
async fn in_time<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::Unavailable { why: format!("no answer within {} s", PATIENCE.as_secs()) }),
    }
}

#[cfg(test)]
mod tests {
    use pendula_model::Timestamp;

    use super::*;

    fn server(boot: u64, expires_in: Duration, is_leaving: bool) -> Seated {
        let name = format!("s{boot}");
        let seat = Seat { boot: BootId(boot), address: format!("http://{name}"), name, version: "1".to_owned() };
        Seated { seat, joined_at: Timestamp::MIN, expires_in, is_leaving, skew_micros: 0 }
    }

    #[test]
    fn workers_are_sent_to_who_stays_and_to_the_owner_first() {
        let servers = vec![
            server(1, TTL, false),
            server(2, Duration::from_secs(1), false),
            server(3, TTL, true),
            server(4, TTL, false),
            server(5, Duration::ZERO, false),
        ];
        let view = ClusterView { now: Timestamp::MIN, servers, holdings: Vec::new() };
        let now = |first, age| addresses(&view, age, BootId(first));
        assert_eq!(now(4, Duration::ZERO), ["http://s4", "http://s1", "http://s2"]);
        assert_eq!(now(3, Duration::ZERO), ["http://s1", "http://s2", "http://s4"], "it is about to leave");
        // Nothing was heard since: the lease of one has run out by now, and then of all.
        assert_eq!(now(2, Duration::from_secs(2)), ["http://s1", "http://s4"]);
        assert!(now(4, TTL).is_empty());
    }
}
