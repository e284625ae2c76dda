/** Where archives go: a file that appears when it is whole, standard output, or a directory with an OCI layout. */
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { lstat, mkdir, open, rename, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { isErrno } from '../core/errors.js';
import { UsageError } from './exit-codes.js';

/** Writes to a file or, without one, to standard output; returns the number of bytes. */
export async function writeArchive(source: AsyncIterable<Buffer>, file: string | undefined): Promise<number> {
  if (file === undefined || file === '-') return writeOut(source);
  return (await isPlain(file)) ? writeFileWhole(source, file) : writeDevice(source, file);
}

/** Throws where the archive would land on somebody's screen. */
export function refuseTerminal(file: string | undefined): void {
  if ((file === undefined || file === '-') && process.stdout.isTTY) {
    throw new UsageError(
      'an archive is not written to a terminal',
      'Name a file with -o FILE, or redirect the output.',
    );
  }
}

/** Unpacks an archive into a directory that must be empty or not there. */
export async function unpackArchive(source: AsyncIterable<Buffer>, directory: string): Promise<number> {
  const { extract } = await import('tar');
  await mkdir(directory, { recursive: true });
  const counted = new Counted(source);
  await pipeline(Readable.from(counted, { objectMode: false }), extract({ cwd: directory, strict: true }));
  return counted.bytes;
}

async function writeOut(source: AsyncIterable<Buffer>): Promise<number> {
  const counted = new Counted(source);
  for await (const chunk of counted) {
    if (!process.stdout.write(chunk)) await once(process.stdout, 'drain');
  }
  return counted.bytes;
}

/** What a failure or a crash leaves is never the file itself, half written. */
async function writeFileWhole(source: AsyncIterable<Buffer>, file: string): Promise<number> {
  const part = `${file}.${process.pid}.part`;
  const handle = await open(part, 'wx', 0o666);
  const counted = new Counted(source);
  try {
    for await (const chunk of counted) await handle.writeFile(chunk);
    await handle.close();
    await rename(part, file);
  } catch (error) {
    await handle.close().catch(() => undefined);
    await rm(part, { force: true });
    throw error;
  }
  return counted.bytes;
}

async function writeDevice(source: AsyncIterable<Buffer>, file: string): Promise<number> {
  const counted = new Counted(source);
  await pipeline(Readable.from(counted, { objectMode: false }), createWriteStream(file));
  return counted.bytes;
}

/** A regular file, or nothing yet. */
async function isPlain(file: string): Promise<boolean> {
  try {
    return (await lstat(file)).isFile();
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return true;
    throw error;
  }
}

/** Counts what passes. */
class Counted implements AsyncIterable<Buffer> {
  bytes = 0;
  private readonly source: AsyncIterable<Buffer>;

  constructor(source: AsyncIterable<Buffer>) {
    this.source = source;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    for await (const chunk of this.source) {
      this.bytes += chunk.length;
      yield chunk;
    }
  }
}
