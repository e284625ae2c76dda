import { spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LAYERCTL } from './daemon.js';

/** Tells of each script whether V8 took the bytecode that lies beside it. */
const TELL = `data:text/javascript,${encodeURIComponent(`
  import vm from 'node:vm';
  vm.Script = class extends vm.Script {
    constructor(source, options) {
      super(source, options);
      console.error('script', options.cachedData === undefined ? 'none' : this.cachedDataRejected ? 'refused' : 'taken');
    }
  };
`)}`;

function version(program: string): { version: string; scripts: Set<string> } {
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--import', TELL, program, '--version'], {
    encoding: 'utf8',
  });
  expect(status).toBe(0);
  return { version: stdout, scripts: new Set(stderr.match(/(?<=^script ).*/gm)) };
}

describe('the packed programs', () => {
  let copy: string;

  beforeEach(() => {
    // three directories deep, as they are built: they read package.json there
    copy = mkdtempSync(join(tmpdir(), 'layerd-packed-'));
    const root = fileURLToPath(new URL('../../../', import.meta.url));
    copyFileSync(join(root, 'package.json'), join(copy, 'package.json'));
    symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
    mkdirSync(join(copy, 'dist/src'), { recursive: true });
    cpSync(dirname(LAYERCTL), join(copy, 'dist/src/bin'), { recursive: true });
  });

  afterEach(() => {
    rmSync(copy, { recursive: true, force: true });
  });

  it('start with the bytecode that was kept', () => {
    const { version: told, scripts } = version(join(copy, 'dist/src/bin/layerctl.js'));
    expect(told).toMatch(/^layerctl \d/);
    expect(scripts).toEqual(new Set(['taken']));
  });

  it('start without bytecode, and with one of another V8', () => {
    const bin = join(copy, 'dist/src/bin');
    const files = readdirSync(bin).filter((name) => name.endsWith('.bytecode'));
    expect(files).not.toEqual([]);
    for (const name of files) writeFileSync(join(bin, name), 'of another V8');
    expect(version(join(bin, 'layerctl.js')).scripts).toEqual(new Set(['refused']));
    for (const name of files) rmSync(join(bin, name));
    expect(version(join(bin, 'layerctl.js')).scripts).toEqual(new Set(['none']));
  });
});
