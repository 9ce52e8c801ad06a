CREATE TABLE apps (
  id   TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE sandboxes (
  id              TEXT PRIMARY KEY,
  app             TEXT,
  node            TEXT NOT NULL,
  state           TEXT NOT NULL,
  created_at      REAL NOT NULL,
  started_at      REAL,
  ended_at        REAL,
  entrypoint      TEXT,
  spec            TEXT NOT NULL,  -- JSON, without host_access
  stages          TEXT NOT NULL,  -- JSON
  exit            TEXT,           -- JSON
  idempotency_key TEXT UNIQUE
) STRICT;

CREATE INDEX sandboxes_newest ON sandboxes (created_at DESC);
CREATE INDEX sandboxes_of_app ON sandboxes (app, created_at DESC) WHERE app IS NOT NULL;
CREATE INDEX sandboxes_live ON sandboxes (created_at DESC) WHERE ended_at IS NULL;
CREATE INDEX sandboxes_ended ON sandboxes (ended_at) WHERE ended_at IS NOT NULL;

CREATE TABLE images (
  id             TEXT PRIMARY KEY,
  definition_key TEXT NOT NULL,
  created_at     REAL NOT NULL,
  view           TEXT NOT NULL,  -- JSON
  definition     TEXT NOT NULL   -- JSON
) STRICT;

CREATE INDEX images_of_definition ON images (definition_key, created_at DESC);
