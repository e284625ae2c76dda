/** Measuring: medians of several runs, each from the same state, and tables of them. */
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './fixtures/shell.js';

/** One figure of the bench: what was measured on what, and its runs. */
export interface Figure {
  scenario: string;
  driver: string;
  fixture: string;
  unit: 'µs' | 'ms' | 's' | 'MB' | 'per second' | 'of them';
  runs: number[];
}

/** Figures as they are measured, in the order of their first run. */
export class Figures {
  private readonly figures = new Map<string, Figure>();

  add(scenario: string, driver: string, fixture: string, unit: Figure['unit'], value: number): void {
    const key = `${scenario}\n${driver}\n${fixture}`;
    const figure = this.figures.get(key) ?? { scenario, driver, fixture, unit, runs: [] };
    this.figures.set(key, figure);
    figure.runs.push(value);
  }

  all(): Figure[] {
    return [...this.figures.values()];
  }
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

/** What a script took, all its processes: milliseconds, and those that processors were busy for it. */
export interface ScriptTime {
  ms: number;
  cpuMs: number;
}

/** Runs a script of bash, which prints nothing, with these arguments. */
export async function timedScript(script: string, args: readonly string[] = [], cwd = '/'): Promise<ScriptTime> {
  const measured = `TIMEFORMAT='%3R %3U %3S'; exec 3>&2; { time { ${script}; } 2>&3; } 2>&1`;
  const [real = NaN, user = NaN, system = NaN] = (await run('bash', ['-c', measured, 'bash', ...args], { cwd }))
    .split(' ')
    .map((seconds) => Number(seconds) * 1000);
  return { ms: real, cpuMs: user + system };
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

/** From here on {@link peakMb} tells of what comes (proc_pid_clear_refs(5)). */
export function resetPeak(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
}

/** The most memory that a process ever had resident, MB. */
export function peakMb(pid: number): number {
  const [, kb = '0'] = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
  return Number(kb) / 1024;
}

/** Processor time that a process, all its threads, has taken: milliseconds, in steps of 10 (proc_pid_stat(5), fields 14 and 15). */
export function cpuMs(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** Those of the programs that are not on PATH. */
export async function missingPrograms(programs: readonly string[]): Promise<string[]> {
  const missing: string[] = [];
  for (const program of programs) {
    await run('sh', ['-c', `command -v ${program}`]).catch(() => missing.push(program));
  }
  return missing;
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
  return columns([['DRIVER', 'FIXTURE', 'SCENARIO', 'MEDIAN', 'RANGE'], ...rows]);
}

/** Medians as a table of Markdown: a column for each driver. */
export function markdown(figures: readonly Figure[]): string {
  const drivers = [...new Set(figures.map(({ driver }) => driver))];
  const rows = new Map<string, Map<string, number>>();
  for (const { fixture, scenario, unit, driver, runs } of figures) {
    const what = `${fixture} | ${scenario}, ${unit}`;
    const row = rows.get(what) ?? new Map<string, number>();
    rows.set(what, row.set(driver, median(runs)));
  }
  const cell = (value: number | undefined): string => (value === undefined ? '' : shown(value));
  const lines = [...rows].map(
    ([what, row]) => `| ${what} | ${drivers.map((name) => cell(row.get(name))).join(' | ')} |`,
  );
  return [`| | | ${drivers.join(' | ')} |`, `|---|---|${'---|'.repeat(drivers.length)}`, ...lines, ''].join('\n');
}

/** Rows of cells as lines, each column as wide as its widest cell. */
export function columns(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    for (const [column, cell] of row.entries()) widths[column] = Math.max(widths[column] ?? 0, cell.length);
  }
  const lines = rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  '));
  return `${lines.map((line) => line.trimEnd()).join('\n')}\n`;
}

/** Archives are read from the page cache: the disk of the machine is not what is measured. */
export function warmCache(path: string): void {
  for (const file of filesOf(path)) readFileSync(file);
}

function filesOf(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** A number with as many digits as mean something. */
export function shown(value: number): string {
  if (value >= 100) return value.toFixed(0);
  return value.toFixed(value >= 10 ? 1 : 2);
}

/** Processor time of a process so far, with that of its children that have ended; ms. */
export function processorMs(pid: number | 'self'): { own: number; children: number } {
  const line = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // behind the name, which may have spaces: utime, stime, cutime and cstime, in hundredths of a second
  const [user = 0, system = 0, childUser = 0, childSystem = 0] = line
    .slice(line.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 15)
    .map(Number);
  return { own: (user + system) * 10, children: (childUser + childSystem) * 10 };
}
