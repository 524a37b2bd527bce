-- Logs of attempts. Offsets and lengths count the bytes that the task wrote, lost ones included.

CREATE TABLE stream (
    id           INTEGER PRIMARY KEY,
    app_id       INTEGER NOT NULL,
    instance_id  INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    task         INTEGER NOT NULL,
    -- Everything before it is stored, known as lost, or dropped.
    next_offset  INTEGER NOT NULL DEFAULT 0 CHECK (next_offset >= 0),
    -- Nothing follows.
    ended        INTEGER NOT NULL DEFAULT 0 CHECK (ended IN (0, 1)),
    -- Of the chunks' data, as they are stored.
    stored_bytes INTEGER NOT NULL DEFAULT 0,
    -- From here on nothing is stored any more, because the attempt logged too much.
    cut_at       INTEGER,
    -- The last rows, which are too small to stay: where they begin, how many, how many bytes.
    tail_start   INTEGER NOT NULL DEFAULT 0,
    tail_rows    INTEGER NOT NULL DEFAULT 0,
    tail_bytes   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE UNIQUE INDEX stream_key ON stream (instance_id, attempt, task);

-- Without overlap; a hole between two was lost.
CREATE TABLE chunk (
    stream_id INTEGER NOT NULL REFERENCES stream (id) ON DELETE CASCADE,
    start     INTEGER NOT NULL,
    length    INTEGER NOT NULL CHECK (length > 0),
    -- 0 as it is, 1 as an LZ4 block.
    codec     INTEGER NOT NULL CHECK (codec IN (0, 1)),
    data      BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX chunk_key ON chunk (stream_id, start);
