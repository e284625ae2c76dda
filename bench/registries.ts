/**
 * node dist/bench/registries.js [--fixture debian-node] [--runs 3] [--driver erofs] [--json FILE]
 * Pull and push from and to docker-registry on loopback: layerd beside containerd (ctr) and Docker, in turns, each from
 * nothing in a directory of its own, and beside curl as the floor. Needs root, and docker-registry, skopeo, containerd and docker.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { startDaemon } from '../examples/private-daemon.js';
import { fixture, type Fixture } from './fixtures/fixtures.js';
import { isFixtureName } from './fixtures/recipes.js';
import { ended, run } from './fixtures/shell.js';
import { columns, median, processorMs, shown, timed } from './harness.js';

/** What one contender does with references, once its daemon runs. */
interface Hands {
  /** The daemon; null where there is none. */
  pid: number | null;
  pull: (ref: string) => Promise<unknown>;
  push: (ref: string, to: string) => Promise<unknown>;
}

interface Contender {
  name: string;
  /** Runs `work` while its daemon runs, with all that it makes below `home`. */
  on(home: string, work: (hands: Hands) => Promise<void>): Promise<void>;
}

const KEPT = 'layerd, blobs kept';

const { values } = parseArgs({
  options: {
    fixture: { type: 'string', default: 'debian-node' },
    runs: { type: 'string', default: '3' },
    driver: { type: 'string', default: 'erofs' },
    json: { type: 'string' },
  },
});
if (!isFixtureName(values.fixture)) throw new Error(`there is no fixture ${values.fixture}`);
const image = await fixture(values.fixture);
/** One run: ms by the clock, and of processor time, that of the registry left out. */
interface Run {
  ms: number;
  processor: number;
}

const figures = new Map<string, Map<string, Run[]>>();
/** Cold; with all layers but the top one there; and to an empty registry. What one fails in is said, and the rest goes on. */
async function race(contender: Contender): Promise<void> {
  await withRegistry(async (full) => {
    const ref = `${full}/${image.name}:1`;
    const layout = `oci:${image.forms.ociLayout.path}:${image.tag}`;
    await run('skopeo', ['copy', '--quiet', '--dest-tls-verify=false', layout, `docker://${ref}`]);
    await pushBase(full, image);
    const measure = async (scenario: string, pid: number | null, work: () => Promise<unknown>): Promise<void> => {
      // what clients do, they do as children of ours
      const spent = (): number => {
        const daemon = pid === null ? { own: 0, children: 0 } : processorMs(pid);
        return daemon.own + daemon.children + processorMs('self').children;
      };
      const before = spent();
      const ms = await timed(work).catch((thrown: unknown) => {
        process.exitCode = 1;
        process.stderr.write(`${contender.name}, ${scenario}: ${String(thrown)}\n`);
        return null;
      });
      if (ms === null) return;
      const one: Run = { ms, processor: spent() - before };
      const all = figures.get(scenario) ?? new Map<string, Run[]>();
      figures.set(scenario, all);
      all.set(contender.name, [...(all.get(contender.name) ?? []), one]);
      const told = [ms, one.processor].map((value) => `${shown(value / 1000)} s`);
      process.stderr.write(`${contender.name}, ${scenario}: ${told.join(', processor ')}\n`);
    };
    await within(contender, async ({ pid, pull, push }) => {
      await measure('pull, cold', pid, () => pull(ref));
      await withRegistry(async (empty) => {
        const to = `${empty}/${image.name}:1`;
        await measure('push, cold', pid, () => push(ref, to));
        await measure('push, again', pid, () => push(ref, to));
      });
    });
    await within(contender, async ({ pid, pull }) => {
      await pull(`${full}/${image.name}:base`);
      await measure('pull, one layer missing', pid, () => pull(ref));
    });
  });
}

async function within(contender: Contender, work: (hands: Hands) => Promise<void>): Promise<void> {
  const home = mkdtempSync(join(tmpdir(), 'vs-'));
  try {
    // nobody pays for what another left to be written
    await run('sync', ['--file-system', home]);
    await contender.on(home, work);
  } finally {
    const targets = (await run('findmnt', ['--list', '--noheadings', '--output', 'TARGET'])).split('\n');
    for (const path of targets.filter((target) => target.startsWith(`${home}/`)).toReversed())
      await run('umount', [path]);
    rmSync(home, { recursive: true, force: true });
  }
}

function layerd(flags: readonly string[]): Contender {
  return {
    name: flags.length === 0 ? 'layerd' : KEPT,
    on: async (home, work) => {
      const daemon = await startDaemon(home, ['--driver', values.driver, '--log-level', 'warn', ...flags]);
      const { client } = daemon;
      try {
        await work({
          pid: daemon.pid,
          pull: (ref) => client.pull(ref),
          push: (ref, target) => client.push(ref, { target }),
        });
        for (const { id } of await client.images()) await client.removeImage(id, { force: true });
        await client.gc({ grace: 0, wait: true });
      } finally {
        await daemon.stop();
      }
    },
  };
}

