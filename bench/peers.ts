/**
 * Other engines on the same archives, and what the machine takes for the bare work. Each starts from nothing in a
 * directory of its own; what is timed is the whole request.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startDaemon } from '../examples/private-daemon.js';
import type { Fixture } from './fixtures/fixtures.js';
import { ended, run } from './fixtures/shell.js';
import { cpuMs, peakMb, timed, timedScript, type Figure } from './harness.js';

/** How the layers come: compressed, or as plain tars. */
export type Form = 'gzip' | 'plain';

/** What brings an image in. */
export interface Contender {
  name: string;
  kind: 'layerd' | 'peer' | 'floor';
  forms: readonly Form[];
  /** Programs that it needs on PATH. */
  programs: readonly string[];
  /** Everything it makes lies below `home`. */
  import(image: Fixture, form: Form, home: string): Promise<Imported>;
}

export interface Imported {
  /** The whole request. */
  ms: number;
  /** What else was measured on the way. */
  beside?: Record<string, [unit: Figure['unit'], value: number]>;
}

/** Milliseconds from the call to the answer, and nothing beside. */
async function request(work: () => Promise<unknown>): Promise<Imported> {
  return { ms: await timed(work) };
}

export function contenders(drivers: readonly string[]): Contender[] {
  return [...drivers.map(layerd), containerd, dockerd, skopeo, umoci, extraction, durableExtraction, bareWork];
}

export function archive(image: Fixture, form: Form): string {
  return form === 'gzip' ? image.forms.ociArchive.path : image.forms.dockerArchive.path;
}

function layerd(driver: string): Contender {
  return {
    name: `layerd ${driver}`,
    kind: 'layerd',
    forms: ['gzip', 'plain'],
    programs: [],
    import: async (image, form, home) => {
      const daemon = await startDaemon(home, ['--driver', driver, '--log-level', 'warn']);
      try {
        const { client, pid } = daemon;
        const before = cpuMs(pid);
        const ms = await timed(() => client.load(archive(image, form)));
        const cpu = cpuMs(pid) - before;
        const peak = peakMb(pid);
        const again = await timed(() => client.load(archive(image, form)));
        for (const { id } of await daemon.client.images()) await daemon.client.removeImage(id, { force: true });
        await daemon.client.gc({ grace: 0, wait: true });
        return {
          ms,
          beside: {
            'processor time of an import': ['ms', cpu],
            'peak memory of an import': ['MB', peak],
            'import again': ['ms', again],
          },
        };
      } finally {
        await daemon.stop();
      }
    },
  };
}

const containerd: Contender = {
  name: 'containerd (ctr image import)',
  kind: 'peer',
  forms: ['gzip'],
  programs: ['containerd', 'ctr'],
  import: (image, form, home) =>
    withContainerd(home, (socket) =>
      request(() => run('ctr', ['--address', socket, 'images', 'import', archive(image, form)])),
    ),
};

/** A private containerd with its overlay snapshotter, and whatever else `plugins` configures. */
export function withContainerd<T>(
  home: string,
  work: (socket: string) => Promise<T>,
  plugins: readonly string[] = [],
): Promise<T> {
  const config = join(home, 'config.toml');
  const socket = join(home, 's');
  const lines = [
    'version = 2',
    `root = "${home}/root"`,
    `state = "${home}/state"`,
    'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]',
    `[grpc]\n  address = "${socket}"`,
    `[ttrpc]\n  address = "${home}/t"`,
    ...plugins,
  ];
  writeFileSync(config, lines.join('\n'));
  return withServer('containerd', ['--config', config], socket, () => work(socket));
}

const dockerd: Contender = {
  name: 'dockerd (docker load)',
  kind: 'peer',
  forms: ['plain'],
  programs: ['dockerd', 'docker'],
  import: (image, form, home) => {
    const config = join(home, 'config.json');
    const socket = join(home, 's');
    writeFileSync(config, '{}');
    const flags = [
      '--config-file',
      config,
      '--host',
      `unix://${socket}`,
      '--pidfile',
      join(home, 'pid'),
      '--data-root',
      join(home, 'data'),
      '--exec-root',
      join(home, 'exec'),
      '--storage-driver',
      'overlay2',
      '--bridge',
      'none',
      '--iptables=false',
      '--ip-forward=false',
      '--ip-masq=false',
    ];
    return withServer('dockerd', flags, socket, () =>
      request(() => run('docker', ['--host', `unix://${socket}`, 'load', '--input', archive(image, form)])),
    );
  },
};

const skopeo: Contender = {
  name: 'skopeo (containers-storage)',
  kind: 'peer',
  forms: ['gzip', 'plain'],
  programs: ['skopeo'],
  import: (image, form, home) => {
    const from = `${form === 'gzip' ? 'oci-archive' : 'docker-archive'}:${archive(image, form)}`;
    const to = `containers-storage:[overlay@${home}/root+${home}/run]bench/${image.name}:1`;
    return request(() => run('skopeo', ['--insecure-policy', 'copy', '--quiet', from, to]));
  },
};

