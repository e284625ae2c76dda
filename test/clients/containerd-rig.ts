/** A private containerd with a private layerd as its snapshotter: both real programs, on directories of their own. */
import { spawn, type ChildProcess } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../../bench/fixtures/shell.js';
import type { DriverName } from '../../src/core/words.js';
import { mountsBelow } from '../../src/linux/mountinfo.js';
import { removeHome, TestDaemon } from '../cli/daemon.js';

/** The root of another Debian, whose containerd is to be used: it knows proxies for differs, and layerd is to be one. */
const CHROOT = process.env['LAYERD_CONTAINERD_CHROOT'] ?? null;

const DISABLED = ['snapshotter.v1.aufs', 'snapshotter.v1.btrfs', 'snapshotter.v1.devmapper', 'snapshotter.v1.zfs'];
const CRI = 'grpc.v1.cri';

export interface RigOptions {
  /** Kubernetes is to be served, with this image to hold the namespaces of pods. */
  cri?: string;
}

export class ContainerdRig {
  readonly home: string;
  private readonly args: readonly string[];
  private readonly options: RigOptions;
  private layerd: TestDaemon | null = null;
  private containerd: { child: ChildProcess; closed: Promise<unknown> } | null = null;

  private constructor(home: string, args: readonly string[], options: RigOptions) {
    this.home = home;
    this.args = args;
    this.options = options;
  }

  /** Runs `work` with both; afterwards all of it is gone. */
  static async with(
    driver: DriverName,
    work: (rig: ContainerdRig) => Promise<void>,
    options: RigOptions = {},
  ): Promise<void> {
    // short: clients that mount by a string have one page for it
    const home = mkdtempSync(join(tmpdir(), 'lc-'));
    const args = ['--driver', driver, '--containerd-address', join(home, 'c'), '--gc-grace', '0'];
    const rig = new ContainerdRig(home, args, options);
    try {
      if (CHROOT !== null) await share(home, CHROOT);
      await rig.startLayerd();
      await rig.startContainerd();
      await work(rig);
    } finally {
      await rig.stopContainerd('SIGTERM');
      await rig.stopLayerd('SIGTERM');
      if (CHROOT !== null) await unshare(home, CHROOT);
      removeHome(home);
    }
  }

  get daemon(): TestDaemon {
    if (this.layerd === null) throw new Error('layerd was stopped');
    return this.layerd;
  }

  async startLayerd(): Promise<void> {
    this.layerd = await TestDaemon.start(this.home, this.args);
  }

  async stopLayerd(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    await this.layerd?.stop(signal);
    this.layerd = null;
  }

  async startContainerd(): Promise<void> {
    const config = join(this.home, 'config.toml');
    writeFileSync(config, this.configuration());
    const [program, ...args] = there('containerd', '--config', config);
    const child = spawn(program, args, { stdio: 'ignore' });
    this.containerd = { child, closed: new Promise((resolve) => child.once('close', resolve)) };
    for (let tries = 0; !existsSync(join(this.home, 'c')); tries += 1) {
      if (tries > 600 || child.exitCode !== null) throw new Error('containerd does not start');
      await sleep(50);
    }
    await this.ctr('version');
  }

  async stopContainerd(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    if (this.containerd === null) return;
    this.containerd.child.kill(signal);
    await this.containerd.closed;
    this.containerd = null;
    // what a killed one leaves is no sign that the next is ready
    rmSync(join(this.home, 'c'), { force: true });
  }

  /** Runs ctr and gives what it printed. */
  ctr(...args: string[]): Promise<string> {
    const [program, ...rest] = there('ctr', '--address', join(this.home, 'c'), ...args);
    return run(program, rest);
  }

  async import(archive: string, namespace = 'default'): Promise<void> {
    await this.ctr('-n', namespace, 'image', 'import', '--snapshotter', 'layerd', this.visible(archive));
  }

  /** The file where containerd sees it. */
  visible(file: string): string {
    if (CHROOT === null) return file;
    const copy = join(this.home, 'visible');
    copyFileSync(file, copy);
    return copy;
  }

  /** Runs a command in a fresh container, by runc, and gives what it printed. */
  container(ref: string, id: string, ...command: string[]): Promise<string> {
    return this.ctr('run', '--rm', '--snapshotter', 'layerd', ref, id, ...command);
  }

  /** Keys of the snapshots that containerd knows. */
  async snapshots(namespace = 'default'): Promise<string[]> {
    const lines = (await this.ctr('-n', namespace, 'snapshot', '--snapshotter', 'layerd', 'ls')).trim().split('\n');
    return lines.slice(1).map((line) => line.split(/\s+/, 1)[0] ?? '');
  }

  /** Mounts a read-only view of a snapshot by the commands that containerd gives, and unmounts it after `work`. */
  async view<T>(parent: string, work: (root: string) => Promise<T>): Promise<T> {
    const target = mkdtempSync(join(this.home, 'v-'));
    const printed = await this.heldView(parent);
    const mounts = JSON.parse(printed) as { Type: string; Source: string; Options: string[] }[];
    try {
      for (const { Type: type, Source: source, Options: options } of mounts) {
        await run('mount', ['-t', type, '-o', options.join(','), source, target]);
      }
      return await work(target);
    } finally {
      await run('umount', [target]);
      rmSync(target, { recursive: true });
      await this.ctr('snapshot', '--snapshotter', 'layerd', 'rm', 'look');
    }
  }

  /** A view that containerd does not collect; it may be quicker than the label that says so. */
  private async heldView(parent: string): Promise<string> {
    for (;;) {
      const printed = await this.ctr('snapshot', '--snapshotter', 'layerd', 'view', '--mounts', 'look', parent);
      try {
        await this.ctr('snapshot', '--snapshotter', 'layerd', 'label', 'look', 'containerd.io/gc.root=test');
        return printed;
      } catch (thrown) {
        if (!String(thrown).includes('not found')) throw thrown;
      }
    }
  }

