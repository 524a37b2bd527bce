//! The crate table in ARCHITECTURE.md and the manifests say the same.

use std::collections::{BTreeMap, BTreeSet};

/// What each crate may use, as the table says.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = include_str!("../../../../ARCHITECTURE.md");
    let table = text.split("## Crates").nth(1).expect("the section is there");
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    table
        .lines()
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').collect();
            (cells[0].trim().trim_matches('`').to_owned(), names(cells[2]))
        })
        .collect()
}

#[test]
fn crates_depend_only_on_what_architecture_md_allows() {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata answers");
    let documented = documented();
    let mut seen = BTreeSet::new();
    for package in &metadata.packages {
        let directory = package.manifest_path.parent().expect("a manifest has a directory");
        if !directory.as_str().contains("/crates/") {
            continue; // the examples show what users may do
        }
        let name = directory.file_name().expect("a crate has a name").to_owned();
        let allowed = documented.get(&name).unwrap_or_else(|| panic!("ARCHITECTURE.md has no row for {name}"));
        for dependency in &package.dependencies {
            // Tests may use more: they point inwards, nothing points at them.
            let Some(path) =
                dependency.path.as_ref().filter(|_| dependency.kind == cargo_metadata::DependencyKind::Normal)
            else {
                continue;
            };
            let target = path.file_name().expect("a path dependency has a name");
            assert!(allowed.contains(target), "{name} uses {target}, which its row in ARCHITECTURE.md does not allow");
        }
        seen.insert(name);
    }
    let rows: BTreeSet<_> = documented.into_keys().collect();
    assert_eq!(rows, seen, "rows of the table and crates in the workspace");
}

#[test]
fn pure_crates_know_neither_a_runtime_nor_a_clock() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let forbidden =
        ["SystemTime::now", "Instant::now", "Timestamp::now", "Zoned::now", "tokio::", "std::fs", "std::net", "rand::"];
    for pure in ["model", "schedule", "engine"] {
        for file in rust_files(&root.join(pure).join("src")) {
            let text = std::fs::read_to_string(&file).expect("a source file is readable");
            for word in forbidden {
                assert!(!text.contains(word), "{} mentions {word}", file.display());
            }
        }
    }
}

fn rust_files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the directory is readable") {
        let path = entry.expect("the entry is readable").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
