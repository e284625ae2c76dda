/** gc check migrate why df lease */
import { Option, type Command } from 'commander';
import { parseDuration } from '../core/units.js';
import type { CheckReport, DiskReport, DriverName, GcReport, Lease, MigrateReport, WhyReport } from '../core/words.js';
import { advised, collect, labels, type Cli } from './cli.js';
import { EXIT, UsageError } from './exit-codes.js';
import { age, bytes, counted, shortId, table } from './format.js';
import { sweepRuns } from './oci/runs.js';
import { refuseTerminal, writeArchive } from './sink.js';

interface GcFlags {
  dryRun?: boolean;
  grace?: string;
  wait?: boolean;
}
interface LeaseFlags {
  id?: string;
  ttl?: string;
  label?: string[];
  hold?: string[];
}

export function storeCommands(program: Command, cli: Cli): void {
  program
    .command('gc')
    .description('collect what nothing refers to any more')
    .option('-n, --dry-run', 'only say what would go')
    .option('--grace <duration>', 'how long things without a reference stay, such as 10m or 0 (default: as configured)')
    .option('--wait', 'until everything is unlinked')
    .action((flags: GcFlags) => gc(cli, flags));
  program
    .command('check')
    .description('verify rows, files, mounts and every byte of every layer; exit code 6 if something is wrong')
    .option('--repair', 'put right what can be put right')
    .option('--quick', 'presence and sizes only')
    .action((flags: { repair?: boolean; quick?: boolean }) => check(cli, flags));
  program
    .command('migrate')
    .description('move all layers to another driver while the store serves; done again, it goes on where it ended')
    .addOption(
      new Option('--to <driver>', 'the driver').choices(['erofs', 'overlay2', 'btrfs', 'copy']).makeOptionMandatory(),
    )
    .action(async ({ to }: { to: DriverName }) => {
      const report = await cli.watched((watch) => cli.client.migrate({ to, ...watch }));
      cli.print({ data: report, ids: report.containers, human: () => migrateText(report) });
      if (report.failures.length > 0) process.exitCode = EXIT.damage;
    });
  program
    .command('backup')
    .description('copy the database while the store serves, for layerd restore; layers are not in it')
    .option('-o, --output <file>', 'the file (default: standard output)')
    .action(async ({ output }: { output?: string }) => {
      refuseTerminal(output);
      const size = await writeArchive(await cli.client.backup(), output);
      if (output !== undefined)
        cli.print({
          data: { file: output, bytes: size },
          ids: [output],
          human: () => `${bytes(size)} written to ${output}\n`,
        });
    });
  program
    .command('why <subject>')
    .description('what keeps an image, layer, container or path on disk')
    .action(async (subject: string) => {
      const report = await cli.client.why(subject);
      cli.print({ data: report, ids: report.paths.map((path) => path.at(-1) ?? ''), human: () => whyText(report) });
    });
  program
    .command('df')
    .description('what occupies the disk')
    .option('-v, --verbose', 'every layer and container by itself')
    .action(async (flags: { verbose?: boolean }) => {
      const report = await cli.client.diskUsage();
      cli.print({
        data: report,
        ids: report.rows.map(({ id }) => id),
        human: () => (flags.verbose === true ? diskRows(report) : diskSummary(report)),
      });
    });
  leaseCommands(program, cli);
}

