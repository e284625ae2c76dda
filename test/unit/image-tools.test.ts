/** Archives that other tools write are read; archives that layerd writes are read by them. */
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LoadOptions } from '../../src/core/api.js';
import { sha256 } from '../../src/core/digest.js';
import type { ArchiveFormat } from '../../src/core/words.js';
import { readArchive } from '../../src/image/archive-reader.js';
import { writeArchive } from '../../src/image/archive-writer.js';
import type { ParsedImage } from '../../src/image/host.js';
import { describeWith, needsProgram } from '../support.js';
import {
  blobFile,
  type Daemon,
  type KnownImage,
  knownImage,
  makeLayout,
  makeScratch,
  needsLayoutTools,
  podmanArgs,
  removeScratch,
  run,
  skopeo,
  startContainerd,
  startDocker,
} from './image-fixtures.js';
import { chunksOf, MemoryHost } from './image-host.js';

const APP_REF = 'example.com/app:1';
const BASE_REF = 'docker.io/library/base:latest';
const never = new AbortController().signal;

function readPath(path: string, host = new MemoryHost(), options: LoadOptions = {}): Promise<ParsedImage[]> {
  return readArchive({ path }, host, options, never);
}

/** Reads a tar as file and as stream, which must tell the same. */
async function readBothWays(path: string): Promise<ParsedImage[]> {
  const fromFile = await readPath(path);
  const bytes = readFileSync(path);
  const input = { stream: chunksOf(bytes, 65_536), size: bytes.length };
  const fromStream = await readArchive(input, new MemoryHost(), {}, never);
  expect(summary(fromStream)).toEqual(summary(fromFile));
  return fromFile;
}

function summary(images: ParsedImage[]): object[] {
  return images.map(({ config, layers }) => ({ id: config.digest, layers: layers.map((layer) => layer.diffId) }));
}

function diffIds(image: ParsedImage | undefined): string[] {
  return image?.layers.map((layer) => layer.diffId) ?? [];
}

