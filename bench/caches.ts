/** Reading from cold and from warm: whole trees, walks, and programs that start. */
import { writeFileSync } from 'node:fs';
import { run } from './fixtures/shell.js';
import { timedScript, type ScriptTime } from './harness.js';

const MODULES = 'json, ssl, asyncio, argparse, decimal, email, http.client, logging, sqlite3, unittest';

/** Programs of the fixtures that a container might start. */
export const START_PROGRAMS = [
  { name: 'node', path: 'usr/bin/node', args: ['node', '-e', '0'] },
  { name: 'busybox', path: 'bin/busybox', args: ['/bin/busybox', 'true'] },
  { name: 'python', path: 'usr/bin/python3', args: ['python3', '-c', `import ${MODULES}`] },
] as const;

/** Drops every clean page, name and inode of the machine. Needs root. */
export async function dropCaches(): Promise<void> {
  await run('sync', []);
  writeFileSync('/proc/sys/vm/drop_caches', '3');
  // What measures is read again before it measures.
  await readTree('/etc/apt');
  await startIn('/', ['true']);
}

/** Runs a program in this root to its end. */
export function startIn(root: string, args: readonly string[]): Promise<ScriptTime> {
  return timedScript('chroot "$@" > /dev/null', [root, ...args]);
}

/** Reads every byte of every file. */
export function readTree(root: string): Promise<ScriptTime> {
  return readTrees([root]);
}

/** Reads every byte of every file of several trees, one after the other. */
export function readTrees(roots: readonly string[]): Promise<ScriptTime> {
  return timedScript(
    'for root; do (cd "$root" && find . -xdev -type f -print0 | xargs -0 -r cat > /dev/null) || exit; done',
    roots,
  );
}

/** Looks at every inode. */
export function walkTree(root: string): Promise<ScriptTime> {
  return timedScript("find . -xdev -printf '%s' > /dev/null", [], root);
}

/** Bytes of these files that are in the page cache; of a directory those of all files below it. */
export async function cachedBytes(paths: readonly string[]): Promise<number> {
  const script = 'find "$@" -xdev -type f -print0 | xargs -0 -r fincore --bytes --noheadings --output RES';
  const lines = (await run('sh', ['-c', script, 'sh', ...paths])).trim().split('\n');
  return lines.reduce((sum, line) => sum + Number(line), 0);
}
