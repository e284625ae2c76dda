/**
 * node dist/bench/registries.js [--fixture debian-node] [--runs 3] [--driver erofs] [--json FILE]
 * Pull and push from and to docker-registry on loopback: layerd beside containerd (ctr) and Docker, in turns, each from
 * nothing in a directory of its own. Needs root, and docker-registry, skopeo, containerd and docker.
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
import { columns, median, shown, timed } from './harness.js';

/** What one contender does with references, once its daemon runs. */
interface Hands {
  pull: (ref: string) => Promise<unknown>;
  push: (ref: string, to: string) => Promise<unknown>;
}

interface Contender {
  name: string;
  /** Runs `work` while its daemon runs, with all that it makes below `home`. */
  on(home: string, work: (hands: Hands) => Promise<void>): Promise<void>;
}

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
const figures = new Map<string, Map<string, number[]>>();
/** Cold; with all layers but the top one there; and to an empty registry. */
async function race(contender: Contender): Promise<void> {
  await withRegistry(async (full) => {
    const ref = `${full}/${image.name}:1`;
    const layout = `oci:${image.forms.ociLayout.path}:${image.tag}`;
    await run('skopeo', ['copy', '--quiet', '--dest-tls-verify=false', layout, `docker://${ref}`]);
    await pushBase(full, image);
    const note = (scenario: string, ms: number): void => {
      const all = figures.get(scenario) ?? new Map<string, number[]>();
      figures.set(scenario, all);
      all.set(contender.name, [...(all.get(contender.name) ?? []), ms]);
      process.stderr.write(`${contender.name}, ${scenario}: ${shown(ms / 1000)} s\n`);
    };
    await within(contender, async ({ pull, push }) => {
      note('pull, cold', await timed(() => pull(ref)));
      await withRegistry(async (empty) => {
        const to = `${empty}/${image.name}:1`;
        note('push, cold', await timed(() => push(ref, to)));
        note('push, again', await timed(() => push(ref, to)));
      });
    });
    await within(contender, async ({ pull }) => {
      await pull(`${full}/${image.name}:base`);
      note('pull, one layer missing', await timed(() => pull(ref)));
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
    name: flags.length === 0 ? 'layerd' : 'layerd, blobs kept',
    on: async (home, work) => {
      const daemon = await startDaemon(home, ['--driver', values.driver, '--log-level', 'warn', ...flags]);
      const { client } = daemon;
      try {
        await work({ pull: (ref) => client.pull(ref), push: (ref, target) => client.push(ref, { target }) });
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
      () =>
        work({
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
      () =>
        work({
          pull: (ref) => docker('pull', '--quiet', ref),
          push: async (ref, to) => {
            await docker('tag', ref, to);
            await docker('push', '--quiet', to);
          },
        }),
    );
  },
};

/** The image without its top layer, as `:base` beside it. */
async function pushBase(host: string, { name, forms }: Fixture): Promise<void> {
  const at = `http://${host}/v2/${name}`;
  const manifest = (await (
    await fetch(`${at}/manifests/1`, { headers: { accept: 'application/vnd.oci.image.manifest.v1+json' } })
  ).json()) as { config: { digest: string; size: number }; layers: unknown[] };
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
    headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
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
  work: () => Promise<void>,
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
    await work();
  } finally {
    server.kill('SIGTERM');
    await quiet;
  }
}

/** Medians, and how often each goes into that of layerd. */
function ratios(): string {
  const rows = [...figures].flatMap(([scenario, all]) => {
    const first = median(all.get('layerd') ?? []);
    return [...all].map(([name, runs]) => {
      const range = `${shown(Math.min(...runs) / 1000)} – ${shown(Math.max(...runs) / 1000)}`;
      return [scenario, name, `${shown(median(runs) / 1000)} s`, range, `${shown(median(runs) / first)} ×`];
    });
  });
  return columns([['SCENARIO', 'BY', 'MEDIAN', 'RANGE', 'TIMES LAYERD'], ...rows]);
}

for (let round = 0; round < Number(values.runs); round += 1) {
  for (const contender of [layerd([]), layerd(['--keep-blobs', 'true']), containerd, dockerd]) await race(contender);
}
process.stdout.write(ratios());
if (values.json !== undefined) {
  const runs = [...figures].map(([scenario, all]) => ({ scenario, by: Object.fromEntries(all) }));
  writeFileSync(values.json, `${JSON.stringify({ fixture: image.name, runs }, null, 2)}\n`);
}
