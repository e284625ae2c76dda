/**
 * check: rows, files, references, mounts and every byte of every layer held against its digests. Independent of
 * recovery: it only reads, unless asked to repair, and says what each problem means for whom.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { digestFromHex, digestHex } from '../core/digest.js';
import type { OnProgress } from '../core/api.js';
import { isErrno } from '../core/errors.js';
import { elapsedMs } from '../core/units.js';
import type { CheckOptions, CheckReport, Problem } from '../core/words.js';
import { checkDatabase } from '../metadata/aside.js';
import type { StackedRow } from '../metadata/rows.js';
import { storedLayer, type StoreContext } from './context.js';
import { agreed, disagreements, isEmpty, strayPaths, type Disagreements } from './inventory.js';
import { ImageFiles } from './image-files.js';
import type { Layers } from './layers.js';
import type { Leases } from './leases.js';
import * as problem from './problems.js';

/** Between two looks at the disk: longer than a removal takes from its row to its rename. */
const SETTLE_MS = 200;

/** What repairs layers. */
export interface CheckerParts {
  layers: Layers;
  leases: Leases;
}

export class Checker {
  private readonly context: StoreContext;
  private readonly parts: CheckerParts;

  constructor(context: StoreContext, parts: CheckerParts) {
    this.context = context;
    this.parts = parts;
  }

  async check(options: CheckOptions, progress: OnProgress, signal: AbortSignal): Promise<CheckReport> {
    const started = performance.now();
    const { reader, writer, places } = this.context;
    const found = await checkDatabase(places.database);
    const problems = found.map((message) => problem.databaseCorrupt(places.database, message));
    problems.push(...(await this.accounts(options.repair ?? false)));
    const rows = [...reader.allStoredLayers()];
    let bytesRead = 0;
    for (const [index, row] of rows.entries()) {
      signal.throwIfAborted();
      progress({ phase: 'check', subject: row.diff_id, done: index, total: rows.length });
      problems.push(...(await this.layer(row, options)));
      if (options.quick !== true) bytesRead += row.size;
    }
    if (options.quick !== true) problems.push(...(await this.blobs(options.repair ?? false)));
    problems.push(...(await this.imageFiles(options.repair ?? false)));
    const report: CheckReport = {
      ok: problems.every(({ repaired, severity }) => repaired || severity === 'warning'),
      problems,
      layersChecked: rows.length,
      bytesRead,
      unverifiable: [...Array.from(reader.containers(), (row) => row.id), ...this.unverifiable()],
      durationMs: elapsedMs(started),
    };
    await writer.run('recordEvent', {
      type: 'store.check',
      subject: '',
      data: { ok: report.ok, problems: problems.length, layers: rows.length },
    });
    return report;
  }

  /** What lies on disk or is mounted without a row, and rows without what they name. */
  private async accounts(repair: boolean): Promise<Problem[]> {
    const { pool, reader, writer, places, boot } = this.context;
    const { strays, others, missing, missingUppers, lost, mounts } = await this.settled();
    if (repair) {
      for (const { id } of lost) await writer.run('countUnmount', { id, boot, all: true });
      await pool.run('unmount', 'mounts.detach', { paths: mounts });
      await pool.run('short', 'trash.move', strays);
    }
    return [
      ...strayPaths(places, strays).map((path) => problem.strayFile(path, repair)),
      ...others.map((name) => problem.foreignFile(`${places.root}/${name}`)),
      ...mounts.map((path) => problem.strayMount(path, repair)),
      ...lost.map((row) => problem.mountLost(row, repair)),
      ...missing.map((row) => problem.snapshotMissing(row, places.snapshot(row.dir))),
      ...missingUppers.map((row) => problem.upperMissing(places.snapshot(row.dir), this.upperUsers(row.dir))),
      ...reader.snapshots
        .uppers()
        .filter((row) => row.damaged === 1)
        .map((row) => problem.upperChanged(places.snapshot(row.dir), this.upperUsers(row.dir))),
    ];
  }

  /** What several looks agree on: a thing that is being made or removed just now does not show in all of them. */
  private async settled(): Promise<Disagreements> {
    let found = await disagreements(this.context);
    for (let look = 0; look < 2 && !isEmpty(found); look += 1) {
      await sleep(SETTLE_MS);
      found = agreed(found, await disagreements(this.context));
    }
    return found;
  }

