/** The configuration file: TOML, read so that every complaint names the line. */
import { readFileSync } from 'node:fs';
import { parse, TomlError } from 'smol-toml';
import { isErrno, LayerdError } from '../core/errors.js';
import { didYouMean } from '../core/similar.js';
import { SETTINGS, type SettingKey, type SettingValue } from './settings.js';

export interface FileValue {
  value: SettingValue;
  line: number;
}

/**
 * The settings of a file. `required`: a file that is not there is an error, otherwise it is empty. Throws
 * INVALID_CONFIG with file and line.
 */
export function readConfigFile(path: string, required: boolean): Map<SettingKey, FileValue> {
  const source = readSource(path, required);
  const found = new Map<SettingKey, FileValue>();
  if (source === null) return found;
  for (const [key, raw] of leaves(parseToml(path, source), [])) {
    const name = key.join('.');
    if (isTable(raw) && isSection(name)) continue;
    const line = lineOf(source, key);
    if (isSection(name)) throw invalid(path, line, notASection(name, raw), { key: name });
    if (!isSettingKey(name)) {
      const meant = didYouMean(name, Object.keys(SETTINGS));
      throw invalid(path, line, `there is no setting named ${name}`, { key: name }, meant);
    }
    const { kind } = SETTINGS[name];
    const value = kind.fromToml(raw);
    if (value === undefined) {
      throw invalid(path, line, `${name} is ${JSON.stringify(raw)}, expected ${kind.expects}`, { key: name });
    }
    found.set(name, { value, line });
  }
  return found;
}

function readSource(path: string, required: boolean): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isErrno(error, 'ENOENT') && !required) return null;
    throw new LayerdError('INVALID_CONFIG', `cannot read the configuration file ${path}: ${String(error)}`, {
      details: { file: path },
      hint: 'Name another file with --config, or none: every setting has a default.',
      cause: error,
    });
  }
}

function parseToml(path: string, source: string): Record<string, unknown> {
  try {
    return parse(source);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const reason = (error.message.split('\n')[0] ?? '').replace('Invalid TOML document: ', '');
    throw invalid(path, error.line, `this is not TOML: ${reason}`, {});
  }
}

/** Every value that is not a table, and every empty table, with the path of keys that leads to it. */
function* leaves(table: Record<string, unknown>, above: string[]): Generator<[string[], unknown]> {
  for (const [key, value] of Object.entries(table)) {
    const path = [...above, key];
    if (isTable(value) && Object.keys(value).length > 0) yield* leaves(value, path);
    else yield [path, value];
  }
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

/**
 * The line where a key is set. The parser does not tell, so it is asked of ever longer heads of the file: the statement
 * begins behind the last head that parses without the key. Quadratic, but configuration files are short.
 */
function lineOf(source: string, key: readonly string[]): number {
  const lines = source.split('\n');
  let complete = 0;
  for (let count = 1; count <= lines.length; count++) {
    const head = tryParse(lines.slice(0, count).join('\n'));
    if (head === null) continue;
    if (hasPath(head, key)) return complete + 1;
    complete = count;
  }
  return lines.length;
}

function tryParse(source: string): Record<string, unknown> | null {
  try {
    return parse(source);
  } catch {
    return null; // the head ends in the middle of a statement
  }
}

function hasPath(table: Record<string, unknown>, path: readonly string[]): boolean {
  let at: unknown = table;
  for (const key of path) {
    if (!isTable(at) || !Object.hasOwn(at, key)) return false;
    at = at[key];
  }
  return true;
}

function notASection(name: string, raw: unknown): string {
  const keys = Object.keys(SETTINGS).flatMap((key) => (key.startsWith(`${name}.`) ? [key.slice(name.length + 1)] : []));
  return `${name} is ${JSON.stringify(raw)}, expected a section [${name}] with the settings ${keys.join(', ')}`;
}

/** `gc` of `gc.interval`. */
function isSection(name: string): boolean {
  return Object.keys(SETTINGS).some((key) => key.startsWith(`${name}.`));
}

function isSettingKey(name: string): name is SettingKey {
  return Object.hasOwn(SETTINGS, name);
}

function invalid(
  path: string,
  line: number,
  message: string,
  details: Record<string, string>,
  meant = '',
): LayerdError {
  return new LayerdError('INVALID_CONFIG', `${path}:${line}: ${message}`, {
    details: { file: path, line, ...details },
    hint: `${meant}\`layerd config\` prints every setting with its value, and \`layerd --help\` what it means.`,
  });
}
