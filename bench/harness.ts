/** Measuring: medians of several runs, each from the same state, and tables of them. */
import { readFileSync } from 'node:fs';

/** One figure of the bench: what was measured on what, and its runs. */
export interface Figure {
  scenario: string;
  driver: string;
  fixture: string;
  unit: 'ms' | 's' | 'MB' | 'per second';
  runs: number[];
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? upper) + upper) / 2;
}

/** The value below which `share` of the values lie. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export async function timed(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

/** Runs `work` `total` times, `clients` at once; returns the milliseconds of each and of all. */
export async function concurrently(
  clients: number,
  total: number,
  work: (index: number) => Promise<void>,
): Promise<{ each: number[]; all: number }> {
  const each: number[] = [];
  let next = 0;
  const all = await timed(() =>
    Promise.all(
      Array.from({ length: clients }, async () => {
        while (next < total) {
          const index = next++;
          each.push(await timed(() => work(index)));
        }
      }),
    ),
  );
  return { each, all };
}

/** Resident memory of a process, MB. */
export function residentMb(pid: number): number {
  const [, kb = '0'] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kb) / 1024;
}

/** Figures as lines for people, medians first, the range behind. */
export function table(figures: readonly Figure[]): string {
  const rows = figures.map((figure) => [
    figure.driver,
    figure.fixture,
    figure.scenario,
    `${shown(median(figure.runs))} ${figure.unit}`,
    figure.runs.length > 1 ? `(${shown(Math.min(...figure.runs))} – ${shown(Math.max(...figure.runs))})` : '',
  ]);
  const header = ['DRIVER', 'FIXTURE', 'SCENARIO', 'MEDIAN', 'RANGE'];
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const lines = [header, ...rows].map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  '));
  return `${lines.map((line) => line.trimEnd()).join('\n')}\n`;
}

function shown(value: number): string {
  if (value >= 100) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : 2);
}
