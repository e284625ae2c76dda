import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { release } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import { bytesOf, fromBuffer, type ByteString } from '../../src/core/bytes.js';
import { cgroupOf, freezeCgroup } from '../../src/linux/cgroup.js';
import { canClone, canTmpfile, fileSystemType, kernelFeatures } from '../../src/linux/features.js';
import { AT_FDCWD, mkdirat } from '../../src/linux/files.js';
import { mount, MS, umount } from '../../src/linux/mount.js';
import {
  describeHolders,
  mountAt,
  mountHolders,
  mountsBelow,
  type MountHolder,
  parseMountinfo,
  readMountinfo,
} from '../../src/linux/mountinfo.js';
import { descriptorOf, notifyManager, peerCredentials, takeListenDescriptors } from '../../src/linux/sockets.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { at, run, scratchDirectory, writeTree } from './linux-fixture.js';

const scratch = scratchDirectory();
const HERE = '' as ByteString;

/** Starts a program that says "ready" on its standard output; ended with the test. */
async function start(program: string, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  onTestFinished(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  });
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  expect(line.toString()).toContain('ready');
  return child;
}

describe('mountinfo', () => {
  it('reads every field, octal escapes as bytes', () => {
    const line = String.raw`36 35 98:0 /mnt\0401 /a\134b\011c\012 rw,noatime master:1 shared:2 - overlay dev\040ice rw,lowerdir+=/x\054y,é`;
    expect(parseMountinfo(Buffer.from(`${line}\n`, 'latin1'))).toEqual([
      {
        id: 36,
        parent: 35,
        major: 98,
        minor: 0,
        root: '/mnt 1',
        mountPoint: '/a\\b\tc\n',
        options: ['rw', 'noatime'],
        optional: ['master:1', 'shared:2'],
        fsType: 'overlay',
        source: 'dev ice',
        superOptions: ['rw', 'lowerdir+=/x,y', '\u00e9'],
      },
    ]);
  });

  it('takes lines without optional fields and with an empty source; names what is no line', () => {
    expect(parseMountinfo(Buffer.from('1 2 0:3 / /p rw - proc  rw'))).toMatchObject([{ optional: [], source: '' }]);
    expect(() => parseMountinfo(Buffer.from('1 2 0:3 / /p rw'))).toThrow(/not a line of mountinfo: "1 2/);
  });

  it('does not take neighbours with the same beginning for mounts below', () => {
    const mounts = parseMountinfo(
      Buffer.from(['/a', '/a/b', '/ab', '/'].map((path, id) => `${id} 0 0:1 / ${path} rw - t s rw`).join('\n')),
    );
    expect(mountsBelow('/a/', mounts).map(({ id }) => id)).toEqual([0, 1]);
    expect(mountsBelow('/', mounts)).toHaveLength(4);
    expect(mountAt('/ab', mounts)?.id).toBe(2);
    expect(mountAt('/abc', mounts)).toBeNull();
  });
});

/** Without namespaces: others on this machine may have copied the mount into theirs. */
function holdersHere(target: string): MountHolder[] {
  return mountHolders(target).filter(({ how }) => how !== 'namespace');
}

/** Sends to the service manager of that name. */
function notify(name: string): boolean {
  return notifyManager('READY=1', { NOTIFY_SOCKET: name });
}

describeWith('mounts of this machine', [needsRoot()], () => {
  it('are found under names with spaces, newlines and bytes that are no UTF-8', () => {
    const root = scratch();
    const odd = `${bytesOf(root)}/${fromBuffer(Buffer.from('a \t\n\\#\xff', 'latin1'))}` as ByteString;
    mkdirat(AT_FDCWD, odd, 0o755);
    mount({ source: odd, target: odd, type: 'none', flags: MS.BIND, data: HERE });
    expect(mountsBelow(root)).toMatchObject([{ mountPoint: odd, root: odd }]);
    umount(odd);
    expect(mountsBelow(root)).toEqual([]);
    expect(readMountinfo(1).length).toBeGreaterThan(0);
  });

  it('are shown with the processes that hold them', async () => {
    const root = writeTree(scratch(), { 'm/': '' });
    const target = join(root, 'm');
    mount({ source: bytesOf('tmpfs'), target: bytesOf(target), type: 'tmpfs', flags: 0, data: HERE });
    expect(holdersHere(target)).toEqual([]);
    mkdirSync(join(target, 'sub'));
    mount({ source: bytesOf('inner'), target: at(target, 'sub'), type: 'tmpfs', flags: 0, data: HERE });

    const cwd = await start('sh', '-c', `cd ${target} && echo ready && read line`);
    const fd = openSync(join(target, 'file'), 'w');
    const mapper = await start(
      'python3',
      '-c',
      `import mmap,os,sys
fd = os.open('${target}/mapped', os.O_RDWR | os.O_CREAT); os.truncate(fd, 4096)
area = mmap.mmap(fd, 4096); os.close(fd)
for n in os.listdir('/proc/self/fd'):
    if os.path.islink('/proc/self/fd/' + n) and '${target}' in os.readlink('/proc/self/fd/' + n): os.close(int(n))
print('ready', flush=True); sys.stdin.read()`,
    );
    const elsewhere = await start('unshare', '--mount', 'sh', '-c', 'echo ready && read line');
    const holders = mountHolders(target);
    expect(holders).toEqual(
      expect.arrayContaining([
        { pid: cwd.pid, command: 'sh', how: 'cwd' },
        expect.objectContaining({ pid: process.pid, how: 'file' }),
        expect.objectContaining({ pid: mapper.pid, how: 'mapping' }),
        expect.objectContaining({ pid: elsewhere.pid, how: 'namespace' }),
      ]),
    );
    expect(holdersHere(target)).toHaveLength(3);
    expect(describeHolders(target)).toContain(`the mount ${target}/sub, `);
    expect(describeHolders(target)).toContain(`sh (pid ${cwd.pid}, cwd)`);
    closeSync(fd);
  });
});

describeWith('features', [needsRoot()], () => {
  it('are what this kernel shows elsewhere', () => {
    const features = kernelFeatures();
    expect(features.release).toBe(release());
    expect(features.mountApi).toBe(true);
    const registered = readFileSync('/proc/filesystems', 'utf8');
    expect(features.overlay !== null).toBe(/\toverlay\n/.test(registered));
    expect(features.erofs !== null).toBe(/\terofs\n/.test(registered));
  });

  it('name file systems, and try what they can do', () => {
    const root = scratch();
    expect(fileSystemType(root)).toBe(run('stat', '-f', '-c', '%T', root).trim().replace('ext2/ext3', 'ext4'));
    expect(fileSystemType('/proc')).toBe('0x9fa0');
    expect(canTmpfile(root)).toBe(true);
    expect(canTmpfile('/proc')).toBe(false);
    expect(canClone(root)).toBe(['btrfs', 'xfs', 'bcachefs'].includes(fileSystemType(root)));
  });
});

describeWith('sockets', [needsRoot(), needsProgram('python3')], () => {
  it('tell who is at the other end', async () => {
    const path = join(scratch(), 's');
    const server = createServer();
    server.listen(path);
    await once(server, 'listening');
    const accepted = once(server, 'connection') as Promise<[Socket]>;
    const child = await start(
      'python3',
      '-c',
      `import os, socket, sys
s = socket.socket(socket.AF_UNIX); os.chmod('${scratch()}', 0o711); os.chmod('${path}', 0o777)
os.setgid(1235); os.setuid(1234); s.connect('${path}'); print('ready', flush=True); sys.stdin.read()`,
    );
    const [socket] = await accepted;
    expect(peerCredentials(descriptorOf(socket) ?? -1)).toEqual({ pid: child.pid, uid: 1234, gid: 1235 });
    socket.destroy();
    expect(descriptorOf(socket)).toBeNull();
    expect(() => peerCredentials(-1)).toThrow(/EBADF/);
    server.close();
  });

  it.each(['file', 'abstract'])('notify the service manager (%s)', async (kind) => {
    const name = kind === 'file' ? join(scratch(), 'notify é') : `@layerd-test-${process.pid}`;
    const listener = await start(
      'python3',
      '-c',
      `import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind('${name}'.replace('@', '\\0'))
print('ready', flush=True); print(s.recv(1000).decode(), flush=True)`,
    );
    let received = '';
    listener.stdout?.on('data', (chunk: Buffer) => (received += chunk.toString()));
    expect(notifyManager('READY=1\nSTATUS=à point', { NOTIFY_SOCKET: name })).toBe(true);
    await once(listener, 'close');
    expect(received.trim()).toBe('READY=1\nSTATUS=à point');
  });

  it('notify nobody where there is no manager, and say so where it has gone', () => {
    expect(notifyManager('READY=1', {})).toBe(false);
    expect(() => notify(join(scratch(), 'gone'))).toThrow(/ENOENT.*gone/);
    expect(() => notify(`/${'x'.repeat(108)}`)).toThrow(/EINVAL/);
    expect(() => notify('relative')).toThrow(/EINVAL/);
  });

  it('are taken over from the service manager, once, and not by children', () => {
    const module = new URL('../../src/linux/sockets.js', import.meta.url).href;
    const script = `
      import { takeListenDescriptors } from '${module}';
      import { execFileSync } from 'node:child_process';
      import { connect, createServer } from 'node:net';
      process.env.LISTEN_PID = String(process.pid);
      const taken = takeListenDescriptors();
      const again = takeListenDescriptors();
      const inherited = execFileSync('sh', ['-c', 'readlink /proc/$$/fd/3 /proc/$$/fd/4; env | grep ^LISTEN_; true']);
      const server = createServer((socket) => socket.end('served')).listen({ fd: taken[1].fd });
      const client = connect(process.env.SOCKET, () => client.setEncoding('utf8').on('data', (data) => {
        console.log(JSON.stringify({ taken, again, inherited: inherited.toString(), data }));
        server.close();
      }));`;
    const path = join(scratch(), 'listen');
    const parent = `
import os, socket
for name in ('a', 'b'):
    s = socket.socket(socket.AF_UNIX); s.bind('${path}' + name); s.listen()
    os.dup2(s.fileno(), 3 if name == 'a' else 4); os.set_inheritable(3 if name == 'a' else 4, True)
os.environ.update(LISTEN_FDS='2', LISTEN_FDNAMES='native')
os.execv('${process.execPath}', ['node', '--input-type=module', '-e', os.environ['SCRIPT']])`;
    const printed = execFileSync('python3', ['-c', parent], {
      env: { ...process.env, SCRIPT: script, SOCKET: `${path}b` },
      encoding: 'utf8',
    });
    expect(JSON.parse(printed)).toEqual({
      taken: [
        { fd: 3, name: 'native' },
        { fd: 4, name: '' },
      ],
      again: [],
      inherited: '',
      data: 'served',
    });
    expect(takeListenDescriptors({ LISTEN_PID: '1', LISTEN_FDS: '1' })).toEqual([]);
    expect(takeListenDescriptors({})).toEqual([]);
  });
});

/** Mount points of the two kinds of hierarchy on this machine that can freeze. */
const hierarchies = readMountinfo().filter(
  ({ fsType, superOptions }) => fsType === 'cgroup2' || superOptions.includes(bytesOf('freezer')),
);

describeWith('cgroups', [needsRoot()], () => {
  it.each(hierarchies.map(({ mountPoint }) => mountPoint))('freeze and thaw (%s)', async (root) => {
    const name = `layerd-test-${process.pid}`;
    const cgroup = join(root, name, 'inner');
    mkdirSync(cgroup, { recursive: true });
    onTestFinished(() => {
      rmdirSync(cgroup);
      rmdirSync(join(root, name));
    });
    const counter = join(scratch(), 'count');
    const child = await start('sh', '-c', `echo ready; while :; do echo x >> ${counter}; sleep 0.01; done`);
    writeFileSync(join(cgroup, 'cgroup.procs'), String(child.pid));
    expect(cgroupOf(child.pid ?? 0)).toBe(cgroup);

    const size = (): number => statSync(counter).size;
    const thaw = freezeCgroup(`/${name}/inner/`);
    const frozen = size();
    await sleep(100);
    expect(size()).toBe(frozen);
    const inner = freezeCgroup(cgroup);
    inner();
    await sleep(50);
    expect(size()).toBe(frozen);
    thaw();
    await expect.poll(size).toBeGreaterThan(frozen);
    child.kill('SIGKILL');
    await once(child, 'exit');
    await expect.poll(() => readFileSync(join(cgroup, 'cgroup.procs'), 'utf8')).toBe('');
  });

  it('are refused where they hold this process or do not exist', () => {
    expect(hierarchies).not.toEqual([]);
    for (const cgroup of ['/', '', '/..', '/no/such/cgroup', join(hierarchies[0]?.mountPoint ?? '', '/')]) {
      expect(() => freezeCgroup(cgroup), cgroup).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    }
  });
});
