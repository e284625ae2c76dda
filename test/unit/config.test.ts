import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { engineConfigOf } from '../../src/config/engine.js';
import { loadConfiguration, variableHint, type ConfigurationInput } from '../../src/config/load.js';
import { printData, printToml } from '../../src/config/print.js';
import { environmentName, flagName, SETTING_LIST, type SettingKey } from '../../src/config/settings.js';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { LayerdError } from '../../src/core/errors.js';
import { formatDuration, formatSize, parseDuration, parseSize } from '../../src/core/units.js';

let dir = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'layerd-config-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function load(toml: string, rest: Partial<ConfigurationInput> = {}): ReturnType<typeof loadConfiguration> {
  const file = join(dir, 'config.toml');
  writeFileSync(file, toml);
  return loadConfiguration({ file, env: {}, flags: new Map(), ...rest });
}

function refusal(toml: string, rest: Partial<ConfigurationInput> = {}): LayerdError {
  try {
    load(toml, rest);
  } catch (error) {
    if (error instanceof LayerdError && error.code === 'INVALID_CONFIG') return error;
    throw error;
  }
  throw new Error('this configuration should have been refused');
}

function complaint(toml: string, rest: Partial<ConfigurationInput> = {}): string {
  return refusal(toml, rest).message;
}

describe('layers of configuration', () => {
  it('gives the embedded defaults without file, environment and flags', () => {
    const { settings, origins } = loadConfiguration({
      file: null,
      env: {},
      flags: new Map(),
      defaultFile: join(dir, 'nowhere.toml'),
    });
    expect(engineConfigOf(settings)).toEqual(DEFAULT_ENGINE_CONFIG);
    expect(settings.http_socket).toBe('/run/layerd/layerd.sock');
    expect([...origins.values()].every(({ origin }) => origin === 'default')).toBe(true);
  });

  it('lets the environment win over the file, and a flag over both', () => {
    const toml = 'log_level = "warn"\n[gc]\ninterval = "1h"\ngrace = "5s"\n';
    const { settings, origins } = load(toml, {
      env: { LAYERD_GC_INTERVAL: '2h', LAYERD_GC_GRACE: '6s' },
      flags: new Map([['gc.grace', '7s']]),
    });
    expect(settings.log_level).toBe('warn');
    expect(settings['gc.interval']).toBe(7_200_000);
    expect(settings['gc.grace']).toBe(7_000);
    expect(origins.get('log_level')).toEqual({ origin: 'file', where: `${join(dir, 'config.toml')}:1` });
    expect(origins.get('gc.interval')).toEqual({ origin: 'environment', where: 'LAYERD_GC_INTERVAL' });
    expect(origins.get('gc.grace')).toEqual({ origin: 'flag', where: '--gc-grace' });
  });

  it('takes proxies from where all programs do, unless the file says otherwise', () => {
    const env = {
      HTTPS_PROXY: 'proxy.example:3128',
      http_proxy: 'http://a:b@other.example',
      NO_PROXY: 'a.example, 10.0.0.0/8',
    };
    const { settings, origins } = load('', { env });
    expect(engineConfigOf(settings).registry.proxies).toEqual({
      https: 'http://proxy.example:3128',
      http: 'http://a:b@other.example',
      except: ['a.example', '10.0.0.0/8'],
    });
    expect(origins.get('registry.https_proxy')).toEqual({ origin: 'environment', where: 'HTTPS_PROXY' });
    const own = load('[registry]\nhttps_proxy = "off"\n', { env });
    expect(engineConfigOf(own.settings).registry.proxies.https).toBeNull();
    expect(complaint('', { env: { HTTPS_PROXY: 'socks5://x' } })).toContain('HTTPS_PROXY is "socks5://x"');
  });

  it('shows no password of a proxy', () => {
    const env = { HTTPS_PROXY: 'http://name:pa:ss@proxy.example:3128', HTTP_PROXY: 'http://only-a-name@proxy.example' };
    const configuration = load('', { env });
    expect(configuration.settings['registry.https_proxy']).toBe(env.HTTPS_PROXY);
    const printed = `${printToml(configuration)}${JSON.stringify(printData(configuration))}`;
    expect(printed).not.toContain('pa:ss');
    expect(printed).toContain('https_proxy = "http://name:***@proxy.example:3128"');
    expect(printed).toContain('http_proxy = "http://only-a-name@proxy.example"');
  });

  it('puts the socket into the run directory, wherever that was set', () => {
    expect(load('run = "/run/other"').settings.http_socket).toBe('/run/other/layerd.sock');
    expect(load('', { env: { LAYERD_RUN: '/x' } }).settings.http_socket).toBe('/x/layerd.sock');
    expect(load('run = "/run/other"\nhttp_socket = "/s"').settings.http_socket).toBe('/s');
  });

  it('takes the file that LAYERD_CONFIG names, and insists that it is there', () => {
    const file = join(dir, 'named.toml');
    writeFileSync(file, 'keep_blobs = true');
    expect(loadConfiguration({ file: null, env: { LAYERD_CONFIG: file }, flags: new Map() }).settings.keep_blobs).toBe(
      true,
    );
    expect(complaint('', { file: join(dir, 'gone.toml') })).toContain('gone.toml');
  });

  it('takes on and off as words, and as they were when there was no auto', () => {
    for (const [given, value] of Object.entries({ auto: 'auto', on: 'on', off: 'off', true: 'on', false: 'off' })) {
      const { settings } = load('', { flags: new Map([['erofs.directio', given]]) });
      expect(settings['erofs.directio']).toBe(value);
      expect(load(`erofs.directio = "${value}"`).settings).toEqual(settings);
    }
    expect(load('erofs.directio = true').settings['erofs.directio']).toBe('on');
    expect(load('erofs.directio = false').settings['erofs.directio']).toBe('off');
    expect(complaint('', { flags: new Map([['erofs.directio', '1']]) })).toContain(
      '--erofs-directio is "1", expected one of',
    );
  });

  it('names variables that look like settings and are none', () => {
    const { unknownVariables } = load('', { env: { LAYERD_GC_INTERVALL: '1h', LAYERD_SOCKET: '/s', OTHER: '1' } });
    expect(unknownVariables).toEqual(['LAYERD_GC_INTERVALL']);
  });
});

