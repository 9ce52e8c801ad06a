-- name: insert_volume
INSERT INTO volumes (id, name, created_at, size_bytes, files_max)
VALUES (:id, :name, :created_at, :size_bytes, :files_max);

-- name: volume
SELECT id, name, created_at, size_bytes, files_max FROM volumes WHERE id = :id;

-- name: volume_by_name
SELECT id, name, created_at, size_bytes, files_max FROM volumes WHERE name = :name;

-- name: volumes
SELECT id, name, created_at, size_bytes, files_max FROM volumes ORDER BY name;

-- name: delete_volume
DELETE FROM volumes WHERE id = :id;

-- name: insert_commit
INSERT INTO volume_commits (id, volume, created_at, files, size, idempotency_key)
VALUES (:id, :volume, :created_at, :files, :size, :idempotency_key);

-- name: commits
SELECT id, volume, created_at, files, size FROM volume_commits
WHERE volume = :volume ORDER BY created_at DESC, rowid DESC;

-- name: commit_by_key
SELECT id, volume, created_at, files, size FROM volume_commits WHERE idempotency_key = :key;

-- name: delete_commit
DELETE FROM volume_commits WHERE id = :id;
