/**
 * The database: rows that say ready point at complete, durable, verified bytes. References are foreign keys, so a
 * refcount is a query. `PRAGMA user_version` is the schema's version; MIGRATIONS[n] leads from version n to n + 1.
 *
 * layer         what is known of one diff ID, whoever stores it; `root` is JSON of the root's attributes, if listed
 * stored_layer  one driver's copy of it in l/DIR; `inherited` tells copies apart whose implied directories differ:
 *               '' nothing is implied, 'open' not yet fixed (no chain uses it), else a digest of the attributes.
 *               Without a layer (and by the driver 'upper') it is an upper that was committed as it is, at s/DIR;
 *               the upper_… columns say of it what a layer's row says of a layer
 * stack         stored layers upon each other, as a tree that shares its lower parts; what snapshots pin
 * snapshot      of a container, or one that a door names in a space of its own. Active ones and views have s/DIR and pin
 *               a stack. Committed ones have no directory: either a chain, on whose present stack a child comes to lie,
 *               or a stack whose topmost part is a committed upper. `layer_id`: what was applied to an active one. Times
 *               are microseconds
 * chain         layers upon each other by chain ID, and the stack that serves it now
 * blob          which compressed bytes were verified to hold which layer; kept ones lie in b/FILE, each under a name that is
 *               never used again, so that one that goes and one that comes never meet
 * answer        what was answered under a client's key, written with what the request did: a repetition gets it again
 * build_cache   which layer a step of a build made (null: none): parent is a chain ID or '', which need not be here
 * candidate     what lost (or never had) a reference and since when: the collector looks at these only; triggers note
 *               it through the view `loss`, the latest time counts
 * partial       the beginning of a blob in b/HEX.part, as long as a lease holds it; the file may be of any length
 * remote_blob   which blob of which repository was seen to be which layer
 */
