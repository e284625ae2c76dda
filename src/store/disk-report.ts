/** df: every allocated byte below the root, and whose it is. */
import type { Digest } from '../core/digest.js';
import type { DiskReport } from '../core/words.js';
import type { Measure } from '../disk/usage.js';
import type { StoreContext } from './context.js';
import { partialName } from './partials.js';

type Row = DiskReport['rows'][number];

export class DiskReporter {
  private readonly context: StoreContext;
  private readonly unneeded: () => Promise<number>;
  /** Live uppers are measured at most so often; the age is shown. */
  private uppers: { at: number; bytes: Map<string, Measure> } | null = null;

  /** `unneeded`: the bytes that a collection without a grace period would take. */
  constructor(context: StoreContext, unneeded: () => Promise<number>) {
    this.context = context;
    this.unneeded = unneeded;
  }

  /**
   * What does not change is known from rows; what does (uppers, trash, database) is measured. The total equals the sum
   * of the allocated blocks below the root.
   */
  async report(): Promise<DiskReport> {
    const { reader, pool, places } = this.context;
    // first: what it tries out and takes back the database writes to its log, which is measured below
    const unneeded = await this.unneeded();
    const names = await pool.run('short', 'store.scan', undefined);
    const imagesOf = this.imagesOfLayers();
    const rows: Row[] = [...this.layerRows(imagesOf), ...this.blobRows(imagesOf)];
    for (const row of await this.upperRows()) rows.push(row);
    const known = reader.layerDirs();
    const partials = new Map(reader.partials().map((row) => [partialName(row.digest), row]));
    const blobs = new Set([...partials.keys(), ...reader.keptBlobs().map((row) => row.file)]);
    const live = reader.snapshots.liveDirs();
    const uppers = new Set(reader.snapshots.uppers().map((row) => row.dir));
    const others: [Row['kind'], string, string][] = [
      ...names.trash.map((name): [Row['kind'], string, string] => ['trash', name, `${places.trash}/${name}`]),
      ...names.trees.map((name): [Row['kind'], string, string] => ['tree', name, places.tree(name)]),
      ...names.layers
        .filter((name) => !known.has(name))
        .map((name): [Row['kind'], string, string] => ['staging', name, places.layer(name)]),
      ...names.snapshots
        .filter((name) => !live.has(name) && !uppers.has(name))
        .map((name): [Row['kind'], string, string] => ['staging', name, places.snapshot(name)]),
      ...names.blobs
        .filter((name) => !blobs.has(name))
        .map((name): [Row['kind'], string, string] => ['staging', name, places.blob(name)]),
      ...names.blobs
        .filter((name) => partials.has(name))
        .map((name): [Row['kind'], string, string] => ['partial', name, places.blob(name)]),
      ...names.others.map((name): [Row['kind'], string, string] => ['other', name, `${places.root}/${name}`]),
      ['metadata', 'db', `${places.root}/db`],
      ['metadata', 'images', places.images],
      ['other', 'lost', places.lost],
    ];
    const measures = await pool.run('stream', 'store.measure', { paths: others.map(([, , path]) => path) });
    for (const [index, [kind, id]] of others.entries()) {
      const measure = measures[index];
      if (!measure) continue;
      const partial = partials.get(id);
      const lease = partial?.lease_id ?? null;
      const users = lease === null ? [] : [lease];
      rows.push({ kind, id: partial?.digest ?? id, bytes: measure.disk, inodes: measure.inodes, users });
    }
    const frame = await pool.run('short', 'store.frame', undefined);
    rows.push({ kind: 'metadata', id: 'directories', bytes: frame.disk, inodes: frame.inodes, users: [] });
    return {
      total: rows.reduce((sum, row) => sum + row.bytes, 0),
      rows,
      images: this.imageRows(imagesOf),
      reclaimable: rows.filter((row) => row.kind === 'trash').reduce((sum, row) => sum + row.bytes, 0) + unneeded,
      buildCache: this.buildCache(),
      sharedExtents: await pool.run('stream', 'store.shared', undefined),
      uppersMeasured: this.uppers?.at ?? null,
    };
  }

