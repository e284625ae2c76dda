/** A small image that real runtimes can run: busybox-static with users, as a docker-archive. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sha256 } from '../../src/core/digest.js';
import { needsProgram, type Prerequisite } from '../support.js';
import { dockerMembers, tarOf, testImage, type TestImage, type TestLayer } from '../unit/image-synthetic.js';

const APPLETS = [
  'sh',
  'cat',
  'chmod',
  'dd',
  'echo',
  'env',
  'false',
  'hostname',
  'id',
  'kill',
  'ls',
  'mkdir',
  'pwd',
  'rm',
];
const MORE = ['sleep', 'stat', 'stty', 'test', 'touch', 'true', 'tty', 'wc'];

export function needsBusybox(): Prerequisite {
  return needsProgram('busybox', 'busybox-static');
}

/** A root with the program and its names; `fill` may add to it. */
export function busyboxLayer(fill: (root: string) => void = () => undefined): TestLayer {
  const root = mkdtempSync(join(tmpdir(), 'layerd-busybox-'));
  try {
    chmodSync(root, 0o755);
    for (const directory of ['bin', 'etc', 'proc', 'sys', 'dev', 'tmp', 'home/app']) {
      mkdirSync(join(root, directory), { recursive: true });
    }
    chmodSync(join(root, 'tmp'), 0o1777);
    const program = execFileSync('sh', ['-c', 'command -v busybox'], { encoding: 'utf8' }).trim();
    copyFileSync(program, join(root, 'bin/busybox'));
    for (const name of [...APPLETS, ...MORE]) symlinkSync('busybox', join(root, 'bin', name));
    writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n');
    writeFileSync(join(root, 'etc/group'), 'root:x:0:\napp:x:1001:\naudio:x:29:app\nvideo:x:44:other,app\n');
    chownSync(join(root, 'home/app'), 1000, 1001);
    fill(root);
    const tar = execFileSync('tar', ['-C', root, '--sort=name', '-cf', '-', '.'], { maxBuffer: 64 * 1024 * 1024 });
    const diffId = sha256(tar);
    return { tar, diffId, blob: tar, digest: diffId, mediaType: 'application/vnd.oci.image.layer.v1.tar' };
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}

/** Writes a docker-archive of the image with this run config. */
export function busyboxArchive(file: string, tag: string, config: object, layer = busyboxLayer()): TestImage {
  const image = testImage([layer], 'amd64', { config });
  writeFileSync(file, tarOf(dockerMembers([{ image, tags: [tag] }])));
  return image;
}
