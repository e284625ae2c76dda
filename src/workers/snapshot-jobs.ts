import type { Drivers } from '../../drivers/index.js';
import type { RootAttributes, SealedUpper, SnapshotSpec } from '../../drivers/driver.js';
import type { Places } from '../core/places.js';
import { toLayerdError, type ErrorBody } from '../core/errors.js';
import type { Change, DriverName, MountInstruction, Usage } from '../core/words.js';
import { ingest, type Ingested } from '../content/ingest.js';
import { moveToTrash } from '../disk/trash.js';
import { freezeCgroup } from '../linux/cgroup.js';
import { pumpBytes } from './byte-channel.js';
import { portOf, type JobContext } from './job.js';

/** A snapshot and the driver that made it. */
export interface SnapshotArgs {
  driver: DriverName;
  spec: SnapshotSpec;
}

export interface CommitSnapshotArgs extends SnapshotArgs {
  /** The driver and directory of the new layer. */
  layerDriver: DriverName;
  dir: string;
  /** Directory of a cgroup to freeze while the upper is read. */
  pauseCgroup: string | null;
}

export interface NotDiscarded {
  dir: string;
  error: ErrorBody;
}

/** Changes go through the port as lines of JSON, so many to a chunk. */
const CHANGES_PER_CHUNK = 500;
/** So many are listed among the short calls: a thread for streams need not be started for them. */
const FEW_CHANGES = 500;

/** Calls on snapshots. */
export function snapshotJobs(drivers: Drivers, places: Places) {
  const keeper = (args: SnapshotArgs) => drivers(args.driver).snapshots;
  return {
    /** Made here and now; false where that would take long, and the call belongs among those that may. */
    'snapshot.createSoon': async (args: SnapshotArgs): Promise<boolean> => {
      const snapshots = keeper(args);
      if (snapshots.takesLong?.(args.spec) === true) return false;
      await snapshots.create(args.spec);
      return true;
    },

    'snapshot.create': async (args: SnapshotArgs): Promise<void> => keeper(args).create(args.spec),

    /** Makes directories for more snapshots like this; false where the driver makes each for itself. */
    'snapshot.ahead': async (args: SnapshotArgs & { dirs: string[] }): Promise<boolean> => {
      const snapshots = keeper(args);
      if (snapshots.createAhead === undefined) return false;
      await snapshots.createAhead(args.spec, args.dirs);
      return true;
    },

    'snapshot.mount': async (args: SnapshotArgs): Promise<string> => keeper(args).mount(args.spec),

    'snapshot.unmount': async (args: SnapshotArgs & { force: boolean }): Promise<void> =>
      keeper(args).unmount(args.spec, { force: args.force }),

    'snapshot.instructions': async (args: SnapshotArgs): Promise<MountInstruction[]> =>
      keeper(args).instructions(args.spec),

    'snapshot.release': async (args: SnapshotArgs & { force: boolean }): Promise<void> =>
      keeper(args).release(args.spec, { force: args.force }),

    /** Moves what removed snapshots leave into the trash; returns those that could not be moved, and why. */
    'snapshot.discard': async ({ snapshots }: { snapshots: SnapshotArgs[] }): Promise<NotDiscarded[]> => {
      const failed: NotDiscarded[] = [];
      for (const args of snapshots) {
        const { dir } = args.spec;
        try {
          keeper(args).release(args.spec, { force: false });
          moveToTrash(places, { layers: [], snapshots: [dir], trees: [], blobs: [] });
        } catch (thrown) {
          failed.push({ dir, error: toLayerdError(thrown).toBody() });
        }
      }
      return failed;
    },

    /** Null where the driver's snapshots are no uppers. */
    'snapshot.seal': async (
      args: SnapshotArgs & { sync: boolean; root: RootAttributes | null },
    ): Promise<SealedUpper | null> => keeper(args).seal?.(args.spec, { sync: args.sync, root: args.root }) ?? null,

    'snapshot.changedSince': async (args: SnapshotArgs & { micros: number }): Promise<boolean> =>
      keeper(args).changedSince?.(args.spec, args.micros) ?? false,

    'snapshot.usage': async (args: SnapshotArgs): Promise<Usage> => keeper(args).usage(args.spec),

    /** All of them, where they are few and found at once; null where they are to be streamed. */
    'snapshot.fewChanges': async (args: SnapshotArgs): Promise<Change[] | null> =>
      keeper(args).fewChanges?.(args.spec, FEW_CHANGES) ?? null,

    'snapshot.changes': async (args: SnapshotArgs, context: JobContext): Promise<void> =>
      pumpBytes(changeLines(keeper(args).changes(args.spec)), portOf(context)),

    'snapshot.diff': async (args: SnapshotArgs, context: JobContext): Promise<void> =>
      pumpBytes(keeper(args).diff(args.spec), portOf(context)),

    /** The flattened root as a tar. */
    'snapshot.export': async (args: SnapshotArgs, context: JobContext): Promise<void> =>
      pumpBytes(keeper(args).root(args.spec), portOf(context)),

    /** Turns what the snapshot changed into a stored layer, in one pass. */
    'snapshot.commit': async (args: CommitSnapshotArgs, context: JobContext): Promise<Ingested> => {
      const thaw = args.pauseCgroup === null ? null : freezeCgroup(args.pauseCgroup);
      try {
        return await ingest(
          keeper(args).diff(args.spec),
          drivers(args.layerDriver).layers.begin(args.dir),
          {},
          {
            signal: context.signal,
            progress: (bytesIn, bytesOut) => context.progress({ bytesIn, bytesOut }),
          },
        );
      } finally {
        thaw?.();
      }
    },
  };
}

async function* changeLines(changes: AsyncIterable<Change>): AsyncGenerator<Buffer> {
  let lines: string[] = [];
  for await (const change of changes) {
    lines.push(JSON.stringify(change));
    if (lines.length < CHANGES_PER_CHUNK) continue;
    yield Buffer.from(`${lines.join('\n')}\n`);
    lines = [];
  }
  if (lines.length > 0) yield Buffer.from(`${lines.join('\n')}\n`);
}
