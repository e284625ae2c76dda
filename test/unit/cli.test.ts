/** The parts of the command line that need no daemon. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { advised, labels } from '../../src/cli/cli.js';
import { EXIT, exitCodeOf, UsageError } from '../../src/cli/exit-codes.js';
import { age, bytes, clock, facts, shortId, table } from '../../src/cli/format.js';
import { drawTree } from '../../src/cli/layers.js';
import { ProgressView } from '../../src/cli/progress.js';
import { sha256 } from '../../src/core/digest.js';
import { LayerdError } from '../../src/core/errors.js';
import type { LayerTreeNode, Progress } from '../../src/core/words.js';

function node(name: string, children: LayerTreeNode[], images: string[] = []): LayerTreeNode {
  return { chainId: sha256(name), diffId: sha256(name), size: 1, images, containers: [], children };
}

function id(name: string): string {
  return shortId(sha256(name));
}

describe('format', () => {
  it('writes sizes with three digits', () => {
    const cases: [number, string][] = [
      [0, '0 B'],
      [999, '999 B'],
      [1_000, '1.00 kB'],
      [9_994, '9.99 kB'],
      [9_995, '10.0 kB'],
      [99_949, '99.9 kB'],
      [99_950, '100 kB'],
      [999_499, '999 kB'],
      [999_500, '1.00 MB'],
      [1.5e9, '1.50 GB'],
    ];
    for (const [count, text] of cases) expect(bytes(count)).toBe(text);
    fc.assert(
      fc.property(fc.nat({ max: 1e15 }), (count) => {
        expect(bytes(count)).toMatch(/^(\d{1,3}|\d\d?\.\d{1,2}) [kMGTP]?B$/);
      }),
    );
  });

  it('writes times', () => {
    const now = 1e12;
    expect(age(now, now)).toBe('0 seconds ago');
    expect(age(now - 1_000, now)).toBe('1 second ago');
    expect(age(now - 119_000, now)).toBe('119 seconds ago');
    expect(age(now - 120_000, now)).toBe('2 minutes ago');
    expect(age(now - 3 * 3_600_000, now)).toBe('3 hours ago');
    expect(age(now - 800 * 86_400_000, now)).toBe('2 years ago');
    expect(age(now + 300_000, now)).toBe('in 5 minutes');
    expect([0.2, 59, 60, 3_599, 3_600].map(clock)).toEqual(['0:01', '0:59', '1:00', '59:59', '1:00:00']);
  });

  it('shortens ids, and nothing else', () => {
    expect(shortId(sha256('x'))).toMatch(/^[0-9a-f]{12}$/);
    expect(shortId('docker.io/library/busybox:latest')).toBe('docker.io/library/busybox:latest');
  });

  it('aligns columns', () => {
    const rows = [
      { name: 'a', size: 5 },
      { name: 'longer', size: 1000 },
    ];
    expect(
      table(rows, [
        { title: 'NAME', value: ({ name }) => name },
        { title: 'SIZE', value: ({ size }) => String(size), right: true },
      ]),
    ).toBe('NAME     SIZE\na           5\nlonger   1000\n');
    expect(
      facts([
        ['a', '1'],
        ['long', '2'],
      ]),
    ).toBe('a:    1\nlong: 2\n');
  });

  it('draws trees', () => {
    const tree = [node('base', [node('a', [node('b', [], ['b:1'])], ['a:1', 'a:2']), node('c', [])])];
    expect(drawTree(tree)).toBe(
      `${id('base')}  1 B\n├─ ${id('a')}  1 B  a:1, a:2\n│  └─ ${id('b')}  1 B  b:1\n└─ ${id('c')}  1 B\n`,
    );
  });

  it('reads labels', () => {
    expect(labels(['a=b', 'c', 'd=e=f', '='])).toEqual({ a: 'b', c: '', d: 'e=f', '': '' });
  });
});

describe('exit codes', () => {
  it('follow from the kind of error', () => {
    expect(exitCodeOf(new LayerdError('IMAGE_NOT_FOUND', ''))).toBe(EXIT.notFound);
    expect(exitCodeOf(new LayerdError('IMAGE_IN_USE', ''))).toBe(EXIT.conflict);
    expect(exitCodeOf(new LayerdError('MOUNT_BUSY', ''))).toBe(EXIT.conflict);
    expect(exitCodeOf(new LayerdError('DAEMON_UNREACHABLE', ''))).toBe(EXIT.unreachable);
    expect(exitCodeOf(new LayerdError('REGISTRY_UNREACHABLE', ''))).toBe(EXIT.error);
    expect(exitCodeOf(new LayerdError('REGISTRY_LIMITED', ''))).toBe(EXIT.error);
    expect(exitCodeOf(new LayerdError('LAYER_DAMAGED', ''))).toBe(EXIT.damage);
    expect(exitCodeOf(new LayerdError('INVALID_ARGUMENT', ''))).toBe(EXIT.error);
    expect(exitCodeOf(new UsageError(''))).toBe(EXIT.usage);
    expect(exitCodeOf(new LayerdError('CANCELLED', ''))).toBe(EXIT.interrupted);
  });
});

describe('advice', () => {
  it('takes the place of the hint of the errors that it is for, and leaves the rest', async () => {
    const busy = new LayerdError('MOUNT_BUSY', 'in use', { details: { path: '/x' }, hint: 'force' });
    const told = { code: 'MOUNT_BUSY', message: 'in use', details: { path: '/x' } };
    await expect(advised(Promise.reject(busy), { MOUNT_BUSY: '-f' })).rejects.toMatchObject({ ...told, hint: '-f' });
    await expect(advised(Promise.reject(busy), { LEASE_NOT_FOUND: '-f' })).rejects.toBe(busy);
    expect(await advised(Promise.resolve(1), { MOUNT_BUSY: '-f' })).toBe(1);
  });
});

/** A view, the clock that it reads, and what it wrote. */
function view(
  tty: boolean,
  rows = 24,
  columns = 100,
): { view: ProgressView; tick: (ms: number) => void; written: () => string } {
  let now = 0;
  let text = '';
  const screen = { isTTY: tty, columns, rows, write: (more: string) => (text += more) };
  return { view: new ProgressView(screen, () => now), tick: (ms) => (now += ms), written: () => text };
}

