-- name: insert_secret
INSERT INTO secrets (id, name, created_at, updated_at, used_at, keys, sealed_with, sealed, idempotency_key)
VALUES (:id, :name, :created_at, :updated_at, :used_at, :keys, :sealed_with, :sealed, :idempotency_key);

-- name: replace_secret
UPDATE secrets SET updated_at = :updated_at, keys = :keys, sealed_with = :sealed_with, sealed = :sealed
WHERE id = :id
RETURNING id;

-- name: use_secrets
UPDATE secrets SET used_at = :at WHERE name IN (SELECT value FROM json_each(:names));

-- name: delete_secret
DELETE FROM secrets WHERE name = :name;

-- name: count_secrets
SELECT count(*) FROM secrets;

-- name: secret
SELECT id, name, created_at, updated_at, used_at, keys, sealed_with, sealed
FROM secrets WHERE name = :name;

-- name: secret_by_key
SELECT id, name, created_at, updated_at, used_at, keys, sealed_with, sealed
FROM secrets WHERE idempotency_key = :key;

-- name: newest_secrets
SELECT id, name, created_at, updated_at, used_at, keys, sealed_with, sealed
FROM secrets WHERE created_at < :before
ORDER BY created_at DESC LIMIT :limit;

-- name: secrets_sealed_otherwise
SELECT id, name, created_at, updated_at, used_at, keys, sealed_with, sealed
FROM secrets WHERE sealed_with <> :key;
