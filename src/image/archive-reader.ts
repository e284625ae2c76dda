/**
 * Reading image archives: docker-archives (docker save, old form and new) and OCI layouts, from a file, a directory or
 * a stream, plain or compressed. Every layer of the images asked for is stored when `readArchive` resolves.
 */
import { setMaxListeners } from 'node:events';
import { type FileHandle, readlink } from 'node:fs/promises';
import { inflate, openCompressed } from '../content/compression.js';
import { detectCompression, MAGIC_BYTES } from '../content/compression-magic.js';
import { pipeSource } from '../content/pipe-source.js';
import type { ByteSource } from '../content/source.js';
import { abortable } from '../content/source-abort.js';
import type { ArchiveInput, LoadOptions } from '../core/api.js';
import { displayBytes } from '../core/bytes.js';
import type { Digest } from '../core/digest.js';
import { isErrno, LayerdError } from '../core/errors.js';
import { DirectoryMembers } from './archive-directory.js';
import { FileMembers } from './archive-file.js';
import { StreamMembers } from './archive-stream.js';
import type { ArchiveHost, ParsedImage } from './host.js';
import {
  type ArchiveMembers,
  blobDigestOf,
  type ObtainedLayer,
  type Origin,
  throwIfCancelled,
  type WantedLayer,
} from './members.js';
import { baseNameOf } from './names.js';
import { OpenFile, openToRead } from './open-file.js';
import { type PlannedImage, type PlannedLayer, planImages } from './plan.js';

/**
 * Has the layers of an archive's images stored and tells the images. Throws before anything is visible: ARCHIVE_INVALID,
 * ARCHIVE_TRUNCATED, ARCHIVE_INCOMPLETE, ARCHIVE_LIMIT, MANIFEST_INVALID, PLATFORM_NOT_FOUND, BLOB_DIGEST_MISMATCH,
 * DIFF_ID_MISMATCH, and what the host throws.
 */
export function readArchive(
  input: ArchiveInput,
  host: ArchiveHost,
  options: LoadOptions,
  signal: AbortSignal,
): Promise<ParsedImage[]> {
  const reading: Reading = { host, options, signal };
  return 'stream' in input ? readStream(input.stream, NAMELESS, reading) : readPath(input.path, reading);
}

/** How an archive, or what is like one, is read. */
export interface Reading {
  host: ArchiveHost;
  options: LoadOptions;
  signal: AbortSignal;
}

const NAMELESS: Origin = { label: 'the archive', baseName: null };

async function readPath(path: string, reading: Reading): Promise<ParsedImage[]> {
  const handle = await openArchive(path);
  try {
    const label = await labelOf(path);
    const origin = { label, baseName: baseNameOf(label) };
    const stat = await handle.stat();
    if (stat.isDirectory()) {
      return await readMembers(new DirectoryMembers(handle, path, origin, reading.host), reading);
    }
    if (stat.isFIFO()) return await readStream(pipeSource(handle), { label, baseName: null }, reading);
    return await readFile(await OpenFile.of(handle, label, path), origin, reading);
  } finally {
    await handle.close();
  }
}

async function openArchive(path: string): Promise<FileHandle> {
  try {
    return await openToRead(path);
  } catch (error) {
    if (!isErrno(error, 'ENOENT', 'ENOTDIR')) throw error;
    throw new LayerdError('INVALID_ARGUMENT', `there is no archive ${path}`, {
      details: { path },
      hint: 'The daemon opens the path itself: it must be absolute, and visible to the daemon.',
      cause: error,
    });
  }
}

/** What a client's descriptor (/proc/PID/fd/N) leads to says more than its number. */
async function labelOf(path: string): Promise<string> {
  if (!/^\/proc\/[^/]+\/fd\/\d+$/.test(path)) return path;
  const target = await readlink(path);
  return target.startsWith('/') ? target : path;
}

async function readFile(file: OpenFile, origin: Origin, reading: Reading): Promise<ParsedImage[]> {
  const head = await file.read(0, Math.min(MAGIC_BYTES, file.size));
  const compression = await ofArchive(origin, () => Promise.resolve(detectCompression(head)));
  if (compression !== 'none') return await readStream(file.stream(), origin, reading);
  return await readMembers(await FileMembers.index(file, origin, reading.host, reading.signal), reading);
}

