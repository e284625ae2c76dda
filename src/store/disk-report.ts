/** df: every allocated byte below the root, and whose it is. */
import type { DiskReport } from '../core/words.js';
import type { Measure } from '../disk/usage.js';
import type { StoreContext } from './context.js';
import { partialName } from './partials.js';

type Row = DiskReport['rows'][number];

export class DiskReporter {
  private readonly context: StoreContext;
  /** Live uppers are measured at most so often; the age is shown. */
  private uppers: { at: number; bytes: Map<string, Measure> } | null = null;

  constructor(context: StoreContext) {
    this.context = context;
  }

  /**
   * What does not change is known from rows; what does (uppers, trash, database) is measured. The total equals the sum
   * of the allocated blocks below the root.
   */
  async report(): Promise<DiskReport> {
    const { reader, pool, places } = this.context;
    const names = await pool.run('short', 'store.scan', undefined);
    const rows: Row[] = [...this.layerRows(), ...this.blobRows()];
    rows.push(...(await this.upperRows()));
    const known = new Set(reader.allStoredLayers().map((row) => row.dir));
    const partials = new Map(reader.partials().map((row) => [partialName(row.digest), row]));
    const blobs = new Set([...partials.keys(), ...reader.keptBlobs().map((row) => row.file)]);
    const snapshots = new Set([...reader.snapshots.live(), ...reader.snapshots.uppers()].map((row) => row.dir));
    const others: [Row['kind'], string, string][] = [
      ...names.trash.map((name): [Row['kind'], string, string] => ['trash', name, `${places.trash}/${name}`]),
      ...names.trees.map((name): [Row['kind'], string, string] => ['tree', name, places.tree(name)]),
      ...names.layers
        .filter((name) => !known.has(name))
        .map((name): [Row['kind'], string, string] => ['staging', name, places.layer(name)]),
      ...names.snapshots
        .filter((name) => !snapshots.has(name))
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
      images: this.imageRows(),
      reclaimable:
        rows.filter((row) => row.kind === 'trash').reduce((sum, row) => sum + row.bytes, 0) + this.unneeded(),
      buildCache: this.buildCache(),
      sharedExtents: await pool.run('stream', 'store.shared', undefined),
      uppersMeasured: this.uppers?.at ?? null,
    };
  }

  private layerRows(): Row[] {
    const { reader } = this.context;
    return reader.allStoredLayers().map((row) => ({
      kind: 'layer',
      id: row.diff_id,
      bytes: row.disk,
      inodes: row.inodes,
      users: reader.imagesOfLayer(row.layer_id).map((image) => image.image_id),
    }));
  }

  private blobRows(): Row[] {
    const { reader } = this.context;
    return reader.keptBlobs().map((blob) => ({
      kind: 'blob',
      id: blob.digest,
      bytes: blob.disk,
      inodes: 1,
      users: reader.imagesOfLayer(blob.layer_id).map((image) => image.image_id),
    }));
  }

  /** What containers wrote, and what doors have in snapshots; `id` of a committed upper is its directory. */
  private async upperRows(): Promise<Row[]> {
    const { reader, pool, places } = this.context;
    const uppers: { dir: string; row: Pick<Row, 'kind' | 'id' | 'users'> }[] = [
      ...reader
        .containers()
        .map(({ dir, id, name }) => ({ dir, row: { kind: 'container' as const, id, users: [name] } })),
      ...reader.snapshots.liveOfDoors().map(({ dir, key, space }) => {
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

  private imageRows(): DiskReport['images'] {
    const { reader } = this.context;
    const disk = new Map<number, number>();
    for (const row of reader.allStoredLayers()) disk.set(row.layer_id, (disk.get(row.layer_id) ?? 0) + row.disk);
    return reader.images().map((image) => {
      let unique = 0;
      let shared = 0;
      for (const layer of new Map(reader.imageLayers(image.id).map((row) => [row.id, row])).values()) {
        if (layer.users === 1) unique += disk.get(layer.id) ?? 0;
        else shared += disk.get(layer.id) ?? 0;
      }
      return { id: image.image_id, refs: reader.refs(image.id), unique, shared };
    });
  }

  private buildCache(): DiskReport['buildCache'] {
    const rows = this.context.reader.buildCache();
    const alone = new Map(rows.filter((row) => row.in_image === 0).map((row) => [row.layer_id, row.disk]));
    return { entries: rows.length, bytes: [...alone.values()].reduce((sum, disk) => sum + disk, 0) };
  }

  /** Layers that no image, container, snapshot, lease or build cache needs: the next collection takes them. */
  private unneeded(): number {
    const { reader } = this.context;
    const cached = new Set(reader.buildCache().map((row) => row.layer_id));
    return reader
      .allStoredLayers()
      .filter(
        ({ layer_id: layer }) =>
          reader.imagesOfLayer(layer).length === 0 &&
          reader.leasesOfLayer(layer).length === 0 &&
          reader.snapshots.ofLayer(layer).length === 0 &&
          !cached.has(layer),
      )
      .reduce((sum, row) => sum + row.disk, 0);
  }
}

const UPPERS_FRESH_MS = 10_000;
