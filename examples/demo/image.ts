/** Builds a real image from what this machine has: the node binary with its libraries, and two services that share it. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { create } from 'tar';

const TAR = 'application/vnd.oci.image.layer.v1.tar';
const EPOCH = new Date(0);

interface Layer {
  digest: string;
  size: number;
}

/** Writes an OCI layout with the images demo/hello and demo/clock into `directory`; returns their refs. */
export function buildImages(directory: string): string[] {
  mkdirSync(join(directory, 'blobs', 'sha256'), { recursive: true });
  const scratch = join(directory, 'scratch');
  const base = makeLayer(directory, scratch, nodeFiles);
  const services: [ref: string, script: string][] = [
    ['demo/hello:1', 'console.log("hello from a container");\n'],
    ['demo/clock:1', 'setInterval(() => console.log(new Date().toISOString()), 1000);\n'],
  ];
  const manifests = services.map(([ref, script]) => {
    const service = makeLayer(directory, scratch, (root) => {
      mkdirSync(join(root, 'srv'));
      writeFileSync(join(root, 'srv', 'main.js'), script);
    });
    return { ...makeManifest(directory, [base, service]), annotations: { 'org.opencontainers.image.ref.name': ref } };
  });
  writeFileSync(join(directory, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
  writeFileSync(join(directory, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
  return services.map(([ref]) => ref);
}

/** The node binary, the libraries it is linked with, and the few files that programs look for. */
function nodeFiles(root: string): void {
  const files = new Set<string>();
  if (process.platform === 'linux') {
    const libraries = execFileSync('ldd', [process.execPath], { encoding: 'utf8' });
    for (const [path] of libraries.matchAll(/\/\S+/g)) files.add(path);
  }
  for (const path of files) copyInto(root, path, path);
  copyInto(root, process.execPath, '/usr/bin/node');
  mkdirSync(join(root, 'etc'), { recursive: true });
  writeFileSync(join(root, 'etc', 'passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  writeFileSync(join(root, 'etc', 'motd'), 'A real image, made from this machine.\n');
  mkdirSync(join(root, 'bin'));
  symlinkSync('../usr/bin/node', join(root, 'bin', 'node'));
}

function copyInto(root: string, from: string, to: string): void {
  const path = join(root, to);
  mkdirSync(dirname(path), { recursive: true });
  copyFileSync(from, path);
}

function makeLayer(directory: string, scratch: string, fill: (root: string) => void): Layer {
  rmSync(scratch, { recursive: true, force: true });
  mkdirSync(scratch, { recursive: true });
  fill(scratch);
  const file = join(directory, 'layer.tar');
  create({ file, cwd: scratch, sync: true, portable: true, mtime: EPOCH }, ['.']);
  const bytes = readFileSync(file);
  const layer = { digest: digestOf(bytes), size: bytes.length };
  renameSync(file, blobPath(directory, layer.digest));
  rmSync(scratch, { recursive: true });
  return layer;
}

function makeManifest(
  directory: string,
  layers: readonly Layer[],
): { mediaType: string; digest: string; size: number } {
  const architecture = process.arch === 'x64' ? 'amd64' : process.arch;
  const config = writeBlob(directory, {
    created: EPOCH.toISOString(),
    architecture,
    os: 'linux',
    config: { Cmd: ['/usr/bin/node', '/srv/main.js'], Env: ['PATH=/usr/bin:/bin'] },
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.digest) },
    history: [{ created_by: 'COPY node and its libraries' }, { created_by: 'COPY main.js /srv/' }],
  });
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = {
    schemaVersion: 2,
    mediaType,
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
    layers: layers.map((layer) => ({ mediaType: TAR, ...layer })),
  };
  return { mediaType, ...writeBlob(directory, manifest) };
}

function writeBlob(directory: string, document: unknown): Layer {
  const bytes = Buffer.from(JSON.stringify(document));
  const digest = digestOf(bytes);
  writeFileSync(blobPath(directory, digest), bytes);
  return { digest, size: bytes.length };
}

function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

function blobPath(directory: string, digest: string): string {
  return join(directory, 'blobs', 'sha256', digest.slice('sha256:'.length));
}
