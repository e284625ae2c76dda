/** More is no slip of the fingers but another word, and so is a third of a short one. */
const MOST_EDITS = 2;

/** `Did you mean gc.interval? `, or nothing where no known word is near to the one that was written. */
export function didYouMean(written: string, known: Iterable<string>): string {
  let nearest = '';
  let least = Math.min(MOST_EDITS, Math.floor(written.length / 3)) + 1;
  for (const word of known) {
    const edits = editsBetween(written, word);
    if (edits < least) [nearest, least] = [word, edits];
  }
  return nearest === '' ? '' : `Did you mean ${nearest}? `;
}

/** Letters to insert, delete or replace (Levenshtein), row by row of the table. */
function editsBetween(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, column) => column);
  for (const [line, letter] of from.split('').entries()) {
    const next = [line + 1];
    for (const [column, other] of to.split('').entries()) {
      const replaced = (row[column] ?? 0) + (letter === other ? 0 : 1);
      next.push(Math.min(replaced, (row[column + 1] ?? 0) + 1, (next[column] ?? 0) + 1));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}
