import type { Once } from '../../core/api.js';
import type { Transaction } from './transaction.js';

/** A request that takes effect once. */
export interface OnceOnly extends Once {
  /** The boot of the machine with which its effect ends, and its answer with that. */
  boot?: string;
}

/** The newest so many answers are kept. */
const KEPT = 1024;

/** Keeps what an operation answered, in the transaction of the operation. */
export function keepAnswer(tx: Transaction, { key, request, boot }: OnceOnly, answer: unknown): void {
  const id = tx.sql.insert(
    'INSERT OR REPLACE INTO answer (key, request, boot, answer) VALUES (?, ?, ?, ?)',
    key,
    request,
    boot ?? null,
    JSON.stringify(answer ?? null),
  );
  tx.sql.run('DELETE FROM answer WHERE id <= ?', id - KEPT);
}