async function readStream(source: ByteSource, origin: Origin, reading: Reading): Promise<ParsedImage[]> {
  // A stream may stall for as long as it likes: the signal must end the wait for its next bytes.
  const bytes = abortable(source, reading.signal);
  const { compression, source: whole } = await ofArchive(origin, () => openCompressed(bytes));
  const members = await StreamMembers.read(inflate(whole, compression), origin, reading.host, reading.signal);
  const images = await readMembers(members, reading);
  for (const path of members.unwanted()) reading.host.notice(`no image of the archive needs ${displayBytes(path)}`);
  return images;
}

/** What is said of a layer's compression, said of the archive. */
async function ofArchive<T>({ label }: Origin, detect: () => Promise<T>): Promise<T> {
  try {
    return await detect();
  } catch (error) {
    if (!(error instanceof LayerdError) || error.code !== 'COMPRESSION_UNSUPPORTED') throw error;
    throw new LayerdError(error.code, `${label} is compressed with ${String(error.details['compression'])}`, {
      details: { ...error.details, archive: label },
      hint: 'Archives may be plain, or compressed with gzip or zstd: unpack it first.',
      cause: error,
    });
  }
}

/** As readArchive, for members that are there already. */
export async function readMembers(members: ArchiveMembers, reading: Reading): Promise<ParsedImage[]> {
  const { host, options, signal } = reading;
  try {
    const planned = await planImages(members, options, (text) => host.notice(text));
    const layers = planned.flatMap((image) => image.layers);
    const stored = await obtainLayers(layers, members, signal);
    return planned.map((image) => parsedImage(image, stored));
  } catch (error) {
    throw members.ended ? error : perhapsCutOff(members.origin.label, error);
  }
}

/** What a tar without an end marker lacks may have been behind its end. */
function perhapsCutOff(label: string, error: unknown): unknown {
  if (!(error instanceof LayerdError) || error.code !== 'ARCHIVE_INCOMPLETE') return error;
  return new LayerdError('ARCHIVE_TRUNCATED', `${error.message}; ${label} has no end marker`, {
    details: error.details,
    hint: 'The archive seems to be cut off: make or fetch it again.',
    cause: error,
  });
}

function parsedImage(image: PlannedImage, stored: ReadonlyMap<Digest, ObtainedLayer>): ParsedImage {
  const layers = image.layers.flatMap(({ diffId, descriptor }) => {
    const layer = stored.get(diffId);
    if (layer === undefined) return [];
    const { size, present } = layer;
    const mediaType = descriptor?.mediaType ?? null;
    return [{ diffId, blobDigest: descriptor?.digest ?? layer.blobDigest, mediaType, present, size }];
  });
  return { ...image, layers, platform: image.config.parsed.platform };
}

/**
 * The host limits how many layers are worked on; this limits how many files are open for it. It sees all layers of nearly
 * every image at once, and can do the small ones together.
 */
const LAYERS_AT_ONCE = 128;

/** Has every layer stored, each diff ID once. The first failure stops the others; none is left running. */
async function obtainLayers(
  planned: readonly PlannedLayer[],
  members: ArchiveMembers,
  signal: AbortSignal,
): Promise<Map<Digest, ObtainedLayer>> {
  const stored = new Map<Digest, ObtainedLayer>();
  const queue = new Map(planned.map((layer) => [layer.diffId, layer])).values();
  const abort = new AbortController();
  const either = AbortSignal.any([signal, abort.signal]);
  // each layer that is worked on listens
  setMaxListeners(0, either);
  const work = async (): Promise<void> => {
    for (const layer of queue) {
      throwIfCancelled(either);
      stored.set(layer.diffId, await members.layer(layer.member, wantedLayer(layer), either));
    }
  };
  const workers = Array.from({ length: LAYERS_AT_ONCE }, async () => {
    try {
      await work();
    } catch (error) {
      abort.abort(error);
      throw error;
    }
  });
  await Promise.allSettled(workers);
  // The reason is the first failure: those that it stopped failed after it.
  if (abort.signal.aborted) throw abort.signal.reason;
  return stored;
}

function wantedLayer({ diffId, member, descriptor }: PlannedLayer): WantedLayer {
  const name = displayBytes(member);
  if (descriptor !== null) {
    return { name, diffId, blobDigest: descriptor.digest, mediaType: descriptor.mediaType, size: descriptor.size };
  }
  const blobDigest = blobDigestOf(member);
  return { name, diffId, ...(blobDigest === null ? {} : { blobDigest }) };
}
