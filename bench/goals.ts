/** The goals for this kind of machine, each held against what one run found. A goal that was not measured is not told. */
import { columns, median, shown, type Figure } from './harness.js';

interface Verdict {
  goal: string;
  what: string;
  asked: string;
  found: string;
  /** Null: nothing was asked, the figure stands beside. */
  met: boolean | null;
}

const FORMS = ['gzip', 'plain'] as const;
const IMPORT_FLOOR = 'floor: inflate, hash, write';
const EXTRACTION = 'floor: tar -x';
const DURABLE_EXTRACTION = 'floor: tar -x, sync';
/** Unpacks into one tree: there are no layers afterwards that a second image could share, or that could be given out again. */
const KEEPS_NO_LAYERS = 'umoci (unpack)';
const CYCLE_FLOOR = 'floor: system calls';
const COMMIT_FLOOR = 'floor: read, hash, write';
const BASE = 'debian-node';
const MANY_LAYERS = 'deep';
/** How often as fast as the fastest peer an import is to be. */
const TIMES_PEER = new Map<string, { erofs: number; overlay2?: number }>([
  ['debian-node', { erofs: 5, overlay2: 2.5 }],
  ['smallfiles', { erofs: 5, overlay2: 2.5 }],
  ['bigfile', { erofs: 4 }],
  ['deep', { erofs: 3 }],
]);
const MOST_OF_IMPORT_FLOOR = 1.25;
const MOST_OF_EXTRACTION_CPU = 1.3;
const CLIENTS: readonly { clients: number; pairs: number }[] = [
  { clients: 1, pairs: 2 },
  { clients: 8, pairs: 1.5 },
  { clients: 32, pairs: 1.5 },
];
const LOAD_MB = 256;

/** A table of the goals that the figures speak of. */
export function verdicts(figures: readonly Figure[]): string {
  const found = new Findings(figures);
  const rows = [
    ...imports(found),
    ...containers(found),
    ...commits(found),
    ...flat(found),
    ...underLoad(found),
    ...afterUnpacking(found),
    ...atHand(found),
  ];
  const cells = rows.map(({ goal, what, asked, found: value, met }) => [
    goal,
    what,
    asked,
    value,
    met === null ? '' : met ? 'met' : 'NOT MET',
  ]);
  return cells.length === 0 ? '' : columns([['GOAL', 'WHAT', 'ASKED', 'FOUND', 'VERDICT'], ...cells]);
}

class Findings {
  private readonly figures: readonly Figure[];

  constructor(figures: readonly Figure[]) {
    this.figures = figures;
  }

  get fixtures(): string[] {
    return [...new Set(this.figures.map(({ fixture }) => fixture))];
  }

  /** The median; null where it was not measured. */
  of(scenario: string, by: string, fixture: string): number | null {
    const figure = this.figures.find((f) => f.scenario === scenario && f.driver === by && f.fixture === fixture);
    return figure === undefined ? null : median(figure.runs);
  }

  /** The least of whoever is neither layerd nor a floor, and has layers afterwards as layerd has. */
  fastestPeer(scenario: string, fixture: string): { by: string; ms: number } | null {
    const peers = this.figures
      .filter((f) => f.scenario === scenario && f.fixture === fixture && !/^(layerd|floor)/.test(f.driver))
      .filter((f) => f.driver !== KEEPS_NO_LAYERS)
      .map((f) => ({ by: f.driver, ms: median(f.runs) }))
      .sort((a, b) => a.ms - b.ms);
    return peers[0] ?? null;
  }

  /** The most of a scenario whose name starts so, over all fixtures. */
  most(start: string, by: string): number | null {
    const runs = this.figures.filter((f) => f.scenario.startsWith(start) && f.driver === by).flatMap((f) => f.runs);
    return runs.length === 0 ? null : Math.max(...runs);
  }
}

