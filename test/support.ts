import { describe, it } from 'vitest';
import type { Prerequisite } from './needs.js';

export { needsProgram, needsRoot, type Prerequisite } from './needs.js';

/**
 * `describe` for tests with prerequisites: where one is missing, they are skipped with the command that would enable
 * them in their name; in CI, where nothing may skip, they fail instead.
 */
export function describeWith(name: string, needs: Prerequisite[], body: () => void): void {
  const missing = needs.filter((need) => !need.met);
  if (missing.length === 0) {
    describe(name, body);
    return;
  }
  const why = missing.map((need) => `needs ${need.name}: ${need.enable}`).join('; ');
  if (process.env['CI']) {
    it(name, () => {
      throw new Error(`in CI nothing may skip, but this test ${why}`);
    });
    return;
  }
  describe.skip(`${name} (${why})`, body);
}

/** For `expect.poll`: what should be at once may take long on a busy machine. */
export const PATIENCE = { timeout: 60_000 } as const;
