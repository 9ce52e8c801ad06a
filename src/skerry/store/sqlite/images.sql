-- name: put_image
INSERT INTO images (id, definition_key, created_at, view, definition)
VALUES (:id, :definition_key, :created_at, :view, :definition)
ON CONFLICT (id) DO UPDATE SET view = excluded.view, definition = excluded.definition;

-- name: image
SELECT view FROM images WHERE id = :id;

-- name: images
SELECT id FROM images;

-- name: delete_image
DELETE FROM images WHERE id = :id;

-- name: image_by_key
SELECT view FROM images WHERE definition_key = :key ORDER BY created_at DESC LIMIT 1;
