//! A job that fires each second while something is done to its workers.

use std::collections::BTreeMap;
use std::time::Duration;

use pendula_e2e::all_instances;
use pendula_e2e::powerjob::{APP, PATIENCE, Yard, job};
use pendula_e2e::process::eventually;
use pendula_model::instance::InstanceState;
use pendula_model::powerjob::PowerJobExecuteType::Standalone;
use pendula_model::trigger::Trigger;

pub struct Ticking {
    name: String,
}

impl Ticking {
    /// Starts it, and waits until it ran.
    pub async fn start<S>(yard: &Yard<S>, name: &str) -> Ticking {
        let mut tick = job(name, "Echo", Standalone, "tick", None);
        tick.trigger = Some(Trigger { fixed_rate: Some(Duration::from_secs(1)), ..Trigger::default() });
        yard.client.job_create(APP, &tick).await.expect("the job is valid");
        let ticking = Ticking { name: name.to_owned() };
        eventually("it ran", PATIENCE, || async {
            all_instances(&yard.client, APP, name)
                .await
                .iter()
                .any(|row| row.state == InstanceState::Succeeded)
                .then_some(())
        })
        .await;
        ticking
    }

    /// Ends it. No fire was missed and none doubled, each came to a good end, and ran once.
    pub async fn check<S>(self, yard: &Yard<S>, at_least: usize) {
        yard.client.job_disable(APP, &self.name).await.expect("it is there");
        let rows = eventually("all came to their end", PATIENCE, || async {
            let rows = all_instances(&yard.client, APP, &self.name).await;
            rows.iter().all(|row| row.state.is_ended()).then_some(rows)
        })
        .await;
        let mut fires: BTreeMap<i64, u32> = BTreeMap::new();
        for row in &rows {
            let view = yard.client.instance_fetch(row.id).await.expect("it is there");
            assert_eq!((view.state, view.attempt), (InstanceState::Succeeded, 1), "{view:?}");
            assert_eq!(yard.notes(row.id).len(), 1, "{view:?}");
            *fires.entry(row.fire_time.expect("it was fired").as_millis()).or_default() += 1;
        }
        assert!(rows.len() >= at_least, "only {} fires", rows.len());
        assert!(fires.values().all(|count| *count == 1), "{fires:?}");
        let times: Vec<_> = fires.into_keys().collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 1000), "{times:?}");
    }
}
