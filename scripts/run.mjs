// npm start, npm run demo, npm test, npm run bench on a fresh clone: installs and builds what is missing, then runs it;
// node scripts/run.mjs install only installs.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import { homedir } from 'node:os';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [task, ...args] = process.argv.slice(2);

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`layerd needs Node.js 20.19 or newer; this is ${process.version}. See https://nodejs.org/`);
  process.exit(1);
}

/**
 * Installs when node_modules is not what package-lock.json says. Not by npm ci: it refuses a lock file that lacks the
 * optional packages of other platforms, which a registry need not carry.
 */
function install() {
  const wanted = createHash('sha256')
    .update(readFileSync(`${root}package-lock.json`))
    .update(process.version)
    .digest('hex');
  const mark = `${root}node_modules/.layerd-installed`;
  if (existsSync(mark) && readFileSync(mark, 'utf8') === wanted) return;
  console.error('Installing packages (better-sqlite3 is compiled: this takes about two minutes) ...');
  execFileSync('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: root,
    stdio: ['ignore', 2, 2],
    // SQLite syncs its log by fsync, times included, unless it is told at compile time that there is fdatasync.
    env: { ...process.env, CFLAGS: `${process.env.CFLAGS ?? ''} -DHAVE_FDATASYNC=1`.trim() },
  });
  writeFileSync(mark, wanted);
}

/** Compiles when a source is newer than the last build. */
function build() {
  const mark = `${root}dist/.built`;
  const sources = ['scripts', 'src', 'drivers', 'test', 'bench', 'examples', 'package.json', 'tsconfig.json'];
  const find = ['find', [...sources, '-newer', mark, '-print', '-quit'], { cwd: root, encoding: 'utf8' }];
  if (existsSync(mark) && execFileSync(...find) === '') return;
  console.error('Compiling ...');
  execFileSync(process.execPath, [`${root}scripts/build.mjs`], { cwd: root, stdio: ['ignore', 2, 2] });
}

/**
 * The images that tests use, made from Debian packages and kept in ~/.cache/layerd-fixtures: minutes, once. Without what
 * that needs, the tests that use them are skipped and say so.
 */
function makeFixtures() {
  const able = process.getuid?.() === 0 && ['debootstrap', 'skopeo'].every((program) => isProgram(program));
  if (!able) return;
  const names = ['tiny', 'deep', 'debian-node', 'odd', 'longpath'];
  spawnSync(process.execPath, [`${root}dist/bench/fixtures/make.js`, '--json', ...names], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
}

function isProgram(name) {
  return (process.env.PATH ?? '').split(':').some((directory) => existsSync(`${directory}/${name}`));
}

const TASKS = {
  // for what needs the packages alone: checks of the sources
  install: null,
  start: [`${root}dist/src/bin/layerd.js`],
  demo: [`${root}dist/examples/demo/demo.js`],
  bench: [`${root}dist/bench/run.js`],
  test: [`${root}node_modules/vitest/vitest.mjs`, 'run'],
  'test:containerd': [`${root}node_modules/vitest/vitest.mjs`, 'run', 'clients/containerd', '--no-file-parallelism'],
  'test:crash': [`${root}node_modules/vitest/vitest.mjs`, 'run', 'crash/', 'fuzz/', 'power/'],
};

/** A Debian with containerd 1.7, which takes layerd for a differ, too; made once. */
function newerContainerd() {
  const path = `${homedir()}/.cache/layerd-trixie`;
  if (existsSync(`${path}/usr/bin/containerd`)) return path;
  rmSync(path, { recursive: true, force: true });
  console.error('Installing Debian 13 with containerd 1.7 below ~/.cache ...');
  const words = ['--variant=minbase', '--include=containerd,runc', 'trixie', path];
  execFileSync('debootstrap', words, { stdio: ['ignore', 'ignore', 'inherit'] });
  return path;
}

function environment() {
  if (task === 'test:crash') return { ...process.env, LAYERD_CRASH: 'full' };
  if (task === 'test:containerd') return { ...process.env, LAYERD_CONTAINERD_CHROOT: newerContainerd() };
  return process.env;
}

const command = TASKS[task];
if (command === undefined) {
  console.error(`usage: node scripts/run.mjs ${Object.keys(TASKS).join('|')}`);
  process.exit(2);
}
install();
if (command === null) process.exit(0);
build();
if (task.startsWith('test')) makeFixtures();
const { status, signal } = spawnSync(process.execPath, [...command, ...args], {
  cwd: task.startsWith('test') ? root : process.cwd(),
  env: environment(),
  stdio: 'inherit',
});
process.exit(status ?? (signal === null ? 1 : 128));
