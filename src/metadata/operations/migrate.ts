import type { DriverName } from '../../core/words.js';
import type { ChainRow } from '../rows.js';
import { stackOn } from './chains.js';
import type { Transaction } from './transaction.js';

/** Notes the driver that the store was migrated to: `auto` takes it from then on. */
export function noteDriver(tx: Transaction, args: { driver: DriverName }): void {
  tx.sql.run(
    "INSERT INTO store (key, value) VALUES ('driver', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    args.driver,
  );
}

/**
 * Lets a chain lie on another copy of its layer, upon the stack that serves its parent now. Snapshots keep the stack they
 * have. False where the chain is gone.
 */
export function moveChain(tx: Transaction, args: { chainId: number; storedLayerId: number }): boolean {
  const chain = tx.sql.get<ChainRow>('SELECT * FROM chain WHERE id = ?', args.chainId);
  if (chain === undefined) return false;
  const parent = tx.sql.get<ChainRow>('SELECT * FROM chain WHERE id = ?', chain.parent_id);
  const stackId = stackOn(tx, parent?.stack_id ?? null, args.storedLayerId, chain.depth);
  tx.sql.run('UPDATE chain SET stack_id = ? WHERE id = ?', stackId, chain.id);
  return true;
}
