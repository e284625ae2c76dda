/**
 * npm run demo [-- IMAGE]: starts a private daemon and does the main job on a real image, telling what happens. Every
 * step is checked; the exit code says whether all of it came true.
 */
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { DriverName, LayerdClient } from '../../src/client/index.js';
import { buildImages } from './image.js';
import { startDaemon } from '../private-daemon.js';

const image = process.argv[2];
const directory = mkdtempSync(join(tmpdir(), 'layerd-demo-'));

try {
  await demo();
} catch (thrown) {
  const { message, hint } = thrown as Error & { hint?: string };
  console.error(`\nThe demo failed: ${message}${hint ? `\n${hint}` : ''}`);
  process.exitCode = 1;
} finally {
  rmSync(directory, { recursive: true, force: true });
}

async function demo(): Promise<void> {
  say(`layerd demo in ${directory}\n`);
  const archive = image === undefined ? buildArchive() : resolve(image);
  const started = performance.now();
  const daemon = await startDaemon(directory);
  try {
    const { client } = daemon;
    const info = await client.info();
    say(`1. A daemon of our own, ready in ${since(started)}.`);
    say(`   driver ${info.driver}: ${info.driverReason}`);
    say(`   root on ${info.fileSystem}, inflating by ${info.inflater}`);
    if (info.driver === 'copy') say('   (as root on Linux with overlay it would mount instead of copying)');
    say('');
    const ref = await load(client, archive);
    const [first, second] = await createTwo(client, ref, info.driver);
    const path = await change(client, first, second);
    const made = await commit(client, first);
    await save(client, made);
    await removeAll(client, [first, second], path);
    await proveEmpty(client, daemon.root);
  } catch (thrown) {
    await leaveNothing(daemon.client);
    throw thrown;
  } finally {
    await daemon.stop();
  }
  say('\nEverything came true. Next: README.md, "Using it".');
}

/** Whatever went wrong, nothing may stay mounted. */
async function leaveNothing(client: LayerdClient): Promise<void> {
  for (const { id } of await client.containers()) await client.removeContainer(id, { force: true });
  for (const { id } of await client.images()) await client.removeImage(id, { force: true });
  await client.gc({ grace: 0, wait: true });
}

function buildArchive(): string {
  const layout = join(directory, 'layout');
  const started = performance.now();
  const refs = buildImages(layout);
  say(
    `0. Built two real images from this machine's node binary and its libraries in ${since(started)}: ${refs.join(', ')}\n`,
  );
  return layout;
}

async function load(client: LayerdClient, archive: string): Promise<string> {
  const started = performance.now();
  const loaded = await client.load(archive);
  const took = performance.now() - started;
  const rate = mb(loaded.bytesLoaded / (took / 1000));
  say(
    `2. Loaded ${loaded.images.length} image(s): ${loaded.layersLoaded} layers, ${mb(loaded.bytesLoaded)} in ${ms(took)} (${rate}/s), every byte verified and on disk.`,
  );
  for (const each of loaded.images) {
    say(`   ${each.refs.join(', ') || each.imageId}: ${each.layers.length} layers, ${each.platform}`);
  }
  const again = performance.now();
  const second = await client.load(archive);
  expect(second.layersLoaded === 0, 'a second load finds every layer present');
  say(`   Loading it again takes ${since(again)}: all layers are there already.`);
  for (const each of await client.images()) {
    say(
      `   ${(each.refs[0] ?? each.id).padEnd(40)} ${mb(each.size).padStart(10)}, of that ${mb(each.shared)} shared with other images`,
    );
  }
  say('');
  const [first] = loaded.images;
  if (first === undefined) throw new Error('the archive holds no image');
  return first.refs[0] ?? first.imageId;
}

async function createTwo(client: LayerdClient, ref: string, driver: DriverName): Promise<[string, string]> {
  const started = performance.now();
  const first = await client.createContainer(ref, { name: 'one' });
  const middle = performance.now();
  const second = await client.createContainer(ref, { name: 'two' });
  const how =
    driver === 'copy'
      ? 'Each has a tree of its own; files share their blocks where the file system can.'
      : 'Each has a writable layer of its own; nothing was copied, every lower byte is shared.';
  say(`3. Two containers from ${ref}: ${ms(middle - started)} and ${since(middle)}. ${how}`);
  return [first.id, second.id];
}

async function change(client: LayerdClient, first: string, second: string): Promise<string> {
  const started = performance.now();
  const { path } = await client.mount(first);
  const other = await client.mount(second);
  say(`   Mounted both in ${since(started)}: ${path}\n`);
  const [modified, deleted] = twoFiles(path);
  const before = readFileSync(join(other.path, modified));
  writeFileSync(join(path, 'written-by-one'), 'new\n');
  appendFileSync(join(path, modified), 'changed in container one\n');
  rmSync(join(path, deleted));
  say(
    `4. In container one: wrote /written-by-one, changed ${modified}, deleted ${deleted}. What layerd says has changed:`,
  );
  const changes = [];
  for await (const each of client.changes(first)) changes.push(each);
  for (const each of changes) say(`   ${each.kind} ${each.path}`);
  const kinds = new Map(changes.map((each) => [each.path, each.kind]));
  expect(kinds.get('/written-by-one') === 'A', 'the new file is listed as added');
  expect(kinds.get(modified) === 'C', 'the changed file is listed as changed');
  expect(kinds.get(deleted) === 'D', 'the deleted file is listed as deleted');
  expect(!existsSync(join(other.path, 'written-by-one')), 'container two does not see the new file');
  expect(readFileSync(join(other.path, modified)).equals(before), 'container two sees the file as it was');
  expect(existsSync(join(other.path, deleted)), 'container two still has the deleted file');
  const { bytes } = await client.usage(first);
  say(`   Container two sees none of it. Container one's own layer takes ${mb(bytes)}.\n`);
  return path;
}

