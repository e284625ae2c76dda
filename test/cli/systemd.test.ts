/** The unit files, for what they are. */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { describeWith, needsProgram, needsRoot } from '../support.js';
import { smallImage } from './archives.js';
import { cleanEnvironment, LAYERD, makeHome, removeHome, TestDaemon } from './daemon.js';

/** Beside the sources, whatever directory the tests were compiled into. */
const UNITS = new URL('../../../systemd/', import.meta.url).pathname;

const unit = (name: string): string => readFileSync(join(UNITS, name), 'utf8');

let home: string;
beforeEach(() => {
  home = makeHome();
});
afterEach(() => removeHome(home));

describeWith(
  'the units',
  [needsRoot(), needsProgram('systemd-analyze', 'systemd'), needsProgram('setpriv', 'util-linux')],
  () => {
    it('are accepted by systemd', () => {
      // the program is wherever this build is
      writeFileSync(join(home, 'layerd.service'), unit('layerd.service').replace('/usr/bin/layerd', LAYERD));
      writeFileSync(join(home, 'layerd.socket'), unit('layerd.socket'));
      const { status, stderr } = spawnSync(
        'systemd-analyze',
        ['verify', '--man=no', join(home, 'layerd.service'), join(home, 'layerd.socket')],
        {
          encoding: 'utf8',
        },
      );
      const ours = stderr.split('\n').filter((line) => line.includes('layerd'));
      expect({ status, ours }).toEqual({ status: 0, ours: [] });
    });

    it('would be refused if they were wrong', () => {
      writeFileSync(join(home, 'layerd.service'), unit('layerd.service').replace('Type=notify', 'Type=notfy'));
      const { stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', join(home, 'layerd.service')], {
        encoding: 'utf8',
      });
      expect(stderr).toContain('notfy');
    });

    it('give the service no mount namespace, in which the host would not see its mounts', () => {
      const settings = [...unit('layerd.service').matchAll(/^(\w+)=/gm)].map(([, name]) => name ?? '');
      const namespaced =
        /^(PrivateMounts|MountFlags|MountAPIVFS|ProtectSystem|ProtectHome|PrivateTmp|PrivateDevices|ProtectKernel\w+|ProtectControlGroups|ProtectProc|ProcSubset|ReadWritePaths|ReadOnlyPaths|InaccessiblePaths|ExecPaths|NoExecPaths|BindPaths|BindReadOnlyPaths|TemporaryFileSystem|Root\w+|DynamicUser|PrivateUsers|ProtectHostname|RuntimeDirectory|CacheDirectory|LogsDirectory)$/;
      expect(settings.filter((name) => namespaced.test(name))).toEqual([]);
      expect(settings).toContain('CapabilityBoundingSet');
    });

    it('make the directories', () => {
      mkdirSync(join(home, 'etc'));
      const conf = join(home, 'layerd.conf');
      writeFileSync(conf, unit('layerd.tmpfiles'));
      execFileSync('systemd-tmpfiles', ['--create', `--root=${home}`, conf]);
      expect(statSync(join(home, 'run/layerd')).mode & 0o777).toBe(0o755);
      expect(statSync(join(home, 'var/lib/layerd')).mode & 0o777).toBe(0o700);
    });

    it('leave the daemon the capabilities that its work needs', async () => {
      const [, list = ''] = /^CapabilityBoundingSet=(.*)$/m.exec(unit('layerd.service')) ?? [];
      const kept = list.split(' ').map((name) => `+${name.replace('CAP_', '').toLowerCase()}`);
      const bounded = ['--no-new-privs', `--bounding-set=-all,${kept.join(',')}`];
      const command = [process.execPath, LAYERD, '--root', join(home, 'root'), '--run', join(home, 'run')];
      const child = spawn('setpriv', [...bounded, ...command], {
        env: cleanEnvironment(),
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      const daemon = await TestDaemon.attach(home, child);
      try {
        const { file } = smallImage(home, 'test/app:1', ['one', 'two']);
        await daemon.client.load(file);
        await daemon.client.createContainer('test/app:1', { name: 'box' });
        const { path } = await daemon.client.mount('box');
        // files of other users, with every mode, devices, deletions
        execFileSync('sh', ['-c', 'echo x > f && chown 1:2 f && chmod 6755 f && mknod n c 1 3 && rm one', 'sh'], {
          cwd: path,
        });
        const { diffId } = await daemon.client.commit('box', { ref: 'test/app:2' });
        expect(diffId).toMatch(/^sha256:/);
        await daemon.client.createContainer('test/app:2', { name: 'second' });
        const second = await daemon.client.mount('second');
        expect(statSync(join(second.path, 'f'))).toMatchObject({ uid: 1, gid: 2, mode: 0o106755 });
        expect(statSync(join(second.path, 'n')).isCharacterDevice()).toBe(true);
        for (const name of ['box', 'second']) await daemon.client.removeContainer(name, { force: true });
        expect((await daemon.client.check()).ok).toBe(true);
      } finally {
        await daemon.stop();
      }
    });
  },
);
