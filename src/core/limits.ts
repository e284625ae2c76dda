/**
 * Limits on what comes from outside. Each stands far above what real images need; what goes beyond is refused by name
 * instead of filling memory. Sizes are bytes.
 */
export const LIMITS = {
  /** One manifest, index or config: containerd's own limit on reading such a document. */
  jsonDocument: 20 * 1024 * 1024,
  /** Nesting of arrays and objects in one document. */
  jsonDepth: 64,
  /** All documents of one archive that are in memory at once. */
  jsonDocumentsTotal: 128 * 1024 * 1024,
  /** Members of one image archive (not entries of a layer). */
  archiveMembers: 100_000,
  /** Steps from one link of an archive to the next. */
  archiveLinks: 16,
  /** An index inside an index inside … */
  indexDepth: 8,
  /** Descriptors that all indexes of one archive list together. */
  descriptors: 10_000,
  layersPerImage: 4096,
  /** Characters of a name in an image reference (as Docker has it). */
  referenceName: 255,
} as const;
