import { execFileSync } from 'node:child_process';
import { constants, mkdtempSync, rmSync } from 'node:fs';
import { open, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readArchive } from '../../src/image/archive-reader.js';
import { MemoryHost } from './image-host.js';
import { descriptor, layoutMembers, tarOf, testImage, testLayer } from './image-synthetic.js';

const MACHINE = process.arch === 'arm64' ? 'arm64' : 'amd64';
const IMAGE = testImage([testLayer('what comes through a pipe')], MACHINE);
const ARCHIVE = tarOf(layoutMembers([IMAGE], [descriptor(IMAGE.manifest)]));

let scratch = '';
let pipe = '';
beforeEach(() => {
  scratch = mkdtempSync(join(tmpdir(), 'layerd-pipe-'));
  pipe = join(scratch, 'pipe');
  execFileSync('mkfifo', [pipe]);
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));

async function idsOf(path: string, signal = new AbortController().signal): Promise<string[]> {
  return (await readArchive({ path }, new MemoryHost(), {}, signal)).map(({ config }) => config.digest);
}

describe('an archive that is read from a pipe', () => {
  it('is written while it is read', async () => {
    const writing = writeFile(pipe, ARCHIVE);
    expect(await idsOf(pipe)).toEqual([IMAGE.id]);
    await writing;
  });

  it('has a writer who is slow to come, and slow', async () => {
    const reading = idsOf(pipe);
    await setTimeout(30);
    const handle = await open(pipe, 'w');
    for (let at = 0; at < ARCHIVE.length; at += 3000) {
      await setTimeout(10);
      await handle.writeFile(ARCHIVE.subarray(at, at + 3000));
    }
    await handle.close();
    expect(await reading).toEqual([IMAGE.id]);
  });

  it('has a writer who has gone already', async () => {
    const reader = await open(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
    await writeFile(pipe, ARCHIVE);
    expect(await idsOf(`/proc/self/fd/${reader.fd}`)).toEqual([IMAGE.id]);
    await reader.close();
  });

  it('has no writer, and is given up', async () => {
    const stop = new AbortController();
    const reading = idsOf(pipe, stop.signal);
    await setTimeout(30);
    stop.abort();
    await expect(reading).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});
