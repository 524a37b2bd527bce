//! Both stores pass one suite.

use std::sync::Arc;

use pendula_store::sqlite::Options;
use pendula_store::{MemoryStore, SqliteStore, Store, conformance_tests};

mod memory {
    use super::*;

    conformance_tests!(|| (Arc::new(MemoryStore::new(8)) as Arc<dyn Store>, ()));
}

mod sqlite {
    use super::*;

    fn make() -> (Arc<dyn Store>, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = SqliteStore::open(directory.path(), Options { partitions: 8, ..Options::default() });
        (Arc::new(store.expect("an empty directory can be opened")), directory)
    }

    conformance_tests!(make);
}
