/** Dockerfile instructions that change how an image is run, as `docker commit --change` takes them. */
import { posix } from 'node:path';
import { constants } from 'node:os';
import { type Environment, expandWord, splitWords, syntaxError } from './dockerfile-words.js';
import type { RunConfig } from './types.js';

/** Applies the changes in their order to a copy of `config`. Throws INVALID_ARGUMENT with the change that is wrong. */
export function applyChanges(config: RunConfig, changes: readonly string[]): RunConfig {
  const state: State = { config: structuredClone(config), commandSet: false };
  for (const line of changes.flatMap(linesOf)) applyLine(state, line);
  return state.config;
}

interface State {
  config: RunConfig;
  /** A CMD among these changes survives a later ENTRYPOINT; one of the parent does not. */
  commandSet: boolean;
}

type Instruction = (state: State, rest: string, line: string) => void;

const INSTRUCTIONS: Record<string, Instruction> = {
  CMD: (state, rest) => {
    state.config.Cmd = command(state, rest);
    state.commandSet = true;
  },
  ENTRYPOINT: (state, rest) => {
    state.config.Entrypoint = command(state, rest);
    if (!state.commandSet) delete state.config.Cmd;
  },
  ENV: ({ config }, rest, line) => {
    const environment = environmentOf(config);
    const added = pairs(rest, environment, line);
    config.Env = [...new Map([...environment, ...added])].map(([name, value]) => `${name}=${value}`);
  },
  EXPOSE: ({ config }, rest, line) => {
    const ports = several(config, rest, line).flatMap((word) => portsOf(word, line));
    config.ExposedPorts = { ...config.ExposedPorts, ...setOf(ports) };
  },
  LABEL: ({ config }, rest, line) => {
    const added = pairs(rest, environmentOf(config), line);
    config.Labels = { ...config.Labels, ...Object.fromEntries(added) };
  },
  ONBUILD: ({ config }, rest, line) => {
    const trigger = /^\S+/.exec(rest)?.[0].toUpperCase() ?? '';
    if (['ONBUILD', 'FROM', 'MAINTAINER'].includes(trigger)) throw syntaxError(line, `${trigger} cannot be a trigger`);
    config.OnBuild = [...(config.OnBuild ?? []), rest];
  },
  STOPSIGNAL: ({ config }, rest, line) => {
    const signal = single(config, rest, line);
    if (!isSignal(signal)) throw syntaxError(line, `${JSON.stringify(signal)} is not a signal`);
    config.StopSignal = signal;
  },
  USER: ({ config }, rest, line) => {
    config.User = single(config, rest, line);
  },
  VOLUME: ({ config }, rest, line) => {
    const paths = execForm(rest)?.map((path) => expandWord(path, environmentOf(config), line));
    config.Volumes = { ...config.Volumes, ...setOf(paths ?? several(config, rest, line)) };
  },
  WORKDIR: ({ config }, rest, line) => {
    const path = posix.resolve('/', config.WorkingDir ?? '', single(config, rest, line));
    config.WorkingDir = path;
  },
};

function applyLine(state: State, line: string): void {
  const match = /^(\S+)(?:\s+(.*))?$/s.exec(line);
  const name = match?.[1]?.toUpperCase() ?? '';
  const rest = match?.[2]?.trim() ?? '';
  const instruction = Object.hasOwn(INSTRUCTIONS, name) ? INSTRUCTIONS[name] : undefined;
  if (instruction === undefined) throw syntaxError(line, `it must be one of ${Object.keys(INSTRUCTIONS).join(', ')}`);
  if (rest === '') throw syntaxError(line, `${name} needs an argument`);
  instruction(state, rest, line);
}

/** A change may have several lines, as a Dockerfile has: continued by a backslash, with comments. */
function linesOf(change: string): string[] {
  const lines = change.replaceAll(/\\[ \t]*\r?\n/g, '').split(/\r?\n/);
  return lines.map((line) => line.trim()).filter((line) => line !== '' && !line.startsWith('#'));
}

/** `["program", "argument"]` as it stands; anything else is a line for the image's shell. */
function command({ config }: State, rest: string): string[] {
  return execForm(rest) ?? [...(config.Shell ?? ['/bin/sh', '-c']), rest];
}

function execForm(rest: string): string[] | null {
  if (!rest.startsWith('[')) return null;
  try {
    const parsed: unknown = JSON.parse(rest);
    return Array.isArray(parsed) && parsed.every((item) => typeof item === 'string') ? parsed : null;
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

function environmentOf(config: RunConfig): Map<string, string> {
  return new Map(
    (config.Env ?? []).map((entry) => {
      const equals = entry.indexOf('=');
      return equals < 0 ? [entry, ''] : [entry.slice(0, equals), entry.slice(equals + 1)];
    }),
  );
}

/** `A=1 B="two words"`, or the old form of one name and the rest of the line. */
function pairs(rest: string, environment: Environment, line: string): [string, string][] {
  const raw = splitWords(rest);
  if (!(raw[0] ?? '').includes('=')) {
    const [, name = '', value = ''] = /^(\S+)\s+(.*)$/s.exec(rest) ?? [];
    if (name === '') throw syntaxError(line, 'it must read NAME=VALUE');
    return [[expandWord(name, environment, line), expandWord(value, environment, line)]];
  }
  return raw.map((pair) => {
    const equals = pair.indexOf('=');
    if (equals < 0) throw syntaxError(line, `there is no = in ${JSON.stringify(pair)}`);
    const name = expandWord(pair.slice(0, equals), environment, line);
    if (name === '') throw syntaxError(line, 'a name is empty');
    return [name, expandWord(pair.slice(equals + 1), environment, line)];
  });
}

function single(config: RunConfig, rest: string, line: string): string {
  return expandWord(rest, environmentOf(config), line);
}

function several(config: RunConfig, rest: string, line: string): string[] {
  const environment = environmentOf(config);
  const expanded = splitWords(rest).map((each) => expandWord(each, environment, line));
  if (expanded.includes('')) throw syntaxError(line, 'an argument is empty');
  return expanded;
}

/** `80`, `53/udp`, `8000-8010`: one entry `PORT/PROTOCOL` for each. */
function portsOf(text: string, line: string): string[] {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?(?:\/(tcp|udp|sctp))?$/i.exec(text);
  const first = Number(match?.[1]);
  const last = Number(match?.[2] ?? match?.[1]);
  if (match === null || first < 1 || last > 65_535 || last < first) {
    throw syntaxError(line, `${JSON.stringify(text)} is not a port`);
  }
  const protocol = match[3]?.toLowerCase() ?? 'tcp';
  return Array.from({ length: last - first + 1 }, (_, i) => `${first + i}/${protocol}`);
}

/** Numbers, names with or without SIG, and the real-time signals. */
function isSignal(text: string): boolean {
  if (/^\d+$/.test(text)) return Number(text) >= 1 && Number(text) <= 64;
  const name = text.toUpperCase().replace(/^(?!SIG)/, 'SIG');
  return Object.hasOwn(constants.signals, name) || /^SIGRT(?:MIN(?:\+\d{1,2})?|MAX(?:-\d{1,2})?)$/.test(name);
}

function setOf(names: readonly string[]): Record<string, object> {
  return Object.fromEntries(names.map((name) => [name, {}]));
}
