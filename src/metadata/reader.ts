import type { KeptAnswer } from '../core/api.js';
import { isDigest, type Digest } from '../core/digest.js';
import type { DriverName, Lease } from '../core/words.js';
import { openReader } from './database.js';
import { BUILD_CACHE } from './operations/build-cache.js';
import type {
  BlobRow,
  BuildCacheRow,
  KeptBlobRow,
  ChainRow,
  ContainerRow,
  EventRow,
  ImageRow,
  LayerRow,
  LeaseRow,
  LowerRow,
  PartialRow,
  PlacedChainRow,
  RemoteBlobRow,
  StackedRow,
} from './rows.js';
import { SnapshotReader } from './snapshot-reader.js';
import { Sql } from './sql.js';

const STACKED = `stored_layer.*, layer.diff_id, layer.size, layer.opaque_root, layer.root
  FROM stored_layer JOIN layer ON layer.id = stored_layer.layer_id`;

const STACK_WALK = `
  WITH RECURSIVE walk (id, parent_id, stored_layer_id, depth) AS (
    SELECT id, parent_id, stored_layer_id, depth FROM stack WHERE id = ?
    UNION ALL
    SELECT stack.id, stack.parent_id, stack.stored_layer_id, stack.depth FROM stack JOIN walk ON stack.id = walk.parent_id
  )`;

/** Every stack that a snapshot with a directory lies on, and those below. */
const STACKS_IN_USE = `
  WITH RECURSIVE used (id, parent_id, stored_layer_id) AS (
    SELECT id, parent_id, stored_layer_id FROM stack
    WHERE id IN (SELECT stack_id FROM snapshot WHERE stack_id IS NOT NULL AND dir IS NOT NULL)
    UNION
    SELECT stack.id, stack.parent_id, stack.stored_layer_id FROM stack JOIN used ON stack.id = used.parent_id
  )`;

/** A container with the snapshot it is. */
export type ContainerWithSnapshot = ContainerRow & {
  dir: string;
  driver: DriverName;
  chain_id: number | null;
  stack_id: number | null;
  read_only: number;
  volatile: number;
  size_limit: number | null;
  config_digest: Digest;
};

const CONTAINERS = `
  SELECT container.*, snapshot.dir, snapshot.driver, snapshot.chain_id, snapshot.stack_id, snapshot.read_only,
         snapshot.volatile, snapshot.size_limit, image.image_id AS config_digest
  FROM container
  JOIN snapshot ON snapshot.id = container.snapshot_id
  JOIN image ON image.id = container.image_id`;

/** Queries on a read-only connection: what is committed, never what is being written. Readers never wait for the writer. */
export class MetadataReader {
  readonly sql: Sql;
  readonly snapshots: SnapshotReader;

  constructor(path: string) {
    this.sql = new Sql(openReader(path));
    this.snapshots = new SnapshotReader(this.sql);
  }

  close(): void {
    this.sql.db.close();
  }

  // Layers

  /** Newest first. */
  layersOfSize(size: number, limit: number): LayerRow[] {
    return this.sql.all('SELECT * FROM layer WHERE size = ? ORDER BY id DESC LIMIT ?', size, limit);
  }

  layer(diffId: Digest): LayerRow | undefined {
    return this.sql.get('SELECT * FROM layer WHERE diff_id = ?', diffId);
  }

  /** Every diff ID, in no order that means anything. */
  diffIds(): Generator<{ id: number; diff_id: Digest }> {
    return this.sql.walk<{ id: number; diff_id: Digest }>(
      'SELECT id, diff_id FROM layer WHERE id > ? ORDER BY id LIMIT ?',
      0,
      ({ id }) => id,
    );
  }

  layerByRow(id: number): LayerRow | undefined {
    return this.sql.get('SELECT * FROM layer WHERE id = ?', id);
  }

  /** Oldest first. */
  layers(): Generator<LayerRow> {
    return this.sql.walk<LayerRow>('SELECT * FROM layer WHERE id > ? ORDER BY id LIMIT ?', 0, ({ id }) => id);
  }

