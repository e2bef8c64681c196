PRAGMA journal_mode=WAL;
CREATE TABLE IF NOT EXISTS queue (
    run_id TEXT PRIMARY KEY,
    position REAL NOT NULL,
    held INTEGER NOT NULL DEFAULT 0,
    slot TEXT,
    claimed_at REAL
);
INSERT INTO queue (run_id, position, held) VALUES ('20261122-220200-golden_wait-0003', 1.0, 1);
