CREATE TABLE volumes (
  id         TEXT PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  created_at REAL NOT NULL,
  size_bytes INTEGER NOT NULL,
  files_max  INTEGER NOT NULL
) STRICT;

CREATE TABLE volume_commits (
  id              TEXT PRIMARY KEY,
  volume          TEXT NOT NULL REFERENCES volumes (id) ON DELETE CASCADE,
  created_at      REAL NOT NULL,
  files           INTEGER NOT NULL,
  size            INTEGER NOT NULL,
  idempotency_key TEXT UNIQUE
) STRICT;

CREATE INDEX volume_commits_newest ON volume_commits (volume, created_at DESC);
