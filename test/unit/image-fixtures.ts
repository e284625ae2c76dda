/** Images as the tools of the field make them: a busybox of a few layers, in every form they write. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { needsProgram, needsRoot, type Prerequisite } from '../support.js';

/** What {@link makeLayout} needs. */
export function needsLayoutTools(): Prerequisite[] {
  return [needsRoot(), needsProgram('umoci'), needsProgram('busybox', 'busybox-static')];
}

/** A directory of its own for a test file; removed by {@link removeScratch}. */
export function makeScratch(): string {
  return mkdtempSync(join(tmpdir(), 'layerd-image-'));
}

export function removeScratch(directory: string): void {
  rmSync(directory, { recursive: true, force: true });
}

export function run(program: string, args: string[], env: NodeJS.ProcessEnv = {}): string {
  return execFileSync(program, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
}

export function skopeo(...args: string[]): string {
  return run('skopeo', ['--insecure-policy', ...args]);
}

/** An OCI layout with two images, made by umoci: `base` of one layer, `app` of two. Gives its directory. */
export function makeLayout(scratch: string): string {
  const layout = join(scratch, 'layout');
  run('umoci', ['init', '--layout', layout]);
  run('umoci', ['new', '--image', `${layout}:base`]);
  addLayer(scratch, layout, 'base', 'base', (root) => {
    mkdirSync(join(root, 'bin'), { recursive: true });
    cpSync('/bin/busybox', join(root, 'bin', 'busybox'), { dereference: true });
    symlinkSync('busybox', join(root, 'bin', 'sh'));
  });
  addLayer(scratch, layout, 'base', 'app', (root) => {
    mkdirSync(join(root, 'srv'));
    writeFileSync(join(root, 'srv', 'index'), 'hello\n');
  });
  run('umoci', ['config', '--image', `${layout}:app`, '--config.cmd', '/bin/sh', '--config.env', 'A=b']);
  return layout;
}

function addLayer(scratch: string, layout: string, from: string, to: string, change: (root: string) => void): void {
  const bundle = join(scratch, `bundle-${to}`);
  run('umoci', ['unpack', '--image', `${layout}:${from}`, bundle]);
  change(join(bundle, 'rootfs'));
  run('umoci', ['repack', '--image', `${layout}:${to}`, bundle]);
  removeScratch(bundle);
}

/** A daemon of a tool with a store of its own; `stop` ends it. */
export interface Daemon {
  env: NodeJS.ProcessEnv;
  stop(): Promise<void>;
}

/** A private dockerd that keeps everything below `scratch`. */
export async function startDocker(scratch: string): Promise<Daemon> {
  const home = join(scratch, 'docker');
  const socket = join(home, 'docker.sock');
  mkdirSync(home);
  const args = ['--data-root', join(home, 'data'), '--exec-root', join(home, 'exec'), '--host', `unix://${socket}`];
  args.push('--pidfile', join(home, 'pid'), '--storage-driver', 'vfs');
  args.push('--bridge=none', '--iptables=false', '--ip6tables=false');
  const child = spawn('dockerd', args, { stdio: 'ignore' });
  const env = { DOCKER_HOST: `unix://${socket}`, DOCKER_BUILDKIT: '0' };
  await answering('dockerd', child, () => run('docker', ['version'], env));
  return { env, stop: () => stopped(child) };
}

/** A private containerd; `ctr` talks to it through CONTAINERD_ADDRESS. */
export async function startContainerd(scratch: string): Promise<Daemon> {
  const home = join(scratch, 'containerd');
  mkdirSync(home);
  const socket = join(home, 'containerd.sock');
  const config = [
    'version = 2',
    `root = "${join(home, 'root')}"`,
    `state = "${join(home, 'state')}"`,
    'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
    '[grpc]',
    `address = "${socket}"`,
  ];
  writeFileSync(join(home, 'config.toml'), config.join('\n'));
  const child = spawn('containerd', ['-c', join(home, 'config.toml')], { stdio: 'ignore' });
  const env = { CONTAINERD_ADDRESS: socket };
  await answering('containerd', child, () => run('ctr', ['version'], env));
  return { env, stop: () => stopped(child) };
}

async function answering(name: string, child: ChildProcess, ask: () => void): Promise<void> {
  let last: unknown;
  for (let attempt = 0; attempt < 100 && child.exitCode === null; attempt++) {
    try {
      ask();
      return;
    } catch (error) {
      last = error;
    }
    await sleep(200);
  }
  await stopped(child);
  throw new Error(`${name} does not answer`, { cause: last });
}

async function stopped(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const exited = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await exited;
}

/** podman or buildah with a store below `scratch`. */
export function podmanArgs(scratch: string): string[] {
  const home = join(scratch, 'podman');
  return ['--root', join(home, 'root'), '--runroot', join(home, 'run'), '--storage-driver', 'vfs'];
}

/** What an image of an OCI layout directory is, told without layerd. */
export interface KnownImage {
  id: string;
  diffIds: string[];
  manifest: { digest: string; bytes: Buffer };
}

/** The image `tag` of a layout, from its documents. */
export function knownImage(layout: string, tag: string): KnownImage {
  const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {
    manifests: { digest: string; annotations: Record<string, string> }[];
  };
  const found = index.manifests.find((each) => each.annotations['org.opencontainers.image.ref.name'] === tag);
  if (found === undefined) throw new Error(`${layout} has no ${tag}`);
  const bytes = readFileSync(blobFile(layout, found.digest));
  const manifest = JSON.parse(bytes.toString()) as { config: { digest: string } };
  const config = JSON.parse(readFileSync(blobFile(layout, manifest.config.digest), 'utf8')) as {
    rootfs: { diff_ids: string[] };
  };
  return { id: manifest.config.digest, diffIds: config.rootfs.diff_ids, manifest: { digest: found.digest, bytes } };
}

export function blobFile(layout: string, digest: string): string {
  const path = join(layout, 'blobs', digest.replace(':', '/'));
  if (!existsSync(path)) throw new Error(`${layout} has no blob ${digest}`);
  return path;
}