  /** Layers whose hex digits start so. */
  layersByPrefix(hexPrefix: string): LayerRow[] {
    return this.sql.all(
      'SELECT * FROM layer WHERE diff_id >= ? AND diff_id < ? LIMIT 3',
      `sha256:${hexPrefix}`,
      `sha256:${hexPrefix}g`,
    );
  }

  /** The whole copies of a layer, the newest first. */
  storedLayers(layerId: number): StackedRow[] {
    return this.sql.all(`SELECT ${STACKED} WHERE layer_id = ? ORDER BY damaged, stored_layer.id DESC`, layerId);
  }

  /** Oldest first. */
  allStoredLayers(): Generator<StackedRow> {
    return this.sql.walk<StackedRow>(
      `SELECT ${STACKED} WHERE stored_layer.id > ? ORDER BY stored_layer.id LIMIT ?`,
      0,
      ({ id }) => id,
    );
  }

  /** Directories of all stored layers. */
  layerDirs(): Set<string> {
    return this.column('SELECT dir FROM stored_layer WHERE layer_id IS NOT NULL');
  }

  storedLayerByDir(dir: string): StackedRow | undefined {
    return this.sql.get(`SELECT ${STACKED} WHERE dir = ?`, dir);
  }

  /** Stored layers that no chain lies on, and so no snapshot needs mounted. */
  isStacked(storedLayerId: number): boolean {
    return this.sql.get('SELECT 1 FROM stack WHERE stored_layer_id = ?', storedLayerId) !== undefined;
  }

  /** What was answered under a key, unless that ended with an earlier boot. */
  answered(key: string, boot: string): KeptAnswer | undefined {
    const row = this.sql.get<{ request: string; answer: string }>(
      'SELECT request, answer FROM answer WHERE key = ? AND (boot IS NULL OR boot = ?)',
      key,
      boot,
    );
    return row === undefined ? undefined : { request: row.request, answer: JSON.parse(row.answer) as unknown };
  }

  blob(digest: Digest): (BlobRow & { diff_id: Digest }) | undefined {
    return this.sql.get(
      'SELECT blob.*, layer.diff_id FROM blob JOIN layer ON layer.id = layer_id WHERE digest = ?',
      digest,
    );
  }

  keptBlobs(): KeptBlobRow[] {
    return this.sql.all('SELECT * FROM blob WHERE file IS NOT NULL');
  }

  partials(): PartialRow[] {
    return this.sql.all('SELECT * FROM partial');
  }

  /** Blobs of one layer that repositories of a registry were seen to have, the last seen first. */
  remoteBlobs(registry: string, diffId: Digest): RemoteBlobRow[] {
    return this.sql.all(
      `SELECT remote_blob.* FROM remote_blob JOIN layer ON layer.id = layer_id
       WHERE registry = ? AND diff_id = ? ORDER BY seen DESC, repository`,
      registry,
      diffId,
    );
  }

  /** Repositories of a registry that were seen to have a blob, the last seen first. */
  repositoriesOf(registry: string, digest: Digest): string[] {
    return this.sql
      .all<RemoteBlobRow>(
        'SELECT * FROM remote_blob WHERE registry = ? AND digest = ? ORDER BY seen DESC, repository',
        registry,
        digest,
      )
      .map(({ repository }) => repository);
  }

  // Chains and stacks

  chain(id: number): ChainRow | undefined {
    return this.sql.get('SELECT * FROM chain WHERE id = ?', id);
  }

  chainById(chainId: Digest): ChainRow | undefined {
    return this.sql.get('SELECT * FROM chain WHERE chain_id = ?', chainId);
  }

  chains(): (ChainRow & { diff_id: Digest; size: number })[] {
    return this.sql.all(
      'SELECT chain.*, layer.diff_id, layer.size FROM chain JOIN layer ON layer.id = chain.layer_id ORDER BY depth, chain.id',
    );
  }

