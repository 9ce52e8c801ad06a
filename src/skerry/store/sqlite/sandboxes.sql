-- name: insert_sandbox
INSERT INTO sandboxes
  (id, app, app_name, name, node, state, created_at, started_at, ended_at, entrypoint, tags, spec, stages, exit,
   idempotency_key)
VALUES
  (:id, :app, :app_name, :name, :node, :state, :created_at, :started_at, :ended_at, :entrypoint, :tags, :spec, :stages,
   :exit, :idempotency_key);

-- name: update_sandbox
UPDATE sandboxes
SET state = :state, node = :node, started_at = :started_at, ended_at = :ended_at, entrypoint = :entrypoint,
    spec = :spec, stages = :stages, exit = :exit
WHERE id = :id
RETURNING id;

-- name: set_tags
UPDATE sandboxes SET tags = :tags WHERE id = :id
RETURNING id;

-- name: delete_sandbox
DELETE FROM sandboxes WHERE id = :id;

-- name: sandbox
SELECT id, node, state, created_at, app_name, started_at, ended_at, entrypoint, tags, spec, stages, exit
FROM sandboxes WHERE id = :id;

-- name: sandbox_by_key
SELECT id, node, state, created_at, app_name, started_at, ended_at, entrypoint, tags, spec, stages, exit
FROM sandboxes WHERE idempotency_key = :key;

-- name: live_sandbox_by_name
SELECT id FROM sandboxes
WHERE name = :name AND coalesce(app, '') = coalesce(:app, '') AND ended_at IS NULL;

-- name: newest_sandboxes
SELECT id, node, state, created_at, app_name, started_at, ended_at, entrypoint, tags, spec, stages, exit
FROM sandboxes
WHERE created_at < :before
  AND (:name IS NULL OR name = :name)
  AND NOT EXISTS (
    SELECT 1 FROM json_each(:tags) AS wanted
    WHERE wanted.value IS NOT (SELECT own.value FROM json_each(sandboxes.tags) AS own WHERE own.key = wanted.key)
  )
ORDER BY created_at DESC LIMIT :limit;

-- name: newest_live_sandboxes
SELECT id, node, state, created_at, app_name, started_at, ended_at, entrypoint, tags, spec, stages, exit
FROM sandboxes
WHERE created_at < :before AND ended_at IS NULL
  AND (:name IS NULL OR name = :name)
  AND NOT EXISTS (
    SELECT 1 FROM json_each(:tags) AS wanted
    WHERE wanted.value IS NOT (SELECT own.value FROM json_each(sandboxes.tags) AS own WHERE own.key = wanted.key)
  )
ORDER BY created_at DESC LIMIT :limit;

-- name: newest_sandboxes_of_app
SELECT id, node, state, created_at, app_name, started_at, ended_at, entrypoint, tags, spec, stages, exit
FROM sandboxes
WHERE app = :app AND created_at < :before
  AND (:name IS NULL OR name = :name)
  AND NOT EXISTS (
    SELECT 1 FROM json_each(:tags) AS wanted
    WHERE wanted.value IS NOT (SELECT own.value FROM json_each(sandboxes.tags) AS own WHERE own.key = wanted.key)
  )
ORDER BY created_at DESC LIMIT :limit;

-- name: newest_live_sandboxes_of_app
SELECT id, node, state, created_at, app_name, started_at, ended_at, entrypoint, tags, spec, stages, exit
FROM sandboxes
WHERE app = :app AND created_at < :before AND ended_at IS NULL
  AND (:name IS NULL OR name = :name)
  AND NOT EXISTS (
    SELECT 1 FROM json_each(:tags) AS wanted
    WHERE wanted.value IS NOT (SELECT own.value FROM json_each(sandboxes.tags) AS own WHERE own.key = wanted.key)
  )
ORDER BY created_at DESC LIMIT :limit;

-- name: live_sandboxes
SELECT id, node, state, created_at, app_name, started_at, ended_at, entrypoint, tags, spec, stages, exit
FROM sandboxes WHERE ended_at IS NULL
ORDER BY created_at DESC;

-- name: ended_sandboxes
SELECT id, node, ended_at
FROM sandboxes WHERE ended_at IS NOT NULL
ORDER BY ended_at;
