import type { EngineEvent } from '../../core/words.js';
import type { Sql } from '../sql.js';

/** What one operation works with: it runs in a savepoint of its own; what it throws rolls it back alone. */
export interface Transaction {
  sql: Sql;
  /** The time of the operation, ms. */
  now: number;
  /** Adds to the event log, in the same transaction. */
  event(type: EngineEvent['type'], subject: string, data?: EngineEvent['data']): void;
}

export type Operation<Args, Result> = (transaction: Transaction, args: Args) => Result;
