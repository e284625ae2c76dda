/** What tests need from the machine. Without the test runner, so that programs that tests start can use it, too. */
import { accessSync, constants } from 'node:fs';

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
