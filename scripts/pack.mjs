// Packs the two programs and their threads into few files, and keeps the bytecode of what a short run of them ran: finding,
// reading, compiling and linking some three hundred modules one by one takes longer than all else that a start does
// (bench/README.md).
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { rolldown } from 'rolldown';
import { create } from 'tar';

const PROGRAMS = ['layerd', 'layerctl'];
const THREADS = {
  thread: 'workers/thread',
  'writer-thread': 'metadata/writer-thread',
  'aside-thread': 'metadata/aside-thread',
};
const scriptOf = (name) => fileURLToPath(new URL(name, import.meta.url));

/** `out` is what tsc wrote. out/src/bin lies as deep as the modules do, so that a path relative to a module means the same. */
export async function pack(out) {
  const bin = `${out}/src/bin`;
  const input = {};
  for (const program of PROGRAMS) input[program] = `${out}/src/${program}.js`;
  for (const [name, module] of Object.entries(THREADS)) input[name] = `${out}/src/${module}.js`;
  const packed = await rolldown({ input, platform: 'node', external: ['koffi', 'better-sqlite3'], logLevel: 'warn' });
  await packed.write({
    dir: bin,
    // V8 keeps bytecode of scripts, not of modules
    format: 'cjs',
    entryFileNames: '[name].packed.js',
    chunkFileNames: '[name]-[hash].js',
  });
  await packed.close();
  writeFileSync(`${bin}/package.json`, '{ "type": "commonjs" }\n');
  copyFileSync(scriptOf('load-packed.cjs'), `${bin}/load-packed.js`);
  for (const name of Object.keys(input)) {
    writeFileSync(`${bin}/${name}.js`, `#!/usr/bin/env node\nrequire('./load-packed.js').load('${name}.packed.js');\n`);
  }
  for (const program of PROGRAMS) chmodSync(`${bin}/${program}.js`, 0o755);
  await keepBytecode(bin);
}

/** Lets the programs do what they mostly do, once. Without it they only start slower, so that a failure is no more than said. */
async function keepBytecode(bin) {
  const directory = mkdtempSync(join(tmpdir(), 'layerd-build-'));
  const node = ['--require', scriptOf('keep-bytecode.cjs')];
  const run = join(directory, 'run');
  const flags = [
    '--config',
    join(directory, 'none.toml'),
    '--root',
    join(directory, 'root'),
    '--run',
    run,
    '--log-level',
    'error',
  ];
  writeFileSync(join(directory, 'none.toml'), '');
  const daemon = spawn(process.execPath, [...node, `${bin}/layerd.js`, ...flags], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const ended = new Promise((resolve) => daemon.once('exit', resolve));
  try {
    const layerctl = (...words) =>
      execFileSync(
        process.execPath,
        [...node, `${bin}/layerctl.js`, '--socket', join(run, 'layerd.sock'), '-q', ...words],
        {
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'inherit'],
        },
      ).trim();
    for (let tries = 0; !existsSync(join(run, 'layerd.sock')) && tries < 200; tries += 1) await sleep(50);
    layerctl('load', smallImage(directory));
    const container = layerctl('create', 'build');
    writeFileSync(join(layerctl('mount', container), 'new'), 'new\n');
    layerctl('changes', container);
    layerctl('unmount', container);
    layerctl('commit', container, 'build:committed');
    layerctl('ps');
    layerctl('images');
    layerctl('rm', container);
    layerctl('rmi', 'build', 'build:committed');
    layerctl('gc');
    await sleep(400);
  } catch (error) {
    console.error(`The programs are built, without bytecode of all they run: ${error.message}`);
  } finally {
    daemon.kill('SIGTERM');
    await ended;
    unmountBelow(directory);
    rmSync(directory, { recursive: true, force: true });
  }
}

/** A mount outlives its daemon. */
function unmountBelow(directory) {
  if (process.platform !== 'linux') return;
  const mountPoints = readFileSync('/proc/self/mounts', 'utf8').matchAll(/(?<=^\S+ )\S+/gm);
  for (const [path] of mountPoints) if (path.startsWith(`${directory}/`)) execFileSync('umount', ['--lazy', path]);
}

/** A docker-archive of one layer. */
function smallImage(directory) {
  const image = join(directory, 'image');
  mkdirSync(join(image, 'files'), { recursive: true });
  for (let file = 0; file < 20; file += 1) writeFileSync(join(image, `files/${file}`), `${file}\n`);
  create({ file: join(image, 'layer.tar'), cwd: image, sync: true, portable: true }, ['files']);
  const diffId = createHash('sha256')
    .update(readFileSync(join(image, 'layer.tar')))
    .digest('hex');
  const rootfs = { type: 'layers', diff_ids: [`sha256:${diffId}`] };
  writeFileSync(join(image, 'config.json'), JSON.stringify({ architecture: 'amd64', os: 'linux', config: {}, rootfs }));
  const manifest = [{ Config: 'config.json', RepoTags: ['build:latest'], Layers: ['layer.tar'] }];
  writeFileSync(join(image, 'manifest.json'), JSON.stringify(manifest));
  const archive = join(directory, 'image.tar');
  create({ file: archive, cwd: image, sync: true }, ['manifest.json', 'config.json', 'layer.tar']);
  return archive;
}
