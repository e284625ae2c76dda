/** What asks for one thing must find it in a store of any size: by an index, never by going through a table. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type Database from 'better-sqlite3';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { sha256 } from '../../src/core/digest.js';
import { openWriter } from '../../src/metadata/database.js';
import { MetadataReader } from '../../src/metadata/reader.js';
import { operations } from '../../src/metadata/operations/index.js';
import { Sql, type SqlValue } from '../../src/metadata/sql.js';

const DIGEST = sha256('');
const NAME = { space: 'containerd/x', key: 'k' };

/** Every query of one thing, with arguments that find nothing. */
const QUERIES: Record<string, (reader: MetadataReader) => unknown> = {
  layersOfSize: (reader) => reader.layersOfSize(1, 2),
  layer: (reader) => reader.layer(DIGEST),
  layerByRow: (reader) => reader.layerByRow(1),
  layersByPrefix: (reader) => reader.layersByPrefix('ab'),
  storedLayers: (reader) => reader.storedLayers(1),
  storedLayerByDir: (reader) => reader.storedLayerByDir('d'),
  isStacked: (reader) => reader.isStacked(1),
  answered: (reader) => reader.answered('k', 'b'),
  blob: (reader) => reader.blob(DIGEST),
  remoteBlobs: (reader) => reader.remoteBlobs('r', DIGEST),
  repositoriesOf: (reader) => reader.repositoriesOf('r', DIGEST),
  chain: (reader) => reader.chain(1),
  chainById: (reader) => reader.chainById(DIGEST),
  chainsOfLayer: (reader) => reader.chainsOfLayer(1),
  stack: (reader) => reader.stack(1),
  lowers: (reader) => reader.lowers(1),
  stackBelow: (reader) => reader.stackBelow(1),
  imageById: (reader) => reader.imageById(DIGEST),
  imageByRef: (reader) => reader.imageByRef('n'),
  imageByManifest: (reader) => reader.imageByManifest(DIGEST),
  imagesByPrefix: (reader) => reader.imagesByPrefix('ab'),
  refs: (reader) => reader.refs(1),
  refRows: (reader) => reader.refRows(1),
  imageLayers: (reader) => reader.imageLayers(1),
  imageBlobs: (reader) => reader.imageBlobs(1),
  imagesOfLayer: (reader) => reader.imagesOfLayer(1),
  containerById: (reader) => reader.containerById('i'),
  containerByName: (reader) => reader.containerByName('n'),
  containerByDir: (reader) => reader.containerByDir('d'),
  containersByPrefix: (reader) => reader.containersByPrefix('ab'),
  containersOfImage: (reader) => reader.containersOfImage(1),
  containersOfLayer: (reader) => reader.containersOfLayer(1),
  leasesOfLayer: (reader) => reader.leasesOfLayer(1),
  leasesOfImage: (reader) => reader.leasesOfImage(1),
  buildCacheOfLayer: (reader) => reader.buildCacheOfLayer(1),
  events: (reader) => reader.events(0, 10),
  notedDriver: (reader) => reader.notedDriver(),
  'a block of layers': (reader) => [...reader.layers()],
  'a block of images': (reader) => [...reader.images()],
  'a block of containers': (reader) => [...reader.containers()],
  'a block of stored layers': (reader) => [...reader.allStoredLayers()],
  'a snapshot': (reader) => reader.snapshots.find(NAME),
  'a snapshot by its row': (reader) => reader.snapshots.byId(1),
  'a snapshot by its directory': (reader) => reader.snapshots.byDir('d'),
  'a block of snapshots': (reader) => [...reader.snapshots.list('containerd/x')],
  labelled: (reader) => reader.snapshots.labelled('containerd/x', 1, 'l', 'v'),
  unconverted: (reader) => reader.snapshots.unconverted('containerd/'),
  upperOn: (reader) => reader.snapshots.upperOn(1),
  uppers: (reader) => reader.snapshots.uppers(),
  'snapshots of a layer': (reader) => reader.snapshots.ofLayer(1),
  'snapshots of an upper': (reader) => reader.snapshots.ofUpper('d'),
};

/** Tables that hold few rows however large the store is, or of which the rows that are read are what is asked for. */
const MAY_BE_SCANNED =
  /^SCAN (CONSTANT ROW|walk|wanted|above|upon|label|build_cache|candidate|snapshot USING INDEX snapshot_unconverted)\b/;

let home: string;
let db: Database.Database;
let reader: MetadataReader;

beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), 'layerd-queries-'));
  db = openWriter(join(home, 'layerd.db'));
  reader = new MetadataReader(join(home, 'layerd.db'));
});

afterAll(() => {
  reader.close();
  db.close();
  rmSync(home, { recursive: true, force: true });
});

/** Runs `work` and says how SQLite goes about each statement of it. */
function plansOf(sql: Sql, work: () => unknown): string[] {
  const plans: string[] = [];
  const prepare = sql.db.prepare.bind(sql.db);
  const spy = vi.spyOn(sql.db, 'prepare').mockImplementation((text: string) => {
    const values: SqlValue[] = Array.from({ length: text.split('?').length - 1 }, () => 1);
    const explained = prepare<SqlValue[], { detail: string }>(`EXPLAIN QUERY PLAN ${text}`).all(...values);
    plans.push(...explained.map(({ detail }) => detail));
    return prepare(text);
  });
  try {
    work();
  } finally {
    spy.mockRestore();
  }
  return plans;
}

describe('goes by an index', () => {
  it.each(Object.keys(QUERIES))('%s', (name) => {
    const plans = plansOf(reader.sql, () => QUERIES[name]?.(reader));
    expect(plans.length).toBeGreaterThan(0);
    expect(plans.filter((plan) => plan.startsWith('SCAN') && !MAY_BE_SCANNED.test(plan))).toEqual([]);
  });

  it('a collection of nothing', () => {
    const sql = new Sql(db);
    const tx = { sql, now: Date.now(), event: () => undefined };
    const limits = { maxAgeMs: 1, maxBytes: 1 };
    const plans = plansOf(sql, () => {
      operations.collect(tx, { graceMs: 0, dryRun: false, buildCache: limits });
      operations.trimEvents(tx, { keep: 1 });
    });
    expect(plans.filter((plan) => plan.startsWith('SCAN') && !MAY_BE_SCANNED.test(plan))).toEqual([]);
  });
});
