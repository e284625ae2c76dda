import Database from 'better-sqlite3';
import { LayerdError } from '../core/errors.js';

/** A value that SQLite stores. Integers beyond 2^53 do not occur in our tables. */
export type SqlValue = string | number | null | Buffer;

/** Rows of a block: few enough to be read in some milliseconds. */
const BLOCK = 256;

/** One connection with its prepared statements, and SQLite's errors as ours. */
export class Sql {
  private readonly statements = new Map<string, Database.Statement<SqlValue[]>>();
  readonly db: Database.Database;

  constructor(db: Database.Database) {
    this.db = db;
  }

  /** The first row, or undefined. */
  get<Row>(text: string, ...values: SqlValue[]): Row | undefined {
    return mapped(() => this.prepare(text).get(...values) as Row | undefined);
  }

  all<Row>(text: string, ...values: SqlValue[]): Row[] {
    return mapped(() => this.prepare(text).all(...values) as Row[]);
  }

  /** The first column of all rows. */
  values<Value>(text: string, ...values: SqlValue[]): Value[] {
    return mapped(
      () =>
        this.prepare(text)
          .pluck()
          .all(...values) as Value[],
    );
  }

  /**
   * Rows one after another, however many there are: read in blocks, each by a query of its own, so that nothing is held and
   * other queries may run while the caller takes its time. The last two parameters of `text` are where a block begins (the
   * place of the row before it; `from` for the first) and how many rows it has.
   */
  *walk<Row>(text: string, from: number, placeOf: (row: Row) => number, ...values: SqlValue[]): Generator<Row, void> {
    for (let place: number | null = from; place !== null;) {
      const rows: Row[] = this.all<Row>(text, ...values, place, BLOCK);
      yield* rows;
      const last = rows.at(-1);
      place = last === undefined || rows.length < BLOCK ? null : placeOf(last);
    }
  }

  /** Returns the number of rows changed. */
  run(text: string, ...values: SqlValue[]): number {
    return mapped(() => this.prepare(text).run(...values).changes);
  }

  /** Inserts one row and returns its rowid. */
  insert(text: string, ...values: SqlValue[]): number {
    return mapped(() => Number(this.prepare(text).run(...values).lastInsertRowid));
  }

  private prepare(text: string): Database.Statement<SqlValue[]> {
    let statement = this.statements.get(text);
    if (statement === undefined) {
      statement = this.db.prepare<SqlValue[]>(text);
      this.statements.set(text, statement);
    }
    return statement;
  }
}

function mapped<T>(run: () => T): T {
  try {
    return run();
  } catch (thrown) {
    throw sqlError(thrown);
  }
}

/** SQLite's result codes in our words; what is not SQLite's comes back as it was. */
export function sqlError(thrown: unknown): unknown {
  if (!(thrown instanceof Database.SqliteError)) return thrown;
  const { code } = thrown;
  const details = { sqlite: code };
  const failed = `the database refused: ${thrown.message}`;
  if (code === 'SQLITE_FULL') {
    return new LayerdError('NO_SPACE', failed, {
      details,
      hint: 'Free space on the file system of the root, or run `layerctl gc`.',
      cause: thrown,
    });
  }
  if (code.startsWith('SQLITE_IOERR')) {
    return new LayerdError('IO_ERROR', failed, { details, hint: 'Look at dmesg for disk errors.', cause: thrown });
  }
  if (code.startsWith('SQLITE_CORRUPT') || code === 'SQLITE_NOTADB') {
    return new LayerdError('STORE_DAMAGED', failed, {
      details,
      hint: 'Look at dmesg first: a disk that cannot be read looks the same. Then stop the daemon: `layerd restore FILE` puts a backup back, `layerd rebuild` makes the database anew from the files.',
      cause: thrown,
    });
  }
  if (code.startsWith('SQLITE_READONLY') || code === 'SQLITE_CANTOPEN') {
    return new LayerdError('READ_ONLY_STORE', failed, { details, hint: 'Is the root writable?', cause: thrown });
  }
  if (code.startsWith('SQLITE_BUSY') || code === 'SQLITE_LOCKED') {
    return new LayerdError('TIMEOUT', failed, {
      details,
      hint: 'Another program holds the database: close it.',
      cause: thrown,
    });
  }
  return new LayerdError('INTERNAL', failed, { details, cause: thrown });
}
