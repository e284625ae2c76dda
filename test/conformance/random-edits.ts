/** Random shell commands over the names that random layers have; those that fail change nothing, or half. */
import * as fc from 'fast-check';

const NAMES = ['a', 'b', 'c', 'd'];
const path = fc.array(fc.constantFrom(...NAMES), { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'));
const two = fc.tuple(path, path);

/** Writing to a fifo would wait for a reader. */
const write = (how: string) => path.map((at) => `[ -p ${at} ] || ${how.replaceAll('AT', at)}`);

const command = fc.oneof(
  write('echo content > AT'),
  write('echo more >> AT'),
  write('truncate -s 5000 AT'),
  path.map((at) => `mkdir -p ${at}`),
  path.map((at) => `rm -rf ${at}`),
  path.map((at) => `rmdir ${at}`),
  path.map((at) => `chmod 700 ${at}`),
  path.map((at) => `touch -h -d @1234567890.5 ${at}`),
  path.map((at) => `mkfifo ${at}`),
  path.map((at) => `setfattr -n user.edit -v x ${at}`),
  two.map(([from, to]) => `mv -T ${from} ${to}`),
  two.map(([from, to]) => `ln -P ${from} ${to}`),
  two.map(([from, to]) => `ln -s ${from} ${to}`),
  two.map(([from, to]) => `cp -a --remove-destination ${from} ${to}`),
  fc.constant('chmod 711 .'),
);

export function arbitraryEdits(): fc.Arbitrary<string[]> {
  return fc.array(
    command.map((line) => `{ ${line}; } 2>/dev/null || :`),
    { maxLength: 12 },
  );
}
