import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { run } from '../../bench/fixtures/shell.js';

/** Has umoci unpack an image of an OCI layout, gives its root directory to `work`, and removes it. Needs root. */
export async function withUmociUnpack<T>(layout: string, tag: string, work: (root: string) => Promise<T>): Promise<T> {
  const home = mkdtempSync(`${tmpdir()}/umoci-`);
  try {
    await run('umoci', ['unpack', '--image', `${layout}:${tag}`, `${home}/bundle`]);
    return await work(`${home}/bundle/rootfs`);
  } finally {
    rmSync(home, { recursive: true, force: true });
  }
}
