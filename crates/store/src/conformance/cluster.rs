use std::sync::Arc;
use std::time::Duration;

use pendula_model::change::Change;
use pendula_model::worker::BootId;
use pendula_model::{Epoch, PartitionId};

use super::world::{HOME, START, World};
use crate::cluster::{Cluster, Holding, Renewal, Seat, Seated};
use crate::port::{Batch, Store, StoreError};

/// Longer than any case takes.
const TTL: Duration = Duration::from_secs(600);

const NOBODY: BootId = BootId(404);

fn cluster(store: &Arc<dyn Store>) -> &dyn Cluster {
    store.cluster().expect("several servers share it")
}

fn seat(boot: u64) -> Seat {
    Seat {
        boot: BootId(boot),
        name: format!("server \"{boot}\""),
        address: format!("http://127.0.0.1:{}", boot % 10_000),
        version: "0.1.0".to_owned(),
    }
}

fn renewal(boot: BootId, ttl: Duration) -> Renewal {
    Renewal { boot, ttl, is_leaving: false, skew_micros: 0 }
}

async fn seated(store: &Arc<dyn Store>, boot: BootId) -> Option<Seated> {
    let view = cluster(store).view().await.unwrap();
    view.servers.into_iter().find(|server| server.seat.boot == boot)
}

async fn holding(store: &Arc<dyn Store>, partition: PartitionId) -> Holding {
    cluster(store).view().await.unwrap().holdings[usize::from(partition.0)]
}

/// Takes a seat whose lease lasts.
async fn joined(store: &Arc<dyn Store>, boot: u64) -> BootId {
    cluster(store).join(&seat(boot), TTL).await.unwrap();
    BootId(boot)
}

/// Lets a lease run out now.
async fn expire(store: &Arc<dyn Store>, boot: BootId) {
    assert!(cluster(store).renew(renewal(boot, Duration::ZERO)).await.unwrap());
    assert!(!seated(store, boot).await.unwrap().is_alive());
}

pub async fn everybody_sees_who_is_there(store: Arc<dyn Store>) {
    let view = cluster(&store).view().await.unwrap();
    assert_eq!(view.servers, []);
    let numbers: Vec<_> = view.holdings.iter().map(|holding| holding.partition.0).collect();
    assert_eq!(numbers, (0..store.partitions()).collect::<Vec<_>>());
    assert!(view.holdings.iter().all(|holding| holding.owner.is_none() && holding.epoch == Epoch(0)));

    // Ids of 64 bits, and in their order.
    let boots = [7, u64::MAX, 1 << 63, 1];
    for boot in boots {
        joined(&store, boot).await;
    }
    let view = cluster(&store).view().await.unwrap();
    let seats: Vec<_> = view.servers.iter().map(|server| server.seat.clone()).collect();
    assert_eq!(seats, [1, 7, 1 << 63, u64::MAX].map(seat));
    for server in &view.servers {
        assert!(server.is_alive() && server.expires_in <= TTL && server.expires_in > TTL / 2, "{server:?}");
        assert!(server.joined_at <= view.now && !server.is_leaving && server.skew_micros == 0, "{server:?}");
    }
    let told = Renewal { is_leaving: true, skew_micros: -5_000_000, ..renewal(BootId(7), 2 * TTL) };
    assert!(cluster(&store).renew(told).await.unwrap());
    let server = seated(&store, BootId(7)).await.unwrap();
    assert!(server.is_leaving && server.skew_micros == -5_000_000 && server.expires_in > TTL, "{server:?}");
    // What another server says is its own.
    assert!(!seated(&store, BootId(1)).await.unwrap().is_leaving);
}

