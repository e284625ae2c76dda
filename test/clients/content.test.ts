/** A containerd that stands still in the middle of a blob: who asked is told, and nothing stays behind. */
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { sha256 } from '../../src/core/digest.js';
import { makeHome, removeHome, TestDaemon } from '../cli/daemon.js';
import { describeWith, needsRoot } from '../support.js';
import { testLayer } from '../unit/image-synthetic.js';
import { ContentServer } from './content-server.js';
import { DiffClient } from './diff-client.js';
import { SnapshotsClient } from './snapshots-client.js';

describeWith('a content store that stands still', [needsRoot()], () => {
  it('is given up after http.stall_timeout', async () => {
    const home = makeHome();
    const address = join(home, 'content.sock');
    const { blob: whole } = testLayer('whole', true);
    const half = whole.subarray(0, whole.length / 2);
    const blobs = [whole, half];
    const halting = new Set<string>([sha256(half)]);
    const content = await ContentServer.start(
      address,
      new Map(blobs.map((blob) => [sha256(blob) as string, blob])),
      halting,
    );
    const daemon = await TestDaemon.start(home, ['--containerd-address', address, '--http-stall-timeout', '500ms']);
    const socket = join(home, 'run', 'containerd.sock');
    const [snapshots, differ] = [new SnapshotsClient(socket), new DiffClient(socket)];
    try {
      const mounts = await snapshots.prepare('default/1/extract');
      const descriptor = (blob: Buffer) => ({
        mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
        digest: sha256(blob),
        size: blob.length,
        annotations: {},
      });
      await expect(differ.apply(descriptor(half), mounts)).rejects.toThrow(/stood still for 500 ms/);
      await differ.apply(descriptor(whole), mounts);
      await snapshots.commit('default/2/done', 'default/1/extract');
      await snapshots.remove('default/2/done');
      await daemon.client.gc({ grace: 0, wait: true });
      expect((await daemon.client.check()).problems).toEqual([]);
      expect((await daemon.client.info()).counts).toMatchObject({ layers: 0, leases: 0 });
    } finally {
      snapshots.close();
      differ.close();
      content.close();
      await daemon.stop();
      removeHome(home);
    }
  });
});
