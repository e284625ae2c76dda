/** build-cache */
import type { Command } from 'commander';
import type { BuildCacheEntry } from '../core/words.js';
import type { Cli } from './cli.js';
import { UsageError } from './exit-codes.js';
import { age, bytes, shortId, table } from './format.js';

export function buildCacheCommands(program: Command, cli: Cli): void {
  const cache = program.command('build-cache').description('what steps of builds made, for builders that ask');
  cache
    .command('ls')
    .description('list it, what was used last first')
    .action(async () => {
      const entries = await cli.client.buildCache();
      cli.print({ data: entries, ids: entries.map(({ id }) => String(id)), human: () => entryTable(entries) });
    });
  cache
    .command('rm [entry...]')
    .description('forget entries')
    .option('-a, --all', 'all of them')
    .action(async (entries: string[], { all }: { all?: boolean }) => {
      if ((entries.length === 0) !== (all === true)) throw new UsageError('name entries, or all of them with --all');
      const ids = entries.map(entryId);
      const result = await cli.client.removeBuildCache(ids);
      cli.print({
        data: result,
        ids: result.removed.map(String),
        human: () => result.removed.map((id) => `${id}\n`).join(''),
      });
    });
}

function entryId(text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new UsageError(`${text} is not an entry of the build cache`, '`layerctl build-cache ls` lists them.');
}

function entryTable(entries: readonly BuildCacheEntry[]): string {
  return table(entries, [
    { title: 'ENTRY', value: ({ id }) => String(id) },
    { title: 'PARENT', value: ({ parent }) => (parent === null ? '' : shortId(parent)) },
    { title: 'LAYER', value: ({ diffId }) => (diffId === null ? '' : shortId(diffId)) },
    { title: 'ON DISK', value: ({ disk }) => bytes(disk), right: true },
    { title: 'USED', value: ({ used }) => age(used) },
    { title: 'INSTRUCTION', value: ({ instruction }) => instruction.split('\n', 1).join('').slice(0, 80) },
  ]);
}
