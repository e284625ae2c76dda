import { assert, integer, maxSafeInteger, pre, property } from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatPaxTime, parseDecimal, parsePaxTime, readNumeric, readOctal } from '../../src/tar/numbers.js';

function octal(text: string): number {
  const bytes = Buffer.from(text, 'latin1');
  return readOctal(bytes, 0, bytes.length);
}

function numeric(...bytes: number[]): number {
  return readNumeric(Buffer.from(bytes), 0, bytes.length);
}

describe('octal fields', () => {
  it.each([
    ['0000644\0', 0o644],
    ['000644 \0', 0o644],
    ['   644 \0', 0o644],
    ['\0\0 644\0', 0o644],
    ['77777777', 0o77777777],
    ['\0\0\0\0\0\0\0\0', 0],
    ['        ', 0],
    ['644\0junk', 0o644],
  ])('%j is %i', (text, value) => {
    expect(octal(text)).toBe(value);
  });

  it.each(['00006x4\0', '0000688\0', '-000644\0', '+000644\0', '64 4\0\0\0\0', '644 \0x\0\0', '0o644\0\0\0'])(
    '%j is no number',
    (text) => {
      expect(octal(text)).toBeNaN();
    },
  );
});

describe('base-256 fields', () => {
  it('reads positive and negative numbers', () => {
    expect(numeric(0x80, 0, 0, 0, 0, 0, 1, 2)).toBe(258);
    expect(numeric(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)).toBe(-1);
    expect(numeric(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00)).toBe(-256);
    expect(numeric(0xc0, 0, 0, 0, 0, 0, 0, 0)).toBeNaN();
  });

  it('takes the whole range of safe integers and nothing beyond', () => {
    expect(numeric(0x80, 0, 0, 0, 0, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)).toBe(Number.MAX_SAFE_INTEGER);
    expect(numeric(0x80, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0)).toBeNaN();
    expect(numeric(0xff, 0xff, 0xff, 0xff, 0xff, 0xe0, 0, 0, 0, 0, 0, 1)).toBe(Number.MIN_SAFE_INTEGER);
    expect(numeric(0xff, 0xff, 0xff, 0xff, 0xff, 0xe0, 0, 0, 0, 0, 0, 0)).toBeNaN();
    expect(numeric(0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0)).toBeNaN();
  });
});

describe('decimal records', () => {
  it.each([
    ['0', 0],
    ['-0', 0],
    ['+12', 12],
    ['-12', -12],
    ['0012', 12],
    ['9007199254740991', Number.MAX_SAFE_INTEGER],
  ])('%j is %i', (text, value) => {
    expect(parseDecimal(text)).toBe(value);
  });

  it.each(['', ' 1', '1 ', '0x10', '1e3', '1_0', '1.0', '9007199254740992', '9223372036854775807'])(
    '%j is none',
    (text) => {
      expect(parseDecimal(text)).toBeNaN();
    },
  );
});

describe('times of PAX records', () => {
  it.each([
    ['1350244992', 1350244992, 0],
    ['1350244992.', 1350244992, 0],
    ['1350244992.023960108', 1350244992, 23960108],
    ['1350244992.02396010899', 1350244992, 23960108],
    ['1.5', 1, 500000000],
    ['-1', -1, 0],
    ['-1.5', -2, 500000000],
    ['-0.5', -1, 500000000],
    ['-0', 0, 0],
    ['-1.000000000', -1, 0],
    ['-1.0000000001', -2, 999999999],
    ['-1.9999999999', -2, 0],
    ['-1.9999999991', -2, 0],
  ])('%s', (text, sec, nsec) => {
    expect(parsePaxTime(text)).toEqual({ sec, nsec });
  });

  it.each(['', '.', '.5', '-', '1.-5', '1.5.5', '1.5x', 'x', ' 1', '1e5', '99999999999999999999'])(
    '%j is none',
    (text) => {
      expect(parsePaxTime(text)).toBeNull();
    },
  );

  it('come back as they were written', () => {
    assert(
      property(maxSafeInteger(), integer({ min: 0, max: 999_999_999 }), (sec, nsec) => {
        // the second below the lowest safe one cannot be written with a fraction
        pre(sec > Number.MIN_SAFE_INTEGER || nsec === 0);
        const time = { sec: sec + 0, nsec };
        expect(parsePaxTime(formatPaxTime(time))).toEqual(time);
      }),
    );
  });
});
