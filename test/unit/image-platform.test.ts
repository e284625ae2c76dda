import { describe, expect, it } from 'vitest';
import { formatPlatform, machinePlatform, parsePlatform, platformRank } from '../../src/core/platform.js';

describe('platforms', () => {
  it.each([
    ['linux/amd64', 'linux/amd64'],
    ['linux/x86_64', 'linux/amd64'],
    ['Linux/X86-64', 'linux/amd64'],
    ['linux/amd64/v1', 'linux/amd64'],
    ['linux/amd64/v3', 'linux/amd64/v3'],
    ['linux/aarch64', 'linux/arm64'],
    ['linux/arm64/v8', 'linux/arm64'],
    ['linux/arm64/8', 'linux/arm64'],
    ['linux/arm', 'linux/arm'],
    ['linux/arm/v7', 'linux/arm'],
    ['linux/arm/6', 'linux/arm/v6'],
    ['linux/armhf', 'linux/arm'],
    ['linux/armel', 'linux/arm/v6'],
    ['linux/i386', 'linux/386'],
    ['macos/arm64', 'darwin/arm64'],
    ['riscv64', 'linux/riscv64'],
  ])('%s is %s', (text, normal) => {
    expect(formatPlatform(parsePlatform(text))).toBe(normal);
  });

  it.each(['', '/', 'linux/', 'a/b/c/d', 'linux/am d64', '../x', 'bogus', 'linux'])('%j is none', (text) => {
    expect(() => parsePlatform(text)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });

  it('this machine runs Linux images of its own architecture', () => {
    const spelled = process.arch === 'x64' ? 'amd64' : process.arch;
    expect(formatPlatform(machinePlatform())).toBe(`linux/${spelled}`);
  });

  it('ranks what serves: the same first, lower variants after it, other architectures last and only if compatible', () => {
    expect(rank('linux/amd64', 'linux/amd64')).toBe(0);
    expect(rank('linux/amd64', 'linux/amd64/v2')).toBeNull();
    expect(rank('linux/amd64/v3', 'linux/amd64')).toBe(2);
    expect(rank('linux/amd64/v3', 'linux/amd64/v2')).toBe(1);
    expect(rank('linux/arm/v7', 'linux/arm/v6')).toBe(1);
    expect(rank('linux/arm/v6', 'linux/arm/v7')).toBeNull();
    expect(rank('linux/amd64', 'linux/386')).toBeNull();
    expect(rank('linux/amd64', 'linux/386', true)).toBeGreaterThan(10);
    expect(rank('linux/arm64', 'linux/arm/v7', true)).toBeLessThan(rank('linux/arm64', 'linux/arm/v6', true) ?? 0);
    expect(rank('linux/arm64', 'linux/arm64', true)).toBe(0);
    expect(rank('linux/amd64', 'windows/amd64', true)).toBeNull();
    expect(rank('linux/arm64', 'linux/amd64', true)).toBeNull();
    expect(rank('linux/s390x', 'linux/s390x')).toBe(0);
    expect(rank('linux/amd64', 'linux/amd64/odd')).toBeNull();
  });
});

function rank(wanted: string, found: string, compatible = false): number | null {
  return platformRank(parsePlatform(wanted), parsePlatform(found), compatible);
}
