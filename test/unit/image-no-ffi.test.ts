import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MemoryHost } from './image-host.js';
import { descriptor, layoutMembers, named, testImage, testLayer, writeMembers } from './image-synthetic.js';

// Before anything binds the system calls; this file's process runs nothing else.
process.env['LAYERD_NO_FFI'] = '1';
const { readArchive } = await import('../../src/image/archive-reader.js');
const { linuxAvailable } = await import('../../src/linux/libc.js');

const APP = testImage([testLayer('base'), testLayer('top')]);
const signal = new AbortController().signal;

describe('a directory without the system calls of Linux', () => {
  let directory = '';
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'layerd-no-ffi-'));
    writeMembers(directory, layoutMembers([APP], [descriptor(APP.manifest, named('app:1'))]));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it('is read as an OCI layout', async () => {
    expect(linuxAvailable().available).toBe(false);
    const [image] = await readArchive({ path: directory }, new MemoryHost(), {}, signal);
    expect(image).toMatchObject({ config: { digest: APP.id }, refs: ['docker.io/library/app:1'] });
  });

  it('is not left through a link', async () => {
    const index = join(directory, 'index.json');
    rmSync(index);
    symlinkSync('/etc/hostname', index);
    const reading = readArchive({ path: directory }, new MemoryHost(), {}, signal);
    await expect(reading).rejects.toMatchObject({ code: 'ARCHIVE_INVALID' });
  });
});
