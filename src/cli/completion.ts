/** Completion scripts for shells, made from the commands themselves. */
import type { Command, Option } from 'commander';
import type { LayerdClient } from '../client/client.js';
import { shortId } from './format.js';
import { UsageError } from './exit-codes.js';

/** What an argument of each name is completed with; others with files. */
const KINDS: Record<string, string> = {
  image: 'images',
  ref: 'images',
  container: 'containers',
  lease: 'leases',
  name: 'all',
  subject: 'all',
};

interface Completed {
  /** `lease create` is two words. */
  words: string;
  description: string;
  options: Flags[];
  /** What its arguments are: a kind for `layerctl __names`, `files`, or '' for nothing. */
  argument: string;
}

interface Flags {
  /** `-o` and `--output`. */
  names: string[];
  /** Null where it takes no value; else the words to choose from, or what fits is a file or a program. */
  value: { words: string[] } | 'files' | 'programs' | null;
}

/** Throws UsageError for a shell that is not known. */
export function completionScript(program: Command, shell: string): string {
  const commands = completedCommands(program);
  const global = optionsOf(program);
  switch (shell) {
    case 'bash':
      return bash(commands, global);
    case 'zsh':
      return `#compdef layerctl\nautoload -U +X bashcompinit && bashcompinit\n${bash(commands, global)}`;
    case 'fish':
      return fish(commands, global);
    default:
      throw new UsageError(`there is no completion for ${shell}`, 'Shells are bash, zsh and fish.');
  }
}

/** Names to complete with; empty where there is no daemon to ask. */
export async function namesOf(client: LayerdClient, kind: string): Promise<string[]> {
  const images = async (): Promise<string[]> =>
    (await client.images()).flatMap(({ id, refs }) => refs.concat(shortId(id)));
  const containers = async (): Promise<string[]> =>
    (await client.containers()).flatMap(({ id, name }) => [name, shortId(id)]);
  const leases = async (): Promise<string[]> => (await client.leases()).map(({ id }) => id);
  const sources: Record<string, (() => Promise<string[]>)[]> = {
    images: [images],
    containers: [containers],
    leases: [leases],
    all: [images, containers],
  };
  const found = await Promise.all((sources[kind] ?? []).map((source) => source())).catch(() => []);
  return [...new Set(found.flat())];
}

function completedCommands(parent: Command, prefix = ''): Completed[] {
  return parent.commands
    .filter((command) => !command.name().startsWith('__'))
    .flatMap((command) => {
      const words = `${prefix}${command.name()}`;
      if (command.commands.length > 0) return completedCommands(command, `${words} `);
      const [argument] = command.registeredArguments;
      const kind = argument === undefined ? '' : (KINDS[argument.name()] ?? 'files');
      return [{ words, description: command.description(), options: optionsOf(command), argument: kind }];
    });
}

function optionsOf(command: Command): Flags[] {
  return command.options.map((option) => ({
    names: [option.short, option.long].filter((name) => name !== undefined),
    value: option.required ? valueOf(option) : null,
  }));
}

/** By the name of the value in the option's flags: `<file>`, `<docker|oci>`. */
function valueOf({ flags, argChoices }: Option): Flags['value'] {
  const name = /<(.+)>/.exec(flags)?.[1] ?? '';
  if (['file', 'path', 'dir', 'cgroup'].includes(name)) return 'files';
  if (name === 'program') return 'programs';
  return { words: argChoices ?? (/^[\w|-]+$/.test(name) && name.includes('|') ? name.split('|') : []) };
}

function namesIn(options: readonly Flags[]): string[] {
  return options.flatMap(({ names }) => names);
}

function takesValue({ value }: Flags): boolean {
  return value !== null;
}

/** What `compgen` offers for the value of an option. */
function compgenOf(value: Flags['value']): string {
  if (value === 'files') return '-f';
  if (value === 'programs') return '-c';
  return `-W "${(value?.words ?? []).join(' ')}"`;
}