  /** Ids of the images that have a layer, by its row. */
  private imagesOfLayers(): Map<number, Digest[]> {
    const imagesOf = new Map<number, Digest[]>();
    for (const { layer_id: layer, image_id: image } of this.context.reader.layersOfImages()) {
      const images = imagesOf.get(layer);
      if (images === undefined) imagesOf.set(layer, [image]);
      else images.push(image);
    }
    return imagesOf;
  }

  private layerRows(imagesOf: ReadonlyMap<number, Digest[]>): Row[] {
    return Array.from(this.context.reader.allStoredLayers(), (row) => ({
      kind: 'layer',
      id: row.diff_id,
      bytes: row.disk,
      inodes: row.inodes,
      users: imagesOf.get(row.layer_id) ?? [],
    }));
  }

  private blobRows(imagesOf: ReadonlyMap<number, Digest[]>): Row[] {
    const { reader } = this.context;
    return reader.keptBlobs().map((blob) => ({
      kind: 'blob',
      id: blob.digest,
      bytes: blob.disk,
      inodes: 1,
      users: imagesOf.get(blob.layer_id) ?? [],
    }));
  }

  /** What containers wrote, and what doors have in snapshots; `id` of a committed upper is its directory. */
  private async upperRows(): Promise<Row[]> {
    const { reader, pool, places } = this.context;
    const uppers: { dir: string; row: Pick<Row, 'kind' | 'id' | 'users'> }[] = [
      ...Array.from(reader.containers(), ({ dir, id, name }) => {
        return { dir, row: { kind: 'container' as const, id, users: [name] } };
      }),
      ...Array.from(reader.snapshots.liveOfDoors(), ({ dir, key, space }) => {
        return { dir, row: { kind: 'snapshot' as const, id: key, users: [space] } };
      }),
      ...reader.snapshots.uppers().map(({ dir }) => {
        const users = reader.snapshots.ofUpper(dir).map(({ key }) => key);
        return { dir, row: { kind: 'snapshot' as const, id: dir, users } };
      }),
    ];
    if (uppers.length === 0) this.uppers = null;
    else if (this.uppers === null || Date.now() - this.uppers.at > UPPERS_FRESH_MS) {
      this.uppers = { at: Date.now(), bytes: new Map() };
    }
    const known = this.uppers?.bytes ?? new Map<string, Measure>();
    const fresh = uppers.filter(({ dir }) => !known.has(dir));
    const measures = await pool.run('stream', 'store.measure', { paths: fresh.map(({ dir }) => places.snapshot(dir)) });
    for (const [index, { dir }] of fresh.entries()) {
      const measure = measures[index];
      if (measure) known.set(dir, measure);
    }
    return uppers.map(({ dir, row: { kind, id, users } }) => {
      const { disk, inodes } = known.get(dir) ?? { disk: 0, inodes: 0 };
      return { kind, id, bytes: disk, inodes, users };
    });
  }

  private imageRows(imagesOf: ReadonlyMap<number, Digest[]>): DiskReport['images'] {
    const { reader } = this.context;
    const disk = new Map<number, number>();
    for (const row of reader.allStoredLayers()) disk.set(row.layer_id, (disk.get(row.layer_id) ?? 0) + row.disk);
    const rows = new Map<Digest, DiskReport['images'][number]>();
    for (const id of reader.imageIds()) rows.set(id, { id, refs: [], unique: 0, shared: 0 });
    for (const { image_id: id, name } of reader.allRefs()) rows.get(id)?.refs.push(name);
    for (const [layer, images] of imagesOf) {
      const share = images.length === 1 ? 'unique' : 'shared';
      for (const id of images) {
        const row = rows.get(id);
        if (row !== undefined) row[share] += disk.get(layer) ?? 0;
      }
    }
    return [...rows.values()].toReversed();
  }

  private buildCache(): DiskReport['buildCache'] {
    const rows = this.context.reader.buildCache();
    const alone = new Map(rows.filter((row) => row.in_image === 0).map((row) => [row.layer_id, row.disk]));
    return { entries: rows.length, bytes: [...alone.values()].reduce((sum, disk) => sum + disk, 0) };
  }
}

const UPPERS_FRESH_MS = 10_000;
