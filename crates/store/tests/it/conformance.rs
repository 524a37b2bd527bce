//! All stores pass one suite.

use std::sync::Arc;

use pendula_store::sqlite::Options;
use pendula_store::{
    MemoryStore, PostgresStore, SqliteStore, Store, cluster_conformance_tests, conformance_tests, postgres,
};
use pendula_testdb::Postgres;

mod memory {
    use super::*;

    async fn make() -> (Arc<dyn Store>, ()) {
        (Arc::new(MemoryStore::shared(8, [7; 32])), ())
    }

    conformance_tests!(async || (Arc::new(MemoryStore::new(8)) as Arc<dyn Store>, ()));
    cluster_conformance_tests!(make);
}

mod sqlite {
    use super::*;

    async fn make() -> (Arc<dyn Store>, tempfile::TempDir) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = SqliteStore::open(directory.path(), Options { partitions: 8, ..Options::default() });
        (Arc::new(store.expect("an empty directory can be opened")), directory)
    }

    conformance_tests!(make);
}

async fn open(url: &str) -> Arc<dyn Store> {
    let options = postgres::Options { partitions: 8, ..postgres::Options::default() };
    Arc::new(PostgresStore::open(url, options).await.expect("an empty database can be opened"))
}

mod postgres_read_committed {
    use super::*;

    async fn make() -> (Arc<dyn Store>, ()) {
        (open(&Postgres::shared().database()).await, ())
    }

    conformance_tests!(make);
    cluster_conformance_tests!(make);
}

/// The strictest isolation that there is, as distributed databases have it.
mod postgres_serializable {
    use super::*;

    async fn make() -> (Arc<dyn Store>, ()) {
        let url = Postgres::shared().database();
        (open(&format!("{url}?options=-c%20default_transaction_isolation%3Dserializable")).await, ())
    }

    conformance_tests!(make);
    cluster_conformance_tests!(make);
}
