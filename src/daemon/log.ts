import { destination, pino, stdTimeFunctions, type Logger } from 'pino';

export interface DaemonLog {
  log: Logger;
  /** Ends the log: done when all of it is written, or its reader has been given a second. Before the process ends. */
  finish(): Promise<void>;
}

/** NDJSON on standard error: constant messages, data in fields. Written in the background, so that a slow reader holds nothing up. */
export function openLog(level: string): DaemonLog {
  const stderr = destination({ dest: 2, sync: false });
  const log = pino(
    {
      level,
      base: null,
      timestamp: stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    stderr,
  );
  const finish = (): Promise<void> =>
    new Promise((resolve) => {
      stderr.once('close', resolve);
      setTimeout(resolve, 1_000).unref();
      stderr.end();
    });
  return { log, finish };
}
