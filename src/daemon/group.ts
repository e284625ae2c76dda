import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { LayerdError } from '../core/errors.js';

/**
 * The number of a group named in the configuration: a number itself, a line of /etc/group, or what the name service
 * knows; null for ''. Throws INVALID_CONFIG.
 */
export async function groupNumber(group: string): Promise<number | null> {
  if (group === '') return null;
  if (/^\d+$/.test(group)) return Number(group);
  const known = gidIn(await readFile('/etc/group', 'utf8').catch(() => ''), group) ?? gidIn(await askNss(group), group);
  if (known !== null) return known;
  throw new LayerdError('INVALID_CONFIG', `socket_group names ${group}, but there is no such group`, {
    details: { key: 'socket_group', group },
    hint: `Create it (groupadd --system ${group}), or name another.`,
  });
}

function gidIn(groups: string, name: string): number | null {
  for (const line of groups.split('\n')) {
    const [found, , gid = ''] = line.split(':');
    if (found === name && /^\d+$/.test(gid)) return Number(gid);
  }
  return null;
}

/** Groups may live in LDAP and the like; '' where getent knows none, or is not there. */
async function askNss(name: string): Promise<string> {
  const found = await promisify(execFile)('getent', ['group', '--', name]).catch(() => null);
  return found?.stdout ?? '';
}
