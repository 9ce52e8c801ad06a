-- name: app_by_name
SELECT id FROM apps WHERE name = :name;

-- name: app_name
SELECT name FROM apps WHERE id = :id;

-- name: insert_app
INSERT INTO apps (id, name) VALUES (:id, :name)
ON CONFLICT (name) DO NOTHING;
