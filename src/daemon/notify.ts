/** What the service manager is told (sd_notify(3)), and the watchdog that it keeps on us. */
import type { Logger } from 'pino';
import { linuxAvailable } from '../linux/libc.js';
import { notifyManager } from '../linux/sockets.js';

export class ServiceManager {
  private readonly log: Logger;
  private readonly env: NodeJS.ProcessEnv;
  private watchdog: NodeJS.Timeout | null = null;

  constructor(log: Logger, env: NodeJS.ProcessEnv = process.env) {
    this.log = log;
    this.env = env;
  }

  status(text: string): void {
    this.send(`STATUS=${text}`);
  }

  ready(text: string): void {
    this.send(`READY=1\nSTATUS=${text}`);
  }

  /** Settings are being read again; ready() follows. */
  reloading(): void {
    const microseconds = process.hrtime.bigint() / 1000n;
    this.send(`RELOADING=1\nMONOTONIC_USEC=${microseconds}`);
  }

  stopping(): void {
    if (this.watchdog !== null) clearInterval(this.watchdog);
    this.send('STOPPING=1\nSTATUS=Stopping: finishing what runs');
  }

  /**
   * Pings at half the interval that the manager asks for (WATCHDOG_USEC), and only while the daemon is healthy: one that
   * hangs, or whose database or workers do not answer, is restarted.
   */
  startWatchdog(healthy: () => Promise<{ ok: boolean; problems: string[] }>): void {
    const { WATCHDOG_USEC: interval, WATCHDOG_PID: pid } = this.env;
    if (interval === undefined || !/^[1-9]\d*$/.test(interval)) return;
    if (pid !== undefined && Number(pid) !== process.pid) return;
    const ping = async (): Promise<void> => {
      const { ok, problems } = await healthy().catch((error: unknown) => ({ ok: false, problems: [String(error)] }));
      if (ok) this.send('WATCHDOG=1');
      else this.log.error({ problems }, 'not healthy: the watchdog is not pinged');
    };
    this.watchdog = setInterval(() => void ping(), Number(interval) / 2000);
  }

  /** Being told matters to the manager, not to us: a message that cannot be sent is logged, no more. */
  private send(state: string): void {
    if (!linuxAvailable().available) return;
    try {
      notifyManager(state, this.env);
    } catch (error) {
      this.log.warn({ err: error }, 'the service manager cannot be told');
    }
  }
}