const containerd: Contender = {
  name: 'containerd (ctr)',
  on: (home, work) => {
    const [config, socket] = [join(home, 'config.toml'), join(home, 's')];
    const lines = [
      'version = 2',
      `root = "${home}/root"`,
      `state = "${home}/state"`,
      'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]',
      `[grpc]\n  address = "${socket}"`,
      `[ttrpc]\n  address = "${home}/t"`,
    ];
    writeFileSync(config, lines.join('\n'));
    const images = (...args: string[]): Promise<string> => run('ctr', ['--address', socket, 'images', ...args]);
    return withServer(
      'containerd',
      ['--config', config],
      () => existsSync(socket),
      (pid) =>
        work({
          pid,
          pull: (ref) => images('pull', '--plain-http', ref),
          push: (ref, to) => images('push', '--plain-http', to, ref),
        }),
    );
  },
};

const dockerd: Contender = {
  name: 'dockerd',
  on: (home, work) => {
    const [config, socket] = [join(home, 'config.json'), join(home, 's')];
    writeFileSync(config, '{}');
    const places = ['--config-file', config, '--host', `unix://${socket}`, '--pidfile', join(home, 'pid')];
    const roots = [
      '--data-root',
      join(home, 'data'),
      '--exec-root',
      join(home, 'exec'),
      '--storage-driver',
      'overlay2',
    ];
    const offline = ['--bridge', 'none', '--iptables=false', '--ip-forward=false', '--ip-masq=false'];
    const docker = (...args: string[]): Promise<string> => run('docker', ['--host', `unix://${socket}`, ...args]);
    return withServer(
      'dockerd',
      [...places, ...roots, ...offline],
      () => existsSync(socket),
      (pid) =>
        work({
          pid,
          pull: (ref) => docker('pull', '--quiet', ref),
          push: async (ref, to) => {
            await docker('tag', ref, to);
            await docker('push', '--quiet', to);
          },
        }),
    );
  },
};

/**
 * The floor: the registry's own work. curl fetches the blobs, several at once, and throws them away, or sends them as the
 * fixture has them; nothing is verified, unpacked, compressed or stored.
 */
const bare: Contender = {
  name: 'floor: curl, blobs alone',
  on: async (_home, work) => {
    const fetched = new Set<string>();
    const blobFile = (digest: string): string => join(image.forms.ociLayout.path, 'blobs', digest.replace(':', '/'));
    const curl = (...args: string[]): Promise<string> => run('curl', ['--silent', '--show-error', '--fail', ...args]);
    const blobsOf = async (at: string, tag: string): Promise<string[]> => {
      const found = JSON.parse(await curl('--header', `accept: ${MANIFEST}`, `${at}/manifests/${tag}`)) as Manifest;
      return [found.config, ...found.layers].map(({ digest }) => digest);
    };
    const several = (calls: readonly string[][]): Promise<string> =>
      curl(
        '--parallel',
        '--parallel-max',
        '3',
        ...calls.flatMap((call, index) => (index === 0 ? call : ['--next', ...call])),
      );
    await work({
      pid: null,
      pull: async (ref) => {
        const { at, tag } = placeOf(ref);
        const missing = (await blobsOf(at, tag)).filter((digest) => !fetched.has(digest));
        await several(missing.map((digest) => ['--silent', '--output', '/dev/null', `${at}/blobs/${digest}`]));
        for (const digest of missing) fetched.add(digest);
      },
      push: async (ref, to) => {
        const { at, tag } = placeOf(to);
        const from = placeOf(ref);
        const calls = await Promise.all(
          (await blobsOf(from.at, from.tag)).map(async (digest) => {
            const there = await fetch(`${at}/blobs/${digest}`, { method: 'HEAD' });
            if (there.ok) return [];
            const begun = await fetch(`${at}/blobs/uploads/`, { method: 'POST' });
            const place = new URL(begun.headers.get('location') ?? '', at);
            place.searchParams.set('digest', digest);
            return [['--silent', '--output', '/dev/null', '--upload-file', blobFile(digest), place.href]];
          }),
        );
        if (calls.flat().length > 0) await several(calls.flat());
        const manifest = await curl('--header', `accept: ${MANIFEST}`, `${from.at}/manifests/${from.tag}`);
        await fetch(`${at}/manifests/${tag}`, { method: 'PUT', headers: { 'content-type': MANIFEST }, body: manifest });
      },
    });
  },
};

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';

interface Manifest {
  config: { digest: string; size: number };
  layers: { digest: string }[];
}

