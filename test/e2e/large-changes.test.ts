/** What a container changes of much at once: a directory of 10,000 lower files renamed, a lower file of 1 GiB given a mode. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { fixture, type Fixture } from '../../bench/fixtures/fixtures.js';
import { imageRef } from '../../bench/fixtures/image.js';
import { run } from '../../bench/fixtures/shell.js';
import { compareTrees, describeTree, showDifferences } from '../reference/tree.js';
import { describeWith } from '../support.js';
import { needsFixtures, TESTED_DRIVERS, withStore } from './store.js';

const LARGE = 'localhost/large:1';
const CHANGED = 'localhost/large:2';
const FILES = 10_000;
const GIB = 1024 ** 3;
const MAKE = `
  mkdir srv/many
  (cd srv/many; for n in $(seq ${FILES}); do echo $n > $n; done)
  head -c ${GIB} /dev/zero > srv/big
`;

describeWith('large changes', needsFixtures(), () => {
  let tiny: Fixture;
  beforeAll(async () => {
    tiny = await fixture('tiny');
  }, 600_000);

  it.each(TESTED_DRIVERS)(
    'are told, committed, and the same in a fresh store: %s',
    async (driver) => {
      const out = mkdtempSync(join(tmpdir(), 'layerd-large-'));
      try {
        await withStore({ driver }, async (store) => {
          await store.load(tiny.forms.ociArchive.path);
          await run('bash', ['-euc', MAKE], { cwd: await store.container(imageRef('tiny'), 'author') });
          await store.commit('author', { ref: LARGE });
          await store.engine.removeContainer('author', { force: true });

          const root = await store.container(LARGE, 'changer');
          // mv of coreutils copies where a rename is refused: this is the system call alone
          await run('python3', ['-c', "import os; os.rename('srv/many', 'srv/moved'); os.chmod('srv/big', 0o600)"], {
            cwd: root,
          });
          const changes = await store.changes('changer');
          expect(changes.filter((change) => !change.startsWith('A /srv/moved/'))).toEqual([
            'C /srv',
            'C /srv/big',
            'D /srv/many',
            'A /srv/moved',
          ]);
          expect(changes).toHaveLength(FILES + 4);
          const live = await describeTree(root);
          const { size } = await store.commit('changer', { ref: CHANGED });
          expect(size).toBeGreaterThan(GIB);
          await store.save([CHANGED], 'docker', join(out, 'large.tar'));
          await withStore({ driver }, async (fresh) => {
            await fresh.load(join(out, 'large.tar'));
            const again = await describeTree(await fresh.container(CHANGED, 'again'));
            expect(showDifferences(compareTrees(live, again))).toBe('');
          });
        });
      } finally {
        rmSync(out, { recursive: true, force: true });
      }
    },
    300_000,
  );
});
