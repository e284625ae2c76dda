/** Kubernetes: the CRI plugin of the real containerd with layerd as its snapshotter, asked as a kubelet asks it. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { DriverName } from '../../src/core/words.js';
import { needsFixture } from '../reference/needs.js';
import { RealRegistry } from '../registry/real-registry.js';
import { describeWith, needsProgram, needsRoot, PATIENCE } from '../support.js';
import { busyboxArchive, busyboxLayer, needsBusybox } from './busybox.js';
import { ContainerdRig } from './containerd-rig.js';
import { CriClient } from './cri-client.js';
import { SnapshotsClient } from './snapshots-client.js';

const DRIVERS = ['erofs', 'overlay2'] as const satisfies DriverName[];
const MINUTES = 60_000;
const PAUSE = 'localhost/pause:1';

const needs = [
  needsRoot(),
  needsBusybox(),
  needsProgram('containerd'),
  needsProgram('runc'),
  needsProgram('docker-registry'),
  ...needsFixture('tiny'),
];

describeWith('the CRI plugin', needs, () => {
  let registry: RealRegistry;

  beforeAll(async () => {
    registry = await RealRegistry.start();
  });
  afterAll(() => registry.stop());

  /** Brings the image that holds a pod's namespaces, and pushes one to run to the registry; its name there. */
  async function provide(rig: ContainerdRig): Promise<string> {
    const { client } = rig.daemon;
    const [pause, app] = [join(rig.home, 'pause.tar'), join(rig.home, 'app.tar')];
    busyboxArchive(pause, PAUSE, { Cmd: ['/bin/sleep', '3600'], Env: ['PATH=/bin'] });
    busyboxArchive(
      app,
      'app:1',
      { Cmd: ['sh'], Env: ['PATH=/bin'] },
      busyboxLayer((root) => mkdirSync(join(root, 'srv'))),
    );
    await rig.import(pause, 'k8s.io');
    const name = `${registry.host}/app:1`;
    await client.load(app);
    await client.push('app:1', { target: name });
    await client.removeImage('app:1');
    await client.gc({ grace: 0, wait: true });
    return name;
  }

  /** Which image the pulled snapshots belong to, as CRI's annotations tell their snapshotter. */
  async function pulledAs(rig: ContainerdRig): Promise<string[]> {
    const label = 'containerd.io/snapshot/cri.image-ref';
    const snapshots = new SnapshotsClient(join(rig.home, 'run', 'containerd.sock'));
    try {
      const found = (await snapshots.blocks([`labels."${label}"`])).flat();
      return found.map(({ labels }) => labels[label] ?? '');
    } finally {
      snapshots.close();
    }
  }

  it.each(DRIVERS)(
    'pulls, runs a pod, and leaves nothing, by %s',
    (driver) =>
      ContainerdRig.with(
        driver,
        async (rig) => {
          const name = await provide(rig);
          const logs = join(rig.home, 'logs');
          mkdirSync(logs);
          const cri = new CriClient(join(rig.home, 'c'), logs);
          try {
            const image = await cri.pull(name);
            // what the kubelet tells of the image comes with the snapshot
            expect(await pulledAs(rig)).toEqual([name]);
            const pod = await cri.runPod();
            const one = await cri.createContainer(pod, 'one', image, ['/bin/sh', '-c', 'echo up; exec sleep 3600']);
            const two = await cri.createContainer(pod, 'two', image, ['/bin/sleep', '3600']);
            await cri.start(one);
            await cri.start(two);
            const script =
              'dd if=/dev/zero of=/srv/zeros bs=64k count=16 2>/dev/null; rm /etc/group; test -e /etc/group || echo gone';
            expect(await cri.exec(one, 'sh', '-c', script)).toEqual({ exitCode: 0, stdout: 'gone\n', stderr: '' });
            expect(await cri.exec(two, 'sh', '-c', 'ls /srv /etc/group; exit 3')).toEqual({
              exitCode: 3,
              stdout: '/etc/group\n\n/srv:\n',
              stderr: '',
            });
            // containerd asks for usage every few seconds
            const written = async (): Promise<number> => (await cri.writableLayer(one))?.usedBytes?.value ?? 0;
            await expect.poll(written, { timeout: 2 * MINUTES, interval: 1_000 }).toBeGreaterThanOrEqual(1 << 20);
            const [images] = await cri.imageFileSystems();
            expect(images?.usedBytes?.value).toBeGreaterThan(1 << 20);
            expect(images?.place?.mountpoint).toContain('io.containerd.snapshotter.v1.layerd');
            await cri.removeContainer(one);
            await cri.removeContainer(two);
            await cri.removePod(pod);
            await cri.removeImage(image);
          } finally {
            // what a failure left running
            for (const pod of await cri.pods()) await cri.removePod(pod);
            cri.close();
          }
          await rig.removeImages('k8s.io');
          await expect.poll(() => rig.snapshots('k8s.io'), PATIENCE).toEqual([]);
          expect(await rig.leftovers()).toEqual([]);
        },
        { cri: PAUSE },
      ),
    6 * MINUTES,
  );
});
