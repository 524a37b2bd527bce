-- What tasks print, per attempt. Offsets and lengths count the bytes that the task wrote, lost ones included.

-- One row per log, rewritten by each append; its page keeps room for the next version.
CREATE TABLE log_stream (
    instance_id  BIGINT NOT NULL,
    attempt      BIGINT NOT NULL,
    task         BIGINT NOT NULL,
    app_id       BIGINT NOT NULL,
    -- Counts appends: one that was decided on an older row is not written.
    version      BIGINT NOT NULL,
    -- Everything before it is stored, known as lost, or dropped.
    next_offset  BIGINT NOT NULL CHECK (next_offset >= 0),
    -- Nothing follows.
    ended        BOOLEAN NOT NULL,
    -- Of the chunks' data, as they are stored.
    stored_bytes BIGINT NOT NULL,
    -- From here on nothing is stored any more, because the attempt logged too much.
    cut_at       BIGINT,
    -- The last rows, which are too small to stay: where they begin, how many, how many bytes.
    tail_start   BIGINT NOT NULL,
    tail_rows    BIGINT NOT NULL,
    tail_bytes   BIGINT NOT NULL,
    PRIMARY KEY (instance_id, attempt, task)
) WITH (fillfactor = 70);

-- Without overlap; a hole between two was lost.
CREATE TABLE log_chunk (
    instance_id BIGINT NOT NULL,
    attempt     BIGINT NOT NULL,
    task        BIGINT NOT NULL,
    start       BIGINT NOT NULL,
    length      BIGINT NOT NULL CHECK (length > 0),
    -- 0 as it is, 1 as an LZ4 block.
    codec       SMALLINT NOT NULL CHECK (codec BETWEEN 0 AND 1),
    data        BYTEA NOT NULL,
    PRIMARY KEY (instance_id, attempt, task, start)
);