export const MIGRATIONS: readonly string[] = [
  `
  CREATE TABLE store (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

  CREATE TABLE layer (
    id INTEGER PRIMARY KEY,
    diff_id TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    opaque_root INTEGER NOT NULL,
    implied INTEGER NOT NULL,
    root TEXT,
    created INTEGER NOT NULL
  ) STRICT;

  CREATE TABLE stored_layer (
    id INTEGER PRIMARY KEY,
    layer_id INTEGER NOT NULL REFERENCES layer (id),
    driver TEXT NOT NULL,
    dir TEXT NOT NULL UNIQUE,
    inherited TEXT NOT NULL,
    disk INTEGER NOT NULL,
    inodes INTEGER NOT NULL,
    damaged INTEGER NOT NULL DEFAULT 0,
    UNIQUE (layer_id, driver, inherited)
  ) STRICT;

  -- ids are never used again: what a stack holds may be remembered by its id
  CREATE TABLE stack (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    parent_id INTEGER REFERENCES stack (id),
    stored_layer_id INTEGER NOT NULL REFERENCES stored_layer (id),
    depth INTEGER NOT NULL,
    UNIQUE (parent_id, stored_layer_id)
  ) STRICT;
  CREATE UNIQUE INDEX stack_base ON stack (stored_layer_id) WHERE parent_id IS NULL;
  CREATE INDEX stack_stored_layer ON stack (stored_layer_id);

  CREATE TABLE chain (
    id INTEGER PRIMARY KEY,
    chain_id TEXT NOT NULL UNIQUE,
    parent_id INTEGER REFERENCES chain (id),
    layer_id INTEGER NOT NULL REFERENCES layer (id),
    stack_id INTEGER NOT NULL REFERENCES stack (id),
    depth INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX chain_parent ON chain (parent_id);
  CREATE INDEX chain_layer ON chain (layer_id);
  CREATE INDEX chain_stack ON chain (stack_id);

  CREATE TABLE image (
    id INTEGER PRIMARY KEY,
    image_id TEXT NOT NULL UNIQUE,
    config BLOB NOT NULL,
    platform TEXT NOT NULL,
    chain_id INTEGER REFERENCES chain (id),
    manifest BLOB,
    manifest_digest TEXT,
    manifest_type TEXT,
    created INTEGER NOT NULL,
    added INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX image_chain ON image (chain_id);

  CREATE TABLE image_layer (
    image_id INTEGER NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    layer_id INTEGER NOT NULL REFERENCES layer (id),
    PRIMARY KEY (image_id, position)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX image_layer_layer ON image_layer (layer_id);

  CREATE TABLE ref (
    name TEXT PRIMARY KEY,
    image_id INTEGER NOT NULL REFERENCES image (id),
    updated INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX ref_image ON ref (image_id);

  CREATE TABLE blob (
    digest TEXT PRIMARY KEY,
    layer_id INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE,
    size INTEGER NOT NULL,
    compression TEXT NOT NULL,
    kept INTEGER NOT NULL,
    disk INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX blob_layer ON blob (layer_id);

  CREATE TABLE image_blob (
    image_id INTEGER NOT NULL REFERENCES image (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (image_id, position)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX image_blob_digest ON image_blob (digest);

  CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY,
    space TEXT NOT NULL,
    key TEXT NOT NULL,
    dir TEXT NOT NULL UNIQUE,
    driver TEXT NOT NULL,
    chain_id INTEGER REFERENCES chain (id),
    stack_id INTEGER REFERENCES stack (id),
    read_only INTEGER NOT NULL,
    volatile INTEGER NOT NULL,
    size_limit INTEGER,
    created INTEGER NOT NULL,
    UNIQUE (space, key)
  ) STRICT;
  CREATE INDEX snapshot_chain ON snapshot (chain_id);
  CREATE INDEX snapshot_stack ON snapshot (stack_id);

  CREATE TABLE container (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    snapshot_id INTEGER NOT NULL UNIQUE REFERENCES snapshot (id),
    image_id INTEGER NOT NULL REFERENCES image (id),
    image TEXT NOT NULL,
    labels TEXT NOT NULL,
    mounts INTEGER NOT NULL,
    boot TEXT NOT NULL,
    path TEXT,
    created INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX container_image ON container (image_id);

  CREATE TABLE lease (
    id TEXT PRIMARY KEY,
    internal INTEGER NOT NULL,
    labels TEXT NOT NULL,
    created INTEGER NOT NULL,
    expires INTEGER
  ) STRICT;
  CREATE INDEX lease_expires ON lease (expires);

  CREATE TABLE lease_layer (
    lease_id TEXT NOT NULL REFERENCES lease (id) ON DELETE CASCADE,
    layer_id INTEGER NOT NULL REFERENCES layer (id),
    PRIMARY KEY (lease_id, layer_id)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX lease_layer_layer ON lease_layer (layer_id);

  CREATE TABLE lease_image (
    lease_id TEXT NOT NULL REFERENCES lease (id) ON DELETE CASCADE,
    image_id INTEGER NOT NULL REFERENCES image (id),
    PRIMARY KEY (lease_id, image_id)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX lease_image_image ON lease_image (image_id);

  CREATE TABLE event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    time INTEGER NOT NULL,
    type TEXT NOT NULL,
    subject TEXT NOT NULL,
    data TEXT NOT NULL
  ) STRICT;

  CREATE TABLE candidate (
    kind TEXT NOT NULL,
    item INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (kind, item)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX candidate_since ON candidate (since);

  CREATE VIEW loss (kind, item) AS SELECT kind, item FROM candidate;
  CREATE TRIGGER loss_noted INSTEAD OF INSERT ON loss WHEN new.item IS NOT NULL BEGIN
    INSERT INTO candidate VALUES (new.kind, new.item, candidate_since())
      ON CONFLICT DO UPDATE SET since = max(since, excluded.since);
  END;

  CREATE TRIGGER layer_made AFTER INSERT ON layer BEGIN
    INSERT INTO loss VALUES ('layer', new.id);
  END;
  CREATE TRIGGER stored_layer_made AFTER INSERT ON stored_layer BEGIN
    INSERT INTO loss VALUES ('layer', new.layer_id);
  END;
  CREATE TRIGGER stack_made AFTER INSERT ON stack BEGIN
    INSERT INTO loss VALUES ('stack', new.id);
  END;
  CREATE TRIGGER stack_gone AFTER DELETE ON stack BEGIN
    INSERT INTO loss SELECT 'layer', layer_id FROM stored_layer WHERE id = old.stored_layer_id;
    INSERT INTO loss VALUES ('stack', old.parent_id);
  END;
  CREATE TRIGGER chain_made AFTER INSERT ON chain BEGIN
    INSERT INTO loss VALUES ('chain', new.id);
  END;
  CREATE TRIGGER chain_moved AFTER UPDATE OF stack_id ON chain BEGIN
    INSERT INTO loss VALUES ('stack', old.stack_id);
  END;
  CREATE TRIGGER chain_gone AFTER DELETE ON chain BEGIN
    INSERT INTO loss VALUES ('stack', old.stack_id), ('layer', old.layer_id), ('chain', old.parent_id);
  END;
  CREATE TRIGGER image_made AFTER INSERT ON image BEGIN
    INSERT INTO loss VALUES ('image', new.id);
  END;
  CREATE TRIGGER image_gone AFTER DELETE ON image BEGIN
    INSERT INTO loss VALUES ('chain', old.chain_id);
  END;
  CREATE TRIGGER image_layer_gone AFTER DELETE ON image_layer BEGIN
    INSERT INTO loss VALUES ('layer', old.layer_id);
  END;
  CREATE TRIGGER ref_moved AFTER UPDATE OF image_id ON ref WHEN old.image_id <> new.image_id BEGIN
    INSERT INTO loss VALUES ('image', old.image_id);
  END;
  CREATE TRIGGER ref_gone AFTER DELETE ON ref BEGIN
    INSERT INTO loss VALUES ('image', old.image_id);
  END;
  CREATE TRIGGER container_gone AFTER DELETE ON container BEGIN
    INSERT INTO loss VALUES ('image', old.image_id);
  END;
  CREATE TRIGGER snapshot_gone AFTER DELETE ON snapshot BEGIN
    INSERT INTO loss VALUES ('chain', old.chain_id), ('stack', old.stack_id);
  END;
  CREATE TRIGGER lease_layer_gone AFTER DELETE ON lease_layer BEGIN
    INSERT INTO loss VALUES ('layer', old.layer_id);
    INSERT INTO loss SELECT 'chain', id FROM chain WHERE layer_id = old.layer_id;
  END;
  CREATE TRIGGER lease_image_gone AFTER DELETE ON lease_image BEGIN
    INSERT INTO loss VALUES ('image', old.image_id);
  END;
  `,
  `
  DROP INDEX blob_layer;
  ALTER TABLE blob RENAME TO blob_before;
  CREATE TABLE blob (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    layer_id INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE,
    size INTEGER NOT NULL,
    compression TEXT NOT NULL,
    file TEXT UNIQUE,
    disk INTEGER NOT NULL
  ) STRICT;
  CREATE INDEX blob_layer ON blob (layer_id);
  INSERT INTO blob (digest, layer_id, size, compression, file, disk)
    SELECT digest, layer_id, size, compression, iif(kept, substr(digest, 8), NULL), disk FROM blob_before;
  DROP TABLE blob_before;

  CREATE TRIGGER blob_kept AFTER UPDATE OF file ON blob WHEN new.file IS NOT NULL BEGIN
    INSERT INTO loss VALUES ('blob', new.id);
  END;
  CREATE TRIGGER blob_made AFTER INSERT ON blob WHEN new.file IS NOT NULL BEGIN
    INSERT INTO loss VALUES ('blob', new.id);
  END;
  CREATE TRIGGER image_blob_gone AFTER DELETE ON image_blob BEGIN
    INSERT INTO loss SELECT 'blob', id FROM blob WHERE digest = old.digest AND file IS NOT NULL;
  END;
  CREATE TRIGGER lease_layer_let_go AFTER DELETE ON lease_layer BEGIN
    INSERT INTO loss SELECT 'blob', id FROM blob WHERE layer_id = old.layer_id AND file IS NOT NULL;
  END;
  `,
  `
  CREATE TABLE partial (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    lease_id TEXT REFERENCES lease (id) ON DELETE SET NULL
  ) STRICT;
  CREATE INDEX partial_lease ON partial (lease_id);
  CREATE TRIGGER partial_lost AFTER UPDATE OF lease_id ON partial WHEN new.lease_id IS NULL BEGIN
    INSERT INTO loss VALUES ('partial', new.id);
  END;

  CREATE TABLE remote_blob (
    registry TEXT NOT NULL,
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    layer_id INTEGER NOT NULL REFERENCES layer (id) ON DELETE CASCADE,
    size INTEGER NOT NULL,
    compression TEXT NOT NULL,
    seen INTEGER NOT NULL,
    PRIMARY KEY (registry, repository, digest)
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX remote_blob_layer ON remote_blob (layer_id);
  `,
  `
  CREATE TABLE answer (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    request TEXT NOT NULL,
    boot TEXT,
    answer TEXT NOT NULL
  ) STRICT;
  `,
  `
  CREATE TEMP TABLE old_stored_layer AS SELECT * FROM stored_layer;
  DROP TABLE stored_layer;
  CREATE TABLE stored_layer (
    id INTEGER PRIMARY KEY,
    layer_id INTEGER REFERENCES layer (id),
    driver TEXT NOT NULL,
    dir TEXT NOT NULL UNIQUE,
    inherited TEXT NOT NULL,
    disk INTEGER NOT NULL,
    inodes INTEGER NOT NULL,
    damaged INTEGER NOT NULL DEFAULT 0,
    upper_root TEXT,
    upper_opaque INTEGER NOT NULL DEFAULT 0,
    UNIQUE (layer_id, driver, inherited),
    CHECK ((layer_id IS NULL) = (driver = 'upper'))
  ) STRICT;
  INSERT INTO stored_layer SELECT *, NULL, 0 FROM old_stored_layer;
  DROP TABLE old_stored_layer;

  CREATE TEMP TABLE old_snapshot AS SELECT * FROM snapshot;
  DROP TABLE snapshot;
  CREATE TABLE snapshot (
    id INTEGER PRIMARY KEY,
    space TEXT NOT NULL,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    parent_id INTEGER REFERENCES snapshot (id),
    dir TEXT UNIQUE,
    driver TEXT,
    chain_id INTEGER REFERENCES chain (id),
    stack_id INTEGER REFERENCES stack (id),
    layer_id INTEGER REFERENCES layer (id),
    read_only INTEGER NOT NULL,
    volatile INTEGER NOT NULL,
    size_limit INTEGER,
    labels TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    UNIQUE (space, key),
    CHECK ((dir IS NULL) = (kind = 'committed') AND (driver IS NULL) = (dir IS NULL))
  ) STRICT;
  INSERT INTO snapshot SELECT id, space, key, CASE read_only WHEN 1 THEN 'view' ELSE 'active' END, NULL, dir, driver,
    chain_id, stack_id, NULL, read_only, volatile, size_limit, '{}', created * 1000, created * 1000 FROM old_snapshot;
  DROP TABLE old_snapshot;
  CREATE INDEX snapshot_parent ON snapshot (parent_id);
  CREATE INDEX snapshot_chain ON snapshot (chain_id);
  CREATE INDEX snapshot_stack ON snapshot (stack_id);
  CREATE INDEX snapshot_layer ON snapshot (layer_id);

  CREATE TRIGGER stored_layer_made AFTER INSERT ON stored_layer BEGIN
    INSERT INTO loss VALUES ('layer', new.layer_id);
  END;
  DROP TRIGGER stack_gone;
  CREATE TRIGGER stack_gone AFTER DELETE ON stack BEGIN
    INSERT INTO loss SELECT iif(layer_id IS NULL, 'upper', 'layer'), coalesce(layer_id, id)
      FROM stored_layer WHERE id = old.stored_layer_id;
    INSERT INTO loss VALUES ('stack', old.parent_id);
  END;
  CREATE TRIGGER snapshot_moved AFTER UPDATE OF chain_id, stack_id, layer_id ON snapshot BEGIN
    INSERT INTO loss VALUES ('chain', old.chain_id), ('stack', old.stack_id), ('layer', old.layer_id);
  END;
  CREATE TRIGGER snapshot_gone AFTER DELETE ON snapshot BEGIN
    INSERT INTO loss VALUES ('chain', old.chain_id), ('stack', old.stack_id), ('layer', old.layer_id);
  END;
  `,
  `
  CREATE TABLE build_cache (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    parent TEXT NOT NULL,
    instruction TEXT NOT NULL,
    inputs TEXT NOT NULL,
    layer_id INTEGER REFERENCES layer (id),
    created INTEGER NOT NULL,
    used INTEGER NOT NULL,
    UNIQUE (parent, instruction, inputs)
  ) STRICT;
  CREATE INDEX build_cache_layer ON build_cache (layer_id);
  CREATE TRIGGER build_cache_gone AFTER DELETE ON build_cache BEGIN
    INSERT INTO loss VALUES ('layer', old.layer_id);
  END;
  CREATE TRIGGER build_cache_moved AFTER UPDATE OF layer_id ON build_cache WHEN old.layer_id IS NOT new.layer_id BEGIN
    INSERT INTO loss VALUES ('layer', old.layer_id);
  END;
  `,
  `
  -- what looks for one thing finds it in a store of any size (test/unit/queries.test.ts)
  CREATE INDEX layer_size ON layer (size);
  CREATE INDEX image_manifest ON image (manifest_digest);
  CREATE INDEX remote_blob_digest ON remote_blob (digest);
  CREATE INDEX snapshot_committed ON snapshot (space, parent_id) WHERE kind = 'committed';
  CREATE INDEX snapshot_unconverted ON snapshot (created, id) WHERE kind = 'committed' AND stack_id IS NOT NULL;
  `,
];
