import { readFileSync } from 'node:fs';

interface Manifest {
  version: string;
}

/** The version of package.json; the build puts this file two directories below the one that package.json is beside. */
export const VERSION = (JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as Manifest)
  .version;
