import { describe, expect, it } from 'vitest';
import { sha256 } from '../../src/core/digest.js';
import { type Commit, commitConfig, historyRows } from '../../src/image/config.js';
import { applyChanges } from '../../src/image/dockerfile.js';
import { parseConfig } from '../../src/image/documents.js';
import type { RunConfig } from '../../src/image/types.js';

describe('changes of a commit', () => {
  it.each<[string[], RunConfig]>([
    [['CMD ["a", "b c"]'], { Cmd: ['a', 'b c'] }],
    [['cmd echo $HOME "x"'], { Cmd: ['/bin/sh', '-c', 'echo $HOME "x"'] }],
    [['CMD ["a", 1]'], { Cmd: ['/bin/sh', '-c', '["a", 1]'] }],
    [["CMD ['a']"], { Cmd: ['/bin/sh', '-c', "['a']"] }],
    [['ENTRYPOINT ["/e"]'], { Entrypoint: ['/e'] }],
    [['ENTRYPOINT run it'], { Entrypoint: ['/bin/sh', '-c', 'run it'] }],
    [['ENV A=1 B="two words" C=it\\ is D=\'$A\''], { Env: ['A=1', 'B=two words', 'C=it is', 'D=$A'] }],
    [['ENV A 1 and "more"'], { Env: ['A=1 and more'] }],
    [
      ['ENV A=1', 'ENV B=$A-${A}2 C=${X:-none} D=${A:+set} E=${X:+set} F=\\$A G="\\"q\\""'],
      {
        Env: ['A=1', 'B=1-12', 'C=none', 'D=set', 'E=', 'F=$A', 'G="q"'],
      },
    ],
    [['ENV A=1', 'ENV A=2 B=$A'], { Env: ['A=2', 'B=1'] }],
    [
      ['EXPOSE 80 53/UDP 8000-8002'],
      {
        ExposedPorts: { '80/tcp': {}, '53/udp': {}, '8000/tcp': {}, '8001/tcp': {}, '8002/tcp': {} },
      },
    ],
    [['LABEL a=b "c d"="e f"', 'LABEL one two three'], { Labels: { a: 'b', 'c d': 'e f', one: 'two three' } }],
    [['ONBUILD RUN make $X'], { OnBuild: ['RUN make $X'] }],
    [['STOPSIGNAL SIGTERM', 'STOPSIGNAL 9'], { StopSignal: '9' }],
    [['STOPSIGNAL RTMIN+3'], { StopSignal: 'RTMIN+3' }],
    [['USER 1000:1000'], { User: '1000:1000' }],
    [['VOLUME /a "/b c"', 'VOLUME ["/d"]'], { Volumes: { '/a': {}, '/b c': {}, '/d': {} } }],
    [['WORKDIR /srv', 'WORKDIR app/../bin/'], { WorkingDir: '/srv/bin' }],
    [['# comment\nENV A=1 \\\n B=2\nUSER root'], { Env: ['A=1', 'B=2'], User: 'root' }],
  ])('%j', (changes, expected) => {
    expect(changed({}, ...changes)).toEqual(expected);
  });

  it('an ENTRYPOINT takes the CMD of the parent away, but not one of the same commit', () => {
    expect(changed({ Cmd: ['old'] }, 'ENTRYPOINT ["/e"]')).toEqual({ Entrypoint: ['/e'] });
    expect(changed({ Cmd: ['old'] }, 'CMD ["new"]', 'ENTRYPOINT ["/e"]')).toEqual({ Entrypoint: ['/e'], Cmd: ['new'] });
  });

  it('shell forms use the shell of the image', () => {
    expect(changed({ Shell: ['/bin/bash', '-ec'] }, 'CMD run').Cmd).toEqual(['/bin/bash', '-ec', 'run']);
  });

  it('leaves the config that it is given as it is', () => {
    const before: RunConfig = { Env: ['A=1'], Labels: { a: 'b' } };
    changed(before, 'ENV A=2', 'LABEL a=c');
    expect(before).toEqual({ Env: ['A=1'], Labels: { a: 'b' } });
  });

  it.each([
    ['RUN make', 'it must be one of CMD'],
    ['constructor x', 'it must be one of CMD'],
    ['CMD', 'needs an argument'],
    ['ENV A', 'NAME=VALUE'],
    ['ENV A=1 B', 'there is no ='],
    ['ENV =1', 'a name is empty'],
    ['ENV A="x', 'not closed'],
    ["ENV A='x", 'not closed'],
    ['ENV A=${X', 'not understood'],
    ['ENV A=${X:-y', '} is missing'],
    ['ENV A=${X:?y}', 'not understood'],
    ['ENV A=${}', 'no name'],
    ['EXPOSE 0', 'not a port'],
    ['EXPOSE 70000', 'not a port'],
    ['EXPOSE 9-1', 'not a port'],
    ['EXPOSE 80/http', 'not a port'],
    ['STOPSIGNAL SIGNOPE', 'not a signal'],
    ['STOPSIGNAL 65', 'not a signal'],
    ['ONBUILD ONBUILD RUN x', 'cannot be a trigger'],
    ['VOLUME ""', 'an argument is empty'],
  ])('%j is refused: %s', (change, why) => {
    expect(() => changed({}, change)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    expect(() => changed({}, change)).toThrow(why);
  });
});

function changed(before: RunConfig, ...changes: string[]): RunConfig {
  return applyChanges(before, changes);
}

const D1 = sha256('layer 1');
const D2 = sha256('layer 2');
const NEW = sha256('new layer');

const PARENT = parseConfig(
  'parent',
  Buffer.from(
    JSON.stringify({
      architecture: 'amd64',
      os: 'linux',
      author: 'somebody',
      container: 'abc',
      'x-vendor': { kept: true },
      config: { Cmd: ['sh'], Env: ['PATH=/bin'], Healthcheck: { Test: ['CMD', 'true'] }, Volumes: null },
      rootfs: { type: 'layers', diff_ids: [D1, D2] },
      history: [
        { created: '2020-01-01T00:00:00.123456789Z', created_by: 'ADD base' },
        { created: '2020-01-02T00:00:00Z', created_by: 'ENV A=1', empty_layer: true },
        { created: '2020-01-03T00:00:00Z', created_by: 'RUN x', comment: 'buildkit' },
      ],
    }),
  ),
);

const COMMIT: Commit = {
  diffId: NEW,
  created: Date.UTC(2026, 0, 2),
  createdBy: 'sh',
  author: 'me',
  message: 'why',
  changes: ['ENV A=1'],
  platform: { os: 'linux', architecture: 'arm64' },
};

describe('the config of a commit', () => {
  it('has one layer and one row of history more, and keeps what layerd does not know', () => {
    const { bytes, digest, parsed } = commitConfig(PARENT, COMMIT);
    const document = JSON.parse(bytes.toString()) as Record<string, unknown>;
    expect(digest).toBe(sha256(bytes));
    expect(parsed.diffIds).toEqual([D1, D2, NEW]);
    expect(parsed.history).toHaveLength(4);
    expect(parsed.history.at(-1)).toEqual({
      created: '2026-01-02T00:00:00.000Z',
      created_by: 'sh',
      author: 'me',
      comment: 'why',
    });
    expect(document['x-vendor']).toEqual({ kept: true });
    expect(document['author']).toBe('me');
    expect(document['architecture']).toBe('amd64');
    expect(document).not.toHaveProperty('container');
    expect(document['config']).toEqual({
      Cmd: ['sh'],
      Env: ['PATH=/bin', 'A=1'],
      Healthcheck: { Test: ['CMD', 'true'] },
      Volumes: null,
    });
  });

  it('without changes in the files has the same layers and an empty row of history', () => {
    const { parsed } = commitConfig(PARENT, { ...COMMIT, diffId: null });
    expect(parsed.diffIds).toEqual([D1, D2]);
    expect(parsed.history.at(-1)?.empty_layer).toBe(true);
  });

  it('of nothing is an image of one layer for the platform given', () => {
    const { parsed } = commitConfig(null, { ...COMMIT, changes: [] });
    expect(parsed.platform).toEqual({ os: 'linux', architecture: 'arm64' });
    expect(parsed.diffIds).toEqual([NEW]);
    expect(parsed.created).toBe(COMMIT.created);
  });

  it('fills up a history that tells of fewer layers than there are, so that readers count right', () => {
    const silent = { ...PARENT, history: [] };
    const { parsed } = commitConfig(silent, COMMIT);
    expect(parsed.history).toHaveLength(3);
    expect(historyRows(parsed, [1, 2, 3])[0]).toMatchObject({ createdBy: 'sh', size: 3, diffId: NEW });
  });

  it('is the same for the same input', () => {
    expect(commitConfig(PARENT, COMMIT).digest).toBe(commitConfig(PARENT, COMMIT).digest);
  });
});

describe('history', () => {
  it('has a row for each instruction, newest first, 0 bytes for those without a layer', () => {
    expect(historyRows(PARENT, [100, 20])).toEqual([
      { created: Date.UTC(2020, 0, 3), createdBy: 'RUN x', comment: 'buildkit', size: 20, diffId: D2 },
      { created: Date.UTC(2020, 0, 2), createdBy: 'ENV A=1', comment: '', size: 0, diffId: null },
      { created: Date.UTC(2020, 0, 1) + 123, createdBy: 'ADD base', comment: '', size: 100, diffId: D1 },
    ]);
  });

  it('shows layers that the history does not tell of, and instructions that lack their layer', () => {
    expect(historyRows({ ...PARENT, history: [] }, [1, 2]).map((row) => row.diffId)).toEqual([D2, D1]);
    const rows = historyRows({ ...PARENT, diffIds: [D1] }, [1]);
    expect(rows.map((row) => row.diffId)).toEqual([null, null, D1]);
  });
});