const umoci: Contender = {
  name: 'umoci (unpack)',
  kind: 'peer',
  forms: ['gzip'],
  programs: ['umoci'],
  import: (image, _form, home) =>
    request(() =>
      run('umoci', ['unpack', '--image', `${image.forms.ociLayout.path}:${image.tag}`, join(home, 'bundle')]),
    ),
};

const extraction: Contender = {
  name: 'floor: tar -x',
  kind: 'floor',
  forms: ['gzip', 'plain'],
  programs: ['bash', 'igzip', 'tar'],
  import: extractLayers,
};

const durableExtraction: Contender = {
  ...extraction,
  name: 'floor: tar -x, sync',
  import: async (image, form, home) => {
    const { ms } = await extractLayers(image, form, home);
    return { ms: ms + (await timed(() => run('sync', ['--file-system', home]))) };
  },
};

/** Each layer into a directory of its own below `home`, as it is: whiteouts are files. */
export async function extractLayers(image: Fixture, form: Form, home: string): Promise<Imported> {
  const sources = form === 'gzip' ? blobs(image).map((path) => `igzip -dc '${path}'`) : await members(image);
  const whole = { ms: 0, cpuMs: 0 };
  for (const [index, source] of sources.entries()) {
    const target = join(home, String(index));
    mkdirSync(target);
    const { ms, cpuMs: busy } = await timedScript(`${source} | tar -x --numeric-owner -p -C '${target}'`);
    whole.ms += ms;
    whole.cpuMs += busy;
  }
  return { ms: whole.ms, beside: { 'processor time of an import': ['ms', whole.cpuMs] } };
}

/**
 * All work that nobody can leave out: inflating, sha256 of blobs and tars, writing the tars durably; each by itself at its
 * best rate (of all layers at once: what each start of a program or file would add is nobody's work), together divided by
 * the cores, or the inflating of the largest layer where that is longer.
 */
const bareWork: Contender = {
  name: 'floor: inflate, hash, write',
  kind: 'floor',
  forms: ['gzip', 'plain'],
  programs: ['igzip', 'dd'],
  import: async (image, form, home) => {
    const tars = image.forms.dockerArchive.path;
    let hashing = timedDigest(tars);
    const writing = await timed(() => run('dd', [`if=${tars}`, `of=${join(home, 'tars')}`, 'bs=1M', 'conv=fdatasync']));
    let inflating = 0;
    let longest = 0;
    if (form === 'gzip') {
      const all = blobs(image);
      const largest = all.reduce((a, b) => (statSync(b).size > statSync(a).size ? b : a));
      inflating = await inflatingOf(all);
      longest = all.length > 1 ? await inflatingOf([largest]) : inflating;
      for (const blob of all) hashing += timedDigest(blob);
    }
    const ms = Math.max((hashing + writing + inflating) / availableParallelism(), longest);
    return { ms, beside: { hashing: ['ms', hashing] } };
  },
};

/** Milliseconds that one igzip takes for these files. */
function inflatingOf(files: readonly string[]): Promise<number> {
  const names = files.map((file) => `'${file}'`).join(' ');
  return timed(() => run('sh', ['-c', `igzip -dc ${names} > /dev/null`]));
}

export function blobs(image: Fixture): string[] {
  return image.layers.map(({ blobDigest }) => join(image.forms.ociLayout.path, 'blobs', blobDigest.replace(':', '/')));
}

/** Commands that print the layers of the docker-archive. */
async function members(image: Fixture): Promise<string[]> {
  const { path } = image.forms.dockerArchive;
  const [manifest] = JSON.parse(await run('tar', ['-xOf', path, 'manifest.json'])) as [{ Layers: string[] }];
  return manifest.Layers.map((name) => `tar -xOf '${path}' '${name}'`);
}

/** Milliseconds that reading the file from the page cache and hashing it take. */
function timedDigest(path: string): number {
  const started = performance.now();
  const hash = createHash('sha256');
  const piece = Buffer.allocUnsafe(1024 * 1024);
  const fd = openSync(path, 'r');
  for (let read = readSync(fd, piece); read > 0; read = readSync(fd, piece)) hash.update(piece.subarray(0, read));
  closeSync(fd);
  hash.digest();
  return performance.now() - started;
}

/** Runs `work` while a server of its own listens at `socket`. */
async function withServer<T>(program: string, flags: string[], socket: string, work: () => Promise<T>): Promise<T> {
  const server = spawn(program, flags, { stdio: ['ignore', 'ignore', 'pipe'] });
  const end = ended(server, program);
  const early = end.then(() => Promise.reject(new Error(`${program} ended by itself`)));
  early.catch(() => undefined);
  try {
    await Promise.race([listening(socket), early]);
    return await work();
  } finally {
    server.kill('SIGTERM');
    await end.catch(() => undefined);
  }
}

async function listening(socket: string): Promise<void> {
  for (const until = Date.now() + 30_000; !existsSync(socket);) {
    if (Date.now() > until) throw new Error(`nothing listens at ${socket} after 30 s`);
    await sleep(50);
  }
}