/** Where the API has a `HOST/NAME:TAG`. */
function placeOf(ref: string): { at: string; tag: string } {
  const slash = ref.indexOf('/');
  const colon = ref.lastIndexOf(':');
  return { at: `http://${ref.slice(0, slash)}/v2/${ref.slice(slash + 1, colon)}`, tag: ref.slice(colon + 1) };
}

/** The image without its top layer, as `:base` beside it. */
async function pushBase(host: string, { name, forms }: Fixture): Promise<void> {
  const at = `http://${host}/v2/${name}`;
  const manifest = (await (await fetch(`${at}/manifests/1`, { headers: { accept: MANIFEST } })).json()) as Manifest;
  const blob = join(forms.ociLayout.path, 'blobs', manifest.config.digest.replace(':', '/'));
  const config = JSON.parse(readFileSync(blob, 'utf8')) as { rootfs: { diff_ids: string[] }; history?: unknown };
  config.rootfs.diff_ids.pop();
  delete config.history;
  const bytes = Buffer.from(JSON.stringify(config));
  const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
  const begun = await fetch(`${at}/blobs/uploads/`, { method: 'POST' });
  const place = new URL(begun.headers.get('location') ?? '', at);
  place.searchParams.set('digest', digest);
  await fetch(place, { method: 'PUT', body: bytes });
  const base = {
    ...manifest,
    config: { ...manifest.config, digest, size: bytes.length },
    layers: manifest.layers.slice(0, -1),
  };
  const answer = await fetch(`${at}/manifests/base`, {
    method: 'PUT',
    headers: { 'content-type': MANIFEST },
    body: JSON.stringify(base),
  });
  if (answer.status !== 201) throw new Error(`the registry does not take the base: ${await answer.text()}`);
}

async function withRegistry(work: (host: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'vs-registry-'));
  const host = `127.0.0.1:${await freePort()}`;
  const config = join(directory, 'config.yml');
  mkdirSync(join(directory, 'data'));
  const storage = { filesystem: { rootdirectory: join(directory, 'data') } };
  writeFileSync(config, JSON.stringify({ version: 0.1, log: { level: 'error' }, storage, http: { addr: host } }));
  const answers = (): Promise<boolean> =>
    fetch(`http://${host}/v2/`).then(
      ({ status }) => status === 200,
      () => false,
    );
  try {
    await withServer('docker-registry', ['serve', config], answers, () => work(host));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function withServer(
  program: string,
  flags: string[],
  ready: () => boolean | Promise<boolean>,
  work: (pid: number) => Promise<void>,
): Promise<void> {
  const server = spawn(program, flags, { stdio: ['ignore', 'ignore', 'pipe'] });
  const end = ended(server, program);
  // that it was ended is no failure
  const quiet = end.catch(() => undefined);
  try {
    for (const until = Date.now() + 30_000; !(await ready());) {
      if (Date.now() > until || server.exitCode !== null) throw new Error(`${program} does not come up`);
      await sleep(50);
    }
    await work(server.pid ?? 0);
  } finally {
    server.kill('SIGTERM');
    await quiet;
  }
}

/** Medians, and how often that of layerd goes into each: by the clock, and in processor time. */
function ratios(): string {
  const rows = [...figures].flatMap(([scenario, all]) => {
    const middle = (name: string, what: keyof Run): number => median((all.get(name) ?? []).map((one) => one[what]));
    return [...all].map(([name, runs]) => {
      const times = runs.map(({ ms }) => ms / 1000);
      // ctr sends what it kept: it is held against layerd that does the same
      const first = name.startsWith('containerd') && scenario.startsWith('push') ? KEPT : 'layerd';
      const ratio = (what: keyof Run): string => `${shown(middle(name, what) / middle(first, what))} ×`;
      return [
        scenario,
        name,
        `${shown(median(times))} s`,
        `${shown(Math.min(...times))} – ${shown(Math.max(...times))}`,
        ratio('ms'),
        `${shown(middle(name, 'processor') / 1000)} s`,
        ratio('processor'),
      ];
    });
  });
  return columns([['SCENARIO', 'BY', 'MEDIAN', 'RANGE', 'TIMES LAYERD', 'PROCESSOR', 'TIMES LAYERD'], ...rows]);
}

for (let round = 0; round < Number(values.runs); round += 1) {
  for (const contender of [layerd([]), layerd(['--keep-blobs', 'true']), containerd, dockerd, bare])
    await race(contender);
}
process.stdout.write(ratios());
if (values.json !== undefined) {
  const runs = [...figures].map(([scenario, all]) => ({ scenario, by: Object.fromEntries(all) }));
  writeFileSync(values.json, `${JSON.stringify({ fixture: image.name, runs }, null, 2)}\n`);
}
