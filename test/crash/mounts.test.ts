/** Containers that others hold on to: with mounts of theirs inside, in mount namespaces of theirs, with living processes. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { run } from '../../bench/fixtures/shell.js';
import { TESTED_DRIVERS, withStore, type TestStore } from '../e2e/store.js';
import { describeWith, needsRoot } from '../support.js';
import { LOWER, REF, writeCrashImage } from './image.js';

/** Runs `work` on a mounted container of the image. */
function withContainer(
  driver: (typeof TESTED_DRIVERS)[number],
  work: (store: TestStore, root: string) => Promise<void>,
) {
  return withStore({ driver }, async (store) => {
    const archive = join(store.home, 'image.tar');
    writeCrashImage(archive);
    await store.load(archive);
    await work(store, await store.container(REF, 'held'));
  });
}

/** Starts a program that says when it runs, and ends it behind `work`. */
async function during(
  command: string,
  args: readonly string[],
  work: (child: ChildProcess) => Promise<void>,
): Promise<void> {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    await once(child.stdout, 'data');
    await work(child);
  } finally {
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
  }
}

describeWith('containers that are held', [needsRoot()], () => {
  describe.each(TESTED_DRIVERS)('%s', (driver) => {
    it('a removal does not cross a mount that somebody made inside', () =>
      withContainer(driver, async (store, root) => {
        const theirs = join(store.home, 'theirs');
        mkdirSync(theirs);
        writeFileSync(join(theirs, 'kept'), 'not ours to remove');
        await run('mount', ['--bind', theirs, join(root, 'etc')]);
        await store.engine.removeContainer('held', { force: true });
        await store.collect();
        expect(readFileSync(join(theirs, 'kept'), 'utf8')).toBe('not ours to remove');
        expect([...store.engine.containers()]).toEqual([]);
      }));

    it('a mount that was copied into another namespace holds up nobody', () =>
      withContainer(driver, async (store, root) => {
        const script = 'echo ready; read line';
        await during('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script], async (child) => {
          const theirs = `/proc/${child.pid}/root${root}`;
          expect(readFileSync(join(theirs, 'etc/lower'), 'utf8')).toBe(LOWER);
          await store.engine.unmount('held', {});
          expect(existsSync(join(root, 'etc/lower'))).toBe(false);
          await store.removeAll();
          expect([...store.engine.layers()]).toEqual([]);
        });
        await store.collect();
        expect(await store.problems()).toEqual([]);
      }));

    it('a living process is named by what it refuses, and the container stays whole', () =>
      withContainer(driver, async (store, root) => {
        await during('sh', ['-c', `cd ${root}/etc; echo ready; read line`], async (child) => {
          await expect(store.engine.unmount('held', {})).rejects.toMatchObject({
            code: 'MOUNT_BUSY',
            message: expect.stringContaining(String(child.pid)) as unknown,
          });
          expect(readFileSync(join(root, 'etc/lower'), 'utf8')).toBe(LOWER);
        });
        await store.engine.unmount('held', {});
        expect(await store.problems()).toEqual([]);
      }));
  });
});
