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
    const snapshots = new Set(reader.snapshots().map((row) => row.dir));
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

  private async upperRows(): Promise<Row[]> {
    const { reader, pool, places } = this.context;
    const containers = reader.containers();
    if (containers.length === 0) this.uppers = null;
    else if (this.uppers === null || Date.now() - this.uppers.at > UPPERS_FRESH_MS) {
      this.uppers = { at: Date.now(), bytes: new Map() };
    }
    const known = this.uppers?.bytes ?? new Map<string, Measure>();
    const fresh = containers.filter((row) => !known.has(row.dir));
    const measures = await pool.run('stream', 'store.measure', { paths: fresh.map((row) => places.snapshot(row.dir)) });
    for (const [index, row] of fresh.entries()) {
      const measure = measures[index];
      if (measure) known.set(row.dir, measure);
    }
    return containers.map((row) => {
      const measure = known.get(row.dir);
      return {
        kind: 'container',
        id: row.id,
        bytes: measure?.disk ?? 0,
        inodes: measure?.inodes ?? 0,
        users: [row.name],
      };
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

  /** Layers that no image, container or lease needs: the next collection takes them. */
  private unneeded(): number {
    const { reader } = this.context;
    return reader
      .allStoredLayers()
      .filter(
        (row) => reader.imagesOfLayer(row.layer_id).length === 0 && reader.leasesOfLayer(row.layer_id).length === 0,
      )
      .reduce((sum, row) => sum + row.disk, 0);
  }
}

const UPPERS_FRESH_MS = 10_000;