/** Two regular files of the image, absolute inside it: the smaller ones, since one is copied up. */
function twoFiles(root: string): [string, string] {
  const found: { path: string; size: number }[] = [];
  const visit = (below: string, depth: number): void => {
    for (const entry of readdirSync(join(root, below), { withFileTypes: true })) {
      const path = `${below}/${entry.name}`;
      // Names that are no text are layerd's daily bread, but not this program's.
      if (path.includes('\ufffd')) continue;
      if (entry.isFile()) found.push({ path, size: statSync(join(root, path)).size });
      else if (entry.isDirectory() && depth < 4) visit(path, depth + 1);
    }
  };
  visit('', 0);
  const [a, b] = found.sort((x, y) => x.size - y.size || (x.path < y.path ? -1 : 1));
  if (a === undefined || b === undefined) throw new Error('the image has fewer than two files');
  return [a.path, b.path];
}

async function commit(client: LayerdClient, container: string): Promise<string> {
  const started = performance.now();
  const made = await client.commit(container, { ref: 'demo/changed:1', message: 'the demo changed it' });
  say(
    `5. Committed container one as demo/changed:1 in ${since(started)}: one new layer of ${mb(made.size)}, everything below is shared.`,
  );
  const [row] = await client.history('demo/changed:1');
  expect(row?.comment === 'the demo changed it', 'the history tells of the commit');
  return 'demo/changed:1';
}

async function save(client: LayerdClient, ref: string): Promise<void> {
  const path = join(directory, 'saved.tar');
  const started = performance.now();
  const file = await open(path, 'w');
  const { stream } = await client.save({ refs: [ref], format: 'docker' });
  for await (const chunk of stream) await file.writeFile(chunk);
  await file.close();
  say(
    `6. Saved it as a docker-archive in ${since(started)}: ${mb(statSync(path).size)}. Diff IDs are unchanged, so skopeo, podman and docker load it.`,
  );
  const again = await client.load(path);
  expect(again.layersLoaded === 0, 'the saved archive holds the very same layers');
}

async function removeAll(client: LayerdClient, containers: string[], path: string): Promise<void> {
  const started = performance.now();
  for (const id of containers) {
    await client.unmount(id);
    await client.removeContainer(id);
  }
  for (const each of await client.images()) await client.removeImage(each.id, { force: true });
  say(`\n7. Removed both containers and all images in ${since(started)}: rows and a rename each.`);
  const foretold = await client.gc({ dryRun: true, grace: 0 });
  const collecting = performance.now();
  const collected = await client.gc({ grace: 0, wait: true });
  expect(collected.bytes === foretold.bytes, 'gc freed what the dry run foretold');
  say(`   gc foretold ${mb(foretold.bytes)} and freed ${mb(collected.freed)} in ${since(collecting)}.`);
  expect(!existsSync(path) || readdirSync(path).length === 0, 'nothing is left at the mount point');
}

async function proveEmpty(client: LayerdClient, root: string): Promise<void> {
  const report = await client.check();
  expect(report.ok, `check finds nothing wrong (${report.problems.map((problem) => problem.message).join('; ')})`);
  const df = await client.diskUsage();
  const left = df.rows.filter((row) => row.kind !== 'metadata');
  expect(left.length === 0, `nothing but metadata is left (${left.map((row) => `${row.kind} ${row.id}`).join(', ')})`);
  for (const room of ['l', 's', 't', 'b', 'trash']) {
    expect(readdirSync(join(root, room)).length === 0, `${room}/ is empty`);
  }
  if (process.platform === 'linux') {
    const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
    expect(!mounts.some((line) => line.includes(directory)), 'nothing is mounted any more');
  }
  const du =
    process.platform === 'linux'
      ? `, as du says (${execFileSync('du', ['-sB1', root], { encoding: 'utf8' }).split('\t')[0]} bytes)`
      : '';
  say(`8. check: nothing wrong. df: ${mb(df.total)} of metadata and nothing else${du}. Nothing is mounted.`);
}

function expect(came: boolean, what: string): void {
  if (!came) throw new Error(`the demo expected that ${what}, and it is not so`);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

function since(started: number): string {
  return ms(performance.now() - started);
}

function ms(duration: number): string {
  return duration < 1000 ? `${duration.toFixed(duration < 10 ? 1 : 0)} ms` : `${(duration / 1000).toFixed(1)} s`;
}

function mb(bytes: number): string {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
