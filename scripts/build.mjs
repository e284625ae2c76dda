// Compiles the project into dist/ and copies what the compiler leaves out.
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
rmSync(new URL('../dist', import.meta.url), { recursive: true, force: true });
execFileSync(process.execPath, [`${root}node_modules/typescript/bin/tsc`, '-p', `${root}tsconfig.json`], {
  stdio: 'inherit',
});
for (const bin of ['layerd', 'layerctl']) {
  const path = `${root}dist/src/${bin}.js`;
  if (existsSync(path)) chmodSync(path, 0o755);
}
