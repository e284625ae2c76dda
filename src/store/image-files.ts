/**
 * What is known of each image, as a file of its own below i/: its config and manifest byte for byte, and its names. The
 * rows are what counts; the files are for the day when the database is lost (image/rebuild.ts). Such a file is written
 * from the rows after they are committed and before the answer; after a start all of them are compared.
 */
import { open, readFile, readdir, rename, rm } from 'node:fs/promises';
import { digestFromHex, digestHex, sha256, type Digest } from '../core/digest.js';
import { isErrno, LayerdError, toLayerdError } from '../core/errors.js';
import { KeyedLock } from '../core/keyed-lock.js';
import type { Places } from '../core/places.js';
import { syncPaths } from '../disk/sync.js';
import type { ImageRow } from '../metadata/rows.js';
import type { StoreContext } from './context.js';

/** An image as its file describes it. */
export interface DescribedImage {
  config: Buffer;
  manifest: { bytes: Buffer; digest: Digest; mediaType: string; blobs: Digest[] } | null;
  /** Names, and when each was given: milliseconds since the epoch. */
  refs: { name: string; updated: number }[];
}

/** The file's JSON; bytes stand as base64. A line with the digest of the JSON comes before it. */
interface Json {
  config: string;
  manifest: { bytes: string; digest: Digest; mediaType: string; blobs: Digest[] } | null;
  refs: { name: string; updated: number }[];
}

const HEX = /^[0-9a-f]{64}$/;

export class ImageFiles {
  private readonly context: StoreContext;
  private readonly locks = new KeyedLock();
  /** Images whose files may not be what their rows say. */
  private readonly behind = new Set<Digest>();

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Brings the files of these images to what their rows say; durable when it returns. Throws NO_SPACE, IO_ERROR. */
  async write(imageIds: Iterable<Digest>): Promise<void> {
    const ids = new Set(imageIds);
    for (const imageId of ids) this.behind.add(imageId);
    try {
      await Promise.all([...ids].map((imageId) => this.locks.run(imageId, () => this.bring(imageId))));
    } catch (thrown) {
      throw toLayerdError(thrown);
    }
  }

  /**
   * As {@link write}, after something was taken away, and for what could not be written before: that must succeed on a
   * full disk, too. The next collection, or the next start, makes up for it.
   */
  async tidy(imageIds: Iterable<Digest>): Promise<void> {
    try {
      await this.write([...imageIds, ...this.behind]);
    } catch (thrown) {
      this.context.log.warn({ error: toLayerdError(thrown).toBody() }, 'files of images wait for the next collection');
    }
  }

  /** Compares all files with the rows, one after the other, and writes what differs; ends early by the signal. */
  async writeAll(signal: AbortSignal): Promise<void> {
    for (const imageId of await this.all()) {
      if (signal.aborted) return;
      await this.locks.run(imageId, async () => {
        if (await this.isStale(imageId)) await this.bring(imageId);
      });
    }
  }

  /** Images whose files are not what their rows say, and files without a row. */
  async stale(): Promise<Digest[]> {
    const stale: Digest[] = [];
    for (const imageId of await this.all()) if (await this.isStale(imageId)) stale.push(imageId);
    return stale;
  }

  /** Images that have a row or a file. */
  private async all(): Promise<Set<Digest>> {
    const { reader, places } = this.context;
    const names = (await namesIn(places.images)).filter((name) => HEX.test(name)).map(digestFromHex);
    return new Set([...names, ...reader.imageIds()]);
  }

  private async isStale(imageId: Digest): Promise<boolean> {
    const { reader, places } = this.context;
    const found = await readOrNull(places.image(digestHex(imageId)));
    const row = reader.imageById(imageId);
    return row === undefined ? found !== null : found?.equals(this.encode(row)) !== true;
  }

  private async bring(imageId: Digest): Promise<void> {
    const { reader, places, pool } = this.context;
    const hex = digestHex(imageId);
    const row = reader.imageById(imageId);
    if (row !== undefined) await replaceFile(places, places.image(hex), this.encode(row));
    else await pool.run('short', 'trash.move', { layers: [], snapshots: [], trees: [], blobs: [], images: [hex] });
    this.behind.delete(imageId);
  }

  private encode(row: ImageRow): Buffer {
    const { reader } = this.context;
    const { manifest, manifest_digest: digest, manifest_type: mediaType } = row;
    const blobs = reader.imageBlobs(row.id).map((blob) => blob.digest);
    const json: Json = {
      config: row.config.toString('base64'),
      manifest:
        manifest === null || digest === null || mediaType === null
          ? null
          : { bytes: manifest.toString('base64'), digest, mediaType, blobs },
      refs: reader.refRows(row.id),
    };
    const text = Buffer.from(`${JSON.stringify(json)}\n`);
    return Buffer.concat([Buffer.from(`${sha256(text)}\n`), text]);
  }
}

/** Reads the file of an image. Throws STORE_DAMAGED where it is not what was written, or of another image. */
export async function readImageFile(path: string, imageId: Digest): Promise<DescribedImage> {
  const bytes = await readFile(path);
  const line = bytes.indexOf('\n') + 1;
  const text = bytes.subarray(line);
  if (line === 0 || bytes.subarray(0, line - 1).toString() !== sha256(text)) throw damaged(path);
  const { config, manifest, refs } = JSON.parse(text.toString()) as Json;
  const described = Buffer.from(config, 'base64');
  if (sha256(described) !== imageId) throw damaged(path);
  return {
    config: described,
    manifest: manifest === null ? null : { ...manifest, bytes: Buffer.from(manifest.bytes, 'base64') },
    refs,
  };
}

async function replaceFile(places: Places, path: string, bytes: Buffer): Promise<void> {
  const part = `${path}.part`;
  try {
    await writeDurably(part, bytes);
    await rename(part, path);
  } catch (thrown) {
    await rm(part, { force: true });
    throw thrown;
  }
  await syncPaths([places.images]);
}

async function writeDurably(path: string, bytes: Buffer): Promise<void> {
  const handle = await open(path, 'w', 0o600);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function readOrNull(path: string): Promise<Buffer | null> {
  try {
    return await readFile(path);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return null;
    throw thrown;
  }
}

async function namesIn(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT')) return [];
    throw thrown;
  }
}

function damaged(path: string): LayerdError {
  return new LayerdError('STORE_DAMAGED', `${path} does not match its digest`, {
    details: { path },
    hint: 'Load the image again.',
  });
}
