use pendula_testdb::Postgres;

use super::*;

#[tokio::test]
async fn a_plan_is_made_and_carried_out() {
    let url = Postgres::shared().database();
    let plan = migration_plan(&url).await.unwrap();
    assert_eq!((plan.schema, plan.known_schema, plan.steps.len()), (0, MIGRATIONS.len() as u32, MIGRATIONS.len()));
    assert!(plan.steps.iter().all(|step| step.state == MigrationState::Pending) && !plan.is_done());
    let mut heard = Vec::new();
    let done = migration_apply(&url, 16, |number, name| heard.push((number, name.to_owned()))).await.unwrap();
    assert_eq!(heard.len(), MIGRATIONS.len());
    assert!(done.is_done());
    assert_eq!(done, migration_plan(&url).await.unwrap());
    assert_eq!(migration_apply(&url, 99, |number, _| panic!("{number} was applied again")).await.unwrap(), done);
}

#[test]
fn what_must_wait_says_why() {
    let step = |number, kind| Migration { number, name: "step", kind, sql: "" };
    let takes = Kind::Contract { program: "0.3.0", schema: 1 };
    let known = [step(1, Kind::Expand), step(2, takes), step(3, Kind::Expand)];
    let plan = |version: &str| MigrationPlan::new(String::new(), &known, &[], vec![("a".into(), version.into())]);
    let waits = |plan: &MigrationPlan| {
        let states = plan.steps.iter().map(|step| step.state.clone());
        states
            .map(|state| if let MigrationState::Waiting(why) = state { why } else { String::new() })
            .collect::<Vec<_>>()
    };
    assert_eq!(waits(&plan("0.3.0")), ["", "", ""]);
    let reasons = waits(&plan("0.2.0"));
    assert_eq!((reasons[0].as_str(), reasons[2].as_str()), ("", "step 2 comes first"));
    assert!(reasons[1].contains("a (0.2.0)"), "{reasons:?}");
}
