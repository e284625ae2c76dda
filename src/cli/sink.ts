/** Where archives go: a file that appears when it is whole, standard output, or a directory with an OCI layout. */
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { lstat, open, readdir, rename, rm } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { isErrno, LayerdError } from '../core/errors.js';
import { UsageError } from './exit-codes.js';
import { makeDirectory, writingTo } from './files.js';

/** Told how many bytes have been written so far. */
export type OnBytes = (bytes: number) => void;

/** Writes to a file or, without one, to standard output; returns the number of bytes. */
export async function writeArchive(
  source: AsyncIterable<Buffer>,
  file: string | undefined,
  onBytes?: OnBytes,
): Promise<number> {
  const counted = new Counted(source, onBytes);
  if (file === undefined || file === '-') await writeOut(counted);
  else await writingTo(file, () => writeFile(counted, file));
  return counted.bytes;
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
export async function unpackArchive(
  source: AsyncIterable<Buffer>,
  directory: string,
  onBytes?: OnBytes,
): Promise<number> {
  const { extract } = await import('tar');
  await makeDirectory(directory);
  if ((await readdir(directory)).length > 0) {
    throw new LayerdError('INVALID_ARGUMENT', `${directory} is not empty`, {
      details: { directory },
      hint: 'Name a directory that is empty or not there: what a layout holds is not mixed with another.',
    });
  }
  const counted = new Counted(source, onBytes);
  await writingTo(directory, () =>
    pipeline(Readable.from(counted, { objectMode: false }), extract({ cwd: directory, strict: true })),
  );
  return counted.bytes;
}

/** What is no regular file (a pipe, a device) is written to as it stands. */
async function writeFile(source: AsyncIterable<Buffer>, file: string): Promise<void> {
  if (await isPlain(file)) await writeFileWhole(source, file);
  else await pipeline(Readable.from(source, { objectMode: false }), createWriteStream(file));
}

async function writeOut(source: AsyncIterable<Buffer>): Promise<void> {
  for await (const chunk of source) {
    if (!process.stdout.write(chunk)) await once(process.stdout, 'drain');
  }
}

/** What a failure or a crash leaves is never the file itself, half written. */
async function writeFileWhole(source: AsyncIterable<Buffer>, file: string): Promise<void> {
  const part = `${file}.${process.pid}.part`;
  const handle = await open(part, 'wx', 0o666);
  try {
    for await (const chunk of source) await handle.writeFile(chunk);
    await handle.close();
    await rename(part, file);
  } catch (error) {
    await handle.close().catch(() => undefined);
    await rm(part, { force: true });
    throw error;
  }
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
  private readonly onBytes: OnBytes | undefined;

  constructor(source: AsyncIterable<Buffer>, onBytes: OnBytes | undefined) {
    this.source = source;
    this.onBytes = onBytes;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    for await (const chunk of this.source) {
      this.bytes += chunk.length;
      this.onBytes?.(this.bytes);
      yield chunk;
    }
  }
}
