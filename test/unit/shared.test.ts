import { constants, copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { countedTwice } from '../../src/disk/shared.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';

const MB = 1 << 20;

describeWith('blocks shared by reflink', [needsRoot(), needsProgram('mkfs.xfs', 'xfsprogs')], () => {
  let directory = '';
  let mounted = '';

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'layerd-shared-'));
    const image = join(directory, 'image');
    mounted = join(directory, 'mounted');
    mkdirSync(mounted);
    execFileSync('truncate', ['-s', '400M', image]);
    execFileSync('mkfs.xfs', ['-q', '-m', 'reflink=1', image]);
    execFileSync('mount', ['-o', 'loop', image, mounted]);
  });

  afterAll(() => {
    execFileSync('umount', [mounted]);
    rmSync(directory, { recursive: true });
  });

  it('counts what several files have, less what it occupies', () => {
    const [a, b] = [join(mounted, 'a'), join(mounted, 'b')];
    mkdirSync(a);
    mkdirSync(b);
    writeFileSync(join(a, 'one'), randomBytes(8 * MB));
    execFileSync('sync', ['-f', a]);
    expect(countedTwice([a, b])).toBe(0);
    copyFileSync(join(a, 'one'), join(b, 'clone'), constants.COPYFILE_FICLONE_FORCE);
    copyFileSync(join(a, 'one'), join(b, 'another'), constants.COPYFILE_FICLONE_FORCE);
    expect(countedTwice([a, b])).toBe(16 * MB);
    // A clone that is alone below the directories that are asked for is counted once.
    expect(countedTwice([a])).toBe(0);
    expect(countedTwice([join(mounted, 'missing')])).toBe(0);
  });
});
