// Packs the two programs and their threads into few files, and keeps the bytecode of what a short run of them ran: finding,
// reading, compiling and linking some three hundred modules one by one takes longer than all else that a start does
// (bench/README.md).
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
  await keepBytecode(out);
}

/** Lets the programs do what they mostly do, once. Without it they only start slower, so that a failure is no more than said. */
async function keepBytecode(out) {
  const { startDaemon } = await import(`${out}/examples/private-daemon.js`);
  const directory = mkdtempSync(join(tmpdir(), 'layerd-build-'));
  const { NODE_OPTIONS } = process.env;
  process.env.NODE_OPTIONS = `${NODE_OPTIONS ?? ''} --require ${JSON.stringify(scriptOf('keep-bytecode.cjs'))}`;
  try {
    const daemon = await startDaemon(directory);
    try {
      useOnce(`${out}/src/bin/layerctl.js`, daemon.socket, smallImage(directory));
    } finally {
      await daemon.stop();
    }
  } catch (error) {
    console.error(`The programs are built, without bytecode of all they run: ${error.message}`);
  } finally {
    if (NODE_OPTIONS === undefined) delete process.env.NODE_OPTIONS;
    else process.env.NODE_OPTIONS = NODE_OPTIONS;
    unmountBelow(directory);
    rmSync(directory, { recursive: true, force: true });
  }
}

function useOnce(program, socket, image) {
  const layerctl = (...words) =>
    execFileSync(process.execPath, [program, '--socket', socket, '-q', ...words], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    }).trim();
  layerctl('load', image);
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
