import type { EngineEvent } from '../../core/words.js';
import type { Transaction } from './transaction.js';

/** An event that no row change goes with. */
export function recordEvent(
  tx: Transaction,
  args: { type: EngineEvent['type']; subject: string; data: EngineEvent['data'] },
): void {
  tx.event(args.type, args.subject, args.data);
}

/** Keeps the newest `keep` events. */
export function trimEvents(tx: Transaction, args: { keep: number }): void {
  tx.sql.run('DELETE FROM event WHERE seq <= (SELECT max(seq) FROM event) - ?', args.keep);
}

/** Answers when the writer can commit. */
export function ping(tx: Transaction, _args: null): number {
  return tx.now;
}