function bash(commands: readonly Completed[], global: readonly Flags[]): string {
  const first = [...new Set(commands.map(({ words }) => words.split(' ')[0] ?? ''))];
  const seconds = first
    .map((word) => [
      word,
      commands.filter(({ words }) => words.startsWith(`${word} `)).map(({ words }) => words.split(' ')[1]),
    ])
    .filter(([, words]) => words !== undefined && words.length > 0);
  const cases = commands.map(
    ({ words, options, argument }) =>
      `    "${words}") options="${namesIn(options).join(' ')}"; argument="${argument}" ;;`,
  );
  const values = [{ words: '*', options: global }, ...commands].flatMap(({ words, options }) =>
    options.filter(takesValue).map(({ names, value }) => {
      const patterns = names.map((name) => (words === '*' ? `*" ${name}"` : `"${words} ${name}"`));
      return `    ${patterns.join('|')}) COMPREPLY=($(compgen ${compgenOf(value)} -- "$current")) ;;`;
    }),
  );
  const valued = [...new Set(namesIn([...global, ...commands.flatMap(({ options }) => options)].filter(takesValue)))];
  return `_layerctl() {
  local current="\${COMP_WORDS[COMP_CWORD]}" words=() word command options="" argument="" before="" value=""
  COMPREPLY=()
  # refs contain colons, at which bash breaks words: what stands before the last colon is put together again
  if [[ $COMP_WORDBREAKS == *:* ]]; then
    word="\${COMP_LINE:0:COMP_POINT}"; word="\${word##*[[:space:]]}"
    if [[ $word == *:* ]]; then before="\${word%"\${word##*:}"}"; current="$word"; fi
  fi
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    if [[ -n $value ]]; then value=""
    else case "$word" in
      ${valued.join('|')}) value="$word" ;;
      -*) ;;
      *) words+=("$word") ;;
    esac; fi
  done
  if (( \${#words[@]} == 0 )) && [[ $current != -* && -z $value ]]; then
    COMPREPLY=($(compgen -W "${first.join(' ')}" -- "$current"))
    return
  fi
  command="\${words[0]}"
  case "$command" in
${seconds
  .map(([word, next]) => {
    const choices = Array.isArray(next) ? next.join(' ') : '';
    return `    ${String(word)})
      if (( \${#words[@]} == 1 )) && [[ -z $value ]]; then COMPREPLY=($(compgen -W "${choices}" -- "$current")); return; fi
      command="\${words[0]} \${words[1]}" ;;`;
  })
  .join('\n')}
  esac
  if [[ -n $value ]]; then
    case "$command $value" in
${values.join('\n')}
    esac
    return
  fi
  case "$command" in
${cases.join('\n')}
  esac
  if [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$options ${namesIn(global).join(' ')}" -- "$current"))
  elif [[ $argument == files ]]; then
    COMPREPLY=($(compgen -f -- "$current"))
  elif [[ -n $argument ]]; then
    COMPREPLY=($(compgen -W "$(layerctl __names "$argument" 2>/dev/null)" -- "$current"))
    COMPREPLY=("\${COMPREPLY[@]#"$before"}")
  fi
}
complete -F _layerctl layerctl
`;
}

function fish(commands: readonly Completed[], global: readonly Flags[]): string {
  const lines = ['complete -c layerctl -f'];
  const seen = new Set<string>();
  for (const { words, description, options, argument } of commands) {
    const [first = '', second] = words.split(' ');
    const text = fishText(description);
    if (!seen.has(first))
      lines.push(`complete -c layerctl -n __fish_use_subcommand -a ${first} -d ${second === undefined ? text : "''"}`);
    seen.add(first);
    if (second !== undefined)
      lines.push(`complete -c layerctl -n '__fish_seen_subcommand_from ${first}' -a ${second} -d ${text}`);
    const condition = `'__fish_seen_subcommand_from ${second ?? first}'`;
    if (argument === 'files') lines.push(`complete -c layerctl -n ${condition} -F`);
    else if (argument !== '')
      lines.push(`complete -c layerctl -n ${condition} -a '(layerctl __names ${argument} 2>/dev/null)'`);
    lines.push(...options.map((option) => `complete -c layerctl -n ${condition} ${fishOption(option)}`));
  }
  lines.push(...global.map((option) => `complete -c layerctl ${fishOption(option)}`));
  return `${lines.join('\n')}\n`;
}

function fishOption({ names, value }: Flags): string {
  const flags = names.map((name) => (name.startsWith('--') ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`)).join(' ');
  if (value === null) return flags;
  if (value === 'files') return `${flags} -r -F`;
  if (value === 'programs') return `${flags} -x -a '(__fish_complete_command)'`;
  return value.words.length === 0 ? `${flags} -x` : `${flags} -x -a '${value.words.join(' ')}'`;
}

function fishText(text: string): string {
  return `'${text.replaceAll("'", String.raw`\'`)}'`;
}
