-- The first schema. Times are microseconds since the Unix epoch, in UTC; codes are those of the model's words; boot ids
-- have 64 bits, of which the highest is the sign here. JSON is kept as the text that it came as.
--
-- Only what PostgreSQL and the distributed databases that speak its protocol have in common: no triggers, no sequences,
-- no rules of our own outside of constraints. Texts that are looked up or sorted by carry the collation "C": they compare
-- by their bytes, everywhere alike, and an upgrade of the system's locales cannot silently break their indexes.
--
-- CHECKs and unique indexes repeat the laws, for whoever writes past the engine.

-- Installation-wide facts: `partitions`, `installation`, `created_at`, `secret`, and `last_deleted_id`, the largest id among
-- tokens that are gone, so that ids never come back.
CREATE TABLE meta (
    key   TEXT COLLATE "C" PRIMARY KEY,
    value TEXT NOT NULL
);

-- Processes of the server. A row that `expires_at` has passed holds nothing, by the database's clock.
CREATE TABLE server (
    boot        BIGINT PRIMARY KEY,
    name        TEXT NOT NULL,
    address     TEXT NOT NULL,
    version     TEXT NOT NULL,
    joined_at   BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL,
    leaving     BOOLEAN NOT NULL,
    skew_micros BIGINT NOT NULL
);

