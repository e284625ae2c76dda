/** Archives made wrong on purpose, from the layout of a fixture. */
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Fixture } from '../../bench/fixtures/fixtures.js';

interface Manifest {
  config: { digest: string; size: number };
  layers: { digest: string; size: number }[];
}

/** A copy of a fixture's OCI layout that may be spoiled, in a directory of its own. */
export class Layout {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  blob(digest: string): string {
    return join(this.path, 'blobs', 'sha256', digest.slice('sha256:'.length));
  }

  /** Changes one byte of a blob and returns the digest that it has now. */
  flip(digest: string, position: number): string {
    const bytes = readFileSync(this.blob(digest));
    bytes.writeUInt8(bytes.readUInt8(position) ^ 0xff, position);
    writeFileSync(this.blob(digest), bytes);
    return sha256(bytes);
  }

  /** Has the image's config name another diff ID for a layer; config, manifest and index are right in themselves. */
  renameDiffId(found: string, wrong: string): void {
    const index = JSON.parse(readFileSync(join(this.path, 'index.json'), 'utf8')) as { manifests: Manifest['layers'] };
    const [entry] = index.manifests;
    if (entry === undefined) throw new Error('the layout has no manifest');
    const manifest = JSON.parse(readFileSync(this.blob(entry.digest), 'utf8')) as Manifest;
    const config = readFileSync(this.blob(manifest.config.digest), 'utf8').replace(found, wrong);
    Object.assign(manifest.config, this.add(config));
    Object.assign(entry, this.add(JSON.stringify(manifest)));
    writeFileSync(join(this.path, 'index.json'), JSON.stringify(index));
  }

  private add(text: string): { digest: string; size: number } {
    const digest = sha256(Buffer.from(text));
    writeFileSync(this.blob(digest), text);
    return { digest, size: Buffer.byteLength(text) };
  }
}

/** Gives `work` a copy of the fixture's layout, and a directory for archives beside it. */
export async function withLayout<T>(
  { forms }: Fixture,
  work: (layout: Layout, directory: string) => Promise<T>,
): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), 'layerd-spoilt-'));
  try {
    cpSync(forms.ociLayout.path, join(directory, 'oci'), { recursive: true });
    return await work(new Layout(join(directory, 'oci')), directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The first bytes of a file, in chunks; then `end` decides what happens. */
export async function* beginningOf(path: string, bytes: number, end: () => Promise<void>): AsyncGenerator<Buffer> {
  const file = await open(path, 'r');
  try {
    for (let position = 0; position < bytes;) {
      const chunk = Buffer.alloc(Math.min(65_536, bytes - position));
      const { bytesRead } = await file.read(chunk, 0, chunk.length, position);
      if (bytesRead === 0) break;
      position += bytesRead;
      yield chunk.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
  await end();
}

function sha256(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
