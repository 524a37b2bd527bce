//! Streaming replicas.

use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::install::run;
use crate::{Postgres, ROLE, data_of};

impl Postgres {
    /// A replica of this server that commits wait for from now on (`synchronous_commit = on`: what was acknowledged is on
    /// its disk too). Returns when it has caught up.
    pub fn standby(&self) -> Postgres {
        let guardian = self.install.guardian();
        let name = format!("standby_{}", self.replicas.fetch_add(1, Ordering::Relaxed));
        let source = format!("host=127.0.0.1 port={} user={ROLE} application_name={name}", self.port);
        let mut copy = self.install.command("pg_basebackup");
        copy.args([
            "--checkpoint=fast",
            "--wal-method=stream",
            "--no-sync",
            "--write-recovery-conf",
            "--dbname",
            &source,
        ]);
        run(copy.arg("--pgdata").arg(data_of(&guardian)));
        // It waits for nobody itself, whatever the original was told.
        let settings = data_of(&guardian).join("postgresql.auto.conf");
        let told = std::fs::read_to_string(&settings).expect("the copy is complete");
        std::fs::write(&settings, told + "synchronous_standby_names = ''\n").expect("the copy can be written");
        let standby = Postgres::run(self.install, guardian, "");
        let names: Vec<_> =
            (0..self.replicas.load(Ordering::Relaxed)).map(|number| format!("standby_{number}")).collect();
        self.query("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 ({})'", names.join(", ")));
        self.query("postgres", "SELECT pg_reload_conf()");
        let question = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}' AND sync_state IN ('sync', 'quorum')"
        );
        let began = Instant::now();
        while self.query("postgres", &question) != "1" {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "{name} does not follow; see {}",
                standby.log().display()
            );
            sleep(Duration::from_millis(20));
        }
        standby
    }

    /// Makes a replica a server of its own, which can be written to. Returns when it can.
    pub fn promote(&self) {
        run(self.install.command("pg_ctl").args(["promote", "--wait", "--pgdata"]).arg(self.data()));
    }

    /// Whether it follows another one.
    pub fn is_standby(&self) -> bool {
        self.query("postgres", "SELECT pg_is_in_recovery()") == "t"
    }

    /// Commits wait for no replica any more.
    pub fn forget_standbys(&self) {
        self.query("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
        self.query("postgres", "SELECT pg_reload_conf()");
    }
}