  private async layer(row: StackedRow, options: CheckOptions): Promise<Problem[]> {
    const { pool, reader, writer } = this.context;
    const layer = storedLayer(row);
    const quick = options.quick ?? false;
    const found = await pool.run('bulk', 'layer.verify', { layer, quick });
    const repairable = options.repair === true && found.some((fault) => fault.repairable);
    let left = repairable ? await pool.run('bulk', 'layer.repair', { layer }) : found;
    // It may have been collected meanwhile: then nothing is missing.
    if (reader.storedLayerByDir(row.dir) === undefined) return [];
    // Known damage is what lets a later load put whole bytes in its place. A quick look acquits nobody.
    if (left.length > 0 && row.damaged === 0) await writer.run('markDamaged', { dir: row.dir, damaged: true });
    if (left.length === 0 && row.damaged === 1 && !quick) {
      await writer.run('markDamaged', { dir: row.dir, damaged: false });
    }
    if (found.length === 0) return [];
    const others = reader.storedLayers(row.layer_id).some(({ damaged, dir }) => damaged === 0 && dir !== row.dir);
    if (left.length > 0 && options.repair === true && others && (await this.isMended(row))) left = [];
    const affects = this.usersOf(row.layer_id);
    return found.map((fault) => {
      const repaired = !left.some(({ code }) => code === fault.code);
      return problem.layerFault(row.diff_id, { ...fault, repairable: fault.repairable || others }, affects, repaired);
    });
  }

  /** Made anew from another copy, as when the layer is loaded again. */
  private async isMended({ diff_id: diffId, dir }: StackedRow): Promise<boolean> {
    const { layers, leases } = this.parts;
    await leases.during('check', (leaseId) => layers.present({ diffId }, leaseId));
    return this.context.reader.storedLayerByDir(dir)?.damaged === 0;
  }

  /** Kept blobs are a second copy of layers that are whole: a wrong one is let go, and a load brings it again. */
  private async blobs(repair: boolean): Promise<Problem[]> {
    const { reader, writer, pool, places } = this.context;
    const problems: Problem[] = [];
    for (const blob of reader.keptBlobs()) {
      const found = await digestOfFile(places.blob(blob.file));
      if (found === blob.digest || reader.blob(blob.digest)?.file !== blob.file) continue;
      if (repair) {
        await writer.run('dropBlob', { file: blob.file });
        await pool.run('short', 'trash.move', { layers: [], snapshots: [], trees: [], blobs: [blob.file] });
      }
      problems.push(problem.blobFault(blob.digest, found, this.usersOf(blob.layer_id), repair));
    }
    return problems;
  }

  /** What doors have that is no layer. */
  private unverifiable(): string[] {
    const { snapshots } = this.context.reader;
    const live = Array.from(snapshots.liveOfDoors(), ({ space, key }) => `${space} ${key}`);
    return [...live, ...snapshots.uppers().map((row) => this.context.places.snapshot(row.dir))];
  }

  private upperUsers(dir: string): string[] {
    return this.context.reader.snapshots.ofUpper(dir).map(({ key }) => key);
  }

  /** What would describe an image if the database were lost. */
  private async imageFiles(repair: boolean): Promise<Problem[]> {
    const { reader, places } = this.context;
    const files = new ImageFiles(this.context);
    let stale = await files.stale();
    if (stale.length > 0) {
      // a row is committed before its file is written
      await sleep(SETTLE_MS);
      const still = new Set(await files.stale());
      stale = stale.filter((imageId) => still.has(imageId));
    }
    const known = stale.filter((imageId) => reader.imageById(imageId) !== undefined);
    if (repair) await files.write(known);
    return known.map((imageId) => problem.imageFile(imageId, places.image(digestHex(imageId)), repair));
  }

  /** Refs (or ids) of images, and names of containers. */
  private usersOf(layerId: number): string[] {
    const { reader } = this.context;
    const images = reader.imagesOfLayer(layerId).flatMap((image) => {
      const refs = reader.refs(image.id);
      return refs.length > 0 ? refs : [image.image_id];
    });
    const containers = reader.containersOfLayer(layerId).map((container) => container.name);
    return [...images, ...containers, ...reader.snapshots.ofLayer(layerId).map(({ key }) => key)];
  }
}

async function digestOfFile(path: string): Promise<string | null> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return null;
    throw thrown;
  }
  return digestFromHex(hash.digest('hex'));
}