function* imports(found: Findings): Generator<Verdict> {
  for (const [fixture, factors] of TIMES_PEER) {
    for (const form of FORMS) {
      const scenario = `import (${form})`;
      const peer = found.fastestPeer(scenario, fixture);
      for (const [driver, factor] of Object.entries(factors)) {
        const ms = found.of(scenario, `layerd ${driver}`, fixture);
        const what = `${driver}: ${fixture}, ${form}`;
        if (ms !== null && peer !== null) {
          yield least(driver === 'erofs' ? '1' : '2', `${what}, times ${peer.by}`, factor, peer.ms / ms);
        }
      }
      const erofs = found.of(scenario, 'layerd erofs', fixture);
      const unpacked = found.of(scenario, KEEPS_NO_LAYERS, fixture);
      if (erofs !== null && unpacked !== null) {
        const what = `erofs: ${fixture}, ${form}, times ${KEEPS_NO_LAYERS}, which keeps no layers`;
        yield beside('1', what, unpacked / erofs);
      }
      const floor = found.of(scenario, IMPORT_FLOOR, fixture);
      if (erofs !== null && floor !== null) {
        yield most(
          '1',
          `erofs: ${fixture}, ${form}, of the floor of ${shown(floor)} ms`,
          MOST_OF_IMPORT_FLOOR,
          erofs / floor,
        );
      }
      if (factors.overlay2 !== undefined) yield* durableExtraction(found, fixture, form);
      yield* extraction(found, fixture, form);
      for (const driver of ['erofs', 'overlay2']) {
        const again = found.of(`import again (${form})`, `layerd ${driver}`, fixture);
        if (again !== null) yield most('3', `${driver}: ${fixture}, ${form}, already there, ms`, 100, again);
      }
    }
  }
}

/** How often as fast as the fastest peer extraction by one thread is when it ends on the disk, nothing hashed. */
function* durableExtraction(found: Findings, fixture: string, form: string): Generator<Verdict> {
  const scenario = `import (${form})`;
  const [peer, tar] = [found.fastestPeer(scenario, fixture), found.of(scenario, DURABLE_EXTRACTION, fixture)];
  if (peer === null || tar === null) return;
  const what = `${DURABLE_EXTRACTION.replace('floor: ', '')}: ${fixture}, ${form}, times ${peer.by}`;
  yield beside('2', what, peer.ms / tar);
}

function* extraction(found: Findings, fixture: string, form: string): Generator<Verdict> {
  const scenario = `processor time of an import (${form})`;
  const ours = found.of(scenario, 'layerd overlay2', fixture);
  const tar = found.of(scenario, EXTRACTION, fixture);
  const hashing = found.of(`hashing (${form})`, IMPORT_FLOOR, fixture);
  if (ours === null || tar === null || hashing === null) return;
  const what = `overlay2: ${fixture}, ${form}, processor time, of extraction and hashing`;
  yield most('2', what, MOST_OF_EXTRACTION_CPU, ours / (tar + hashing));
}

function* containers(found: Findings): Generator<Verdict> {
  yield* containersBy('layerd erofs', 'HTTP', found);
  yield* containersBy('layerd erofs (gRPC)', 'gRPC', found);
}

function* containersBy(by: string, door: string, found: Findings): Generator<Verdict> {
  for (const { clients, pairs } of CLIENTS) {
    const of = (scenario: string, who: string, fixture = BASE): number | null =>
      found.of(`${scenario}, ${clients} client(s)`, who, fixture);
    const ours = of('prepare and remove', by);
    const theirs = of('prepare and remove', 'containerd');
    const [p50, p99, peerP50] = [of('prepare p50', by), of('prepare p99', by), of('prepare p50', 'containerd')];
    const what = (text: string): string => `${door}: ${text}, ${clients} client(s)`;
    if (p50 !== null && peerP50 !== null) yield most('4', what('prepare p50, of containerd’s'), 1, p50 / peerP50);
    if (p50 !== null && p99 !== null) yield most('4', what('prepare p99, of its p50'), 5, p99 / p50);
    if (ours !== null && theirs !== null)
      yield least('4', what('prepare and remove, times containerd'), pairs, ours / theirs);
    const [whole, peer, bare] = [
      of('whole cycle', by),
      of('whole cycle', 'containerd'),
      of('whole cycle', CYCLE_FLOOR),
    ];
    if (whole !== null && peer !== null) yield least('4', what('whole cycle, times containerd'), 1, whole / peer);
    if (whole !== null && bare !== null) yield least('4', what('whole cycle, of bare system calls'), 0.7, whole / bare);
    const deep = of('whole cycle', by, MANY_LAYERS);
    const bareDeep = of('whole cycle', CYCLE_FLOOR, MANY_LAYERS);
    const floor = bareDeep === null || bare === null ? '' : ` (bare system calls: ${shown(bareDeep / bare)})`;
    if (whole !== null && deep !== null) {
      yield least('4', what(`124 layers, of the rate with 6${floor}`), 0.75, deep / whole);
    }
    const stat = of('stat p50', by);
    // by several clients at once a call's time is mostly that of the others
    if (clients === 1 && stat !== null) yield* callsAlone(stat, { theirs, bare, calls: door === 'HTTP' ? 4 : 2, what });
  }
}