describe('wrong configuration names the line', () => {
  const cases: [name: string, toml: string, line: number, says: string][] = [
    ['unknown key', 'root = "/r"\n\nrooot = "/x"\n', 3, 'no setting named rooot'],
    ['unknown key in a table', '[gc]\n# why\ninterval = "1h"\nintervall = "1h"', 4, 'no setting named gc.intervall'],
    ['unknown table', 'root = "/r"\n[gcc]\n', 2, 'no setting named gcc'],
    ['dotted key', 'gc.interval = "1h"\ngc.grace = "soon"', 2, 'gc.grace is "soon", expected a duration'],
    ['wrong type', 'root = "/r"\nkeep_blobs = "yes"', 2, 'keep_blobs is "yes", expected true or false'],
    ['behind a value of many lines', 'root = """\n/r"""\ndriver = "zfs"', 3, 'driver is "zfs", expected one of "auto"'],
    ['a value of many lines itself', '# one\n\nsocket_group = [\n  "a",\n  "b"\n]', 3, 'socket_group is ["a","b"]'],
    [
      'a value where a section belongs',
      'root = "/r"\ngc = 3',
      2,
      'gc is 3, expected a section [gc] with the settings interval',
    ],
    ['a table where a value belongs', '[root]\n', 1, 'root is {}'],
    ['a flag that is three', '[erofs]\ndirectio = "yes"', 2, 'expected one of "auto", "on", "off", true, false'],
    ['a number where a path belongs', 'root = 3', 1, 'root is 3, expected an absolute path'],
    ['relative path', 'run = "run"', 1, 'expected an absolute path'],
    ['number out of range', '\n[events]\nmax = 3', 3, 'events.max is 3, expected a whole number from 100'],
    ['not TOML', 'root = "/r"\ndriver = \n', 2, 'not TOML'],
    ['a key twice', 'run = "/a"\nrun = "/b"', 2, 'not TOML'],
    ['an address that others reach', 'metrics_address = "0.0.0.0:9469"', 1, 'a loopback address'],
  ];
  it.each(cases)('%s', (_name, toml, line, says) => {
    const message = complaint(toml);
    expect(message).toContain(`config.toml:${line}: `);
    expect(message).toContain(says);
  });

  it('asks whether another name is meant', () => {
    expect(refusal('[gc]\nintervall = "1h"').hint).toMatch(/^Did you mean gc\.interval\? `layerd config` prints/);
    expect(refusal('whatever = 1').hint).toMatch(/^`layerd config` prints/);
    expect(variableHint('LAYERD_GC_INTERVALL')).toMatch(/^Did you mean LAYERD_GC_INTERVAL\? /);
    expect(variableHint('LAYERD_BOGUS')).toBe('`layerd --help` lists the variables.');
  });

  it('names the variable or flag otherwise', () => {
    expect(complaint('', { env: { LAYERD_GC_GRACE: '5' } })).toContain('LAYERD_GC_GRACE is "5", expected a duration');
    expect(complaint('', { flags: new Map([['driver', 'zfs']]) })).toContain('--driver is "zfs"');
    // a relative one is right there
    expect(complaint('', { flags: new Map([['root', '']]) })).toBe('--root is "", expected a path');
    expect(load('', { flags: new Map([['root', 'here']]) }).settings.root).toBe(join(process.cwd(), 'here'));
  });
});