describeWith('archives of other tools', needsLayoutTools(), () => {
  let scratch = '';
  let layout = '';
  let app: KnownImage;
  let base: KnownImage;
  const at = (name: string): string => join(scratch, name);

  beforeAll(() => {
    scratch = makeScratch();
    layout = makeLayout(scratch);
    app = knownImage(layout, 'app');
    base = knownImage(layout, 'base');
  });
  afterAll(() => removeScratch(scratch));

  function podman(...args: string[]): string {
    return run('podman', [...podmanArgs(scratch), '--cgroup-manager', 'cgroupfs', ...args]);
  }

  function buildah(...args: string[]): string {
    return run('buildah', [...podmanArgs(scratch), ...args]);
  }

  function expectApp(): void {
    expect(podman('image', 'inspect', '-f', '{{.Id}}', APP_REF).trim()).toBe(app.id.slice('sha256:'.length));
    const layers = podman('image', 'inspect', '-f', '{{json .RootFS.Layers}}', APP_REF);
    expect(JSON.parse(layers)).toEqual(app.diffIds);
  }

  describe('read', () => {
    it('umoci: the layout as directory and as tar', async () => {
      run('tar', ['-C', layout, '-cf', at('layout.tar'), '.']);
      for (const images of [await readPath(layout), await readBothWays(at('layout.tar'))]) {
        expect(images.map((image) => image.config.digest)).toEqual([base.id, app.id]);
        expect(images[1]?.manifest?.bytes.equals(app.manifest.bytes)).toBe(true);
        expect(diffIds(images[1])).toEqual(app.diffIds);
      }
      const refs = (await readPath(layout)).flatMap((image) => image.refs);
      expect(refs).toEqual(['docker.io/library/layout:base', 'docker.io/library/layout:app']);
    });

    it('GNU tar and bsdtar, compressed by gzip and zstd', async () => {
      run('tar', ['-C', layout, '-czf', at('layout.tar.gz'), '.']);
      run('tar', ['-C', layout, '--zstd', '-cf', at('layout.tar.zst'), '.']);
      for (const name of ['layout.tar.gz', 'layout.tar.zst']) {
        expect(summary(await readBothWays(at(name)))).toEqual(summary(await readPath(layout)));
      }
    });
  });

  describeWith('skopeo', [needsProgram('skopeo')], () => {
    it('docker-archive, whose layers have links to them', async () => {
      skopeo('copy', `oci:${layout}:app`, `docker-archive:${at('skopeo.tar')}:${APP_REF}`);
      const [image] = await readBothWays(at('skopeo.tar'));
      expect(image).toMatchObject({ config: { digest: app.id }, refs: [APP_REF], manifest: null });
      expect(diffIds(image)).toEqual(app.diffIds);
    });

    it('oci-archive and oci, gzip and zstd', async () => {
      skopeo('copy', `oci:${layout}:app`, `oci-archive:${at('skopeo-oci.tar')}:${APP_REF}`);
      const zstd = [
        '--dest-compress-format',
        'zstd',
        '--dest-compress-level',
        '3',
        '--dest-oci-accept-uncompressed-layers',
      ];
      skopeo('copy', ...zstd, `oci:${layout}:app`, `oci:${at('skopeo-oci')}:${APP_REF}`);
      for (const images of [await readBothWays(at('skopeo-oci.tar')), await readPath(at('skopeo-oci'))]) {
        expect(images).toMatchObject([{ config: { digest: app.id }, refs: [APP_REF] }]);
        expect(diffIds(images[0])).toEqual(app.diffIds);
      }
    });
  });

  describeWith('docker 20.10', [needsProgram('dockerd', 'docker.io'), needsProgram('skopeo')], () => {
    let docker: Daemon;
    beforeAll(async () => {
      docker = await startDocker(scratch);
    });
    afterAll(() => docker.stop());

    it('docker save of images that share layers, which are links then', async () => {
      skopeo('copy', `oci:${layout}:app`, `docker-archive:${at('to-docker.tar')}:${APP_REF}`);
      run('docker', ['load', '-i', at('to-docker.tar')], docker.env);
      mkdirSync(at('build'));
      writeFileSync(at('build/file'), 'x');
      writeFileSync(at('build/Dockerfile'), `FROM ${APP_REF}\nENV Q=1\nCOPY file /srv/\n`);
      run('docker', ['build', '-q', '-t', 'child', at('build')], docker.env);
      const child = run('docker', ['image', 'inspect', '-f', '{{.Id}} {{json .RootFS.Layers}}', 'child'], docker.env);
      const [id, layers] = child.trim().split(' ');
      run('docker', ['save', '-o', at('docker.tar'), 'child', APP_REF], docker.env);
      expect(run('tar', ['-tvf', at('docker.tar')])).toContain('layer.tar -> ../');
      const images = await readBothWays(at('docker.tar'));
      const byRef = new Map(images.map((image) => [image.refs[0], image]));
      expect(byRef.get(APP_REF)?.config.digest).toBe(app.id);
      expect(byRef.get('docker.io/library/child:latest')?.config.digest).toBe(id);
      expect(JSON.stringify(diffIds(byRef.get('docker.io/library/child:latest')))).toBe(layers);
    });

    it('docker load of what layerd saves', async () => {
      await saved('docker');
      run('docker', ['image', 'rm', '-f', APP_REF, 'child'], docker.env);
      const loaded = run('docker', ['load', '-i', at('saved-docker.tar')], docker.env);
      expect(loaded).toContain(`Loaded image: ${APP_REF}`);
      expect(loaded).toContain('Loaded image: base:latest');
      const format = '{{.Id}} {{json .RootFS.Layers}}';
      expect(run('docker', ['image', 'inspect', '-f', format, APP_REF], docker.env).trim()).toBe(
        `${app.id} ${JSON.stringify(app.diffIds)}`,
      );
    });
  });

  describeWith('podman and buildah', [needsProgram('podman'), needsProgram('buildah'), needsProgram('skopeo')], () => {
    beforeAll(() => {
      writeFileSync(at('policy.json'), '{"default":[{"type":"insecureAcceptAnything"}]}');
      skopeo('copy', `oci:${layout}:app`, `docker-archive:${at('to-podman.tar')}:${APP_REF}`);
      skopeo('copy', `oci:${layout}:base`, `docker-archive:${at('to-podman-base.tar')}:${BASE_REF}`);
      podman('load', '-i', at('to-podman.tar'));
      podman('load', '-i', at('to-podman-base.tar'));
    });

    it('podman save of several images in one docker-archive, and of an OCI archive', async () => {
      podman('save', '-q', '--multi-image-archive', '-o', at('podman.tar'), APP_REF, BASE_REF);
      const images = await readBothWays(at('podman.tar'));
      const told = images.map((image) => [image.refs[0], image.config.digest]);
      expect(Object.fromEntries(told)).toEqual({ [APP_REF]: app.id, [BASE_REF]: base.id });
      podman('save', '-q', '--format', 'oci-archive', '-o', at('podman-oci.tar'), APP_REF);
      const [image] = await readBothWays(at('podman-oci.tar'));
      expect(image?.refs).toEqual([APP_REF]);
      expect(diffIds(image)).toEqual(app.diffIds);
    });

    it('buildah push to a docker-archive and an OCI archive', async () => {
      const push = ['push', '-q', '--signature-policy', at('policy.json'), APP_REF];
      buildah(...push, `docker-archive:${at('buildah.tar')}:${APP_REF}`);
      buildah(...push, `oci-archive:${at('buildah-oci.tar')}:${APP_REF}`);
      for (const name of ['buildah.tar', 'buildah-oci.tar']) {
        const [image] = await readBothWays(at(name));
        expect(image?.refs).toEqual([APP_REF]);
        expect(diffIds(image)).toEqual(app.diffIds);
      }
    });

    it('podman load of a docker-archive that layerd saves, with all of its images', async () => {
      await saved('docker');
      podman('rmi', '-f', '-a');
      podman('load', '-i', at('saved-docker.tar'));
      expectApp();
      expect(podman('image', 'inspect', '-f', '{{.Id}}', BASE_REF).trim()).toBe(base.id.slice('sha256:'.length));
    });

    it('podman load and buildah pull of an OCI archive that layerd saves; they take archives of one image', async () => {
      await saved('oci', { refs: [APP_REF] });
      podman('rmi', '-f', '-a');
      podman('load', '-i', at('saved-oci.tar'));
      expectApp();
      podman('rmi', '-f', '-a');
      buildah('pull', '-q', '--signature-policy', at('policy.json'), `oci-archive:${at('saved-oci.tar')}:${APP_REF}`);
      expectApp();
    });
  });

  describeWith('containerd', [needsProgram('containerd'), needsProgram('ctr', 'containerd')], () => {
    let containerd: Daemon;
    beforeAll(async () => {
      containerd = await startContainerd(scratch);
    });
    afterAll(() => containerd.stop());
    const images = (): string => run('ctr', ['image', 'ls'], containerd.env);

    it.each<ArchiveFormat>(['docker', 'oci'])(
      'ctr import of what layerd saves, and its export (%s)',
      async (format) => {
        const manifests = await saved(format);
        run('ctr', ['image', 'import', '--no-unpack', at(`saved-${format}.tar`)], containerd.env);
        expect(images()).toMatch(new RegExp(`^${APP_REF} .*${manifests.get(APP_REF)}`, 'm'));
        run('ctr', ['image', 'export', at(`ctr-${format}.tar`), APP_REF, BASE_REF], containerd.env);
        const exported = await readBothWays(at(`ctr-${format}.tar`));
        const told = exported.map((image) => [image.refs[0], image.config.digest]);
        expect(Object.fromEntries(told)).toEqual({ [APP_REF]: app.id, [BASE_REF]: base.id });
      },
    );
  });

  describeWith('saved archives', [needsProgram('skopeo')], () => {
    it('skopeo reads the docker-archive and the OCI archive; config and layers are the same', async () => {
      await saved('docker');
      await saved('oci');
      for (const source of [`docker-archive:${at('saved-docker.tar')}`, `oci-archive:${at('saved-oci.tar')}`]) {
        expect(sha256(skopeo('inspect', '--config', '--raw', `${source}:${APP_REF}`))).toBe(app.id);
        const copy = at(`copy-${source.slice(0, 3)}`);
        skopeo('copy', `${source}:${APP_REF}`, `oci:${copy}:app`);
        expect(knownImage(copy, 'app').diffIds).toEqual(app.diffIds);
      }
    });

    it.each<ArchiveFormat>(['docker', 'oci'])('umoci unpacks the layout inside (%s)', async (format) => {
      await saved(format);
      const unpacked = at(`unpacked-${format}`);
      mkdirSync(unpacked);
      run('tar', ['-C', unpacked, '-xf', at(`saved-${format}.tar`)]);
      const tag = run('umoci', ['ls', '--layout', unpacked])
        .split('\n')
        .find((line) => line.endsWith('1'));
      skopeo('copy', `oci:${unpacked}:${tag ?? ''}`, `oci:${unpacked}:plain`);
      run('umoci', ['unpack', '--image', `${unpacked}:plain`, at(`bundle-${format}`)]);
      expect(readFileSync(at(`bundle-${format}/rootfs/srv/index`), 'utf8')).toBe('hello\n');
    });

    it('the original manifest comes back byte for byte where its blobs are kept', async () => {
      const manifests = await saved('oci', { keepBlobs: true });
      expect(manifests.get(APP_REF)).toBe(app.manifest.digest);
      const unpacked = at('kept');
      mkdirSync(unpacked);
      run('tar', ['-C', unpacked, '-xf', at('saved-oci.tar')]);
      expect(readFileSync(blobFile(unpacked, app.manifest.digest)).equals(app.manifest.bytes)).toBe(true);
      const layers = JSON.parse(app.manifest.bytes.toString()) as { layers: { digest: string }[] };
      for (const { digest } of layers.layers) {
        expect(readFileSync(blobFile(unpacked, digest)).equals(readFileSync(blobFile(layout, digest)))).toBe(true);
      }
    });

    it('layers that images share are written once; the same images give the same bytes', async () => {
      await saved('docker');
      const first = readFileSync(at('saved-docker.tar'));
      const names = run('tar', ['-tf', at('saved-docker.tar')])
        .trim()
        .split('\n');
      expect(new Set(names).size).toBe(names.length);
      const host = new MemoryHost();
      await readPath(layout, host);
      expect(statSync(at('saved-docker.tar')).size).toBeLessThan(
        2 * Math.max(...[...host.tars.values()].map((tar) => tar.length)),
      );
      await saved('docker');
      expect(readFileSync(at('saved-docker.tar')).equals(first)).toBe(true);
    });

    it('layerd reads what it writes, as file and as stream', async () => {
      for (const format of ['docker', 'oci'] as const) {
        await saved(format);
        const images = await readBothWays(at(`saved-${format}.tar`));
        expect(images.map((image) => [image.refs, image.config.digest])).toEqual([
          [[APP_REF], app.id],
          [[BASE_REF], base.id],
        ]);
      }
    });
  });

  /** Loads the layout and saves its images as saved-FORMAT.tar. Gives the manifest digests by ref. */
  async function saved(
    format: ArchiveFormat,
    { keepBlobs = false, refs = [APP_REF, BASE_REF] } = {},
  ): Promise<Map<string, string>> {
    const host = new MemoryHost();
    const images = await readPath(layout, host);
    if (!keepBlobs) host.blobs.clear();
    const toSave = refs.map((ref) => {
      const image = images.find(({ config }) => config.digest === (ref === APP_REF ? app.id : base.id));
      if (image === undefined) throw new Error(`${ref} was not loaded`);
      const { config, manifest, layers } = image;
      return { config, manifest, refs: [ref], layers: layers.map((layer) => layer.diffId) };
    });
    const archive = await writeArchive(toSave, format, host);
    // Chunk by chunk: a ByteSource may overwrite a chunk when the next is asked for.
    await writeFile(at(`saved-${format}.tar`), archive.stream);
    expect(archive.images.every((image) => image.original === keepBlobs)).toBe(true);
    return new Map(archive.images.map((image, i) => [refs[i] ?? '', image.manifestDigest]));
  }
});
