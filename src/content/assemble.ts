import { displayBytes } from '../core/bytes.js';
import { LayerdError } from '../core/errors.js';
import type { TarEntry } from '../tar/entry.js';
import { CatalogReplay } from './catalog-replay.js';
import { readCatalog } from './catalog-file.js';
import { gathered } from './source-gather.js';
import type { ByteSource } from './source.js';

/**
 * The stored bytes of an entry, in order: of a sparse file its segments back to back. Asked for every entry that has
 * any, those that a later one replaced included. `index` counts the entries of the tar from 0.
 */
export type PayloadOf = (entry: TarEntry, index: number) => Iterable<Buffer> | AsyncIterable<Buffer>;

const CHUNK_BYTES = 256 * 1024;

/**
 * The tar of a layer again, bit for bit, from its catalog and its payloads. Throws LAYER_DAMAGED where the catalog is
 * damaged or a payload has another length than the tar says; that its bytes are right only the diff ID can tell.
 */
export function assemble(catalogPath: string, payloadOf: PayloadOf): ByteSource {
  return gathered(pieces(catalogPath, payloadOf), CHUNK_BYTES);
}

async function* pieces(catalogPath: string, payloadOf: PayloadOf): AsyncGenerator<Buffer> {
  const replay = new CatalogReplay(catalogPath);
  for await (const record of readCatalog(catalogPath)) {
    const place = replay.take(record);
    if ('raw' in record) yield record.raw;
    else if (place !== null) yield* exactly(payloadOf(place.entry, place.index), record.payload, place.entry);
  }
  replay.finish();
}

async function* exactly(
  payload: Iterable<Buffer> | AsyncIterable<Buffer>,
  size: number,
  entry: TarEntry,
): AsyncGenerator<Buffer> {
  let found = 0;
  for await (const chunk of payload) {
    found += chunk.length;
    if (found > size) break;
    yield chunk;
  }
  if (found !== size) throw wrongLength(entry, size, found);
}

function wrongLength(entry: TarEntry, expected: number, found: number): LayerdError {
  const path = displayBytes(entry.path);
  return new LayerdError(
    'LAYER_DAMAGED',
    `the stored file ${path} gives ${found > expected ? 'more than ' : ''}${Math.min(found, expected)} bytes, expected ${expected}`,
    { details: { path, expected, found }, hint: 'Load the image again: what is damaged is replaced in place.' },
  );
}
