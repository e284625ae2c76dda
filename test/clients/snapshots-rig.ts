/** A store with the door for containerd, and a client of it that mounts as containerd does. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { DriverName } from '../../src/core/words.js';
import type { Mount } from '../../src/doors/containerd/messages.js';
import { ContainerdDoor } from '../../src/doors/containerd/server.js';
import { DoorMetrics } from '../../src/doors/metrics.js';
import { peerOf } from '../../src/doors/peer.js';
import { silent, TestStore } from '../e2e/store.js';
import { SnapshotsClient } from './snapshots-client.js';

export class SnapshotsRig {
  readonly store: TestStore;
  metrics = new DoorMetrics();
  private door: ContainerdDoor | null = null;
  private connected: SnapshotsClient | null = null;

  private constructor(store: TestStore) {
    this.store = store;
  }

  static async open(driver: DriverName): Promise<SnapshotsRig> {
    const rig = new SnapshotsRig(await TestStore.open({ driver }));
    await rig.openDoor();
    return rig;
  }

  get client(): SnapshotsClient {
    if (this.connected === null) throw new Error('the door is closed');
    return this.connected;
  }

  get socket(): string {
    return join(this.store.config.run, 'containerd.sock');
  }

  async openDoor(): Promise<void> {
    const { snapshots, conversions } = this.store.engine;
    this.metrics = new DoorMetrics();
    this.door = await ContainerdDoor.open({
      at: { path: this.socket },
      gid: null,
      peerOf,
      log: silent,
      metrics: this.metrics,
      snapshots,
      conversions,
      containerd: null,
    });
    this.connected = new SnapshotsClient(this.socket);
  }

  async closeDoor(): Promise<void> {
    this.connected?.close();
    this.connected = null;
    await this.door?.close(5_000);
    this.door = null;
  }

  async remove(): Promise<void> {
    await this.closeDoor();
    await this.store.remove();
  }

  /** Mounts by mount(8), and unmounts after `work`. */
  mounted<T>(mounts: readonly Mount[], work: (root: string) => T): T {
    const target = mkdtempSync(join(this.store.home, 'mnt-'));
    for (const { type, source, options } of mounts) {
      execFileSync('mount', ['-t', type, '-o', options.join(','), source, target]);
    }
    try {
      return work(target);
    } finally {
      execFileSync('umount', [target]);
      rmSync(target, { recursive: true });
    }
  }

  /** Prepares, lets `work` write, commits. */
  async layer(name: string, parent: string, work: (root: string) => void): Promise<void> {
    this.mounted(await this.client.prepare(`${name} active`, parent), work);
    await this.client.commit(name, `${name} active`);
  }

  /** What a view of a committed snapshot shows. */
  async shown<T>(parent: string, look: (root: string) => T): Promise<T> {
    const mounts = await this.client.view('look', parent);
    try {
      return this.mounted(mounts, look);
    } finally {
      await this.client.remove('look');
    }
  }
}