  /** All chains with the copies that they lie on, parents first. */
  placedChains(): PlacedChainRow[] {
    return this.sql.all(
      `SELECT chain.*, layer.diff_id, stored_layer.driver, stored_layer.damaged, stack.parent_id AS below_id
       FROM chain JOIN layer ON layer.id = chain.layer_id JOIN stack ON stack.id = chain.stack_id
       JOIN stored_layer ON stored_layer.id = stack.stored_layer_id ORDER BY chain.depth, chain.id`,
    );
  }

  chainsOfLayer(layerId: number): (ChainRow & { parent_chain_id: Digest | null })[] {
    return this.sql.all(
      `SELECT chain.*, parent.chain_id AS parent_chain_id
       FROM chain LEFT JOIN chain AS parent ON parent.id = chain.parent_id WHERE chain.layer_id = ?`,
      layerId,
    );
  }

  /** The stored layers of the stack of a chain, bottom first. */
  stack(stackId: number): StackedRow[] {
    return this.sql.all(
      `${STACK_WALK} SELECT stored_layer.*, layer.diff_id, layer.size, layer.opaque_root, layer.root
       FROM walk JOIN stored_layer ON stored_layer.id = walk.stored_layer_id
       JOIN layer ON layer.id = stored_layer.layer_id ORDER BY walk.depth`,
      stackId,
    );
  }

  /** As {@link stack}, committed uppers among them. */
  lowers(stackId: number): LowerRow[] {
    return this.sql.all(
      `${STACK_WALK} SELECT stored_layer.*, layer.diff_id, layer.size,
         coalesce(layer.opaque_root, upper_opaque) AS opaque_root, coalesce(layer.root, upper_root) AS root
       FROM walk JOIN stored_layer ON stored_layer.id = walk.stored_layer_id
       LEFT JOIN layer ON layer.id = stored_layer.layer_id ORDER BY walk.depth`,
      stackId,
    );
  }

  /** What lies below a stored layer in the first stack that has it, bottom first. */
  stackBelow(storedLayerId: number): StackedRow[] {
    const row = this.sql.get<{ parent_id: number | null }>(
      'SELECT parent_id FROM stack WHERE stored_layer_id = ? ORDER BY id LIMIT 1',
      storedLayerId,
    );
    return typeof row?.parent_id === 'number' ? this.stack(row.parent_id) : [];
  }

  /** The stacks that snapshots with a directory lie on, each once. */
  snapshotStacks(): { stack_id: number; driver: DriverName }[] {
    return this.sql.all(
      'SELECT DISTINCT stack_id, driver FROM snapshot WHERE stack_id IS NOT NULL AND dir IS NOT NULL',
    );
  }

  /** Directories of the stored layers that some snapshot lies on. */
  layersUnderSnapshots(): Set<string> {
    return this.column(`${STACKS_IN_USE} SELECT dir FROM stored_layer WHERE id IN (SELECT stored_layer_id FROM used)`);
  }

  /** The same as stored layers, without committed uppers. */
  storedLayersUnderSnapshots(): StackedRow[] {
    return this.sql.all(
      `${STACKS_IN_USE} SELECT ${STACKED} WHERE stored_layer.id IN (SELECT stored_layer_id FROM used)`,
    );
  }

  // Images

  imageById(imageId: Digest): ImageRow | undefined {
    return this.sql.get('SELECT * FROM image WHERE image_id = ?', imageId);
  }

  imageByRef(name: string): ImageRow | undefined {
    return this.sql.get('SELECT image.* FROM image JOIN ref ON ref.image_id = image.id WHERE name = ?', name);
  }

  imageByManifest(digest: Digest): ImageRow | undefined {
    return this.sql.get('SELECT * FROM image WHERE manifest_digest = ?', digest);
  }

  imagesByPrefix(hexPrefix: string): ImageRow[] {
    return this.sql.all(
      'SELECT * FROM image WHERE image_id >= ? AND image_id < ? LIMIT 3',
      `sha256:${hexPrefix}`,
      `sha256:${hexPrefix}g`,
    );
  }

