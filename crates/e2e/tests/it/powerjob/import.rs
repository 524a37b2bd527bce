//! Definitions and workers move together.

use pendula_client::InstanceFilter;
use pendula_e2e::powerjob::{APP, PATIENCE, Programs, Yard, result};
use pendula_e2e::process::eventually;
use pendula_model::instance::InstanceState;

/// As H2 writes what a server of PowerJob has: two jobs that fire each second, one of them disabled.
const SCRIPT: &str = r#"-- H2 2.1.214;
;
CREATE CACHED TABLE "PUBLIC"."APP_INFO"("ID" BIGINT NOT NULL, "APP_NAME" CHARACTER VARYING(255));
INSERT INTO "PUBLIC"."APP_INFO" VALUES (7, 'yard');
CREATE CACHED TABLE "PUBLIC"."JOB_INFO"(
    "ID" BIGINT NOT NULL,
    "APP_ID" BIGINT,
    "JOB_NAME" CHARACTER VARYING(255),
    "STATUS" INTEGER,
    "EXECUTE_TYPE" INTEGER,
    "PROCESSOR_TYPE" INTEGER,
    "PROCESSOR_INFO" CHARACTER VARYING(255),
    "TIME_EXPRESSION_TYPE" INTEGER,
    "TIME_EXPRESSION" CHARACTER VARYING(255),
    "JOB_PARAMS" CHARACTER LARGE OBJECT
);
INSERT INTO "PUBLIC"."JOB_INFO" VALUES
(1, 7, 'each second', 1, 1, 1, 'org.pendula.compat.Processors$Echo', 2, '* * * * * ?', U&'moved; \00fc'),
(2, 7, 'not now', 2, 1, 1, 'org.pendula.compat.Processors$Echo', 2, '* * * * * ?', NULL);
"#;

/// A worker keeps its configuration but for the address, and runs what was imported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_cron_job_runs_on_the_worker_that_it_ran_on_before() {
    let programs = tokio::task::spawn_blocking(|| Programs::worker("5.1.1")).await.expect("no panic");
    let mut yard = Yard::start().await;
    let file = yard.server.directory().join("powerjob.sql");
    std::fs::write(&file, SCRIPT).expect("a directory of ours");
    let mut import = tokio::process::Command::new(pendula_e2e::binary::pendula());
    import
        .args(["import", "powerjob", "--timezone", "UTC", "--from"])
        .arg(&file)
        .env("PENDULA_SERVER", yard.server.url())
        .env("PENDULA_TOKEN", &yard.server.token);
    let imported = import.output().await.expect("it can be started");
    let said = String::from_utf8_lossy(&imported.stdout).into_owned() + &String::from_utf8_lossy(&imported.stderr);
    assert!(imported.status.success() && said.contains("2 new"), "{said}");

    yard.add(&programs, "5.1.1");
    yard.connected().await;
    let of = |job: &str, states: &[InstanceState]| InstanceFilter {
        app: Some(APP.to_owned()),
        job: Some(job.to_owned()),
        states: states.to_vec(),
        ..InstanceFilter::default()
    };
    let ended = of("each second", &[InstanceState::Succeeded]);
    let id = eventually("two of its fires ran", PATIENCE, || async {
        let seen = yard.client.instance_list(&ended).await.ok()?.items;
        (seen.len() >= 2).then(|| seen[0].id)
    })
    .await;
    let view = yard.client.instance_fetch(id).await.expect("it is there");
    assert!(result(&view).starts_with("moved; ü|"), "{}", result(&view));
    assert_eq!(yard.notes(id), ["5.1.1"]);
    let others = yard.client.instance_list(&of("not now", &[])).await.expect("it answers");
    assert!(others.items.is_empty());
}
