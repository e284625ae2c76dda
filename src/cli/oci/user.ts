/** Who a container's process is: the image's words for it, looked up in the image's own files. */
import { LayerdError } from '../../core/errors.js';
import { readInRoot } from './read-in-root.js';

export interface ContainerUser {
  uid: number;
  gid: number;
  additionalGids: number[];
  home: string;
}

/** One account: passwd(5) and group(5), of which the rest does not matter here. Names as latin1, which keeps bytes. */
interface Account {
  name: string;
  uid: number;
  gid: number;
  home: string;
}
interface Group {
  name: string;
  gid: number;
  members: string[];
}

const NUMBER = /^\d{1,10}$/;
const MAX_ID = 2 ** 32 - 2;

/**
 * `USER[:GROUP]` of an image config (OCI image specification, config.md, "User"): names or numbers. A number need not be
 * in /etc/passwd; its group is 0 then. Without a group, the user's own and all that list the user as a member. Throws
 * INVALID_ARGUMENT for a name that the image does not know.
 */
export async function userOf(root: string, text: string): Promise<ContainerUser> {
  const [userWord = '', groupWord] = text.split(':', 2);
  const user = bytesWord(userWord === '' ? '0' : userWord);
  const accounts = (await linesOf(root, '/etc/passwd')).flatMap(accountOf);
  const groups = (await linesOf(root, '/etc/group')).flatMap(groupOf);
  const account = accounts.find(({ name }) => name === user) ?? accounts.find(({ uid }) => uid === numberOf(user));
  const uid = account?.uid ?? numberOf(user);
  if (uid === null) throw unknown('user', userWord, '/etc/passwd');
  const home = account === undefined ? '/' : Buffer.from(account.home, 'latin1').toString('utf8');
  if (groupWord !== undefined && groupWord !== '') {
    return { uid, gid: groupNumber(groups, groupWord), additionalGids: [], home };
  }
  const member = groups.filter(({ members }) => account !== undefined && members.includes(account.name));
  return { uid, gid: account?.gid ?? 0, additionalGids: [...new Set(member.map(({ gid }) => gid))], home };
}

function groupNumber(groups: readonly Group[], word: string): number {
  const text = bytesWord(word);
  const gid = groups.find(({ name }) => name === text)?.gid ?? numberOf(text);
  if (gid === null) throw unknown('group', word, '/etc/group');
  return gid;
}

function bytesWord(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1');
}

function numberOf(text: string | undefined): number | null {
  if (text === undefined || !NUMBER.test(text)) return null;
  const value = Number(text);
  return value <= MAX_ID ? value : null;
}

async function linesOf(root: string, path: string): Promise<string[][]> {
  const bytes = await readInRoot(root, path);
  const lines = bytes?.toString('latin1').split('\n') ?? [];
  return lines.map((line) => line.split(':'));
}

/** Lines that are none are passed over, as the C library does. */
function accountOf([name, , uidText, gidText, , home = '']: readonly string[]): Account[] {
  const [uid, gid] = [numberOf(uidText), numberOf(gidText)];
  if (name === undefined || name === '' || uid === null || gid === null) return [];
  return [{ name, uid, gid, home: home === '' ? '/' : home }];
}

function groupOf([name, , gidText, members = '']: readonly string[]): Group[] {
  const gid = numberOf(gidText);
  if (name === undefined || name === '' || gid === null) return [];
  return [{ name, gid, members: members.split(',') }];
}

function unknown(kind: string, name: string, file: string): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', `the image has no ${kind} ${JSON.stringify(name)}`, {
    details: { [kind]: name },
    hint: `${file} of the image does not list it. A number works without.`,
  });
}