  /** Newest first. */
  images(): Generator<ImageRow> {
    return this.sql.walk<ImageRow>(
      'SELECT * FROM image WHERE id < ? ORDER BY id DESC LIMIT ?',
      Number.MAX_SAFE_INTEGER,
      ({ id }) => id,
    );
  }

  imageIds(): Set<Digest> {
    return this.column('SELECT image_id FROM image ORDER BY id');
  }

  refs(imageRow: number): string[] {
    return this.sql
      .all<{ name: string }>('SELECT name FROM ref WHERE image_id = ? ORDER BY name', imageRow)
      .map((row) => row.name);
  }

  /** A few refs whose repository's path ends in `name` (letters, digits, dots and dashes). */
  refsNamed(name: string): string[] {
    return this.sql
      .all<{ name: string }>('SELECT name FROM ref WHERE name GLOB ? ORDER BY name LIMIT 3', `*/${name}[:@]*`)
      .map((row) => row.name);
  }

  /** Names with the times when they were given. */
  refRows(imageRow: number): { name: string; updated: number }[] {
    return this.sql.all('SELECT name, updated FROM ref WHERE image_id = ? ORDER BY name', imageRow);
  }

  /** The layers of an image, bottom first, and whether another image has each, too. */
  imageLayers(imageRow: number): (LayerRow & { shared: number })[] {
    return this.sql.all(
      `SELECT layer.*, EXISTS (SELECT 1 FROM image_layer AS other
                               WHERE other.layer_id = layer.id AND other.image_id <> image_layer.image_id) AS shared
       FROM image_layer JOIN layer ON layer.id = image_layer.layer_id WHERE image_layer.image_id = ? ORDER BY position`,
      imageRow,
    );
  }

  /** Blob digests of the image's own manifest, in its order, and whether each is kept. */
  imageBlobs(imageRow: number): { digest: Digest; kept: number }[] {
    return this.sql.all(
      `SELECT image_blob.digest, file IS NOT NULL AS kept FROM image_blob LEFT JOIN blob USING (digest)
       WHERE image_id = ? ORDER BY position`,
      imageRow,
    );
  }

  /** Which images have which layer, each pair once. */
  layersOfImages(): { image_id: Digest; layer_id: number }[] {
    return this.sql.all(
      'SELECT DISTINCT image.image_id, image_layer.layer_id FROM image_layer JOIN image ON image.id = image_layer.image_id',
    );
  }

  /** Every name, and the image that has it. */
  allRefs(): { image_id: Digest; name: string }[] {
    return this.sql.all('SELECT image.image_id, name FROM ref JOIN image ON image.id = ref.image_id ORDER BY name');
  }

  imagesOfLayer(layerId: number): { id: number; image_id: Digest }[] {
    return this.sql.all(
      'SELECT DISTINCT image.id, image.image_id FROM image JOIN image_layer ON image_layer.image_id = image.id WHERE layer_id = ?',
      layerId,
    );
  }

  // Containers

  /** Newest first. */
  containers(): Generator<ContainerWithSnapshot> {
    return this.sql.walk<ContainerWithSnapshot>(
      `${CONTAINERS} WHERE container.snapshot_id < ? ORDER BY container.snapshot_id DESC LIMIT ?`,
      Number.MAX_SAFE_INTEGER,
      ({ snapshot_id: id }) => id,
    );
  }

  /** Those that are counted as mounted in this boot. */
  mountedContainers(boot: string): ContainerWithSnapshot[] {
    return this.sql.all(`${CONTAINERS} WHERE container.mounts > 0 AND container.boot = ?`, boot);
  }

  containerByDir(dir: string): ContainerWithSnapshot | undefined {
    return this.sql.get(`${CONTAINERS} WHERE snapshot.dir = ?`, dir);
  }

  containerById(id: string): ContainerWithSnapshot | undefined {
    return this.sql.get(`${CONTAINERS} WHERE container.id = ?`, id);
  }

  containerByName(name: string): ContainerWithSnapshot | undefined {
    return this.sql.get(`${CONTAINERS} WHERE container.name = ?`, name);
  }