function leaseCommands(program: Command, cli: Cli): void {
  const lease = program.command('lease').description('protect images and layers from collection');
  lease
    .command('create')
    .description('make a lease; prints its id')
    .option('--id <id>', 'choose the id')
    .option('--ttl <duration>', 'how long it holds, such as 24h (default: until removed)')
    .option('--label <key=value>', 'label it; may be repeated', collect)
    .option('--hold <digest>', 'an image or layer that it protects; may be repeated', collect)
    .action(async ({ id, ttl, label = [], hold = [] }: LeaseFlags) => {
      const made = await cli.client.createLease({
        ...(id === undefined ? {} : { id }),
        ...(ttl === undefined ? {} : { ttlMs: durationOf(ttl) }),
        labels: labels(label),
        holds: hold,
      });
      cli.print({ data: made, ids: [made.id], human: () => `${made.id}\n` });
    });
  lease
    .command('ls')
    .description('list leases')
    .action(async () => {
      const leases = await cli.client.leases();
      cli.print({ data: leases, ids: leases.map(({ id }) => id), human: () => leaseTable(leases) });
    });
  lease
    .command('rm <lease...>')
    .description('end leases')
    .action(async (ids: string[]) => {
      const removed = await cli.each(ids, async (id) => {
        await advised(cli.client.removeLease(id), {
          LEASE_NOT_FOUND: 'It may have expired: `layerctl lease ls` lists the leases that there are.',
        });
        return id;
      });
      cli.print({ data: removed, ids: removed, human: () => '' });
    });
}

async function gc(cli: Cli, { dryRun, grace, wait }: GcFlags): Promise<void> {
  if (dryRun !== true) await sweepRuns(cli.client);
  const report = await cli.client.gc({
    ...(dryRun === undefined ? {} : { dryRun }),
    ...(grace === undefined ? {} : { grace: durationOf(grace) }),
    ...(wait === undefined ? {} : { wait }),
  });
  cli.print({ data: report, ids: report.removed.map(({ id }) => id), human: () => gcText(report) });
}

function gcText(report: GcReport): string {
  const { dryRun, removed, bytes: total, freed, pinned, waiting } = report;
  const rows = table(removed, [
    { title: 'KIND', value: ({ kind }) => kind },
    { title: 'ID', value: ({ id }) => shortId(id) },
    { title: 'BYTES', value: (row) => bytes(row.bytes), right: true },
    { title: 'WHY', value: ({ why }) => why },
  ]);
  const list = removed.length === 0 ? '' : rows;
  const rest = pinnedText(pinned) + waitingText(waiting);
  if (dryRun) return `${list}${things(removed.length)} would go, ${bytes(total)} would be freed${rest}\n`;
  const later = total > freed ? `, ${bytes(total - freed)} of it are still being unlinked` : '';
  return `${list}${things(removed.length)} ${removed.length === 1 ? 'is' : 'are'} gone, ${bytes(total)}${later}${rest}\n`;
}

function things(count: number): string {
  return `${count} ${count === 1 ? 'thing' : 'things'}`;
}

function waitingText({ things: count, bytes: waiting }: GcReport['waiting']): string {
  if (count === 0) return '';
  return `\n${count} more, ${bytes(waiting)}, go when their grace period is over (--grace 0 takes them now)`;
}

function pinnedText(pinned: number): string {
  return pinned === 0 ? '' : `; ${bytes(pinned)} are held by mounts elsewhere`;
}

async function check(cli: Cli, flags: { repair?: boolean; quick?: boolean }): Promise<void> {
  const report = await cli.watched((watch) => cli.client.check({ ...flags, ...watch }));
  cli.print({ data: report, ids: report.problems.map(({ subject }) => subject), human: () => checkText(report) });
  if (!report.ok) process.exitCode = EXIT.damage;
}

function checkText({ ok, problems, layersChecked, bytesRead, unverifiable }: CheckReport): string {
  const lines = problems.flatMap(({ severity, code, subject, message, affects, hint, repaired }) => [
    `${severity}: ${code} ${shortId(subject)}: ${message}${repaired ? ' (repaired)' : ''}\n`,
    ...(affects.length === 0 ? [] : [`  affects ${affects.map(shortId).join(', ')}\n`]),
    ...(hint === '' || repaired ? [] : [`  ${hint}\n`]),
  ]);
  const verdict = ok ? 'everything is right' : counted(problems.length, 'problem');
  const live =
    unverifiable.length === 0
      ? ''
      : `; what ${counted(unverifiable.length, 'container')} wrote cannot be verified against anything`;
  return `${lines.join('')}${counted(layersChecked, 'layer')}, ${bytes(bytesRead)} read: ${verdict}${live}\n`;
}

