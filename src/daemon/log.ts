import { destination, pino, stdTimeFunctions, type Logger } from 'pino';

export interface DaemonLog {
  log: Logger;
  /** Writes what is still buffered; before the process ends. */
  flush(): void;
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
  return { log, flush: () => stderr.flushSync() };
}
