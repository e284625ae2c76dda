/** Platforms of images: the words of the OCI image index, the spellings that people use, and which fits which. */
import { arch, platform as osName } from 'node:process';
import { LayerdError } from './errors.js';
import type { Platform } from './words.js';

const OS_ALIASES: Record<string, string> = { macos: 'darwin', win32: 'windows' };

/** Spellings of uname, Node and Debian for the words of the specification (those of Go). */
const ARCHITECTURE_ALIASES: Record<string, { architecture: string; variant?: string }> = {
  x86_64: { architecture: 'amd64' },
  'x86-64': { architecture: 'amd64' },
  x64: { architecture: 'amd64' },
  i386: { architecture: '386' },
  i686: { architecture: '386' },
  ia32: { architecture: '386' },
  aarch64: { architecture: 'arm64' },
  armhf: { architecture: 'arm', variant: 'v7' },
  armel: { architecture: 'arm', variant: 'v6' },
  powerpc64le: { architecture: 'ppc64le' },
  ppc64el: { architecture: 'ppc64le' },
  loongarch64: { architecture: 'loong64' },
};

/** What a variant left out means. Platforms are kept without it where it says no more than this. */
const DEFAULT_VARIANT: Record<string, string> = { amd64: 'v1', arm64: 'v8', arm: 'v7' };

/** Other architectures that a machine runs by itself, best first. */
const ALSO_RUNS: Record<string, Platform[]> = {
  amd64: [{ os: '', architecture: '386' }],
  arm64: [{ os: '', architecture: 'arm', variant: 'v8' }],
};

/** What a word alone has to be: no system has the name of one of them, and no typing error passes for one. */
const ARCHITECTURES = new Set(
  Object.keys(ARCHITECTURE_ALIASES).concat(
    '386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm'.split(' '),
  ),
);

const WORD = /^[a-z0-9][a-z0-9_.-]*$/;

/** Parses `linux/arm64/v8`, `linux/amd64` or an architecture alone (`arm64`, of this machine's os). Throws INVALID_ARGUMENT. */
export function parsePlatform(text: string): Platform {
  const parts = text.toLowerCase().split('/');
  const [first = '', second, third] = parts;
  const alone = second === undefined && !ARCHITECTURES.has(first);
  if (alone || parts.length > 3 || !parts.every((part) => WORD.test(part))) {
    throw new LayerdError('INVALID_ARGUMENT', `${JSON.stringify(text.slice(0, 100))} is not a platform`, {
      hint: 'A platform reads OS/ARCHITECTURE[/VARIANT], such as linux/amd64 or linux/arm/v7.',
    });
  }
  if (second === undefined) return normalizePlatform({ os: machinePlatform().os, architecture: first });
  return normalizePlatform({ os: first, architecture: second, ...(third === undefined ? {} : { variant: third }) });
}

/** The specification's words for a platform; a variant that says no more than the default is left out. */
export function normalizePlatform(platform: Platform): Platform {
  const os = platform.os.toLowerCase();
  const spelled = platform.architecture.toLowerCase();
  const alias = ARCHITECTURE_ALIASES[spelled];
  const architecture = alias?.architecture ?? spelled;
  const variant = normalizeVariant(platform.variant?.toLowerCase() ?? alias?.variant ?? '');
  const telling = variant !== '' && variant !== DEFAULT_VARIANT[architecture];
  return { os: OS_ALIASES[os] ?? os, architecture, ...(telling ? { variant } : {}) };
}

/** `linux/arm64`, `linux/arm/v6`. */
export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = normalizePlatform(platform);
  return [os, architecture, ...(variant === undefined ? [] : [variant])].join('/');
}

/** Images run on Linux, also where layerd itself (its copy driver) runs elsewhere. */
export function machinePlatform(): Platform {
  return normalizePlatform({ os: osName === 'darwin' ? 'linux' : osName, architecture: arch });
}

/**
 * How well `found` serves who asks for `wanted`: 0 is exact, higher is worse, null does not serve. A lower variant of
 * the same architecture serves; with `compatible` also another architecture that the machine runs by itself.
 */
export function platformRank(wanted: Platform, found: Platform, compatible = false): number | null {
  const want = normalizePlatform(wanted);
  const have = normalizePlatform(found);
  if (want.os !== have.os) return null;
  const direct = variantDistance(want, have);
  if (direct !== null || !compatible) return direct;
  const others = (ALSO_RUNS[want.architecture] ?? []).map((other) => variantDistance(other, have));
  const rank = others.find((distance) => distance !== null) ?? null;
  return rank === null ? null : OTHER_ARCHITECTURE + rank;
}

/** Worse than every variant of the wanted architecture. */
const OTHER_ARCHITECTURE = 1000;

/** Steps down from the wanted variant to the one found; null if the architecture differs or the variant is higher. */
function variantDistance(want: Platform, have: Platform): number | null {
  if (want.architecture !== have.architecture) return null;
  const wanted = variantOf(want);
  const found = variantOf(have);
  if (wanted === found) return 0;
  const distance = variantNumber(wanted) - variantNumber(found);
  return distance > 0 ? distance : null;
}

function variantOf(platform: Platform): string {
  return platform.variant ?? DEFAULT_VARIANT[platform.architecture] ?? '';
}

/** `v8.2` → 8.2; NaN (which compares as "does not serve") for words that are not versions. */
function variantNumber(variant: string): number {
  return /^v\d+(\.\d+)?$/.test(variant) ? Number(variant.slice(1)) : Number.NaN;
}

function normalizeVariant(variant: string): string {
  return /^\d/.test(variant) ? `v${variant}` : variant;
}
