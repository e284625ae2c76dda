/** A run directory serves one root: nobody's mounts are taken for leftovers by a daemon of another root. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { describeWith, needsRoot } from '../support.js';
import { smallImage } from './archives.js';
import { LAYERD, makeHome, removeHome, run, TestDaemon } from './daemon.js';

let home: string;
let daemon: TestDaemon | null;

beforeEach(() => {
  home = makeHome();
  daemon = null;
});
afterEach(async () => {
  await daemon?.stop('SIGKILL');
  removeHome(home);
});

/** A container that is mounted; returns its root. */
async function mountOne(): Promise<string> {
  daemon = await TestDaemon.start(home);
  const { images } = await daemon.client.load(smallImage(home, 'test/app:1', ['one']).file);
  const { id } = await daemon.client.createContainer(images[0]?.imageId ?? '');
  const { path } = await daemon.client.mount(id);
  return path;
}

/** For a daemon of another root on the same run directory. */
function other(): string[] {
  return ['--root', join(home, 'other'), '--run', join(home, 'run')];
}

describeWith('a run directory', [needsRoot()], () => {
  it('keeps its mounts when a daemon of another root is started on it', async () => {
    const path = await mountOne();
    const before = mountsBelow(join(home, 'run')).length;
    expect((await run(LAYERD, other())).stderr).toContain('RUN_IN_USE');
    expect(mountsBelow(join(home, 'run'))).toHaveLength(before);
    writeFileSync(join(path, 'still-there'), '');
  });

  it('keeps the mounts of a daemon that was stopped, and gives them back to its root', async () => {
    const path = await mountOne();
    await daemon?.stop();
    const refused = await run(LAYERD, other());
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain(`mounts of another root, ${join(home, 'root')}`);
    writeFileSync(join(path, 'still-there'), '');
    daemon = await TestDaemon.start(home);
    expect(await daemon.client.containers()).toMatchObject([{ mounts: 1, path }]);
  });

  it('is free again when the other root has no mounts there, or is gone', async () => {
    await mountOne();
    await daemon?.stop();
    rmSync(join(home, 'root'), { recursive: true });
    const next = await TestDaemon.start(home, other());
    await next.stop();
    expect(mountsBelow(join(home, 'run'))).toEqual([]);
    daemon = await TestDaemon.start(home);
    expect(await daemon.client.health()).toEqual({ ok: true, problems: [] });
  });
});
