//! The definitions in `jobs` are valid, and name handlers that `crew` has.

use pendula_model::job::JobSpec;
use pendula_model::processor::Processor;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Definitions {
    app: String,
    jobs: Vec<JobSpec>,
}

#[test]
fn the_definitions_are_valid_and_name_handlers_of_the_crew() {
    let crew = include_str!("../src/bin/crew/main.rs");
    let mut modes = Vec::new();
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/jobs")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let definitions: Definitions =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(definitions.app, "demo");
        for job in definitions.jobs {
            job.validate().unwrap_or_else(|invalid| panic!("{}: {invalid}", path.display()));
            if let Processor::Handler(handler) = &job.processor {
                assert!(crew.contains(&format!(".handler(\"{}\"", handler.name)), "{} is not there", handler.name);
            }
            modes.push(job.mode.as_str());
        }
    }
    modes.sort_unstable();
    assert_eq!(modes, ["broadcast", "map_reduce", "map_reduce", "sharded"]);
}
