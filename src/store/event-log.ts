import { once } from 'node:events';
import type { EngineEvent } from '../core/words.js';
import type { StoreContext } from './context.js';

const PAGE = 500;

/** The replayable log of what happened: read from any sequence number on, and followed as it grows. */
export class EventLog {
  private readonly context: StoreContext;
  private readonly closing = new AbortController();

  constructor(context: StoreContext) {
    this.context = context;
  }

  /** Events above `since`; with `follow` it waits for more until the signal, or until the log is closed. */
  async *read(since: number, follow: boolean, signal: AbortSignal): AsyncGenerator<EngineEvent> {
    const until = AbortSignal.any([signal, this.closing.signal]);
    let last = since;
    while (!until.aborted) {
      // Asked for before the query, so that nothing committed in between is missed.
      const more = once(this.context.writer, 'events', { signal: until }).catch(() => null);
      const rows = this.context.reader.events(last, PAGE);
      for (const row of rows) {
        last = row.seq;
        yield { ...row, type: row.type as EngineEvent['type'], data: JSON.parse(row.data) as EngineEvent['data'] };
      }
      if (rows.length === PAGE) continue;
      if (!follow) return;
      await more;
    }
  }

  close(): void {
    this.closing.abort();
  }
}
