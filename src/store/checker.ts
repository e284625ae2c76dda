/**
 * check: rows, files, references, mounts and every byte of every layer held against its digests. Independent of
 * recovery: it only reads, unless asked to repair, and says what each problem means for whom.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import type { LayerFault } from '../../drivers/driver.js';
import { digestFromHex, digestHex } from '../core/digest.js';
import type { OnProgress } from '../core/api.js';
import { isErrno } from '../core/errors.js';
import type { CheckOptions, CheckReport, Problem } from '../core/words.js';
import type { StackedRow } from '../metadata/rows.js';
import { storedLayer, type StoreContext } from './context.js';

const RELOAD = 'Load the image again: what is damaged is replaced in place.';

export class Checker {
  private readonly context: StoreContext;

  constructor(context: StoreContext) {
    this.context = context;
  }

  async check(options: CheckOptions, progress: OnProgress, signal: AbortSignal): Promise<CheckReport> {
    const started = performance.now();
    const { reader, writer } = this.context;
    const problems: Problem[] = [];
    problems.push(...this.database());
    problems.push(...(await this.strays(options.repair ?? false)));
    const rows = reader.allStoredLayers();
    let bytesRead = 0;
    for (const [index, row] of rows.entries()) {
      signal.throwIfAborted();
      progress({ phase: 'check', subject: row.diff_id, done: index, total: rows.length });
      problems.push(...(await this.layer(row, options)));
      if (options.quick !== true) bytesRead += row.size;
    }
    if (options.quick !== true) problems.push(...(await this.blobs()));
    const report: CheckReport = {
      ok: problems.every((problem) => problem.repaired || problem.severity === 'warning'),
      problems,
      layersChecked: rows.length,
      bytesRead,
      unverifiable: reader.containers().map((row) => row.id),
      durationMs: performance.now() - started,
    };
    await writer.run('recordEvent', {
      type: 'store.check',
      subject: '',
      data: { ok: report.ok, problems: problems.length, layers: rows.length },
    });
    return report;
  }

  private database(): Problem[] {
    return this.context.reader.integrity().map((message) => ({
      severity: 'damage',
      code: 'DATABASE_CORRUPT',
      subject: this.context.places.database,
      message,
      affects: [],
      hint: 'Restore a backup of the database, or move db/ away and load the images again.',
      repaired: false,
    }));
  }

  /** What lies on disk or is mounted without a row, and rows without their directory. */
  private async strays(repair: boolean): Promise<Problem[]> {
    const { pool, reader, places, staging } = this.context;
    const names = await pool.run('short', 'store.scan', undefined);
    const layers = new Set(reader.allStoredLayers().map((row) => row.dir));
    const snapshots = reader.snapshots();
    const snapshotDirs = new Set(snapshots.map((row) => row.dir));
    const blobs = new Set(reader.keptBlobs().map((row) => digestHex(row.digest)));
    const stray = {
      layers: names.layers.filter((name) => !layers.has(name) && !staging.has(name)),
      snapshots: names.snapshots.filter((name) => !snapshotDirs.has(name) && !staging.has(name)),
      trees: [],
      blobs: names.blobs.filter((name) => !blobs.has(name) && !staging.has(name.replace(/\.part$/, ''))),
    };
    const paths = [
      ...stray.layers.map((name) => places.layer(name)),
      ...stray.snapshots.map((name) => places.snapshot(name)),
      ...stray.blobs.map((name) => places.blob(name)),
    ];
    if (repair && paths.length > 0) await pool.run('short', 'trash.move', stray);
    const leaks = paths.map((path): Problem => leak('STRAY_FILE', path, 'no row accounts for it', repair));
    for (const name of names.others) {
      leaks.push(leak('STRAY_FILE', `${places.root}/${name}`, 'layerd makes nothing of this name', false));
    }
    const there = new Set(names.snapshots);
    for (const snapshot of snapshots) {
      if (there.has(snapshot.dir)) continue;
      leaks.push({
        severity: 'damage',
        code: 'SNAPSHOT_MISSING',
        subject: snapshot.key,
        message: `the directory of the snapshot is gone: ${places.snapshot(snapshot.dir)}`,
        affects: [snapshot.key],
        hint: 'What the container wrote is lost; remove the container.',
        repaired: false,
      });
    }
    return leaks;
  }

  private async layer(row: StackedRow, options: CheckOptions): Promise<Problem[]> {
    const { pool, writer } = this.context;
    const layer = storedLayer(row);
    let faults = await pool.run('bulk', 'layer.verify', { layer, quick: options.quick ?? false });
    const found = faults;
    if (options.repair === true && faults.some((fault) => fault.repairable)) {
      faults = await pool.run('bulk', 'layer.repair', { layer });
    }
    const damaged = faults.length > 0;
    // Known damage is what lets a later load put whole bytes in its place.
    if (damaged !== (row.damaged === 1)) await writer.run('markDamaged', { dir: row.dir, damaged });
    return found.map((fault) => this.problemOf(row, fault, !faults.some((left) => left.code === fault.code)));
  }

  private problemOf(row: StackedRow, fault: LayerFault, repaired: boolean): Problem {
    const { reader } = this.context;
    const affects = [
      ...reader.imagesOfLayer(row.layer_id).flatMap((image) => {
        const refs = reader.refs(image.id);
        return refs.length > 0 ? refs : [image.image_id];
      }),
      ...reader.containersOfLayer(row.layer_id).map((container) => container.name),
    ];
    return {
      severity: 'damage',
      code: fault.code,
      subject: row.diff_id,
      message: `${fault.path === '' ? '' : `${fault.path}: `}${fault.message}`,
      affects,
      hint: fault.repairable ? 'Run `layerctl check --repair`.' : RELOAD,
      repaired,
    };
  }

  private async blobs(): Promise<Problem[]> {
    const { reader, places } = this.context;
    const problems: Problem[] = [];
    for (const blob of reader.keptBlobs()) {
      const found = await digestOfFile(places.blob(digestHex(blob.digest)));
      if (found === blob.digest) continue;
      problems.push({
        severity: 'damage',
        code: found === null ? 'BLOB_MISSING' : 'BLOB_CORRUPT',
        subject: blob.digest,
        message: found === null ? 'the kept blob is gone' : `the kept blob has the digest ${found}`,
        affects: reader.imagesOfLayer(blob.layer_id).map((image) => image.image_id),
        hint: RELOAD,
        repaired: false,
      });
    }
    return problems;
  }
}

function leak(code: string, subject: string, why: string, repaired: boolean): Problem {
  return {
    severity: 'leak',
    code,
    subject,
    message: `${subject}: ${why}`,
    affects: [],
    hint: 'Run `layerctl check --repair`, or restart the daemon: it is then moved into the trash.',
    repaired,
  };
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
