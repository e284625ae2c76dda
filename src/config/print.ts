/** The effective configuration for `layerd config`: as TOML that could be used as the file, or as JSON. */
import type { Configuration, Origin } from './load.js';
import {
  environmentName,
  flagName,
  SETTING_LIST,
  type Setting,
  type SettingKey,
  type SettingValue,
} from './settings.js';

/** TOML with what each setting means and where its value came from as comments. */
export function printToml(configuration: Configuration): string {
  const lines: string[] = [];
  let section = '';
  for (const [key, setting] of SETTING_LIST) {
    const [name, table] = splitKey(key);
    if (table !== section) {
      section = table;
      lines.push(`[${table}]`);
    }
    const value = shown(setting, configuration.settings[key]);
    lines.push(
      ...wrap(setting.doc, 110).map((line) => `# ${line}`),
      `${name} = ${setting.kind.toToml(value)}  # ${describeOrigin(configuration, key)}`,
      '',
    );
  }
  return lines.join('\n');
}

export interface PrintedSetting {
  key: SettingKey;
  value: SettingValue;
  origin: Origin;
  where: string;
  environment: string;
  flag: string;
  reloads: boolean;
  doc: string;
}

/** Every setting as data; durations are milliseconds, sizes bytes. */
export function printData(configuration: Configuration): PrintedSetting[] {
  return SETTING_LIST.map(([key, setting]) => ({
    key,
    value: shown(setting, configuration.settings[key]),
    origin: configuration.origins.get(key)?.origin ?? 'default',
    where: configuration.origins.get(key)?.where ?? '',
    environment: environmentName(key),
    flag: `--${flagName(key)}`,
    reloads: setting.reloads,
    doc: setting.doc,
  }));
}

/** Without its secret, if it has one. */
function shown({ kind }: Setting<SettingValue>, value: SettingValue): SettingValue {
  return kind.shown?.(value) ?? value;
}

function describeOrigin(configuration: Configuration, key: SettingKey): string {
  const origin = configuration.origins.get(key);
  if (origin === undefined || origin.origin === 'default') return 'default';
  return origin.where;
}

/** `gc.interval` → name and table. */
function splitKey(key: SettingKey): [string, string] {
  const dot = key.indexOf('.');
  return dot === -1 ? [key, ''] : [key.slice(dot + 1), key.slice(0, dot)];
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