describe('printing', () => {
  it('prints a file that reads back as the same settings', () => {
    const first = load('root = "/tmp/\\"x\\"\\u007f"\n[limits]\nlayer_size = "1.5G"\n[gc]\ngrace = "1h1ms"', {
      env: { LAYERD_OVERLAY_XINO: 'on' },
    });
    expect(load(printToml(first)).settings).toEqual(first.settings);
  });

  it('says where each value came from, in both forms', () => {
    const configuration = load('[gc]\ngrace = "5s"');
    expect(printToml(configuration)).toMatch(/^grace = "5s" {2}# .*config\.toml:2$/m);
    expect(printToml(configuration)).toMatch(/^interval = "10m" {2}# default$/m);
    const grace = printData(configuration).find(({ key }) => key === 'gc.grace');
    expect(grace).toMatchObject({ value: 5000, origin: 'file', environment: 'LAYERD_GC_GRACE', flag: '--gc-grace' });
  });

  it('gives every setting a variable and a flag of its own', () => {
    const keys = SETTING_LIST.map(([key]) => key);
    const unique = (name: (key: SettingKey) => string): number => new Set(keys.map(name)).size;
    expect(unique(environmentName)).toBe(keys.length);
    expect(unique(flagName)).toBe(keys.length);
  });
});

describe('units', () => {
  it('reads durations and sizes as people write them', () => {
    expect(parseDuration('1h30m')).toBe(5_400_000);
    expect(parseDuration('250ms')).toBe(250);
    for (const wrong of ['', '5', '5 m', '-1s', 'm', '1.5h', '1e3s', '99999999999999999d']) {
      expect(parseDuration(wrong), wrong).toBeNull();
    }
    expect(parseSize('10G')).toBe(10 * 1024 ** 3);
    expect(parseSize('1.5KiB')).toBe(1536);
    expect(parseSize('7')).toBe(7);
    for (const wrong of ['', 'G', '-1', '1X', '0.3', '9999999999T']) expect(parseSize(wrong), wrong).toBeNull();
  });

  it('writes them so that they read back', () => {
    fc.assert(
      fc.property(fc.nat({ max: Number.MAX_SAFE_INTEGER }), (value) => {
        expect(parseDuration(formatDuration(value))).toBe(value);
        expect(parseSize(formatSize(value))).toBe(value);
      }),
    );
  });
});
