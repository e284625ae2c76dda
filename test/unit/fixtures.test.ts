import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cachedFixture, fixture } from '../../bench/fixtures/fixtures.js';
import type { Fixture } from '../../bench/fixtures/fixtures.js';
import { debianMirror } from '../../bench/fixtures/mirror.js';
import { RECIPES } from '../../bench/fixtures/recipes.js';
import { run } from '../../bench/fixtures/shell.js';
import { describeWith, needsProgram, needsRoot } from '../support.js';

const NEEDS = [
  needsRoot(),
  ...Object.entries(RECIPES.tiny.programs).map(([program, bringer]) => needsProgram(program, bringer)),
];

interface Inspected {
  Layers: string[];
  Labels: Record<string, string>;
}

async function inspect(source: string): Promise<Inspected> {
  return JSON.parse(await run('skopeo', ['inspect', source])) as Inspected;
}

describeWith('fixtures', NEEDS, () => {
  let home = '';
  let tiny: Fixture;
  beforeAll(async () => {
    home = mkdtempSync(`${tmpdir()}/fixtures-`);
    tiny = await fixture('tiny', `${home}/one`);
  });
  afterAll(() => {
    rmSync(home, { recursive: true, force: true });
  });

  it('come out the same each time', async () => {
    const again = await fixture('tiny', `${home}/two`);
    expect(again.layers).toEqual(tiny.layers);
    expect(again.forms.ociArchive.digest).toBe(tiny.forms.ociArchive.digest);
    expect(again.forms.dockerArchive.digest).toBe(tiny.forms.dockerArchive.digest);
  });

  it('are made once, and by one process where several ask', async () => {
    const [first, second] = await Promise.all([fixture('tiny', `${home}/three`), fixture('tiny', `${home}/three`)]);
    expect(second).toEqual(first);
    expect(await fixture('tiny', `${home}/three`)).toEqual(first);
    expect(readdirSync(`${home}/three`).sort()).toEqual(['.tiny.lock', 'tiny']);
  });

  it('are made anew when the recipe is another', async () => {
    const cache = `${home}/four`;
    const made = await fixture('tiny', cache);
    writeFileSync(`${cache}/tiny/fixture.json`, JSON.stringify({ ...made, recipe: 0 }));
    expect(cachedFixture('tiny', cache)).toBeUndefined();
    expect((await fixture('tiny', cache)).recipe).toBe(RECIPES.tiny.version);
  });

  it('have three forms that skopeo reads', async () => {
    const { ociArchive, ociLayout, dockerArchive } = tiny.forms;
    const blobs = tiny.layers.map((layer) => layer.blobDigest);
    expect((await inspect(`oci-archive:${ociArchive.path}`)).Layers).toEqual(blobs);
    expect((await inspect(`oci:${ociLayout.path}:${tiny.tag}`)).Layers).toEqual(blobs);
    const docker = await inspect(`docker-archive:${dockerArchive.path}`);
    expect(docker.Layers).toEqual(tiny.layers.map((layer) => layer.diffId));
    expect(docker.Labels['org.opencontainers.image.title']).toBe('tiny');
  });

  it('carry whiteouts, and opaque markers at the end of their layer', async () => {
    const changes = tiny.layers.at(-1)?.blobDigest.slice('sha256:'.length) ?? '';
    const members = (await run('tar', ['-tzf', `${tiny.forms.ociLayout.path}/blobs/sha256/${changes}`]))
      .trimEnd()
      .split('\n');
    expect(members).toContain('srv/app/.wh.old');
    expect(members).toContain('bin/.wh.vi');
    expect(members.at(-1)).toMatch(/\/\.wh\.\.wh\.\.opq$/);
  });

  it('say what is missing to make them', async () => {
    const path = process.env['PATH'];
    const bin = `${home}/bin`;
    mkdirSync(bin);
    for (const program of ['flock', 'sh', 'cat']) symlinkSync(`/usr/bin/${program}`, `${bin}/${program}`);
    process.env['PATH'] = bin;
    try {
      await expect(fixture('tiny', `${home}/five`)).rejects.toThrow('needs skopeo: sudo apt-get install skopeo');
    } finally {
      process.env['PATH'] = path;
    }
  });
});

const ARCHIVE = 'http://mirror.example/debian';
const SECURITY = 'http://mirror.example/debian-security';
const OTHER = 'http://packages.example/node_20.x';

describe("fixtures: the mirror of this machine's apt", () => {
  const apt = mkdtempSync(`${tmpdir()}/apt-`);
  afterAll(() => {
    rmSync(apt, { recursive: true });
  });
  const parts = `${apt}/sources.list.d`;

  it('is none where apt has none', () => {
    expect(debianMirror(apt)).toBeUndefined();
  });

  it('is found in one-line sources, not among security updates and others', () => {
    const lines = [
      `# deb http://old.example/debian bookworm main`,
      `deb ${OTHER} bookworm main`,
      `deb ${SECURITY} bookworm-security main`,
      `deb-src http://source.example/debian bookworm main`,
      `deb [arch=amd64 signed-by=/key] ${ARCHIVE} bookworm main contrib`,
    ];
    writeFileSync(`${apt}/sources.list`, lines.join('\n'));
    expect(debianMirror(apt)).toBe(ARCHIVE);
    rmSync(`${apt}/sources.list`);
  });

  it('is found in stanzas', () => {
    mkdirSync(parts);
    const stanzas = [
      `Types: deb\nURIs: ${SECURITY}\nSuites: bookworm-security\nComponents: main`,
      `Types: deb\n# a remark\nURIs: ${ARCHIVE}\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /key`,
    ];
    writeFileSync(`${parts}/debian.sources`, stanzas.join('\n\n'));
    expect(debianMirror(apt)).toBe(ARCHIVE);
  });
});
