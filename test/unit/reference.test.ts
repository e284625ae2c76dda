import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { fixture } from '../../bench/fixtures/fixtures.js';
import { imageRef } from '../../bench/fixtures/image.js';
import { run } from '../../bench/fixtures/shell.js';
import { withContainerd } from '../reference/containerd.js';
import { needsFixture, needsPeers, needsTreeListing } from '../reference/needs.js';
import { compareTrees, describeTree, showDifferences } from '../reference/tree.js';
import type { TreeDifference } from '../reference/tree.js';
import { withUmociUnpack } from '../reference/umoci.js';
import { describeWith, needsProgram } from '../support.js';

const MAKE = String.raw`
  mkdir directory directory/below
  echo content >file
  echo linked >link-a
  ln link-a link-b
  ln link-a directory/link-c
  ln -s file symlink
  mknod character c 1 3
  mknod block b 7 1
  mkfifo fifo
  printf x >"$(printf 'not utf-8 \377\\')"
  setfattr -n user.note -v one file
  setfattr -h -n trusted.note -v one symlink
  setfattr -n trusted.overlay.opaque -v y directory
  find . -exec touch -h -d @1700000000.123456789 {} +`;

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function isContent({ attribute }: TreeDifference): boolean {
  return attribute === 'sha256';
}

/** What is done to a copy, and what comparing must then tell: path, attribute, both sides. */
const CHANGES: Record<
  string,
  { change: string; expected: [string, string, string | undefined, string | undefined][] }
> = {
  mode: { change: 'chmod 4755 file', expected: [['file', 'mode', '0644', '4755']] },
  'mode of a directory': { change: 'chmod 1777 directory', expected: [['directory', 'mode', '0755', '1777']] },
  'mode of the root': { change: 'chmod 0700 .', expected: [['.', 'mode', '0755', '0700']] },
  uid: { change: 'chown 7 fifo', expected: [['fifo', 'uid', '0', '7']] },
  'gid of a symbolic link': { change: 'chown -h :7 symlink', expected: [['symlink', 'gid', '0', '7']] },
  'mtime by one nanosecond': {
    change: 'touch -h -d @1700000000.123456788 symlink',
    expected: [['symlink', 'mtime', '1700000000123456789', '1700000000123456788']],
  },
  'content of the same size': {
    change: 'echo Content >file; touch -d @1700000000.123456789 file',
    expected: [['file', 'sha256', sha256('content\n'), sha256('Content\n')]],
  },
  'target of a symbolic link': {
    change:
      'ln -sf fil3 symlink; setfattr -h -n trusted.note -v one symlink; touch -h -d @1700000000.123456789 symlink .',
    expected: [['symlink', 'target', 'file', 'fil3']],
  },
  'device number': {
    change: 'rm block; mknod block b 7 2; touch -d @1700000000.123456789 block .',
    expected: [['block', 'rdev', '7:1', '7:2']],
  },
  type: {
    change: 'rm character; mknod character b 1 3; touch -d @1700000000.123456789 character .',
    expected: [['character', 'type', 'character', 'block']],
  },
  'a hard link broken': {
    change: 'cp --preserve=mode,timestamps link-a new; mv new link-a; touch -d @1700000000.123456789 .',
    expected: [['link-a', 'links', 'directory/link-c', undefined]],
  },
  'value of an attribute': {
    change: 'setfattr -n user.note -v two file',
    expected: [['file', 'xattr:user.note', '6f6e65', '74776f']],
  },
  'an attribute of a symbolic link missing': {
    change: 'setfattr -h -x trusted.note symlink',
    expected: [['symlink', 'xattr:trusted.note', '6f6e65', undefined]],
  },
  'an attribute of a device more': {
    change: 'setfattr -n trusted.more -v x character',
    expected: [['character', 'xattr:trusted.more', undefined, '78']],
  },
  'an entry missing': {
    change: 'rmdir directory/below; touch -d @1700000000.123456789 directory',
    expected: [['directory/below', 'entry', 'directory', undefined]],
  },
  'an entry with a name of odd bytes more': {
    change: String.raw`: >"$(printf 'n\\\n\200')"; touch -d @1700000000.123456789 .`,
    expected: [[String.raw`n\x5c\x0a\x80`, 'entry', undefined, 'file']],
  },
  "nothing: overlay's own attributes": { change: 'setfattr -x trusted.overlay.opaque directory', expected: [] },
};

const TOOLS = [...needsTreeListing(), needsProgram('setfattr', 'attr')];

describeWith('reference: telling and comparing trees', TOOLS, () => {
  let home = '';
  beforeEach(() => {
    home = mkdtempSync(`${tmpdir()}/reference-`);
  });
  afterEach(() => {
    rmSync(home, { recursive: true, force: true });
  });
  const shell = (script: string): Promise<string> =>
    run('bash', ['-euc', `umask 022; ${script}`], { cwd: home, env: { ...process.env, LC_ALL: 'C' } });

  it.each(Object.entries(CHANGES))('sees a change of %s, and nothing else', async (_, { change, expected }) => {
    await shell(`mkdir left; cd left; ${MAKE}; cd ..; cp -a left right; cd right; ${change}`);
    const differences = compareTrees(await describeTree(`${home}/left`), await describeTree(`${home}/right`));
    expect(differences.map(({ path, attribute, left, right }) => [path, attribute, left, right])).toEqual(expected);
  });

  it('tells paths beyond 4096 bytes', async () => {
    await shell(
      `mkdir tree; cd tree; for i in {1..30}; do mkdir ${'d'.repeat(200)}; cd ${'d'.repeat(200)}; done; : >end`,
    );
    const longest = [...(await describeTree(`${home}/tree`)).keys()].at(-1) ?? '';
    expect(longest.length).toBe(30 * 201 + 'end'.length);
    await shell('find tree -delete');
  });

  it('leaves out what is to be ignored, and shows the rest in lines', async () => {
    await shell(
      'mkdir left right; echo 1 >left/a; echo 22 >right/a; touch -d @1 left/a left; touch -d @1 right/a right',
    );
    const [left, right] = [await describeTree(`${home}/left`), await describeTree(`${home}/right`)];
    expect(showDifferences(compareTrees(left, right, { ignore: isContent }))).toBe('a: size: 2 | 3');
    expect(showDifferences(compareTrees(left, right), 1)).toBe('a: size: 2 | 3\n… and 1 more');
  });

  it('fails with the reason where there is no tree', async () => {
    await expect(describeTree(`${home}/missing`)).rejects.toThrow(/FileNotFoundError/);
  });
});

describeWith('reference: images unpacked by others', [...needsPeers(), ...needsFixture('tiny')], () => {
  it('containerd and umoci agree on the tiny image but for the date of the root', async () => {
    const tiny = await fixture('tiny');
    const byContainerd = await withContainerd(async ({ unpack }) =>
      describeTree(await unpack(tiny.forms.ociArchive.path, imageRef('tiny'))),
    );
    const byUmoci = await withUmociUnpack(tiny.forms.ociLayout.path, tiny.tag, describeTree);
    expect(byContainerd.size).toBeGreaterThan(200);
    const differences = compareTrees(byContainerd, byUmoci);
    expect(differences.map(({ path, attribute }) => `${path} ${attribute}`)).toEqual(['. mtime']);
  });
});
