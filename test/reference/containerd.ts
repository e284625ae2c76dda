import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { ended, run } from '../../bench/fixtures/shell.js';

/** A private containerd with its overlayfs snapshotter. */
export interface Containerd {
  /** its socket, for `ctr --address` and gRPC clients */
  address: string;
  /** Runs `ctr` against it and gives what it printed. */
  ctr: (...args: string[]) => Promise<string>;
  /**
   * Imports the OCI archive, which must carry one image with the name `ref`, unpacks it and gives the path of a
   * read-only mount of its root. The mount goes when the daemon goes.
   */
  unpack: (archive: string, ref: string) => Promise<string>;
}

/** Starts a containerd that shares nothing with one of the system, and removes all of it after `work`. */
export async function withContainerd<T>(work: (containerd: Containerd) => Promise<T>): Promise<T> {
  // a short name: overlay's mount options take one page
  const home = mkdtempSync(`${tmpdir()}/ctd-`);
  const mounts: string[] = [];
  const daemon = await startContainerd(home, `${home}/root`);
  const { ctr } = daemon;
  try {
    return await work({
      address: address(home),
      ctr,
      unpack: async (archive, ref) => {
        const target = `${home}/mount-${mounts.length}`;
        mkdirSync(target);
        await ctr('images', 'import', '--snapshotter', 'overlayfs', archive);
        await ctr('images', 'mount', '--snapshotter', 'overlayfs', ref, target);
        mounts.push(target);
        return target;
      },
    });
  } finally {
    for (const target of mounts) await run('umount', [target]);
    await daemon.stop('SIGTERM');
    rmSync(home, { recursive: true, force: true });
  }
}

/** A containerd that runs. */
export interface ContainerdProcess {
  ctr: Containerd['ctr'];
  stop: (signal: 'SIGTERM' | 'SIGKILL') => Promise<void>;
}

/** Starts a containerd with its store in `root` and all else in `home`, and waits until it answers. */
export async function startContainerd(
  home: string,
  root: string,
  environment: Readonly<Record<string, string>> = {},
): Promise<ContainerdProcess> {
  const daemon = spawn('containerd', ['--config', writeConfig(home, root)], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...environment },
  });
  const end = ended(daemon, 'containerd');
  end.catch(() => {
    // told by whoever awaits it: the start below, or stop()
  });
  const ctr = (...args: string[]): Promise<string> => run('ctr', ['--address', address(home), ...args]);
  const stop = (signal: 'SIGTERM' | 'SIGKILL'): Promise<void> => {
    daemon.kill(signal);
    return signal === 'SIGTERM' ? end : end.catch(() => undefined);
  };
  try {
    await Promise.race([ready(home, ctr), end.then(() => Promise.reject(new Error('containerd ended by itself')))]);
    return { ctr, stop };
  } catch (thrown) {
    await stop('SIGKILL');
    throw thrown;
  }
}

function address(home: string): string {
  return `${home}/s`;
}

/** Only what unpacking needs: no CRI, no other snapshotter, no metrics, nothing of /etc. */
function writeConfig(home: string, root: string): string {
  const config = `
version = 2
root = "${root}"
state = "${home}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
]
[grpc]
  address = "${address(home)}"
[ttrpc]
  address = "${home}/t"
`;
  writeFileSync(`${home}/config.toml`, config);
  return `${home}/config.toml`;
}

async function ready(home: string, ctr: Containerd['ctr']): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!existsSync(address(home))) {
    if (Date.now() > deadline) throw new Error(`containerd did not open ${address(home)} within 30 s`);
    await sleep(50);
  }
  // not `version`: that makes a file with an id, which containerd does not sync, and reads no more when it came to be empty
  await ctr('namespaces', 'ls');
}