-- The unit of ownership. Every commit writes its row first, which makes commits of a partition come one after the other,
-- and a claim wait for one that is under way. A missing row is an error, never a free pass. The free space on its pages
-- is for the versions of rows that are rewritten all the time.
CREATE TABLE partition (
    id      INTEGER PRIMARY KEY CHECK (id BETWEEN 0 AND 1023),
    -- A server's boot id; nobody's when it was let go.
    owner   BIGINT,
    epoch   BIGINT NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    -- The number of the last batch of this epoch, by which one is known again whose answer was lost.
    batch   BIGINT NOT NULL DEFAULT 0,
    -- The largest id that was ever written here, also of rows that are gone.
    last_id BIGINT NOT NULL DEFAULT 0,
    -- When it was claimed or let go, by the database's clock.
    since   BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

CREATE TABLE app (
    id            BIGINT PRIMARY KEY,
    partition     INTEGER NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    namespace     TEXT NOT NULL,
    allow_scripts BOOLEAN NOT NULL,
    created_at    BIGINT NOT NULL,
    version       BIGINT NOT NULL
);

CREATE UNIQUE INDEX app_name ON app (name);
CREATE INDEX app_by_partition ON app (partition);

-- Small, because each fire rewrites a row: the definition itself lies in job_revision.
CREATE TABLE job (
    id         BIGINT PRIMARY KEY,
    app_id     BIGINT NOT NULL,
    partition  INTEGER NOT NULL,
    enabled    BOOLEAN NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    revision   BIGINT NOT NULL,
    version    BIGINT NOT NULL,
    anchor     BIGINT NOT NULL,
    next_fire  BIGINT,
    last_fire  BIGINT,
    missed     BIGINT NOT NULL CHECK (missed >= 0),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    -- The row stays while history refers to it.
    deleted_at BIGINT,
    CONSTRAINT job_fires CHECK (next_fire IS NULL OR (enabled AND deleted_at IS NULL))
);

CREATE UNIQUE INDEX job_name ON job (app_id, name) WHERE deleted_at IS NULL;
CREATE INDEX job_due ON job (partition, next_fire, id) WHERE next_fire IS NOT NULL;
CREATE INDEX job_deleted ON job (id) WHERE deleted_at IS NOT NULL;

-- Definitions as JSON, `enabled` aside, which is the job's and makes no revision.
CREATE TABLE job_revision (
    job_id     BIGINT NOT NULL,
    revision   BIGINT NOT NULL,
    saved_at   BIGINT NOT NULL,
    superseded BOOLEAN NOT NULL DEFAULT FALSE,
    spec       TEXT NOT NULL,
    PRIMARY KEY (job_id, revision)
);

CREATE INDEX job_revision_superseded ON job_revision (job_id, revision) WHERE superseded;

-- Fire times that made no instance, counted for each job.
CREATE TABLE gap (
    job_id     BIGINT NOT NULL,
    number     BIGINT NOT NULL,
    first_fire BIGINT NOT NULL,
    last_fire  BIGINT NOT NULL,
    fires      BIGINT NOT NULL,
    noticed_at BIGINT NOT NULL,
    PRIMARY KEY (job_id, number)
);

-- What is under way: its size has nothing to do with history. No column of an index ever changes in a row, so that a new
-- version of it costs no index anything, and finds a place on the same page.
CREATE TABLE instance (
    id              BIGINT PRIMARY KEY,
    app_id          BIGINT NOT NULL,
    job_id          BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    partition       INTEGER NOT NULL,
    origin          SMALLINT NOT NULL,
    priority        SMALLINT NOT NULL,
    fire_time       BIGINT,
    missed_before   BIGINT NOT NULL,
    rerun_of        BIGINT,
    created_at      BIGINT NOT NULL,
    due_at          BIGINT NOT NULL,
    expires_at      BIGINT,
    state           SMALLINT NOT NULL,
    stop_cause      SMALLINT,
    version         BIGINT NOT NULL,
    attempt         BIGINT NOT NULL,
    failures        BIGINT NOT NULL,
    losses          BIGINT NOT NULL,
    worker_boot     BIGINT,
    dispatched_at   BIGINT,
    started_at      BIGINT,
    stop_deadline   BIGINT,
    worker_name     TEXT,
    reason          TEXT,
    message         TEXT,
    idempotency_key TEXT COLLATE "C",
    params          TEXT,
    placement       TEXT,
    result_type     TEXT,
    result          BYTEA,
    CONSTRAINT instance_words CHECK (origin BETWEEN 1 AND 3 AND (state BETWEEN 1 AND 3 OR state = 6)
        AND priority BETWEEN -128 AND 127),
    CONSTRAINT instance_counts CHECK (missed_before >= 0 AND version >= 0 AND attempt >= 0 AND failures >= 0
        AND losses >= 0),
    CONSTRAINT instance_placed CHECK (state = 1 OR (attempt >= 1 AND (state <> 2 OR worker_name IS NOT NULL))),
    CONSTRAINT instance_worker CHECK ((worker_name IS NULL) = (worker_boot IS NULL)),
    CONSTRAINT instance_stop CHECK ((stop_cause IS NOT NULL) = (state = 6) AND stop_cause BETWEEN 1 AND 4),
    CONSTRAINT instance_result CHECK ((result_type IS NULL) = (result IS NULL))
) WITH (fillfactor = 70);

-- What an owner loads, and listings of what is under way.
CREATE INDEX instance_by_job ON instance (partition, app_id, job_id, id);
-- One fire, one row. An insert looks into history for the same.
CREATE UNIQUE INDEX instance_fire ON instance (job_id, fire_time) WHERE fire_time IS NOT NULL;
CREATE UNIQUE INDEX instance_idempotency ON instance (app_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- History: rows move here when they end, never change again, and are deleted when their time has come.
CREATE TABLE ended_instance (
    id              BIGINT PRIMARY KEY,
    app_id          BIGINT NOT NULL,
    job_id          BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    origin          SMALLINT NOT NULL,
    priority        SMALLINT NOT NULL,
    state           SMALLINT NOT NULL,
    fire_time       BIGINT,
    missed_before   BIGINT NOT NULL,
    rerun_of        BIGINT,
    created_at      BIGINT NOT NULL,
    due_at          BIGINT NOT NULL,
    expires_at      BIGINT,
    version         BIGINT NOT NULL,
    attempt         BIGINT NOT NULL,
    failures        BIGINT NOT NULL,
    losses          BIGINT NOT NULL,
    worker_boot     BIGINT,
    dispatched_at   BIGINT,
    started_at      BIGINT,
    ended_at        BIGINT NOT NULL,
    prune_at        BIGINT NOT NULL,
    stop_deadline   BIGINT,
    worker_name     TEXT,
    reason          TEXT,
    message         TEXT,
    idempotency_key TEXT COLLATE "C",
    params          TEXT,
    placement       TEXT,
    result_type     TEXT,
    result          BYTEA,
    CONSTRAINT ended_instance_words CHECK (origin BETWEEN 1 AND 3 AND priority BETWEEN -128 AND 127
        AND (state BETWEEN 4 AND 5 OR state BETWEEN 9 AND 10)),
    CONSTRAINT ended_instance_counts CHECK (missed_before >= 0 AND version >= 0 AND attempt >= 0 AND failures >= 0
        AND losses >= 0),
    CONSTRAINT ended_instance_worker CHECK ((worker_name IS NULL) = (worker_boot IS NULL)),
    CONSTRAINT ended_instance_result CHECK ((result_type IS NULL) = (result IS NULL))
);

CREATE UNIQUE INDEX ended_instance_fire ON ended_instance (job_id, fire_time) WHERE fire_time IS NOT NULL;
CREATE UNIQUE INDEX ended_instance_idempotency ON ended_instance (app_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX ended_instance_by_job ON ended_instance (job_id, id);
CREATE INDEX ended_instance_by_app ON ended_instance (app_id, id);
-- What people look for among millions that succeeded.
CREATE INDEX ended_instance_unsuccessful ON ended_instance (state, id) WHERE state <> 5;
CREATE INDEX ended_instance_unsuccessful_by_app ON ended_instance (app_id, state, id) WHERE state <> 5;
CREATE INDEX ended_instance_unsuccessful_by_job ON ended_instance (job_id, state, id) WHERE state <> 5;
CREATE INDEX ended_instance_prune ON ended_instance (prune_at, id);

-- Tries that were followed by another; the last one is part of the instance, or of its task. The only task of a
-- standalone instance is 0.
CREATE TABLE past_attempt (
    instance_id   BIGINT NOT NULL,
    task_id       BIGINT NOT NULL CHECK (task_id >= 0),
    attempt       BIGINT NOT NULL CHECK (attempt >= 1),
    state         SMALLINT NOT NULL CHECK (state IN (4, 5, 7, 10)),
    worker_boot   BIGINT,
    dispatched_at BIGINT,
    started_at    BIGINT,
    ended_at      BIGINT NOT NULL,
    worker_name   TEXT,
    placement     TEXT,
    reason        TEXT NOT NULL,
    message       TEXT,
    PRIMARY KEY (instance_id, task_id, attempt),
    CONSTRAINT past_attempt_worker CHECK ((worker_name IS NULL) = (worker_boot IS NULL))
);

-- How an instance became tasks, and how many of those proper (roles 2 to 4) are in which state.
CREATE TABLE fanout (
    instance_id  BIGINT PRIMARY KEY,
    version      BIGINT NOT NULL CHECK (version >= 0),
    phase        SMALLINT NOT NULL CHECK (phase BETWEEN 1 AND 3),
    total        BIGINT NOT NULL,
    waiting      BIGINT NOT NULL CHECK (waiting >= 0),
    running      BIGINT NOT NULL CHECK (running >= 0),
    succeeded    BIGINT NOT NULL CHECK (succeeded >= 0),
    failed       BIGINT NOT NULL CHECK (failed >= 0),
    lost         BIGINT NOT NULL CHECK (lost >= 0),
    stopped      BIGINT NOT NULL CHECK (stopped >= 0),
    next_task    BIGINT NOT NULL CHECK (next_task >= 0),
    -- All tasks below were placed at least once, or are bound to a worker.
    next_waiting BIGINT NOT NULL,
    base_id      BIGINT,
    rate_milli   BIGINT NOT NULL CHECK (rate_milli >= 0),
    targets      TEXT,
    CONSTRAINT fanout_next CHECK (next_waiting BETWEEN 0 AND next_task),
    CONSTRAINT fanout_sum CHECK (total = waiting + running + succeeded + failed + lost + stopped)
) WITH (fillfactor = 50);

-- Tasks of instances that are not standalone. What may be large comes last and lies aside when it is. Tasks of an ended
-- instance stay as they were when it ended; those who read know that what waited then never ran.
CREATE TABLE task (
    instance_id   BIGINT NOT NULL,
    id            BIGINT NOT NULL,
    role          SMALLINT NOT NULL,
    state         SMALLINT NOT NULL,
    version       BIGINT NOT NULL,
    attempt       BIGINT NOT NULL,
    failures      BIGINT NOT NULL,
    losses        BIGINT NOT NULL,
    emitted       BIGINT NOT NULL,
    due_at        BIGINT NOT NULL,
    parent        BIGINT,
    -- Bound to this worker: it runs there or nowhere.
    target_boot   BIGINT,
    worker_boot   BIGINT,
    dispatched_at BIGINT,
    started_at    BIGINT,
    ended_at      BIGINT,
    target_name   TEXT,
    worker_name   TEXT,
    reason        TEXT,
    name          TEXT COLLATE "C" NOT NULL,
    message       TEXT,
    placement     TEXT,
    input_type    TEXT,
    input         BYTEA,
    result_type   TEXT,
    result        BYTEA,
    PRIMARY KEY (instance_id, id),
    CONSTRAINT task_words CHECK (role BETWEEN 1 AND 7 AND (state BETWEEN 1 AND 5 OR state = 7 OR state = 10)),
    CONSTRAINT task_counts CHECK (id >= 0 AND version >= 0 AND attempt >= 0 AND failures >= 0 AND losses >= 0
        AND emitted >= 0),
    CONSTRAINT task_end CHECK ((ended_at IS NOT NULL) = (state BETWEEN 4 AND 5 OR state = 7 OR state = 10)),
    CONSTRAINT task_placed CHECK (NOT state BETWEEN 2 AND 3 OR (worker_name IS NOT NULL AND attempt >= 1)),
    CONSTRAINT task_workers CHECK ((target_name IS NULL) = (target_boot IS NULL)
        AND (worker_name IS NULL) = (worker_boot IS NULL)),
    CONSTRAINT task_payloads CHECK ((input_type IS NULL) = (input IS NULL) AND (result_type IS NULL) = (result IS NULL))
);

-- What a new owner must know, in the words of the model's `Task::is_under_way`. Small, whatever the size of the instance.
CREATE INDEX task_under_way ON task (instance_id, id)
    WHERE state BETWEEN 2 AND 3 OR (state = 1 AND (attempt > 0 OR target_name IS NOT NULL));
-- What people look for among a million that succeeded.
CREATE INDEX task_unsuccessful ON task (instance_id, id) WHERE ended_at IS NOT NULL AND state <> 5;

-- Access tokens, of which only the hash is kept.
CREATE TABLE token (
    id         BIGINT PRIMARY KEY,
    name       TEXT NOT NULL,
    scope      TEXT NOT NULL CHECK (scope IN ('admin', 'app', 'worker', 'metrics')),
    app_id     BIGINT REFERENCES app (id) ON DELETE CASCADE,
    hash       BYTEA NOT NULL CHECK (length(hash) = 32),
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    CONSTRAINT token_app CHECK ((scope IN ('admin', 'metrics')) = (app_id IS NULL))
);

CREATE UNIQUE INDEX token_hash ON token (hash);
CREATE INDEX token_by_app ON token (app_id) WHERE app_id IS NOT NULL;
