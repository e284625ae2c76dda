import { chainId } from '../../core/digest.js';
import { LayerdError } from '../../core/errors.js';
import type { ChainRow, LayerRow } from '../rows.js';
import type { Transaction } from './transaction.js';

/** One more layer on a chain, and the copy of it that is used where the chain is new. */
export interface ChainStep {
  layerId: number;
  storedLayerId: number;
}

/**
 * Puts layers on a chain, one upon the other (or finds them there): the logical steps and the stack that serves them.
 * Each step names the copy to use where the chain is new. Returns the top.
 */
export function extendChain(tx: Transaction, args: { parent: number | null; steps: ChainStep[] }): ChainRow | null {
  let top = args.parent === null ? null : requireChain(tx, args.parent);
  for (const step of args.steps) top = extendByOne(tx, top, step);
  return top;
}

function extendByOne(tx: Transaction, parent: ChainRow | null, step: ChainStep): ChainRow {
  const layer = tx.sql.get<LayerRow>('SELECT * FROM layer WHERE id = ?', step.layerId);
  if (layer === undefined) {
    throw new LayerdError('LAYER_NOT_FOUND', `a layer was removed meanwhile`, { hint: 'Load the image again.' });
  }
  const id = chainId(parent?.chain_id ?? null, layer.diff_id);
  const there = tx.sql.get<ChainRow>('SELECT * FROM chain WHERE chain_id = ?', id);
  if (there !== undefined) return there;
  const depth = (parent?.depth ?? 0) + 1;
  const stackId = stackOn(tx, parent?.stack_id ?? null, step.storedLayerId, depth);
  const row = tx.sql.insert(
    'INSERT INTO chain (chain_id, parent_id, layer_id, stack_id, depth) VALUES (?, ?, ?, ?, ?)',
    id,
    parent?.id ?? null,
    layer.id,
    stackId,
    depth,
  );
  return {
    id: row,
    chain_id: id,
    parent_id: parent?.id ?? null,
    layer_id: layer.id,
    stack_id: stackId,
    depth,
  };
}

function requireChain(tx: Transaction, id: number): ChainRow {
  const row = tx.sql.get<ChainRow>('SELECT * FROM chain WHERE id = ?', id);
  if (row === undefined) {
    throw new LayerdError('LAYER_NOT_FOUND', 'the parent chain was removed meanwhile', { hint: 'Try again.' });
  }
  return row;
}

/** The stack with one more stored layer on top; made where it is new. */
export function stackOn(tx: Transaction, parent: number | null, storedLayerId: number, depth: number): number {
  const there = tx.sql.get<{ id: number }>(
    'SELECT id FROM stack WHERE parent_id IS ? AND stored_layer_id = ?',
    parent,
    storedLayerId,
  );
  if (there !== undefined) return there.id;
  return tx.sql.insert(
    'INSERT INTO stack (parent_id, stored_layer_id, depth) VALUES (?, ?, ?)',
    parent,
    storedLayerId,
    depth,
  );
}
