// Compiles src, drivers, test and bench into dist/ (or --out DIR, so that several builds can live side by side), and packs
// the programs (pack.mjs).
import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { pack } from './pack.mjs';

const { values } = parseArgs({ options: { out: { type: 'string', default: 'dist' } } });
const root = fileURLToPath(new URL('..', import.meta.url));
const out = `${root}${values.out}`;
rmSync(out, { recursive: true, force: true });
execFileSync(
  process.execPath,
  [`${root}node_modules/typescript/bin/tsc`, '-p', `${root}tsconfig.json`, '--outDir', out],
  {
    stdio: 'inherit',
  },
);
await pack(out);
writeFileSync(`${out}/.built`, '');
