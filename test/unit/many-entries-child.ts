/** Stores a layer of so many entries in a process of its own, and tells what came of it: see many-entries.test.ts. */
import { mkdirSync, readdirSync } from 'node:fs';
import { createDrivers } from '../../drivers/index.js';
import { ingest } from '../../src/content/ingest.js';
import type { ByteString } from '../../src/core/bytes.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { toLayerdError } from '../../src/core/errors.js';
import { Places } from '../../src/core/places.js';
import { encodeEntry, endOfArchive } from '../../src/tar/writer.js';
import { entrySpec } from '../model/spec.js';

export interface Outcome {
  /** Null where the layer was stored. */
  error: { code: string; message: string } | null;
  /** Entries that were handed out. */
  given: number;
  /** What is left of the layer. */
  left: string[];
  /** Largest size of the process in memory. */
  maxRssBytes: number;
}

const PER_CHUNK = 2048;
const HEADER = encodeEntry({ ...entrySpec('0000/0000000' as ByteString, {}), size: 0 });
const CHECKSUM = { at: 148, end: 156 };

/** Empty files, a thousand to a directory. Made by patching one header: to encode each would take longer than all else. */
async function* manyEntries(count: number, given: { entries: number }): AsyncGenerator<Buffer> {
  const plain = HEADER.reduce((sum, byte, i) => sum + (i >= CHECKSUM.at && i < CHECKSUM.end ? 0x20 : byte), 0);
  while (given.entries < count) {
    const chunk = Buffer.alloc(Math.min(PER_CHUNK, count - given.entries) * HEADER.length);
    for (let at = 0; at < chunk.length; at += HEADER.length) {
      const digits = String(given.entries).padStart(7, '0');
      const path = `${digits.slice(0, 4)}/${digits}`;
      HEADER.copy(chunk, at);
      chunk.write(path, at, 'latin1');
      const more = Buffer.from(path).reduce((sum, byte, i) => sum + byte - HEADER.readUInt8(i), 0);
      chunk.write((plain + more).toString(8).padStart(6, '0'), at + CHECKSUM.at, 'latin1');
      given.entries += 1;
    }
    yield chunk;
  }
  yield endOfArchive();
}

async function store(root: string, count: number): Promise<Outcome> {
  const places = new Places(root, `${root}/run`);
  mkdirSync(places.layers, { recursive: true });
  const { driverOptions, limits } = DEFAULT_ENGINE_CONFIG;
  const { layers } = createDrivers(places, driverOptions)('erofs');
  const given = { entries: 0 };
  let error: Outcome['error'] = null;
  try {
    await ingest(manyEntries(count, given), layers.begin('many'), { maxEntries: limits.layerEntries });
  } catch (thrown) {
    const { code, message } = toLayerdError(thrown);
    error = { code, message };
  }
  const maxRssBytes = process.resourceUsage().maxRSS * 1024;
  return {
    error,
    given: given.entries,
    left: readdirSync(places.layers, { recursive: true, encoding: 'utf8' }).sort(),
    maxRssBytes,
  };
}

const [root = '', count = ''] = process.argv.slice(2);
process.stdout.write(JSON.stringify(await store(root, Number(count))));