function migrateText({
  to,
  layers,
  bytes: size,
  chainsLeft,
  failures,
  containers,
  afterRestart,
}: MigrateReport): string {
  const failed = failures.map(({ diffId, code, message }) => `${code} ${shortId(diffId)}: ${message}\n`);
  const left = chainsLeft === 0 ? '' : `, ${counted(chainsLeft, 'chain')} not moved`;
  const alive = containers.length === 0 ? '' : `${counted(containers.length, 'container')} not moved until removed\n`;
  return `${failed.join('')}${counted(layers, 'layer')}, ${bytes(size)} copied to ${to}${left}\n${alive}${afterRestart}\n`;
}

function whyText({ paths, conclusion }: WhyReport): string {
  const chains = paths.map((path) => `  ${path.map(shortId).join(' → ')}\n`);
  return `${conclusion}\n${chains.join('')}`;
}

/** One line per kind, the total last. */
function diskSummary(report: DiskReport): string {
  const kinds = new Map<string, { kind: string; count: number; bytes: number; inodes: number }>();
  for (const { kind, bytes: size, inodes } of report.rows) {
    const sum = kinds.get(kind) ?? { kind, count: 0, bytes: 0, inodes: 0 };
    kinds.set(kind, { kind, count: sum.count + 1, bytes: sum.bytes + size, inodes: sum.inodes + inodes });
  }
  const text = table(
    [...kinds.values()],
    [
      { title: 'KIND', value: ({ kind }) => kind },
      { title: 'COUNT', value: ({ count }) => String(count), right: true },
      { title: 'BYTES', value: (row) => bytes(row.bytes), right: true },
      { title: 'INODES', value: ({ inodes }) => String(inodes), right: true },
    ],
  );
  return `${text}${diskTotal(report)}`;
}

function diskRows(report: DiskReport): string {
  const images = table(report.images, [
    { title: 'IMAGE ID', value: ({ id }) => shortId(id) },
    { title: 'UNIQUE', value: ({ unique }) => bytes(unique), right: true },
    { title: 'SHARED', value: ({ shared }) => bytes(shared), right: true },
    { title: 'REFS', value: ({ refs }) => refs.join(', ') },
  ]);
  const rows = table(report.rows, [
    { title: 'KIND', value: ({ kind }) => kind },
    { title: 'ID', value: ({ id }) => shortId(id) },
    { title: 'BYTES', value: (row) => bytes(row.bytes), right: true },
    { title: 'INODES', value: ({ inodes }) => String(inodes), right: true },
    { title: 'USED BY', value: ({ users }) => users.map(shortId).join(', ') },
  ]);
  return `${images}\n${rows}\n${diskTotal(report)}`;
}

function diskTotal({ total, reclaimable, sharedExtents, uppersMeasured }: DiskReport): string {
  const shared =
    sharedExtents === null || sharedExtents === 0 ? '' : `, ${bytes(sharedExtents)} of it shared by reflink`;
  const measured = uppersMeasured === null ? '' : `; containers measured ${age(uppersMeasured)}`;
  return `total ${bytes(total)}, reclaimable ${bytes(reclaimable)}${shared}${measured}\n`;
}

function leaseTable(leases: readonly Lease[]): string {
  return table(leases, [
    { title: 'LEASE', value: ({ id }) => id },
    { title: 'CREATED', value: ({ created }) => age(created) },
    { title: 'EXPIRES', value: ({ expires }) => (expires === null ? 'never' : age(expires)) },
    { title: 'HOLDS', value: ({ holds }) => String(holds.length), right: true },
  ]);
}

function durationOf(text: string): number {
  const ms = parseDuration(text);
  if (ms === null) throw new UsageError(`${text} is not a duration`, 'Durations look like 90s, 10m or 1h30m.');
  return ms;
}