/**
 * What calls that do nothing would reach, each in the time of one that reads a row: the client and the way to the daemon
 * are in all of them.
 */
function* callsAlone(
  statMs: number,
  {
    theirs,
    bare,
    calls,
    what,
  }: { theirs: number | null; bare: number | null; calls: number; what: (text: string) => string },
): Generator<Verdict> {
  if (theirs !== null) {
    const text = what('two calls that do nothing, times containerd’s prepare and remove');
    yield beside('4', text, 1000 / theirs / (2 * statMs));
  }
  if (bare !== null) {
    const bareMs = 1000 / bare;
    const text = what(`bare system calls and ${calls} calls that do nothing, of bare system calls`);
    yield beside('4', text, bareMs / (bareMs + calls * statMs));
  }
}

function* commits(found: Findings): Generator<Verdict> {
  const by = 'layerd erofs';
  for (const fixture of found.fixtures) {
    for (const what of ['changes of 100 changes', 'commit of 100 changes']) {
      const ms = found.of(what, by, fixture);
      if (ms !== null) yield most('5', `${fixture}: ${what}, ms`, 50, ms);
    }
    const [large, floor] = [
      found.of('commit of 20000 new files', by, fixture),
      found.of('commit of 20000 new files', COMMIT_FLOOR, fixture),
    ];
    if (large !== null && floor !== null) {
      yield most(
        '5',
        `${fixture}: commit of 20,000 files, of the floor of ${shown(floor)} ms`,
        MOST_OF_IMPORT_FLOOR,
        large / floor,
      );
    }
  }
}

function* flat(found: Findings): Generator<Verdict> {
  const by = 'layerd erofs';
  const steps = ['prepare', 'stat', 'remove'].flatMap((step) => [step, `${step} by gRPC`]);
  for (const step of [...steps, 'commit', 'gc of nothing', 'gc of 100 containers', 'gc of 12 layers']) {
    const [empty, full] = [found.of(step, by, 'an empty store'), found.of(step, by, 'a full store')];
    if (empty !== null && full !== null) yield most('6', `${step} in a full store, of an empty one`, 1.2, full / empty);
  }
  const start = found.of('start', by, 'a full store');
  if (start !== null) yield most('6', 'start with a full store, ms', 1000, start);
  for (const when of ['resident, idle', 'resident, idle after use']) {
    const idle = found.of(when, by, 'a full store');
    if (idle !== null) yield most('6', `${when} with a full store, MB`, 130, idle);
  }
  for (const driver of ['erofs', 'overlay2']) {
    const peak = found.most('peak memory', `layerd ${driver}`);
    if (peak !== null) yield most('6', `${driver}: peak memory of this run, MB`, LOAD_MB, peak);
  }
}

function* underLoad(found: Findings): Generator<Verdict> {
  const [by, fixture] = ['layerd erofs', 'bigfile'];
  const prepare = found.of('prepare p99 under load', by, fixture);
  const bare = found.of('bare fdatasync p99 under load', by, fixture);
  if (prepare === null || bare === null) return;
  const limit = Math.max(20, 2 * bare);
  yield most('7', `prepare p99 under load, ms (bare fdatasync: ${shown(bare)} ms)`, limit, prepare);
}

function* afterUnpacking(found: Findings): Generator<Verdict> {
  for (const fixture of found.fixtures) {
    const p99 = found.of('commit after unpacking p99', 'layerd erofs', fixture);
    if (p99 !== null) yield most('7', `${fixture}: commit after unpacking by containerd, p99, ms`, 100, p99);
  }
}

function* atHand(found: Findings): Generator<Verdict> {
  const [by, fixture] = ['layerd erofs', 'an empty store'];
  const cli = found.of('layerctl beyond bare node', by, fixture);
  if (cli !== null) yield most('8', 'layerctl beyond bare node, ms', 100, cli);
  const start = found.of('start', by, fixture);
  if (start !== null) yield most('8', 'start on an empty store, ms', 500, start);
}

function least(goal: string, what: string, asked: number, value: number): Verdict {
  return { goal, what, asked: `≥ ${shown(asked)}`, found: shown(value), met: value >= asked };
}

function most(goal: string, what: string, asked: number, value: number): Verdict {
  return { goal, what, asked: `≤ ${shown(asked)}`, found: shown(value), met: value <= asked };
}

/** A figure of which nothing is asked. */
function beside(goal: string, what: string, value: number): Verdict {
  return { goal, what, asked: '', found: shown(value), met: null };
}
