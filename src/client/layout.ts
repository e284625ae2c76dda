/** A directory with an OCI layout as a tar stream, for a daemon that cannot take over our descriptor. */
export async function* layoutAsTar(directory: string): AsyncGenerator<Buffer> {
  const { create } = await import('tar');
  // what a layout holds, in the order in which a reader in one pass wants it: index first, then the blobs
  const pack = create({ cwd: directory, portable: true }, ['oci-layout', 'index.json', 'blobs']);
  for await (const chunk of pack) yield Buffer.from(chunk);
}
