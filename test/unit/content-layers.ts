/** Layers to store, and sinks that take them. */
import { execFileSync } from 'node:child_process';
import { chmodSync, linkSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeCatalog } from '../../src/content/catalog-file.js';
import type { LayerSink, LayerStep, LayerTree, StoredFacts } from '../../src/content/sink.js';
import type { TarEntry } from '../../src/tar/entry.js';
import { MIB, sampleBytes } from './content-samples.js';

/** Keeps what ingest() tells it, in memory, and the catalog where it is asked to. */
export class MemorySink implements LayerSink {
  readonly driver = 'copy';
  readonly calls: string[] = [];
  readonly entries: TarEntry[] = [];
  readonly steps: LayerStep[] = [];
  /** Stored payloads by index of their entry. */
  readonly payloads = new Map<number, Buffer[]>();
  readonly tar: Buffer[] = [];
  tree: LayerTree | null = null;
  catalog: Buffer = Buffer.alloc(0);
  private readonly catalogPath: string | null;

  constructor(catalogPath: string | null = null) {
    this.catalogPath = catalogPath;
  }

  bytes(chunk: Buffer): Promise<void> | undefined {
    this.tar.push(Buffer.from(chunk));
    return undefined;
  }

  step(step: LayerStep, entry: TarEntry): void {
    this.calls.push(`step ${entry.path}`);
    this.entries.push(entry);
    this.steps.push(step);
  }

  payload(chunk: Buffer): void {
    const index = this.entries.length - 1;
    const parts = this.payloads.get(index);
    if (parts === undefined) {
      this.calls.push('payload');
      this.payloads.set(index, [Buffer.from(chunk)]);
    } else {
      parts.push(Buffer.from(chunk));
    }
  }

  payloadEnd(): void {
    this.calls.push('payloadEnd');
  }

  async commit(tree: LayerTree, catalog: readonly Buffer[]): Promise<void> {
    this.calls.push('commit');
    this.tree = tree;
    this.catalog = Buffer.concat(catalog);
    if (this.catalogPath !== null) writeCatalog(this.catalogPath, catalog);
  }

  async settle(): Promise<StoredFacts> {
    this.calls.push('settle');
    return { disk: this.catalog.length, inodes: 1 };
  }

  async abort(): Promise<void> {
    this.calls.push('abort');
  }
}

/** A directory tree with what a layer can hold that needs no privileges. */
export function makeTree(directory: string): void {
  mkdirSync(join(directory, 'etc/deep/er'), { recursive: true });
  writeFileSync(join(directory, 'etc/empty'), '');
  writeFileSync(join(directory, 'etc/one'), 'x');
  writeFileSync(join(directory, 'etc/block'), sampleBytes(512));
  writeFileSync(join(directory, 'etc/deep/big'), sampleBytes(3 * MIB + 77));
  writeFileSync(Buffer.concat([Buffer.from(join(directory, 'etc/')), Buffer.from([0xff, 0xfe, 0x2e])]), 'not UTF-8');
  writeFileSync(join(directory, 'etc', 'n'.repeat(250)), 'a long name');
  symlinkSync('deep/big', join(directory, 'etc/link'));
  linkSync(join(directory, 'etc/one'), join(directory, 'etc/two'));
  chmodSync(join(directory, 'etc/one'), 0o4755);
  for (let i = 0; i < 300; i++) writeFileSync(join(directory, `etc/deep/er/file${i}`), sampleBytes(i * 7, i + 1));
  writeFileSync(join(directory, 'etc/sparse'), sampleBytes(100_000));
  truncateSync(join(directory, 'etc/sparse'), 3 * MIB);
  execFileSync(
    'dd',
    ['if=/dev/zero', `of=${join(directory, 'etc/sparse')}`, 'bs=1', 'seek=2000000', 'count=5', 'conv=notrunc'],
    {
      stdio: 'ignore',
    },
  );
}

/** The tar that a program makes of a directory. */
export function tarBy(program: 'tar' | 'bsdtar', directory: string, ...args: string[]): Buffer {
  return execFileSync(program, [...args, '-cf', '-', '-C', directory, '.'], { maxBuffer: 128 * MIB });
}
