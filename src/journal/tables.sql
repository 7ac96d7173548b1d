-- The journal of format 1. Times are RFC 3339 in UTC.

CREATE TABLE run (
    number INTEGER PRIMARY KEY,          -- in order of creation
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at TEXT NOT NULL,
    progress TEXT                        -- what the present step is doing; overwritten, and no part of the truth
) STRICT;

CREATE TABLE record (
    run TEXT NOT NULL REFERENCES run (id),
    seq INTEGER NOT NULL,                -- from 1, without gaps
    at TEXT NOT NULL,
    epoch INTEGER NOT NULL,              -- the lease under which it was written; 0 for the record that creates the run
    event TEXT NOT NULL,                 -- JSON
    PRIMARY KEY (run, seq)
) STRICT;

CREATE TRIGGER record_is_never_changed BEFORE UPDATE ON record
BEGIN SELECT raise(ABORT, 'a record is never changed'); END;
CREATE TRIGGER record_is_never_removed BEFORE DELETE ON record
BEGIN SELECT raise(ABORT, 'a record is never removed'); END;

CREATE TABLE lease (
    run TEXT PRIMARY KEY REFERENCES run (id),
    epoch INTEGER NOT NULL,
    holder TEXT NOT NULL,                -- for people
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid_namespace TEXT NOT NULL,
    process_started INTEGER NOT NULL,    -- clock ticks since the machine's start
    expires_at TEXT NOT NULL,
    expires_uptime_ms INTEGER,           -- the same by the uptime of the machine, which nobody can set; NULL: not known
    released INTEGER NOT NULL
) STRICT;

CREATE TABLE request (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL REFERENCES run (id),
    at TEXT NOT NULL,
    filed_by TEXT NOT NULL,
    reason TEXT,
    kind TEXT NOT NULL,                  -- JSON
    answer TEXT                          -- once an engine has dealt with it
) STRICT;
