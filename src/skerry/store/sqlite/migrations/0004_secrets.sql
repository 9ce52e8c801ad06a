CREATE TABLE secrets (
  id              TEXT PRIMARY KEY,
  name            TEXT NOT NULL UNIQUE,
  created_at      REAL NOT NULL,
  updated_at      REAL NOT NULL,
  used_at         REAL,
  keys            TEXT NOT NULL,  -- JSON
  sealed_with     TEXT NOT NULL,  -- id of a key, which is in no database
  sealed          BLOB NOT NULL,
  idempotency_key TEXT UNIQUE
) STRICT;

CREATE INDEX secrets_newest ON secrets (created_at DESC);
