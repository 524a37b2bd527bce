//! What is copied: tables in order, their columns, and where those come from.

/// A column, with what to select for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub name: &'static str,
    pub from: &'static str,
    pub kind: Kind,
}

/// What a column holds. Numbers travel as 64 bits; the database narrows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Flag,
    Text,
    Blob,
}

const fn int(name: &'static str) -> Column {
    Column { name, from: name, kind: Kind::Int }
}

const fn flag(name: &'static str) -> Column {
    Column { name, from: name, kind: Kind::Flag }
}

const fn text(name: &'static str) -> Column {
    Column { name, from: name, kind: Kind::Text }
}

const fn blob(name: &'static str) -> Column {
    Column { name, from: name, kind: Kind::Blob }
}

/// A table of the database.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub name: &'static str,
    /// Whether it is in the file of logs.
    pub is_log: bool,
    pub columns: &'static [Column],
    /// The rest of the query for its rows: tables and conditions, then their order.
    pub from: &'static str,
    pub order: &'static str,
}

impl Table {
    /// How the file is asked for all rows.
    pub fn selection(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|column| column.from).collect();
        format!("SELECT {} FROM {} ORDER BY {}", columns.join(", "), self.from, self.order)
    }

    /// How the database takes many.
    pub fn insertion(&self) -> String {
        let columns: Vec<_> = self.columns.iter().map(|column| column.name).collect();
        let values: Vec<_> = (1..=self.columns.len()).map(|number| format!("${number}")).collect();
        format!("INSERT INTO {} ({}) SELECT * FROM unnest({})", self.name, columns.join(", "), values.join(", "))
    }
}

/// What instances have that are under way, and those that ended.
macro_rules! instance_columns {
    ($($more:expr),*) => {
        &[
            int("id"), int("app_id"), int("job_id"), int("revision"), int("origin"), int("priority"), int("fire_time"),
            int("missed_before"), int("rerun_of"), int("created_at"), int("due_at"), int("expires_at"), int("state"),
            int("version"), int("attempt"), int("failures"), int("losses"), int("worker_boot"), int("dispatched_at"),
            int("started_at"), int("stop_deadline"), text("worker_name"), text("reason"), text("message"),
            text("idempotency_key"), text("params"), text("placement"), text("result_type"), blob("result"), $($more),*
        ]
    };
}

pub(super) const TABLES: &[Table] = &[
    Table {
        name: "app",
        is_log: false,
        columns: &[
            int("id"),
            int("partition"),
            text("name"),
            text("namespace"),
            flag("allow_scripts"),
            int("created_at"),
            int("version"),
        ],
        from: "app",
        order: "id",
    },
    Table {
        name: "job",
        is_log: false,
        columns: &[
            int("id"),
            int("app_id"),
            int("partition"),
            flag("enabled"),
            text("name"),
            int("revision"),
            int("version"),
            int("anchor"),
            int("next_fire"),
            int("last_fire"),
            int("missed"),
            int("created_at"),
            int("updated_at"),
            int("deleted_at"),
        ],
        from: "job",
        order: "id",
    },
    Table {
        name: "job_revision",
        is_log: false,
        columns: &[int("job_id"), int("revision"), int("saved_at"), flag("superseded"), text("spec")],
        from: "job_revision",
        order: "job_id, revision",
    },
    Table {
        name: "gap",
        is_log: false,
        columns: &[
            int("job_id"),
            // Numbered for each job, while in the file they are for all.
            Column { name: "number", from: "row_number() OVER (PARTITION BY job_id ORDER BY id)", kind: Kind::Int },
            int("first_fire"),
            int("last_fire"),
            int("fires"),
            int("noticed_at"),
        ],
        from: "gap",
        order: "job_id, id",
    },
    Table {
        name: "instance",
        is_log: false,
        columns: instance_columns!(int("partition"), int("stop_cause")),
        from: "instance WHERE ended_at IS NULL",
        order: "id",
    },
    Table {
        name: "ended_instance",
        is_log: false,
        columns: instance_columns!(int("ended_at"), int("prune_at")),
        from: "instance WHERE ended_at IS NOT NULL",
        order: "id",
    },
    Table {
        name: "past_attempt",
        is_log: false,
        columns: &[
            int("instance_id"),
            int("task_id"),
            int("attempt"),
            int("state"),
            int("worker_boot"),
            int("dispatched_at"),
            int("started_at"),
            int("ended_at"),
            text("worker_name"),
            text("placement"),
            text("reason"),
            text("message"),
        ],
        from: "past_attempt",
        order: "instance_id, task_id, attempt",
    },
    Table {
        name: "fanout",
        is_log: false,
        columns: &[
            int("instance_id"),
            int("version"),
            int("phase"),
            int("total"),
            int("waiting"),
            int("running"),
            int("succeeded"),
            int("failed"),
            int("lost"),
            int("stopped"),
            int("next_task"),
            int("next_waiting"),
            int("base_id"),
            int("rate_milli"),
            text("targets"),
        ],
        from: "fanout",
        order: "instance_id",
    },
    Table {
        name: "task",
        is_log: false,
        columns: &[
            int("instance_id"),
            int("id"),
            int("role"),
            int("state"),
            int("version"),
            int("attempt"),
            int("failures"),
            int("losses"),
            int("emitted"),
            int("due_at"),
            int("parent"),
            int("target_boot"),
            int("worker_boot"),
            int("dispatched_at"),
            int("started_at"),
            int("ended_at"),
            text("target_name"),
            text("worker_name"),
            text("reason"),
            text("name"),
            text("message"),
            text("placement"),
            text("input_type"),
            blob("input"),
            text("result_type"),
            blob("result"),
        ],
        from: "task",
        order: "instance_id, id",
    },
    Table {
        name: "token",
        is_log: false,
        columns: &[
            int("id"),
            text("name"),
            text("scope"),
            int("app_id"),
            blob("hash"),
            int("created_at"),
            int("expires_at"),
        ],
        from: "token",
        order: "id",
    },
    Table {
        name: "log_stream",
        is_log: true,
        columns: &[
            int("instance_id"),
            int("attempt"),
            int("task"),
            int("app_id"),
            Column { name: "version", from: "1", kind: Kind::Int },
            int("next_offset"),
            flag("ended"),
            int("stored_bytes"),
            int("cut_at"),
            int("tail_start"),
            int("tail_rows"),
            int("tail_bytes"),
        ],
        from: "stream",
        order: "id",
    },
    Table {
        name: "log_chunk",
        is_log: true,
        columns: &[
            int("instance_id"),
            int("attempt"),
            int("task"),
            int("start"),
            int("length"),
            int("codec"),
            blob("data"),
        ],
        // In the order of the chunks' index: nothing is sorted, however much there is.
        from: "chunk CROSS JOIN stream ON stream.id = chunk.stream_id",
        order: "chunk.stream_id, start",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Who adds a column to one of the two says here where it comes from.
    #[test]
    fn every_column_of_the_database_is_filled() {
        // Facts are taken over one by one; the others say who uses the database, and how it was made.
        let others = ["meta", "partition", "server", "migration"];
        let filled: BTreeSet<String> = TABLES
            .iter()
            .flat_map(|table| table.columns.iter().map(|column| format!("{}.{}", table.name, column.name)))
            .collect();
        let there: BTreeSet<String> = crate::postgres::verify::columns()
            .filter(|column| !others.contains(&column.split('.').next().unwrap_or_default()))
            .map(str::to_owned)
            .collect();
        assert_eq!(filled, there);
    }
}
