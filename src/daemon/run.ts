/** Runs the daemon as a process: signals, failures, exit codes. */
import { isErrno, toLayerdError } from '../core/errors.js';
import { variableHint, type Configuration } from '../config/load.js';
import { collectWhileResting } from '../core/idle-memory.js';
import { Daemon } from './daemon.js';
import { failureLine } from './failure.js';
import { openLog, type DaemonLog } from './log.js';

/** `load` reads the configuration; it is called again at SIGHUP. Returns the exit code when the daemon has ended. */
export async function runDaemon(load: () => Configuration): Promise<number> {
  const configuration = load();
  const opened = openLog(configuration.settings.log_level);
  const { log } = opened;
  dieOnSurprise(opened);
  const signals = new Signals();
  for (const variable of configuration.unknownVariables) {
    log.warn({ variable, hint: variableHint(variable) }, 'a variable looks like a setting but is none');
  }
  const failed = async (thrown: unknown, message: string): Promise<number> => {
    const error = toLayerdError(thrown);
    const { code, details, hint } = error;
    // a terminal is told in words; of what is a fault of ours the stack is wanted in any case
    if (error.kind === 'internal') log.fatal({ code, err: error }, message);
    else if (!process.stderr.isTTY) log.fatal({ code, error: error.message, details, hint }, message);
    await opened.finish();
    if (process.stderr.isTTY) process.stderr.write(failureLine(error));
    return 1;
  };
  let daemon: Daemon;
  try {
    daemon = await Daemon.start(configuration, log);
  } catch (thrown) {
    return failed(thrown, 'cannot start');
  }
  collectWhileResting();
  try {
    await untilStopped(daemon, load, opened, signals);
  } catch (thrown) {
    return failed(thrown, 'stopping failed');
  }
  await opened.finish();
  return 0;
}

/** From the beginning: what comes while it starts, or as it first answers, takes effect when it has started. */
class Signals {
  /** SIGHUP. */
  reload: () => void = () => undefined;
  readonly stop: Promise<NodeJS.Signals>;

  constructor() {
    process.on('SIGHUP', () => this.reload());
    this.stop = new Promise((resolve) => {
      process.on('SIGTERM', resolve);
      process.on('SIGINT', resolve);
    });
  }
}

async function untilStopped(
  daemon: Daemon,
  load: () => Configuration,
  { log }: DaemonLog,
  signals: Signals,
): Promise<void> {
  const reload = async (): Promise<void> => {
    try {
      await daemon.reload(load());
    } catch (thrown) {
      const error = toLayerdError(thrown);
      log.error({ code: error.code, error: error.message, details: error.details }, 'settings not reloaded');
    }
  };
  signals.reload = () => void reload();
  // not before: whoever reads this may send a signal at once
  daemon.announce();
  const signal = await signals.stop;
  log.info({ signal }, 'stopping');
  await daemon.stop();
}

/**
 * What nobody foresaw ends the process: its state can no longer be trusted, and a restart is the path that is tested
 * most. A reader of the log that went away is no reason.
 */
function dieOnSurprise(opened: DaemonLog): void {
  const die = (thrown: unknown): void => {
    if (isErrno(thrown, 'EPIPE')) return;
    opened.log.fatal({ err: thrown }, 'unexpected failure');
    void opened.finish().finally(() => process.exit(70));
  };
  // Node's own words would be no line of the log
  process.removeAllListeners('warning');
  process.on('warning', (warning) => opened.log.warn({ err: warning }, 'warning of the runtime'));
  process.on('uncaughtException', die);
  process.on('unhandledRejection', die);
}
