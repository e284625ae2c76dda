/** The kinds of values that settings have: how each is read from TOML and from text, and written back. */
import { isAbsolute, resolve } from 'node:path';
import { formatDuration, formatSize, parseDuration, parseSize } from '../core/units.js';

export interface Kind<T> {
  /** What a right value looks like, for error messages and help. */
  readonly expects: string;
  /** Of text, where more is right than in TOML. */
  readonly expectsText?: string;
  /** From an environment variable or a flag; undefined if it is wrong. */
  fromText(text: string): T | undefined;
  /** From a parsed TOML value; undefined if it is wrong. */
  fromToml(value: unknown): T | undefined;
  /** As a TOML literal. */
  toToml(value: T): string;
  /** What may be shown of a value that can hold a secret. */
  shown?(value: T): T;
}

/** What an environment variable or a flag has to say. */
export function expectedText({ expects, expectsText }: Pick<Kind<unknown>, 'expects' | 'expectsText'>): string {
  return expectsText ?? expects;
}

/** A string, whatever it says. */
export const text: Kind<string> = {
  expects: 'text',
  fromText: (given) => given,
  fromToml: (value) => (typeof value === 'string' ? value : undefined),
  toToml: tomlString,
};

/** An absolute path; flags and the environment may be relative to the working directory. */
export const path: Kind<string> = {
  expects: 'an absolute path',
  expectsText: 'a path',
  fromText: (given) => (given === '' ? undefined : resolve(given)),
  fromToml: (value) => (typeof value === 'string' && isAbsolute(value) ? resolve(value) : undefined),
  toToml: tomlString,
};

/** A path, or `off`. */
export const pathOrOff: Kind<string> = {
  expects: 'an absolute path, or "off"',
  expectsText: 'a path, or "off"',
  fromText: (given) => (given === 'off' ? given : path.fromText(given)),
  fromToml: (value) => (value === 'off' ? value : path.fromToml(value)),
  toToml: tomlString,
};

/** A loopback address with a port, or `off`. What has no password must not leave the machine. */
export const loopbackOrOff: Kind<string> = parsed(
  'a loopback address with its port such as "127.0.0.1:9469" or "[::1]:9469", or "off"',
  (given) => (given === 'off' || parseLoopback(given) !== null ? given : undefined),
);

/** The address of an HTTP proxy, or `off`. Without a scheme it is spoken to without TLS, as everywhere. */
export const proxyOrOff: Kind<string> = {
  ...parsed('the address of an HTTP proxy such as "http://proxy.example:3128", or "off"', (given) => {
    if (given === 'off' || given === '') return 'off';
    const address = given.includes('://') ? given : `http://${given}`;
    return /^https?:\/\/[^/]/.test(address) && URL.canParse(address) ? address : undefined;
  }),
  shown: withoutPassword,
};

export const flag: Kind<boolean> = {
  expects: 'true or false',
  fromText: (given) => (given === 'true' ? true : given === 'false' ? false : undefined),
  fromToml: (value) => (typeof value === 'boolean' ? value : undefined),
  toToml: String,
};

/** Milliseconds, written such as `10m`. */
export const duration: Kind<number> = {
  expects: 'a duration such as "90s", "10m" or "1h30m"',
  fromText: (given) => parseDuration(given) ?? undefined,
  fromToml: (value) => (typeof value === 'string' ? (parseDuration(value) ?? undefined) : undefined),
  toToml: (ms) => tomlString(formatDuration(ms)),
};

/** Bytes, written such as `10G`. */
export const size: Kind<number> = {
  expects: 'a size such as "64K" or "10G" (powers of 1024)',
  fromText: (given) => parseSize(given) ?? undefined,
  fromToml: (value) => (typeof value === 'string' ? (parseSize(value) ?? undefined) : undefined),
  toToml: (bytes) => tomlString(formatSize(bytes)),
};

/** A list of words, kept as text with commas between them; TOML has it as an array. */
export function wordList(expects: string, isWord: (word: string) => boolean): Kind<string> {
  const joined = (list: readonly unknown[]): string | undefined =>
    list.every((word) => typeof word === 'string' && isWord(word)) ? list.join(',') : undefined;
  return {
    expects: `a list of ${expects}`,
    fromText: (given) => joined(splitWords(given)),
    fromToml: (value) => (Array.isArray(value) ? joined(value) : undefined),
    toToml: (value) => `[${splitWords(value).map(tomlString).join(', ')}]`,
  };
}

/** The words of such a list. */
export function splitWords(value: string): string[] {
  return value
    .split(',')
    .map((word) => word.trim())
    .filter((word) => word !== '');
}

export function count(min: number, max: number): Kind<number> {
  const within = (value: number): number | undefined =>
    Number.isInteger(value) && value >= min && value <= max ? value : undefined;
  return {
    expects: `a whole number from ${min} to ${max}`,
    fromText: (given) => (/^\d+$/.test(given) ? within(Number(given)) : undefined),
    fromToml: (value) => (typeof value === 'number' ? within(value) : undefined),
    toToml: String,
  };
}

export function choice<T extends string>(...words: readonly T[]): Kind<T> {
  return parsed(`one of ${words.map(tomlString).join(', ')}`, (given) => words.find((word) => word === given));
}

const ON_OFF_AUTO = choice('auto', 'on', 'off');

/** A flag that may be left to layerd: `auto`. What is on or off may also be said as flags say it. */
export const flagOrAuto: Kind<'auto' | 'on' | 'off'> = {
  ...ON_OFF_AUTO,
  expects: `${ON_OFF_AUTO.expects}, true, false`,
  fromText: (given) => onOrOff(flag.fromText(given)) ?? ON_OFF_AUTO.fromText(given),
  fromToml: (value) => onOrOff(flag.fromToml(value)) ?? ON_OFF_AUTO.fromToml(value),
};

function onOrOff(value: boolean | undefined): 'on' | 'off' | undefined {
  return value === undefined ? undefined : value ? 'on' : 'off';
}

/** `127.0.0.1:9469`, `[::1]:9469` or `localhost:9469`; null if it is no loopback address or has no port. */
export function parseLoopback(given: string): { host: string; port: number } | null {
  const match = /^(127(?:\.\d{1,3}){3}|\[::1\]|localhost):(\d{1,5})$/.exec(given);
  if (match === null) return null;
  const port = Number(match[2]);
  return port <= 65_535 ? { host: (match[1] ?? '').replace(/[[\]]/g, ''), port } : null;
}

/** A kind that is text both in TOML and elsewhere. */
function parsed<T extends string>(expects: string, parse: (given: string) => T | undefined): Kind<T> {
  return {
    expects,
    fromText: parse,
    fromToml: (value) => (typeof value === 'string' ? parse(value) : undefined),
    toToml: tomlString,
  };
}

/** A TOML basic string escapes as JSON does, and DEL besides. */
function tomlString(value: string): string {
  return JSON.stringify(value).replaceAll('\u007f', '\\u007f');
}

/** The place of a password stays visible: who reads it sees that there is one. */
function withoutPassword(address: string): string {
  return address.replace(/^(\w+:\/\/[^/@:]*):[^/]*@/, '$1:***@');
}
