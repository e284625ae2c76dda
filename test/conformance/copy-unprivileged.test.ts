/**
 * The copy driver by Node alone: no system calls of our own, and nobody's rights. The process of this file gives up root
 * for good, if it has it.
 */
import { beforeAll } from 'vitest';
import { DEFAULT_ENGINE_CONFIG } from '../../src/core/engine-config.js';
import { plainDirectory } from './file-system.js';
import { driverSuite } from './suite.js';

const NOBODY = 65_534;

beforeAll(() => {
  process.env['LAYERD_NO_FFI'] = '1';
  if (process.getuid?.() !== 0) return;
  process.setgroups?.([]);
  process.setgid?.(NOBODY);
  process.setuid?.(NOBODY);
});

const options = { ...DEFAULT_ENGINE_CONFIG.driverOptions, copy: { useFfi: false } };
driverSuite({
  driver: 'copy',
  way: ' by Node alone, as nobody',
  fileSystem: plainDirectory,
  options,
  scope: 'everything',
});