  /** Waits until all committed uppers have become layers, and are collected. */
  async converted(): Promise<void> {
    const { client } = this.daemon;
    for (let tries = 0; ; tries += 1) {
      await this.collectInContainerd();
      await client.gc({ grace: 0, wait: true });
      const { rows } = await client.diskUsage();
      // a live snapshot has the name of its space with it
      const left = rows.filter(({ kind, users }) => kind === 'snapshot' && !users.includes('containerd/layerd'));
      if (left.length === 0) return;
      if (tries === 200) throw new Error(`there are uppers left after a minute: ${JSON.stringify(left)}`);
      await sleep(200);
    }
  }

  /**
   * What ctr removed, containerd takes from its snapshotter when it collects: at once where a lease ends so. Where the
   * snapshotter was away then, it comes back to it after the next removal only.
   */
  private async collectInContainerd(): Promise<void> {
    await this.again(() => this.ctr('snapshot', '--snapshotter', 'layerd', 'prepare', 'sweep'));
    await this.ctr('snapshot', '--snapshotter', 'layerd', 'rm', 'sweep').catch(() => 'collected already');
    const lease = (await this.ctr('leases', 'create')).trim();
    await this.ctr('leases', 'delete', '--sync', lease);
  }

  /** containerd looks for a snapshotter that was away every few seconds: until then what it does fails. */
  async again<T>(work: () => Promise<T>): Promise<T> {
    for (let tries = 0; ; tries += 1) {
      try {
        return await work();
      } catch (thrown) {
        if (tries === 20 || !String(thrown).includes('unavailable')) throw thrown;
        await sleep(500);
      }
    }
  }

  /** Removes all images of a namespace, and waits until containerd has collected. */
  async removeImages(namespace = 'default'): Promise<void> {
    const refs = (await this.ctr('-n', namespace, 'image', 'ls', '-q')).trim().split('\n');
    for (const ref of refs.filter((text) => text !== '')) await this.ctr('-n', namespace, 'image', 'rm', '--sync', ref);
  }

  /** What is left in layerd when everything was removed, and what ends by itself has ended: nothing, one hopes. */
  async leftovers(): Promise<string[]> {
    for (let tries = 0; ; tries += 1) {
      await this.daemon.client.gc({ grace: 0, wait: true });
      const left = this.rooms();
      if (tries === 50 || left.length === 0) {
        const { problems } = await this.daemon.client.check();
        return [...problems.map(({ code, subject }) => `${code} ${subject}`), ...left];
      }
      await sleep(200);
    }
  }

  private rooms(): string[] {
    const rooms = ['l', 's', 't', 'b', 'trash'].flatMap((room) =>
      readdirSync(join(this.home, 'root', room)).map((name) => `${room}/${name}`),
    );
    const mounts = mountsBelow(this.home).map(({ mountPoint }) => String(mountPoint));
    return [...rooms, ...mounts.filter((path) => path !== this.home)];
  }

  private configuration(): string {
    mkdirSync(join(this.home, 'state'), { recursive: true });
    const { cri } = this.options;
    const disabled = [...DISABLED, 'internal.v1.opt', ...(cri === undefined ? [CRI] : [])];
    return `
version = 2
root = "${this.home}/containerd"
state = "${this.home}/state"
disabled_plugins = [${disabled.map((name) => `"io.containerd.${name}"`).join(', ')}]
[grpc]
  address = "${this.home}/c"
[ttrpc]
  address = "${this.home}/tt"
[proxy_plugins.layerd]
  type = "snapshot"
  address = "${this.home}/run/containerd.sock"
${CHROOT === null ? '' : this.differ()}${cri === undefined ? '' : this.kubernetes(cri)}`;
  }

  /** As README tells it, and what a machine needs that is no node of a cluster. */
  private kubernetes(sandboxImage: string): string {
    return `
[plugins."io.containerd.${CRI}"]
  sandbox_image = "${sandboxImage}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stats_collect_period = 1
  [plugins."io.containerd.${CRI}".containerd]
    snapshotter = "layerd"
    disable_snapshot_annotations = false
  [plugins."io.containerd.${CRI}".cni]
    conf_dir = "${this.home}/cni"
`;
  }

  private differ(): string {
    return `
[proxy_plugins.layerd-diff]
  type = "diff"
  address = "${this.home}/run/containerd.sock"
[plugins."io.containerd.service.v1.diff-service"]
  default = ["layerd-diff", "walking"]
`;
  }
}

/** A command line in the other root, where there is one. */
function there(program: string, ...args: string[]): [string, ...string[]] {
  return CHROOT === null ? [program, ...args] : ['chroot', CHROOT, program, ...args];
}

/** Makes `home`, and what is mounted below it from now on, visible in the other root at the same path. */
async function share(home: string, root: string): Promise<void> {
  // runc wants a root that is a mount
  await run('mount', ['--bind', root, root]);
  mkdirSync(join(root, home), { recursive: true });
  await run('mount', ['--bind', home, home]);
  await run('mount', ['--make-shared', home]);
  await run('mount', ['--rbind', home, join(root, home)]);
  for (const path of ['/proc', '/sys', '/dev']) {
    await run('mount', ['--rbind', path, join(root, path)]);
    await run('mount', ['--make-rprivate', join(root, path)]);
  }
}

async function unshare(home: string, root: string): Promise<void> {
  for (const path of ['/dev', '/sys', '/proc', home]) await run('umount', ['-R', '-l', join(root, path)]);
  rmdirSync(join(root, home));
  for (const path of [root, home]) await run('umount', ['-R', '-l', path]);
}
