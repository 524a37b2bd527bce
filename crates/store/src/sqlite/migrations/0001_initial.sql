-- The first schema. Times are microseconds since the Unix epoch, in UTC. Codes are those of the model's words.
-- CHECKs and unique indexes repeat the laws, for whoever writes past the engine. Where rows are written all the time they
-- say BETWEEN, because SQLite makes a temporary tree for each IN list, each time.

-- Installation-wide facts: `partitions`, `installation`, `created_at`, and `last_deleted_id`, the largest id among rows
-- that are gone, so that ids never come back.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The unit of ownership. Every commit reads `epoch`; a missing row is an error, never a free pass.
CREATE TABLE partition (
    id         INTEGER PRIMARY KEY CHECK (id BETWEEN 0 AND 1023),
    owner      TEXT,
    epoch      INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    claimed_at INTEGER
) STRICT;

CREATE TRIGGER partition_epoch_only_grows BEFORE UPDATE OF epoch ON partition WHEN NEW.epoch <= OLD.epoch
BEGIN
    SELECT RAISE(ABORT, 'the epoch of a partition only grows');
END;

CREATE TABLE app (
    id            INTEGER PRIMARY KEY,
    name          TEXT NOT NULL,
    namespace     TEXT NOT NULL,
    partition     INTEGER NOT NULL REFERENCES partition (id),
    allow_scripts INTEGER NOT NULL CHECK (allow_scripts IN (0, 1)),
    created_at    INTEGER NOT NULL,
    version       INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX app_name ON app (name);
CREATE INDEX app_by_partition ON app (partition);

-- Small, because each fire rewrites a row: the definition itself lies in job_revision.
CREATE TABLE job (
    id         INTEGER PRIMARY KEY,
    partition  INTEGER NOT NULL,
    app_id     INTEGER NOT NULL,
    name       TEXT NOT NULL,
    enabled    INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    revision   INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    anchor     INTEGER NOT NULL,
    next_fire  INTEGER,
    last_fire  INTEGER,
    missed     INTEGER NOT NULL CHECK (missed >= 0),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    -- The row stays while history refers to it.
    deleted_at INTEGER,
    CHECK (next_fire IS NULL OR (enabled = 1 AND deleted_at IS NULL))
) STRICT;

CREATE UNIQUE INDEX job_name ON job (app_id, name) WHERE deleted_at IS NULL;
CREATE INDEX job_due ON job (partition, next_fire, id) WHERE next_fire IS NOT NULL;
CREATE INDEX job_deleted ON job (deleted_at) WHERE deleted_at IS NOT NULL;

-- Definitions as JSON, `enabled` aside, which is the job's and makes no revision.
CREATE TABLE job_revision (
    job_id     INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    revision   INTEGER NOT NULL,
    saved_at   INTEGER NOT NULL,
    superseded INTEGER NOT NULL DEFAULT 0 CHECK (superseded IN (0, 1)),
    spec       TEXT NOT NULL CHECK (json_valid(spec))
) STRICT;

CREATE UNIQUE INDEX job_revision_key ON job_revision (job_id, revision);
CREATE INDEX job_revision_superseded ON job_revision (job_id, revision) WHERE superseded = 1;

-- Fire times that made no instance.
CREATE TABLE gap (
    id         INTEGER PRIMARY KEY,
    job_id     INTEGER NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    first_fire INTEGER NOT NULL,
    last_fire  INTEGER NOT NULL,
    fires      INTEGER NOT NULL,
    noticed_at INTEGER NOT NULL
) STRICT;

CREATE INDEX gap_by_job ON gap (job_id, id);

-- Active and ended instances. Which columns an update may write is in sqlite/commit.rs.
CREATE TABLE instance (
    id              INTEGER PRIMARY KEY,
    partition       INTEGER NOT NULL,
    app_id          INTEGER NOT NULL,
    job_id          INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    origin          INTEGER NOT NULL CHECK (origin BETWEEN 1 AND 3),
    fire_time       INTEGER,
    missed_before   INTEGER NOT NULL CHECK (missed_before >= 0),
    rerun_of        INTEGER,
    priority        INTEGER NOT NULL CHECK (priority BETWEEN -128 AND 127),
    created_at      INTEGER NOT NULL,
    due_at          INTEGER NOT NULL,
    expires_at      INTEGER,
    state           INTEGER NOT NULL CHECK (state BETWEEN 1 AND 6 OR state BETWEEN 9 AND 10),
    version         INTEGER NOT NULL CHECK (version >= 0),
    attempt         INTEGER NOT NULL CHECK (attempt >= 0),
    failures        INTEGER NOT NULL CHECK (failures >= 0),
    losses          INTEGER NOT NULL CHECK (losses >= 0),
    worker_name     TEXT,
    -- 64 bits, of which the highest is the sign here.
    worker_boot     INTEGER,
    dispatched_at   INTEGER,
    started_at      INTEGER,
    ended_at        INTEGER,
    prune_at        INTEGER,
    stop_cause      INTEGER CHECK (stop_cause BETWEEN 1 AND 3),
    stop_deadline   INTEGER,
    reason          TEXT,
    message         TEXT,
    idempotency_key TEXT,
    params          TEXT CHECK (json_valid(params)),
    placement       TEXT CHECK (json_valid(placement)),
    result_type     TEXT,
    result          BLOB,
    CHECK ((ended_at IS NOT NULL) = (state BETWEEN 4 AND 5 OR state BETWEEN 9 AND 10)),
    CHECK ((prune_at IS NOT NULL) = (ended_at IS NOT NULL)),
    CHECK (NOT (state BETWEEN 2 AND 3 OR state = 6) OR (worker_name IS NOT NULL AND attempt >= 1)),
    CHECK ((worker_name IS NULL) = (worker_boot IS NULL)),
    CHECK ((stop_cause IS NOT NULL) = (state = 6)),
    CHECK ((result_type IS NULL) = (result IS NULL))
) STRICT;

-- One fire, one row.
CREATE UNIQUE INDEX instance_fire ON instance (job_id, fire_time) WHERE fire_time IS NOT NULL;
CREATE UNIQUE INDEX instance_idempotency ON instance (app_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- The hot set: what an owner loads. Its size follows what is under way, never history.
CREATE INDEX instance_active ON instance (partition, app_id, job_id) WHERE ended_at IS NULL;
CREATE INDEX instance_by_job ON instance (job_id, id);
CREATE INDEX instance_by_app ON instance (app_id, id);
-- What people look for among millions that succeeded.
CREATE INDEX instance_unsuccessful ON instance (state, id) WHERE ended_at IS NOT NULL AND state <> 5;
CREATE INDEX instance_unsuccessful_by_app ON instance (app_id, state, id) WHERE ended_at IS NOT NULL AND state <> 5;
CREATE INDEX instance_unsuccessful_by_job ON instance (job_id, state, id) WHERE ended_at IS NOT NULL AND state <> 5;
CREATE INDEX instance_prune ON instance (prune_at) WHERE prune_at IS NOT NULL;

-- Terminal is terminal. Each of our updates demands it too; this is for all others, and costs a twentieth of the
-- throughput.
CREATE TRIGGER instance_end_is_final BEFORE UPDATE ON instance WHEN OLD.ended_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'an ended instance never changes');
END;

-- Tries that were followed by another; the last one is part of the instance.
CREATE TABLE past_attempt (
    instance_id   INTEGER NOT NULL REFERENCES instance (id) ON DELETE CASCADE,
    attempt       INTEGER NOT NULL CHECK (attempt >= 1),
    state         INTEGER NOT NULL CHECK (state IN (4, 5, 7, 10)),
    worker_name   TEXT,
    worker_boot   INTEGER,
    placement     TEXT CHECK (json_valid(placement)),
    dispatched_at INTEGER,
    started_at    INTEGER,
    ended_at      INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    message       TEXT,
    PRIMARY KEY (instance_id, attempt),
    CHECK ((worker_name IS NULL) = (worker_boot IS NULL))
) STRICT, WITHOUT ROWID;

-- Access tokens, of which only the hash is kept.
CREATE TABLE token (
    id         INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    scope      TEXT NOT NULL CHECK (scope IN ('admin', 'app', 'worker', 'metrics')),
    app_id     INTEGER REFERENCES app (id) ON DELETE CASCADE,
    hash       BLOB NOT NULL CHECK (length(hash) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    CHECK ((scope IN ('admin', 'metrics')) = (app_id IS NULL))
) STRICT;

CREATE UNIQUE INDEX token_hash ON token (hash);
CREATE INDEX token_by_app ON token (app_id) WHERE app_id IS NOT NULL;