pub async fn a_lease_that_ran_out_is_over(store: Arc<dyn Store>) {
    assert!(!cluster(&store).renew(renewal(NOBODY, TTL)).await.unwrap());
    let one = joined(&store, 1).await;
    let first = seated(&store, one).await.unwrap();
    expire(&store, one).await;
    assert!(!cluster(&store).renew(renewal(one, TTL)).await.unwrap());
    assert!(!seated(&store, one).await.unwrap().is_alive());
    // It must join again, as if it were new.
    cluster(&store).join(&Seat { version: "0.2.0".to_owned(), ..seat(1) }, TTL).await.unwrap();
    let again = seated(&store, one).await.unwrap();
    assert!(again.is_alive() && again.joined_at >= first.joined_at);
    assert_eq!(again.seat.version, "0.2.0");
    assert!(cluster(&store).renew(renewal(one, TTL)).await.unwrap());
    assert_eq!(cluster(&store).view().await.unwrap().servers.len(), 1);
}

pub async fn partitions_are_claimed_from_nobody_alive(store: Arc<dyn Store>) {
    let claim = |boot, seen| cluster(&store).claim(HOME, boot, Epoch(seen));
    assert_eq!(claim(NOBODY, 0).await.unwrap(), None);
    let (one, two) = (joined(&store, 1).await, joined(&store, u64::MAX).await);
    for wrong in [-1, 1] {
        assert_eq!(claim(one, wrong).await.unwrap(), None);
    }
    assert_eq!(holding(&store, HOME).await.owner, None);
    assert_eq!(claim(one, 0).await.unwrap(), Some(Epoch(1)));
    let held = holding(&store, HOME).await;
    assert_eq!((held.owner, held.epoch), (Some(one), Epoch(1)));
    // Not while its owner lives, but by the owner itself.
    assert_eq!(claim(two, 1).await.unwrap(), None);
    assert_eq!(claim(two, 0).await.unwrap(), None);
    assert_eq!(claim(one, 1).await.unwrap(), Some(Epoch(2)));
    expire(&store, one).await;
    // Nor by one whose own lease has run out.
    assert_eq!(claim(one, 2).await.unwrap(), None);
    assert_eq!(claim(two, 1).await.unwrap(), None);
    assert_eq!(claim(two, 2).await.unwrap(), Some(Epoch(3)));
    let later = holding(&store, HOME).await;
    assert!(later.owner == Some(two) && later.since >= held.since);
    // Of another partition nothing was said.
    assert_eq!(holding(&store, PartitionId(4)).await.epoch, Epoch(0));

    let nowhere = PartitionId(store.partitions());
    let claimed = cluster(&store).claim(nowhere, two, Epoch(0)).await;
    assert!(matches!(claimed, Err(StoreError::Corrupt { .. })), "{claimed:?}");
}

