/** Queries on the snapshots that doors name. */
import { LayerdError } from '../core/errors.js';
import type { SnapshotName } from '../core/snapshots.js';
import type { LiveSnapshotRow, SnapshotRow, UpperRow } from './rows.js';
import type { Sql } from './sql.js';

/** A snapshot with the key of what it lies on. */
export type NamedSnapshotRow = SnapshotRow & { parent_key: string | null };

const NAMED = `SELECT snapshot.*, parent.key AS parent_key
  FROM snapshot LEFT JOIN snapshot AS parent ON parent.id = snapshot.parent_id`;

export class SnapshotReader {
  private readonly sql: Sql;

  constructor(sql: Sql) {
    this.sql = sql;
  }

  find({ space, key }: SnapshotName): NamedSnapshotRow | undefined {
    return this.sql.get(`${NAMED} WHERE snapshot.space = ? AND snapshot.key = ?`, space, key);
  }

  byId(id: number): NamedSnapshotRow | undefined {
    return this.sql.get(`${NAMED} WHERE snapshot.id = ?`, id);
  }

  /** All of one space, in the order in which they were begun. */
  list(space: string): Generator<NamedSnapshotRow> {
    return this.sql.walk<NamedSnapshotRow>(
      `${NAMED} WHERE snapshot.space = ? AND snapshot.id > ? ORDER BY snapshot.id LIMIT ?`,
      0,
      ({ id }) => id,
      space,
    );
  }

  /** How many of a space are committed. */
  committed(space: string): number {
    const row = this.sql.get<{ n: number }>(
      "SELECT count(*) AS n FROM snapshot WHERE space = ? AND kind = 'committed'",
      space,
    );
    return row?.n ?? 0;
  }

  /** A committed one upon this parent with this label. */
  labelled(space: string, parentId: number | null, label: string, value: string): NamedSnapshotRow | undefined {
    return this.sql.get(
      `${NAMED} WHERE snapshot.space = ? AND snapshot.kind = 'committed' AND snapshot.parent_id IS ?
       AND EXISTS (SELECT 1 FROM json_each(snapshot.labels) AS label WHERE label.key = ? AND label.value = ?)`,
      space,
      parentId,
      label,
      value,
    );
  }

  /** Directories of active ones and views, those of containers too. */
  liveDirs(): Set<string> {
    return new Set(this.sql.values<string>('SELECT dir FROM snapshot WHERE dir IS NOT NULL'));
  }

  /** Live snapshots that a door named. */
  liveOfDoors(): Generator<LiveSnapshotRow> {
    return this.sql.walk<LiveSnapshotRow>(
      "SELECT * FROM snapshot WHERE dir IS NOT NULL AND space <> 'native' AND id > ? ORDER BY id LIMIT ?",
      0,
      ({ id }) => id,
    );
  }

  byDir(dir: string): LiveSnapshotRow | undefined {
    return this.sql.get('SELECT * FROM snapshot WHERE dir = ?', dir);
  }

  /** Committed ones whose upper is not a layer yet, parents before children. */
  unconverted(spacePrefix: string): NamedSnapshotRow[] {
    return this.sql.all(
      `${NAMED} WHERE snapshot.kind = 'committed' AND snapshot.stack_id IS NOT NULL AND substr(snapshot.space, 1, ?) = ?
       ORDER BY snapshot.created, snapshot.id`,
      spacePrefix.length,
      spacePrefix,
    );
  }

  /** Uppers that were committed as they are. */
  uppers(): UpperRow[] {
    return this.sql.all(`SELECT ${UPPER} FROM stored_layer WHERE layer_id IS NULL ORDER BY id`);
  }

  /** The committed upper on top of a stack, and the stack below. */
  upperOn(stackId: number): (UpperRow & { below_id: number | null }) | undefined {
    return this.sql.get(
      `SELECT ${UPPER}, stack.parent_id AS below_id FROM stack JOIN stored_layer ON stored_layer.id = stored_layer_id
       WHERE stack.id = ? AND layer_id IS NULL`,
      stackId,
    );
  }

  /** Keys of the snapshots of doors that need a layer, and their spaces. */
  ofLayer(layerId: number): { space: string; key: string }[] {
    return this.sql.all(
      `WITH RECURSIVE
         wanted (id) AS (SELECT ?),
         above (id) AS (SELECT id FROM chain WHERE layer_id IN wanted
           UNION SELECT chain.id FROM chain JOIN above ON chain.parent_id = above.id),
         upon (id) AS (SELECT stack.id FROM stack JOIN stored_layer ON stored_layer.id = stored_layer_id WHERE layer_id IN wanted
           UNION SELECT stack.id FROM stack JOIN upon ON stack.parent_id = upon.id)
       SELECT space, key FROM snapshot WHERE space <> 'native'
         AND (layer_id IN wanted OR chain_id IN (SELECT id FROM above) OR stack_id IN (SELECT id FROM upon)) ORDER BY id`,
      layerId,
    );
  }

  /** Keys of the snapshots that need a committed upper. */
  ofUpper(dir: string): { space: string; key: string }[] {
    return this.sql.all(
      `WITH RECURSIVE upon (id) AS (
         SELECT stack.id FROM stack JOIN stored_layer ON stored_layer.id = stored_layer_id WHERE dir = ?
         UNION SELECT stack.id FROM stack JOIN upon ON stack.parent_id = upon.id)
       SELECT space, key FROM snapshot WHERE stack_id IN (SELECT id FROM upon) ORDER BY id`,
      dir,
    );
  }
}

const UPPER = 'stored_layer.*, upper_root AS root, upper_opaque AS opaque_root';

export function noSnapshot(key: string): LayerdError {
  return new LayerdError('SNAPSHOT_NOT_FOUND', `snapshot ${key} does not exist`, { details: { key } });
}
