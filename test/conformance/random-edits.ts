/** Random shell commands over the names that random layers have; those that fail change nothing, or half. */
import * as fc from 'fast-check';

const NAMES = ['a', 'b', 'c', 'd'];
const path = fc.array(fc.constantFrom(...NAMES), { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/'));
const two = fc.tuple(path, path);

const command = fc.oneof(
  path.map((at) => `echo content > ${at}`),
  path.map((at) => `echo more >> ${at}`),
  path.map((at) => `mkdir -p ${at}`),
  path.map((at) => `rm -rf ${at}`),
  path.map((at) => `rmdir ${at}`),
  path.map((at) => `chmod 700 ${at}`),
  path.map((at) => `touch -h -d @1234567890.5 ${at}`),
  path.map((at) => `truncate -s 5000 ${at}`),
  path.map((at) => `mkfifo ${at}`),
  path.map((at) => `setfattr -n user.edit -v x ${at}`),
  two.map(([from, to]) => `mv -T ${from} ${to}`),
  two.map(([from, to]) => `ln -P ${from} ${to}`),
  two.map(([from, to]) => `ln -s ${from} ${to}`),
  two.map(([from, to]) => `cp -a ${from} ${to}`),
  fc.constant('chmod 711 .'),
);

export function arbitraryEdits(): fc.Arbitrary<string[]> {
  return fc.array(
    command.map((line) => `timeout 5 ${line} 2>/dev/null || :`).map((line) => line.replace(/^timeout 5 echo/, 'echo')),
    { maxLength: 12 },
  );
}
