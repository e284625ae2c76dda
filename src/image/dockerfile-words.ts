/**
 * How a Dockerfile line is cut into words, and what quotes, backslashes and variables in them mean (Dockerfile
 * reference, "Environment replacement"; the behaviour is that of BuildKit's shell lexer).
 */
import { LayerdError } from '../core/errors.js';

/** The variables that words may name. */
export type Environment = ReadonlyMap<string, string>;

export function syntaxError(line: string, why: string): LayerdError {
  return new LayerdError('INVALID_ARGUMENT', `the change ${JSON.stringify(line.slice(0, 300))} is not valid: ${why}`, {
    details: { change: line.slice(0, 300) },
    hint: 'Changes read as in a Dockerfile: `ENV A=1 B="two words"`, `CMD ["sh", "-c", "run"]`, `WORKDIR /srv`.',
  });
}

/** Splits at blanks that are neither quoted nor escaped. Quotes and backslashes stay in the words. */
export function splitWords(text: string): string[] {
  const words: string[] = [];
  let word = '';
  let quote = '';
  for (let i = 0; i < text.length; i++) {
    const char = text.charAt(i);
    if (quote === '' && /\s/.test(char)) {
      if (word !== '') words.push(word);
      word = '';
      continue;
    }
    word += char;
    if (char === '\\' && quote !== "'" && i + 1 < text.length) word += text.charAt(++i);
    else if (char === quote) quote = '';
    else if (quote === '' && (char === '"' || char === "'")) quote = char;
  }
  return word === '' ? words : [...words, word];
}

/** One word as it is meant: quotes and backslashes taken away, variables replaced. `line` is for errors. */
export function expandWord(word: string, environment: Environment, line: string): string {
  return new Expander(word, environment, line).expand();
}

class Expander {
  readonly #text: string;
  readonly #environment: Environment;
  readonly #line: string;
  #at = 0;

  constructor(text: string, environment: Environment, line: string) {
    this.#text = text;
    this.#environment = environment;
    this.#line = line;
  }

  expand(): string {
    return this.#until('');
  }

  /** Up to the unquoted character `end` (which is taken), or to the end of the text where `end` is ''. */
  #until(end: string): string {
    let out = '';
    while (this.#at < this.#text.length) {
      const char = this.#next();
      if (char === end) return out;
      if (char === "'") out += this.#literal();
      else if (char === '"') out += this.#quoted();
      else if (char === '$') out += this.#variable();
      else if (char === '\\') out += this.#next();
      else out += char;
    }
    if (end !== '') throw syntaxError(this.#line, `${end} is missing`);
    return out;
  }

  #next(): string {
    return this.#text.charAt(this.#at++);
  }

  #literal(): string {
    const end = this.#text.indexOf("'", this.#at);
    if (end < 0) throw syntaxError(this.#line, "a ' is not closed");
    const out = this.#text.slice(this.#at, end);
    this.#at = end + 1;
    return out;
  }

  /** Between double quotes a backslash protects only what has a meaning there. */
  #quoted(): string {
    let out = '';
    while (this.#at < this.#text.length) {
      const char = this.#next();
      if (char === '"') return out;
      if (char === '$') out += this.#variable();
      else if (char === '\\' && /["$\\]/.test(this.#text.charAt(this.#at))) out += this.#next();
      else out += char;
    }
    throw syntaxError(this.#line, 'a " is not closed');
  }

  #variable(): string {
    if (this.#text.charAt(this.#at) !== '{') {
      const name = this.#name();
      return name === '' ? '$' : this.#value(name);
    }
    this.#at++;
    const name = this.#name();
    if (name === '') throw syntaxError(this.#line, 'a variable between ${ and } has no name');
    const char = this.#next();
    if (char === '}') return this.#value(name);
    const modifier = char === ':' ? this.#next() : '';
    if (modifier !== '-' && modifier !== '+') throw syntaxError(this.#line, `\${${name}…} is not understood`);
    const word = this.#until('}');
    const value = this.#value(name);
    if (modifier === '-') return value === '' ? word : value;
    return value === '' ? '' : word;
  }

  #name(): string {
    const name = /^(?:[A-Za-z_]\w*|\d+)/.exec(this.#text.slice(this.#at))?.[0] ?? '';
    this.#at += name.length;
    return name;
  }

  #value(name: string): string {
    return this.#environment.get(name) ?? '';
  }
}
