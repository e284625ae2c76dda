/**
 * Moves a store from one driver to another while it serves. Chains are gone through from the bottom up: each gets a copy of
 * its layer by the new driver, verified on the way, and then lies on that, in one transaction. What exists stays on the
 * stack that it has; copies that nothing lies on any more are collected. A migration that was ended by a crash is gone on
 * with by doing it again: every chain that was moved stays moved.
 */
import type { OnProgress } from '../core/api.js';
import { LayerdError, toLayerdError, type ErrorCode } from '../core/errors.js';
import { elapsedMs } from '../core/units.js';
import type { DriverName, MigrateReport } from '../core/words.js';
import type { PlacedChainRow } from '../metadata/rows.js';
import type { Chains } from './chains.js';
import { snapshotOf, type StoreContext } from './context.js';
import type { Leases } from './leases.js';

export type Migrated = Omit<MigrateReport, 'afterRestart'>;

/** A layer that cannot be moved for these stays where it is; anything else ends the migration. */
const OF_THE_LAYER: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'LAYER_DAMAGED',
  'LAYER_LIMIT',
  'TAR_LIMIT',
  'TAR_INVALID',
  'NAME_UNSUPPORTED',
]);

interface Migration {
  to: DriverName;
  progress: OnProgress;
  signal: AbortSignal;
  report: Migrated;
  /** Chains whose own layer cannot be moved. */
  stuck: Set<number>;
}

export class Migrator {
  private readonly context: StoreContext;
  private readonly chains: Chains;
  private readonly leases: Leases;
  private running: Promise<unknown> = Promise.resolve();

  constructor(context: StoreContext, parts: { chains: Chains; leases: Leases }) {
    this.context = context;
    this.chains = parts.chains;
    this.leases = parts.leases;
  }

  /**
   * What is new gets the driver `to` at once; then all layers are copied. One migration runs after the other. Throws what
   * is wrong with the machine (NO_SPACE, …); what was moved until then stays moved.
   */
  migrate(to: DriverName, progress: OnProgress, signal: AbortSignal): Promise<Migrated> {
    const migration = this.running.then(() => this.run(to, progress, signal));
    this.running = migration.catch(() => undefined);
    return migration;
  }

  private async run(to: DriverName, progress: OnProgress, signal: AbortSignal): Promise<Migrated> {
    const started = performance.now();
    const { writer, log } = this.context;
    await writer.run('noteDriver', { driver: to });
    this.context.driver = to;
    const report: Migrated = {
      to,
      layers: 0,
      bytes: 0,
      chains: 0,
      chainsLeft: 0,
      failures: [],
      containers: [],
      durationMs: 0,
    };
    const migration: Migration = { to, progress, signal, report, stuck: new Set() };
    // Loads go on meanwhile, and may put new layers on chains that are not moved yet.
    while (await this.pass(migration)) log.debug({ to, chains: report.chains }, 'migrating');
    report.chainsLeft = this.misplaced(to).length;
    report.containers = this.containersElsewhere(to);
    report.durationMs = elapsedMs(started);
    const { layers, bytes, chains, chainsLeft } = report;
    await writer.run('recordEvent', {
      type: 'store.migrate',
      subject: to,
      data: { layers, bytes, chains, chainsLeft },
    });
    return report;
  }

  /** Goes through all chains once; false where none could be moved. */
  private async pass(migration: Migration): Promise<boolean> {
    const before = migration.report.chains;
    const left = new Set(migration.stuck);
    for (const chain of this.misplaced(migration.to)) {
      migration.signal.throwIfAborted();
      // Upon a chain that stays where it is, nothing can be moved.
      if (left.has(chain.id) || (chain.parent_id !== null && left.has(chain.parent_id))) left.add(chain.id);
      else if (!(await this.tryMove(chain, migration))) left.add(chain.id);
    }
    return migration.report.chains > before;
  }

  /** Chains that do not lie on copies by this driver alone, parents first. */
  private misplaced(to: DriverName): PlacedChainRow[] {
    const placed = new Map<number, number>();
    return this.context.reader.placedChains().filter((chain) => {
      const below = chain.parent_id === null ? null : placed.get(chain.parent_id);
      if (chain.driver !== to || chain.damaged === 1 || below !== chain.below_id) return true;
      placed.set(chain.id, chain.stack_id);
      return false;
    });
  }

  private async tryMove(chain: PlacedChainRow, migration: Migration): Promise<boolean> {
    try {
      const moved = await this.leases.during('migrate', (leaseId) => this.move(chain, leaseId, migration));
      if (moved) migration.report.chains += 1;
      return moved;
    } catch (thrown) {
      const { code, message } = toLayerdError(thrown);
      if (!OF_THE_LAYER.has(code)) throw thrown;
      migration.stuck.add(chain.id);
      migration.report.failures.push({ diffId: chain.diff_id, code, message });
      return false;
    }
  }

  /** False where the chain is gone. */
  private async move(chain: PlacedChainRow, leaseId: string, migration: Migration): Promise<boolean> {
    const { reader, writer } = this.context;
    const { to, progress, signal, report } = migration;
    const held = await writer.run('holdPresentLayer', { leaseId, diffId: chain.diff_id, keptBlob: null });
    const layer = reader.layer(chain.diff_id);
    if (layer === undefined) return false;
    if (!held) throw nothingWhole(chain);
    const { copy, made } = await this.chains.copyBy(to, layer, {
      parent: chain.parent_id === null ? null : (reader.chain(chain.parent_id) ?? null),
      leaseId,
      signal,
      progress: ({ bytesOut }) =>
        progress({ phase: 'migrate', subject: layer.diff_id, done: bytesOut, total: layer.size }),
    });
    if (made) {
      report.layers += 1;
      report.bytes += layer.size;
      progress({ phase: 'migrate', subject: layer.diff_id, done: layer.size, total: layer.size });
    }
    return writer.run('moveChain', { chainId: chain.id, storedLayerId: copy.id });
  }

  private containersElsewhere(to: DriverName): string[] {
    const { reader } = this.context;
    const elsewhere: string[] = [];
    for (const row of reader.containers()) {
      const { driver, spec } = snapshotOf(reader, row);
      if (driver !== to || spec.stack.some((layer) => layer.driver !== to)) elsewhere.push(row.id);
    }
    return elsewhere;
  }
}

function nothingWhole({ diff_id: diffId }: PlacedChainRow): LayerdError {
  return new LayerdError('LAYER_DAMAGED', `no copy of layer ${diffId} is whole`, {
    details: { diffId },
    hint: 'Load the image again, then migrate again.',
  });
}
