/** Progress of long operations on standard error: bars on a terminal, else a line for each step that is done. */
import type { Progress } from '../core/words.js';
import { bytes, clock, shortId } from './format.js';

/** What is written to; process.stderr, or a test's. */
export interface Screen {
  isTTY?: boolean;
  columns?: number;
  rows?: number;
  write(text: string): unknown;
}

interface Step extends Progress {
  began: number;
  /** `done` when the step was first seen: what was there already does not count for the rate. */
  from: number;
}

const REDRAW_MS = 100;
/** Of a bar: as wide as the line leaves room for what stands beside it. */
const BAR_WIDTH = { least: 8, most: 24 };
/** Phases whose numbers are things, not bytes. */
const COUNTED = new Set<Progress['phase']>(['gc']);

export class ProgressView {
  private readonly screen: Screen;
  private readonly now: () => number;
  private readonly steps = new Map<string, Step>();
  private readonly told = new Set<string>();
  private drawn = 0;
  private lastDraw = Number.NEGATIVE_INFINITY;

  constructor(screen: Screen, now: () => number = () => performance.now()) {
    this.screen = screen;
    this.now = now;
  }

  update(progress: Progress): void {
    const key = `${progress.phase} ${progress.subject}`;
    // its turn has come
    if (progress.phase !== 'queue') this.steps.delete(`queue ${progress.subject}`);
    const seen = this.steps.get(key);
    this.steps.set(key, { ...progress, began: seen?.began ?? this.now(), from: seen?.from ?? progress.done });
    if (this.screen.isTTY === true) this.draw(false);
    else this.tell(key, progress);
  }

  /** Leaves the last state on the screen. */
  end(): void {
    if (this.screen.isTTY === true && this.steps.size > 0) this.draw(true);
  }

  /** On a pipe: one line when a step is finished. */
  private tell(key: string, progress: Progress): void {
    if (!isDone(progress) || this.told.has(key)) return;
    this.told.add(key);
    this.screen.write(`${label(progress)}: ${amount(progress.done, progress)}\n`);
  }

  private draw(now: boolean): void {
    if (!now && this.now() - this.lastDraw < REDRAW_MS) return;
    this.lastDraw = this.now();
    const width = sizeOr(this.screen.columns, 80) - 1;
    // no more lines than fit: what scrolled away cannot be drawn again; what is done gives way first
    const room = Math.max(1, sizeOr(this.screen.rows, 24) - 1);
    const steps = [...this.steps.values()];
    const surplus = steps.length - room;
    const leaving = new Set(steps.filter(isDone).slice(0, Math.max(0, surplus)));
    const shown = steps.filter((step) => !leaving.has(step)).slice(-room);
    const lines = shown.map((step) => `${this.line(step, width).slice(0, width)}\u001b[K\n`);
    const up = this.drawn === 0 ? '' : `\u001b[${this.drawn}A`;
    this.screen.write(`${up}${lines.join('')}\u001b[J`);
    this.drawn = lines.length;
  }

  private line(step: Step, width: number): string {
    const { phase, done, total } = step;
    const name = label(step).padEnd(22);
    if (phase === 'queue') return `${name} waits for its turn`;
    if (TOLD.has(phase)) return `${name} ${amount(done, step)}`;
    const seconds = (this.now() - step.began) / 1000;
    const rate = seconds > 0 ? (done - step.from) / seconds : 0;
    if (total === null) return `${name} ${amount(done, step)}${rateText(rate, step)}`;
    if (isDone(step)) return withBar(name, 1, amount(done, step), width);
    const left = rate > 0 ? `  ${clock((total - done) / rate)} left` : '';
    const fraction = total === 0 ? 1 : done / total;
    const numbers = `${amount(done, step)}/${amount(total, step)}${rateText(rate, step)}${left}`;
    return withBar(name, fraction, numbers, width);
  }
}

/** A terminal that does not know its size says 0, or nothing. */
function sizeOr(size: number | undefined, fallback: number): number {
  return size === undefined || size === 0 ? fallback : size;
}

/** What is told once, when it happens. */
const TOLD = new Set<Progress['phase']>(['image', 'present', 'resume', 'wait']);

function isDone({ done, total, phase }: Progress): boolean {
  return TOLD.has(phase) || (total !== null && done >= total);
}

function label({ phase, subject }: Progress): string {
  return subject === '' ? phase : `${phase} ${shortId(MEMBER.exec(subject)?.[1] ?? subject)}`;
}

/** Members of archives that streams name before their digests are known: `blobs/sha256/HEX`, `HEX/layer.tar`. */
const MEMBER = /(?:^|\/)([0-9a-f]{64})(?:\/layer\.tar|\.tar)?$/;

function amount(count: number, { phase }: Progress): string {
  if (phase === 'image') return 'complete';
  if (phase === 'present') return 'already there';
  if (phase === 'resume') return `goes on behind ${bytes(count)}`;
  if (phase === 'wait') return `tried again in ${Math.ceil(count / 1000)} s`;
  return COUNTED.has(phase) ? String(count) : bytes(count);
}

function rateText(rate: number, { phase }: Progress): string {
  return rate > 0 && !COUNTED.has(phase) ? `  ${bytes(rate)}/s` : '';
}

function withBar(name: string, fraction: number, numbers: string, width: number): string {
  const room = width - name.length - numbers.length - '[] '.length - 1;
  const length = Math.max(BAR_WIDTH.least, Math.min(BAR_WIDTH.most, room));
  const filled = Math.round(Math.min(1, fraction) * length);
  const head = filled < length ? '>' : '';
  const bar = `${'='.repeat(Math.max(0, filled - head.length))}${head}`.padEnd(length);
  return `${name} [${bar}] ${numbers}`;
}
