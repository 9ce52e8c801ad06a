ALTER TABLE sandboxes ADD COLUMN app_name TEXT;
ALTER TABLE sandboxes ADD COLUMN name TEXT;
ALTER TABLE sandboxes ADD COLUMN tags TEXT NOT NULL DEFAULT '{}';  -- JSON

UPDATE sandboxes SET app_name = (SELECT apps.name FROM apps WHERE apps.id = sandboxes.app);

-- A name is one sandbox's until that has ended. Sandboxes without an app are a group of their own.
CREATE UNIQUE INDEX sandboxes_named ON sandboxes (name, coalesce(app, ''))
WHERE name IS NOT NULL AND ended_at IS NULL;