  containersByPrefix(prefix: string): ContainerWithSnapshot[] {
    return this.sql.all(`${CONTAINERS} WHERE container.id >= ? AND container.id < ? LIMIT 3`, prefix, `${prefix}g`);
  }

  containersOfImage(imageRow: number): { id: string; name: string }[] {
    return this.sql.all('SELECT id, name FROM container WHERE image_id = ?', imageRow);
  }

  /** Containers whose stack holds the layer. */
  containersOfLayer(layerId: number): { id: string; name: string }[] {
    return this.sql.all(
      `SELECT DISTINCT container.id, container.name FROM container
       JOIN image_layer ON image_layer.image_id = container.image_id WHERE image_layer.layer_id = ?`,
      layerId,
    );
  }

  // Leases, events, the rest

  leases(): Lease[] {
    return this.sql.all<LeaseRow>('SELECT * FROM lease ORDER BY created').map((row) => ({
      id: row.id,
      created: row.created,
      expires: row.expires,
      labels: JSON.parse(row.labels) as Record<string, string>,
      holds: this.leaseHolds(row.id),
    }));
  }

  leasesOfLayer(layerId: number): string[] {
    return this.sql
      .all<{ lease_id: string }>('SELECT lease_id FROM lease_layer WHERE layer_id = ?', layerId)
      .map((row) => row.lease_id);
  }

  leasesOfImage(imageRow: number): string[] {
    return this.sql
      .all<{ lease_id: string }>('SELECT lease_id FROM lease_image WHERE image_id = ?', imageRow)
      .map((row) => row.lease_id);
  }

  private leaseHolds(id: string): Digest[] {
    return this.sql
      .all<{ digest: string }>(
        `SELECT image.image_id AS digest FROM lease_image JOIN image ON image.id = lease_image.image_id WHERE lease_id = ?
         UNION ALL
         SELECT layer.diff_id FROM lease_layer JOIN layer ON layer.id = lease_layer.layer_id WHERE lease_id = ?`,
        id,
        id,
      )
      .map((row) => row.digest)
      .filter(isDigest);
  }

  /** The build cache, what was used last first. */
  buildCache(): BuildCacheRow[] {
    return this.sql.all(`${BUILD_CACHE} ORDER BY used DESC, build_cache.id DESC`);
  }

  buildCacheOfLayer(layerId: number): BuildCacheRow[] {
    return this.sql.all(`${BUILD_CACHE} WHERE layer.id = ?`, layerId);
  }

  /** Events after `since`, oldest first, at most `limit`. */
  events(since: number, limit: number): EventRow[] {
    return this.sql.all('SELECT * FROM event WHERE seq > ? ORDER BY seq LIMIT ?', since, limit);
  }

  /** The driver that the store was last migrated to; null if it never was. */
  notedDriver(): string | null {
    return this.sql.get<{ value: string }>("SELECT value FROM store WHERE key = 'driver'")?.value ?? null;
  }

  /** There is no layer. */
  isEmpty(): boolean {
    return this.sql.get('SELECT 1 FROM layer LIMIT 1') === undefined;
  }

  /** Whether a collection has anything to look at. */
  hasCandidates(): boolean {
    return this.sql.get('SELECT 1 FROM candidate LIMIT 1') !== undefined;
  }

  counts(): { images: number; layers: number; containers: number; leases: number; candidates: number } {
    const row = this.sql.get<{
      images: number;
      layers: number;
      containers: number;
      leases: number;
      candidates: number;
    }>(
      `SELECT (SELECT count(*) FROM image) AS images, (SELECT count(*) FROM layer) AS layers,
              (SELECT count(*) FROM container) AS containers, (SELECT count(*) FROM lease) AS leases,
              (SELECT count(*) FROM candidate) AS candidates`,
    );
    return row ?? { images: 0, layers: 0, containers: 0, leases: 0, candidates: 0 };
  }

  private column<Value>(text: string): Set<Value> {
    return new Set(this.sql.values<Value>(text));
  }
}
