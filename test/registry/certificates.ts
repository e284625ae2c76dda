/** Certificates of an authority of our own, by openssl. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../bench/fixtures/shell.js';

export interface Issued {
  cert: string;
  key: string;
}

export class TestAuthority {
  /** The authority's own certificate. */
  readonly certificate: string;
  private readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
    this.certificate = join(directory, 'ca.crt');
  }

  static async make(directory: string): Promise<TestAuthority> {
    mkdirSync(directory, { recursive: true });
    const authority = new TestAuthority(directory);
    const files = ['-keyout', join(directory, 'ca.key'), '-out', authority.certificate];
    await run('openssl', ['req', '-x509', ...newKey('test authority'), '-days', '2', ...files]);
    return authority;
  }

  /** A certificate for `name`; `subjects` as openssl has them, such as `DNS:registry.example`. */
  async issue(name: string, subjects: string): Promise<Issued> {
    const at = (suffix: string): string => join(this.directory, `${name}.${suffix}`);
    await run('openssl', ['req', '-new', ...newKey(name), '-keyout', at('key'), '-out', at('csr')]);
    writeFileSync(at('ext'), `subjectAltName=${subjects}\n`);
    const by = ['-CA', this.certificate, '-CAkey', join(this.directory, 'ca.key'), '-CAcreateserial'];
    await run('openssl', [
      'x509',
      '-req',
      '-in',
      at('csr'),
      ...by,
      '-days',
      '2',
      '-extfile',
      at('ext'),
      '-out',
      at('crt'),
    ]);
    return { cert: at('crt'), key: at('key') };
  }
}

function newKey(name: string): string[] {
  return ['-subj', `/CN=${name}`, '-nodes', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
}

/** What a server is started with. */
export function pemOf({ cert, key }: Issued): { cert: Buffer; key: Buffer } {
  return { cert: readFileSync(cert), key: readFileSync(key) };
}

/** Puts files where the certificates of a host are looked for. */
export function placeCertificates(directory: string, host: string, files: Record<string, string>): void {
  const place = join(directory, host);
  mkdirSync(place, { recursive: true });
  for (const [name, path] of Object.entries(files)) writeFileSync(join(place, name), readFileSync(path));
}
