/** What every command works with: the client, the ways of output, and what happens to errors. */
import type { Command } from 'commander';
import { LayerdClient, type Watch } from '../client/client.js';
import { LayerdError, toLayerdError, type ErrorCode } from '../core/errors.js';
import { parsePlatform } from '../core/platform.js';
import type { Platform } from '../core/words.js';
import { exitCodeOf, UsageError } from './exit-codes.js';
import { ProgressView } from './progress.js';

/** Options that every command takes. */
export interface GlobalOptions {
  socket?: string;
  json?: boolean;
  quiet?: boolean;
}

export class Cli {
  readonly program: Command;
  private connected: LayerdClient | null = null;
  private readonly interrupt = new AbortController();

  constructor(program: Command) {
    this.program = program;
  }

  get options(): GlobalOptions {
    return this.program.opts<GlobalOptions>();
  }

  /** The client; made when first needed. */
  get client(): LayerdClient {
    const { socket } = this.options;
    this.connected ??= new LayerdClient(socket === undefined ? {} : { socket });
    return this.connected;
  }

  /** Aborts when the user interrupts; the daemon then gives up what it does for us. */
  get signal(): AbortSignal {
    if (process.listenerCount('SIGINT') === 0) {
      const stop = (): void => this.interrupt.abort();
      process.once('SIGINT', stop).once('SIGTERM', stop);
    }
    return this.interrupt.signal;
  }

  /**
   * Prints a result: as JSON with --json, one id per line with --quiet, else as `human` has it. Every form ends with a
   * line feed or is empty.
   */
  print(result: { data: unknown; ids: readonly string[]; human: () => string }): void {
    const { json, quiet } = this.options;
    if (json === true) this.write(`${JSON.stringify(result.data, null, 2)}\n`);
    else if (quiet === true) this.write(result.ids.map((id) => `${id}\n`).join(''));
    else this.write(result.human());
  }

  write(text: string): void {
    process.stdout.write(text);
  }

  /** For people, beside the result: on standard error, unless they want quiet. */
  note(text: string): void {
    if (this.options.quiet !== true) process.stderr.write(`layerctl: ${text}\n`);
  }

  /** Runs a long operation with its progress on standard error. */
  async watched<T>(work: (watch: Required<Watch>) => Promise<T>): Promise<T> {
    const view = this.options.quiet === true ? null : new ProgressView(process.stderr);
    try {
      return await work({ onProgress: (step) => view?.update(step), signal: this.signal });
    } finally {
      view?.end();
    }
  }

  /** Does the same for several names. One that fails is told and does not keep the others from being done. */
  async each<T>(names: readonly string[], work: (name: string) => Promise<T>): Promise<T[]> {
    const results: T[] = [];
    for (const name of names) {
      try {
        results.push(await work(name));
      } catch (thrown) {
        if (names.length === 1) throw thrown;
        this.fail(thrown);
      }
    }
    return results;
  }

  /** Tells an error and sets the exit code; the first failure decides it. */
  fail(thrown: unknown): void {
    const error = toLayerdError(thrown);
    if (this.options.json === true) process.stderr.write(`${JSON.stringify({ error: error.toBody() })}\n`);
    else process.stderr.write(`layerctl: ${error.message}\n${error.hint === '' ? '' : `  ${error.hint}\n`}`);
    process.exitCode ??= exitCodeOf(error);
  }

  close(): void {
    this.connected?.close();
  }
}

/** Says what to do about errors of these codes in words of the command line: the daemon knows nothing of our options. */
export async function advised<T>(work: Promise<T>, hints: Partial<Record<ErrorCode, string>>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    const hint = error instanceof LayerdError ? hints[error.code] : undefined;
    throw error instanceof LayerdError && hint !== undefined ? error.withHint(hint) : error;
  }
}

/** The option --platform. Throws UsageError. */
export function platformOption(text: string | undefined): { platform?: Platform } {
  if (text === undefined) return {};
  try {
    return { platform: parsePlatform(text) };
  } catch (error) {
    throw error instanceof LayerdError ? new UsageError(error.message, error.hint) : error;
  }
}

/** Collects a repeatable option. */
export function collect(value: string, before: string[] = []): string[] {
  return [...before, value];
}

/** `key=value` options as a map. */
export function labels(given: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    given.map((label) => {
      const equals = label.indexOf('=');
      return equals === -1 ? [label, ''] : [label.slice(0, equals), label.slice(equals + 1)];
    }),
  );
}
