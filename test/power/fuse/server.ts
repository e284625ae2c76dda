/**
 * A disk as a process: one file, `disk`, in a FUSE file system, with a write cache (write-cache.ts). It runs beside the
 * tests, so that nothing that waits for the disk can keep the disk from answering. Arguments: the file that holds the
 * disk's content, the mount point, 'heeds' or 'ignores' flushes. It is told by messages (client.ts) what to do.
 */
import { closeSync, constants, fstatSync, openSync, read, writevSync } from 'node:fs';
import { bytesOf } from '../../../src/core/bytes.js';
import { isErrno } from '../../../src/core/errors.js';
import { mount } from '../../../src/linux/mount.js';
import { Random } from '../random.js';
import { cloneTo } from '../stage.js';
import type { Injection, Order, Reply } from './client.js';
import * as fuse from './protocol.js';
import { WriteCache, type Choose } from './write-cache.js';

const [, , backing = '', mountPoint = '', flushes = ''] = process.argv;
const backingFd = openSync(backing, 'r+');
const size = fstatSync(backingFd).size;
const cache = new WriteCache(backingFd);
const device = openSync('/dev/fuse', constants.O_RDWR);
const request = Buffer.alloc(fuse.REQUEST_BYTES);
let injection: (Injection & { seen: number }) | null = null;

mount({
  source: bytesOf('layerd-disk'),
  target: bytesOf(mountPoint),
  type: 'fuse',
  flags: 0,
  data: bytesOf(`fd=${device},rootmode=40000,user_id=0,group_id=0`),
});
process.on('message', ({ id, order }: { id: number; order: Order }) => obey(id, order));
serve();
tell({ id: 0, error: null });

function serve(): void {
  read(device, request, 0, request.length, null, (error, length) => {
    // Unmounted: there is nothing left to do.
    if (error !== null && isErrno(error, 'ENODEV')) process.exit(0);
    // A request may be taken back while it is read.
    if (error !== null && !isErrno(error, 'ENOENT', 'EINTR', 'EAGAIN')) throw error;
    if (error === null) reply(fuse.parseRequest(request.subarray(0, length)));
    serve();
  });
}

function reply(asked: fuse.Request): void {
  const { opcode } = asked;
  if (opcode === fuse.OPCODE.forget || opcode === fuse.OPCODE.batchForget || opcode === fuse.OPCODE.interrupt) return;
  const errno = injected(opcode);
  const body = errno === 0 ? carryOut(asked) : null;
  writevSync(
    device,
    body === null ? fuse.answer(asked.unique, errno === 0 ? ENOSYS : errno) : fuse.answer(asked.unique, 0, body),
  );
}

const ENOSYS = 38;

/** The body of the answer; null for what this disk does not have. */
function carryOut(asked: fuse.Request): Buffer | null {
  switch (asked.opcode) {
    case fuse.OPCODE.init:
      return fuse.initBody();
    case fuse.OPCODE.lookup:
      // a node of 0 says that there is none of that name
      return fuse.entryBody(fuse.nameOf(asked) === 'disk' ? fuse.FILE_NODE : 0n, size);
    case fuse.OPCODE.getattr:
      return fuse.attrBody(asked.node, size);
    case fuse.OPCODE.open:
    case fuse.OPCODE.opendir:
      return fuse.openBody(asked.opcode === fuse.OPCODE.open);
    case fuse.OPCODE.read: {
      const range = fuse.rangeOf(asked);
      return cache.read(range.offset, Math.min(range.size, size - range.offset));
    }
    case fuse.OPCODE.write: {
      const range = fuse.rangeOf(asked);
      cache.write(range.offset, fuse.dataOf(asked));
      return fuse.writeBody(range.size);
    }
    case fuse.OPCODE.fsync:
      if (flushes === 'heeds') cache.flush();
      return Buffer.alloc(0);
    case fuse.OPCODE.statfs:
      return fuse.statfsBody(size);
    case fuse.OPCODE.flush:
    case fuse.OPCODE.release:
    case fuse.OPCODE.releasedir:
      return Buffer.alloc(0);
    default:
      return null;
  }
}

/** The errno that this request is to fail with, or 0. */
function injected(opcode: number): number {
  if (injection === null || fuse.OPCODE[injection.request] !== opcode) return 0;
  const turn = injection.seen - injection.after;
  injection.seen += 1;
  return turn >= 0 && turn < injection.times ? injection.errno : 0;
}

function obey(id: number, order: Order): void {
  try {
    if ('inject' in order) injection = { ...order.inject, seen: 0 };
    else cut(order.cut.to, new Random(order.cut.seed));
    tell({ id, error: null });
  } catch (thrown) {
    tell({ id, error: String(thrown) });
  }
}

function cut(to: string, random: Random): void {
  cloneTo(backing, to);
  const fd = openSync(to, 'r+');
  try {
    cache.settle(fd, chooser(random));
  } finally {
    closeSync(fd);
  }
}

/** Sometimes nothing of the cache is kept, sometimes nearly all of it; each block is for itself. */
function chooser(random: Random): Choose {
  const share = random.pick([0, random.fraction(), random.fraction(), 0.97]) ?? 0;
  return (versions) => (random.chance(share) ? random.below(versions) : -1);
}

function tell(message: Reply): void {
  process.send?.(message);
}