pub async fn one_of_many_claims_wins(store: Arc<dyn Store>) {
    let mut epoch = Epoch(0);
    for _ in 0..10 {
        let mut claims = Vec::new();
        for boot in 1..=6 {
            let boot = joined(&store, boot).await;
            let store = store.clone();
            claims.push(tokio::spawn(async move { cluster(&store).claim(HOME, boot, epoch).await }));
        }
        let mut won = Vec::new();
        for (boot, claim) in (1..).zip(claims) {
            match claim.await.expect("no panic") {
                Ok(Some(epoch)) => won.push((BootId(boot), epoch)),
                Ok(None) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        let [(winner, new)] = won[..] else { panic!("{won:?}") };
        assert_eq!(new, Epoch(epoch.0 + 1));
        assert_eq!(holding(&store, HOME).await.owner, Some(winner));
        expire(&store, winner).await;
        epoch = new;
    }
}

pub async fn a_claim_ends_what_the_owner_before_writes(store: Arc<dyn Store>) {
    let (one, two) = (joined(&store, 1).await, joined(&store, 2).await);
    let mut world = World::new(store.clone()).await;
    // What a claim without a seat took belongs to nobody.
    assert_eq!(holding(&store, HOME).await.owner, None);
    let seen = world.epoch;
    world.epoch = cluster(&store).claim(HOME, one, seen).await.unwrap().unwrap();
    let app = world.app("demo");
    world.commit(vec![Change::AppInserted(app.clone())]).await;
    expire(&store, one).await;
    // It may still write as long as nobody took over: the epoch decides, not the lease.
    let other = world.app("other");
    world.commit(vec![Change::AppInserted(other.clone())]).await;
    let newer = cluster(&store).claim(HOME, two, world.epoch).await.unwrap().unwrap();
    let late = vec![Change::AppInserted(world.app("late"))];
    assert!(matches!(world.try_commit(late).await, Err(StoreError::Fenced { .. })));
    assert!(matches!(world.try_commit(Vec::new()).await, Err(StoreError::Fenced { .. })));
    assert_eq!(store.apps().await.unwrap(), [app, other]);
    world.epoch = newer;
    world.commit(Vec::new()).await;
}

pub async fn released_partitions_are_free_at_once(store: Arc<dyn Store>) {
    let (one, two) = (joined(&store, 1).await, joined(&store, 2).await);
    let release = |boot, epoch| cluster(&store).release(HOME, boot, Epoch(epoch));
    assert!(!release(one, 0).await.unwrap());
    assert_eq!(cluster(&store).claim(HOME, one, Epoch(0)).await.unwrap(), Some(Epoch(1)));
    let held = holding(&store, HOME).await;
    for (boot, epoch) in [(two, 1), (one, 0), (one, 2), (NOBODY, 1)] {
        assert!(!release(boot, epoch).await.unwrap(), "{boot:?} {epoch}");
    }
    assert!(!cluster(&store).release(PartitionId(store.partitions()), one, Epoch(1)).await.unwrap());
    assert_eq!(holding(&store, HOME).await, held);
    assert!(release(one, 1).await.unwrap());
    assert!(!release(one, 1).await.unwrap());
    let free = holding(&store, HOME).await;
    assert!(free.owner.is_none() && free.epoch == Epoch(1) && free.since >= held.since, "{free:?}");
    assert_eq!(cluster(&store).claim(HOME, two, Epoch(1)).await.unwrap(), Some(Epoch(2)));
}

pub async fn who_leaves_leaves_everything(store: Arc<dyn Store>) {
    let (one, two) = (joined(&store, 1).await, joined(&store, 2).await);
    for (partition, boot) in [(0, one), (1, two), (5, one)] {
        cluster(&store).claim(PartitionId(partition), boot, Epoch(0)).await.unwrap().unwrap();
    }
    cluster(&store).leave(one).await.unwrap();
    let view = cluster(&store).view().await.unwrap();
    assert_eq!(view.servers.iter().map(|server| server.seat.boot).collect::<Vec<_>>(), [two]);
    let owners: Vec<_> = view.holdings.iter().map(|holding| (holding.owner, holding.epoch.0)).collect();
    let none = (None, 0);
    assert_eq!(owners[..8], [(None, 1), (Some(two), 1), none, none, none, (None, 1), none, none]);
    // Twice does no harm.
    cluster(&store).leave(one).await.unwrap();
    assert!(!cluster(&store).renew(renewal(one, TTL)).await.unwrap());
    assert_eq!(cluster(&store).claim(PartitionId(5), two, Epoch(1)).await.unwrap(), Some(Epoch(2)));
}

pub async fn the_dead_are_forgotten_when_they_hold_nothing(store: Arc<dyn Store>) {
    let boots = [joined(&store, 1).await, joined(&store, 2).await, joined(&store, 3).await];
    let [alive, dead, owner] = boots;
    cluster(&store).claim(HOME, owner, Epoch(0)).await.unwrap().unwrap();
    expire(&store, dead).await;
    expire(&store, owner).await;
    let names = async || {
        let view = cluster(&store).view().await.unwrap();
        view.servers.iter().map(|server| server.seat.boot).collect::<Vec<_>>()
    };
    let forget = |longer_than| cluster(&store).forget_servers(longer_than);
    assert_eq!(forget(TTL).await.unwrap(), 0);
    assert_eq!(names().await, boots);
    assert_eq!(forget(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(names().await, [alive, owner]);
    cluster(&store).claim(HOME, alive, Epoch(1)).await.unwrap().unwrap();
    assert_eq!(forget(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(names().await, [alive]);
}

pub async fn the_secret_stays(store: Arc<dyn Store>) {
    let secret = cluster(&store).secret().await.unwrap();
    assert_ne!(secret, [0; 32]);
    assert_eq!(cluster(&store).secret().await.unwrap(), secret);
}

pub async fn numbered_batches_are_written_once(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    let commit = async |epoch: Epoch, number: u64, changes: Vec<Change>| {
        store.commit(Batch { partition: HOME, epoch, number, changes }).await
    };
    let names = async || store.apps().await.unwrap().into_iter().map(|app| app.name).collect::<Vec<_>>();
    let first = vec![Change::AppInserted(world.app("a"))];
    commit(world.epoch, 1, first.clone()).await.unwrap();
    // Its answer was lost: the caller asks again, and hears that it is written.
    commit(world.epoch, 1, first.clone()).await.unwrap();
    let third = vec![Change::AppInserted(world.app("c"))];
    commit(world.epoch, 3, third.clone()).await.unwrap();
    for number in [1, 2, 3] {
        let other = vec![Change::AppInserted(world.app("other"))];
        commit(world.epoch, number, other).await.unwrap();
    }
    assert_eq!(names().await, ["a", "c"]);
    // One that was refused was not written.
    assert!(matches!(commit(world.epoch, 4, third.clone()).await, Err(StoreError::Conflict { .. })));
    let fourth = vec![Change::AppInserted(world.app("d"))];
    commit(world.epoch, 4, fourth).await.unwrap();
    // Nobody repeats one without a number.
    for name in ["e", "f"] {
        let app = world.app(name);
        commit(world.epoch, 0, vec![Change::AppInserted(app)]).await.unwrap();
    }
    assert!(matches!(commit(world.epoch, 0, third.clone()).await, Err(StoreError::Conflict { .. })));
    assert_eq!(names().await, ["a", "c", "d", "e", "f"]);
    // Partitions count for themselves, and each epoch anew.
    let mut elsewhere = World::in_partition(store.clone(), PartitionId(4)).await;
    let app = elsewhere.app("g");
    let batch =
        Batch { partition: PartitionId(4), epoch: elsewhere.epoch, number: 1, changes: vec![Change::AppInserted(app)] };
    store.commit(batch).await.unwrap();
    let stale = world.epoch;
    world.epoch = store.partition_claim(HOME, "another", START).await.unwrap();
    let app = world.app("h");
    for number in [0, 1, 4, 5] {
        let late = commit(stale, number, vec![Change::AppInserted(app.clone())]).await;
        assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
    }
    commit(world.epoch, 1, vec![Change::AppInserted(app)]).await.unwrap();
    let boot = joined(&store, 9).await;
    world.epoch = cluster(&store).claim(HOME, boot, world.epoch).await.unwrap().unwrap();
    let app = world.app("i");
    commit(world.epoch, 1, vec![Change::AppInserted(app)]).await.unwrap();
    assert_eq!(names().await, ["a", "c", "d", "e", "f", "g", "h", "i"]);
}

pub async fn repeated_batches_meet_themselves(store: Arc<dyn Store>) {
    let mut world = World::new(store.clone()).await;
    for number in 1..=20 {
        let batch = Batch {
            partition: HOME,
            epoch: world.epoch,
            number,
            changes: vec![Change::AppInserted(world.app(&format!("app {number}")))],
        };
        // The first one is still under way when it is repeated.
        let both = [batch.clone(), batch].map(|batch| {
            let store = store.clone();
            tokio::spawn(async move { store.commit(batch).await })
        });
        for one in both {
            one.await.expect("no panic").unwrap();
        }
    }
    assert_eq!(store.apps().await.unwrap().len(), 20);
}
