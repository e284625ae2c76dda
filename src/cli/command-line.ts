/** Command lines that end with somebody else's command, whose options are not ours. */
import type { Command } from 'commander';
import { UsageError } from './exit-codes.js';

/** The name of a last argument that takes a command with its options as it stands. */
export const FOREIGN_COMMAND = 'command';

/**
 * The arguments with `--` in front of a foreign command, so that `layerctl run IMAGE ls -l` needs none. Options of ours
 * stand anywhere in front of the image.
 */
export function separated(program: Command, args: readonly string[]): string[] {
  let command = program;
  /** Positional arguments of ours that are still to come; null while the command's name is looked for. */
  let expected: number | null = null;
  for (let i = 0; i < args.length; i++) {
    const word = args[i] ?? '';
    if (word === '--') break;
    if (word.startsWith('-') && word !== '-') {
      if (takesNext([...command.options, ...program.options], word)) i++;
    } else if (expected === null) {
      const named = program.commands.find((each) => each.name() === word);
      if (named?.registeredArguments.at(-1)?.name() !== FOREIGN_COMMAND) break;
      command = named;
      expected = named.registeredArguments.length - 1;
    } else if (--expected === 0) {
      const rest = args.slice(i + 1);
      return [...args.slice(0, i + 1), ...(rest.length === 0 || rest[0] === '--' ? [] : ['--']), ...rest];
    }
  }
  return [...args];
}

/** Throws UsageError for an argument of ours that is empty: no name, reference or file is. */
export function refuseEmpty(command: Command): void {
  for (const [position, argument] of command.registeredArguments.entries()) {
    const given: unknown[] = [command.processedArgs[position]].flat();
    if (argument.name() === FOREIGN_COMMAND || !given.includes('')) continue;
    throw new UsageError(
      `the argument <${argument.name()}> is empty`,
      'Is it a variable of the shell that is not set?',
    );
  }
}

/** Whether an option's value is the next word: `--name x`, `-e x`, `-ite x`, and not `--name=x`, `-ex`. */
function takesNext(options: readonly { short?: string; long?: string; required: boolean }[], word: string): boolean {
  const takes = (flag: string): boolean =>
    options.some(({ short, long, required }) => required && (flag === short || flag === long));
  if (word.startsWith('--')) return takes(word);
  const letters = word.slice(1).split('');
  const first = letters.findIndex((letter) => takes(`-${letter}`));
  return first !== -1 && first === letters.length - 1;
}
