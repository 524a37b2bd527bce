-- Instances with many tasks: a row per task, one that counts them, and attempts that say which task they were of.
-- Nothing here may depend on the order of rows or on what an earlier program checked: unreadable rows move along as they
-- are, and are set aside by their owner as before.

-- --- what there was --------------------------------------------------------------------------------------------------

-- Two tables change their CHECKs, so they are made again. Attempts go aside first: to drop a table deletes its rows, and
-- with an instance go its attempts.
CREATE TABLE past_attempt_aside AS SELECT * FROM past_attempt;
DROP TABLE past_attempt;

-- Of an instance with many tasks each task has a worker, the instance itself has none.
CREATE TABLE instance_next (
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
    stop_cause      INTEGER CHECK (stop_cause BETWEEN 1 AND 4),
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
    CHECK (NOT (state BETWEEN 2 AND 3 OR state = 6) OR attempt >= 1),
    CHECK (state <> 2 OR worker_name IS NOT NULL),
    CHECK ((worker_name IS NULL) = (worker_boot IS NULL)),
    CHECK ((stop_cause IS NOT NULL) = (state = 6)),
    CHECK ((result_type IS NULL) = (result IS NULL))
) STRICT;

PRAGMA ignore_check_constraints = ON;
INSERT INTO instance_next (
    id, partition, app_id, job_id, revision, origin, fire_time, missed_before, rerun_of, priority, created_at, due_at,
    expires_at, state, version, attempt, failures, losses, worker_name, worker_boot, dispatched_at, started_at, ended_at,
    prune_at, stop_cause, stop_deadline, reason, message, idempotency_key, params, placement, result_type, result)
SELECT
    id, partition, app_id, job_id, revision, origin, fire_time, missed_before, rerun_of, priority, created_at, due_at,
    expires_at, state, version, attempt, failures, losses, worker_name, worker_boot, dispatched_at, started_at, ended_at,
    prune_at, stop_cause, stop_deadline, reason, message, idempotency_key, params, placement, result_type, result
FROM instance ORDER BY id;
PRAGMA ignore_check_constraints = OFF;

DROP TABLE instance;
ALTER TABLE instance_next RENAME TO instance;

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

-- Tries that were followed by another; the last one is part of the instance, or of its task. The only task of a
-- standalone instance is 0.
CREATE TABLE past_attempt (
    instance_id   INTEGER NOT NULL REFERENCES instance (id) ON DELETE CASCADE,
    task_id       INTEGER NOT NULL CHECK (task_id >= 0),
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
    PRIMARY KEY (instance_id, task_id, attempt),
    CHECK ((worker_name IS NULL) = (worker_boot IS NULL))
) STRICT, WITHOUT ROWID;

PRAGMA ignore_check_constraints = ON;
INSERT INTO past_attempt (
    instance_id, task_id, attempt, state, worker_name, worker_boot, placement, dispatched_at, started_at, ended_at, reason,
    message)
SELECT
    instance_id, 0, attempt, state, worker_name, worker_boot, placement, dispatched_at, started_at, ended_at, reason,
    message
FROM past_attempt_aside WHERE instance_id IN (SELECT id FROM instance) ORDER BY instance_id, attempt;
PRAGMA ignore_check_constraints = OFF;
DROP TABLE past_attempt_aside;

-- --- what is new -----------------------------------------------------------------------------------------------------

-- How an instance became tasks, and how many of those proper (roles 2 to 4) are in which state.
CREATE TABLE fanout (
    instance_id  INTEGER PRIMARY KEY REFERENCES instance (id) ON DELETE CASCADE,
    version      INTEGER NOT NULL CHECK (version >= 0),
    phase        INTEGER NOT NULL CHECK (phase BETWEEN 1 AND 3),
    total        INTEGER NOT NULL,
    waiting      INTEGER NOT NULL CHECK (waiting >= 0),
    running      INTEGER NOT NULL CHECK (running >= 0),
    succeeded    INTEGER NOT NULL CHECK (succeeded >= 0),
    failed       INTEGER NOT NULL CHECK (failed >= 0),
    lost         INTEGER NOT NULL CHECK (lost >= 0),
    stopped      INTEGER NOT NULL CHECK (stopped >= 0),
    next_task    INTEGER NOT NULL CHECK (next_task >= 0),
    -- All tasks below were placed at least once, or are bound to a worker.
    next_waiting INTEGER NOT NULL CHECK (next_waiting BETWEEN 0 AND next_task),
    base_id      INTEGER,
    rate_milli   INTEGER NOT NULL CHECK (rate_milli >= 0),
    targets      TEXT CHECK (json_valid(targets)),
    CHECK (total = waiting + running + succeeded + failed + lost + stopped)
) STRICT;

-- Tasks of instances that are not standalone. What is small comes first and what may be large last, so that whoever walks
-- over a million of them never reads the pages that large values overflow to. Tasks of an ended instance stay as they
-- were when it ended; those who read know that what waited then never ran.
CREATE TABLE task (
    instance_id   INTEGER NOT NULL REFERENCES instance (id) ON DELETE CASCADE,
    id            INTEGER NOT NULL CHECK (id >= 0),
    role          INTEGER NOT NULL CHECK (role BETWEEN 1 AND 7),
    state         INTEGER NOT NULL CHECK (state BETWEEN 1 AND 5 OR state = 7 OR state = 10),
    version       INTEGER NOT NULL CHECK (version >= 0),
    attempt       INTEGER NOT NULL CHECK (attempt >= 0),
    failures      INTEGER NOT NULL CHECK (failures >= 0),
    losses        INTEGER NOT NULL CHECK (losses >= 0),
    emitted       INTEGER NOT NULL CHECK (emitted >= 0),
    due_at        INTEGER NOT NULL,
    parent        INTEGER,
    -- Bound to this worker: it runs there or nowhere.
    target_boot   INTEGER,
    worker_boot   INTEGER,
    dispatched_at INTEGER,
    started_at    INTEGER,
    ended_at      INTEGER,
    target_name   TEXT,
    worker_name   TEXT,
    reason        TEXT,
    name          TEXT NOT NULL,
    message       TEXT,
    placement     TEXT CHECK (placement IS NULL OR json_valid(placement)),
    input_type    TEXT,
    input         BLOB,
    result_type   TEXT,
    result        BLOB,
    PRIMARY KEY (instance_id, id),
    CHECK ((ended_at IS NOT NULL) = (state BETWEEN 4 AND 5 OR state = 7 OR state = 10)),
    CHECK (NOT state BETWEEN 2 AND 3 OR (worker_name IS NOT NULL AND attempt >= 1)),
    CHECK ((target_name IS NULL) = (target_boot IS NULL)),
    CHECK ((worker_name IS NULL) = (worker_boot IS NULL)),
    CHECK ((input_type IS NULL) = (input IS NULL)),
    CHECK ((result_type IS NULL) = (result IS NULL))
) STRICT, WITHOUT ROWID;

-- What a new owner must know, in the words of the model's `Task::is_under_way`. Small, whatever the size of the instance.
CREATE INDEX task_under_way ON task (instance_id, id)
    WHERE state BETWEEN 2 AND 3 OR (state = 1 AND (attempt > 0 OR target_name IS NOT NULL));
-- What people look for among a million that succeeded.
CREATE INDEX task_unsuccessful ON task (instance_id, id) WHERE ended_at IS NOT NULL AND state <> 5;