describe('progress', () => {
  const layer = sha256('layer');
  const step = (done: number, total: number | null, more: Partial<Progress> = {}): Progress => ({
    phase: 'layer',
    subject: layer,
    done,
    total,
    ...more,
  });

  it('is one plain line for each step that is done, on a pipe', () => {
    const { view: shown, written } = view(false);
    shown.update(step(10, 100));
    shown.update(step(100, 100));
    shown.update(step(100, 100));
    shown.update(step(0, null, { phase: 'present', subject: sha256('other') }));
    shown.end();
    expect(written()).toBe(`layer ${shortId(layer)}: 100 B\npresent ${shortId(sha256('other'))}: already there\n`);
  });

  it('tells what waits for its turn, until that comes', () => {
    const { view: shown, tick, written } = view(true);
    shown.update(step(0, 100, { phase: 'queue' }));
    expect(written()).toContain(`queue ${shortId(layer)}`.padEnd(22) + ' waits for its turn');
    tick(200);
    const before = written().length;
    shown.update(step(50, 100));
    expect(written().slice(before)).not.toContain('queue');
    const { view: piped, written: lines } = view(false);
    piped.update(step(0, 100, { phase: 'queue' }));
    piped.end();
    expect(lines()).toBe('');
  });

  it('shortens what members of archives are called', () => {
    const { view: shown, written } = view(false);
    const hex = layer.slice('sha256:'.length);
    for (const subject of [`blobs/sha256/${hex}`, `${hex}/layer.tar`, 'layers/app.tar']) {
      shown.update(step(1, 1, { subject }));
    }
    const short = shortId(layer);
    expect(written()).toBe(`layer ${short}: 1 B\nlayer ${short}: 1 B\nlayer layers/app.tar: 1 B\n`);
  });

  it('shows bytes, rate and time left on a terminal', () => {
    const { view: shown, tick, written } = view(true);
    shown.update(step(0, 4_000_000));
    tick(1_000);
    shown.update(step(1_000_000, 4_000_000));
    expect(written()).toContain('[=====>                  ] 1.00 MB/4.00 MB  1.00 MB/s  0:03 left');
    tick(10);
    const before = written();
    shown.update(step(2_000_000, 4_000_000));
    expect(written()).toBe(before);
    shown.update(step(4_000_000, 4_000_000));
    shown.end();
    expect(written().endsWith(`[${'='.repeat(24)}] 4.00 MB\u001b[K\n\u001b[J`)).toBe(true);
  });

  it('makes bars shorter where the line has no room for rate and time left', () => {
    const { view: shown, tick, written } = view(true, 24, 80);
    shown.update(step(0, 1_073_741_824));
    tick(10_000);
    shown.update(step(536_870_912, 1_073_741_824));
    const text = written();
    const line = text.slice(text.lastIndexOf('layer '), text.lastIndexOf('\u001b[K'));
    expect(line.length).toBeLessThan(80);
    expect(line).toMatch(/\[=+> +\] 537 MB\/1\.07 GB {2}53\.7 MB\/s {2}0:10 left$/);
  });

  it('takes a terminal without a size for one of 80 columns', () => {
    const { view: shown, tick, written } = view(true, 0, 0);
    shown.update(step(0, 4_000_000));
    tick(1_000);
    shown.update(step(1_000_000, 4_000_000));
    shown.update(step(5, 10, { subject: sha256('other') }));
    shown.end();
    expect(written()).toContain('1.00 MB/4.00 MB  1.00 MB/s');
    expect(written().endsWith('\u001b[J')).toBe(true);
    expect(written().split('\u001b[1A').at(-1)?.match(/\n/g)).toHaveLength(2);
  });

  it('never draws more lines than fit, and drops those that are done first', () => {
    const { view: shown, tick, written } = view(true, 4);
    for (let i = 0; i < 6; i++) {
      tick(200);
      shown.update(step(i < 3 ? 10 : 5, 10, { subject: sha256(`${i}`) }));
    }
    tick(200);
    const before = written().length;
    shown.end();
    const frame = written().slice(before);
    expect(frame.startsWith('\u001b[3A')).toBe(true);
    expect(frame.match(/\n/g)).toHaveLength(3);
    for (let i = 3; i < 6; i++) expect(frame).toContain(shortId(sha256(`${i}`)));
  });
});
