/** The effective settings: defaults, then the file, then the environment, then flags. */
import { LayerdError } from '../core/errors.js';
import { didYouMean } from '../core/similar.js';
import { readConfigFile } from './file.js';
import { expectedText } from './kinds.js';
import {
  environmentName,
  flagName,
  SETTING_LIST,
  SETTINGS,
  type Setting,
  type SettingKey,
  type Settings,
  type SettingValue,
} from './settings.js';

export const DEFAULT_CONFIG_FILE = '/etc/layerd/config.toml';

export type Origin = 'default' | 'file' | 'environment' | 'flag';

export interface Configuration {
  settings: Settings;
  /** Where each value came from; `where` is `FILE:LINE`, a variable or a flag, '' for a default. */
  origins: ReadonlyMap<SettingKey, { origin: Origin; where: string }>;
  /** The file that was asked for, whether it is there or not. */
  file: string;
  /** Variables named LAYERD_… that are no setting: perhaps misspelled. */
  unknownVariables: string[];
}

export interface ConfigurationInput {
  /** From --config; null for LAYERD_CONFIG or the default file. */
  file: string | null;
  env: NodeJS.ProcessEnv;
  /** Flags as given, by setting. */
  flags: ReadonlyMap<SettingKey, string>;
  defaultFile?: string;
}

/** Names that other parts read: not settings of the daemon, and not misspelled. */
const OTHER_VARIABLES = new Set(['LAYERD_CONFIG', 'LAYERD_SOCKET', 'LAYERD_NO_FFI']);

/** Throws INVALID_CONFIG that names the line, variable or flag. */
export function loadConfiguration(input: ConfigurationInput): Configuration {
  const named = input.file ?? input.env['LAYERD_CONFIG'] ?? null;
  const file = named ?? input.defaultFile ?? DEFAULT_CONFIG_FILE;
  const fromFile = readConfigFile(file, named !== null);
  const values: Partial<Record<SettingKey, SettingValue>> = {};
  const origins = new Map<SettingKey, { origin: Origin; where: string }>();
  const unset: (readonly [SettingKey, Setting<SettingValue>])[] = [];
  const set = (key: SettingKey, value: SettingValue, origin: Origin, where: string): void => {
    values[key] = value;
    origins.set(key, { origin, where });
  };
  for (const [key, setting] of SETTING_LIST) {
    const flag = input.flags.get(key);
    const variable = input.env[environmentName(key)];
    const inFile = fromFile.get(key);
    if (flag !== undefined) {
      set(key, fromText(key, setting, flag, `--${flagName(key)}`), 'flag', `--${flagName(key)}`);
    } else if (variable !== undefined) {
      set(key, fromText(key, setting, variable, environmentName(key)), 'environment', environmentName(key));
    } else if (inFile !== undefined) set(key, inFile.value, 'file', `${file}:${inFile.line}`);
    else unset.push([key, setting]);
  }
  const run = String(values.run ?? SETTINGS.run.fallback);
  for (const [key, setting] of unset) {
    const { fallback, common = [] } = setting;
    const shared = common.find((name) => (input.env[name] ?? '') !== '');
    if (shared !== undefined) set(key, fromText(key, setting, input.env[shared] ?? '', shared), 'environment', shared);
    else set(key, typeof fallback === 'function' ? fallback(run) : fallback, 'default', '');
  }
  return { settings: values as Settings, origins, file, unknownVariables: unknownVariables(input.env) };
}

function fromText(key: SettingKey, setting: Setting<SettingValue>, given: string, where: string): SettingValue {
  const value = setting.kind.fromText(given);
  if (value !== undefined) return value;
  throw new LayerdError(
    'INVALID_CONFIG',
    `${where} is ${JSON.stringify(given)}, expected ${expectedText(setting.kind)}`,
    {
      details: { key, where },
      hint: '`layerd --help` says what each setting means.',
    },
  );
}

/** What to do about a variable that is no setting. */
export function variableHint(name: string): string {
  const known = SETTING_LIST.map(([key]) => environmentName(key));
  return `${didYouMean(name, known)}\`layerd --help\` lists the variables.`;
}

function unknownVariables(env: NodeJS.ProcessEnv): string[] {
  const known = new Set(SETTING_LIST.map(([key]) => environmentName(key)));
  return Object.keys(env)
    .filter((name) => name.startsWith('LAYERD_') && !known.has(name) && !OTHER_VARIABLES.has(name))
    .sort();
}
