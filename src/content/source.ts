/** Where bytes come from. Chunks are at least a few KiB where the origin allows it; each is valid until the next is asked for. */
export type ByteSource = AsyncIterable<Buffer>;
