import { accessSync, constants } from 'node:fs';
import { describe, it } from 'vitest';

/** Something a test needs from the machine, and the command that provides it. */
export interface Prerequisite {
  name: string;
  met: boolean;
  enable: string;
}

const root: Prerequisite = { name: 'root', met: process.getuid?.() === 0, enable: 'sudo npm test' };

/** The test needs root on Linux. */
export function needsRoot(): Prerequisite {
  return { ...root, met: root.met && process.platform === 'linux' };
}

/** The test needs a program on PATH, from a Debian package. */
export function needsProgram(program: string, debianPackage = program): Prerequisite {
  const met = (process.env['PATH'] ?? '').split(':').some((dir) => isExecutable(`${dir}/${program}`));
  return { name: program, met, enable: `sudo apt-get install ${debianPackage}` };
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

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
export const PATIENCE = { timeout: 10_000 } as const;
