//! What every store must do, as tests that any implementation of the port can be put through.
//!
//! Each case takes a fresh, empty store with at least 8 partitions and panics when the store is at fault.
//! [`conformance_tests!`](crate::conformance_tests) makes one test of each, and
//! [`cluster_conformance_tests!`](crate::cluster_conformance_tests) of those for a store that several servers share.

mod apps;
mod cluster;
mod instances;
mod jobs;
mod listings;
mod ownership;
mod tasks;
mod upkeep;
mod world;

pub use apps::{apps_are_unique_by_name, tokens_open_until_deleted};
pub use cluster::{
    a_claim_ends_what_the_owner_before_writes, a_lease_that_ran_out_is_over, everybody_sees_who_is_there,
    numbered_batches_are_written_once, one_of_many_claims_wins, partitions_are_claimed_from_nobody_alive,
    released_partitions_are_free_at_once, repeated_batches_meet_themselves,
    the_dead_are_forgotten_when_they_hold_nothing, the_secret_stays, who_leaves_leaves_everything,
};
pub use instances::{
    attempts_are_kept_once, ended_instances_never_change, fires_and_keys_are_unique, instances_are_read_as_written,
    instances_move_by_version, lawless_instances_are_refused, unreadable_instances_can_be_set_aside,
};
pub use jobs::{
    deleted_jobs_free_their_name, gaps_are_kept_up_to_a_bound, job_edits_expect_a_version, jobs_are_read_as_written,
    schedules_advance_from_what_was_expected,
};
pub use listings::{due_jobs_come_in_order, instance_listings_agree_with_a_scan, job_listings_are_paged};
pub use ownership::{
    batches_are_whole, concurrent_batches_fail_alone, only_the_latest_epoch_writes,
    s4_4_no_kind_of_change_is_accepted_from_a_stale_owner, snapshots_hold_what_is_under_way,
};
pub use tasks::{
    counts_move_by_version, ended_instances_settle_their_tasks, instances_without_worker_or_tasks_are_broken,
    lawless_tasks_are_refused, pruning_forgets_tasks, results_come_in_pages, snapshots_hold_tasks_under_way,
    task_listings_agree_with_a_scan, tasks_are_read_as_written, tasks_move_by_version,
    unsuccessful_tasks_are_copied_whole, waiting_tasks_come_in_pages,
};
pub use upkeep::{ids_are_never_forgotten, pruning_forgets_what_is_over};

/// A test for every case: `conformance_tests!(make)`, where `make().await` returns `(Arc<dyn Store>, guard)` and the guard
/// is dropped after the case.
#[macro_export]
macro_rules! conformance_tests {
    ($make:expr) => {
        $crate::conformance_tests!(@each $make;
            apps_are_unique_by_name, tokens_open_until_deleted,
            attempts_are_kept_once, ended_instances_never_change, fires_and_keys_are_unique,
            instances_are_read_as_written, instances_move_by_version, lawless_instances_are_refused,
            unreadable_instances_can_be_set_aside,
            deleted_jobs_free_their_name, gaps_are_kept_up_to_a_bound, job_edits_expect_a_version,
            jobs_are_read_as_written, schedules_advance_from_what_was_expected,
            due_jobs_come_in_order, instance_listings_agree_with_a_scan, job_listings_are_paged,
            batches_are_whole, concurrent_batches_fail_alone, only_the_latest_epoch_writes,
            s4_4_no_kind_of_change_is_accepted_from_a_stale_owner,
            snapshots_hold_what_is_under_way,
            counts_move_by_version, ended_instances_settle_their_tasks,
            instances_without_worker_or_tasks_are_broken, lawless_tasks_are_refused, pruning_forgets_tasks,
            results_come_in_pages, snapshots_hold_tasks_under_way, task_listings_agree_with_a_scan,
            tasks_are_read_as_written, tasks_move_by_version, unsuccessful_tasks_are_copied_whole,
            waiting_tasks_come_in_pages,
            ids_are_never_forgotten, pruning_forgets_what_is_over,
        );
    };
    (@each $make:expr; $($case:ident,)+) => {
        $(
            #[tokio::test]
            async fn $case() {
                let (store, _guard) = ($make)().await;
                $crate::conformance::$case(store).await;
            }
        )+
    };
}

/// The same for the cases of [`Cluster`](crate::Cluster).
#[macro_export]
macro_rules! cluster_conformance_tests {
    ($make:expr) => {
        $crate::conformance_tests!(@each $make;
            a_claim_ends_what_the_owner_before_writes, a_lease_that_ran_out_is_over, everybody_sees_who_is_there,
            numbered_batches_are_written_once, one_of_many_claims_wins, partitions_are_claimed_from_nobody_alive,
            released_partitions_are_free_at_once, repeated_batches_meet_themselves,
            the_dead_are_forgotten_when_they_hold_nothing, the_secret_stays, who_leaves_leaves_everything,
        );
    };
}
